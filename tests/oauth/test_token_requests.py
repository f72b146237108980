"""Token requests: what goes to the token endpoint, and how."""

from __future__ import annotations

from urllib.parse import parse_qsl

import pytest

from mcp_identity.domain.credentials import Secret
from mcp_identity.domain.errors import InvalidTarget, ProviderMisconfigured
from mcp_identity.domain.http import HttpRequest
from mcp_identity.domain.provider import AuthorizationServer, ClientAuthentication, Dialect, OAuthClient
from mcp_identity.oauth.token import authorization_code_request, client_credentials_request, refresh_request

SERVER = AuthorizationServer(token_url="https://idp.example.com/token")
CLIENT = OAuthClient("app", ClientAuthentication.POST, Secret("cl13nt"))
PUBLIC = OAuthClient("app", ClientAuthentication.NONE)
RESOURCE = "https://api.example.com/mcp"


def _form(request: HttpRequest) -> list[tuple[str, str]]:
    assert request.body is not None
    return parse_qsl(request.body.decode("ascii"), keep_blank_values=True, strict_parsing=True)


def _code_request(dialect: Dialect | None = None, server: AuthorizationServer = SERVER, **changes: str) -> HttpRequest:
    return authorization_code_request(
        server,
        CLIENT,
        dialect or Dialect(),
        code=Secret("c0de"),
        redirect_uri="https://broker.example/cb",
        code_verifier=Secret("v" * 43),
        **changes,
    )


def test_a_code_is_exchanged_by_post_with_its_verifier_and_nothing_in_the_url() -> None:
    request = _code_request(resource=RESOURCE)
    assert (request.method, request.url) == ("POST", "https://idp.example.com/token")
    assert request.headers == {
        "Accept": "application/json",
        "Accept-Encoding": "identity",
        "Content-Type": "application/x-www-form-urlencoded",
    }
    assert _form(request) == [
        ("grant_type", "authorization_code"),
        ("code", "c0de"),
        ("redirect_uri", "https://broker.example/cb"),
        ("code_verifier", "v" * 43),
        ("resource", RESOURCE),
        ("client_id", "app"),
        ("client_secret", "cl13nt"),
    ]


def test_no_verifier_goes_to_a_server_that_rejects_pkce_and_the_dialects_headers_go_along() -> None:
    request = _code_request(Dialect(pkce=False, token_headers={"X-Version": "1"}))
    assert "code_verifier" not in dict(_form(request))
    assert request.headers["X-Version"] == "1"


def test_client_credentials_ask_for_exactly_the_scopes_in_a_fixed_order() -> None:
    dialect = Dialect(audience_parameter="audience", always_scopes=("offline_access",))
    request = client_credentials_request(
        SERVER, CLIENT, dialect, scopes=frozenset({"b", "a"}), resource=RESOURCE, audience="api"
    )
    form = _form(request)
    assert form[:4] == [("grant_type", "client_credentials"), ("scope", "a b"), ("resource", RESOURCE), ("audience", "api")]
    bare = client_credentials_request(SERVER, CLIENT, Dialect(), scopes=frozenset(), resource="", audience="")
    assert "scope" not in dict(_form(bare))


def test_a_public_client_has_no_client_credentials() -> None:
    with pytest.raises(ProviderMisconfigured):
        client_credentials_request(SERVER, PUBLIC, Dialect(), scopes=frozenset(), resource="", audience="")


def test_a_refresh_goes_to_the_refresh_endpoint_with_the_resource_again() -> None:
    server = AuthorizationServer(token_url="https://idp.example.com/token", refresh_url="https://idp.example.com/refresh")
    dialect = Dialect(audience_parameter="audience")
    request = refresh_request(
        server, PUBLIC, dialect, refresh_token=Secret("r3fresh"), scopes=None, resource=RESOURCE, audience="api"
    )
    assert request.url == "https://idp.example.com/refresh"
    assert _form(request) == [
        ("grant_type", "refresh_token"),
        ("refresh_token", "r3fresh"),
        ("resource", RESOURCE),
        ("audience", "api"),
        ("client_id", "app"),
    ]


@pytest.mark.parametrize(("narrows", "sent"), [(True, "a b"), (False, None)])
def test_a_refresh_names_scopes_only_where_that_narrows_the_token(*, narrows: bool, sent: str | None) -> None:
    dialect = Dialect(refresh_token_scope_parameter=narrows)
    request = refresh_request(SERVER, CLIENT, dialect, refresh_token=Secret("r"), scopes=frozenset({"b", "a"}))
    assert dict(_form(request)).get("scope") == sent


def test_a_provider_without_a_token_endpoint_is_misconfigured() -> None:
    with pytest.raises(ProviderMisconfigured):
        _code_request(server=AuthorizationServer())


def test_a_resource_for_a_server_that_takes_none_is_refused_not_dropped() -> None:
    with pytest.raises(InvalidTarget):
        _code_request(Dialect(resource_parameter=False), resource=RESOURCE)


def test_no_secret_shows_in_a_requests_repr() -> None:
    request = refresh_request(SERVER, CLIENT, Dialect(), refresh_token=Secret("r3fresh"), resource="", audience="")
    assert "r3fresh" not in repr(request)
    assert "cl13nt" not in repr(request)
