"""What Authlib's own client gets wrong for a broker, held against our code: one test for each observed defect."""

from __future__ import annotations

import json
from base64 import b64decode
from datetime import timedelta
from typing import Any
from urllib.parse import parse_qs, parse_qsl, unquote_plus, urlsplit

import pytest

from mcp_identity.domain.credentials import Secret, TokenSet
from mcp_identity.domain.errors import (
    ConsentDenied,
    ConsentMismatch,
    IdentityError,
    UpstreamBadResponse,
    UpstreamRejected,
    UpstreamUnavailable,
    UrlRefused,
)
from mcp_identity.domain.http import HttpRequest
from mcp_identity.domain.provider import AuthorizationServer, ClientAuthentication, Dialect, OAuthClient
from mcp_identity.oauth.authorization import authorization_url, process_authorization_response
from mcp_identity.oauth.discovery import process_discovery_response
from mcp_identity.oauth.token import (
    authorization_code_request,
    client_credentials_request,
    process_token_response,
    refresh_request,
)
from tests.oauth.answers import NOW, TOKEN, answer

SERVER = AuthorizationServer(
    issuer="https://idp.example.com",
    authorization_url="https://idp.example.com/authorize",
    token_url="https://idp.example.com/token",
)
CLIENT = OAuthClient("app", ClientAuthentication.BASIC, Secret("s3cret"))
RESOURCE = "https://api.example.com/mcp"
VERIFIER = Secret("v" * 43)


def _form(request: HttpRequest) -> dict[str, list[str]]:
    return parse_qs((request.body or b"").decode("ascii"), keep_blank_values=True)


def _tokens(body: Any, status: int = 200, dialect: Dialect | None = None) -> TokenSet:
    return process_token_response(
        answer(body, status), dialect or Dialect(), requested_scopes=frozenset({"read"}), now=NOW
    ).tokens


def _authorization(server: AuthorizationServer = SERVER, dialect: Dialect | None = None, resource: str = "") -> str:
    return authorization_url(
        server,
        "app",
        dialect or Dialect(),
        redirect_uri="https://broker.example/cb",
        scopes=frozenset(),
        state="st4te",
        code_verifier=VERIFIER,
        resource=resource,
    )


def test_pkce_needs_no_second_switch() -> None:
    query = dict(parse_qsl(urlsplit(_authorization()).query))
    assert query["code_challenge_method"] == "S256"
    assert len(query["code_challenge"]) == 43


def test_a_state_goes_into_every_request_and_only_one_may_come_back() -> None:
    assert dict(parse_qsl(urlsplit(_authorization()).query))["state"] == "st4te"
    with pytest.raises(UpstreamBadResponse):
        process_authorization_response([("code", "a"), ("state", "st4te"), ("state", "other")], server=SERVER)


@pytest.mark.parametrize(
    ("callback", "expected"),
    [
        ("error=access_denied&state=st4te", ConsentDenied),
        ("error=server_error&state=st4te", UpstreamRejected),
        ("state=st4te", UpstreamBadResponse),
        ("", UpstreamBadResponse),
        ("code=&state=st4te", UpstreamBadResponse),
    ],
)
def test_a_callback_without_a_code_never_becomes_a_client_credentials_token(
    callback: str, expected: type[IdentityError]
) -> None:
    with pytest.raises(expected):
        process_authorization_response(parse_qsl(callback, keep_blank_values=True), server=SERVER)


def test_a_forged_issuer_is_refused_before_its_error_is_believed() -> None:
    for parameters in ([("code", "c"), ("iss", "https://evil.example")], [("error", "x"), ("iss", "https://evil.example")]):
        with pytest.raises(ConsentMismatch):
            process_authorization_response(parameters, server=SERVER)


def test_the_resource_is_kept_in_the_code_exchange_the_refresh_and_client_credentials() -> None:
    dialect = Dialect()
    requests = [
        authorization_code_request(
            SERVER, CLIENT, dialect, code=Secret("c"), redirect_uri="https://b/cb", code_verifier=VERIFIER, resource=RESOURCE
        ),
        refresh_request(SERVER, CLIENT, dialect, refresh_token=Secret("r"), resource=RESOURCE),
        client_credentials_request(SERVER, CLIENT, dialect, scopes=frozenset(), resource=RESOURCE),
    ]
    assert [_form(request)["resource"] for request in requests] == [[RESOURCE]] * 3
    assert parse_qs(urlsplit(_authorization(resource=RESOURCE)).query)["resource"] == [RESOURCE]


def test_renewed_client_credentials_are_asked_for_exactly_as_the_first_ones() -> None:
    dialect = Dialect(audience_parameter="audience")
    first, second = (
        client_credentials_request(SERVER, CLIENT, dialect, scopes=frozenset({"b", "a"}), resource=RESOURCE, audience="x")
        for _ in range(2)
    )
    assert first == second


def test_metadata_of_another_issuer_is_refused() -> None:
    document = {"issuer": "https://evil.example", "token_endpoint": "https://evil.example/token"}
    with pytest.raises(UpstreamBadResponse):
        process_discovery_response(answer(document), issuer="https://idp.example.com")


def test_an_error_at_http_200_is_an_error() -> None:
    with pytest.raises(UpstreamRejected) as failure:
        _tokens({"error": "bad_verification_code", "error_description": "The code passed is incorrect or expired."})
    assert failure.value.error == "bad_verification_code"


def test_a_form_encoded_answer_breaks_nothing() -> None:
    response = answer(b"access_token=gho_x&scope=repo&token_type=bearer", 200, "application/x-www-form-urlencoded")
    with pytest.raises(UpstreamBadResponse):
        process_token_response(response, Dialect(), requested_scopes=frozenset(), now=NOW)
    dialect = Dialect(form_encoded_answers=True)
    result = process_token_response(response, dialect, requested_scopes=frozenset(), now=NOW)
    assert result.tokens.access_token.reveal() == "gho_x"


def test_an_answer_whose_token_lies_elsewhere_is_not_a_token_without_an_access_token() -> None:
    body = {"ok": True, "authed_user": {"id": "U1", "access_token": "xoxp", "token_type": "user"}}
    with pytest.raises(UpstreamBadResponse):
        _tokens(body)


@pytest.mark.parametrize("text", ["100%", "a+b", "a:b", "p%2Bw", "sécret-π", "日本語"])
def test_basic_authentication_is_form_encoded_first(text: str) -> None:
    client = OAuthClient(text, ClientAuthentication.BASIC, Secret(text))
    request = refresh_request(SERVER, client, Dialect(), refresh_token=Secret("r"))
    client_id, _, secret = b64decode(request.headers["Authorization"][6:]).decode("ascii").partition(":")
    assert (unquote_plus(client_id), unquote_plus(secret)) == (text, text)
    posted = refresh_request(
        SERVER, OAuthClient(text, ClientAuthentication.POST, Secret(text)), Dialect(), refresh_token=Secret("r")
    )
    assert (_form(posted)["client_id"], _form(posted)["client_secret"]) == ([text], [text])


@pytest.mark.parametrize("body", [{"message": "bad"}, {"status": "BAD_REFRESH_TOKEN"}, TOKEN, {}])
@pytest.mark.parametrize("status", [400, 401, 403, 422])
def test_a_refusal_without_an_error_code_is_no_token(body: Any, status: int) -> None:
    with pytest.raises(UpstreamBadResponse):
        _tokens(body, status)


def test_an_error_object_is_a_refusal_with_a_text_for_its_code() -> None:
    with pytest.raises(UpstreamRejected) as failure:
        _tokens({"error": {"code": 400, "message": "x"}}, 400)
    assert (failure.value.error, failure.value.description) == ("400", "x")


@pytest.mark.parametrize(
    ("status", "expected"), [(429, UpstreamUnavailable), (503, UpstreamUnavailable), (307, UpstreamBadResponse)]
)
def test_server_trouble_keeps_its_retry_after_and_a_redirect_is_not_followed(
    status: int, expected: type[IdentityError]
) -> None:
    response = answer(b"slow", status, "text/plain", retry_after="7", location="https://evil.example/")
    with pytest.raises(expected) as failure:
        process_token_response(response, Dialect(), requested_scopes=frozenset(), now=NOW)
    assert failure.value.retry_after_seconds == (7 if expected is UpstreamUnavailable else None)


@pytest.mark.parametrize("body", [{"expires_in": 0}, {"expires_in": "0"}])
def test_a_lifetime_of_nought_is_not_for_ever(body: dict[str, Any]) -> None:
    tokens = _tokens({**TOKEN, **body})
    assert tokens.expires_at == NOW
    assert not tokens.is_alive(NOW)


def test_a_missing_lifetime_and_an_expires_at_of_any_kind_are_unknown_not_for_ever() -> None:
    bare = {"access_token": "at", "token_type": "bearer"}
    for more in ({}, {"expires_at": "2027-01-01T00:00:00Z"}, {"expires_at": 1795348800000}):
        tokens = _tokens({**bare, **more})
        assert not tokens.expiry_reported
        assert not tokens.is_alive(NOW + timedelta(hours=1))


@pytest.mark.parametrize("value", ["soon", -1, True, 1795348800000])
def test_a_junk_lifetime_is_a_bad_answer_not_a_crash(value: Any) -> None:
    with pytest.raises(UpstreamBadResponse):
        _tokens({**TOKEN, "expires_in": value})


@pytest.mark.parametrize(
    "body", [[1], {"data": TOKEN}, {"token_type": "bearer"}, {"access_token": "at"}, {**TOKEN, "token_type": "mac"}]
)
def test_half_an_answer_is_no_token(body: Any) -> None:
    with pytest.raises(UpstreamBadResponse):
        _tokens(body)


def test_fewer_scopes_than_asked_are_what_was_granted() -> None:
    tokens = process_token_response(
        answer({**TOKEN, "scope": "read"}), Dialect(), requested_scopes=frozenset({"read", "write"}), now=NOW
    ).tokens
    assert tokens.scopes == frozenset({"read"})
    assert tokens.declined_scopes == frozenset({"write"})


def test_an_http_authorization_endpoint_is_refused() -> None:
    with pytest.raises(UrlRefused):
        _authorization(AuthorizationServer(authorization_url="http://idp.example.com/authorize"))


def test_nothing_prints_a_secret() -> None:
    tokens = _tokens({**TOKEN, "access_token": "AT-secret", "refresh_token": "RT-secret"})
    request = refresh_request(SERVER, CLIENT, Dialect(), refresh_token=Secret("RT-secret"))
    shown = f"{tokens} {tokens!r} {request} {request!r} {CLIENT!r} {answer(json.dumps(TOKEN).encode())!r}"
    for secret in ("AT-secret", "RT-secret", "s3cret", "at-made-up"):
        assert secret not in shown
