"""Which tokens must be refused, and which accepted? Named lists, made with the keys of a fake identity provider.

Written for every transport: `bad_tokens` gives more than 300 tokens that are `unauthenticated`, `expired_tokens` those that are
`token_expired`, and `good_tokens` more than 30 that are accepted, for an issuer of preset `oidc` with the provider's audience
and a workload whose authorizer names the provider's client. Make the good ones before the first token is verified: they
publish keys. A name says what is wrong; some tokens hold what no HTTP header can, which `fits_a_header` tells.
"""

from __future__ import annotations

from collections.abc import Iterator

from tests.fakes.identity_provider import ALICE, BOB, FakeIdentityProvider
from tests.inbound.corpus_algorithms import algorithm_cases
from tests.inbound.corpus_claims import claim_cases
from tests.inbound.corpus_structure import structure_cases

Named = tuple[str, str]
OTHER_KEYS = ("any-1", "ec-1", "es384-1", "es512-1", "ed-1")


def bad_tokens(idp: FakeIdentityProvider) -> list[Named]:
    """Tokens that must be refused, by name; all are different."""
    found = [*structure_cases(idp), *algorithm_cases(idp), *claim_cases(idp)]
    by_token: dict[str, str] = {}
    for name, token in found:
        by_token.setdefault(token, name)
    return [(name, token) for token, name in by_token.items()]


def expired_tokens(idp: FakeIdentityProvider) -> list[Named]:
    """Tokens that were right once."""
    return [
        ("expired a second ago", idp.access_token(lifetime_seconds=-1)),
        ("expires now", idp.access_token(lifetime_seconds=0)),
        ("expired an hour ago", idp.access_token(lifetime_seconds=-3600)),
        ("expired in 1970", idp.access_token(claims={"exp": 1, "iat": 0})),
        ("expired, of a service", idp.service_token(lifetime_seconds=-60)),
        ("expired, and without the claims that were added later", idp.access_token(BOB, lifetime_seconds=-86400)),
    ]


def good_tokens(idp: FakeIdentityProvider) -> list[Named]:
    """Tokens of Alice, or of a service, that must be accepted, by name."""
    idp.publish(*OTHER_KEYS)
    return [*_good(idp)]


def fits_a_header(token: str) -> bool:
    """Whether an HTTP client can send it as a bearer at all."""
    return bool(token) and token == token.strip() and all("!" <= char <= "~" for char in token)


def _good(idp: FakeIdentityProvider) -> Iterator[Named]:
    now, audience = idp.epoch, idp.audience
    plain = idp.access_claims(ALICE) | {"iss": idp.issuer, "aud": audience, "iat": now, "exp": now + 600}

    def token(**claims: object) -> str:
        return idp.access_token(claims=claims)

    yield "as the provider makes them", idp.access_token()
    yield "of a service on its own", idp.service_token()
    for algorithm in ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512"):
        yield f"signed with {algorithm}", idp.sign(plain, {"alg": algorithm}, kid="any-1")
    for kid, algorithm in (("ec-1", "ES256"), ("es384-1", "ES384"), ("es512-1", "ES512"), ("ed-1", "Ed25519")):
        yield f"signed with {algorithm}", idp.sign(plain, kid=kid)
    for kind in ("at+jwt", "AT+JWT", "application/at+jwt", "JWT", "jwt", "application/jwt", None):
        yield f"typ {kind}", idp.access_token(header={"typ": kind})
    yield "audience as a list", token(aud=[audience])
    yield "several audiences", token(aud=["https://other.example.com", audience])
    yield "the audience twice", token(aud=[audience, audience])
    yield "scopes as a list of scp", token(scope=None, scp=["a", "b"])
    yield "scopes as words of scp", token(scope=None, scp="a b")
    yield "no scopes", token(scope=None)
    yield "many scopes", token(scope=" ".join(f"scope-{number}" for number in range(200)))
    yield "the client as azp", token(client_id=None, azp=idp.client)
    yield "client_id and azp", token(azp="another")
    yield "issued a minute ahead of our clock", token(iat=now + 60)
    yield "valid from a minute ahead of our clock", token(nbf=now + 60)
    yield "valid from long ago", token(nbf=1)
    yield "issued long ago", token(iat=1)
    yield "ends in a second", token(exp=now + 1)
    yield "ends in the year 9999", token(exp=253402300799)
    yield "no jti", token(jti=None)
    yield "a jti that is no string", token(jti=7)
    yield "a long jti", token(jti="j" * 1000)
    yield "a name in another script", token(name="アリス \u202e evil")
    yield "a name that is no string", token(name={"given": "Alice"})
    yield "no name at all", token(name=None)
    yield "a name that no text can hold", token(name="A\ud800lice")
    yield "a scope that no text can hold", token(scope="a \ud800")
    yield "nested claims", token(realm_access={"roles": ["a"], "deep": {"er": [[[1]]]}})
    yield "claims of every type", token(a=None, b=True, c=1.5, d=[], e={}, f="", g=10**30)
    yield "groups that nobody asked for", token(groups=[f"group-{number}" for number in range(300)])
    yield "close to the largest size", token(filler="x" * 11_000)
    yield "a certificate chain in the header", idp.access_token(header={"x5c": ["MIID" + "A" * 3000]})
    yield "a thumbprint in the header", idp.access_token(header={"x5t": "abc", "x5t#S256": "def"})
    yield "a nonce in the header, as Entra writes it", idp.access_token(header={"nonce": "AQAB"})
    yield "an unknown header", idp.access_token(header={"made-up": {"x": [1]}})
    yield "a content type in the header", idp.access_token(header={"cty": "json"})
    yield "a foreign key in the header, ignored", idp.access_token(header={"jwk": {"kty": "oct", "k": "AA"}})
    yield "an address of keys in the header, ignored", idp.access_token(header={"jku": "https://evil.example/jwks"})
    yield "an address of a certificate in the header, ignored", idp.access_token(header={"x5u": "https://evil.example/c"})
    yield "the client's session", token(sid="session", session_state="s", acr="1", amr=["pwd"])
    yield "an actor", token(act={"sub": "service"})
    yield "confirmation of a key", token(cnf={"jkt": "thumbprint"})
