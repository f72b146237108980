"""Is an identity provider's metadata believed only where it stands at the address that its issuer says?"""

from __future__ import annotations

import json
from typing import Any

import pytest

from mcp_identity.domain.http import HttpResponse
from mcp_identity.oauth.issuer_metadata import IssuerMetadata, metadata_url, process_metadata_response
from mcp_identity.oauth.urls import is_below
from tests.broker.kit import raising

JWKS = "https://keys.example.com/jwks"
WELL_KNOWN = ".well-known/openid-configuration"


def read(issuer: Any, url: str, **more: Any) -> IssuerMetadata:
    body = json.dumps({"issuer": issuer, "jwks_uri": JWKS, **more}).encode()
    answer = HttpResponse(200, {"content-type": "application/json"}, body)
    return process_metadata_response(answer, url=url, allow_http_loopback=False)


@pytest.mark.parametrize(
    ("issuer", "url"),
    [
        ("https://a.example.com", f"https://a.example.com/{WELL_KNOWN}"),
        ("https://a.example.com/", f"https://a.example.com/{WELL_KNOWN}"),
        ("https://a.example.com/x/y", f"https://a.example.com/x/y/{WELL_KNOWN}"),
        ("https://a.example.com/x/", f"https://a.example.com/x/{WELL_KNOWN}"),
        ("https://a.example.com/x", "https://a.example.com/.well-known/oauth-authorization-server/x"),
        ("https://a.example.com/x", "https://a.example.com/x/.well-known/oauth-authorization-server"),
        ("https://a.example.com/x", f"https://a.example.com/{WELL_KNOWN}/x"),
        ("https://a.example.com:8443", f"https://a.example.com:8443/{WELL_KNOWN}"),
        ("https://a.example.com/{tenantid}/v2.0", f"https://a.example.com/organizations/v2.0/{WELL_KNOWN}"),
    ],
)
def test_an_issuers_metadata_stands_where_the_specifications_say(issuer: str, url: str) -> None:
    found = read(issuer, url)
    assert (found.issuer, found.jwks_url, found.is_template) == (issuer, JWKS, "{" in issuer)


@pytest.mark.parametrize(
    ("issuer", "url"),
    [
        ("https://b.example.com", f"https://a.example.com/{WELL_KNOWN}"),
        ("https://a.example.com", f"https://a.example.com/x/{WELL_KNOWN}"),
        ("https://a.example.com/x", f"https://a.example.com/{WELL_KNOWN}"),
        ("https://a.example.com//", f"https://a.example.com/{WELL_KNOWN}"),
        ("https://a.example.com", f"https://a.example.com/X/../{WELL_KNOWN}"),
        ("https://a.example.com/{tenantid}/v2.0", f"https://a.example.com/a/b/v2.0/{WELL_KNOWN}"),
        ("https://a.example.com/{tenantid}/v2.0", f"https://a.example.com/a/v1.0/{WELL_KNOWN}"),
        ("https://a.example.com/{a}/{b}", f"https://a.example.com/x/y/{WELL_KNOWN}"),
        ("https://{a}.example.com", f"https://a.example.com/{WELL_KNOWN}"),
        ("https://a.example.com/{}", f"https://a.example.com/x/{WELL_KNOWN}"),
        (".*", f"https://a.example.com/{WELL_KNOWN}"),
        (7, f"https://a.example.com/{WELL_KNOWN}"),
        (None, f"https://a.example.com/{WELL_KNOWN}"),
    ],
)
def test_metadata_of_another_issuer_is_not_believed(issuer: object, url: str) -> None:
    with raising("upstream_bad_response"):
        read(issuer, url)


def test_whether_a_browser_can_prove_itself_is_what_the_metadata_says_or_leaves_open() -> None:
    url = f"https://a.example.com/{WELL_KNOWN}"
    assert read("https://a.example.com", url).proves_keys
    assert read("https://a.example.com", url, code_challenge_methods_supported=["plain", "S256"]).proves_keys
    for methods in (["plain"], [], "S256", 7):
        assert not read("https://a.example.com", url, code_challenge_methods_supported=methods).proves_keys


@pytest.mark.parametrize(
    ("given", "url"),
    [
        ("https://a.example.com", f"https://a.example.com/{WELL_KNOWN}"),
        ("https://a.example.com/", f"https://a.example.com/{WELL_KNOWN}"),
        ("https://a.example.com/x", f"https://a.example.com/x/{WELL_KNOWN}"),
        (f"https://a.example.com/x/{WELL_KNOWN}", f"https://a.example.com/x/{WELL_KNOWN}"),
    ],
)
def test_an_issuer_and_its_metadata_are_named_alike(given: str, url: str) -> None:
    assert metadata_url(given, allow_http_loopback=False) == url


@pytest.mark.parametrize(
    ("url", "base", "below"),
    [
        ("https://a.example.com", "https://a.example.com", True),
        ("https://a.example.com/x", "https://a.example.com", True),
        ("https://A.EXAMPLE.com:443/x", "https://a.example.com", True),
        ("https://a.example.com./x", "https://a.example.com", True),
        ("https://user@a.example.com/x", "https://a.example.com", True),
        ("https://a.example.com:8443/x", "https://a.example.com", False),
        ("http://a.example.com/x", "https://a.example.com", False),
        ("https://a.example.com.evil.example.com", "https://a.example.com", False),
        ("https://a.example.com/idp", "https://a.example.com/identity", False),
        ("https://a.example.com/identity/x", "https://a.example.com/identity", True),
        ("https://a.example.com/idp/../identity", "https://a.example.com/identity", True),
        ("https://a.example.com/%69dentity", "https://a.example.com/identity", True),
        ("https://a.example.com", "", False),
        ("the-client-id", "https://a.example.com", False),
        ("https://[a", "https://a.example.com", False),
    ],
)
def test_what_is_below_a_url_is_said_without_a_doubt(url: str, base: str, below: bool) -> None:
    assert is_below(url, base) is below
