"""What is peculiar about the vendors that came with the wider catalogue, each said by a field and each having its effect."""

from __future__ import annotations

import json
from base64 import b64decode
from typing import Any
from urllib.parse import parse_qs, parse_qsl, urlsplit

import pytest

from mcp_identity.domain.credentials import Secret, TokenSet
from mcp_identity.domain.errors import InvalidRequest, UpstreamBadResponse, UpstreamRejected
from mcp_identity.domain.http import HttpRequest
from mcp_identity.domain.provider import AuthorizationServer, OAuthClient, ResolvedDefinition
from mcp_identity.oauth.authorization import authorization_url, check_agent_parameters
from mcp_identity.oauth.revocation import TokenTypeHint, process_revocation_response, revocation_request
from mcp_identity.oauth.token import client_credentials_request, process_token_response, refresh_request
from mcp_identity.providers import catalog
from tests.oauth.answers import NOW, answer
from tests.providers.test_catalog import EXAMPLES


def _vendor(name: str, **settings: str) -> ResolvedDefinition:
    return catalog.resolve(catalog.get(name), EXAMPLES.get(name, {}) | settings)


def _server(vendor: ResolvedDefinition) -> AuthorizationServer:
    endpoints = vendor.endpoints
    return AuthorizationServer(
        authorization_url=endpoints.authorization, token_url=endpoints.token, revocation_url=endpoints.revocation
    )


def _client(name: str) -> OAuthClient:
    return OAuthClient("app", catalog.get(name).client_authentication[0], Secret("s3cret"))


def _asked(name: str, *scopes: str) -> dict[str, str]:
    vendor = _vendor(name)
    url = authorization_url(
        _server(vendor),
        "app",
        vendor.dialect,
        redirect_uri="https://broker.example/cb",
        scopes=frozenset(scopes),
        state="st4te",
        code_verifier=Secret("v" * 43),
    )
    return dict(parse_qsl(urlsplit(url).query))


def _refresh(name: str) -> HttpRequest:
    vendor = _vendor(name)
    return refresh_request(_server(vendor), _client(name), vendor.dialect, refresh_token=Secret("rt"))


def _tokens(name: str, body: Any, *asked: str, status: int = 200) -> TokenSet:
    response = answer(body, status)
    return process_token_response(response, _vendor(name).dialect, requested_scopes=frozenset(asked), now=NOW).tokens


def _revocation(name: str, kind: TokenTypeHint = "refresh_token") -> HttpRequest | None:
    vendor = _vendor(name)
    return revocation_request(_server(vendor), _client(name), vendor.dialect, token=Secret("t"), token_type_hint=kind)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("atlassian", {"audience": "api.atlassian.com", "prompt": "consent", "scope": "a offline_access"}),
        ("dropbox", {"token_access_type": "offline"}),
        ("notion", {"owner": "user"}),
        ("reddit", {"duration": "permanent"}),
        ("x", {"scope": "a offline.access", "code_challenge_method": "S256"}),
        ("auth0", {"scope": "a offline_access"}),
    ],
)
def test_what_a_vendor_gives_a_refresh_token_for_is_always_sent(name: str, expected: dict[str, str]) -> None:
    assert _asked(name, "a").items() >= expected.items()


@pytest.mark.parametrize(("name", "pkce"), [("linkedin", False), ("notion", False), ("reddit", False), ("twitch", False),
                                            ("x", True), ("okta", True), ("dropbox", True), ("zoom", True)])  # fmt: skip
def test_pkce_is_sent_but_to_those_that_take_none(name: str, *, pkce: bool) -> None:
    assert ("code_challenge" in _asked(name, "a")) == pkce


def test_facebook_separates_scopes_by_commas() -> None:
    assert _asked("facebook", "email", "public_profile")["scope"] == "email,public_profile"


def test_notion_is_spoken_to_in_json_with_basic_and_revoked_the_same_way() -> None:
    for request, member in ((_refresh("notion"), "refresh_token"), (_revocation("notion"), "token")):
        assert request is not None
        assert request.headers["Content-Type"] == "application/json"
        assert b64decode(request.headers["Authorization"][6:]) == b"app:s3cret"
        assert json.loads(request.body or b"")[member] in {"rt", "t"}
    assert json.loads(_refresh("notion").body or b"") == {"grant_type": "refresh_token", "refresh_token": "rt"}


def test_notion_names_the_user_in_its_answer_and_no_end() -> None:
    owner = {"type": "user", "user": {"id": "u1"}}
    body = {"access_token": "ntn_x", "token_type": "bearer", "bot_id": "b", "workspace_id": "w", "owner": owner}
    tokens = _tokens("notion", body)
    assert (tokens.account_id, tokens.extra) == ("u1", {"workspace_id": "w", "bot_id": "b"})
    assert tokens.is_long_lived


def test_everybody_else_is_sent_a_form() -> None:
    request = _refresh("okta")
    assert request.headers["Content-Type"] == "application/x-www-form-urlencoded"
    assert parse_qs((request.body or b"").decode()) == {"grant_type": ["refresh_token"], "refresh_token": ["rt"]}


def test_reddit_is_told_who_asks() -> None:
    assert "mcp-identity" in _refresh("reddit").headers["User-Agent"]


def test_linkedin_may_leave_the_token_type_out_and_lists_scopes_with_commas() -> None:
    body = {"access_token": "x", "expires_in": 5184000, "scope": "openid,profile"}
    tokens = _tokens("linkedin", body, "openid", "profile")
    assert (tokens.token_type, tokens.scopes) == ("Bearer", frozenset({"openid", "profile"}))
    with pytest.raises(UpstreamBadResponse):
        _tokens("okta", body)
    with pytest.raises(UpstreamBadResponse):
        _tokens("linkedin", {**body, "token_type": "mac"})


def test_twitch_lists_its_scopes() -> None:
    body = {"access_token": "x", "expires_in": 14000, "token_type": "bearer", "scope": ["user:read:email", "bits:read"]}
    assert _tokens("twitch", body, "bits:read").scopes == frozenset({"user:read:email", "bits:read"})


@pytest.mark.parametrize(
    ("name", "body", "code"),
    [
        ("twitch", {"error": "Bad Request", "status": 400, "message": "Invalid refresh token"}, "invalid_grant"),
        ("twitch", {"status": 400, "message": "missing client id"}, "unspecified"),
        ("hubspot", {"status": "BAD_REFRESH_TOKEN", "message": "missing or unknown refresh token"}, "invalid_grant"),
        ("hubspot", {"status": "BAD_CLIENT_ID", "message": "x", "correlationId": "y"}, "invalid_client"),
        ("hubspot", {"error": "invalid_scope", "status": "error"}, "invalid_scope"),
        ("reddit", {"message": "Bad Request", "error": 400}, "400"),
        ("facebook", {"error": {"message": "m", "type": "OAuthException", "code": 190}}, "190"),
        ("dropbox", {"error": "invalid_grant", "error_description": "refresh token is invalid or revoked"}, "invalid_grant"),
        ("atlassian", {"error": "unauthorized_client", "error_description": "refresh_token is invalid"}, "unauthorized_client"),
    ],
)
def test_a_vendors_own_error_becomes_one_that_can_be_acted_on(name: str, body: dict[str, Any], code: str) -> None:
    with pytest.raises(UpstreamRejected) as failure:
        _tokens(name, body, status=400)
    assert failure.value.error == code


def test_a_message_in_a_token_answer_is_no_error() -> None:
    assert _tokens("twitch", {"access_token": "x", "expires_in": 9, "token_type": "bearer", "message": "hello"})


@pytest.mark.parametrize(
    ("name", "code"),
    [("atlassian", "unauthorized_client"), ("reddit", "400"), ("x", "invalid_request"), ("zoom", "invalid_request")],
)
def test_the_error_of_a_dead_refresh_token_asks_for_a_new_consent(name: str, code: str) -> None:
    assert code in _vendor(name).dialect.dead_grant_errors


def test_dropbox_is_shown_the_access_token_to_revoke_both() -> None:
    assert _revocation("dropbox") is None
    request = _revocation("dropbox", "access_token")
    assert request is not None
    assert (request.method, request.url, request.body) == ("POST", "https://api.dropboxapi.com/2/auth/token/revoke", None)
    assert request.headers["Authorization"] == "Bearer t"
    process_revocation_response(answer(b"null"), _vendor("dropbox").dialect)


@pytest.mark.parametrize("name", ["atlassian", "facebook", "fusionauth", "linkedin", "spotify", "yandex"])
def test_a_vendor_that_takes_nothing_back_says_so(name: str) -> None:
    assert _revocation(name) is None
    assert name == "linkedin" or any("erased here" in note for note in catalog.get(name).notes)


def test_zoom_asks_for_an_account_where_the_app_is_the_accounts() -> None:
    zoom = _vendor("zoom", app="server-to-server", account="AbC-1")
    assert [flow.value for flow in zoom.flows] == ["M2M"]
    request = client_credentials_request(_server(zoom), _client("zoom"), zoom.dialect, scopes=frozenset())
    assert parse_qs((request.body or b"").decode()) == {"grant_type": ["account_credentials"], "account_id": ["AbC-1"]}
    assert [flow.value for flow in _vendor("zoom").flows] == ["USER_FEDERATION"]


def test_a_parameter_that_is_sent_anyway_may_be_asked_for_as_it_is_and_not_otherwise() -> None:
    google = _vendor("google").dialect
    assert check_agent_parameters(google, (("access_type", "offline"), ("hd", "example.com"))) == (("hd", "example.com"),)
    with pytest.raises(InvalidRequest):
        check_agent_parameters(google, (("access_type", "online"),))


def test_any_openid_server_may_be_asked_to_ask_again() -> None:
    custom = catalog.resolve(catalog.get("custom"), EXAMPLES["custom"]).dialect
    assert check_agent_parameters(custom, (("prompt", "login consent"), ("max_age", "60"))) == (
        ("max_age", "60"), ("prompt", "login consent"),
    )  # fmt: skip
    for name, value in (
        ("prompt", "login login\n"),
        ("client_id", "x"),
        ("redirect_uri", "https://evil.example"),
        ("foo", "1"),
    ):
        with pytest.raises(InvalidRequest):
            check_agent_parameters(custom, ((name, value),))
