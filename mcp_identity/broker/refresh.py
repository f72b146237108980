"""How a token is obtained without its user, exactly once, and without losing what the vendor rotated.

Goes through the steps of `leases.py`: takes the lease or waits for whoever has it, sends within two seconds, and stores the
answer or notes the failure. All of it runs as owned work; a cancelled caller changes nothing. Before it takes a lease it has
a turn at the vendor (`upstreams.py`), so a vendor that is not to be asked costs no lease, and who waits for a turn holds none.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

import anyio

from mcp_identity.broker import leases
from mcp_identity.broker.audit import Call
from mcp_identity.broker.leases import Held, Leased, Settled
from mcp_identity.broker.on_behalf import Given, exchange, read_exchange, require_subject
from mcp_identity.broker.pauses import Pauses
from mcp_identity.broker.plan import Plan
from mcp_identity.broker.services import Services
from mcp_identity.broker.upstreams import Turn, as_told
from mcp_identity.broker.vendor import ask, revoke_at_vendor
from mcp_identity.domain.audit import AuditEvent
from mcp_identity.domain.credentials import Flow, Grant, Secret, TokenSet
from mcp_identity.domain.errors import Conflict, IdentityError, RateLimited, StorageError, UpstreamUnavailable
from mcp_identity.domain.http import HttpRequest, HttpResponse
from mcp_identity.domain.provider import OAuthClient
from mcp_identity.oauth.token import client_credentials_request, process_token_response, refresh_request
from mcp_identity.vault.records.grants import Lease, grant_key_hash
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
    """Obtains tokens that need no user.

    Attributes:
        pauses: The grants that a vendor just failed.
    """

    def __init__(self, services: Services) -> None:
        """Keep what it works with."""
        self._services = services
        self.pauses = Pauses(services.clock)

    async def obtain(self, call: Call, plan: Plan, seen: int, *, ahead: bool = False, actor: Secret | None = None) -> int:
        """Obtain a new token, or wait for whoever does.

        Args:
            call: For the trail.
            plan: Which grant.
            seen: The generation that is stale.
            ahead: Nobody waits for it: where it cannot be done at once, it is not done.
            actor: The agent's own token, where an exchange names who acts.

        Returns:
            The generation that answers the calls that wait, or 0; a caller looks at the grant again.

        Raises:
            UpstreamError: If the vendor refused, could not be reached, or is not to be asked now.
            ProviderMisconfigured: If it does not accept our client.
            IdentityError: As the vault says.
        """
        clock, vault = self._services.clock, self._services.vault
        self.pauses.require_none(grant_key_hash(plan.key))
        give_up = clock.monotonic() + GIVE_UP_SECONDS
        watch = _Watch()
        takeover: Held | None = None
        while True:
            async with self._services.upstreams.turn(plan.provider, endpoint_of(plan), waits=not ahead) as turn:
                asked = clock.monotonic()
                match await vault.run(leases.lease(call, plan, seen, vault.process_id, takeover)):
                    case Settled(generation):
                        return generation
                    case Leased(lease, client):
                        lease = await self.started_in_time(plan, lease, asked)
                        return await self._use(call, plan, lease, client, turn, actor)
                    case Held() as held:
                        pass
            if ahead and not self._is_dead(held):
                return 0
            takeover = await self._watch(plan, held, watch, give_up)

    async def _watch(self, plan: Plan, held: Held, watch: _Watch, give_up: float) -> Held | None:
        """Wait until somebody else's lease is gone, or may be taken over; looks beside the writer, which others need.

        Returns:
            The lease, if it may be taken over.
        """
        clock, vault = self._services.clock, self._services.vault
        poll = _SHORTEST_POLL
        while True:
            now = clock.monotonic()
            if watch.seconds(held, now) >= WATCH_SECONDS or self._is_dead(held):
                return held
            if now >= give_up:
                raise UpstreamUnavailable(
                    f"another process is refreshing the grant at {plan.provider.name}; ask again",
                    may_have_been_processed=False,
                    retry_after_seconds=5,
                )
            await anyio.sleep(_SHORTEST_POLL + (poll - _SHORTEST_POLL) * self._lot())
            poll = min(poll * 2, _LONGEST_POLL)
            grant = await vault.read(lambda records: records.find_grant(plan.key))
            if grant is None or (grant.lease_owner, grant.lease_counter) != (held.owner, held.counter):
                return None

    def _is_dead(self, held: Held) -> bool:
        """Whether nobody works on a lease; one of our own is left from an attempt that could not be written down."""
        return held.owner == self._services.vault.process_id or self._services.vault.is_dead(held.owner)

    def _lot(self) -> float:
        return int.from_bytes(self._services.entropy.random_bytes(2), "big") / (1 << 16)

    async def _use(self, call: Call, plan: Plan, lease: Lease, client: OAuthClient, turn: Turn, actor: Secret | None) -> int:
        given = None
        if plan.flow is Flow.ON_BEHALF_OF_TOKEN_EXCHANGE:
            given = Given(require_subject(call.principal, plan.provider), actor)
        try:
            with turn.asking():
                tokens = await self.ask_vendor(plan, lease.grant, client, given)
        except IdentityError as error:
            await self._services.vault.run(
                leases.fail(call, plan, lease, error), leases.obtaining_event(call, plan, plan.scopes)
            )
            if leases.is_condemned(plan, error):
                return 0
            told = as_told(plan.provider, error)
            self.pauses.begin(grant_key_hash(plan.key), told)
            told.audited = True
            raise told from None
        event = leases.obtaining_event(call, plan, tokens.scopes)
        stored = await insist(self._services.vault, leases.store(call, plan, lease, tokens), event)
        if stored.revoked:
            await revoke_at_vendor(self._services.upstreams, plan.provider, plan.dialect, client, tokens)
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

    async def ask_vendor(self, plan: Plan, grant: Grant, client: OAuthClient, given: Given | None = None) -> TokenSet:
        """The one request.

        Args:
            plan: What for.
            grant: As it was leased.
            client: Who we are at the vendor.
            given: What is exchanged, where something is.

        Raises:
            UpstreamError: If it brought nothing.
        """
        previous = grant.tokens if plan.flow.asks_user else None

        def read(response: HttpResponse) -> TokenSet:
            now = self._services.clock.now()
            if given is not None:
                return read_exchange(response, plan, given, now)
            return process_token_response(
                response,
                plan.dialect,
                requested_scopes=previous.requested_scopes if previous else plan.scopes,
                now=now,
                previous=previous,
            ).tokens

        request = exchange(plan, client, given) if given is not None else _request(plan, client, grant)
        tokens = await ask(self._services.transport, plan.provider, request, read)
        return tokens.obtained_from(plan.provider.destination())


def endpoint_of(plan: Plan) -> str:
    """Where a plan's tokens are obtained without the user."""
    server = plan.provider.server
    return (plan.flow.asks_user and server.refresh_url) or server.token_url


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
