"""How does a request leave this process? Through here, and nowhere else.

One hardened HTTP client: one deadline over everything from the name's resolution to the last byte, a cap on what is read,
no redirects, no proxies and nothing else from the environment, and address rules against SSRF. Speaks no protocol above
HTTP and retries nothing. Trusts no URL, whoever wrote it: a name is resolved once, every address that it has must be
allowed, and the connection goes to one of those very addresses, so an answer that changes meanwhile changes nothing.

A connection serves one request. A refresh that dies on a kept connection could not be told from one that was processed,
and two names on one address could share it.
"""

from __future__ import annotations

import ipaddress
import logging
import re
import ssl
import zlib
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from functools import cache
from socket import SOCK_STREAM
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeAlias
from urllib.parse import SplitResult, urlsplit

import anyio

from mcp_identity.domain.errors import IdentityError, UpstreamBadResponse, UpstreamTls, UpstreamUnavailable, UrlRefused
from mcp_identity.domain.http import HttpRequest, HttpResponse

if TYPE_CHECKING:
    import httpx2

Resolver: TypeAlias = Callable[[str, int], Awaitable[list[str]]]
"""Host and port to addresses; raises OSError where there are none."""
Address: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address

MAXIMUM_HEADER_BYTES = 32 * 1024
MAXIMUM_ADDRESSES_TRIED = 3
_CHUNK_BYTES = 64 * 1024
_URL = re.compile(r"https?://(?:[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?(?:[/?][!-~]*)?")
_NUMBER = re.compile(r"[0-9]+|0[xX][0-9A-Fa-f]*")
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
_GLOBAL_UNICAST = ipaddress.IPv6Network("2000::/3")
_REFUSED = tuple(
    ipaddress.ip_network(network)
    for network in (
        "192.0.0.0/24",  # protocol assignments; a cloud's metadata service lives there
        "192.88.99.0/24",  # 6to4 relays
        "168.63.129.16/32",  # a cloud's metadata and health service, on a public address
        "2001::/23",  # Teredo and other protocol assignments
        "2002::/16",  # 6to4: any IPv4 address hides in there
        "3fff::/20",  # documentation
    )
)
"""What is not a public server, although some versions of `ipaddress` call it global."""


async def resolve(host: str, port: int) -> list[str]:
    """Ask the operating system for a name's addresses."""
    found = await anyio.getaddrinfo(host, port, type=SOCK_STREAM)
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


def is_public(address: Address) -> bool:
    """Whether an address is a public server's; what IPv6 wraps is unwrapped and judged itself."""
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:
            return is_public(address.ipv4_mapped)
        if address in _NAT64:
            return is_public(ipaddress.IPv4Address(int(address) & 0xFFFFFFFF))
        if address not in _GLOBAL_UNICAST or address.scope_id is not None:
            return False
    refused = any(address.version == network.version and address in network for network in _REFUSED)
    return address.is_global and not address.is_multicast and not address.is_reserved and not refused


@dataclass(slots=True)
class _Progress:
    """How far a request came, as the connection's trace tells it."""

    stream: Any = None
    connected: bool = False
    secured: bool = False
    sent: bool = False

    async def __call__(self, event: str, info: Mapping[str, Any]) -> None:
        match event:
            case "connection.connect_tcp.complete":
                self.connected, self.stream = True, info["return_value"]
            case "connection.start_tls.complete":
                self.secured = True
            case "http11.send_request_headers.started":
                self.sent = True
            case _:
                pass

    async def aclose(self) -> None:
        """Close the socket; the library leaves it open where a handshake is cancelled."""
        if self.stream is not None:
            with anyio.CancelScope(shield=True):
                await self.stream.aclose()


class Transport:
    """The HTTP client. Safe to share between tasks; close it when the process ends."""

    def __init__(
        self,
        *,
        deadline_seconds: float = 10.0,
        connect_seconds: float = 4.0,
        ssl_context: ssl.SSLContext | None = None,
        resolver: Resolver = resolve,
    ) -> None:
        """Make a transport; nothing is loaded or opened yet.

        Args:
            deadline_seconds: For a whole exchange, resolution included.
            connect_seconds: For one attempt to connect, the TLS handshake included.
            ssl_context: Another than the operating system's trust store, for a private CA and for tests.
            resolver: Where addresses come from.
        """
        self._deadline_seconds = deadline_seconds
        self._connect_seconds = connect_seconds
        self._ssl_context = ssl_context
        self._resolver = resolver
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
        parts = _parse(request.url)
        addresses = await self._addresses(parts, allow_http_loopback=allow_http_loopback)
        context = await self._context()
        failure: IdentityError | None = None
        for address in addresses[:MAXIMUM_ADDRESSES_TRIED]:
            try:
                return await self._exchange(request, parts, address, context, progress)
            except _NotConnected as refusal:
                failure = refusal.failure
        raise failure or UpstreamUnavailable("the host has no address", may_have_been_processed=False) from None

    async def _addresses(self, parts: SplitResult, *, allow_http_loopback: bool) -> list[Address]:
        host, port = parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)
        try:
            found = [host] if _is_literal(host) else await self._resolver(host, port)
            addresses = [ipaddress.ip_address(address) for address in dict.fromkeys(found)]
        except (OSError, UnicodeError):
            raise UpstreamUnavailable("the host's name does not resolve", may_have_been_processed=False) from None
        except ValueError:
            raise UrlRefused("the host resolves to something that is no plain address") from None
        loopback = allow_http_loopback and bool(addresses) and all(_is_loopback(address) for address in addresses)
        if parts.scheme == "http" and not loopback:
            raise UrlRefused("http is for loopback addresses alone, with --allow-http-loopback")
        if not loopback and not all(is_public(address) for address in addresses):
            raise UrlRefused("the host has an address that is not public")
        return addresses

    async def _context(self) -> ssl.SSLContext:
        if self._ssl_context is None:
            # The trust store and the library take their time to load; the event loop does not wait for them.
            self._ssl_context = await anyio.to_thread.run_sync(default_context)
        return self._ssl_context

    async def _exchange(
        self, request: HttpRequest, parts: SplitResult, address: Address, context: ssl.SSLContext, progress: _Progress
    ) -> HttpResponse:
        import httpx2

        progress.stream, progress.connected, progress.secured = None, False, False
        host = parts.hostname or ""
        named = f"[{host}]" if ":" in host else host
        port = f":{parts.port}" if parts.port else ""
        headers = {"Accept-Encoding": "identity", "User-Agent": "mcp-identity"}
        headers |= {**request.headers, "Host": named + port, "Connection": "close"}
        literal = f"[{address}]" if address.version == 6 else str(address)  # noqa: PLR2004 - IPv6
        target = f"{parts.scheme}://{literal}{port}{parts.path or '/'}{'?' + parts.query if parts.query else ''}"
        outgoing = httpx2.Request(
            request.method,
            target,
            headers=headers,
            content=request.body,
            # The certificate must be the name's, though the connection goes to the address.
            extensions={"sni_hostname": host, "timeout": {"connect": self._connect_seconds}, "trace": progress},
        )
        try:
            async with httpx2.AsyncHTTPTransport(verify=context, trust_env=False) as connection:
                response = await connection.handle_async_request(outgoing)
                try:
                    body, is_cut = await _body(response, request.maximum_bytes, cut=request.cut)
                    return HttpResponse(response.status_code, _headers(response), body, is_cut)
                finally:
                    await response.aclose()
        except (httpx2.HTTPError, OSError) as error:  # OSError: a TLS record that fails after the handshake
            raise _failure(error, progress) from None
        finally:
            await progress.aclose()


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


def _parse(url: str) -> SplitResult:
    """One strict reading; the request is rebuilt from it, so no second parser has a say."""
    if not _URL.fullmatch(url) or "\\" in url or "#" in url:
        raise UrlRefused("a URL is malformed, or neither https nor http")
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise UrlRefused("a URL has a malformed host or port") from None
    host = parts.hostname or ""
    if port == 0 or host.endswith(".") or (_NUMBER.fullmatch(host.rpartition(".")[2]) and not _is_literal(host)):
        # 127.1 and 2130706433 are names to us and addresses to some resolvers.
        raise UrlRefused("a URL has a malformed host or port")
    return parts


def _is_literal(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _is_loopback(address: Address) -> bool:
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return (mapped or address).is_loopback


def _headers(response: httpx2.Response) -> dict[str, str]:
    raw = response.headers.raw
    if sum(len(name) + len(value) for name, value in raw) > MAXIMUM_HEADER_BYTES:
        raise UpstreamBadResponse("the answer's headers are too large")
    headers: dict[str, str] = {}
    for name, value in raw:
        headers.setdefault(name.decode("ascii").lower(), value.decode("latin-1").strip())
    return headers


async def _body(response: httpx2.Response, limit: int, *, cut: bool) -> tuple[bytes, bool]:
    """Read at most `limit` bytes, counted after decompression, and never inflate more than a chunk at a time.

    Returns:
        The bytes, and whether there were more, which only `cut` allows.
    """
    encoding = response.headers.get("content-encoding", "identity").strip().lower()
    inflate = {"identity": None, "": None, "gzip": zlib.decompressobj(31), "deflate": zlib.decompressobj(15)}
    if encoding not in inflate:
        raise UpstreamBadResponse("the answer is encoded in a way that we did not ask for")
    decoder = inflate[encoding]
    body = bytearray()
    async for chunk in response.aiter_raw(_CHUNK_BYTES):
        try:
            body += chunk if decoder is None else decoder.decompress(chunk, limit + 1 - len(body))
        except zlib.error:
            raise UpstreamBadResponse("the answer's compression is broken") from None
        if len(body) > limit:
            if cut:
                return bytes(body[:limit]), True
            raise UpstreamBadResponse(f"the answer is larger than {limit} bytes")
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
