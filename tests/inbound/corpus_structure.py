"""Tokens that are no compact JWS, or that two readers would read differently.

covers: A05b, A39, A47
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from urllib.parse import quote

from tests.fakes.identity_provider import BOB, FakeIdentityProvider
from tests.inbound.forging import claims_of, compact, decoded, encoded, fixed, header_of, issuer_signer

_ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"


def structure_cases(idp: FakeIdentityProvider) -> Iterator[tuple[str, str]]:
    """Everything that is wrong with the form."""
    good = idp.access_token()
    yield from _shapes(good)
    yield from _encodings(good)
    yield from _signatures(idp, good)
    yield from _json(idp, good)
    yield from _sizes(idp)


def _shapes(good: str) -> Iterator[tuple[str, str]]:
    header, payload, signature = good.split(".")
    for text in ("", ".", "..", "...", "a", "a.b", "a.b.c", "null", "undefined", "Bearer", "0", "{}", "eyJ", "token"):
        yield f"just {text!r}", text
    yield "the header alone", header
    yield "two parts", f"{header}.{payload}"
    yield "no header", f".{payload}.{signature}"
    yield "no payload", f"{header}..{signature}"
    yield "no signature", f"{header}.{payload}."
    yield "four parts", f"{good}.{signature}"
    yield "five parts, as an encrypted token has", f"{header}.{payload}.{signature}.{payload}.{signature}"
    yield "a dot at the end", f"{good}."
    yield "a dot at the beginning", f".{good}"
    yield "the parts in another order", f"{payload}.{header}.{signature}"
    yield "the token twice", good + good
    yield "two tokens and a comma", f"{good},{good}"
    yield "two tokens and a space", f"{good} {good}"
    yield "the scheme once more", f"Bearer {good}"
    for name, char in {"space": " ", "tab": "\t", "line break": "\n", "carriage return": "\r", "NUL": "\0"}.items():
        yield f"{name} in front", char + good
        yield f"{name} behind", good + char
        yield f"{name} in the payload", f"{header}.{payload[:8]}{char}{payload[8:]}.{signature}"
    for name, char in {"quote": '"', "apostrophe": "'", "angle bracket": "<", "semicolon": ";"}.items():
        yield f"in {name}s", f"{char}{good}{char}"
    yield "as a form field", f"access_token={good}"
    yield "percent-encoded", quote(good, safe="").replace(".", "%2E")
    yield "as the flattened JSON serialization", json.dumps({"protected": header, "payload": payload, "signature": signature})
    yield (
        "as the general JSON serialization",
        json.dumps({"payload": payload, "signatures": [{"protected": header, "signature": signature}]}),
    )
    for char in ("\u00e9", "\u2024", "\uff0e", "\u200b", "\ud800", "\U0001f511"):
        yield f"with U+{ord(char):04X}", f"{header}{char}.{payload}.{signature}"
    yield "with a full stop of another script for a dot", good.replace(".", "\u3002")


def _encodings(good: str) -> Iterator[tuple[str, str]]:
    parts = good.split(".")
    names = ("header", "payload", "signature")
    for index, name in enumerate(names):
        for padding in ("=", "==", "===="):
            yield f"{name} padded with {padding}", _with(parts, index, parts[index] + padding)
        yield f"{name} with a stray character", _with(parts, index, parts[index][:4] + "!" + parts[index][4:])
        yield f"{name} with a plus", _with(parts, index, parts[index][:4] + "+" + parts[index][5:])
        yield f"{name} with a slash", _with(parts, index, parts[index][:4] + "/" + parts[index][5:])
        yield f"{name} of an impossible length", _with(parts, index, parts[index][: len(parts[index]) // 4 * 4 - 3])
        loose = _with_bits_left_over(parts[index])
        if loose:
            yield f"{name} with bits left over", _with(parts, index, loose)


def _with_bits_left_over(part: str) -> str:
    """Another text of the same bytes, where the last character holds bits that encode nothing."""
    unused = {2: 4, 3: 2}.get(len(part) % 4, 0)
    if not unused:
        return ""
    last = _ALPHABET.index(part[-1])
    return part[:-1] + _ALPHABET[last ^ 1]


def _signatures(idp: FakeIdentityProvider, good: str) -> Iterator[tuple[str, str]]:
    header, payload, signature = good.split(".")
    raw, other = decoded(signature), idp.access_token(BOB).split(".")
    for bit in (0, 1, 7, len(raw) * 4, len(raw) * 8 - 1):
        changed = bytearray(raw)
        changed[bit // 8] ^= 1 << (bit % 8)
        yield f"bit {bit} of the signature changed", f"{header}.{payload}.{encoded(bytes(changed))}"
    yield "signature cut", f"{header}.{payload}.{encoded(raw[:-1])}"
    yield "signature of one byte", f"{header}.{payload}.{encoded(raw[:1])}"
    yield "signature extended", f"{header}.{payload}.{encoded(raw + b'x')}"
    yield "signature with a zero in front", f"{header}.{payload}.{encoded(bytes(1) + raw)}"
    yield "signature backwards", f"{header}.{payload}.{encoded(raw[::-1])}"
    yield "signature of zeros", f"{header}.{payload}.{encoded(bytes(len(raw)))}"
    yield "signature of ones", f"{header}.{payload}.{encoded(bytes([255]) * len(raw))}"
    yield "another token's signature", f"{header}.{payload}.{other[2]}"
    yield "another token's payload", f"{header}.{other[1]}.{signature}"
    yield "the payload in the signature's place", f"{header}.{payload}.{payload}"
    for claim, value in {
        "sub": "bob", "iss": "https://evil.example", "aud": "https://other.example.com", "exp": idp.epoch + 10**6,
        "client_id": "another-client", "scope": "identity:admin", "added": True,
    }.items():  # fmt: skip
        claims = claims_of(good) | {claim: value}
        yield f"{claim} changed after signing", f"{header}.{encoded(json.dumps(claims).encode())}.{signature}"
    for name, value in {"kid": "2", "typ": "at+jwt", "alg": "PS256", "x": 1}.items():
        changed_header = header_of(good) | {name: value}
        yield f"header {name} changed after signing", f"{encoded(json.dumps(changed_header).encode())}.{payload}.{signature}"


def _json(idp: FakeIdentityProvider, good: str) -> Iterator[tuple[str, str]]:
    sign = issuer_signer(idp)
    header, claims = header_of(good), claims_of(good)
    head, body = json.dumps(header), json.dumps(claims)
    wrong = {
        "empty": "",
        "a list": "[]",
        "null": "null",
        "a string": '"text"',
        "a number": "1",
        "true": "true",
        "no JSON": "text",
        "an empty object": "{}",
    }
    for name, text in wrong.items():
        yield f"header is {name}", compact(text, claims, sign)
        yield f"payload is {name}", compact(header, text, sign)
    yield "header is cut", compact(head[:-1], claims, sign)
    yield "payload is cut", compact(header, body[:-1], sign)
    yield "header with a tail", compact(head + "x", claims, sign)
    yield "payload with a tail", compact(header, body + "x", sign)
    yield "header twice in one", compact(head * 2, claims, sign)
    yield "payload twice in one", compact(header, body * 2, sign)
    marks = {"UTF-8": b"\xef\xbb\xbf", "UTF-16": b"\xff\xfe"}
    for name, mark in marks.items():
        yield f"header with a byte order mark of {name}", compact(mark + head.encode(), claims, sign)
        yield f"payload with a byte order mark of {name}", compact(header, mark + body.encode(), sign)
    yield "payload in UTF-16", compact(header, body.encode("utf-16"), sign)
    yield "header in UTF-16", compact(head.encode("utf-16"), claims, sign)
    yield "payload that is no UTF-8", compact(header, body.encode()[:-1] + b',"x":"\xff"}', sign)
    for name in claims.keys() & {"sub", "iss", "aud", "exp", "client_id", "azp", "tid", "oid", "uid", "cid"}:
        yield f"{name} twice", compact(header, f'{body[:-1]},"{name}":{json.dumps(claims[name])}}}', sign)
        yield f"{name} twice, first another one", compact(header, f'{{"{name}":"other",{body[1:]}', sign)
    for name in header:
        yield f"header {name} twice", compact(f'{head[:-1]},"{name}":{json.dumps(header[name])}}}', claims, sign)
    yield "sub twice, once escaped", compact(header, body[:-1] + ',"su\\u0062":"bob"}', sign)
    yield "a member twice, deep inside", compact(header, body[:-1] + ',"deep":{"a":{"b":1,"b":2}}}', sign)
    for constant in ("NaN", "Infinity", "-Infinity", "1e999"):
        yield f"exp {constant}", compact(header, body.replace(str(claims["exp"]), constant), sign)
        yield f"a claim that is {constant}", compact(header, f'{body[:-1]},"x":{constant}}}', sign)
    yield "a comment in the payload", compact(header, body[:-1] + "/* */}", sign)
    yield "a comma too much", compact(header, body[:-1] + ",}", sign)
    yield "single quotes", compact(header, body.replace('"', "'"), sign)
    if '"sub": "alice"' in body:
        yield "a lone surrogate in the subject", compact(header, body.replace('"alice"', '"\\ud800"'), sign)
    yield "payload nested 40 deep", compact(header, f'{body[:-1]},"x":{"[" * 40}{"]" * 40}}}', sign)
    yield "payload nested 4000 deep", compact(header, f'{body[:-1]},"x":{"[" * 4000}{"]" * 4000}}}', sign)
    yield "header nested 4000 deep", compact(f'{head[:-1]},"x":{"[" * 4000}{"]" * 4000}}}', claims, sign)
    yield "an integer of 5000 digits", compact(header, f'{body[:-1]},"x":{"9" * 5000}}}', sign)
    yield "compressed, as it says", compact(header | {"zip": "DEF"}, b"\x78\x9c\x00", sign)
    yield "no payload, signed", compact(header, b"", sign)
    yield "signed by nobody", compact(header, claims, fixed(b""))


def _sizes(idp: FakeIdentityProvider) -> Iterator[tuple[str, str]]:
    yield "larger than 16 KiB, signed", idp.access_token(claims={"filler": "x" * 13_000})
    yield "100 KB, signed", idp.access_token(claims={"filler": "x" * 75_000})
    yield "a header larger than 16 KiB, signed", idp.access_token(header={"x5c": ["A" * 17_000]})
    yield "64 KiB of one letter", "a" * 65_536
    yield "16 KiB of dots", "." * 16_384
    yield "16 KiB of braces", encoded(b"{" * 12_000)


def _with(parts: list[str], index: int, changed: str) -> str:
    return ".".join([*parts[:index], changed, *parts[index + 1 :]])
