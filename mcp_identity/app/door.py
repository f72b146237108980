"""Which requests are looked at at all, and from where did they come?

The outermost layer of the HTTP server, before every route: the addressed host and the page that a browser says it comes from
must be on their lists, and the peer must be one that may speak to us. Forwarding headers count only where they come from a
listed proxy, only for the client's address, and go no further: nothing below can build a URL of them.

Trusts the socket for the peer's address, and the listed proxies for what they say about it.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from starlette.responses import PlainTextResponse

from mcp_identity.tools.head import Head
from mcp_identity.web.health import PATHS

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

_log = logging.getLogger(__name__)
_FORWARDING = (b"forwarded", b"via", b"x-real-ip")
_FORWARDING_PREFIX = b"x-forwarded"
_NOSNIFF = (b"x-content-type-options", b"nosniff")
_DEFAULT_PORTS = {"https": ":443", "http": ":80"}
BAD_REQUEST, FORBIDDEN, MISDIRECTED, TOO_LARGE = 400, 403, 421, 431
_HINTS = {
    MISDIRECTED: ": its Host is neither the public URL's nor in MCP_IDENTITY_ALLOWED_HOSTS",
    FORBIDDEN: ": its Origin is not in MCP_IDENTITY_ALLOWED_ORIGINS, or its peer is not in MCP_IDENTITY_TRUSTED_PROXIES",
}
"""For the operator, who alone reads the log."""

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network


@dataclass(frozen=True, slots=True)
class DoorRules:
    """What the door knows.

    Attributes:
        hosts: Values of the Host header, lower case.
        origins: Values of the Origin header, lower case.
        proxies: Whose forwarding headers are believed.
        only_proxies: Nobody else may speak to us but for our health: the way from anybody else is not encrypted.
        only_loopback: Nothing forwarded, and nobody from another machine.
        scheme: What the outside speaks to us; what the socket speaks may be another.
        header_bytes: The most of a header; the parser bounds only one that comes in pieces.
    """

    hosts: frozenset[str]
    origins: frozenset[str]
    proxies: tuple[Network, ...] = ()
    only_proxies: bool = False
    only_loopback: bool = False
    scheme: str = "http"
    header_bytes: int = 16 * 1024


def hosts_of(urls: Iterable[str], further: Iterable[str]) -> frozenset[str]:
    """The Host values of addresses of ours, with and without the scheme's own port, and further ones."""
    hosts = {host.lower() for host in further}
    for url in urls:
        scheme, _, host = url.partition("://")
        hosts.add(host)
        hosts |= {host + _DEFAULT_PORTS[scheme]} if urlsplit(url).port is None else set[str]()
    return frozenset(hosts)


def networks_of(texts: Iterable[str]) -> tuple[Network, ...]:
    """Networks out of their texts."""
    return tuple(ip_network(text) for text in texts)


class Door:
    """The door."""

    def __init__(self, app: ASGIApp, rules: DoorRules) -> None:
        self._app = app
        self._rules = rules

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request through, or turn it away."""
        if scope["type"] != "http":  # the lifespan; there is no route for web sockets
            await self._app(scope, receive, send)
            return
        headers = Head(scope)
        status = self._refusal(scope, headers)

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                own = message.setdefault("headers", [])
                if not any(name == _NOSNIFF[0] for name, _ in own):
                    own.append(_NOSNIFF)
            await send(message)

        if status:
            _log.info("a request was turned away at the door with %d%s", status, _HINTS.get(status, ""))
            await PlainTextResponse("", status, {"cache-control": "no-store", "connection": "close"})(
                scope, receive, send_guarded
            )
            return
        scope["client"] = (self._client(scope, headers), 0)
        scope["scheme"] = self._rules.scheme
        if _forwards(scope["headers"]):
            scope["headers"] = [header for header in scope["headers"] if not _forwards([header])]
        await self._app(scope, receive, send_guarded)

    def _refusal(self, scope: Scope, headers: Head) -> int:
        """The status to refuse with, or 0."""
        rules, peer = self._rules, address_of(_peer(scope))
        if rules.only_loopback and (peer is None or not peer.is_loopback or _forwards(scope["headers"])):
            return FORBIDDEN
        if rules.only_proxies and not is_in(peer, rules.proxies) and scope["path"] not in PATHS:
            return FORBIDDEN
        if sum([len(name) + len(value) for name, value in scope["headers"]]) > rules.header_bytes:
            return TOO_LARGE
        has_two_ends = "transfer-encoding" in headers and "content-length" in headers  # a proxy may believe the other one
        if has_two_ends or not scope["path"].startswith("/"):  # `GET http://elsewhere/ HTTP/1.1`
            return BAD_REQUEST
        hosts = headers.all("host")
        if len(hosts) != 1 or hosts[0].lower() not in rules.hosts:
            return MISDIRECTED
        origins = headers.all("origin")
        return FORBIDDEN if any(origin.lower() not in rules.origins for origin in origins) else 0

    def _client(self, scope: Scope, headers: Head) -> str:
        """Where a request began: the nearest address that is no proxy of ours."""
        client = _peer(scope)
        chain = [each.strip() for line in headers.all("x-forwarded-for") for each in line.split(",")]
        while chain and is_in(address_of(client), self._rules.proxies):
            before = address_of(chain.pop())
            if before is None:
                break
            client = str(before)
        return client


def _peer(scope: Scope) -> str:
    client = scope.get("client")
    return str(client[0]) if client else ""


def _forwards(headers: Sequence[tuple[bytes, bytes]]) -> bool:
    """Whether somebody in between speaks for somebody else."""
    return any(name.startswith(_FORWARDING_PREFIX) or name in _FORWARDING for name, _ in headers)


@lru_cache(maxsize=1024)  # the same few callers come again and again
def address_of(text: str) -> Address | None:
    """An address; an IPv4 one inside an IPv6 one is the IPv4 one."""
    try:
        address = ip_address(text.partition("%")[0])
    except ValueError:
        return None
    return (address.ipv4_mapped or address) if isinstance(address, IPv6Address) else address


def is_in(address: Address | None, networks: Sequence[Network]) -> bool:
    """Whether an address is in one of some networks; what is no address is in none."""
    return address is not None and any(address in network for network in networks)
