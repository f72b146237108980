"""How are tokens made that no honest library makes? Byte by byte, with any signature that is wanted."""

from __future__ import annotations

import hashlib
import hmac
import json
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Callable, Mapping
from typing import Any

from joserfc import jws

from tests.fakes.identity_provider import FakeIdentityProvider, SigningKey, signing_key

Part = bytes | str | Mapping[str, Any]
Signer = Callable[[bytes], bytes]


def encoded(part: bytes) -> str:
    """Base64url without padding."""
    return urlsafe_b64encode(part).rstrip(b"=").decode()


def decoded(part: str) -> bytes:
    """The bytes of a part."""
    return urlsafe_b64decode(part + "=" * (-len(part) % 4))


def compact(header: Part, payload: Part, sign: Signer) -> str:
    """A compact token of exactly these bytes; mappings become JSON, text its UTF-8."""
    signed = f"{encoded(_bytes(header))}.{encoded(_bytes(payload))}"
    return f"{signed}.{encoded(sign(signed.encode()))}"


def signer(key: SigningKey, algorithm: str) -> Signer:
    """Sign as an algorithm does, whatever the key is for."""

    def sign(message: bytes) -> bytes:
        model = jws.JWSRegistry(algorithms=[algorithm], strict_check_header=False).get_alg(algorithm)
        return model.sign(message, key)

    return sign


def issuer_signer(idp: FakeIdentityProvider, algorithm: str = "RS256") -> Signer:
    """Sign as the provider does."""
    return signer(signing_key(idp.keys[0]), algorithm)


def hmac_signer(secret: bytes, bits: int = 256) -> Signer:
    """Sign with a shared secret."""
    return lambda message: hmac.digest(secret, message, f"sha{bits}")


def fixed(signature: bytes) -> Signer:
    """Sign with these bytes, whatever is signed."""
    return lambda _: signature


def header_of(token: str) -> dict[str, Any]:
    """A token's header."""
    return json.loads(decoded(token.partition(".")[0]))


def claims_of(token: str) -> dict[str, Any]:
    """A token's claims."""
    return json.loads(decoded(token.split(".")[1]))


def digest(text: str) -> bytes:
    """SHA-256."""
    return hashlib.sha256(text.encode()).digest()


def _bytes(part: Part) -> bytes:
    if isinstance(part, bytes):
        return part
    return part.encode() if isinstance(part, str) else json.dumps(part).encode()
