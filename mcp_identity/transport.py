"""How does a request leave this process? Through here, and nowhere else.

One hardened HTTP client: one deadline over everything from the name's resolution to the last byte, a cap on what is read,
no redirects, no proxies and nothing else from the environment, and the address rules of `domain/addresses.py`. Speaks no
protocol above HTTP. Trusts no URL, whoever wrote it: a name is resolved for every request, every address that it has must be
allowed, and the connection goes to one of those very addresses, so an answer that changes meanwhile changes nothing.

A connection serves one request. A refresh that dies on a kept connection could not be told from one that was processed. Only
reads whose sender names on whose behalf they are may go over a kept connection: of the same sender, to the same name at an
address that it still has. One that turns out to be dead before anything of an answer came is tried again on a fresh one;
nothing else is ever retried. There are no cookies, so a connection is all that two requests can have in common.
"""

from __future__ import annotations

import contextlib
import logging
import socket
import ssl
import zlib
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from functools import cache, partial
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeAlias
from urllib.parse import SplitResult

import anyio
import anyio.to_thread

from mcp_identity.domain.addresses import Address, allowed_addresses, is_literal, parse_url
from mcp_identity.domain.errors import IdentityError, UpstreamBadResponse, UpstreamTls, UpstreamUnavailable
from mcp_identity.domain.http import HttpRequest, HttpResponse

if TYPE_CHECKING:
    import httpx2

Resolver: TypeAlias = Callable[[str, int], Awaitable[list[str]]]
"""Host and port to addresses; raises OSError where there are none."""

MAXIMUM_HEADER_BYTES = 32 * 1024
MAXIMUM_ADDRESSES_TRIED = 3
_CHUNK_BYTES = 64 * 1024
IDLE_SECONDS = 30.0
"""How long a kept connection may lie unused."""
KEPT_SECONDS = 300.0
"""How long one is used at most, so that a name that moved and a certificate that changed are seen."""
MAXIMUM_IDLE = 64
LOOKUPS_PER_NAME = 4
"""Lookups of one name at once: a name server that hangs ties up few threads, and not those of others."""
_LOOKUPS = 32


async def resolve(host: str, port: int, limiter: anyio.CapacityLimiter | None = None) -> list[str]:
    """Ask the operating system for a name's addresses; whoever gives up does not wait for its answer."""
    ask = partial(socket.getaddrinfo, host, port, type=socket.SOCK_STREAM)
    found = await anyio.to_thread.run_sync(ask, abandon_on_cancel=True, limiter=limiter)
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


@dataclass(slots=True)
class _Progress:
    """How far a request came, as the connection's trace tells it."""

    stream: Any = None
    connected: bool = False
    secured: bool = False
    sent: bool = False
    answered: bool = False

    async def __call__(self, event: str, info: Mapping[str, Any]) -> None:
        match event:
            case "connection.connect_tcp.complete":
                self.connected, self.stream = True, info["return_value"]
            case "connection.start_tls.complete":
                self.secured = True
            case "http11.send_request_headers.started":
                self.sent = True
            case "http11.receive_response_headers.complete":
                self.answered = True
            case _:
                pass

    async def aclose(self) -> None:
        """Close the socket; the library leaves it open where a handshake is cancelled."""
        if self.stream is not None:
            with anyio.CancelScope(shield=True):
                await self.stream.aclose()


@dataclass(slots=True)
class _Line:
    """A connection, or the place for one; `owner` is all that two requests on it must have in common."""

    owner: tuple[str, ...]
    address: Address
    connection: httpx2.AsyncHTTPTransport
    since: float
    idle_since: float = 0.0

    async def aclose(self) -> None:
        """Hang up, whatever is cancelled meanwhile."""
        with anyio.CancelScope(shield=True):
            await self.connection.aclose()


@dataclass(slots=True)
class _Lookups:
    """The lookups of one name that are under way or wait for their turn."""

    turns: anyio.Semaphore = field(default_factory=lambda: anyio.Semaphore(LOOKUPS_PER_NAME))
    users: int = 0


class Transport:
    """The HTTP client. Safe to share between tasks; close it when the process ends."""

    def __init__(
        self,
        *,
        deadline_seconds: float = 10.0,
        connect_seconds: float = 4.0,
        ssl_context: ssl.SSLContext | None = None,
        resolver: Resolver | None = None,
    ) -> None:
        """Make a transport; nothing is loaded or opened yet.

        Args:
            deadline_seconds: For a whole exchange, resolution included.
            connect_seconds: For one attempt to connect, the TLS handshake included.
            ssl_context: Another than the operating system's trust store, for a private CA and for tests.
            resolver: Where addresses come from; None for the operating system.
        """
        self._deadline_seconds = deadline_seconds
        self._connect_seconds = connect_seconds
        self._ssl_context = ssl_context
        self._resolver = resolver or partial(resolve, limiter=anyio.CapacityLimiter(_LOOKUPS))
        self._lookups: dict[str, _Lookups] = {}
        self._idle: list[_Line] = []  # the longest unused first
        self._closed = False
        # These libraries log URLs and headers below WARNING.
        for name in ("httpx2", "httpcore2"):
            logging.getLogger(name).setLevel(logging.WARNING)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Send nothing from now on. Requests under way end by themselves, within their deadline."""
        self._closed = True
        idle, self._idle = self._idle, []
        for line in idle:
            await line.aclose()

    async def send(self, request: HttpRequest, *, allow_http_loopback: bool = False) -> HttpResponse:
        """Send one request and read the whole answer.

        Args:
            request: What to send; at most its `maximum_bytes` are read, and it may name a deadline of its own.
            allow_http_loopback: Accept loopback addresses, and http for them alone.

        Returns:
            The answer, whatever its status; a redirect is not followed.

        Raises:
            UrlRefused: If the URL or an address behind it is not allowed. Nothing was sent.
            UpstreamTls: If the certificate does not stand, or no TLS was agreed on. Nothing was sent.
            UpstreamUnavailable: If there is no answer in time; it says whether the request may have been processed.
            UpstreamBadResponse: If the answer is no HTTP, too large, or encoded in a way that we did not ask for.
        """
        if self._closed:
            raise UpstreamUnavailable("the transport is closed", may_have_been_processed=False)
        progress = _Progress()
        try:
            with anyio.fail_after(request.deadline_seconds or self._deadline_seconds):
                return await self._send(request, progress, allow_http_loopback=allow_http_loopback)
        except TimeoutError:
            if progress.connected and not progress.secured and request.url.startswith("https:"):
                raise UpstreamTls("the TLS handshake did not end in time") from None
            raise UpstreamUnavailable("no answer in time", may_have_been_processed=progress.sent) from None

    async def _send(self, request: HttpRequest, progress: _Progress, *, allow_http_loopback: bool) -> HttpResponse:
        parts = parse_url(request.url)
        addresses = (await self._addresses(parts, allow_http_loopback=allow_http_loopback))[:MAXIMUM_ADDRESSES_TRIED]
        owner = (request.keep, parts.scheme, parts.netloc) if request.keep and request.method in ("GET", "HEAD") else ()
        kept = await self._take(owner, addresses)
        if kept is not None:
            with contextlib.suppress(_HungUp, _NotConnected):
                return await self._exchange(request, parts, kept, progress)
        failure: IdentityError | None = None
        for address in addresses:
            try:
                return await self._exchange(request, parts, await self._line(owner, address), progress)
            except _NotConnected as refusal:
                failure = refusal.failure
        raise failure or UpstreamUnavailable("the host has no address", may_have_been_processed=False) from None

    async def _addresses(self, parts: SplitResult, *, allow_http_loopback: bool) -> list[Address]:
        host, port = parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)
        try:
            found = [host] if is_literal(host) else await self._resolve(host, port)
        except (OSError, UnicodeError):
            raise UpstreamUnavailable("the host's name does not resolve", may_have_been_processed=False) from None
        return allowed_addresses(parts.scheme, found, allow_http_loopback=allow_http_loopback)

    async def _resolve(self, host: str, port: int) -> list[str]:
        lookups = self._lookups.setdefault(host, _Lookups())
        lookups.users += 1
        try:
            async with lookups.turns:
                return await self._resolver(host, port)
        finally:
            lookups.users -= 1
            if not lookups.users:
                self._lookups.pop(host, None)

    async def _line(self, owner: tuple[str, ...], address: Address) -> _Line:
        """A fresh connection, to be made by its first request."""
        import httpx2

        connection = httpx2.AsyncHTTPTransport(verify=await self._context(), trust_env=False)
        return _Line(owner, address, connection, anyio.current_time())

    async def _take(self, owner: tuple[str, ...], addresses: list[Address]) -> _Line | None:
        """A kept connection of the same owner to an address that the name has now; those that lay too long are closed."""
        now = anyio.current_time()
        while self._idle and now - self._idle[0].idle_since > IDLE_SECONDS:
            await self._idle.pop(0).aclose()
        for line in reversed(self._idle):
            if owner and line.owner == owner and line.address in addresses:
                self._idle.remove(line)
                return line
        return None

    async def _lay_down(self, line: _Line) -> None:
        """Keep a connection for the next request of its owner, or close it."""
        now = anyio.current_time()
        if not line.owner or self._closed or now - line.since > KEPT_SECONDS:
            await line.aclose()
            return
        line.idle_since = now
        self._idle.append(line)
        while len(self._idle) > MAXIMUM_IDLE:
            await self._idle.pop(0).aclose()

    async def _context(self) -> ssl.SSLContext:
        if self._ssl_context is None:
            # The trust store and the library take their time to load; the event loop does not wait for them.
            self._ssl_context = await anyio.to_thread.run_sync(default_context)
        return self._ssl_context

    async def _exchange(self, request: HttpRequest, parts: SplitResult, line: _Line, progress: _Progress) -> HttpResponse:
        import httpx2

        progress.stream, progress.connected, progress.secured, progress.sent = None, False, False, False
        outgoing = _outgoing(request, parts, line, progress, self._connect_seconds)
        whole = False
        try:
            response = await line.connection.handle_async_request(outgoing)
            try:
                body, is_cut = await _body(response, request)
                answer = HttpResponse(response.status_code, _headers(response), body, is_cut)
            finally:
                await response.aclose()
            whole = not is_cut and answer.headers.get("connection", "").lower() != "close"
        except (httpx2.HTTPError, OSError) as error:  # OSError: a TLS record that fails after the handshake
            raise _failure(error, progress) from None
        else:
            return answer
        finally:
            if whole:
                await self._lay_down(line)
            else:
                await line.aclose()
                await progress.aclose()


class _HungUp(Exception):
    """A kept connection was closed by the other side before anything of an answer came."""


class _NotConnected(Exception):
    """This address did not let us in; another one may."""

    def __init__(self, failure: IdentityError) -> None:
        self.failure = failure
        super().__init__()


@cache
def default_context() -> ssl.SSLContext:
    """The operating system's trust store, and TLS 1.2 at least."""
    import httpx2

    context = httpx2.create_ssl_context(trust_env=False)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


def _headers(response: httpx2.Response) -> dict[str, str]:
    raw = response.headers.raw
    if sum(len(name) + len(value) for name, value in raw) > MAXIMUM_HEADER_BYTES:
        raise UpstreamBadResponse("the answer's headers are too large")
    headers: dict[str, str] = {}
    for name, value in raw:
        headers.setdefault(name.decode("ascii").lower(), value.decode("latin-1").strip())
    return headers


def _outgoing(
    request: HttpRequest, parts: SplitResult, line: _Line, progress: _Progress, connect_seconds: float
) -> httpx2.Request:
    """The request as the library wants it: to the address, in the name's own name."""
    import httpx2

    host = parts.hostname or ""
    named = f"[{host}]" if ":" in host else host
    port = f":{parts.port}" if parts.port else ""
    headers = {"Accept-Encoding": "identity", "User-Agent": "mcp-identity", **request.headers, "Host": named + port}
    if not line.owner:
        headers["Connection"] = "close"
    literal = f"[{line.address}]" if line.address.version == 6 else str(line.address)  # noqa: PLR2004 - IPv6
    return httpx2.Request(
        request.method,
        f"{parts.scheme}://{literal}{port}{parts.path or '/'}{'?' + parts.query if parts.query else ''}",
        headers=headers,
        content=request.body,
        # The certificate must be the name's, though the connection goes to the address.
        extensions={"sni_hostname": host, "timeout": {"connect": connect_seconds}, "trace": progress},
    )


async def _body(response: httpx2.Response, request: HttpRequest) -> tuple[bytes, bool]:
    """Read what the request has room for, counted after decompression, and never inflate more than a chunk at a time.

    Returns:
        The bytes, and whether there were more, which only a request that may be cut allows.
    """
    limit = request.maximum_bytes
    encoding = response.headers.get("content-encoding", "identity").strip().lower()
    inflate = {"identity": None, "": None, "gzip": zlib.decompressobj(31), "deflate": zlib.decompressobj(15)}
    if encoding not in inflate:
        raise UpstreamBadResponse("the answer is encoded in a way that we did not ask for")
    decoder = inflate[encoding]
    body = bytearray()
    async for chunk in response.aiter_raw(_CHUNK_BYTES):
        try:
            piece = chunk if decoder is None else decoder.decompress(chunk, limit + 1 - len(body))
        except zlib.error:
            raise UpstreamBadResponse("the answer's compression is broken") from None
        has_room = request.allowance is None or request.allowance(len(piece))
        body += piece if has_room else b""
        if len(body) > limit or not has_room:
            if request.cut:
                return bytes(body[:limit]), True
            raise UpstreamBadResponse(f"the answer is larger than {min(limit, len(body))} bytes")
        if decoder is not None and decoder.unused_data:
            raise UpstreamBadResponse("the answer's compression is broken")
    if decoder is not None and body and not decoder.eof:
        raise UpstreamBadResponse("the answer's compression is broken")
    return bytes(body), False


def _failure(error: Exception, progress: _Progress) -> Exception:
    """Say what a failed exchange means for the caller; the library's own text is left out, whatever it says."""
    import httpx2

    kind = type(error).__name__
    causes = _causes(error)
    if progress.sent:
        # Malformed HTTP has the parser's error beneath; a server that hung up without an answer has none.
        if isinstance(error, httpx2.ProtocolError) and len(causes) > 2:  # noqa: PLR2004 - ours, the connection's, the parser's
            return UpstreamBadResponse("the answer is no proper HTTP")
        if not progress.connected and not progress.answered and not isinstance(error, httpx2.TimeoutException):
            return _HungUp()
        return UpstreamUnavailable(f"the connection broke before the answer was whole ({kind})")
    # Exactly these: the subclasses say no more than that a connection ended or that a record is on its way.
    if any(type(cause) in {ssl.SSLError, ssl.SSLCertVerificationError} for cause in causes):
        return UpstreamTls("the server's certificate does not stand, or no TLS could be agreed on")
    if progress.connected and isinstance(error, httpx2.TimeoutException):
        return UpstreamTls("the TLS handshake did not end in time")
    return _NotConnected(UpstreamUnavailable(f"the server does not accept connections ({kind})", may_have_been_processed=False))


def _causes(error: BaseException) -> list[BaseException]:
    causes = [error]
    while (cause := causes[-1].__cause__ or causes[-1].__context__) is not None:  # the library hides some with "from None"
        causes.append(cause)
    return causes
