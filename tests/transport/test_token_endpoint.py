"""A token endpoint over the wire: the pure pairs and the transport, together."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from mcp_identity.domain.credentials import Secret
from mcp_identity.domain.errors import IdentityError
from mcp_identity.domain.provider import AuthorizationServer, ClientAuthentication, Dialect, OAuthClient
from mcp_identity.oauth.token import TokenAnswer, process_token_response, refresh_request
from mcp_identity.transport import Transport
from tests.fakes.hostile_server import HostileServer, Script, hostile_server

CLIENT = OAuthClient("app", ClientAuthentication.BASIC, Secret("p%w+:s"))
NOW = datetime(2026, 11, 22, tzinfo=UTC)


async def _refresh(server: HostileServer) -> TokenAnswer:
    endpoints = AuthorizationServer(token_url=server.url)
    request = refresh_request(endpoints, CLIENT, Dialect(), refresh_token=Secret("r3fresh"))
    async with Transport(deadline_seconds=2) as transport:
        response = await transport.send(request, allow_http_loopback=True)
    return process_token_response(response, Dialect(), requested_scopes=frozenset(), now=NOW)


async def test_a_refresh_comes_back_as_a_token() -> None:
    async with hostile_server() as server:
        tokens = (await _refresh(server)).tokens
    assert tokens.access_token == Secret("at-made-up")
    assert b"grant_type=refresh_token&refresh_token=r3fresh" in server.requests[0]
    assert b"Content-Type: application/x-www-form-urlencoded" in server.requests[0]


@pytest.mark.parametrize(
    ("script", "code"),
    [
        (Script(status=307, headers=(("Location", "https://evil.example/"),)), "upstream_bad_response"),
        (Script(status=503, headers=(("Retry-After", "7"),)), "upstream_unavailable"),
        (Script(status=429), "upstream_unavailable"),
        (Script(status=400, body=b'{"error":"invalid_grant"}'), "upstream_rejected"),
        (Script(status=400, body=b'{"message":"bad"}'), "upstream_bad_response"),
        (Script(body=b"<html>", headers=(("Content-Type", "text/html"),)), "upstream_bad_response"),
        (Script(body=b""), "upstream_bad_response"),
        (Script(status=204, raw=b"HTTP/1.1 204 No Content\r\n\r\n"), "upstream_bad_response"),
        (Script(headers=(("Content-Encoding", "gzip"),)), "upstream_bad_response"),
    ],
)
async def test_anything_else_is_its_error(script: Script, code: str) -> None:
    async with hostile_server(script) as server:
        with pytest.raises(IdentityError) as failure:
            await _refresh(server)
    assert failure.value.code == code
