"""How is an ASGI application served on a port inside this process, without a trace of its own?

Claims the port, and runs uvicorn on it until told to stop. Knows no consent. Imports uvicorn, so it is itself imported on
first use. Trusts the kernel: the bind is the lock between processes.
"""

from __future__ import annotations

import contextlib
import errno
import socket
import ssl
import sys
from collections.abc import AsyncGenerator, Callable, Generator
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import anyio
import uvicorn
from anyio.lowlevel import current_token

from mcp_identity.web.connection import REQUEST_SECONDS, WRITE_SECONDS, guarded

if TYPE_CHECKING:
    from starlette.types import ASGIApp

    from mcp_identity.web.guard import CheckPeer

_BACKLOG = 64


@dataclass(frozen=True, slots=True)
class Capacity:
    """How much a port takes.

    Attributes:
        connections: Open at once.
        has_room: Whether an address may have so many of them.
        header_bytes: The most of a request's header.
        request_seconds: How long a complete request may take to come.
        keep_alive_seconds: How long a connection may rest between two requests.
        write_seconds: How long a peer may read nothing of an answer.
        grace_seconds: How long answers under way may take at the end.
    """

    connections: int = 64
    has_room: Callable[[str, int], bool] = lambda _host, _count: True
    header_bytes: int = 64 * 1024
    request_seconds: float = REQUEST_SECONDS
    keep_alive_seconds: int = 5
    write_seconds: float = WRITE_SECONDS
    grace_seconds: int = 5


LOOPBACK_PAGES = Capacity()


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
    # asyncio turns Nagle's algorithm off only where the protocol is named; with it, each answer would be 40 ms late.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        if sys.platform == "win32":
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_EXCLUSIVEADDRUSE, 1)  # there SO_REUSEADDR would steal
        else:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # past TIME_WAIT; listeners still exclude each other
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        listener.bind((host, port))
        listener.listen(_BACKLOG)
    except OSError:
        listener.close()
        raise
    return listener


def bind(host: str, port: int) -> list[socket.socket]:
    """Bind and listen on every address of a host, on one port, alone.

    Args:
        host: An address or a name.
        port: The port, or 0 for a free one.

    Raises:
        OSError: If that cannot be had.
    """
    bound: list[socket.socket] = []
    try:
        for family, address in addresses(host):
            bound.append(_listen(family, address, bound[0].getsockname()[1] if bound else port))
    except OSError:
        for listener in bound:
            listener.close()
        raise
    return bound


def addresses(host: str) -> list[tuple[socket.AddressFamily, str]]:
    """The addresses of a host, each once.

    Raises:
        OSError: If it has none.
    """
    found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    return list(dict.fromkeys((family, str(address[0])) for family, _, _, _, address in found))


@contextlib.asynccontextmanager
async def serving(
    app: ASGIApp,
    sockets: list[socket.socket],
    *,
    check_peer: CheckPeer | None = None,
    capacity: Capacity = LOOPBACK_PAGES,
    tls: ssl.SSLContext | None = None,
    lifespan: bool = False,
) -> AsyncGenerator[None]:
    """Serve `app` while the context is open; on the way out let answers under way end, for some seconds.

    Args:
        app: The application.
        sockets: Listening sockets; closed afterwards.
        check_peer: Says whose connections are kept at all; None for everybody's.
        capacity: How much the port takes.
        tls: Speaks TLS, where it is there.
        lifespan: Whether the application opens and closes something; a failure to open ends as `SystemExit`.
    """
    server = _Server(
        capacity.request_seconds,
        uvicorn.Config(
            app,
            http=guarded(  # h11: it alone bounds the header
                check_peer, capacity.request_seconds, capacity.write_seconds, capacity.has_room
            ),
            ws="none",
            lifespan="on" if lifespan else "off",
            log_config=None,
            log_level="warning",  # below it, uvicorn's loggers name the request's query
            access_log=False,
            server_header=False,
            proxy_headers=False,  # the peer's address is the socket's, whatever a header says
            limit_concurrency=capacity.connections,
            backlog=_BACKLOG,  # also how many the loop accepts in one turn, before any is looked at
            h11_max_incomplete_event_size=capacity.header_bytes,
            timeout_keep_alive=capacity.keep_alive_seconds,
            timeout_graceful_shutdown=capacity.grace_seconds,
            ssl_context_factory=(lambda _config, _default: tls) if tls else None,
        ),
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

    def __init__(self, handshake_seconds: float, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.up = anyio.Event()
        self._handshake_seconds = handshake_seconds

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None]:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        loop: Any = current_token().native_token
        if self.config.is_ssl:  # or whoever says nothing holds a connection, which nobody counts yet, for a minute
            loop.create_server = partial(loop.create_server, ssl_handshake_timeout=self._handshake_seconds)
        try:
            await super().startup(sockets)
        finally:
            if self.config.is_ssl:
                del loop.create_server
        self.up.set()

    async def serve_shielded(self, sockets: list[socket.socket]) -> None:
        """Serve until `should_exit`; a cancellation would leave the connections open, so it is kept out."""
        with anyio.CancelScope(shield=True):
            await self.serve(sockets)
