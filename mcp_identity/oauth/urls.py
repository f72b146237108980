"""Which URLs may stand in a configuration, a metadata document or a browser's address bar at all?

Syntax alone, one strict reading: whatever two parsers could read differently is refused. Where a name leads is not
decided here; the transport resolves it and judges the address. Trusts nobody: endpoints come from operators, vendors'
metadata and database rows alike.
"""

from __future__ import annotations

import ipaddress
import re
from urllib.parse import SplitResult, urlsplit

from mcp_identity.domain.errors import InvalidTarget, UrlRefused

MAXIMUM_LENGTH = 2048

_URL_CHARACTERS = re.compile(r"[A-Za-z0-9\-._~:/?\[\]@!$&'()*+,;=%]+")
"""RFC 3986's characters without the fragment's `#`; no space, backslash, control character or anything beyond ASCII."""
_AUTHORITY = re.compile(r"(?:\[[0-9A-Fa-f:.]+\]|[^\[\]:@]+)(?::[0-9]{1,5})?")
"""A bracketed address or a name, and a port if there is a colon; `urlsplit` by itself takes `[::1]x` and an empty port."""
_LABEL = r"[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"
_HOST_NAME = re.compile(rf"{_LABEL}(?:\.{_LABEL})*")
_NUMBER = re.compile(r"[0-9]+|0[xX][0-9A-Fa-f]*")
_ABSOLUTE_URI = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:[A-Za-z0-9\-._~:/?\[\]@!$&'()*+,;=%]+")


def check_url(url: str, *, allow_http_loopback: bool = False) -> str:
    """Apply the syntactic rules for an endpoint.

    Args:
        url: The whole URL.
        allow_http_loopback: Also accept http where the host is literally a loopback address or ``localhost``.

    Returns:
        The URL, unchanged.

    Raises:
        UrlRefused: If a rule forbids it. The message names the rule, never the URL: its query may hold a secret.
    """
    if len(url) > MAXIMUM_LENGTH:
        raise UrlRefused(f"a URL is longer than {MAXIMUM_LENGTH} characters")
    if not _URL_CHARACTERS.fullmatch(url):
        raise UrlRefused("a URL holds a fragment or a character that RFC 3986 does not allow there")
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        raise UrlRefused("a URL has a malformed host or port") from None
    if parts.scheme not in {"https", "http"}:
        raise UrlRefused("a URL must be https")
    if "@" in parts.netloc:
        raise UrlRefused("a URL holds user information")
    if not _AUTHORITY.fullmatch(parts.netloc) or port == 0 or not _is_host(host):
        raise UrlRefused("a URL has no usable host or port")
    if parts.scheme == "http" and not (allow_http_loopback and is_loopback_host(host)):
        needs = " with --allow-http-loopback" if is_loopback_host(host) else ""
        raise UrlRefused(f"a URL must be https; http is for loopback addresses alone{needs}")
    return url


def is_loopback_host(host: str) -> bool:
    """Whether a host is literally loopback: ``localhost``, 127.0.0.0/8 or ::1."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def is_below(url: str, base: str) -> bool:
    """Whether a URL is `base`, or below it; what two parsers could read differently counts as below.

    Args:
        url: Anything; what is no URL is below nothing.
        base: An http or https URL; empty for none.
    """
    try:
        mine, theirs = urlsplit(base), urlsplit(url)
        if not base or (_origin(mine) != _origin(theirs)):
            return False
    except ValueError:
        return False
    path, root = theirs.path, mine.path.rstrip("/")
    return path == root or path.startswith(f"{root}/") or "%" in path or "/." in path or "\\" in url


def _origin(parts: SplitResult) -> tuple[str, str, int | None]:
    return parts.scheme, (parts.hostname or "").rstrip("."), parts.port or {"https": 443, "http": 80}.get(parts.scheme)


def check_resource(resource: str) -> str:
    """Check a resource indicator: an absolute URI without a fragment (RFC 8707 §2).

    Raises:
        InvalidTarget: If it is anything else.
    """
    if len(resource) > MAXIMUM_LENGTH or not _ABSOLUTE_URI.fullmatch(resource):
        raise InvalidTarget("a resource is an absolute URI without a fragment (RFC 8707 §2)")
    return resource


def _is_host(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        # 127.1, 2130706433 and 0x7f.1 are addresses to some parsers and names to others: only the dotted quad is one to all.
        return bool(_HOST_NAME.fullmatch(host)) and not _NUMBER.fullmatch(host.rpartition(".")[2])
    return True
