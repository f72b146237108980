"""Tokens that the issuer did sign, and that are not for us, not of now, or no access tokens.

covers: A05
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

from tests.fakes.identity_provider import FakeIdentityProvider
from tests.inbound.forging import claims_of, compact, header_of, issuer_signer

_TYPES: tuple[Any, ...] = (None, True, False, 0, 1, -1, 1.5, "", " ", [], {}, [[]], [None], {"a": 1})
HUGE = 10**400


Make = Callable[..., str]


def claim_cases(idp: FakeIdentityProvider) -> Iterator[tuple[str, str]]:
    """Everything that is wrong with claims, signed as it should be."""
    good = idp.access_token()
    header, claims, sign = header_of(good), claims_of(good), issuer_signer(idp)

    def changed(**values: Any) -> str:
        return compact(header, claims | values, sign)

    def without(*names: str) -> str:
        return compact(header, {name: value for name, value in claims.items() if name not in names}, sign)

    for name in ("iss", "aud", "exp", "iat", "sub"):
        yield f"no {name}", without(name)
    yield from _types(changed)
    lists = {"iss": _issuers(idp), "aud": _audiences(idp), "exp": _ends(idp.epoch), "sub": _subjects()}
    starts = _beginnings(idp.epoch)
    for name, values in {**lists, "iat": starts, "nbf": starts, "scope": _scopes(), "scp": _scopes()}.items():
        for value in values:
            yield f"{name} {json.dumps(value)}"[:80] + f" ({len(json.dumps(value))})", changed(**{name: value})
    yield from _other_tokens(idp, changed, without)


def _types(changed: Make) -> Iterator[tuple[str, str]]:
    """Each claim as every type that JSON has."""
    for value in _TYPES:
        whole = isinstance(value, int) and not isinstance(value, bool)
        for name in ("iss", "aud", "sub", "exp", "iat", "nbf"):
            if not (whole and name in ("exp", "iat", "nbf")) and not (value == " " and name == "sub"):
                yield f"{name} {json.dumps(value)}", changed(**{name: value})


def _subjects() -> list[Any]:
    texts = ["al\u00efce", "alice\n", "ali\0ce", "\t", "\u202eecila", "a" * 256, "a" * 5000, "alice\u200b"]
    return [*texts, ["alice"], {"sub": "alice"}]


def _scopes() -> list[Any]:
    return [1, True, {"a": 1}, [1], ["a", 1], [["a"]], [""], ["a", None], 1.5]


def _issuers(idp: FakeIdentityProvider) -> list[Any]:
    right = idp.issuer
    host = right.removeprefix("https://").removeprefix("http://")
    return [
        f"{right}/",
        f"{right} ",
        f" {right}",
        f"{right}\n",
        f"{right}\0",
        right.upper(),
        right.replace("https", "HTTPS"),
        right[:-1],
        f"http://{host}",
        f"{right}:443",
        f"{right}.evil.example",
        f"{right}/other",
        f"{right}?x=1",
        f"{right}#x",
        f"https://evil@{host}",
        f"https://{host}@evil.example",
        f"https://evil.example/{right}",
        f"https://{host}.",
        "https://evil.example",
        [right],
        {"iss": right},
        [right, "https://evil.example"],
        f"https://{host.replace('i', chr(0x0456))}",
        f"https://xn--{host}",
        host,
        "https://",
        "*",
        "urn:mcp-identity:local:",
        "urn:mcp-identity:asserted:default",
        "urn:mcp-identity:asserted:other",
        f"{right}\u200b",
        f"{right}/../",
        f"{right}%2f",
        "https://login.microsoftonline.com/{tenantid}/v2.0",
        "{tenantid}",
        "https://accounts.google.com",
    ]


def _audiences(idp: FakeIdentityProvider) -> list[Any]:
    right = idp.audience or "https://identity.example.com/mcp"
    return [
        f"{right}/",
        right[:-1],
        f"{right} ",
        f" {right}",
        f"{right}x",
        right.upper(),
        right.rpartition("/")[0],
        "https://other.example.com",
        f"https://other.example.com {right}",
        f"{right},https://other.example.com",
        f"{right}\n",
        f"{right}#x",
        f"{right}?x",
        "*",
        "mcp",
        [f"{right}/"],
        [right.upper()],
        ["https://other.example.com", "account"],
        [right, 1],
        [right, None],
        [1, right],
        [[right]],
        [right, [right]],
        [{"aud": right}],
        {"aud": right},
        {right: True},
        {"0": right},
        json.dumps([right]),
        [right, ""],
        idp.login_client,
        idp.client,
        idp.issuer,
        [idp.client],
        f"{right}\u200b",
        right.replace("e", "\u0435"),
    ]


def _ends(now: int) -> list[Any]:
    return [
        str(now + 3600),
        f"{now + 3600}",
        now + 3600.0,
        now + 3600.5,
        [now + 3600],
        {"exp": now + 3600},
        -1,
        -(now + 3600),
        253402300800,
        10**18,
        10**30,
        HUGE,
        float(10**300),
        "never",
        "tomorrow",
        "2099-01-01T00:00:00Z",
        f" {now + 3600}",
        hex(now + 3600),
    ]


def _beginnings(now: int) -> list[Any]:
    late = [now + 61, now + 3600, now + 10**9, 253402300800, HUGE]
    return [*late, float(now), str(now), [now], {"at": now}, -1, "2026-01-01T00:00:00Z"]


def _other_tokens(idp: FakeIdentityProvider, changed: Make, without: Make) -> Iterator[tuple[str, str]]:
    """Tokens of the same issuer that are for something else."""
    yield "the ID token of a sign-in", idp.id_token()
    yield "an ID token whose audience is ours", idp.id_token(client=idp.audience)
    yield "an ID token for us, without nonce", idp.id_token(client=idp.audience, nonce="")
    yield "an ID token for us, typ at+jwt", idp.id_token(client=idp.audience, header={"typ": "at+jwt"})
    yield "an ID token for us, with a client", idp.id_token(client=idp.audience, claims={"azp": idp.client})
    yield "an access token with a nonce", changed(nonce="n0nce")
    yield "an access token with at_hash", changed(at_hash="hash")
    yield "an access token with c_hash", changed(c_hash="hash")
    yield "a nonce that is null", changed(nonce=None)
    yield "token_use id", changed(token_use="id")
    yield "typ ID in the payload", changed(typ="ID")
    yield "neither client nor scopes", without("client_id", "azp", "scope", "scp")
    empty: list[Any] = [None, "", 0, False, [], {}]
    for value in empty:
        yield f"neither client nor scopes but {json.dumps(value)}", changed(client_id=value, scope=None)
    yield "for another service", idp.access_token(audience="https://other.example.com")
    yield "for a list of other services", idp.access_token(audience=["https://other.example.com", "https://third.example.com"])
    yield "for nobody", idp.access_token(audience="")
    yield "an expired ID token", idp.id_token(lifetime_seconds=-60)
    yield "expired, and for another service", idp.access_token(audience="https://other.example.com", lifetime_seconds=-60)
    yield "expired, and from the future", idp.access_token(lifetime_seconds=-60, claims={"nbf": idp.epoch + 3600})
    yield "expired, and of another type", idp.access_token(lifetime_seconds=-60, header={"typ": "dpop+jwt"})
