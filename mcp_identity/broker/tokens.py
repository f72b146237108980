"""How a token is served: fresh from the vault, or obtained once for everybody who waits.

One refresher per grant: in this process by a shared piece of owned work, across processes by a lease in the vault. A vendor
that has just failed is left in peace for a while. A good token that is about to end is served, and refreshed beside the call.
Consents are made elsewhere; here they are only asked for.
"""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Generic, Protocol, TypeVar

from mcp_identity.broker.access import require_access, require_workload
from mcp_identity.broker.ahead import is_ageing
from mcp_identity.broker.answers import HandleIssued, TokenReleased
from mcp_identity.broker.audit import Call, write_refusal
from mcp_identity.broker.on_behalf import actor_plan, require_vouched
from mcp_identity.broker.plan import Plan
from mcp_identity.broker.refresh import Refresher, endpoint_of
from mcp_identity.broker.release import release_token, require_way_out, use_token
from mcp_identity.broker.services import Services
from mcp_identity.broker.tasks import Owned
from mcp_identity.domain.api_call import Attempt
from mcp_identity.domain.audit import AuditEvent
from mcp_identity.domain.credentials import CLOCK_TOLERANCE, Flow, Grant, GrantState, Reason, Secret, TokenSet
from mcp_identity.domain.errors import (
    Conflict,
    IdentityError,
    ProviderMisconfigured,
    StorageError,
    TokenExpired,
    UpstreamError,
    VaultUnavailable,
)
from mcp_identity.domain.provider import CredentialProvider
from mcp_identity.oauth.scopes import with_implied
from mcp_identity.vault.records import Records
from mcp_identity.vault.records.grants import grant_key_hash

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)

_ROUNDS = 8
RENEWAL_SECONDS = 60.0
"""How often an API that refuses a token that should be good may cause a refresh of the same grant."""


class Door(Protocol[T_co]):
    """What a token is served through: it lets the token go, or uses it, and writes that down, inside the unit."""

    def __call__(self, records: Records, grant: Grant, missing: frozenset[str], *, refreshed: bool) -> T_co:
        """Serve the token of a grant.

        Args:
            records: The open transaction.
            grant: Active, with a token that is good for what was asked.
            missing: What was asked for and declined at the last consent.
            refreshed: The token was obtained within this call.
        """
        ...


@dataclass(frozen=True, slots=True)
class NeedsConsent:
    """Only the user can help.

    Attributes:
        reason: Why.
        scopes: What to ask for: what is needed and what is already granted.
        missing: What is needed and not granted.
    """

    reason: Reason
    scopes: frozenset[str]
    missing: frozenset[str]


@dataclass(frozen=True, slots=True)
class _Served(Generic[T]):
    """What the door gave; and the grant, if its token is about to end."""

    value: T
    ageing: Grant | None


@dataclass(frozen=True, slots=True)
class _Stale:
    """There is a way to a fresh token without the user."""

    grant: Grant | None


@dataclass(frozen=True, slots=True)
class _AskAccess:
    """The token that would leave may do more than was decided on."""

    scopes: frozenset[str]


class Tokens:
    """Serves tokens to principals."""

    def __init__(self, services: Services) -> None:
        """Nothing is under way yet."""
        self._services = services
        self._refresher = Refresher(services)
        self._under_way: dict[bytes, Owned[int]] = {}
        self._ahead = 0
        self._renewed: dict[bytes, float] = {}

    async def get(self, call: Call, plan: Plan) -> TokenReleased | HandleIssued | NeedsConsent:
        """Serve a token to the principal itself, or say that the user must be asked.

        Raises:
            AccessDenied: If the principal may not, or the release mode keeps the token here.
            UpstreamError: If it had to be obtained and could not be, and no token that still lives can be served instead.
            IdentityError: As the vault and the release say.
        """
        require_access(call.principal, call.action, plan.provider, plan.scopes)
        require_way_out(plan.provider, default_release=self._services.default_release)
        return await self.serve(call, plan, self._releasing(call, plan))

    async def serve(self, call: Call, plan: Plan, door: Door[T], attempt: Attempt | None = None) -> T | NeedsConsent:
        """Serve a token through a door, or say that the user must be asked.

        Args:
            call: Who asks.
            plan: Which grant.
            door: What becomes of the token.
            attempt: The request to the vendor's API that the token is for, for the decision.

        Raises:
            IdentityError: As `get`, and as the door says.
        """
        allowed = plan.scopes
        require_access(call.principal, call.action, plan.provider, allowed, attempt)
        obtained = 0
        failed: IdentityError | None = None
        name = grant_key_hash(plan.key)
        for _ in range(_ROUNDS):
            unit = self._serving(call, plan, door, allowed, obtained, serve_alive=failed is not None)
            found = await self._services.vault.run(unit, _event(call, plan), name)
            match found:
                case _Served(value, ageing):
                    if ageing is not None:
                        self._begin_ahead(call, plan, ageing)
                    return value
                case NeedsConsent():
                    return found
                case _AskAccess():
                    allowed |= found.scopes
                    require_access(call.principal, call.action, plan.provider, allowed, attempt)
                case _Stale():
                    if failed is not None:
                        raise failed
                    try:
                        obtained = await self._obtain(call, plan, found.grant)
                    except (UpstreamError, ProviderMisconfigured) as error:
                        failed = error
                    except TokenExpired:
                        continue  # the user's token of whoever asked first; whether ours lives, the next round sees
        raise Conflict(f"the grant at {plan.provider.name} keeps changing; ask again", retryable=True)

    async def renew(self, call: Call, plan: Plan, grant: Grant) -> bool:
        """Obtain a new token because the vendor's API refused this one before its time; at most once in a minute per grant.

        Returns:
            Whether another token, or another answer to the question for one, is there now.
        """
        clock, name, tokens = self._services.clock, grant_key_hash(plan.key), grant.tokens
        now, ticks = clock.now(), clock.monotonic()
        if tokens is None or tokens.obtained_at - CLOCK_TOLERANCE <= now < tokens.obtained_at + timedelta(
            seconds=RENEWAL_SECONDS
        ):
            return False
        self._renewed = {key: at for key, at in self._renewed.items() if ticks < at + RENEWAL_SECONDS}
        if name in self._renewed or not _may_obtain(plan, tokens, now):
            return False
        self._renewed[name] = ticks
        try:
            await self._obtain(call, plan, grant)
        except (UpstreamError, ProviderMisconfigured, Conflict):
            return False
        return True

    async def forced(self, plan: Plan) -> NeedsConsent:
        """What to ask for in a consent that nobody needs: also what is granted, because it replaces that."""
        grant = await self._services.vault.read(lambda records: records.find_grant(plan.key))
        return replace(_ask(plan, grant), reason=Reason.FORCED)

    def _releasing(self, call: Call, plan: Plan) -> Door[TokenReleased | HandleIssued]:
        def door(records: Records, grant: Grant, missing: frozenset[str], *, refreshed: bool) -> TokenReleased | HandleIssued:
            released = release_token(
                records,
                call.principal,
                plan.provider,
                grant,
                default_release=self._services.default_release,
                missing_scopes=missing,
                refreshed=refreshed,
            )
            scopes = grant.tokens.scopes if grant.tokens else frozenset[str]()
            event = call.event(provider=plan.provider.name, flow=plan.flow.value, scopes=scopes)
            detail = {"missing_scopes": " ".join(released.missing_scopes)} if released.missing_scopes else {}
            if isinstance(released, HandleIssued):
                detail["released"] = "handle"
            records.append_audit(event.ending("ok", **detail))
            return released

        return door

    def _serving(
        self, call: Call, plan: Plan, door: Door[T], allowed: frozenset[str], obtained: int, *, serve_alive: bool
    ) -> Callable[[Records], _Served[T] | NeedsConsent | _Stale | _AskAccess]:
        def unit(records: Records) -> _Served[T] | NeedsConsent | _Stale | _AskAccess:
            require_current(records, call, plan)
            grant = records.find_grant(plan.key)
            outcome = _judge(plan, grant, records, obtained, serve_alive=serve_alive)
            if outcome is not None:
                return outcome
            if grant is None or grant.tokens is None:
                raise Conflict("the grant is being made; ask again", retryable=True)
            if not grant.tokens.scopes <= allowed:
                return _AskAccess(grant.tokens.scopes)
            ageing = grant if is_ageing(grant, records.now) and _may_obtain_beside(plan, grant.tokens, records.now) else None
            return _Served(door(records, grant, plan.scopes - granted_scopes(plan, grant), refreshed=bool(obtained)), ageing)

        return unit

    async def _obtain(self, call: Call, plan: Plan, seen: Grant | None) -> int:
        """Obtain a token once, for every caller in this process that waits for the same grant.

        Returns:
            The generation that answers these calls.
        """
        try:
            return await self._under_way_for(call, plan, seen).wait()
        except IdentityError as error:
            error.audited = False  # the trail may know of the refresh; it does not know of this call
            raise

    def _under_way_for(self, call: Call, plan: Plan, seen: Grant | None) -> Owned[int]:
        name = grant_key_hash(plan.key)
        owned = self._under_way.get(name)
        if owned is None:
            self._refresher.pauses.require_none(name)
            self._services.upstreams.require(plan.provider, endpoint_of(plan))
            owned = self._start(name, lambda: self._obtain_as(call, plan, seen.generation if seen else 0))
        return owned

    async def _obtain_as(self, call: Call, plan: Plan, seen: int) -> int:
        """Obtain it; where the vendor wants to know who acts, with the agent's own token, which is had as any other."""
        acting, actor = actor_plan(plan), None
        if acting is not None:
            served = await self.serve(call, acting, _acting(call, acting))
            actor = None if isinstance(served, NeedsConsent) else served
        return await self._refresher.obtain(call, plan, seen, actor=actor)

    def _start(self, name: bytes, obtain: Callable[[], Awaitable[int]]) -> Owned[int]:
        async def work() -> int:
            try:
                return await obtain()
            finally:
                del self._under_way[name]

        owned = self._under_way[name] = self._services.tasks.start(work)
        return owned

    def _begin_ahead(self, call: Call, plan: Plan, grant: Grant) -> None:
        """Refresh a grant beside the call that its token answered, if nothing stands against it.

        A command ends with its call, and would be kept from it.
        """
        name, at_once = grant_key_hash(plan.key), self._services.limits.refreshes_ahead
        if name in self._under_way or self._ahead >= at_once or call.principal.authenticated_by == "cli":
            return
        if self._refresher.pauses.is_on(name) or not self._services.upstreams.is_calm(plan.provider, endpoint_of(plan)):
            return

        async def obtain() -> int:
            try:
                return await self._refresher.obtain(call, plan, grant.generation, ahead=True)
            except IdentityError as error:
                refresh = replace(call, action="refresh")
                with contextlib.suppress(StorageError):  # nobody waits; where nothing can be written, no token leaves either
                    await write_refusal(self._services.vault, refresh, error, provider=plan.provider.name)
                return 0
            finally:
                self._ahead -= 1

        with contextlib.suppress(VaultUnavailable):  # the server is ending
            self._start(name, obtain)
            self._ahead += 1


def require_current(records: Records, call: Call, plan: Plan) -> None:
    """Check, inside the unit, that what was decided on still stands.

    Raises:
        Conflict: If the provider was changed or removed meanwhile.
        AccessDenied: If the workload was.
        TokenExpired: If the user's own token has ended, where it is what the answer is given for.
    """
    provider = records.find_provider(plan.provider.tenant, plan.provider.name)
    if provider != plan.provider:
        raise Conflict(f"the provider {plan.provider.name} was changed meanwhile; ask again", retryable=True)
    require_workload(records, call.principal)
    if plan.flow is Flow.ON_BEHALF_OF_TOKEN_EXCHANGE:
        require_vouched(records, call.principal, plan.provider)


def _acting(call: Call, plan: Plan) -> Door[Secret]:
    """The agent's own token, for an exchange in which the agent is the actor; it does not leave."""

    def door(records: Records, grant: Grant, missing: frozenset[str], *, refreshed: bool) -> Secret:
        del missing, refreshed
        scopes = grant.tokens.scopes if grant.tokens else frozenset[str]()
        event = call.event(provider=plan.provider.name, flow=plan.flow.value, scopes=scopes)
        records.append_audit(event.ending("ok", step="actor"))
        return use_token(grant)

    return door


def _judge(
    plan: Plan, grant: Grant | None, records: Records, obtained: int, *, serve_alive: bool
) -> NeedsConsent | _Stale | None:
    """What to do with the grant as it stands; None to serve it."""
    if grant is None or grant.tokens is None or grant.state is not GrantState.ACTIVE:
        return _ask(plan, grant) if plan.flow.asks_user else _Stale(grant)
    tokens, now, asked = grant.tokens, records.now, plan.request.minimum_lifetime_seconds
    missing = plan.scopes - granted_scopes(plan, grant)
    if plan.flow.asks_user and not missing <= tokens.declined_scopes:
        return NeedsConsent(Reason.MISSING_SCOPES, plan.scopes | tokens.scopes, missing)
    just_obtained = bool(obtained) and grant.generation >= obtained
    alive = tokens.is_alive(now)
    if just_obtained or tokens.is_fresh(now, asked) or (alive and (serve_alive or not tokens.may_refresh(now))):
        return None
    if _may_obtain(plan, tokens, now):
        return _Stale(grant)
    if alive and asked is None:
        return None
    return NeedsConsent(Reason.EXPIRED, plan.scopes | tokens.scopes, missing)


def _may_obtain(plan: Plan, tokens: TokenSet, now: datetime) -> bool:
    """Whether there is a way to a new token without the user."""
    return not plan.flow.asks_user or may_be_refreshed(plan.provider, tokens, now)


def _may_obtain_beside(plan: Plan, tokens: TokenSet, now: datetime) -> bool:
    """Whether that would leave the token that is served meanwhile alone, and bring a better one.

    What was obtained on a user's behalf ends with the user's own token, so another exchange of that one would gain nothing.
    """
    return plan.flow is Flow.M2M or (plan.dialect.tokens_outlive_refresh and may_be_refreshed(plan.provider, tokens, now))


def may_be_refreshed(provider: CredentialProvider, tokens: TokenSet, now: datetime) -> bool:
    """Whether there is a refresh token that still lives, and was given by the endpoints that it would go to."""
    ended = tokens.refresh_expires_at is not None and tokens.refresh_expires_at <= now
    return tokens.refresh_token is not None and not ended and tokens.destination == provider.destination()


def _ask(plan: Plan, grant: Grant | None) -> NeedsConsent:
    if grant is None or grant.state is GrantState.PENDING:
        return NeedsConsent(Reason.NO_GRANT, plan.scopes, plan.scopes)
    granted = grant.tokens.scopes if grant.tokens else frozenset[str]()
    return NeedsConsent(grant.reason or Reason.EXPIRED, plan.scopes | granted, plan.scopes - granted_scopes(plan, grant))


def granted_scopes(plan: Plan, grant: Grant) -> frozenset[str]:
    """What a grant may be used for, with all that its scopes include."""
    return with_implied(grant.tokens.scopes, plan.dialect) if grant.tokens else frozenset()


def _event(call: Call, plan: Plan) -> AuditEvent:
    return call.event(provider=plan.provider.name, flow=plan.flow.value, scopes=plan.scopes)
