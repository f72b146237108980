"""How do we prove who we are at an authorization server's endpoints (RFC 6749 §2.3, RFC 7523 §2.2)?

One method per request, the configured one. Builds parameters, headers and the request that carries them. Trusts the vault
for the client's secret and reveals it here, for the wire; a private key does not leave, only what it signs. An assertion is
good for one endpoint, once, and for a minute.
"""

from __future__ import annotations

import json
import re
from base64 import b64decode, b64encode, urlsafe_b64encode
from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING, Any
from urllib.parse import quote_plus, urlencode

from mcp_identity.domain.credentials import Secret
from mcp_identity.domain.errors import ProviderMisconfigured
from mcp_identity.domain.http import HttpRequest
from mcp_identity.domain.provider import ClientAuthentication, Dialect, OAuthClient

if TYPE_CHECKING:
    from joserfc.jwk import ECKey, RSAKey

ASSERTION_TYPE = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
ASSERTION_SECONDS = 60
"""How long an assertion is good; servers remember its id for as long."""
MINIMUM_RSA_BITS, MAXIMUM_RSA_BITS = 2048, 8192
KEY_RULE = "a private key in PEM, not encrypted: RSA of 2048 to 8192 bits, or on the curve P-256"
_ALGORITHMS = {"RSA": ("RS256", "PS256"), "EC": ("ES256",)}
"""By the kind of key; the first one is taken where nobody chose."""
_PEM = re.compile(r"-----BEGIN ((?:RSA |EC )?PRIVATE KEY)-----[A-Za-z0-9+/=\s]+-----END \1-----")
_CERTIFICATE = re.compile(r"-----BEGIN CERTIFICATE-----([A-Za-z0-9+/=\s]+)-----END CERTIFICATE-----")


@dataclass(frozen=True, slots=True)
class _SigningKey:
    """A private key, how it signs, and the header that names the certificate which stands beside it (RFC 7515 §4.1.8)."""

    key: RSAKey | ECKey
    algorithm: str
    certificate: dict[str, str]


def authenticate(
    client: OAuthClient, parameters: list[tuple[str, str]], headers: dict[str, str], url: str = ""
) -> tuple[list[tuple[str, str]], dict[str, str]]:
    """Add the client's authentication to a request's form parameters and headers.

    Args:
        client: Who we are at this server.
        parameters: The form so far; not changed.
        headers: The headers so far; not changed.
        url: Where the request goes; an assertion is for there, unless an operator said otherwise.

    Returns:
        The parameters and headers to send.

    Raises:
        ProviderMisconfigured: If the method needs a secret or a key and there is none that does.
    """
    match client.authentication:
        case ClientAuthentication.BASIC:
            return list(parameters), {**headers, "Authorization": basic(client)}
        case ClientAuthentication.POST:
            secret = _secret(client).reveal()
            return [*parameters, ("client_id", client.client_id), ("client_secret", secret)], dict(headers)
        case ClientAuthentication.NONE:
            return [*parameters, ("client_id", client.client_id)], dict(headers)
        case ClientAuthentication.PRIVATE_KEY_JWT:
            signed = [("client_assertion_type", ASSERTION_TYPE), ("client_assertion", _assertion(client, url))]
            return [*parameters, ("client_id", client.client_id), *signed], dict(headers)


def post(url: str, parameters: list[tuple[str, str]], headers: dict[str, str], dialect: Dialect) -> HttpRequest:
    """Send an endpoint its parameters as it reads them: a form (RFC 6749 appendix B), or a JSON object."""
    if dialect.json_requests:
        return HttpRequest("POST", url, {**headers, "Content-Type": "application/json"}, json.dumps(dict(parameters)).encode())
    headers = {**headers, "Content-Type": "application/x-www-form-urlencoded"}
    return HttpRequest("POST", url, headers, urlencode(parameters).encode("ascii"))


def basic(client: OAuthClient) -> str:
    """The value of an ``Authorization: Basic`` header.

    Id and secret are form-encoded first (RFC 6749 §2.3.1), so that a colon, a percent sign, a plus or a letter beyond
    Latin-1 arrives as it was issued.
    """
    pair = f"{quote_plus(client.client_id)}:{quote_plus(_secret(client).reveal())}"
    return "Basic " + b64encode(pair.encode("ascii")).decode("ascii")


def check_signing_key(secret: Secret, algorithm: str = "") -> None:
    """Check a private key before it is kept.

    Args:
        secret: The key.
        algorithm: How it shall sign; empty for what its kind suggests.

    Raises:
        ProviderMisconfigured: If it cannot sign like that.
    """
    _signing_key(secret, algorithm, is_new=True)


def _assertion(client: OAuthClient, url: str) -> str:
    """A JWT by which we say who we are, signed with our key (RFC 7523 §3).

    For the very endpoint that it is sent to: a server that we were led to cannot use it at another one.
    """
    from joserfc import jwt

    how, secret = client.assertions, _secret(client)
    if how is None:
        raise ProviderMisconfigured("the provider's client authentication needs assertions, and nothing says how to make them")
    signing = _signing_key(secret, how.algorithm)
    stamp = how.stamp()
    issued_at = int(stamp.issued_at.timestamp())
    header = {"alg": signing.algorithm, "typ": "JWT", **signing.certificate} | ({"kid": how.key_id} if how.key_id else {})
    claims: dict[str, Any] = {
        "iss": client.client_id,
        "sub": client.client_id,
        "aud": how.audience or url,
        "jti": stamp.token_id,
        "iat": issued_at,
        "exp": issued_at + ASSERTION_SECONDS,
    }
    return jwt.encode(header, claims, signing.key, algorithms=[signing.algorithm])


def _signing_key(secret: Secret, algorithm: str, *, is_new: bool = False) -> _SigningKey:
    """Read a private key; whether the numbers of an RSA key fit together is worth looking at only while it is new."""
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePrivateKey
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key
    from joserfc.jwk import ECKey, RSAKey

    found = _PEM.search(secret.reveal())
    try:
        native = load_pem_private_key(found[0].encode(), None, unsafe_skip_rsa_key_validation=not is_new) if found else None
    except (ValueError, TypeError, UnsupportedAlgorithm):
        native = None
    key: RSAKey | ECKey | None = None
    if isinstance(native, RSAPrivateKey) and MINIMUM_RSA_BITS <= native.key_size <= MAXIMUM_RSA_BITS:
        key = RSAKey(native, native)
    elif isinstance(native, EllipticCurvePrivateKey) and isinstance(native.curve, SECP256R1):
        key = ECKey(native, native)
    if key is None:
        raise ProviderMisconfigured(f"private_key_jwt takes {KEY_RULE}")
    possible = _ALGORITHMS[key.key_type]
    if algorithm and algorithm not in possible:
        raise ProviderMisconfigured(f"this kind of key signs by {' or '.join(possible)}, and not by {algorithm}")
    return _SigningKey(key, algorithm or possible[0], _thumbprint(secret))


def _thumbprint(secret: Secret) -> dict[str, str]:
    """The name of the certificate in a PEM file, for servers that know clients by theirs (Entra)."""
    found = _CERTIFICATE.search(secret.reveal())
    if found is None:
        return {}
    try:
        digest = sha256(b64decode("".join(found[1].split()), validate=True)).digest()
    except ValueError:
        raise ProviderMisconfigured(f"the certificate beside the key is malformed; private_key_jwt takes {KEY_RULE}") from None
    return {"x5t#S256": urlsafe_b64encode(digest).rstrip(b"=").decode("ascii")}


def _secret(client: OAuthClient) -> Secret:
    if client.secret is None:
        raise ProviderMisconfigured("the provider's client authentication needs a client secret, and none is stored")
    return client.secret
