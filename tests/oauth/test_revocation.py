"""Giving a token back: each vendor's way, and what its answer means."""

from __future__ import annotations

import json
from base64 import b64decode
from typing import Any
from urllib.parse import parse_qsl

import pytest

from mcp_identity.domain.credentials import Secret
from mcp_identity.domain.errors import IdentityError
from mcp_identity.domain.http import HttpRequest
from mcp_identity.domain.provider import AuthorizationServer, ClientAuthentication, Dialect, OAuthClient
from mcp_identity.oauth.revocation import process_revocation_response, revocation_request
from tests.oauth.answers import answer

SERVER = AuthorizationServer(revocation_url="https://idp.example.com/revoke")
CLIENT = OAuthClient("app/1", ClientAuthentication.POST, Secret("cl13nt"))


def _request(dialect: Dialect, server: AuthorizationServer = SERVER) -> HttpRequest | None:
    return revocation_request(server, CLIENT, dialect, token=Secret("t0ken"), token_type_hint="refresh_token")


def test_rfc_7009_posts_the_token_with_its_hint_and_the_clients_authentication() -> None:
    request = _request(Dialect())
    assert request is not None
    assert request.body is not None
    assert (request.method, request.url) == ("POST", "https://idp.example.com/revoke")
    assert parse_qsl(request.body.decode()) == [
        ("token", "t0ken"),
        ("token_type_hint", "refresh_token"),
        ("client_id", "app/1"),
        ("client_secret", "cl13nt"),
    ]


def test_delete_basic_deletes_the_token_below_the_clients_own_path() -> None:
    request = _request(Dialect(revocation_style="delete-basic"))
    assert request is not None
    assert request.body is not None
    assert (request.method, request.url) == ("DELETE", "https://idp.example.com/revoke/app%2F1/token")
    assert json.loads(request.body) == {"access_token": "t0ken"}
    assert b64decode(request.headers["Authorization"][6:]) == b"app%2F1:cl13nt"


def test_bearer_get_presents_the_token_itself_and_never_in_the_url() -> None:
    request = _request(Dialect(revocation_style="bearer-get"))
    assert request is not None
    assert (request.method, request.url, request.body) == ("GET", "https://idp.example.com/revoke", None)
    assert request.headers["Authorization"] == "Bearer t0ken"


def test_a_vendor_without_revocation_gets_no_request() -> None:
    assert _request(Dialect(revocation_style="none")) is None
    assert _request(Dialect(), AuthorizationServer()) is None


@pytest.mark.parametrize(
    ("status", "body", "dialect"),
    [
        (200, b"", Dialect()),
        (200, {"anything": 1}, Dialect()),
        (204, b"", Dialect()),
        (400, {"error": "invalid_token"}, Dialect()),
        (200, {"ok": True, "revoked": True}, Dialect(success_field="ok")),
    ],
)
def test_a_token_that_is_gone_is_revoked(status: int, body: Any, dialect: Dialect) -> None:
    process_revocation_response(answer(body, status), dialect)


@pytest.mark.parametrize(
    ("status", "body", "dialect", "code"),
    [
        (400, {"error": "unsupported_token_type"}, Dialect(), "upstream_rejected"),
        (401, {"error": "invalid_client"}, Dialect(), "upstream_rejected"),
        (404, b"", Dialect(), "upstream_bad_response"),
        (302, b"", Dialect(), "upstream_bad_response"),
        (202, b"", Dialect(), "upstream_bad_response"),
        (429, b"", Dialect(), "upstream_unavailable"),
        (503, b"", Dialect(), "upstream_unavailable"),
        (200, {"ok": False, "error": "invalid_auth"}, Dialect(success_field="ok"), "upstream_rejected"),
        (200, {"ok": "true"}, Dialect(success_field="ok"), "upstream_rejected"),
        (200, b"<html>", Dialect(success_field="ok"), "upstream_bad_response"),
    ],
)
def test_anything_else_leaves_the_token_alive(status: int, body: Any, dialect: Dialect, code: str) -> None:
    with pytest.raises(IdentityError) as failure:
        process_revocation_response(answer(body, status), dialect)
    assert failure.value.code == code
