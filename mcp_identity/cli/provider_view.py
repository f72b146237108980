"""How is a configured provider shown? As facts for people, or as an object for programs; no secret in either."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import typer

from mcp_identity.cli.output import print_facts
from mcp_identity.domain.credentials import Flow
from mcp_identity.domain.errors import ProviderMisconfigured
from mcp_identity.domain.provider import ProviderKind

if TYPE_CHECKING:
    from mcp_identity.app import Graph
    from mcp_identity.domain.provider import CredentialProvider


Value = str | bool | list[str] | dict[str, str] | None


async def describe(graph: Graph, provider: CredentialProvider) -> dict[str, Value]:
    """A provider as an object."""
    directory, server = graph.broker.directory, provider.server
    try:
        notes = list(directory.notes(provider))
        redirect_uri = directory.redirect_uri(provider) if Flow.USER_FEDERATION in provider.flows else None
    except ProviderMisconfigured as error:
        notes, redirect_uri = [error.message], None
    if redirect_uri and not graph.settings.public_url:
        notes.insert(
            0,
            "That is for consents on this machine, of stdio and connect. serve --transport http has an address of its own: for "
            f"agents that come there, register e.g. http://127.0.0.1:8000{urlsplit(redirect_uri).path}, or set "
            "MCP_IDENTITY_PUBLIC_URL for both commands.",
        )
    return {
        "name": provider.name,
        "vendor": provider.vendor,
        "kind": provider.kind.value,
        "flows": [flow.value for flow in provider.flows],
        "scopes": sorted(provider.scopes),
        "release": provider.release.value if provider.release else None,
        "client_id": provider.client_id,
        "client_authentication": provider.client_authentication.value if provider.kind is ProviderKind.OAUTH2 else None,
        "has_secret": await directory.has_secret(provider),
        "secret_reference": _reference(provider),
        "settings": provider.settings,
        "issuer": server.issuer,
        "authorization_url": server.authorization_url,
        "token_url": server.token_url,
        "revocation_url": server.revocation_url,
        "api_hosts": list(provider.api_hosts),
        "subject_issuers": await _issuers(graph, provider),
        "allow_http_loopback": provider.allow_http_loopback,
        "disabled": provider.disabled,
        "redirect_uri": redirect_uri,
        "notes": notes,
    }


def _reference(provider: CredentialProvider) -> str | None:
    """Where its secret was read, for one that was named over an API."""
    reference = provider.secret_reference
    if reference is None:
        return None
    return f"{reference.reference} ({reference.json_key})" if reference.json_key else reference.reference


async def _issuers(graph: Graph, provider: CredentialProvider) -> list[str]:
    """The names of the issuers whose users' tokens it may be sent; one that was removed vouches for nobody."""
    if not provider.subject_issuers:
        return []
    known = await graph.broker.issuers.list(provider.tenant)
    return [issuer.name for issuer in known if issuer.id in provider.subject_issuers]


def print_provider(found: dict[str, Value]) -> None:
    """A provider for people."""
    print_facts(
        {name.replace("_", " "): _text(value) for name, value in found.items() if name not in ("redirect_uri", "notes")}
    )
    print_registration(found)


def print_registration(found: dict[str, Value]) -> None:
    """What to register at the vendor, and what to know."""
    if found["redirect_uri"]:
        typer.echo(f"\nRegister this redirect URI at the vendor, exactly as it stands:\n\n    {found['redirect_uri']}")
    notes = found["notes"]
    if isinstance(notes, list):
        for note in notes:
            typer.echo(f"\nNote: {note}")


def _text(value: Value) -> str:
    match value:
        case bool():
            return "yes" if value else ""
        case None:
            return ""
        case dict():
            return ", ".join(f"{name}={each}" for name, each in value.items())
        case list():
            return " ".join(value)
        case str():
            return value
