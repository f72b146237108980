"""What is kept and handed out: secrets, token sets, API keys, and the grants that hold them."""

from __future__ import annotations

import hmac
import re
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from enum import StrEnum
from typing import NoReturn

from mcp_identity.domain.errors import InvalidScope

MAXIMUM_SCOPES = 128
MAXIMUM_SCOPE_LENGTH = 512
_SCOPE = re.compile(r"[!#-\[\]-~]+")
UNREPORTED_LIFETIME_SECONDS = 300
"""How long a token counts as fresh whose authorization server did not say (RFC 6749 §5.1: expires_in is RECOMMENDED)."""
CLOCK_TOLERANCE = timedelta(minutes=5)
"""How far behind the moment a token was obtained a clock may be; further back it was set, and expiries mean nothing."""
LONG_LIVED_AFTER = timedelta(hours=24)
"""A credential that lives longer leaves only where an operator said so."""


class Secret:
    """A string that shows itself only where `reveal` is called; an architecture test lists those places."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        """Wrap `value`."""
        self._value = value

    def reveal(self) -> str:
        """The secret itself."""
        return self._value

    def __repr__(self) -> str:
        """Never the value."""
        return "Secret(***)"

    __str__ = __repr__

    def __format__(self, _spec: str) -> str:
        """Never the value."""
        return "Secret(***)"

    def __eq__(self, other: object) -> bool:
        """Compare in constant time."""
        if not isinstance(other, Secret):
            return False
        mine, theirs = (value.encode("utf-8", "surrogatepass") for value in (self._value, other._value))
        return hmac.compare_digest(mine, theirs)

    __hash__ = None  # type: ignore[assignment]  # a secret is no dictionary key: look secrets up by hash

    def __reduce__(self) -> NoReturn:
        """Refuse to be pickled or copied into another process."""
        msg = "a Secret is not pickled"
        raise TypeError(msg)

    def __deepcopy__(self, _memo: object) -> Secret:
        """Immutable, so its own copy."""
        return self


class Flow(StrEnum):
    """How a credential is obtained."""

    M2M = "M2M"
    USER_FEDERATION = "USER_FEDERATION"
    ON_BEHALF_OF_TOKEN_EXCHANGE = "ON_BEHALF_OF_TOKEN_EXCHANGE"  # noqa: S105 - the name of a flow

    @property
    def asks_user(self) -> bool:
        """Whether a user consents to it at the vendor; all others are obtained anew without anybody being asked."""
        return self is Flow.USER_FEDERATION

    @property
    def of_user(self) -> bool:
        """Whether what it gives acts for a user."""
        return self is not Flow.M2M


class GrantState(StrEnum):
    """Where a grant stands."""

    PENDING = "pending"
    ACTIVE = "active"
    NEEDS_CONSENT = "needs_consent"
    REVOKED = "revoked"


class Reason(StrEnum):
    """Why consent is required."""

    NO_GRANT = "no_grant"
    MISSING_SCOPES = "missing_scopes"
    EXPIRED = "expired"
    REFRESH_REJECTED = "refresh_rejected"
    LOST_IN_FLIGHT = "lost_in_flight"
    REVOKED = "revoked"
    FORCED = "forced"


def parse_scopes(scopes: Iterable[str]) -> frozenset[str]:
    """Check scope tokens (RFC 6749 §3.3: printable ASCII without space, quote and backslash).

    Raises:
        InvalidScope: If one is malformed or too long, or there are more than `MAXIMUM_SCOPES`.
    """
    found: set[str] = set()
    for scope in scopes:
        if len(scope) > MAXIMUM_SCOPE_LENGTH:
            msg = f"a scope is longer than {MAXIMUM_SCOPE_LENGTH} characters"
            raise InvalidScope(msg)
        if not _SCOPE.fullmatch(scope):
            msg = "a scope is empty or holds a character that RFC 6749 §3.3 does not allow; pass one scope per list item"
            raise InvalidScope(msg)
        found.add(scope)
        if len(found) > MAXIMUM_SCOPES:
            msg = f"more than {MAXIMUM_SCOPES} scopes"
            raise InvalidScope(msg)
    return frozenset(found)


@dataclass(frozen=True, slots=True)
class TokenSet:
    """What an authorization server gave, as RFC 6749 §5.1 lists it.

    Attributes:
        access_token: The access token.
        token_type: As the server wrote it, e.g. ``Bearer``.
        scopes: What was granted.
        requested_scopes: What was asked for when it was obtained; what is asked but not granted was declined.
        obtained_at: When the answer arrived.
        expires_at: When the access token ends; None if it never does or the server did not say.
        expiry_reported: False where the server did not say and is not known to issue unlimited tokens.
        refresh_token: The refresh token, if any.
        refresh_expires_at: When the refresh token ends, where the server said.
        account_id: The vendor's stable identifier of the account, where it is known.
        extra: Facts of the answer that the provider's file names, e.g. ``instance_url``. No secrets.
        destination: Digest of the endpoints and the client that it was obtained with; its refresh token goes nowhere else.
        api_host: The customer's own API host, fixed when the user consented; empty where the vendor has one for all.
        serve_until: It is served no longer than this, however long it lives: the end of the user's token that it was
            exchanged for; None for no such end.
    """

    access_token: Secret
    token_type: str
    scopes: frozenset[str]
    requested_scopes: frozenset[str]
    obtained_at: datetime
    expires_at: datetime | None = None
    expiry_reported: bool = True
    refresh_token: Secret | None = None
    refresh_expires_at: datetime | None = None
    account_id: str = ""
    extra: dict[str, str] = field(default_factory=dict[str, str])
    destination: str = ""
    api_host: str = ""
    serve_until: datetime | None = None

    @property
    def effective_expires_at(self) -> datetime | None:
        """When it stops being fresh; a lifetime that nobody reported is short, never for ever."""
        ends = self.expires_at
        if ends is None and not self.expiry_reported:
            ends = self.obtained_at + timedelta(seconds=UNREPORTED_LIFETIME_SECONDS)
        return _earlier(ends, self.serve_until)

    @property
    def known_end(self) -> datetime | None:
        """Until when whoever is given it may count on it; None where it has no end, or none is known."""
        return _earlier(self.expires_at, self.serve_until)

    @property
    def life(self) -> timedelta | None:
        """From issue to end; None for an unlimited token."""
        ends = self.effective_expires_at
        return None if ends is None else ends - self.obtained_at

    @property
    def declined_scopes(self) -> frozenset[str]:
        """What was asked for and not granted."""
        return self.requested_scopes - self.scopes

    def is_fresh(self, now: datetime, minimum_lifetime_seconds: int | None = None) -> bool:
        """Whether the access token may be handed out without a refresh.

        The minimum lifetime defaults to the smaller of 60 seconds and a tenth of the token's life; what is asked for counts
        up to 900 seconds and half of the life.
        """
        ends, life = self.effective_expires_at, self.life
        if ends is None or life is None:
            return True
        needed = min(timedelta(seconds=60), life / 10)
        if minimum_lifetime_seconds is not None:
            needed = min(timedelta(seconds=max(0, minimum_lifetime_seconds)), timedelta(seconds=900), life / 2)
        return now >= self.obtained_at - CLOCK_TOLERANCE and ends - now > max(needed, timedelta())

    def is_alive(self, now: datetime) -> bool:
        """Whether the access token has not ended yet."""
        ends = self.effective_expires_at
        return ends is None or now < ends

    def may_refresh(self, now: datetime) -> bool:
        """At most one refresh in the smaller of five seconds and half of the token's life."""
        life = self.life
        pause = timedelta(seconds=5) if life is None else min(timedelta(seconds=5), life / 2)
        return not self.obtained_at - CLOCK_TOLERANCE <= now < self.obtained_at + pause

    @property
    def is_long_lived(self) -> bool:
        """Whether it has no known end within a day; such a credential needs an explicit release mode."""
        return self.expires_at is None or self.expires_at - self.obtained_at > LONG_LIVED_AFTER

    def obtained_from(self, destination: str) -> TokenSet:
        """The same token set, bound to where it was obtained."""
        return replace(self, destination=destination)

    def with_account(self, account_id: str) -> TokenSet:
        """The same token set, with the account that it belongs to."""
        return replace(self, account_id=account_id)


@dataclass(frozen=True, slots=True)
class SecretReference:
    """Where a secret is, for whoever may only name it.

    Attributes:
        reference: ``env:<name>`` or ``file:<path>``.
        json_key: The key of the secret in the JSON object that is there; empty where the secret itself is.
    """

    reference: str
    json_key: str = ""


def _earlier(one: datetime | None, other: datetime | None) -> datetime | None:
    if one is None or other is None:
        return other if one is None else one
    return min(one, other)


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A static key of a credential provider."""

    value: Secret


@dataclass(frozen=True, slots=True)
class GrantKey:
    """What a grant is filed under. Absent parts are empty strings, never None.

    Attributes:
        tenant: The tenant.
        workload_id: The workload's immutable id.
        user: The user's key; empty for M2M.
        provider_row: The credential provider's row id.
        flow: How the grant is obtained.
        resource: RFC 8707 resource, or empty.
        audience: Audience, or empty.
        scopes: For M2M and on behalf of a user the exact scope set, sorted and joined by spaces; empty for consents.
    """

    tenant: str
    workload_id: str
    user: str
    provider_row: str
    flow: Flow
    resource: str = ""
    audience: str = ""
    scopes: str = ""

    def parts(self) -> tuple[str, ...]:
        """All parts in their fixed order, for hashing and as associated data."""
        return (
            self.tenant,
            self.workload_id,
            self.user,
            self.provider_row,
            self.flow.value,
            self.resource,
            self.audience,
            self.scopes,
        )


@dataclass(frozen=True, slots=True)
class Grant:
    """What a user, or the client itself, has given us, as it is stored.

    Attributes:
        id: Row id.
        key: What it is filed under.
        state: Where it stands.
        reason: Why it needs consent, if it does.
        generation: Raised whenever the sealed token set changes, by consent, refresh or revocation.
        tokens: The token set; None while pending and after revocation.
        lease_owner: The process that refreshes it now, or empty.
        lease_counter: Counts leases; with the owner it names one lease.
        intent: The generation whose refresh was begun and not seen to end; 0 for none.
        obtained_by: ``consent``, ``client_credentials``, ``on_behalf_of`` or ``elicitation``.
        created_at: When the row was made.
        updated_at: When it last changed.
    """

    id: str
    key: GrantKey
    state: GrantState
    generation: int
    tokens: TokenSet | None
    reason: Reason | None = None
    lease_owner: str = ""
    lease_counter: int = 0
    intent: int = 0
    obtained_by: str = ""
    created_at: datetime | None = None
    updated_at: datetime | None = None
