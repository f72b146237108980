"""Client authentication: one method per request, and a secret arrives as it was issued."""

from __future__ import annotations

from base64 import b64decode
from urllib.parse import unquote_plus

import pytest

from mcp_identity.domain.credentials import Secret
from mcp_identity.domain.errors import ProviderMisconfigured
from mcp_identity.domain.provider import ClientAuthentication, OAuthClient
from mcp_identity.oauth.client_auth import authenticate

AWKWARD = ["p%w", "a+b", "a:b", "a b", "sécret-π", "日本", "a&b=c", "%2B", "é" * 300, "~-._", "\\\"'"]


def _client(authentication: ClientAuthentication, client_id: str = "app", secret: str | None = "s3cret") -> OAuthClient:
    return OAuthClient(client_id, authentication, Secret(secret) if secret is not None else None)


@pytest.mark.parametrize("text", AWKWARD)
def test_basic_carries_any_id_and_secret_form_encoded(text: str) -> None:
    parameters, headers = authenticate(_client(ClientAuthentication.BASIC, text, text), [("a", "b")], {})
    scheme, _, credentials = headers["Authorization"].partition(" ")
    client_id, _, secret = b64decode(credentials).decode("ascii").partition(":")
    assert (scheme, unquote_plus(client_id), unquote_plus(secret)) == ("Basic", text, text)
    assert parameters == [("a", "b")]


def test_basic_is_what_the_rfc_writes() -> None:
    _, headers = authenticate(_client(ClientAuthentication.BASIC, "s6BhdRkqt3", "7Fjfp0ZBr1KtDRbnfVdmIw"), [], {})
    assert headers == {"Authorization": "Basic czZCaGRSa3F0Mzo3RmpmcDBaQnIxS3REUmJuZlZkbUl3"}


def test_post_puts_both_into_the_form_and_nothing_into_the_headers() -> None:
    parameters, headers = authenticate(_client(ClientAuthentication.POST), [("a", "b")], {"X": "y"})
    assert parameters == [("a", "b"), ("client_id", "app"), ("client_secret", "s3cret")]
    assert headers == {"X": "y"}


def test_a_public_client_names_itself_and_never_sends_a_secret() -> None:
    parameters, headers = authenticate(_client(ClientAuthentication.NONE), [], {})
    assert (parameters, headers) == ([("client_id", "app")], {})


@pytest.mark.parametrize("authentication", [ClientAuthentication.BASIC, ClientAuthentication.POST])
def test_a_method_that_needs_a_secret_says_so_where_there_is_none(authentication: ClientAuthentication) -> None:
    with pytest.raises(ProviderMisconfigured) as failure:
        authenticate(_client(authentication, secret=None), [], {})
    assert failure.value.code == "provider_misconfigured"


def test_what_was_passed_in_is_not_changed() -> None:
    parameters: list[tuple[str, str]] = []
    headers: dict[str, str] = {}
    for authentication in ClientAuthentication:
        authenticate(_client(authentication), parameters, headers)
    assert (parameters, headers) == ([], {})
