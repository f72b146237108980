"""How a token is obtained without its user, exactly once, and without losing what the vendor rotated.

Goes through the steps of `leases.py`: takes the lease or waits for whoever has it, sends within two seconds, and stores the
answer or notes the failure. All of it runs as owned work; a cancelled caller changes nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

import anyio

from mcp_identity.broker import leases
from mcp_identity.broker.audit import Call
from mcp_identity.broker.leases import Held, Leased, Settled
from mcp_identity.broker.plan import Plan
from mcp_identity.broker.services import Services
from mcp_identity.broker.vendor import ask, revoke_at_vendor
from mcp_identity.domain.audit import AuditEvent
from mcp_identity.domain.credentials import Flow, Grant, Secret, TokenSet
from mcp_identity.domain.errors import Conflict, IdentityError, RateLimited, StorageError, UpstreamUnavailable
from mcp_identity.domain.http import HttpRequest, HttpResponse
from mcp_identity.domain.provider import OAuthClient
from mcp_identity.oauth.token import client_credentials_request, process_token_response, refresh_request
from mcp_identity.vault.records.grants import Lease
from mcp_identity.vault.vault import Vault
from mcp_identity.vault.writer import Unit

T = TypeVar("T")

START_WITHIN_SECONDS = 2.0
WATCH_SECONDS = 15.0
GIVE_UP_SECONDS = 40.0
_SHORTEST_POLL, _LONGEST_POLL = 0.025, 0.25
_PAUSES = (0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2)


@dataclass(slots=True)
class _Watch:
    """A lease of somebody else's, and since when we have seen it unchanged."""

    held: Held | None = None
    since: float = 0.0

    def seconds(self, held: Held, now: float) -> float:
        """How long this very lease has been watched."""
        if held != self.held:
            self.held, self.since = held, now
        return now - self.since


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
            The generation that answers the calls that wait, or 0; a caller looks at the grant again.

        Raises:
            UpstreamError: If the vendor refused, or could not be reached.
            IdentityError: As the vault says.
        """
        clock, vault = self._services.clock, self._services.vault
        give_up = clock.monotonic() + GIVE_UP_SECONDS
        watch = _Watch()
        takeover: Held | None = None
        poll = _SHORTEST_POLL
        while True:
            asked = clock.monotonic()
            match await vault.run(leases.lease(call, plan, seen, vault.process_id, takeover)):
                case Settled(generation):
                    return generation
                case Leased(lease, client):
                    return await self._use(call, plan, lease, client, asked)
                case Held() as held:
                    now = clock.monotonic()
                    # A lease of our own that nobody works on is left from an attempt that could not be written down.
                    dead = held.owner == vault.process_id or vault.is_dead(held.owner)
                    takeover = held if watch.seconds(held, now) >= WATCH_SECONDS or dead else None
                    if now >= give_up:
                        raise UpstreamUnavailable(
                            f"another process is refreshing the grant at {plan.provider.name}; ask again",
                            may_have_been_processed=False,
                            retry_after_seconds=5,
                        )
                    if takeover is None:
                        await anyio.sleep(poll)
                        poll = min(poll * 2, _LONGEST_POLL)

    async def _use(self, call: Call, plan: Plan, lease: Lease, client: OAuthClient, asked: float) -> int:
        lease = await self.started_in_time(plan, lease, asked)
        try:
            tokens = await self.ask_vendor(plan, lease.grant, client)
        except IdentityError as error:
            await self._services.vault.run(
                leases.fail(call, plan, lease, error), leases.obtaining_event(call, plan, plan.scopes)
            )
            if leases.is_condemned(plan, error):
                return 0
            raise
        event = leases.obtaining_event(call, plan, tokens.scopes)
        stored = await insist(self._services.vault, leases.store(call, plan, lease, tokens), event)
        if stored.revoked:
            await revoke_at_vendor(self._services.transport, plan.provider, plan.dialect, client, tokens)
        return stored.generation

    async def started_in_time(self, plan: Plan, lease: Lease, asked: float) -> Lease:
        """Lease again if the writer took so long that another process may soon think us dead.

        Raises:
            Conflict: If one did.
        """
        clock = self._services.clock
        while clock.monotonic() - asked > START_WITHIN_SECONDS:
            asked, held = clock.monotonic(), lease
            renewed = await self._services.vault.run(lambda records, held=held: records.renew_lease(held))
            if renewed is None:
                raise Conflict(f"the grant at {plan.provider.name} was taken over; ask again", retryable=True)
            lease = renewed
        return lease

    async def ask_vendor(self, plan: Plan, grant: Grant, client: OAuthClient) -> TokenSet:
        """The one request.

        Raises:
            UpstreamError: If it brought nothing.
        """
        m2m = plan.flow is Flow.M2M

        def read(response: HttpResponse) -> TokenSet:
            return process_token_response(
                response,
                plan.dialect,
                requested_scopes=plan.scopes if m2m or grant.tokens is None else grant.tokens.requested_scopes,
                now=self._services.clock.now(),
                previous=None if m2m else grant.tokens,
            ).tokens

        tokens = await ask(self._services.transport, plan.provider, _request(plan, client, grant), read)
        return tokens.obtained_from(plan.provider.destination())


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


def _request(plan: Plan, client: OAuthClient, grant: Grant) -> HttpRequest:
    resource, audience = plan.key.resource, plan.key.audience
    server = plan.provider.server
    if plan.flow is Flow.M2M:
        return client_credentials_request(
            server, client, plan.dialect, scopes=plan.scopes, resource=resource, audience=audience
        )
    refresh_token: Secret | None = grant.tokens.refresh_token if grant.tokens else None
    if grant.tokens is None or refresh_token is None or grant.tokens.destination != plan.provider.destination():
        raise Conflict("the grant has no refresh token for this provider any more", retryable=True)
    return refresh_request(server, client, plan.dialect, refresh_token=refresh_token, resource=resource, audience=audience)
