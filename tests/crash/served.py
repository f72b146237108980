"""Who starts servers, waits until they serve, and hears how they end?"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
UP_SECONDS = 30.0
SERVES = b"mcp-identity serves "


class Nursery:
    """The loaded process that forks, and what became of its children."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        """Use `nursery`."""
        self._process = process
        self._changed = threading.Condition()
        self._started: list[int] = []
        self._ended: dict[int, int] = {}
        self._ready = self._is_over = False
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def wait_ready(self) -> None:
        """Wait until everything is loaded."""
        self._wait(lambda: self._ready, 60)

    def start(self, arguments: Sequence[str], environment: Mapping[str, str], control: Path, log: Path) -> Child:
        """Start `mcp-identity` with these arguments."""
        order = {"arguments": [*arguments], "environment": dict(environment), "control": str(control), "log": str(log)}
        stdin = self._process.stdin
        assert stdin is not None
        count = len(self._started)
        stdin.write(json.dumps(order).encode() + b"\n")
        stdin.flush()
        self._wait(lambda: len(self._started) > count, 10)
        return Child(self, self._started[count], log, log.stat().st_size if log.exists() else 0)

    def status(self, process: int, seconds: float) -> int:
        """How a child ended; negative for a signal."""
        self._wait(lambda: process in self._ended, seconds)
        return self._ended[process]

    def has_ended(self, process: int) -> bool:
        """Whether a child has ended."""
        return process in self._ended

    def join(self) -> None:
        """Read to the end of what it says."""
        self._reader.join(10)
        if self._process.stdout is not None:
            self._process.stdout.close()

    def _wait(self, condition: Any, seconds: float) -> None:
        with self._changed:
            self._changed.wait_for(lambda: condition() or self._is_over, seconds)
            if not condition():
                raise TimeoutError("the process that forks servers does not answer; see what it wrote")

    def _read(self) -> None:
        stdout = self._process.stdout
        assert stdout is not None
        for line in stdout:
            said: dict[str, int] = json.loads(line)
            with self._changed:
                if "started" in said:
                    self._ended.pop(said["started"], None)  # the system gives numbers again
                    self._started.append(said["started"])
                elif "ended" in said:
                    self._ended[said["ended"]] = said["status"]
                else:
                    self._ready = True
                self._changed.notify_all()
        with self._changed:
            self._is_over = True
            self._changed.notify_all()


@dataclass(slots=True)
class Child:
    """A product that was started.

    Attributes:
        process: Its id.
        log: Where it writes.
    """

    nursery: Nursery
    process: int
    log: Path
    _from: int = 0
    _scanned: int = field(default=0)

    def said(self) -> str:
        """What it has written."""
        with suppress(FileNotFoundError):
            return self.log.read_bytes()[self._from :].decode("utf-8", "replace")
        return ""

    def wait_up(self) -> None:
        """Wait until it serves."""
        until = time.monotonic() + UP_SECONDS
        while SERVES.decode() not in self.said():
            if self.nursery.has_ended(self.process):
                raise AssertionError(f"the server ended at once: {self.said()}")
            if time.monotonic() > until:
                raise TimeoutError(f"the server does not serve: {self.said()}")
            time.sleep(0.003)

    def wait(self, seconds: float = 10.0) -> int:
        """Wait for its end; the status."""
        return self.nursery.status(self.process, seconds)

    @property
    def has_ended(self) -> bool:
        """Whether it has."""
        return self.nursery.has_ended(self.process)

    def kill(self, number: signal.Signals = signal.SIGKILL) -> None:
        """Send it a signal."""
        if not self.has_ended:
            with suppress(ProcessLookupError):
                os.kill(self.process, number)

    def end(self) -> int:
        """Kill it and wait for its end."""
        self.kill()
        return self.wait()


@contextmanager
def nursery() -> Generator[Nursery]:
    """Have a process that forks servers while the block lasts."""
    # Coverage is not measured there: it would cost more than what is measured.
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("COVERAGE", "MCP_IDENTITY_"))}
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.crash.child"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=ROOT,
        env={**inherited, "PYTHONPATH": str(ROOT)},
    )
    made = Nursery(process)
    try:
        made.wait_ready()
        yield made
    finally:
        assert process.stdin is not None
        process.stdin.close()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        made.join()
