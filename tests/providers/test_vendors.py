"""Each vendor's documented answers, replayed: every quirk is a field of its file, and the field does what it is for."""

from __future__ import annotations

from base64 import b64decode
from datetime import timedelta
from typing import Any
from urllib.parse import parse_qs, parse_qsl, urlsplit

import pytest

from mcp_identity.domain.credentials import Secret, TokenSet
from mcp_identity.domain.errors import InvalidTarget, UpstreamBadResponse, UpstreamRejected
from mcp_identity.domain.provider import AuthorizationServer, OAuthClient, ResolvedDefinition
from mcp_identity.oauth.authorization import authorization_url
from mcp_identity.oauth.revocation import process_revocation_response, revocation_request
from mcp_identity.oauth.token import (
    authorization_code_request,
    client_credentials_request,
    process_token_response,
    refresh_request,
)
from mcp_identity.providers import catalog
from tests.oauth.answers import NOW, answer

TENANT = "11111111-2222-3333-4444-555555555555"


def _resolve(name: str, **settings: str) -> ResolvedDefinition:
    return catalog.resolve(catalog.get(name), settings)


def _server(vendor: ResolvedDefinition) -> AuthorizationServer:
    endpoints = vendor.endpoints
    return AuthorizationServer(
        issuer=endpoints.issuer,
        authorization_url=endpoints.authorization,
        token_url=endpoints.token,
        refresh_url=endpoints.refresh,
        revocation_url=endpoints.revocation,
        jwks_url=endpoints.jwks,
    )


def _client(name: str) -> OAuthClient:
    return OAuthClient("app", catalog.get(name).client_authentication[0], Secret("s3cret"))


def _url(vendor: ResolvedDefinition, *scopes: str, **parameters: str) -> dict[str, str]:
    url = authorization_url(
        _server(vendor),
        "app",
        vendor.dialect,
        redirect_uri="https://broker.example/cb",
        scopes=frozenset(scopes),
        state="st4te",
        code_verifier=Secret("v" * 43),
        parameters=tuple(parameters.items()),
    )
    assert url.startswith(vendor.endpoints.authorization + "?")
    return dict(parse_qsl(urlsplit(url).query))


def _tokens(vendor: ResolvedDefinition, body: Any, *asked: str, previous: TokenSet | None = None) -> TokenSet:
    response = answer(body)
    return process_token_response(
        response, vendor.dialect, requested_scopes=frozenset(asked), now=NOW, previous=previous
    ).tokens


def _form(vendor: ResolvedDefinition, name: str) -> dict[str, list[str]]:
    request = refresh_request(_server(vendor), _client(name), vendor.dialect, refresh_token=Secret("rt"))
    assert request.headers["Accept"] == "application/json"
    return parse_qs((request.body or b"").decode())


# Google ---------------------------------------------------------------------------------------------------------------

CALENDAR = "https://www.googleapis.com/auth/calendar.readonly"
GOOGLE_ANSWER = {
    "access_token": "1/fFAGRNJru1FTz70BzhT3Zg",
    "expires_in": 3920,
    "token_type": "Bearer",
    "scope": f"openid https://www.googleapis.com/auth/userinfo.email {CALENDAR}",
    "refresh_token": "1//xEoDL4iW3cxlI7yDbSRFYNG01kVKM2C-259HOF2aQbI",
    "refresh_token_expires_in": 604799,
    "id_token": "header.payload.signature",
}


def test_google_is_always_asked_for_offline_access_and_consent_with_pkce() -> None:
    query = _url(_resolve("google"), "openid", "email", hd="example.com", login_hint="u@example.com")
    assert (query["access_type"], query["prompt"]) == ("offline", "consent")
    assert query["code_challenge_method"] == "S256"
    assert (query["hd"], query["login_hint"]) == ("example.com", "u@example.com")


def test_google_renames_email_and_its_granted_scopes_may_be_fewer() -> None:
    tokens = _tokens(_resolve("google"), GOOGLE_ANSWER, "openid", "email", CALENDAR, "profile")
    assert tokens.scopes == frozenset({"openid", "email", CALENDAR})
    assert tokens.declined_scopes == frozenset({"profile"})
    assert tokens.expires_at == NOW + timedelta(seconds=3920)
    assert tokens.refresh_expires_at == NOW + timedelta(seconds=604799)


def test_google_keeps_its_refresh_token_and_sends_none_on_refresh() -> None:
    google = _resolve("google")
    first = _tokens(google, GOOGLE_ANSWER, "email")
    body = {"access_token": "new", "expires_in": 3599, "token_type": "Bearer", "scope": GOOGLE_ANSWER["scope"]}
    second = _tokens(google, body, "email", previous=first)
    assert second.refresh_token == first.refresh_token
    assert second.refresh_expires_at == first.refresh_expires_at


def test_google_has_an_id_token_posts_its_secret_and_takes_no_resource() -> None:
    google = _resolve("google")
    result = process_token_response(answer(GOOGLE_ANSWER), google.dialect, requested_scopes=frozenset(), now=NOW)
    assert result.id_token == Secret("header.payload.signature")
    assert _form(google, "google")["client_secret"] == ["s3cret"]
    with pytest.raises(InvalidTarget):
        refresh_request(
            _server(google), _client("google"), google.dialect, refresh_token=Secret("r"), resource="https://api.example.com"
        )


def test_google_calls_a_token_that_is_gone_invalid_and_that_is_revoked() -> None:
    google = _resolve("google")
    request = revocation_request(
        _server(google), _client("google"), google.dialect, token=Secret("t"), token_type_hint="refresh_token"
    )
    assert request is not None
    assert request.url == "https://oauth2.googleapis.com/revoke"
    gone = {"error": "invalid_token", "error_description": "Token expired or revoked"}
    process_revocation_response(answer(gone, 400), google.dialect)


# Microsoft Entra ID ---------------------------------------------------------------------------------------------------

ENTRA_ANSWER = {
    "token_type": "Bearer",
    "scope": "User.Read profile openid email",
    "expires_in": 3599,
    "ext_expires_in": 3599,
    "access_token": "eyJ0eXAi.made.up",
    "refresh_token": "AwABAAAAvPM1KaPlrEqdFSBzjqfTGAMxZGUTdM0t4B4",
    "id_token": "header.payload.signature",
}


def test_entra_is_asked_at_the_tenant_for_offline_access_and_never_reports_it() -> None:
    entra = _resolve("microsoft", tenant=TENANT)
    assert entra.endpoints.issuer == f"https://login.microsoftonline.com/{TENANT}/v2.0"
    assert _url(entra, "User.Read")["scope"] == "User.Read offline_access"
    tokens = _tokens(entra, ENTRA_ANSWER, "User.Read", "offline_access")
    assert tokens.scopes == frozenset({"User.Read", "profile", "openid", "email", "offline_access"})
    assert tokens.declined_scopes == frozenset()


def test_entra_rotates_its_refresh_token_and_narrows_by_scope() -> None:
    entra = _resolve("microsoft", tenant=TENANT)
    first = _tokens(entra, ENTRA_ANSWER, "User.Read")
    second = _tokens(entra, {**ENTRA_ANSWER, "refresh_token": "new"}, "User.Read", previous=first)
    assert second.refresh_token == Secret("new")
    request = refresh_request(
        _server(entra), _client("microsoft"), entra.dialect, refresh_token=Secret("r"), scopes=frozenset({"User.Read"})
    )
    assert parse_qs((request.body or b"").decode())["scope"] == ["User.Read"]


def test_entra_m2m_asks_for_the_default_scope_and_the_answer_names_none() -> None:
    entra = _resolve("microsoft", tenant=TENANT)
    scope = "https://graph.microsoft.com/.default"
    request = client_credentials_request(_server(entra), _client("microsoft"), entra.dialect, scopes=frozenset({scope}))
    assert parse_qs((request.body or b"").decode())["scope"] == [scope]
    tokens = _tokens(entra, {"token_type": "Bearer", "expires_in": 3599, "access_token": "eyJ.made.up"}, scope)
    assert tokens.scopes == frozenset({scope})


def test_entra_has_no_revocation_and_its_loopback_is_localhost() -> None:
    entra = _resolve("microsoft", tenant=TENANT)
    request = revocation_request(
        _server(entra), _client("microsoft"), entra.dialect, token=Secret("t"), token_type_hint="refresh_token"
    )
    assert request is None
    assert entra.dialect.loopback_host == "localhost"


@pytest.mark.parametrize("tenant", ["common", "organizations"])
def test_entra_for_every_directory_has_no_one_issuer_to_verify(tenant: str) -> None:
    entra = _resolve("microsoft", tenant=tenant)
    assert (entra.endpoints.issuer, entra.dialect.id_token) == ("", False)
    assert f"/{tenant}/oauth2/v2.0/token" in entra.endpoints.token


def test_entra_for_personal_accounts_has_its_own_issuer() -> None:
    consumers = _resolve("microsoft", tenant="consumers")
    assert consumers.endpoints.issuer == "https://login.microsoftonline.com/9188040d-6c67-4c5b-b112-36a304b66dad/v2.0"


def test_entras_refusal_keeps_its_code() -> None:
    body = {"error": "invalid_grant", "error_description": "AADSTS70000: made up", "error_codes": [70000], "trace_id": "x"}
    with pytest.raises(UpstreamRejected) as failure:
        process_token_response(
            answer(body, 400), _resolve("microsoft", tenant=TENANT).dialect, requested_scopes=frozenset(), now=NOW
        )
    assert failure.value.error == "invalid_grant"


# Slack ----------------------------------------------------------------------------------------------------------------

SLACK_ANSWER: dict[str, Any] = {
    "ok": True,
    "access_token": "xoxb-17653672481-19874698323-made-up",
    "token_type": "bot",
    "scope": "commands,incoming-webhook",
    "bot_user_id": "U0KRQLJ9H",
    "app_id": "A0KRD7HC3",
    "team": {"name": "Slack Softball Team", "id": "T9TK3CUKW"},
    "enterprise": None,
    "authed_user": {"id": "U1234", "scope": "chat:write", "access_token": "xoxp-1234", "token_type": "user"},
}


def test_slack_bot_tokens_are_at_the_top_with_commas_and_no_end() -> None:
    slack = _resolve("slack")
    query = _url(slack, "commands", "incoming-webhook", team="T9TK3CUKW")
    assert query["scope"] == "commands,incoming-webhook"
    assert "code_challenge" not in query
    tokens = _tokens(slack, SLACK_ANSWER, "commands", "incoming-webhook")
    assert tokens.access_token.reveal().startswith("xoxb-")
    assert tokens.scopes == frozenset({"commands", "incoming-webhook"})
    assert (tokens.expires_at, tokens.expiry_reported, tokens.is_long_lived) == (None, True, True)
    assert tokens.account_id == "T9TK3CUKW"
    assert tokens.extra == {"team.id": "T9TK3CUKW", "bot_user_id": "U0KRQLJ9H"}


def test_slack_user_tokens_are_asked_for_and_answered_elsewhere() -> None:
    slack = _resolve("slack", token="user")
    query = _url(slack, "chat:write")
    assert query["user_scope"] == "chat:write"
    assert "scope" not in query
    tokens = _tokens(slack, SLACK_ANSWER, "chat:write")
    assert (tokens.access_token.reveal(), tokens.token_type, tokens.account_id) == ("xoxp-1234", "user", "U1234")
    assert tokens.scopes == frozenset({"chat:write"})


def test_a_slack_install_for_the_user_alone_has_no_bot_token() -> None:
    body = {name: SLACK_ANSWER[name] for name in ("ok", "app_id", "team", "enterprise", "authed_user")}
    assert _tokens(_resolve("slack", token="user"), body).access_token == Secret("xoxp-1234")
    with pytest.raises(UpstreamBadResponse):
        _tokens(_resolve("slack"), body)
    with pytest.raises(UpstreamBadResponse):
        _tokens(_resolve("slack", token="user"), {**body, "authed_user": {"id": "U1234"}})


def test_slack_says_no_with_http_200() -> None:
    for slack in (_resolve("slack"), _resolve("slack", token="user")):
        with pytest.raises(UpstreamRejected) as failure:
            _tokens(slack, {"ok": False, "error": "invalid_code"})
        assert failure.value.error == "invalid_code"


def test_slack_rotation_gives_an_end_and_a_refreshed_user_token_is_at_the_top() -> None:
    slack = _resolve("slack", token="user")
    user = {**SLACK_ANSWER["authed_user"], "access_token": "xoxe.xoxp-1", "refresh_token": "xoxe-1", "expires_in": 43200}
    first = _tokens(slack, {**SLACK_ANSWER, "authed_user": user}, "chat:write")
    assert first.expires_at == NOW + timedelta(hours=12)
    body = {
        "ok": True, "access_token": "xoxe.xoxp-2", "refresh_token": "xoxe-2", "expires_in": 43200, "token_type": "user",
        "scope": "chat:write", "team": {"id": "T9TK3CUKW"},
    }  # fmt: skip
    second = _tokens(slack, body, "chat:write", previous=first)
    assert (second.access_token, second.refresh_token) == (Secret("xoxe.xoxp-2"), Secret("xoxe-2"))
    assert second.account_id == "U1234"


@pytest.mark.parametrize(("token", "loopback"), [("bot", False), ("user", True)])
def test_slack_takes_pkce_and_loopback_only_from_apps_that_opted_in(token: str, *, loopback: bool) -> None:
    assert not _resolve("slack", token=token).dialect.loopback_allowed
    slack = _resolve("slack", token=token, pkce="on")
    assert slack.dialect.pkce
    assert (slack.dialect.loopback_allowed, slack.dialect.loopback_host) == (loopback, "localhost")


def test_slack_revokes_what_is_presented() -> None:
    slack = _resolve("slack")
    request = revocation_request(
        _server(slack), _client("slack"), slack.dialect, token=Secret("xoxb-1"), token_type_hint="access_token"
    )
    assert request is not None
    assert (request.method, request.url) == ("GET", "https://slack.com/api/auth.revoke")
    assert request.headers["Authorization"] == "Bearer xoxb-1"
    process_revocation_response(answer({"ok": True, "revoked": True}), slack.dialect)
    with pytest.raises(UpstreamRejected):
        process_revocation_response(answer({"ok": False, "error": "invalid_auth"}), slack.dialect)


# GitHub ---------------------------------------------------------------------------------------------------------------


def test_a_github_oauth_apps_token_has_no_end_and_no_refresh_token() -> None:
    github = _resolve("github")
    body = {"access_token": "gho_16C7e42F292c6912E7710c838347Ae178B4a", "scope": "repo,gist", "token_type": "bearer"}
    tokens = _tokens(github, body, "repo", "gist")
    assert tokens.scopes == frozenset({"repo", "gist"})
    assert (tokens.expires_at, tokens.expiry_reported, tokens.refresh_token) == (None, True, None)


def test_github_normalises_scopes_that_another_one_includes() -> None:
    body = {"access_token": "gho_x", "scope": "user", "token_type": "bearer"}
    assert _tokens(_resolve("github"), body, "user", "user:email").declined_scopes == frozenset()


def test_a_github_apps_token_lasts_eight_hours_and_rotates_with_its_refresh_token() -> None:
    github = _resolve("github", app="github-app")
    body = {
        "access_token": "ghu_16C7e42F292c6912E7710c838347Ae178B4a", "expires_in": 28800, "refresh_token": "ghr_1",
        "refresh_token_expires_in": 15811200, "scope": "", "token_type": "bearer",
    }  # fmt: skip
    first = _tokens(github, body)
    assert first.expires_at == NOW + timedelta(hours=8)
    assert first.refresh_expires_at == NOW + timedelta(seconds=15811200)
    assert first.scopes == frozenset()
    second = _tokens(github, {**body, "expires_in": "28800", "refresh_token": "ghr_2"}, previous=first)
    assert (second.expires_at, second.refresh_token) == (first.expires_at, Secret("ghr_2"))


def test_a_github_apps_token_without_a_reported_end_is_not_taken_for_endless() -> None:
    tokens = _tokens(_resolve("github", app="github-app"), {"access_token": "ghu_x", "scope": "", "token_type": "bearer"})
    assert not tokens.expiry_reported


@pytest.mark.parametrize("error", ["bad_verification_code", "incorrect_client_credentials", "bad_refresh_token"])
def test_github_says_no_with_http_200(error: str) -> None:
    body = {"error": error, "error_description": "made up", "error_uri": "https://docs.github.com/x"}
    with pytest.raises(UpstreamRejected) as failure:
        _tokens(_resolve("github"), body)
    assert failure.value.error == error


def test_github_is_asked_for_json_by_post_and_with_pkce() -> None:
    github = _resolve("github")
    assert _form(github, "github")["client_secret"] == ["s3cret"]
    assert _url(github, "repo", login="octocat")["code_challenge_method"] == "S256"
    request = authorization_code_request(
        _server(github),
        _client("github"),
        github.dialect,
        code=Secret("c"),
        redirect_uri="https://broker.example/cb",
        code_verifier=Secret("v" * 43),
    )
    assert request.headers["Accept"] == "application/json"


def test_github_deletes_a_token_with_the_clients_own_password() -> None:
    github = _resolve("github")
    request = revocation_request(
        _server(github), _client("github"), github.dialect, token=Secret("gho_x"), token_type_hint="access_token"
    )
    assert request is not None
    assert (request.method, request.url) == ("DELETE", "https://api.github.com/applications/app/token")
    assert b64decode(request.headers["Authorization"][6:]) == b"app:s3cret"
    assert request.body == b'{"access_token": "gho_x"}'
    process_revocation_response(answer(b"", 204), github.dialect)


# Salesforce -----------------------------------------------------------------------------------------------------------

SALESFORCE_ANSWER = {
    "access_token": "00Dxx0000001gPL!AR8AQMade.Up",
    "refresh_token": "5Aep861TSESvWeug_xvFHRBTTbf_YrTWgEyjBJrfv_made_up",
    "signature": "CMJ4l+CCaPQiKjoOEwEig9H4wqhpuLSk4J2urAe+fVg=",
    "scope": "refresh_token api",
    "instance_url": "https://acme.my.salesforce.com",
    "id": "https://login.salesforce.com/id/00Dxx0000001gPLEAY/005xx000001SwiUAAS",
    "token_type": "Bearer",
    "issued_at": "1558553873237",
}


def test_salesforce_is_asked_for_a_refresh_token_and_says_no_lifetime() -> None:
    salesforce = _resolve("salesforce", domain="acme.my.salesforce.com")
    assert _url(salesforce, "api")["scope"] == "api refresh_token"
    tokens = _tokens(salesforce, SALESFORCE_ANSWER, "api")
    assert tokens.scopes == frozenset({"api"})
    assert (tokens.expires_at, tokens.expiry_reported) == (None, False)
    assert not tokens.is_fresh(NOW + timedelta(minutes=10))
    assert tokens.account_id == SALESFORCE_ANSWER["id"]
    assert tokens.extra["instance_url"] == "https://acme.my.salesforce.com"


def test_salesforce_keeps_its_refresh_token_unless_rotation_is_on() -> None:
    salesforce = _resolve("salesforce")
    first = _tokens(salesforce, SALESFORCE_ANSWER, "api")
    body = {name: value for name, value in SALESFORCE_ANSWER.items() if name != "refresh_token"}
    assert _tokens(salesforce, body, "api", previous=first).refresh_token == first.refresh_token
    rotated = _tokens(salesforce, {**body, "refresh_token": "new"}, "api", previous=first)
    assert rotated.refresh_token == Secret("new")


def test_salesforce_revokes_by_rfc_7009_at_the_orgs_host() -> None:
    salesforce = _resolve("salesforce", domain="acme.my.salesforce.com")
    request = revocation_request(
        _server(salesforce), _client("salesforce"), salesforce.dialect, token=Secret("t"), token_type_hint="refresh_token"
    )
    assert request is not None
    assert request.url == "https://acme.my.salesforce.com/services/oauth2/revoke"
    assert parse_qs((request.body or b"").decode())["token"] == ["t"]
