"""ID tokens: the pinned issuer's signature over exactly this sign-in, or no account."""

from __future__ import annotations

import json
from base64 import urlsafe_b64encode
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from joserfc import jws, jwt
from joserfc.jwk import ECKey, Key, KeySet, OctKey, OKPKey, RSAKey

from mcp_identity.domain.errors import ConsentMismatch, IdentityError, ProviderMisconfigured, UpstreamBadResponse
from mcp_identity.domain.http import HttpResponse
from mcp_identity.domain.provider import AuthorizationServer
from mcp_identity.oauth.id_token import jwks_request, verify_id_token
from mcp_identity.oauth.jws import MAXIMUM_JWKS_BYTES
from tests.oauth.answers import NOW, answer

SERVER = AuthorizationServer(issuer="https://idp.example.com", jwks_url="https://idp.example.com/jwks.json")
EPOCH = int(NOW.timestamp())
CLAIMS: dict[str, Any] = {
    "iss": "https://idp.example.com",
    "aud": "app",
    "sub": "u-42",
    "exp": EPOCH + 300,
    "iat": EPOCH,
    "nonce": "n0nce",
}
RSA = RSAKey.generate_key(2048, {"kid": "rsa", "use": "sig", "alg": "RS256"})
EC = ECKey.generate_key("P-256", {"kid": "ec"})
OTHER = RSAKey.generate_key(2048, {"kid": "rsa"})
ED = OKPKey.generate_key("Ed25519", {"kid": "ed"})


def _jwks(*keys: Key) -> HttpResponse:
    return answer({"keys": [key.as_dict(private=False) for key in keys]})


def _sign(claims: dict[str, Any], key: Key = RSA, alg: str = "RS256", **header: Any) -> str:
    registry = jws.JWSRegistry(algorithms=[alg], strict_check_header=False)
    registry.max_header_length = 1 << 20
    fields = {"alg": alg, "kid": key.kid, **header}
    return jwt.encode({name: value for name, value in fields.items() if value is not None}, claims, key, [alg], registry)


def _verify(token: str, jwks: HttpResponse | None = None, nonce: str | None = "n0nce", **changes: Any) -> str:
    arguments: dict[str, Any] = {"server": SERVER, "client_id": "app", "now": NOW, **changes}
    return verify_id_token(token, jwks or _jwks(RSA, EC, ED), nonce=nonce, **arguments)


def _part(value: Any) -> str:
    data = value if isinstance(value, bytes) else json.dumps(value).encode()
    return urlsafe_b64encode(data).rstrip(b"=").decode()


@pytest.mark.parametrize(("key", "alg"), [(RSA, "RS256"), (EC, "ES256"), (ED, "Ed25519")])
def test_a_token_that_the_issuer_signed_for_us_names_the_account(key: Key, alg: str) -> None:
    assert _verify(_sign(CLAIMS, key, alg)) == "u-42"


def test_headers_as_vendors_send_them_pass_within_bounds() -> None:
    assert _verify(_sign(CLAIMS, x5t="abc", nonce="vendor's own", x5c=["A" * 3000])) == "u-42"
    with pytest.raises(UpstreamBadResponse):
        _verify(_sign(CLAIMS, x5c=["A" * 20_000]))


def test_without_a_key_id_the_one_key_that_fits_is_taken() -> None:
    token = _sign(CLAIMS, kid=None)
    assert _verify(token, _jwks(RSA, EC)) == "u-42"
    second = RSAKey.import_key(OTHER.as_dict(private=False), {"kid": "two"})
    with pytest.raises(UpstreamBadResponse):
        _verify(token, _jwks(RSA, second))


def test_unusable_keys_beside_the_right_one_do_no_harm() -> None:
    keys: list[Any] = [
        "no object",
        {},
        {"kty": "RSA", "kid": "rsa"},
        {"kty": "RSA", "kid": "rsa", "n": 1, "e": "AQAB"},
        {"kty": "RSA", "kid": "rsa", "n": "AAAAA", "e": "AQAB"},
        {"kty": "RSA", "kid": "rsa", "n": "A" * 400, "e": "AQAB"},
        {**OTHER.as_dict(private=False), "e": "?"},
        {"kty": "made-up", "kid": "rsa"},
        {"kty": "oct", "kid": "rsa", "k": "c2VjcmV0"},
        {**RSA.as_dict(private=False), "use": "enc"},
        {**RSA.as_dict(private=False), "key_ops": 7},
        {**RSA.as_dict(private=False), "key_ops": ["sign"]},
        {**RSA.as_dict(private=False), "kid": 7},
        {**RSA.as_dict(private=False), "x5u": 1, "x5c": "broken", "key_ops": ["verify"], "use": "sig"},
    ]
    assert _verify(_sign(CLAIMS), answer({"keys": keys})) == "u-42"


@pytest.mark.parametrize("curve", ["P-256K", "secp256k1", "Ed448", "P-384", "", 7, None])
@pytest.mark.parametrize(("key", "alg"), [(EC, "ES256"), (ED, "Ed25519")])
def test_a_key_on_another_curve_before_the_right_one_does_no_harm(key: Key, alg: str, curve: Any) -> None:
    right = key.as_dict(private=False)
    assert _verify(_sign(CLAIMS, key, alg), answer({"keys": [{**right, "crv": curve}, right]})) == "u-42"
    with pytest.raises(UpstreamBadResponse):
        _verify(_sign(CLAIMS, key, alg), answer({"keys": [{**right, "crv": curve}]}))


@given(fields=st.dictionaries(st.sampled_from(["kty", "crv", "x", "y", "n", "e", "use", "alg", "kid"]), st.one_of(
    st.none(), st.integers(), st.text(max_size=20), st.sampled_from(["EC", "OKP", "RSA", "oct", "P-256", "Ed25519", "AQAB"]),
)))  # fmt: skip
@pytest.mark.parametrize(("key", "alg"), [(RSA, "RS256"), (EC, "ES256"), (ED, "Ed25519")])
def test_whatever_stands_in_a_key_set_ends_in_a_designed_error(key: Key, alg: str, fields: dict[str, Any]) -> None:
    with pytest.raises(UpstreamBadResponse):
        _verify(_sign(CLAIMS, key, alg), answer({"keys": [{"kid": key.kid, **fields}]}))


def test_several_audiences_need_an_authorized_party() -> None:
    assert _verify(_sign({**CLAIMS, "aud": ["app", "api"], "azp": "app"})) == "u-42"
    assert _verify(_sign({**CLAIMS, "aud": ["app"]})) == "u-42"


def test_clocks_may_differ_by_a_minute() -> None:
    assert _verify(_sign({**CLAIMS, "exp": EPOCH - 59})) == "u-42"
    assert _verify(_sign({**CLAIMS, "iat": EPOCH + 60, "nbf": EPOCH + 60})) == "u-42"


def test_no_nonce_is_asked_for_where_none_was_sent() -> None:
    assert _verify(_sign(CLAIMS), nonce=None) == "u-42"


@pytest.mark.parametrize("nonce", ["other", "", None, 1, "N0NCE", "nönce"])
def test_a_token_of_another_sign_in_is_a_mismatch(nonce: Any) -> None:
    with pytest.raises(ConsentMismatch) as failure:
        _verify(_sign({**CLAIMS, "nonce": nonce}))
    assert failure.value.code == "consent_mismatch"


def test_a_nonce_that_no_encoding_knows_is_a_mismatch() -> None:
    payload = json.dumps({**CLAIMS, "nonce": "\ud800"}).encode()
    with pytest.raises(ConsentMismatch):
        _verify(jws.serialize_compact({"alg": "RS256", "kid": "rsa"}, payload, RSA))


BAD_CLAIMS: dict[str, dict[str, Any]] = {
    "another issuer": {"iss": "https://evil.example"},
    "the issuer with a slash": {"iss": "https://idp.example.com/"},
    "a list of issuers": {"iss": ["https://idp.example.com"]},
    "no issuer": {"iss": None},
    "another audience": {"aud": "other"},
    "an audience that begins like us": {"aud": "app2"},
    "no audience": {"aud": None},
    "an empty audience": {"aud": []},
    "an audience object": {"aud": {"app": True}},
    "several audiences without a party": {"aud": ["app", "api"]},
    "another party": {"aud": ["app", "api"], "azp": "api"},
    "another party with one audience": {"azp": "api"},
    "expired": {"exp": EPOCH - 60},
    "no expiry": {"exp": None},
    "an expiry in words": {"exp": "tomorrow"},
    "an expiry as text": {"exp": str(EPOCH + 300)},
    "an expiry with a fraction": {"exp": EPOCH + 300.5},
    "a boolean expiry": {"exp": True},
    "no issue time": {"iat": None},
    "issued in the future": {"iat": EPOCH + 61},
    "valid in the future": {"nbf": EPOCH + 61},
    "valid from a word": {"nbf": "now"},
    "no subject": {"sub": None},
    "an empty subject": {"sub": ""},
    "a number as subject": {"sub": 42},
    "a long subject": {"sub": "x" * 256},
    "a subject with a line break": {"sub": "a\nb"},
}


@pytest.mark.parametrize("name", BAD_CLAIMS)
def test_a_token_with_wrong_claims_is_refused(name: str) -> None:
    with pytest.raises(UpstreamBadResponse) as failure:
        _verify(_sign({**CLAIMS, **BAD_CLAIMS[name]}))
    assert failure.value.code == "upstream_bad_response"


HEADER, PAYLOAD, SIGNATURE = _sign(CLAIMS).split(".")
PUBLIC_PEM = RSA.as_pem(private=False)
BAD_TOKENS: dict[str, str] = {
    "empty": "",
    "no token": "x",
    "two parts": "a.b",
    "four parts": f"{HEADER}.{PAYLOAD}.{SIGNATURE}.x",
    "an encrypted token's five parts": "a.b.c.d.e",
    "no signature": f"{HEADER}.{PAYLOAD}.",
    "another payload": f"{HEADER}.{_part({**CLAIMS, 'sub': 'evil'})}.{SIGNATURE}",
    "alg none": f"{_part({'alg': 'none'})}.{PAYLOAD}.",
    "alg None": f"{_part({'alg': 'None'})}.{PAYLOAD}.",
    "no alg": f"{_part({'kid': 'rsa'})}.{PAYLOAD}.{SIGNATURE}",
    "alg as list": f"{_part({'alg': ['RS256'], 'kid': 'rsa'})}.{PAYLOAD}.{SIGNATURE}",
    "HS256 with the public key": _sign(CLAIMS, OctKey.import_key(_part(PUBLIC_PEM), {"kid": "rsa"}), "HS256"),
    "signed by a stranger": _sign(CLAIMS, OTHER),
    "a stranger's key in the header": _sign(CLAIMS, OTHER, jwk=OTHER.as_dict(private=False)),
    "a stranger's key set in the header": _sign(CLAIMS, OTHER, jku="https://evil.example/jwks"),
    "an unknown key": _sign(CLAIMS, kid="other"),
    "a key id that is a number": f"{_part({'alg': 'RS256', 'kid': 1})}.{PAYLOAD}.{SIGNATURE}",
    "a critical extension": f"{_part({'alg': 'RS256', 'kid': 'rsa', 'crit': ['exp'], 'exp': 1})}.{PAYLOAD}.{SIGNATURE}",
    "an unencoded payload": f"{_part({'alg': 'RS256', 'kid': 'rsa', 'b64': False})}.{PAYLOAD}.{SIGNATURE}",
    "another algorithm than the key's": _sign(CLAIMS, RSAKey.import_key(RSA.as_dict(private=True), {"alg": "PS256"}), "PS256"),
    "a header with two algorithms": _part(b'{"alg":"RS256","alg":"none","kid":"rsa"}') + f".{PAYLOAD}.{SIGNATURE}",
    "a header that is a list": f"{_part(['RS256'])}.{PAYLOAD}.{SIGNATURE}",
    "a header that is no base64": f"é.{PAYLOAD}.{SIGNATURE}",
    "64 KiB and more": f"{HEADER}.{'A' * 70_000}.{SIGNATURE}",
    "a payload with two subjects": jws.serialize_compact({"alg": "RS256", "kid": "rsa"}, b'{"sub":"a","sub":"b"}', RSA),
    "a payload that is a list": jws.serialize_compact({"alg": "RS256", "kid": "rsa"}, b"[]", RSA),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD_TOKENS)
def test_a_token_that_does_not_verify_is_refused(name: str) -> None:
    with pytest.raises(UpstreamBadResponse):
        _verify(BAD_TOKENS[name])


def test_a_short_rsa_key_vouches_for_nobody() -> None:
    number = urlsafe_b64encode((1 << 1023 | 1).to_bytes(128, "big")).rstrip(b"=").decode()
    with pytest.raises(UpstreamBadResponse):
        _verify(_sign(CLAIMS), answer({"keys": [{"kty": "RSA", "kid": "rsa", "n": number, "e": "AQAB"}]}))


@pytest.mark.parametrize(
    ("response", "code"),
    [
        (answer({"keys": {}}), "upstream_bad_response"),
        (answer({}), "upstream_bad_response"),
        (answer({"keys": []}), "upstream_bad_response"),
        (answer({"keys": [{}] * 101}), "upstream_bad_response"),
        (answer({"keys": [], "x": "y" * MAXIMUM_JWKS_BYTES}), "upstream_bad_response"),
        (answer(b"<html>", content_type="text/html"), "upstream_bad_response"),
        (answer(b"", 302), "upstream_bad_response"),
        (answer(b"", 503), "upstream_unavailable"),
    ],
)
def test_a_key_set_that_is_none_verifies_nothing(response: HttpResponse, code: str) -> None:
    with pytest.raises(IdentityError) as failure:
        _verify(_sign(CLAIMS), response)
    assert failure.value.code == code


def test_without_a_known_issuer_nothing_is_verified() -> None:
    with pytest.raises(UpstreamBadResponse):
        _verify(_sign({**CLAIMS, "iss": ""}), server=AuthorizationServer(jwks_url="https://idp.example.com/jwks.json"))


def test_a_key_set_content_type_of_its_own_is_json_too() -> None:
    jwks = answer(KeySet([RSA]).as_dict(private=False), content_type="application/jwk-set+json")
    assert _verify(_sign(CLAIMS), jwks) == "u-42"


def test_the_keys_are_asked_for_at_the_pinned_address() -> None:
    request = jwks_request(SERVER)
    assert (request.method, request.url, request.maximum_bytes) == ("GET", SERVER.jwks_url, MAXIMUM_JWKS_BYTES)
    with pytest.raises(ProviderMisconfigured):
        jwks_request(AuthorizationServer())


def test_an_old_token_is_not_from_the_future() -> None:
    assert _verify(_sign({**CLAIMS, "iat": int((NOW - timedelta(hours=1)).timestamp())})) == "u-42"
