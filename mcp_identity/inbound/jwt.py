"""Is this an access token of an issuer that we trust, for us, and whose is it (RFC 9068, RFC 8725)?

Pure: the issuers, the keys and the time come in, a `VerifiedToken` comes out. Everything is held to the issuer's own rules,
which were pinned when it was added. Nobody is told why a token does not stand: each refusal is `Unauthenticated` with one
text, and only a token that is right in every other way is told that it has expired. Which agent the token speaks for is
decided elsewhere.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime

from mcp_identity.domain.errors import TokenExpired, Unauthenticated, clean_text
from mcp_identity.domain.identity import User, UserKind
from mcp_identity.domain.issuer import Issuer, TokenRules, fill
from mcp_identity.oauth.answers import Fields, Json, is_token_text
from mcp_identity.oauth.jws import CompactToken, JwsRefused, PublicKey, parse_compact, verify_signature

MAXIMUM_TOKEN_LENGTH = 16 * 1024
MAXIMUM_SUBJECT_LENGTH = 255
MAXIMUM_TOKEN_ID_LENGTH = 128
MAXIMUM_DISPLAY_LENGTH = 128
SKEW_SECONDS = 60
"""How far the issuer's clock may be ahead of ours. An expiry is taken as it stands."""
UNAUTHENTICATED = "the bearer token is not accepted"
"""All that a caller ever learns."""
EXPIRED = "the bearer token has expired"
_LAST_SECOND = 253402300799
"""The end of the year 9999."""


@dataclass(frozen=True, slots=True)
class VerifiedToken:
    """An access token that stands.

    Attributes:
        issuer: Who issued it.
        subject: The user, by the issuer's stable claims; empty for a service's own token.
        client: The client that it was issued to; empty where nothing says so.
        audiences: Whom it is for.
        scopes: Its scopes; a service's roles count.
        claims: All of them.
        display: What to call the user before people.
        token_id: Its ``jti``, or empty.
        issued_at: When it was issued.
        expires_at: When it ends.
    """

    issuer: Issuer
    subject: str
    client: str
    audiences: frozenset[str]
    scopes: frozenset[str]
    claims: Mapping[str, Json] = field(repr=False)
    display: str
    token_id: str
    issued_at: datetime
    expires_at: datetime

    @property
    def user(self) -> User | None:
        """The user that it is of; None for a service's own token."""
        return User(self.issuer.issuer, self.subject, UserKind.OIDC, self.display) if self.subject else None


def read_token(raw: str) -> CompactToken:
    """Read a bearer that may be a JWT; nothing of it is believed yet.

    Raises:
        Unauthenticated: If it cannot be one that we accept.
    """
    try:
        return parse_compact(raw, maximum_length=MAXIMUM_TOKEN_LENGTH)
    except JwsRefused:
        raise unauthenticated() from None


def issuer_of(token: CompactToken, issuers: Iterable[Issuer]) -> Issuer:
    """The one configured issuer that a token says it is of, by ``iss`` and the claim that tells organisations apart.

    Raises:
        Unauthenticated: If there is none, or more than one: then nobody could say whose token it is.
    """
    found = [issuer for issuer in issuers if not issuer.disabled and _is_of(token, issuer)]
    if len(found) != 1:
        raise unauthenticated()
    return found[0]


def verify_access_token(token: CompactToken, issuer: Issuer, keys: Iterable[PublicKey], now: datetime) -> VerifiedToken:
    """Verify an access token against an issuer.

    Args:
        token: What `read_token` gave.
        issuer: What `issuer_of` gave.
        keys: The issuer's keys.
        now: The time.

    Raises:
        Unauthenticated: If it does not stand, for whatever reason.
        TokenExpired: If it did, and has ended.
    """
    rules, claims = issuer.rules, token.claims
    try:
        key = verify_signature(token, keys, rules.algorithms)
    except JwsRefused:
        raise unauthenticated() from None
    _require(_is_of(token, issuer) and _may_sign(key, token, issuer))
    _require(_type(token.header) in rules.access_types and _is_access_token(claims, rules))
    client = next((value for name in rules.client_claims if isinstance(value := claims.get(name), str)), "")
    audiences = _audiences(claims, issuer)
    _require(bool(audiences) or bool(client))
    _require(not client or is_token_text(client, MAXIMUM_SUBJECT_LENGTH))
    expires, issued, begins = claims.get("exp"), claims.get("iat"), claims.get("nbf", 0)
    _require(_is_time(expires) and _is_time(issued) and _is_time(begins))
    latest = now.timestamp() + SKEW_SECONDS
    _require(_seconds(issued) <= latest and _seconds(begins) <= latest)
    service = _is_service(claims, rules, client)
    _require(bool(client) or not service)
    subject = "" if service else _subject(claims, rules.access_subject)
    token_id = claims.get("jti")
    expires_at = datetime.fromtimestamp(_seconds(expires), UTC)
    verified = VerifiedToken(
        issuer=issuer,
        subject=subject,
        client=client,
        audiences=audiences,
        scopes=_scopes(claims, rules.scope_claims + (rules.role_claims if service else ())),
        claims=claims,
        display=_display(claims, rules, subject),
        token_id=clean_text(token_id, MAXIMUM_TOKEN_ID_LENGTH) if isinstance(token_id, str) else "",
        issued_at=datetime.fromtimestamp(_seconds(issued), UTC),
        expires_at=expires_at,
    )
    if expires_at <= now:
        raise TokenExpired(EXPIRED)
    return verified


def unauthenticated() -> Unauthenticated:
    """The one refusal, whatever the reason was."""
    return Unauthenticated(UNAUTHENTICATED)


def _require(holds: bool) -> None:
    if not holds:
        raise unauthenticated()


def _is_of(token: CompactToken, issuer: Issuer) -> bool:
    stated = token.claims.get("iss")
    return isinstance(stated, str) and stated in issuer.issuers_for(_organisation(token, issuer))


def _organisation(token: CompactToken, issuer: Issuer) -> str:
    """What the token says of the claim that tells the issuer's organisations apart."""
    value = token.claims.get(issuer.rules.discriminator) if issuer.rules.discriminator else None
    return value if isinstance(value, str) else ""


def _may_sign(key: PublicKey, token: CompactToken, issuer: Issuer) -> bool:
    """Whether the key is this issuer's, where one key set holds those of many organisations."""
    if not issuer.rules.keys_name_issuer or not key.issuer:
        return True
    return fill(key.issuer, value := _organisation(token, issuer)) in issuer.issuers_for(value)


def _type(header: Fields) -> str | None:
    """The ``typ`` header as RFC 7515 §4.1.9 compares it; empty for none, None for what is no type."""
    value = header.get("typ", "")
    return value.lower().removeprefix("application/") if isinstance(value, str) else None


def _is_access_token(claims: Fields, rules: TokenRules) -> bool:
    return (
        all(claims.get(name) == value for name, value in rules.access_claims.items())
        and (not rules.access_needs_any or any(claims.get(name) for name in rules.access_needs_any))
        and not any(name in claims for name in rules.access_refuses)
        and not any(claims.get(name) == value for name, value in rules.access_refuses_values.items())
    )


def _audiences(claims: Fields, issuer: Issuer) -> frozenset[str]:
    """Whom the token is for; one of the issuer's audiences is among them.

    Empty only where the vendor writes no audience, and none was configured; a token that has one is then somebody else's.
    """
    value = claims.get("aud")
    if value is None and not issuer.rules.audience_required and not issuer.audiences:
        return frozenset()
    audiences = _strings([value] if isinstance(value, str) else value)
    _require(bool(issuer.audiences & audiences))
    return audiences


def _strings(value: Json) -> frozenset[str]:
    """A list of strings that are not empty, as a set; anything else does not stand."""
    if not isinstance(value, list):
        raise unauthenticated()
    found = frozenset(each for each in value if isinstance(each, str) and each)
    _require(bool(value) and all(isinstance(each, str) and each for each in value))
    return found


def _is_service(claims: Fields, rules: TokenRules, client: str) -> bool:
    """Whether the token is a service's own, without a user."""
    subject = claims.get("sub")
    return (
        any(claims.get(name) == value for name, value in rules.service_claims.items())
        or bool(rules.service_without and not any(name in claims for name in rules.service_without))
        or bool(rules.service_subject_is_client and client and subject == client)
        or bool(rules.service_subject_suffix and client and subject == client + rules.service_subject_suffix)
    )


def _subject(claims: Fields, names: tuple[str, ...]) -> str:
    parts = [value for name in names if isinstance(value := claims.get(name), str)]
    _require(len(parts) == len(names) and all(is_token_text(part, MAXIMUM_SUBJECT_LENGTH) for part in parts))
    _require(len(parts) == 1 or not any("." in part for part in parts))  # else two users could share one join
    return ".".join(parts)


def _scopes(claims: Fields, names: tuple[str, ...]) -> frozenset[str]:
    """Scopes as a string of words (RFC 9068 §2.2.3) or a list of strings."""
    found: set[str] = set()
    for name in names:
        value = claims.get(name)
        if isinstance(value, str):
            found.update(value.split(" "))
        elif value:
            found |= _strings(value)
    return frozenset(found - {""})


def _display(claims: Fields, rules: TokenRules, subject: str) -> str:
    names = (value for name in rules.display_claims if isinstance(value := claims.get(name), str))
    cleaned = (clean_text(name, MAXIMUM_DISPLAY_LENGTH) for name in names)
    return next(filter(None, cleaned), subject)


def _is_time(value: Json) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= _LAST_SECOND


def _seconds(value: Json) -> int:
    return value if isinstance(value, int) else 0
