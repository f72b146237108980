"""Client authentication: one method per request, and a secret arrives as it was issued."""

from __future__ import annotations

import json
from base64 import b64decode, b64encode, urlsafe_b64encode
from datetime import UTC, datetime
from hashlib import sha256
from typing import Any
from urllib.parse import unquote_plus

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from joserfc import jws
from joserfc.jwk import ECKey, RSAKey

from mcp_identity.domain.credentials import Secret
from mcp_identity.domain.errors import ProviderMisconfigured
from mcp_identity.domain.provider import Assertions, ClientAuthentication, OAuthClient, Stamp
from mcp_identity.oauth.client_auth import ASSERTION_TYPE, authenticate, check_signing_key

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
    for authentication in set(ClientAuthentication) - {ClientAuthentication.PRIVATE_KEY_JWT}:
        authenticate(_client(authentication), parameters, headers)
    authenticate(_signing(RSA), parameters, headers, URL)
    assert (parameters, headers) == ([], {})


# private_key_jwt (RFC 7523 §2.2)


def _pem(key: RSAPrivateKey | EllipticCurvePrivateKey, form: PrivateFormat = PrivateFormat.PKCS8, password: bytes = b"") -> str:
    how = BestAvailableEncryption(password) if password else NoEncryption()
    return key.private_bytes(Encoding.PEM, form, how).decode()


URL = "https://idp.example.com/token"
RSA, EC = rsa.generate_private_key(65537, 2048), ec.generate_private_key(ec.SECP256R1())
NOW = datetime(2026, 1, 1, 12, 0, tzinfo=UTC)


def _signing(key: RSAPrivateKey | EllipticCurvePrivateKey | str, **how: str) -> OAuthClient:
    numbers = iter(range(1, 100))
    assertions = Assertions(lambda: Stamp(f"jti-{next(numbers)}", NOW), **how)
    secret = Secret(key if isinstance(key, str) else _pem(key))
    return OAuthClient("app", ClientAuthentication.PRIVATE_KEY_JWT, secret, assertions)


def _assertion(client: OAuthClient, url: str = URL) -> tuple[dict[str, Any], dict[str, Any]]:
    """Header and claims of the assertion of a request; its signature stands."""
    parameters, headers = authenticate(client, [("a", "b")], {}, url)
    given = dict(parameters)
    assert headers == {}
    assert list(given) == ["a", "client_id", "client_assertion_type", "client_assertion"]
    assert (given["client_id"], given["client_assertion_type"]) == ("app", ASSERTION_TYPE)
    algorithm = jws.extract_compact(given["client_assertion"].encode()).headers()["alg"]
    public = ECKey(EC.public_key(), None) if algorithm == "ES256" else RSAKey(RSA.public_key(), None)
    signed = jws.deserialize_compact(given["client_assertion"], public, [algorithm])
    return signed.headers(), json.loads(signed.payload)


@pytest.mark.parametrize(
    ("key", "chosen", "algorithm"),
    [
        (_pem(RSA), "", "RS256"),
        (_pem(RSA, PrivateFormat.TraditionalOpenSSL), "PS256", "PS256"),
        (_pem(EC, PrivateFormat.TraditionalOpenSSL), "", "ES256"),
    ],
)
def test_a_client_signs_who_it_is_for_this_endpoint_and_for_a_minute(key: str, chosen: str, algorithm: str) -> None:
    header, claims = _assertion(_signing(key, algorithm=chosen))
    seconds = int(NOW.timestamp())
    assert header == {"alg": algorithm, "typ": "JWT"}
    assert claims == {"iss": "app", "sub": "app", "aud": URL, "jti": "jti-1", "iat": seconds, "exp": seconds + 60}


def test_a_certificate_beside_the_key_is_named() -> None:
    """As Entra wants it (RFC 7515 §4.1.8)."""
    certificate = b"the DER of a certificate"
    lines = b64encode(certificate).decode()
    beside = f"-----BEGIN CERTIFICATE-----\n{lines}\n-----END CERTIFICATE-----\n"
    for key in (beside + _pem(RSA), _pem(RSA) + beside):
        header, _ = _assertion(_signing(key, algorithm="PS256"))
        named = urlsafe_b64encode(sha256(certificate).digest()).rstrip(b"=").decode()
        assert header == {"alg": "PS256", "typ": "JWT", "x5t#S256": named}
    with pytest.raises(ProviderMisconfigured):
        check_signing_key(Secret(beside.replace(lines, "MIIDx") + _pem(RSA)))


def test_no_two_assertions_are_the_same_and_each_is_for_where_it_goes() -> None:
    """Authlib's own signs the same claims again (`test_authlib_traps.py`)."""
    client = _signing(RSA)
    found = [_assertion(client, url)[1] for url in (URL, URL, "https://idp.example.com/revoke")]
    assert [each["jti"] for each in found] == ["jti-1", "jti-2", "jti-3"]
    assert [each["aud"] for each in found] == [URL, URL, "https://idp.example.com/revoke"]


def test_an_operator_may_say_for_whom_it_is_and_what_the_key_is_called() -> None:
    header, claims = _assertion(_signing(RSA, audience="https://idp.example.com", key_id="2026-11"))
    assert (header["kid"], claims["aud"]) == ("2026-11", "https://idp.example.com")


@pytest.mark.parametrize(
    ("key", "algorithm"),
    [
        ("a shared secret", ""),
        ("", ""),
        (_pem(RSA, password=b"x"), ""),
        (_pem(RSA).replace("A", "B"), ""),
        (_pem(rsa.generate_private_key(65537, 1024)), ""),  # noqa: S505 - that is the point
        (_pem(ec.generate_private_key(ec.SECP384R1())), ""),
        (RSA.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode(), ""),
        (_pem(RSA), "ES256"),
        (_pem(EC), "RS256"),
        (_pem(RSA), "HS256"),
        (_pem(RSA), "none"),
    ],
)
def test_what_cannot_sign_so_is_refused_when_it_is_given_and_when_it_is_used(key: str, algorithm: str) -> None:
    with pytest.raises(ProviderMisconfigured) as given:
        check_signing_key(Secret(key), algorithm)
    with pytest.raises(ProviderMisconfigured) as used:
        authenticate(_signing(key, algorithm=algorithm), [], {}, URL)
    for failure in (given, used):
        assert failure.value.code == "provider_misconfigured"
        assert not key or key[:24] not in failure.value.message
    check_signing_key(Secret(_pem(RSA)), "PS256")


def test_a_key_without_a_way_to_sign_is_not_sent_instead() -> None:
    with pytest.raises(ProviderMisconfigured):
        authenticate(OAuthClient("app", ClientAuthentication.PRIVATE_KEY_JWT, Secret(_pem(RSA))), [], {}, URL)
    with pytest.raises(ProviderMisconfigured):
        authenticate(OAuthClient("app", ClientAuthentication.PRIVATE_KEY_JWT), [], {}, URL)
