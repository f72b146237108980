"""The steps of a refresh as units of work; `refresh.py` goes through them, and a test goes through them in every order.

    lease and intent committed → (request) → compare-and-swap on the generation

A success beats a failure of the same generation: it is written with the lease or without it. A failure is noted only under
our own lease. Where the answer was lost, the intent stays open, and a later `invalid_grant` means that it was lost in
flight.
"""

from __future__ import annotations

from dataclasses import dataclass

from mcp_identity.broker.audit import Call
from mcp_identity.broker.on_behalf import OBTAINED_BY, require_vouched
from mcp_identity.broker.plan import Plan
from mcp_identity.broker.vendor import client_of
from mcp_identity.domain.audit import AuditEvent
from mcp_identity.domain.credentials import Flow, GrantState, Reason, TokenSet
from mcp_identity.domain.errors import Conflict, IdentityError, UpstreamBadResponse, UpstreamRejected, UpstreamUnavailable
from mcp_identity.domain.provider import OAuthClient
from mcp_identity.vault.records import Records
from mcp_identity.vault.records.grants import Lease
from mcp_identity.vault.writer import Unit

_CONDEMNING = frozenset({"invalid_grant"})
_OBTAINED_BY = {Flow.M2M: "client_credentials", Flow.ON_BEHALF_OF_TOKEN_EXCHANGE: OBTAINED_BY}


@dataclass(frozen=True, slots=True)
class Leased:
    """The right to obtain, and what it takes."""

    lease: Lease
    client: OAuthClient


@dataclass(frozen=True, slots=True)
class Held:
    """Somebody else obtains it."""

    owner: str
    counter: int


@dataclass(frozen=True, slots=True)
class Settled:
    """There is nothing to obtain any more; the grant as it stands decides.

    Attributes:
        generation: The token that stands there instead, or 0.
    """

    generation: int


@dataclass(frozen=True, slots=True)
class Stored:
    """What became of an answer.

    Attributes:
        generation: The generation that it was stored as; 0 where it lost.
        revoked: It came for a grant that had been revoked, so the vendor has to take it back.
    """

    generation: int
    revoked: bool = False


def lease(call: Call, plan: Plan, seen: int, owner: str, takeover: Held | None = None) -> Unit[Leased | Held | Settled]:
    """Become the only one who obtains the next generation.

    The trail is written first: if it cannot be, the vendor rotates nothing.

    Args:
        call: For the trail.
        plan: Which grant.
        seen: The generation that is stale.
        owner: This process.
        takeover: A lease whose holder is dead, or was watched for long enough.
    """
    needs_user = plan.flow.asks_user
    event = obtaining_event(call, plan, plan.scopes).ending("ok", step="begun")

    def unit(records: Records) -> Leased | Held | Settled:
        if plan.flow is Flow.ON_BEHALF_OF_TOKEN_EXCHANGE:
            require_vouched(records, call.principal, plan.provider)
        grant = records.find_grant(plan.key)
        if grant is None:
            if needs_user:
                return Settled(0)
            grant = records.insert_pending(plan.key)
        if grant.state is GrantState.REVOKED and not needs_user:
            grant = records.reopen_grant(grant)
        elif grant.generation != seen and grant.tokens is not None:
            return Settled(grant.generation)
        if needs_user and (grant.state is not GrantState.ACTIVE or grant.tokens is None):
            return Settled(0)
        held = Held(grant.lease_owner, grant.lease_counter) if grant.lease_owner else None
        if held is not None and held != takeover:
            return held
        taken = records.take_lease(grant, owner, intent=needs_user, from_lease=(held.owner, held.counter) if held else None)
        if taken is None:
            raise Conflict("the grant changed inside its own transaction", retryable=True)
        client = client_of(records, plan.provider)
        records.append_audit(event)
        return Leased(taken, client)

    return unit


def store(call: Call, plan: Plan, held: Lease, tokens: TokenSet) -> Unit[Stored]:
    """Store what the vendor gave, unless the grant was revoked or a newer generation stands."""
    by = _OBTAINED_BY.get(plan.flow, held.grant.obtained_by)
    event = obtaining_event(call, plan, tokens.scopes)

    def unit(records: Records) -> Stored:
        stored = records.put_tokens(held, tokens, by)
        if stored is not None:
            records.append_audit(event)
            return Stored(stored.generation)
        current = records.find_grant(plan.key)
        if current is not None and current.tokens == tokens:
            return Stored(current.generation)  # it stands already: the COMMIT that nobody was sure of had succeeded
        revoked = current is None or current.state is GrantState.REVOKED
        why = "the grant was revoked" if revoked else "a newer generation stands"
        records.append_audit(event.ending("conflict", dropped=why))
        return Stored(0, revoked)

    return unit


def is_condemned(plan: Plan, error: IdentityError) -> bool:
    """Whether the vendor said that only the user can help now."""
    dead = _CONDEMNING | set(plan.dialect.dead_grant_errors)
    return plan.flow.asks_user and isinstance(error, UpstreamRejected) and error.error in dead


def fail(call: Call, plan: Plan, held: Lease, error: IdentityError) -> Unit[None]:
    """Note that the request brought nothing, and let others try; only our own lease is touched."""
    condemned = is_condemned(plan, error)
    reason = Reason.LOST_IN_FLIGHT if held.after_open_intent else Reason.REFRESH_REJECTED
    unseen = isinstance(error, UpstreamUnavailable | UpstreamBadResponse) and error.may_have_been_processed
    event = obtaining_event(call, plan, frozenset()).ending(error.code)
    if isinstance(error, UpstreamRejected):
        event = event.ending(error.code, upstream_error=error.error)

    def unit(records: Records) -> None:
        if not condemned:
            records.release_lease(held, keep_intent=unseen or held.after_open_intent)
            records.append_audit(event)
        elif records.mark_needs_consent(held, reason):
            records.append_audit(event.ending(error.code, reason=reason.value))
        else:
            records.append_audit(event.ending(error.code, dropped="another refresh came first"))

    return unit


def obtaining_event(call: Call, plan: Plan, scopes: frozenset[str]) -> AuditEvent:
    """What the trail says about a step of a refresh, or of a request for a token that nobody is asked about."""
    action = "refresh" if plan.flow.asks_user else "obtain"
    return call.event(provider=plan.provider.name, flow=plan.flow.value, scopes=scopes, action=action)
