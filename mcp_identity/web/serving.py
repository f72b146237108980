"""How is an ASGI application served on a loopback port inside this process, without a trace of its own?

Claims the port, and runs uvicorn on it until told to stop. Knows no consent. Imports uvicorn, so it is itself imported on
first use. Trusts the kernel: the bind is the lock between processes.
"""

from __future__ import annotations

import contextlib
import errno
import socket
import sys
from collections.abc import AsyncGenerator, Generator
from typing import TYPE_CHECKING

import anyio
import uvicorn

from mcp_identity.web.connection import REQUEST_SECONDS, guarded

if TYPE_CHECKING:
    from starlette.types import ASGIApp

    from mcp_identity.web.guard import CheckPeer

_GRACE_SECONDS = 5
_CONNECTIONS = 64
_HEADER_BYTES = 64 * 1024


def claim(port: int) -> list[socket.socket] | None:
    """Bind and listen on 127.0.0.1, and on ::1 where the machine has it, alone.

    A browser may look for `localhost` at ::1 first; whoever sat there would get the codes that are meant for us. So the
    port counts as ours only if both are.

    Args:
        port: The port, or 0 for a free one.

    Returns:
        Listening sockets, the IPv4 one first; None where the port is taken or not to be had.
    """
    try:
        claimed = [_listen(socket.AF_INET, "127.0.0.1", port)]
    except OSError:
        return None
    try:
        claimed.append(_listen(socket.AF_INET6, "::1", claimed[0].getsockname()[1]))
    except OSError as error:
        if error.errno in {errno.EADDRINUSE, errno.EACCES}:  # Windows says EACCES of a port that is held exclusively
            claimed[0].close()
            return None
    return claimed


def _listen(family: socket.AddressFamily, host: str, port: int) -> socket.socket:
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        if sys.platform == "win32":
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_EXCLUSIVEADDRUSE, 1)  # there SO_REUSEADDR would steal
        else:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # past TIME_WAIT; listeners still exclude each other
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        listener.bind((host, port))
        listener.listen(_CONNECTIONS)
    except OSError:
        listener.close()
        raise
    return listener


@contextlib.asynccontextmanager
async def serving(
    app: ASGIApp,
    sockets: list[socket.socket],
    *,
    check_peer: CheckPeer | None = None,
    request_seconds: float = REQUEST_SECONDS,
) -> AsyncGenerator[None]:
    """Serve `app` while the context is open; on the way out let answers under way end, for some seconds.

    Args:
        app: The application.
        sockets: Listening sockets; closed afterwards.
        check_peer: Says whose connections are kept at all; None for everybody's.
        request_seconds: How long a connection may go without a complete request.
    """
    server = _Server(
        uvicorn.Config(
            app,
            http=guarded(check_peer, request_seconds),  # h11: it alone bounds the header
            ws="none",
            lifespan="off",
            log_config=None,
            log_level="warning",  # below it, uvicorn's loggers name the request's query
            access_log=False,
            server_header=False,
            proxy_headers=False,  # the peer's address is the socket's, whatever a header says
            limit_concurrency=_CONNECTIONS,
            backlog=_CONNECTIONS,  # also how many the loop accepts in one turn, before any is looked at
            h11_max_incomplete_event_size=_HEADER_BYTES,
            timeout_graceful_shutdown=_GRACE_SECONDS,
        )
    )
    try:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(server.serve_shielded, sockets)
            try:
                await server.up.wait()
                yield
            finally:
                server.should_exit = True
    finally:
        for listener in sockets:
            listener.close()


class _Server(uvicorn.Server):
    """uvicorn as a guest: it says when it is up, and leaves the process's signals to their owner."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.up = anyio.Event()

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None]:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.up.set()

    async def serve_shielded(self, sockets: list[socket.socket]) -> None:
        """Serve until `should_exit`; a cancellation would leave the connections open, so it is kept out."""
        with anyio.CancelScope(shield=True):
            await self.serve(sockets)
