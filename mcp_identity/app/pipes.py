"""Standard input and output without threads, where they are pipes or sockets, as MCP hosts make them.

A thread for each line that comes or goes costs more than most answers do, and one that reads cannot be interrupted. Here the
event loop waits, and whatever has come meanwhile is read at once. While this is served, descriptor 0 is empty and 1 is stderr,
so that nothing that prints can disturb the protocol. Elsewhere (files, terminals, Windows) the SDK's own way remains.
"""

from __future__ import annotations

import os
import select
import stat
import sys
from typing import Self

import anyio

_CHUNK = 64 * 1024
_ATOMIC = 4096
"""So much can be written without waiting to what is writable (POSIX, PIPE_BUF)."""


class Lines:
    """The lines that come in; text that is no UTF-8 is read with replacements."""

    def __init__(self, descriptor: int) -> None:
        """Read from a pipe or a socket."""
        self._descriptor = descriptor
        self._read = bytearray()
        self._searched = 0
        self._has_ended = False

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> str:
        while True:
            end = self._read.find(b"\n", self._searched) + 1
            if not end and self._has_ended:
                end = len(self._read)
                if not end:
                    raise StopAsyncIteration
            if end:
                line = self._read[:end].decode("utf-8", "replace")
                del self._read[:end]
                self._searched = 0
                return line
            self._searched = len(self._read)
            await anyio.wait_readable(self._descriptor)
            try:
                chunk = os.read(self._descriptor, _CHUNK)
            except ConnectionError:
                chunk = b""
            self._read += chunk
            self._has_ended = not chunk


class Output:
    """What goes out."""

    def __init__(self, descriptor: int) -> None:
        """Write to a pipe or a socket."""
        self._descriptor = descriptor
        self._unwritten = bytearray()
        self._poll = select.poll()
        self._poll.register(descriptor, select.POLLOUT)

    async def write(self, text: str) -> None:
        """Take text; `flush` writes it."""
        self._unwritten += text.encode()

    async def flush(self) -> None:
        """Write everything, waiting in the event loop while the other end does not read.

        Raises:
            OSError: If the other end is closed.
        """
        while self._unwritten:
            if not self._poll.poll(0):
                await anyio.wait_writable(self._descriptor)
                continue
            written = os.write(self._descriptor, self._unwritten[:_ATOMIC])
            del self._unwritten[:written]


def standard_streams() -> tuple[Lines, Output] | None:
    """Take standard input and output for the protocol alone; None where they are no pipes or sockets."""
    if sys.platform == "win32" or not all(_can_be_waited_for(descriptor) for descriptor in (0, 1)):
        return None
    incoming, outgoing = os.dup(0), os.dup(1)
    empty = os.open(os.devnull, os.O_RDONLY)
    os.dup2(empty, 0)
    os.close(empty)
    os.dup2(2, 1)
    return Lines(incoming), Output(outgoing)


def _can_be_waited_for(descriptor: int) -> bool:
    try:
        mode = os.fstat(descriptor).st_mode
    except OSError:
        return False
    return stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode)
