"""How a token is obtained without its user, exactly once, and without losing what the vendor rotated.

    lease and intent committed → request within two seconds → compare-and-swap on the generation

A success beats a failure of the same generation: it is written with the lease or without it. A failure is noted only under
our own lease. Where the answer was lost, the intent stays open, and a later `invalid_grant` means that it was lost in
flight. All of it runs as owned work; a cancelled caller changes nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

import anyio

from mcp_identity.broker.audit import Call
from mcp_identity.broker.plan import Plan
from mcp_identity.broker.services import Services
from mcp_identity.broker.vendor import client_of, revoke_at_vendor
from mcp_identity.domain.audit import AuditEvent
from mcp_identity.domain.credentials import Flow, Grant, GrantState, Reason, Secret, TokenSet
from mcp_identity.domain.errors import (
    Conflict,
    IdentityError,
    RateLimited,
    StorageError,
    UpstreamBadResponse,
    UpstreamRejected,
    UpstreamUnavailable,
)
from mcp_identity.domain.http import HttpRequest
from mcp_identity.domain.provider import OAuthClient
from mcp_identity.oauth.token import client_credentials_request, process_token_response, refresh_request
from mcp_identity.vault.records import Records
from mcp_identity.vault.records.grants import Lease
from mcp_identity.vault.vault import Vault
from mcp_identity.vault.writer import Unit

T = TypeVar("T")

START_WITHIN_SECONDS = 2.0
WATCH_SECONDS = 15.0
GIVE_UP_SECONDS = 40.0
_SHORTEST_POLL, _LONGEST_POLL = 0.025, 0.25
_PAUSES = (0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2)
_CONDEMNING = frozenset({"invalid_grant"})


@dataclass(frozen=True, slots=True)
class _Leased:
    """The right to obtain, and what it takes."""

    lease: Lease
    client: OAuthClient


@dataclass(frozen=True, slots=True)
class _Held:
    """Somebody else obtains it."""

    owner: str
    counter: int


@dataclass(frozen=True, slots=True)
class _Settled:
    """There is nothing to obtain any more; the grant as it stands decides."""

    generation: int


class Refresher:
    """Obtains tokens that need no user."""

    def __init__(self, services: Services) -> None:
        """Keep what it works with."""
        self._services = services

    async def obtain(self, call: Call, plan: Plan, seen: int) -> int:
        """Obtain a new token, or wait for whoever does.

        Args:
            call: For the trail.
            plan: Which grant.
            seen: The generation that is stale.

        Returns:
            The generation that answers the calls that wait; a caller looks at the grant again.

        Raises:
            UpstreamError: If the vendor refused, or could not be reached.
            IdentityError: As the vault says.
        """
        clock = self._services.clock
        give_up = clock.monotonic() + GIVE_UP_SECONDS
        watched: tuple[_Held, float] | None = None
        takeover: _Held | None = None
        poll = _SHORTEST_POLL
        while True:
            asked = clock.monotonic()
            found = await self._services.vault.run(self._leasing(plan, seen, takeover))
            match found:
                case _Settled():
                    return found.generation
                case _Leased():
                    return await self._use(call, plan, found, asked)
                case _Held():
                    now = clock.monotonic()
                    if watched is None or watched[0] != found:
                        watched = (found, now)
                    known_dead = self._services.vault.is_dead(found.owner)
                    takeover = found if known_dead or now - watched[1] >= WATCH_SECONDS else None
                    if now >= give_up:
                        raise UpstreamUnavailable(
                            f"another process is refreshing the grant at {plan.provider.name}; ask again",
                            may_have_been_processed=False,
                            retry_after_seconds=5,
                        )
                    if takeover is None:
                        await anyio.sleep(poll)
                        poll = min(poll * 2, _LONGEST_POLL)

    def _leasing(self, plan: Plan, seen: int, takeover: _Held | None):  # noqa: ANN202 - a unit of the three outcomes above
        owner, needs_user = self._services.vault.process_id, plan.flow is not Flow.M2M

        def unit(records: Records) -> _Leased | _Held | _Settled:
            grant = records.find_grant(plan.key)
            if grant is None:
                if needs_user:
                    return _Settled(0)
                grant = records.insert_pending(plan.key)
            if grant.state is GrantState.REVOKED and not needs_user:
                grant = records.reopen_grant(grant)
            elif grant.generation != seen and grant.tokens is not None:
                return _Settled(grant.generation)
            if needs_user and (grant.state is not GrantState.ACTIVE or grant.tokens is None):
                return _Settled(0)
            held = None
            if grant.lease_owner:
                held = _Held(grant.lease_owner, grant.lease_counter)
                if held != takeover:
                    return held
            lease = records.take_lease(grant, owner, intent=needs_user, from_lease=(held.owner, held.counter) if held else None)
            if lease is None:
                raise Conflict("the grant changed inside its own transaction", retryable=True)
            return _Leased(lease, client_of(records, plan.provider))

        return unit

    async def _use(self, call: Call, plan: Plan, leased: _Leased, asked: float) -> int:
        lease = await self._started_in_time(plan, leased.lease, asked)
        tokens: TokenSet | None = None
        try:
            request = _request(plan, leased.client, lease.grant)
            response = await self._services.transport.send(request, allow_http_loopback=plan.provider.allow_http_loopback)
            tokens = process_token_response(
                response,
                plan.dialect,
                requested_scopes=plan.scopes if plan.flow is Flow.M2M else _requested(lease.grant),
                now=self._services.clock.now(),
                previous=lease.grant.tokens if plan.flow is not Flow.M2M else None,
            ).tokens
        except IdentityError as error:
            return await self._failed(call, plan, lease, error)
        return await self._succeeded(call, plan, lease, leased.client, tokens)

    async def _started_in_time(self, plan: Plan, lease: Lease, asked: float) -> Lease:
        """Lease again if the writer took so long that another process may soon think us dead."""
        clock = self._services.clock
        while clock.monotonic() - asked > START_WITHIN_SECONDS:
            asked, held = clock.monotonic(), lease
            renewed = await self._services.vault.run(lambda records, held=held: records.renew_lease(held))
            if renewed is None:
                raise Conflict(f"the grant at {plan.provider.name} was taken over; ask again", retryable=True)
            lease = renewed
        return lease

    async def _succeeded(self, call: Call, plan: Plan, lease: Lease, client: OAuthClient, tokens: TokenSet) -> int:
        by = "client_credentials" if plan.flow is Flow.M2M else lease.grant.obtained_by
        verb = "obtain" if plan.flow is Flow.M2M else "refresh"
        event = call.event(provider=plan.provider.name, flow=plan.flow.value, scopes=tokens.scopes, action=verb)

        def unit(records: Records) -> tuple[Grant | None, bool]:
            stored = records.put_tokens(lease, tokens, by)
            if stored is not None:
                records.append_audit(event)
                return stored, False
            current = records.find_grant(plan.key)
            revoked = current is None or current.state is GrantState.REVOKED
            records.append_audit(event.ending("conflict", dropped="revoked" if revoked else "a newer generation stands"))
            return None, revoked

        stored, revoked = await insist(self._services.vault, unit, event)
        if stored is not None:
            return stored.generation
        if revoked:
            await revoke_at_vendor(self._services.transport, plan.provider, plan.dialect, client, tokens)
        return 0

    async def _failed(self, call: Call, plan: Plan, lease: Lease, error: IdentityError) -> int:
        event = call.event(provider=plan.provider.name, flow=plan.flow.value, action="refresh", outcome=error.code)
        condemned = (
            plan.flow is not Flow.M2M
            and isinstance(error, UpstreamRejected)
            and error.error in _CONDEMNING | set(plan.dialect.dead_grant_errors)
        )
        reason = Reason.LOST_IN_FLIGHT if lease.after_open_intent else Reason.REFRESH_REJECTED
        unseen = isinstance(error, UpstreamUnavailable | UpstreamBadResponse) and error.may_have_been_processed

        def unit(records: Records) -> None:
            if condemned:
                records.mark_needs_consent(lease, reason)
            else:
                records.release_lease(lease, keep_intent=unseen or lease.after_open_intent)
            detail = {"upstream_error": error.error} if isinstance(error, UpstreamRejected) else {}
            records.append_audit(event.ending(error.code, **detail, **({"reason": reason.value} if condemned else {})))

        await self._services.vault.run(unit, event)
        if condemned:
            return 0
        raise error


async def insist(vault: Vault, unit: Unit[T], event: AuditEvent) -> T:
    """Store what a vendor gave, again and again while the vault cannot: what it rotated exists nowhere else."""
    for pause in _PAUSES:
        try:
            return await vault.run(unit, event)
        except (StorageError, RateLimited) as error:
            if not error.retryable:
                raise
            await anyio.sleep(pause)
    return await vault.run(unit, event)


def _requested(grant: Grant) -> frozenset[str]:
    return grant.tokens.requested_scopes if grant.tokens else frozenset()


def _request(plan: Plan, client: OAuthClient, grant: Grant) -> HttpRequest:
    resource, audience = plan.key.resource, plan.key.audience
    server = plan.provider.server
    if plan.flow is Flow.M2M:
        return client_credentials_request(
            server, client, plan.dialect, scopes=plan.scopes, resource=resource, audience=audience
        )
    refresh_token: Secret | None = grant.tokens.refresh_token if grant.tokens else None
    if refresh_token is None:
        raise Conflict("the grant has no refresh token any more", retryable=True)
    return refresh_request(server, client, plan.dialect, refresh_token=refresh_token, resource=resource, audience=audience)
