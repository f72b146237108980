"""Where does a server spend its time? Its threads' stacks are looked at a thousand times a second, from inside.

    python -m kit.sampling FILE mcp_identity serve --transport http --port 8000

Runs a module as if by `python -m` and keeps rewriting FILE: for each thread the functions by how often they were at work
(self) and how often on the stack (total). A thread that waits for a lock, a socket or the disk is counted as at work where it
waits, so read a thread's own waiting first, and then what is left. It needs no tool that is not in Python.
"""

from __future__ import annotations

import runpy
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from types import FrameType

EVERY_SECONDS = 0.001
_WRITE_SECONDS = 1.0
_LINES = 45


class Sampler:
    """Looks at all other threads of this process."""

    def __init__(self) -> None:
        """Nothing was seen."""
        self._own: dict[str, Counter[str]] = {}
        self._total: dict[str, Counter[str]] = {}
        self._thread = threading.Thread(target=self._run, name="sampling", daemon=True)
        self._file: Path | None = None
        self._ended = threading.Event()

    def start(self, file: Path | None = None) -> None:
        """Begin; rewrite a file meanwhile, if there is one."""
        self._file = file
        self._thread.start()

    def stop(self) -> str:
        """End; what was seen."""
        self._ended.set()
        self._thread.join()
        return self.report()

    def report(self) -> str:
        """What was seen, by thread."""
        lines: list[str] = []
        for thread, own in self._own.items():
            samples = own.total()
            lines.append(f"\n{thread}: {samples} samples\n{'self':>7} {'total':>7}")
            total = self._total[thread]
            shown = sorted(
                {name for name, _ in own.most_common(_LINES)} | {name for name, _ in total.most_common(_LINES)},
                key=lambda name: -total[name],
            )
            lines += [f"{own[name] / samples:>7.1%} {total[name] / samples:>7.1%}  {name}" for name in shown]
        return "\n".join(lines) + "\n"

    def _run(self) -> None:
        written = time.monotonic()
        while not self._ended.wait(EVERY_SECONDS):
            self._look()
            if self._file and time.monotonic() - written > _WRITE_SECONDS:
                self._file.write_text(self.report())
                written = time.monotonic()

    def _look(self) -> None:
        names = {thread.ident: thread.name for thread in threading.enumerate()}
        for ident, frame in sys._current_frames().items():  # noqa: SLF001 # pyright: ignore[reportPrivateUsage]
            name = names.get(ident, "?")
            if name == "sampling":
                continue
            stack = _stack(frame)
            self._own.setdefault(name, Counter())[stack[0]] += 1
            self._total.setdefault(name, Counter()).update(set(stack))


def _stack(frame: FrameType | None) -> list[str]:
    names: list[str] = []
    while frame is not None:
        code = frame.f_code
        names.append(f"{'/'.join(code.co_filename.split('/')[-2:])}:{code.co_qualname}")
        frame = frame.f_back
    return names


def main() -> None:
    """Run a module and look at it."""
    file, module, *arguments = sys.argv[1:]
    Sampler().start(Path(file))
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
