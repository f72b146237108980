"""Is this compact token signed by one of these keys (RFC 7515, RFC 7517, RFC 8725)?

Reads a token strictly and in one way, and verifies its signature; what its claims mean is decided elsewhere. Trusts the keys
that it is handed, and nothing in the token's header but the name of one of them: keys, certificates and addresses that a
token brings along are ignored. Every refusal is the one class `JwsRefused`, whose text is for the log alone.
"""

from __future__ import annotations

import re
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, cast

from mcp_identity.domain.errors import UpstreamBadResponse
from mcp_identity.domain.http import HttpRequest, HttpResponse
from mcp_identity.oauth.answers import Fields, Json, check_status, is_token_text, parse_json, parse_object

if TYPE_CHECKING:
    from joserfc.jwk import Key

MAXIMUM_JWKS_BYTES = 512 * 1024
MAXIMUM_KEYS = 100
MAXIMUM_TOKEN_LENGTH = 64 * 1024
MAXIMUM_HEADER_LENGTH = 16 * 1024
"""Real headers carry certificate chains; the library's 512 bytes refuse them."""
MAXIMUM_KEY_ID_LENGTH = 512
MINIMUM_RSA_BITS, MAXIMUM_RSA_BITS = 2048, 8192
"""A longer modulus is of no use, and verifying with it would take long."""

KeyType = Literal["RSA", "EC", "OKP"]
ALGORITHMS: dict[str, KeyType] = {
    "RS256": "RSA", "RS384": "RSA", "RS512": "RSA", "PS256": "RSA", "PS384": "RSA", "PS512": "RSA",
    "ES256": "EC", "ES384": "EC", "ES512": "EC", "Ed25519": "OKP",
}  # fmt: skip
"""Asymmetric ones alone: with a symmetric one, whoever may verify may forge."""
_CURVES = {"ES256": "P-256", "ES384": "P-384", "ES512": "P-521", "Ed25519": "Ed25519"}
"""The one curve of each algorithm (RFC 7518 §3.4, RFC 9864 §2.2); a key on another one is not meant for it."""
_CURVES_OF: dict[str, tuple[str, ...]] = {"EC": ("P-256", "P-384", "P-521"), "OKP": ("Ed25519",)}
_BASE64URL = re.compile(r"[A-Za-z0-9_-]+")


class JwsRefused(Exception):
    """The token does not stand; why is for the log, never for whoever brought it."""


@dataclass(frozen=True, slots=True)
class CompactToken:
    """A token that was read; whether it is signed is not known yet.

    Attributes:
        raw: The whole token; a bearer.
        header: Its protected header.
        claims: Its payload.
        algorithm: The one it says, and that we know.
        key_id: The key that it names; None for none.
    """

    raw: str = field(repr=False)
    header: Fields = field(repr=False)
    claims: Fields = field(repr=False)
    algorithm: str
    key_id: str | None


@dataclass(frozen=True, slots=True)
class PublicKey:
    """A key of a key set that we can verify with.

    Attributes:
        key_id: Its name; None for none.
        kind: Its type.
        algorithm: The only algorithm that it is for; empty for each of its type.
        curve: Its curve; empty for RSA.
        issuer: The issuer that it signs for, where the key set says so (Entra); may hold a template.
        key: The key itself.
    """

    key_id: str | None
    kind: KeyType
    algorithm: str
    curve: str
    issuer: str
    key: Key = field(repr=False, compare=False)

    def fits(self, token: CompactToken) -> bool:
        """Whether it may have signed this token."""
        return (
            self.kind == ALGORITHMS[token.algorithm]
            and self.algorithm in ("", token.algorithm)
            and self.curve == _CURVES.get(token.algorithm, "")
            and token.key_id in (None, self.key_id)
        )


def parse_compact(token: str, *, maximum_length: int = MAXIMUM_TOKEN_LENGTH) -> CompactToken:
    """Read a compact JWS with a JSON object in it (RFC 7515 §3.1).

    Args:
        token: The raw token.
        maximum_length: Checked before anything is parsed.

    Raises:
        JwsRefused: If it is too long, not canonical, ambiguous, or signed in a way that we do not accept.
    """
    if len(token) > maximum_length:
        raise JwsRefused("it is too long")
    parts = token.split(".", 3)
    if len(parts) != 3 or len(parts[0]) > MAXIMUM_HEADER_LENGTH:  # noqa: PLR2004 - a compact JWS has three parts
        raise JwsRefused("it is no compact JWS of sane size")
    header, payload, _ = map(_decoded, parts)
    try:
        fields, claims = parse_json(header), parse_json(payload)
    except UpstreamBadResponse:
        raise JwsRefused("its header or its payload is no JSON object that all readers read alike") from None
    algorithm, key_id = fields.get("alg"), fields.get("kid")
    if not isinstance(algorithm, str) or algorithm not in ALGORITHMS:
        raise JwsRefused("its algorithm is not one that we accept")
    # What must be understood, we do not (RFC 7515 §4.1.11); an unencoded payload (RFC 7797) others would read differently.
    if "crit" in fields or "b64" in fields:
        raise JwsRefused("its header asks for an extension")
    if key_id is not None and (not isinstance(key_id, str) or not is_token_text(key_id, MAXIMUM_KEY_ID_LENGTH)):
        raise JwsRefused("the name of its key is malformed")
    return CompactToken(token, fields, claims, algorithm, key_id)


def verify_signature(
    token: CompactToken, keys: Iterable[PublicKey], algorithms: Collection[str] = tuple(ALGORITHMS)
) -> PublicKey:
    """Verify a token's signature.

    Args:
        token: What `parse_compact` read.
        keys: The issuer's keys.
        algorithms: Those that this issuer may use.

    Returns:
        The key that signed it.

    Raises:
        JwsRefused: If none of the keys did, or the token does not say which of several.
    """
    from joserfc import jws
    from joserfc.errors import JoseError

    if token.algorithm not in algorithms:
        raise JwsRefused("its algorithm is not one of this issuer's")
    usable = [key for key in keys if key.fits(token)]
    if token.key_id is None and len(usable) > 1:
        raise JwsRefused("it does not say which of the issuer's keys signed it")
    registry = jws.JWSRegistry(algorithms=[token.algorithm], strict_check_header=False)
    registry.max_header_length = MAXIMUM_HEADER_LENGTH
    registry.max_payload_length = registry.max_signature_length = len(token.raw)
    for candidate in usable:
        try:
            jws.deserialize_compact(token.raw, candidate.key, [token.algorithm], registry)
        except (JoseError, ValueError, TypeError):
            continue
        return candidate
    raise JwsRefused("it is not signed by one of the issuer's keys")


def key_set_request(url: str) -> HttpRequest:
    """Ask for a key set."""
    headers = {"Accept": "application/json, application/jwk-set+json", "Accept-Encoding": "identity"}
    return HttpRequest("GET", url, headers, maximum_bytes=MAXIMUM_JWKS_BYTES)


def process_key_set_response(response: HttpResponse) -> tuple[PublicKey, ...]:
    """Read a key set (RFC 7517 §5). Keys that we cannot use are left out: there may be others for other readers.

    Raises:
        UpstreamUnavailable: At 429 and 5xx.
        UpstreamBadResponse: If it is no key set, or too large.
    """
    check_status(response, accepted=(200,))
    if len(response.body) > MAXIMUM_JWKS_BYTES:
        raise UpstreamBadResponse("the key set is too large")
    keys = parse_object(response).get("keys")
    if not isinstance(keys, list) or len(keys) > MAXIMUM_KEYS:
        raise UpstreamBadResponse("the key set is not a list of keys")
    return tuple(key for fields in keys if isinstance(fields, dict) and (key := _public_key(fields)) is not None)


def _decoded(part: str) -> bytes:
    """Decode a part that is base64url without padding, and in the one form that encodes these bytes (RFC 7515 §2)."""
    if not _BASE64URL.fullmatch(part):
        raise JwsRefused("a part of it is no base64url, or empty")
    try:
        decoded = urlsafe_b64decode(part + "=" * (-len(part) % 4))
    except ValueError:
        raise JwsRefused("a part of it is no base64url") from None
    if urlsafe_b64encode(decoded).rstrip(b"=").decode() != part:
        raise JwsRefused("a part of it is base64url with bits left over")
    return decoded


def _public_key(fields: Fields) -> PublicKey | None:
    """The key, if it is one that we may verify signatures with."""
    kind, curve, algorithm = fields.get("kty"), fields.get("crv", ""), fields.get("alg", "")
    key_id, issuer, operations = fields.get("kid"), fields.get("issuer", ""), fields.get("key_ops", ["verify"])
    if (
        kind not in ("RSA", "EC", "OKP")
        or fields.get("use", "sig") != "sig"
        or not isinstance(operations, list)
        or "verify" not in operations
        or not isinstance(algorithm, str)
        or not isinstance(key_id, str | None)
    ):
        return None
    if kind == "RSA":
        if not MINIMUM_RSA_BITS <= _bits(fields.get("n")) <= MAXIMUM_RSA_BITS:
            return None
        curve = ""
    elif not isinstance(curve, str) or curve not in _CURVES_OF[kind]:
        return None
    key = _import(fields, kind)
    if key is None:
        return None
    return PublicKey(key_id, kind, algorithm, curve, issuer if isinstance(issuer, str) else "", key)


def _bits(modulus: Json) -> int:
    if not isinstance(modulus, str):
        return 0
    try:
        return int.from_bytes(urlsafe_b64decode(modulus + "=" * (-len(modulus) % 4)), "big").bit_length()
    except ValueError:
        return 0


def _import(fields: Fields, kind: KeyType) -> Key | None:
    from joserfc.errors import JoseError
    from joserfc.jwk import import_key

    # Only what makes up the public key: certificates and addresses beside it are not our concern, and could make it unusable.
    public = {name: fields[name] for name in ("kty", "n", "e", "crv", "x", "y") if name in fields}
    try:
        key = import_key(cast("Any", public), kind)
        _ = key.public_key  # the numbers are checked here
    except (JoseError, ValueError, TypeError):
        return None
    return key
