"""Which account did the user sign in with, as the issuer itself signed it (OpenID Connect Core §3.1.3.7)?

Verifies an ID token that came over the token endpoint; grants nothing by it. Trusts the keys at the pinned ``jwks_uri`` and
nothing in the token's header but the name of one of them: keys and key addresses that a token brings along are ignored.
"""

from __future__ import annotations

import hmac
from base64 import urlsafe_b64decode
from datetime import datetime
from typing import TYPE_CHECKING, Any, Literal, cast

from mcp_identity.domain.errors import ConsentMismatch, ProviderMisconfigured, UpstreamBadResponse
from mcp_identity.domain.http import HttpRequest, HttpResponse
from mcp_identity.domain.provider import AuthorizationServer
from mcp_identity.oauth.answers import Fields, Json, check_status, is_token_text, parse_json, parse_object

if TYPE_CHECKING:
    from joserfc.jwk import Key

MAXIMUM_JWKS_BYTES = 512 * 1024
MAXIMUM_KEYS = 100
MAXIMUM_TOKEN_LENGTH = 64 * 1024
MAXIMUM_HEADER_LENGTH = 16 * 1024
"""Real headers carry certificate chains; the library's 512 bytes refuse them."""
MAXIMUM_SUBJECT_LENGTH = 255
SKEW_SECONDS = 60
MINIMUM_RSA_BITS = 2048

KeyType = Literal["RSA", "EC", "OKP"]
_ALGORITHMS: dict[str, KeyType] = {
    "RS256": "RSA", "RS384": "RSA", "RS512": "RSA", "PS256": "RSA", "PS384": "RSA", "PS512": "RSA",
    "ES256": "EC", "ES384": "EC", "ES512": "EC", "Ed25519": "OKP",
}  # fmt: skip
"""Asymmetric ones alone: with a symmetric one, whoever may verify may forge."""
_CURVES = {"ES256": "P-256", "ES384": "P-384", "ES512": "P-521", "Ed25519": "Ed25519"}
"""The one curve of each algorithm (RFC 7518 §3.4, RFC 9864 §2.2); a key on another one is not meant for it."""


def jwks_request(server: AuthorizationServer) -> HttpRequest:
    """Ask for the issuer's keys.

    Raises:
        ProviderMisconfigured: If the provider has none.
    """
    if not server.jwks_url:
        raise ProviderMisconfigured("the provider has no key set, so its ID tokens cannot be verified")
    headers = {"Accept": "application/json, application/jwk-set+json", "Accept-Encoding": "identity"}
    return HttpRequest("GET", server.jwks_url, headers, maximum_bytes=MAXIMUM_JWKS_BYTES)


def verify_id_token(
    id_token: str,
    jwks_response: HttpResponse,
    *,
    server: AuthorizationServer,
    client_id: str,
    nonce: str | None,
    now: datetime,
) -> str:
    """Verify an ID token.

    Args:
        id_token: The raw token.
        jwks_response: The answer to `jwks_request`.
        server: The server that the code was exchanged at.
        client_id: Our client id there.
        nonce: What the authorization request carried; None where it carried none.
        now: The time.

    Returns:
        The subject: the issuer's stable identifier of the account.

    Raises:
        ConsentMismatch: If the nonce is not the one of this consent.
        UpstreamUnavailable: If the key set cannot be had now.
        UpstreamBadResponse: If the token does not verify, for whatever reason.
    """
    if len(id_token) > MAXIMUM_TOKEN_LENGTH or id_token.count(".") != 2:  # noqa: PLR2004 - a compact JWS has three parts
        raise UpstreamBadResponse("the ID token is not a signed token of sane size")
    claims = _verified_claims(id_token, _keys(jwks_response))
    if not server.issuer or claims.get("iss") != server.issuer:
        raise UpstreamBadResponse("the ID token is of another issuer")
    _check_audience(claims, client_id)
    _check_times(claims, now.timestamp())
    stated = claims.get("nonce")
    if nonce is not None and not (
        isinstance(stated, str) and hmac.compare_digest(stated.encode("utf-8", "replace"), nonce.encode())
    ):
        raise ConsentMismatch("the ID token belongs to another sign-in: its nonce is not ours")
    subject = claims.get("sub")
    if not isinstance(subject, str) or not is_token_text(subject, MAXIMUM_SUBJECT_LENGTH):
        raise UpstreamBadResponse("the ID token has no usable subject")
    return subject


def _keys(response: HttpResponse) -> list[Fields]:
    check_status(response, accepted=(200,))
    if len(response.body) > MAXIMUM_JWKS_BYTES:
        raise UpstreamBadResponse("the key set is too large")
    keys = parse_object(response).get("keys")
    if not isinstance(keys, list) or len(keys) > MAXIMUM_KEYS:
        raise UpstreamBadResponse("the key set is not a list of keys")
    return [key for key in keys if isinstance(key, dict)]


def _verified_claims(id_token: str, keys: list[Fields]) -> Fields:
    from joserfc import jws
    from joserfc.errors import JoseError

    header = _header(id_token)
    algorithm, kid = header.get("alg"), header.get("kid")
    if not isinstance(algorithm, str) or algorithm not in _ALGORITHMS or "crit" in header or "b64" in header:
        raise UpstreamBadResponse("the ID token is signed in a way that we do not accept")
    registry = jws.JWSRegistry(algorithms=[algorithm], strict_check_header=False)
    registry.max_header_length = MAXIMUM_HEADER_LENGTH
    usable = [key for key in keys if _fits(key, algorithm) and (kid is None or key.get("kid") == kid)]
    if kid is None and len(usable) > 1:
        raise UpstreamBadResponse("the ID token does not say which of the issuer's keys signed it")
    for fields in usable:
        try:
            signed = jws.deserialize_compact(id_token, _import(fields, _ALGORITHMS[algorithm]), [algorithm], registry)
        except (JoseError, ValueError, TypeError):
            continue
        return parse_json(signed.payload or b"")
    raise UpstreamBadResponse("the ID token is not signed by one of the issuer's keys")


def _header(id_token: str) -> Fields:
    encoded = id_token.partition(".")[0]
    try:
        decoded = urlsafe_b64decode(encoded + "=" * (-len(encoded) % 4))
    except ValueError:
        raise UpstreamBadResponse("the ID token's header is malformed") from None
    return parse_json(decoded)


def _fits(key: Fields, algorithm: str) -> bool:
    if key.get("kty") != _ALGORITHMS[algorithm] or key.get("use", "sig") != "sig" or key.get("alg", algorithm) != algorithm:
        return False
    if key["kty"] == "RSA":
        return _rsa_bits(key.get("n")) >= MINIMUM_RSA_BITS
    return key.get("crv") == _CURVES[algorithm]


def _rsa_bits(modulus: Json) -> int:
    if not isinstance(modulus, str):
        return 0
    try:
        return int.from_bytes(urlsafe_b64decode(modulus + "=" * (-len(modulus) % 4)), "big").bit_length()
    except ValueError:
        return 0


def _import(fields: Fields, kind: KeyType) -> Key:
    from joserfc.jwk import import_key

    # Only what makes up the public key: certificates and addresses beside it are not our concern, and could make it unusable.
    public = {name: fields[name] for name in ("kty", "n", "e", "crv", "x", "y") if name in fields}
    return import_key(cast("Any", public), kind)


def _check_audience(claims: Fields, client_id: str) -> None:
    audience, party = claims.get("aud"), claims.get("azp")
    audiences = audience if isinstance(audience, list) else [audience]
    several = len(audiences) > 1
    if client_id not in audiences or (party is None and several) or (party is not None and party != client_id):
        raise UpstreamBadResponse("the ID token was issued for another client")


def _check_times(claims: Fields, now: float) -> None:
    expires, issued, begins = claims.get("exp"), claims.get("iat"), claims.get("nbf", 0)
    if not _is_time(expires) or not _is_time(issued) or not _is_time(begins):
        raise UpstreamBadResponse("the ID token lacks its times, or they are no whole seconds")
    if cast("int", expires) <= now - SKEW_SECONDS:
        raise UpstreamBadResponse("the ID token has expired")
    if cast("int", issued) > now + SKEW_SECONDS or cast("int", begins) > now + SKEW_SECONDS:
        raise UpstreamBadResponse("the ID token is from the future")


def _is_time(value: Json) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
