"""Discovery: an issuer speaks for itself, under exactly its own name, or not at all."""

from __future__ import annotations

from typing import Any

import pytest

from mcp_identity.domain.errors import IdentityError, UrlRefused
from mcp_identity.domain.http import HttpResponse
from mcp_identity.domain.provider import AuthorizationServer, ClientAuthentication
from mcp_identity.oauth.discovery import (
    MAXIMUM_METADATA_BYTES,
    discovery_request,
    discovery_urls,
    process_discovery_response,
)
from tests.oauth.answers import answer

ISSUER = "https://idp.example.com/acme"
METADATA: dict[str, Any] = {
    "issuer": ISSUER,
    "authorization_endpoint": f"{ISSUER}/authorize",
    "token_endpoint": f"{ISSUER}/token",
    "revocation_endpoint": f"{ISSUER}/revoke",
    "jwks_uri": f"{ISSUER}/jwks.json",
    "scopes_supported": ["openid", "read"],
    "grant_types_supported": ["authorization_code", "client_credentials"],
    "token_endpoint_auth_methods_supported": ["private_key_jwt", "client_secret_post", "none"],
    "code_challenge_methods_supported": ["plain", "S256"],
    "authorization_response_iss_parameter_supported": True,
    "unknown": {"is": "ignored"},
}


@pytest.mark.parametrize(
    ("issuer", "urls"),
    [
        (
            "https://idp.example.com",
            (
                "https://idp.example.com/.well-known/oauth-authorization-server",
                "https://idp.example.com/.well-known/openid-configuration",
            ),
        ),
        (
            "https://idp.example.com:8443/acme/",
            (
                "https://idp.example.com:8443/.well-known/oauth-authorization-server/acme",
                "https://idp.example.com:8443/.well-known/openid-configuration/acme",
                "https://idp.example.com:8443/acme/.well-known/openid-configuration",
            ),
        ),
    ],
)
def test_metadata_is_looked_for_inserted_and_appended(issuer: str, urls: tuple[str, ...]) -> None:
    assert discovery_urls(issuer) == urls


@pytest.mark.parametrize(
    "url",
    [
        f"{ISSUER}/.well-known/openid-configuration",
        f"{ISSUER}/.well-known/oauth-authorization-server",
        "https://idp.example.com/.well-known/openid-configuration/acme",
        "https://idp.example.com/.well-known/oauth-authorization-server/acme",
    ],
)
def test_an_issuer_is_told_by_the_address_of_its_metadata(url: str) -> None:
    assert process_discovery_response(answer(METADATA), issuer="", url=url).server.issuer == ISSUER
    assert process_discovery_response(answer({**METADATA, "issuer": f"{ISSUER}/"}), issuer="", url=url).server.issuer[-1] == "/"


@pytest.mark.parametrize(
    ("url", "issuer"),
    [
        ("https://idp.example.com/.well-known/openid-configuration", ISSUER),
        ("https://idp.example.com/acme/other/.well-known/openid-configuration", ISSUER),
        ("https://evil.example.com/acme/.well-known/openid-configuration", ISSUER),
        ("http://idp.example.com/acme/.well-known/openid-configuration", ISSUER),
        (f"{ISSUER}/.well-known/openid-configuration", f"{ISSUER}?a=b"),
        (f"{ISSUER}/.well-known/openid-configuration", "acme"),
        (f"{ISSUER}/.well-known/openid-configuration", ""),
        (f"{ISSUER}/.well-known/openid-configuration", 7),
        (f"{ISSUER}/.well-known/openid-configuration", None),
    ],
)
def test_no_issuer_speaks_at_anothers_address(url: str, issuer: object) -> None:
    with pytest.raises(IdentityError) as caught:
        process_discovery_response(answer({**METADATA, "issuer": issuer}), issuer="", url=url)
    assert caught.value.code == "upstream_bad_response"


@pytest.mark.parametrize(
    "issuer",
    ["http://idp.example.com", "https://idp.example.com/?x=y", "https://idp.example.com?", "https://a@b/", "idp", "file:///x"],
)
def test_an_issuer_is_an_https_url_without_a_query(issuer: str) -> None:
    with pytest.raises(UrlRefused):
        discovery_urls(issuer)


def test_the_request_asks_for_json_and_bounds_the_answer() -> None:
    request = discovery_request("https://idp.example.com/.well-known/openid-configuration")
    assert request.method == "GET"
    assert request.maximum_bytes == MAXIMUM_METADATA_BYTES
    assert request.headers["Accept"] == "application/json"


def test_a_document_becomes_endpoints_and_what_is_offered() -> None:
    found = process_discovery_response(answer(METADATA), issuer=ISSUER)
    assert found.server == AuthorizationServer(
        issuer=ISSUER,
        authorization_url=f"{ISSUER}/authorize",
        token_url=f"{ISSUER}/token",
        revocation_url=f"{ISSUER}/revoke",
        jwks_url=f"{ISSUER}/jwks.json",
        requires_iss=True,
    )
    assert found.client_authentication == (
        ClientAuthentication.PRIVATE_KEY_JWT,
        ClientAuthentication.POST,
        ClientAuthentication.NONE,
    )
    assert found.scopes == ("openid", "read")
    assert found.grant_types == ("authorization_code", "client_credentials")


def test_what_a_document_leaves_out_is_as_the_rfc_defaults_it() -> None:
    document = {"issuer": "http://127.0.0.1:9", "token_endpoint": "http://127.0.0.1:9/token"}
    found = process_discovery_response(answer(document), issuer="http://127.0.0.1:9")
    assert found.server == AuthorizationServer(issuer="http://127.0.0.1:9", token_url="http://127.0.0.1:9/token")
    assert found.client_authentication == (ClientAuthentication.BASIC,)
    assert found.grant_types == ("authorization_code", "implicit")
    assert found.scopes == ()


def _changed(**changes: Any) -> HttpResponse:
    return answer({**METADATA, **changes})


HOSTILE: dict[str, tuple[HttpResponse, str]] = {
    "another issuer": (_changed(issuer="https://evil.example"), "upstream_bad_response"),
    "the issuer with a slash": (_changed(issuer=ISSUER + "/"), "upstream_bad_response"),
    "the issuer in capitals": (_changed(issuer=ISSUER.upper()), "upstream_bad_response"),
    "no issuer": (_changed(issuer=None), "upstream_bad_response"),
    "a list of issuers": (_changed(issuer=[ISSUER]), "upstream_bad_response"),
    "no token endpoint": (_changed(token_endpoint=None), "upstream_bad_response"),
    "a number as endpoint": (_changed(token_endpoint=1), "upstream_bad_response"),
    "an http endpoint": (_changed(token_endpoint="http://idp.example.com/token"), "url_refused"),
    "a script as endpoint": (_changed(authorization_endpoint="javascript:alert(1)"), "url_refused"),
    "a file as key set": (_changed(jwks_uri="file:///etc/passwd"), "url_refused"),
    "user information": (_changed(token_endpoint="https://idp.example.com@evil.example/"), "url_refused"),
    "a fragment": (_changed(token_endpoint=f"{ISSUER}/token#x"), "url_refused"),
    "a backslash": (_changed(token_endpoint="https://idp.example.com\\@evil.example"), "url_refused"),
    "an empty endpoint": (_changed(revocation_endpoint=""), "url_refused"),
    "plain PKCE alone": (_changed(code_challenge_methods_supported=["plain"]), "provider_misconfigured"),
    "an empty list of PKCE methods": (_changed(code_challenge_methods_supported=[]), "provider_misconfigured"),
    "PKCE methods as text": (_changed(code_challenge_methods_supported="S256"), "upstream_bad_response"),
    "scopes that are numbers": (_changed(scopes_supported=[1]), "upstream_bad_response"),
    "scopes without end": (_changed(scopes_supported=[f"s{n}" for n in range(1001)]), "upstream_bad_response"),
    "iss support in words": (_changed(authorization_response_iss_parameter_supported="yes"), "upstream_bad_response"),
    "HTML": (answer(b"<html>", content_type="text/html"), "upstream_bad_response"),
    "not there": (answer(b"", 404), "upstream_bad_response"),
    "a redirect": (answer(b"", 302, location="https://evil.example"), "upstream_bad_response"),
    "created": (answer(METADATA, 201), "upstream_bad_response"),
    "server trouble": (answer(b"", 503), "upstream_unavailable"),
    "a duplicate endpoint": (answer(b'{"issuer":"x","issuer":"y"}'), "upstream_bad_response"),
    "too much": (_changed(unknown="x" * MAXIMUM_METADATA_BYTES), "upstream_bad_response"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_document_is_refused(name: str) -> None:
    response, code = HOSTILE[name]
    with pytest.raises(IdentityError) as failure:
        process_discovery_response(response, issuer=ISSUER)
    assert failure.value.code == code
    assert "evil.example" not in failure.value.message
