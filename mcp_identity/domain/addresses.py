"""Which URLs and addresses may a request of ours go to? The rules against SSRF, without a network.

A URL is read once, strictly, and is rebuilt from what was read. An address is a public server's, or it is refused, whatever
wraps it; loopback is for providers that an operator allowed it for. Trusts no URL and no resolver, whoever wrote them.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable
from typing import TypeAlias
from urllib.parse import SplitResult, urlsplit

from mcp_identity.domain.errors import UrlRefused

Address: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address

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


def parse_url(url: str) -> SplitResult:
    """One strict reading; the request is rebuilt from it, so no second parser has a say.

    Raises:
        UrlRefused: If it is malformed, or neither https nor http.
    """
    if not _URL.fullmatch(url) or "\\" in url or "#" in url:
        raise UrlRefused("a URL is malformed, or neither https nor http")
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise UrlRefused("a URL has a malformed host or port") from None
    host = parts.hostname or ""
    if port == 0 or host.endswith(".") or (_NUMBER.fullmatch(host.rpartition(".")[2]) and not is_literal(host)):
        # 127.1 and 2130706433 are names to us and addresses to some resolvers.
        raise UrlRefused("a URL has a malformed host or port")
    return parts


def is_literal(host: str) -> bool:
    """Whether a host is an address and no name."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def allowed_addresses(scheme: str, found: Iterable[str], *, allow_http_loopback: bool) -> list[Address]:
    """What a name resolved to, if every address of it may be connected to.

    Args:
        scheme: ``https``, or ``http``, which is for loopback alone.
        found: The addresses, as the resolver wrote them.
        allow_http_loopback: Accept loopback addresses, and http for them alone.

    Raises:
        UrlRefused: If one may not.
    """
    try:
        addresses = [ipaddress.ip_address(address) for address in dict.fromkeys(found)]
    except ValueError:
        raise UrlRefused("the host resolves to something that is no plain address") from None
    loopback = allow_http_loopback and bool(addresses) and all(_is_loopback(address) for address in addresses)
    if scheme == "http" and not loopback:
        raise UrlRefused("http is for loopback addresses alone, with --allow-http-loopback")
    if not loopback and not all(is_public(address) for address in addresses):
        raise UrlRefused("the host has an address that is not public")
    return addresses


def _is_loopback(address: Address) -> bool:
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return (mapped or address).is_loopback
