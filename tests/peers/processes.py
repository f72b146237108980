"""How is a server program started for tests, and surely ended? One JSON line says it is ready; its input is its lifeline."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from queue import Empty, Queue
from threading import Thread
from typing import IO, Any

READY_SECONDS = 30
STOP_SECONDS = 5


@contextmanager
def running(command: Sequence[str | Path], *, log: Path) -> Generator[dict[str, Any]]:
    """Start a server, yield the JSON object it prints when it is ready, and end it whatever happens.

    The server must know `--stop-when-input-ends`: should this process die without a chance to clean up, the pipe to the
    server's standard input breaks and the server goes too.

    Args:
        command: The program and its arguments.
        log: The file that takes the server's standard error.

    Raises:
        RuntimeError: The server ended, or was not ready in time; the message carries its log.
    """
    arguments = [*map(str, command), "--stop-when-input-ends"]
    with (
        log.open("wb") as errors,
        subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True) as process,
    ):
        lines: Queue[str | None] = Queue()
        pump = Thread(target=_pump, args=(process.stdout, lines), daemon=True)
        pump.start()
        try:
            yield _first_object(process, lines, log)
        finally:
            process.terminate()
            try:
                process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
            pump.join(STOP_SECONDS)


def _first_object(process: subprocess.Popen[str], lines: Queue[str | None], log: Path) -> dict[str, Any]:
    """Wait for the first line that is a JSON object."""
    while True:
        try:
            line = lines.get(timeout=READY_SECONDS)
        except Empty:
            line = None
        if line is None:
            raise RuntimeError(f"{process.args} was not ready:\n{log.read_text(errors='replace')}")
        if line.startswith("{"):
            return json.loads(line)


def _pump(stream: IO[str] | None, lines: Queue[str | None]) -> None:
    """Read to the end, so that the server never blocks on a full pipe; None says that it ended."""
    for line in stream or ():
        lines.put(line)
    lines.put(None)
