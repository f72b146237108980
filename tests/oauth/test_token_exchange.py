"""The exchange of a user's own token: what goes to the token endpoint, and what is taken from its answer."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import parse_qsl

import pytest

from mcp_identity.domain.credentials import Secret, TokenSet
from mcp_identity.domain.errors import IdentityError
from mcp_identity.domain.http import HttpRequest, HttpResponse
from mcp_identity.domain.provider import AuthorizationServer, ClientAuthentication, Dialect, OAuthClient
from mcp_identity.oauth.on_behalf import (
    JWT_BEARER,
    TOKEN_EXCHANGE,
    check_exchange_parameters,
    exchange_request,
    process_exchange_response,
)

SERVER = AuthorizationServer(token_url="https://idp.example.com/token", refresh_url="https://idp.example.com/refresh")
CLIENT = OAuthClient("app", ClientAuthentication.POST, Secret("cl13nt"))
JWT_TYPE, ACCESS_TYPE = (f"urn:ietf:params:oauth:token-type:{name}" for name in ("jwt", "access_token"))
SUBJECT = Secret("eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJhbGljZSJ9.c2lnbmF0dXJlLW9mLXRoZS1zdWJqZWN0LXRva2Vu")
ACTOR = Secret("actor-token")
NOW = datetime(2026, 1, 1, 12, 0, tzinfo=UTC)
SOON = NOW + timedelta(minutes=5)
EXCHANGE, BEARER = Dialect(on_behalf_of="token-exchange"), Dialect(on_behalf_of="jwt-bearer")


def asked(dialect: Dialect, **given: Any) -> HttpRequest:
    options: dict[str, Any] = {"subject_token": SUBJECT, "scopes": frozenset({"b", "a"}), **given}
    return exchange_request(SERVER, CLIENT, dialect, **options)


def form(request: HttpRequest) -> list[tuple[str, str]]:
    return parse_qsl((request.body or b"").decode("ascii"), keep_blank_values=True, strict_parsing=True)


def read(
    answer: dict[str, Any], dialect: Dialect = EXCHANGE, *, sent: tuple[Secret, ...] = (SUBJECT,), status: int = 200
) -> TokenSet:
    given = {"access_token": "at", "token_type": "Bearer", "expires_in": 3600, "issued_token_type": ACCESS_TYPE, **answer}
    body = json.dumps({name: value for name, value in given.items() if value is not None}).encode()
    response = HttpResponse(status, {"content-type": "application/json"}, body)
    scopes = frozenset({"a"})
    return process_exchange_response(response, dialect, sent=sent, requested_scopes=scopes, now=NOW, serve_until=SOON)


def refused(code: str, *arguments: Any, **options: Any) -> None:
    with pytest.raises(IdentityError) as caught:
        read(*arguments, **options)
    assert caught.value.code == code, caught.value.message


def test_a_token_exchange_is_what_the_rfc_writes() -> None:
    """RFC 8693 §2.1."""
    request = asked(EXCHANGE)
    assert (request.method, request.url) == ("POST", SERVER.token_url)
    assert form(request) == [
        ("grant_type", TOKEN_EXCHANGE),
        ("subject_token", SUBJECT.reveal()),
        ("subject_token_type", JWT_TYPE),
        ("scope", "a b"),
        ("client_id", "app"),
        ("client_secret", "cl13nt"),
    ]


def test_an_actor_is_named_with_its_type_and_neither_comes_alone() -> None:
    assert {"actor_token": "actor-token", "actor_token_type": ACCESS_TYPE}.items() <= dict(
        form(asked(EXCHANGE, actor_token=ACTOR))
    ).items()
    assert not {"actor_token", "actor_token_type"} & dict(form(asked(EXCHANGE))).keys()


def test_the_jwt_bearer_grant_is_what_the_rfc_writes() -> None:
    """RFC 7523 §2.1, and what Entra wants beside it."""
    dialect = BEARER.model_copy(update={"on_behalf_of_parameters": {"requested_token_use": "on_behalf_of"}})
    assert form(asked(dialect)) == [
        ("grant_type", JWT_BEARER),
        ("assertion", SUBJECT.reveal()),
        ("scope", "a b"),
        ("requested_token_use", "on_behalf_of"),
        ("client_id", "app"),
        ("client_secret", "cl13nt"),
    ]


def test_resource_and_audience_go_along_where_the_server_takes_them() -> None:
    dialect = EXCHANGE.model_copy(update={"audience_parameter": "audience"})
    request = form(asked(dialect, resource="https://api.example.com", audience="api"))
    assert ("resource", "https://api.example.com") in request
    assert ("audience", "api") in request
    with pytest.raises(IdentityError) as caught:
        asked(EXCHANGE, audience="api")
    assert caught.value.code == "invalid_target"


@pytest.mark.parametrize("dialect", [EXCHANGE, BEARER])
def test_where_the_client_is_not_to_authenticate_nothing_names_it(dialect: Dialect) -> None:
    request = asked(dialect.model_copy(update={"on_behalf_of_client": False}))
    assert not {"client_id", "client_secret"} & dict(form(request)).keys()
    assert "Authorization" not in request.headers


def test_the_servers_that_exchange_nothing_are_asked_nothing() -> None:
    with pytest.raises(IdentityError) as caught:
        asked(Dialect())
    assert caught.value.code == "provider_misconfigured"


def test_an_agents_word_for_the_token_replaces_the_providers_own() -> None:
    dialect = EXCHANGE.model_copy(update={"on_behalf_of_agent_parameters": {"subject_token_type": f"{JWT_TYPE}|{ACCESS_TYPE}"}})
    chosen = check_exchange_parameters(dialect, [("subject_token_type", ACCESS_TYPE)])
    assert dict(form(asked(dialect, parameters=chosen)))["subject_token_type"] == ACCESS_TYPE
    assert check_exchange_parameters(dialect, [("subject_token_type", JWT_TYPE)]) == ()
    assert check_exchange_parameters(EXCHANGE, []) == ()


@pytest.mark.parametrize(
    "parameters",
    [
        [("subject_token_type", "urn:x")],
        [("subject_token_type", JWT_TYPE)] * 2,
        [("subject_token", "x")],
        [("grant_type", "refresh_token")],
        [("requested_token_use", "none")],
        [("anything", "x")],
        [("subject_token_type", JWT_TYPE + "x" * 600)],
    ],
)
def test_no_other_word_of_an_agents_gets_in(parameters: list[tuple[str, str]]) -> None:
    """Whatever the provider's data lists: a parameter that carries the protocol is never an agent's."""
    listed = {
        "subject_token_type": f"{JWT_TYPE}|{ACCESS_TYPE}",
        "subject_token": ".*",
        "grant_type": ".*",
        "requested_token_use": ".*",
    }
    fixed = {"requested_token_use": "on_behalf_of"}
    dialect = EXCHANGE.model_copy(update={"on_behalf_of_agent_parameters": listed, "on_behalf_of_parameters": fixed})
    with pytest.raises(IdentityError) as caught:
        check_exchange_parameters(dialect, parameters)
    assert caught.value.code == "invalid_request"


def test_of_the_answer_the_access_token_is_kept_and_no_longer_than_the_users_token_lives() -> None:
    tokens = read({"scope": "a b", "refresh_token": "rt", "refresh_token_expires_in": 9})
    assert (tokens.access_token, tokens.scopes) == (Secret("at"), {"a", "b"})
    assert (tokens.refresh_token, tokens.refresh_expires_at) == (None, None)
    assert (tokens.expires_at, tokens.serve_until) == (NOW + timedelta(hours=1), SOON)
    assert tokens.known_end == tokens.effective_expires_at == SOON
    short = read({"expires_in": 60})
    assert short.known_end == short.effective_expires_at == NOW + timedelta(minutes=1)
    unknown = read({"expires_in": None})
    assert (unknown.effective_expires_at, unknown.is_long_lived) == (SOON, True)


@pytest.mark.parametrize("kind", [None, "", "urn:ietf:params:oauth:token-type:id_token", 7])
def test_an_exchange_says_what_it_issued(kind: Any) -> None:
    """RFC 8693 §2.2.1."""
    refused("upstream_bad_response", {"issued_token_type": kind})
    assert read({"issued_token_type": kind if kind != 7 else None}, BEARER)


@pytest.mark.parametrize("token_type", ["N_A", None, "DPoP", "mac"])
def test_what_cannot_be_used_as_a_bearer_is_not_taken(token_type: Any) -> None:
    refused("upstream_bad_response", {"token_type": token_type})


@pytest.mark.parametrize("dialect", [EXCHANGE, BEARER])
@pytest.mark.parametrize(
    "answer",
    [
        {"access_token": SUBJECT.reveal()},
        {"access_token": SUBJECT.reveal().rpartition(".")[2]},
        {"scope": f"a {SUBJECT.reveal()}"},
        {"instance": SUBJECT.reveal()},
        {"access_token": "actor-token"},
    ],
)
def test_what_was_sent_is_no_answer(dialect: Dialect, answer: dict[str, str]) -> None:
    known = dialect.model_copy(update={"extra_fields": ("instance",)})
    refused("upstream_bad_response", answer, known, sent=(SUBJECT, ACTOR))


def test_an_error_is_an_error_at_every_status() -> None:
    for status in (200, 400, 401):
        refused("upstream_rejected", {"error": "invalid_grant"}, status=status)
    refused("upstream_unavailable", {}, status=503)
