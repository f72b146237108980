from __future__ import annotations

from dataclasses import fields, replace
from datetime import UTC, datetime

from mcp_identity.domain.credentials import Flow, SecretReference
from mcp_identity.domain.provider import (
    AuthorizationServer,
    ClientAuthentication,
    CredentialProvider,
    ProviderKind,
    Release,
)

PROVIDER = CredentialProvider(
    "row", "tenant", "name", "vendor", ProviderKind.OAUTH2, "callback", {"host": "a"}, client_id="client"
)
SERVER = {
    field.name: True if field.name == "requires_iss" else "https://elsewhere.example" for field in fields(AuthorizationServer)
}
CHANGED: dict[str, object] = {
    "id": "other",
    "tenant": "other",
    "name": "other",
    "vendor": "other",
    "kind": ProviderKind.API_KEY,
    "provider_id": "other",
    "settings": {"host": "b"},
    "client_id": "other",
    "client_authentication": ClientAuthentication.POST,
    "flows": (Flow.M2M,),
    "scopes": frozenset({"a"}),
    "release": Release.NEVER,
    "api_hosts": ("https://api.example",),
    "subject_issuers": frozenset({"issuer"}),
    "allow_http_loopback": True,
    "secret_reference": SecretReference("env:ELSEWHERE"),
    "tags": (("team", "other"),),
    "epoch": 2,
    "disabled": True,
    "created_at": datetime(2026, 1, 1, tzinfo=UTC),
    "updated_at": datetime(2026, 1, 1, tzinfo=UTC),
}
ELSEWHERE = {
    *("id", "tenant", "name", "flows", "scopes", "subject_issuers", "secret_reference", "tags", "epoch", "disabled"),
    *("created_at", "updated_at"),
}
"""What does not decide where a secret goes: the row is bound by its place, and the rest by the MAC of the row."""
REFRESH = {"issuer", "token_url", "refresh_url", "revocation_url", "client_id", "allow_http_loopback"}


def variants() -> dict[str, CredentialProvider]:
    """The provider with each of its fields changed."""
    found = {name: replace(PROVIDER, **{name: value}) for name, value in CHANGED.items()}
    return found | {name: replace(PROVIDER, server=replace(PROVIDER.server, **{name: value})) for name, value in SERVER.items()}


def test_every_field_of_a_provider_is_asked_about() -> None:
    assert {field.name for field in fields(CredentialProvider)} == CHANGED.keys() | {"server"}


def test_a_secret_is_bound_to_everything_that_decides_where_it_goes() -> None:
    for name, changed in variants().items():
        assert (changed.configuration_digest() == PROVIDER.configuration_digest()) == (name in ELSEWHERE), name


def test_a_refresh_token_is_bound_to_where_it_is_sent_and_as_whom() -> None:
    for name, changed in variants().items():
        assert (changed.destination() == PROVIDER.destination()) == (name not in REFRESH), name


def test_a_digest_keeps_the_borders_between_its_parts() -> None:
    one = replace(PROVIDER, server=AuthorizationServer(token_url="ab", refresh_url="c"))
    two = replace(PROVIDER, server=AuthorizationServer(token_url="a", refresh_url="bc"))
    assert one.configuration_digest() != two.configuration_digest()
    assert one.destination() != two.destination()
