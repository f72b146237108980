"""Where is the server, and who asks it? Over HTTP at an address; over stdio as a process of our own."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from mcp_identity.sdk.errors import NOT_CONFIGURED, IdentityClientError

if TYPE_CHECKING:
    from ssl import SSLContext

_PATHS = frozenset({"", "/", "/mcp", "/mcp/"})
_REMEDY = "Pass the server's address, e.g. https://identity.example.com, or set MCP_IDENTITY_URL; there are no regions here."


@dataclass(frozen=True, slots=True)
class Remote:
    """A server that runs somewhere.

    Attributes:
        origin: Scheme, host and port.
        is_local: On this machine, so that no proxy stands in between.
        ssl_context: What believes its certificate; None for the machine's own store.
    """

    origin: str
    is_local: bool
    ssl_context: SSLContext | None = None


@dataclass(frozen=True, slots=True)
class Started:
    """A server that we start ourselves, one process for each name of a workload.

    Attributes:
        command: What to start.
        environment: Of the process.
        for_admin: What to add where the tools of operators are needed; they are in a process of their own.
    """

    command: tuple[str, ...]
    environment: Mapping[str, str] = field(repr=False)
    for_admin: tuple[str, ...] = ()


Place = Remote | Started


@dataclass(frozen=True, slots=True)
class Who:
    """As whom a call is made.

    Attributes:
        bearer: What the server is shown; empty on stdio, and for a server that asks nobody.
        key: The workload's own key, with which it gets tokens for its users; empty where there is none.
        workload: The name that the caller gave, or empty.
    """

    bearer: str = field(repr=False)
    key: str = field(default="", repr=False)
    workload: str = ""


def remote(url: str, ssl_context: SSLContext | None = None) -> Remote:
    """A server at an address.

    Args:
        url: Its origin; the path of its MCP endpoint may follow.
        ssl_context: What believes its certificate.

    Raises:
        IdentityClientError: If it is none, or one that a bearer must not be sent to.
    """
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        host, port, parts = None, None, urlsplit("")
    plain = parts.scheme in ("http", "https") and parts.path in _PATHS and not (parts.query or parts.fragment)
    if not host or not plain or "@" in parts.netloc or not url.isprintable():
        raise IdentityClientError(NOT_CONFIGURED, "the server's address is http(s)://host[:port]", remedy=_REMEDY)
    is_local = _is_loopback(host)
    if parts.scheme == "http" and not is_local:
        raise IdentityClientError(
            NOT_CONFIGURED,
            "a bearer goes over plain http to this machine alone",
            remedy="Use https, or a proxy on this machine that speaks it.",
        )
    written = f"[{host}]" if ":" in host else host
    return Remote(f"{parts.scheme}://{written}{f':{port}' if port is not None else ''}", is_local, ssl_context)


def started(command: Sequence[str] | None, environment: Mapping[str, str]) -> Started:
    """A server of our own; by default the one that belongs to this package."""
    if command:
        return Started(tuple(command), environment)
    return Started((sys.executable, "-m", "mcp_identity", "serve"), environment, ("--toolset", "admin"))


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False
