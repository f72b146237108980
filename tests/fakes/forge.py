"""How does a test get a server process without waiting for its imports? From one that is loaded already, and forks.

What is started is a real process with its own pipes, environment, signals and end; only the second in which Python loads the
product is not spent again. Tests of how a process starts start it anew (`anew`), and so does everybody where there is no fork.

    python -m tests.fakes.forge    (started by `open_process`; orders come over the socket that is its standard input)
"""

from __future__ import annotations

import atexit
import gc
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cache
from importlib import import_module
from pathlib import Path
from subprocess import PIPE
from typing import Any, NoReturn

import anyio
from anyio.abc import ByteReceiveStream, ByteSendStream, Process

ROOT = Path(__file__).parents[2]
PROGRAM = (sys.executable, "-m", "mcp_identity")
LOADED = (
    "anyio._backends._asyncio",
    "httpx2",
    "mcp.server.stdio",
    "uvicorn.lifespan.on",
    "uvicorn.protocols.http.h11_impl",
    "mcp_identity.app.http_process",
    "mcp_identity.app.stdio",
    "mcp_identity.broker.broker",
    "mcp_identity.cli.logs",
    "mcp_identity.cli.serve",
    "mcp_identity.tools.server",
    "mcp_identity.vault.vault",
    "mcp_identity.web.application",
    "mcp_identity.web.listener",
)
_CHUNK = 65536
_anew = False


@contextmanager
def anew() -> Generator[None]:
    """Start every process from nothing while the block lasts."""
    global _anew  # noqa: PLW0603 - fixtures say it for all tests of a folder
    before, _anew = _anew, True
    try:
        yield
    finally:
        _anew = before


async def open_process(command: Sequence[str], environment: Mapping[str, str], *, stdin: int = PIPE) -> Process:
    """Start a process with pipes.

    Args:
        command: What to start; only the product itself is forked.
        environment: All of it.
        stdin: A pipe, or nothing to read.
    """
    said = {name: value for name, value in environment.items() if name.startswith("PYTHON")}
    same = said == {name: value for name, value in os.environ.items() if name.startswith("PYTHON")}
    if _anew or not same or tuple(command[:3]) != PROGRAM or not hasattr(os, "fork"):
        return await anyio.open_process([*command], stdin=stdin, stdout=PIPE, stderr=PIPE, env=environment)
    return await _forge().start(command[3:], environment, stdin=stdin)


@dataclass(eq=False, slots=True)
class _Reader(ByteReceiveStream):
    """The end of a pipe that is read."""

    file: int
    is_open: bool = True

    async def receive(self, max_bytes: int = _CHUNK) -> bytes:
        await anyio.lowlevel.checkpoint_if_cancelled()
        while True:
            if not self.is_open:
                raise anyio.ClosedResourceError
            try:
                got = os.read(self.file, max_bytes)
            except BlockingIOError:
                await anyio.wait_readable(self.file)
            else:
                if not got:
                    raise anyio.EndOfStream
                return got

    async def aclose(self) -> None:
        if self.is_open:
            self.is_open = False
            anyio.notify_closing(self.file)
            os.close(self.file)
        await anyio.lowlevel.checkpoint()


@dataclass(eq=False, slots=True)
class _Writer(ByteSendStream):
    """The end of a pipe that is written."""

    file: int
    is_open: bool = True

    async def send(self, item: bytes) -> None:
        await anyio.lowlevel.checkpoint_if_cancelled()
        rest = memoryview(item)
        while rest:
            if not self.is_open:
                raise anyio.ClosedResourceError
            try:
                rest = rest[os.write(self.file, rest) :]
            except BlockingIOError:
                await anyio.wait_writable(self.file)
            except BrokenPipeError as error:
                raise anyio.BrokenResourceError from error

    async def aclose(self) -> None:
        if self.is_open:
            self.is_open = False
            anyio.notify_closing(self.file)
            os.close(self.file)
        await anyio.lowlevel.checkpoint()


@dataclass(eq=False, slots=True)
class ForkedProcess(Process):
    """A process that somebody else is the parent of."""

    _pid: int
    _stdin: _Writer | None
    _stdout: _Reader
    _stderr: _Reader
    _status: _Reader
    _returncode: int | None = None
    _lock: anyio.Lock = field(default_factory=anyio.Lock)

    @property
    def pid(self) -> int:
        return self._pid

    @property
    def returncode(self) -> int | None:
        if self._returncode is None and self._status.is_open:
            with suppress(BlockingIOError):
                self._returncode = int(os.read(self._status.file, 64) or -signal.SIGKILL)
        return self._returncode

    @property
    def stdin(self) -> ByteSendStream | None:
        return self._stdin

    @property
    def stdout(self) -> ByteReceiveStream | None:
        return self._stdout

    @property
    def stderr(self) -> ByteReceiveStream | None:
        return self._stderr

    async def wait(self) -> int:
        async with self._lock:
            while (found := self.returncode) is None:
                await anyio.wait_readable(self._status.file)
        return found

    def send_signal(self, signal: int) -> None:
        if self.returncode is None:
            with suppress(ProcessLookupError):
                os.kill(self._pid, signal)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    async def aclose(self) -> None:
        with anyio.CancelScope(shield=True):
            for stream in (self._stdin, self._stdout, self._stderr):
                if stream is not None:
                    await stream.aclose()
            if self._status.is_open:
                self.kill()
                await self.wait()
                await self._status.aclose()


class _Forge:
    """The loaded process, seen from here."""

    def __init__(self) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._orders = ours
        self._process = subprocess.Popen([sys.executable, "-m", "tests.fakes.forge"], stdin=theirs.fileno(), cwd=ROOT)
        theirs.close()
        atexit.register(self.close)

    def close(self) -> None:
        """End it, and with it all that it started."""
        self._orders.close()
        self._process.wait(20)

    async def start(self, arguments: Sequence[str], environment: Mapping[str, str], *, stdin: int) -> ForkedProcess:
        """Fork."""
        read_out, write_out = os.pipe()
        read_err, write_err = os.pipe()
        read_status, write_status = os.pipe()
        read_in, write_in = os.pipe() if stdin == PIPE else (os.open(os.devnull, os.O_RDONLY), -1)
        order = json.dumps({"arguments": [*arguments], "environment": dict(environment)}).encode()
        length = len(order).to_bytes(8, "big")
        given = [read_in, write_out, write_err, write_status]
        socket.send_fds(self._orders, [length], given)
        for start in range(0, len(order), _CHUNK):
            self._orders.send(order[start : start + _CHUNK])
        for file in given:
            os.close(file)
        for file in (read_out, read_err, read_status, *([write_in] if write_in >= 0 else [])):
            os.set_blocking(file, False)
        status = _Reader(read_status)
        pid = int(await status.receive(16))
        writer = _Writer(write_in) if write_in >= 0 else None
        return ForkedProcess(pid, writer, _Reader(read_out), _Reader(read_err), status)


@cache
def _forge() -> _Forge:
    return _Forge()


# What follows runs in the loaded process.


def main() -> None:
    """Load everything, then fork as told, until there are no more orders."""
    for name in LOADED:
        import_module(name)
    from mcp_identity.transport import default_context

    default_context()
    gc.collect()
    gc.freeze()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    orders, children = socket.socket(fileno=os.dup(0)), _Children()
    signal.signal(signal.SIGCHLD, children.reap)
    while (order := _next_order(orders)) is not None:
        children.fork(*order, orders)
    children.kill()


def _next_order(orders: socket.socket) -> tuple[dict[str, Any], list[int]] | None:
    length, files, _, _ = socket.recv_fds(orders, 8, 4)
    if not length:
        return None
    text = b""
    while len(text) < int.from_bytes(length, "big"):
        text += orders.recv(_CHUNK)
    return json.loads(text), files


class _Children:
    """Those that were forked, with the pipes on which their status is said."""

    def __init__(self) -> None:
        self._alive: dict[int, int] = {}

    def fork(self, order: dict[str, Any], files: list[int], orders: socket.socket) -> None:
        """One more; it is not reaped before its id is said."""
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGCHLD])
        pid = os.fork()
        if pid == 0:
            orders.close()
            for file in self._alive.values():
                os.close(file)
            _become(order, files)
        for file in files[:3]:
            os.close(file)
        os.write(files[3], f"{pid:<16}".encode())
        self._alive[pid] = files[3]
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGCHLD])

    def reap(self, *_: object) -> None:
        """Say how those ended that have."""
        with suppress(ChildProcessError):
            while True:
                pid, status = os.waitpid(-1, os.WNOHANG)
                if not pid:
                    return
                file = self._alive.pop(pid)
                with suppress(BrokenPipeError):
                    os.write(file, str(os.waitstatus_to_exitcode(status)).encode())
                os.close(file)

    def kill(self) -> None:
        """End all of them."""
        for pid in self._alive:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def _become(order: dict[str, Any], files: Sequence[int]) -> NoReturn:
    """Be the product, in a process of its own."""
    from mcp_identity.__main__ import main as product

    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    for number, file in enumerate(files[:3]):
        os.dup2(file, number)
    for file in files:
        os.close(file)
    os.environ.clear()
    os.environ.update(order["environment"])
    sys.argv = ["mcp-identity", *order["arguments"]]
    status = 1
    try:
        product()
        status = 0
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException as error:  # noqa: BLE001 - as the interpreter would
        sys.excepthook(type(error), error, error.__traceback__)
    finally:
        with suppress(OSError, ValueError):
            sys.stderr.flush()
            sys.stdout.flush()
        os._exit(status)


if __name__ == "__main__":
    main()
