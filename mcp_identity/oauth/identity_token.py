"""How a workload proves to others who it is: a JWT that we sign, and the documents by which others verify it.

Pure: randomness and times come in. An identity token names a workload and one audience, and no user; it opens nothing of
ours. Others find the keys by OpenID Connect Discovery 1.0, below the issuer of one tenant and nowhere else.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from mcp_identity.domain.credentials import Secret

ALGORITHM = "ES256"
KEY_RANDOM_BYTES = 48
"""Of a P-256 key: so many more bits than its order has that the remainder shows no bias (FIPS 186-5 A.2.1)."""
SUBJECT_PREFIX = "workload:"
_ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
"""Of P-256 (SP 800-186 §3.2.1.3)."""


@dataclass(frozen=True, slots=True)
class SigningKey:
    """A new key pair.

    Attributes:
        public_jwk: The public part with its ``kid``, as JSON.
        private_jwk: The private part, as JSON.
    """

    public_jwk: str
    private_jwk: Secret


def issuer_of(public_url: str, tenant: str) -> str:
    """Who the identity tokens of a tenant are from."""
    return f"{public_url}/identity/{tenant}"


def make_signing_key(random: bytes) -> SigningKey:
    """Make a key pair.

    Args:
        random: `KEY_RANDOM_BYTES` unpredictable bytes.
    """
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
    from joserfc.jwk import ECKey

    scalar = int.from_bytes(random, "big") % (_ORDER - 1) + 1
    made = ec.derive_private_key(scalar, ec.SECP256R1())
    key = ECKey.import_key(made.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    named = {"kid": key.thumbprint(), "use": "sig", "alg": ALGORITHM}
    public, private = ({**key.as_dict(private=part), **named} for part in (False, True))
    return SigningKey(_json(public), Secret(_json(private)))


def sign_identity_token(private_jwk: Secret, claims: Mapping[str, Any]) -> Secret:
    """Sign claims.

    Args:
        private_jwk: The private part of a key, as JSON.
        claims: What the token says.
    """
    from joserfc import jwt
    from joserfc.jwk import ECKey

    fields = json.loads(private_jwk.reveal())
    header = {"alg": ALGORITHM, "typ": "JWT", "kid": fields["kid"]}
    return Secret(jwt.encode(header, dict(claims), ECKey.import_key(fields), algorithms=[ALGORITHM]))


def identity_claims(
    *, issuer: str, workload_id: str, name: str, audience: str, issued_at: datetime, expires_at: datetime, token_id: str
) -> dict[str, Any]:
    """What an identity token says: never anything of a user.

    Args:
        issuer: The tenant's issuer.
        workload_id: Random, never reused; it alone is the subject, since a name can be given away again.
        name: What people call the workload.
        audience: The only one whom it is for.
        issued_at: Now.
        expires_at: When it ends.
        token_id: Names it in the trail.
    """
    seconds = int(issued_at.timestamp())
    return {
        "iss": issuer,
        "sub": f"{SUBJECT_PREFIX}{workload_id}",
        "aud": audience,
        "iat": seconds,
        "nbf": seconds,
        "exp": int(expires_at.timestamp()),
        "jti": token_id,
        "workload": name,
    }


def identity_metadata(issuer: str) -> dict[str, Any]:
    """The discovery document of a tenant: keys alone, since nobody signs in here (OpenID Connect Discovery 1.0 §3)."""
    return {
        "issuer": issuer,
        "jwks_uri": f"{issuer}/jwks.json",
        "response_types_supported": ["id_token"],
        "subject_types_supported": ["public"],
        "id_token_signing_alg_values_supported": [ALGORITHM],
        "claims_supported": ["iss", "sub", "aud", "iat", "nbf", "exp", "jti", "workload"],
    }


def key_set(public_jwks: Iterable[str]) -> dict[str, Any]:
    """The key set of a tenant (RFC 7517 §5)."""
    return {"keys": [json.loads(each) for each in public_jwks]}


def _json(value: Mapping[str, Any]) -> str:
    return json.dumps(value, separators=(",", ":"), sort_keys=True)
