"""May a server be exposed as it is configured? If not it does not start, and says what to do.

Pure: the settings, the options of the command line, and the addresses that a host name stands for.
"""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from ipaddress import ip_address
from typing import TYPE_CHECKING, Literal
from urllib.parse import urlsplit

from mcp_identity.app.door import DoorRules, hosts_of, networks_of
from mcp_identity.domain.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from mcp_identity.settings import Settings

NO_CALLERS = (
    "nobody could call this server: no issuer, no workload key and no access key is configured. "
    "Add one first: mcp-identity issuers add NAME --discovery-url URL, or: mcp-identity workloads create NAME --issue-key, "
    "or: mcp-identity access-keys create --role admin"
)

NO_OPERATORS = (
    "nobody could use the tools of operators here: only a token of an issuer that is asked for scopes can hold identity:admin. "
    "Add one: mcp-identity issuers add NAME --discovery-url URL --require-tool-scopes"
)


@dataclass(frozen=True, slots=True)
class HttpOptions:
    """What the command line says of a server.

    Attributes:
        transport: ``http``, or ``sse``, which serves both.
        host: Where to listen.
        port: Likewise; 0 for a free one.
        insecure_loopback: Serve this machine's user without asking who calls.
        allow_http_loopback: Providers made over an API may use plain HTTP on a loopback address.
        trust_local_user: Believe this machine's user on a vault that others share.
        admin: Serve the tools for operators, too.
    """

    transport: Literal["http", "sse"] = "http"
    host: str = "127.0.0.1"
    port: int = 8000
    insecure_loopback: bool = False
    allow_http_loopback: bool = False
    trust_local_user: bool = False
    admin: bool = False


def is_loopback(addresses: Iterable[str]) -> bool:
    """Whether all of some addresses are this machine's own."""
    return all(ip_address(address.partition("%")[0]).is_loopback for address in addresses)


def require_safe(settings: Settings, options: HttpOptions, *, loopback: bool) -> None:
    """Refuse what must not be served.

    Args:
        settings: What was configured.
        options: What the command line says.
        loopback: Whether the addresses to listen on are this machine's own.

    Raises:
        ConfigurationError: The message says what to do.
    """
    if bool(settings.tls_cert) != bool(settings.tls_key):
        raise ConfigurationError("MCP_IDENTITY_TLS_CERT and MCP_IDENTITY_TLS_KEY go together: set both, or neither")
    public = urlsplit(settings.public_url)
    if public.scheme == "http" and not _is_loopback_name(public.hostname or ""):
        raise ConfigurationError("MCP_IDENTITY_PUBLIC_URL is https:// beyond this machine: bearers travel by it")
    if options.insecure_loopback:
        _require_alone(settings, loopback=loopback)
        settings.require_own_vault(trust_local_user=options.trust_local_user)
    if not loopback:
        _require_public(settings, options)


def _require_alone(settings: Settings, *, loopback: bool) -> None:
    """`--insecure-loopback` serves this machine and nobody else."""
    if not loopback:
        raise ConfigurationError(
            "--insecure-loopback asks nobody who they are, so it listens on 127.0.0.1 alone: leave --host out"
        )
    names = {
        urlsplit(settings.public_url).hostname or "localhost",
        *(urlsplit(f"//{each}").hostname for each in settings.allowed_hosts),
    }
    if settings.trusted_proxies or not all(_is_loopback_name(name or "") for name in names):
        raise ConfigurationError(
            "--insecure-loopback asks nobody who they are, so nothing may lead here from elsewhere: unset "
            "MCP_IDENTITY_PUBLIC_URL, MCP_IDENTITY_ALLOWED_HOSTS and MCP_IDENTITY_TRUSTED_PROXIES, or leave the option out"
        )


def _require_public(settings: Settings, options: HttpOptions) -> None:
    """What a server needs that others can reach."""
    if options.allow_http_loopback:
        raise ConfigurationError("--allow-http-loopback is for development on 127.0.0.1: leave it out, or leave --host out")
    if not settings.public_url:
        raise ConfigurationError(
            f"listening on {options.host} needs the address that callers use: set MCP_IDENTITY_PUBLIC_URL=https://HOST"
        )
    if not settings.public_url.startswith("https://"):
        raise ConfigurationError("MCP_IDENTITY_PUBLIC_URL is https:// where others can reach the server: bearers travel by it")
    if not settings.tls_cert and not settings.trusted_proxies:
        raise ConfigurationError(
            "bearers must not travel in the clear: set MCP_IDENTITY_TLS_CERT and MCP_IDENTITY_TLS_KEY, or, behind a proxy "
            "that ends TLS, its address in MCP_IDENTITY_TRUSTED_PROXIES"
        )


def tls_context(settings: Settings) -> ssl.SSLContext | None:
    """The server's side of TLS; None where somebody in front of us speaks it, or nobody.

    Raises:
        ConfigurationError: If certificate and key cannot be read, or do not fit together.
    """
    if settings.tls_cert is None:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_cert_chain(settings.tls_cert, settings.tls_key, password=_no_password)
    except (OSError, ValueError) as error:  # an SSLError is an OSError
        raise ConfigurationError(
            f"MCP_IDENTITY_TLS_CERT and MCP_IDENTITY_TLS_KEY cannot be used ({type(error).__name__}): they are the chain and "
            "its unencrypted key, PEM"
        ) from None
    return context


def _no_password() -> str:
    """Nobody is asked for the password of a key: there may be no terminal."""
    raise ValueError("the key is encrypted")


def base_url(settings: Settings, port: int) -> str:
    """Scheme, host and port that this server gives out as its own."""
    scheme = "https" if settings.tls_cert else "http"
    return settings.public_url or f"{scheme}://127.0.0.1:{port}"


def door_rules(settings: Settings, options: HttpOptions, port: int, addresses: Iterable[str], *, loopback: bool) -> DoorRules:
    """What the door knows of a server that listens on some addresses."""
    scheme = "https" if settings.tls_cert else "http"
    own = [base_url(settings, port)]
    if loopback:
        own += [f"{scheme}://{name}:{port}" for name in ("localhost", *map(_in_url, addresses))]
    return DoorRules(
        hosts=hosts_of(own, settings.allowed_hosts),
        origins=frozenset(each.lower() for each in (*own, *settings.allowed_origins)),
        proxies=networks_of(settings.trusted_proxies),
        only_proxies=not loopback and not settings.tls_cert,
        only_loopback=options.insecure_loopback,
        scheme=own[0].partition(":")[0],
        header_bytes=settings.header_bytes,
    )


def _in_url(address: str) -> str:
    return f"[{address}]" if ":" in address else address


def _is_loopback_name(name: str) -> bool:
    from mcp_identity.oauth.urls import is_loopback_host

    return is_loopback_host(name)
