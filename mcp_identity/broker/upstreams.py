"""May a vendor be asked now, by how many at once, and what has it answered of late? One record for each provider.

A request to a vendor has a turn: a place among those that may be under way to it (`room.py`), and the leave of the endpoint's
breaker (`breaker.py`). Whoever gets none is told at once, and when to come back; nobody waits on a vendor that does not answer.
What a vendor itself asked for (`Retry-After`) holds for all of its authorization server. Both are per process on purpose:
replicas need not agree about whom they can reach, and a record that survived a restart would outlive its cause. A provider
that was changed begins anew.

An agent chooses what it calls at a vendor's API, so what becomes of a request that arrived there counts for nothing: one
agent's slow calls must not close the door to the others. Only an API that cannot be reached is left in peace.
"""

from __future__ import annotations

import logging
import math
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field

from mcp_identity.broker.breaker import Breaker, Result, Ticket
from mcp_identity.broker.room import NoRoom, Room
from mcp_identity.domain.clock import Clock
from mcp_identity.domain.errors import (
    IdentityError,
    ProviderMisconfigured,
    UpstreamBadResponse,
    UpstreamError,
    UpstreamRejected,
    UpstreamTls,
    UpstreamUnavailable,
    UrlRefused,
)
from mcp_identity.domain.provider import CredentialProvider
from mcp_identity.transport import Transport

PLACES = 32
"""Requests to one provider's authorization server at once."""
API_PLACES = 64
"""The same to its API."""
MOST_PROVIDERS = 4096
MOST_ENDPOINTS = 64
_API = "api "
_BUSY_SECONDS = 1
_CLIENT_REFUSED = frozenset({"invalid_client", "incorrect_client_credentials", "bad_client_secret"})
_TEMPORARY = frozenset({"temporarily_unavailable", "server_error", "slow_down"})
log = logging.getLogger(__name__)


def api_endpoint(host: str) -> str:
    """The name of an API's endpoint: one for each host."""
    return _API + host


@dataclass(slots=True)
class _Standing:
    """What is known of one provider as it is configured.

    Attributes:
        epoch: Of its configuration.
        room: For requests to its authorization server.
        api_room: For requests to its API.
        breakers: By endpoint.
        paused_until: Nobody asks its authorization server before, because it said so.
    """

    epoch: int
    room: Room
    api_room: Room
    breakers: dict[str, Breaker] = field(default_factory=dict[str, Breaker])
    paused_until: float = 0.0

    def room_for(self, endpoint: str) -> Room:
        return self.api_room if endpoint.startswith(_API) else self.room

    def pause_left(self, endpoint: str, now: float) -> float:
        return 0.0 if endpoint.startswith(_API) else max(0.0, self.paused_until - now)

    def breaker(self, endpoint: str) -> Breaker:
        found = self.breakers.get(endpoint)
        if found is None:
            while len(self.breakers) >= MOST_ENDPOINTS:
                blank = (name for name, breaker in self.breakers.items() if breaker.is_blank)
                del self.breakers[next(blank, next(iter(self.breakers)))]
            found = self.breakers[endpoint] = Breaker()
        return found

    def require(self, provider: CredentialProvider, endpoint: str, now: float) -> None:
        """Raise why an endpoint may not be asked now, if it may not."""
        breaker = self.breaker(endpoint)
        pause, left = self.pause_left(endpoint, now), breaker.seconds_left(now)
        if left > 0 and breaker.refused:
            raise _client_refused(provider)
        if pause > 0:
            raise _turned_away(f"{provider.name} limits our rate; ask again later", pause)
        if left > 0:
            what = "API cannot be reached" if endpoint.startswith(_API) else "authorization server failed again and again"
            raise _turned_away(f"{provider.name}'s {what}; it is left in peace for a while, ask again later", left)

    def is_blank(self, now: float) -> bool:
        unused = self.room.is_empty and self.api_room.is_empty and self.paused_until <= now
        return unused and all(breaker.is_blank for breaker in self.breakers.values())


class Turn:
    """One request's turn; it ends with the request, or with the block that it was given for."""

    def __init__(
        self, upstreams: Upstreams, standing: _Standing, provider: CredentialProvider, endpoint: str, owner: str
    ) -> None:
        """Use `Upstreams.turn`; a place was taken for it.

        Raises:
            IdentityError: As `Upstreams.turn`, and the place is given back.
        """
        self._upstreams = upstreams
        self._standing = standing
        self._provider = provider
        self._endpoint = endpoint
        self._owner = owner
        self._place: Room | None = standing.room_for(endpoint)
        self._ticket: Ticket | None = None
        try:
            standing.require(provider, endpoint, upstreams.clock.monotonic())
        except IdentityError:
            self.end()
            raise
        self._ticket = standing.breaker(endpoint).admit(upstreams.clock.monotonic())

    @contextmanager
    def asking(self) -> Generator[None]:
        """The request is under way while this lasts; how it ends is noted."""
        result, failure = Result.NOTHING, None
        try:
            yield
            result = Result.SUCCESS
        except IdentityError as error:
            result, failure = _result(error, self._endpoint), error
            raise
        finally:
            self.end(result, failure)

    def end(self, result: Result = Result.NOTHING, error: IdentityError | None = None) -> None:
        """Give back what it holds; a second time it does nothing."""
        ticket, self._ticket = self._ticket, None
        if ticket is not None:
            self._upstreams.note(self._standing, self._provider, self._endpoint, ticket, result, error)
        place, self._place = self._place, None
        if place is not None:
            place.leave(self._owner)


class Upstreams:
    """All providers' vendors, as this process has seen them."""

    def __init__(self, transport: Transport, clock: Clock) -> None:
        """Know nothing yet.

        Args:
            transport: The way to them.
            clock: For how long to leave them in peace.
        """
        self.transport = transport
        self.clock = clock
        self._standings: dict[str, _Standing] = {}

    def _standing(self, provider: CredentialProvider) -> _Standing:
        """The record of a provider as it is configured; what is of an older configuration than ours says nothing."""
        found = self._standings.pop(provider.id, None)
        fresh = _Standing(provider.epoch, Room(PLACES, self.clock), Room(API_PLACES, self.clock))
        newest = found if found is not None and found.epoch >= provider.epoch else fresh
        self._standings[provider.id] = newest  # the last used is the last
        if len(self._standings) > MOST_PROVIDERS:
            now = self.clock.monotonic()
            blank = (name for name, standing in self._standings.items() if standing.is_blank(now))
            del self._standings[next(blank, next(iter(self._standings)))]
        return newest if newest.epoch == provider.epoch else fresh

    def is_calm(self, provider: CredentialProvider, endpoint: str) -> bool:
        """Whether a request that nobody waits for may be sent: nothing is wrong there, and there is a place."""
        standing = self._standing(provider)
        has_pause = standing.pause_left(endpoint, self.clock.monotonic()) > 0
        return not has_pause and standing.breaker(endpoint).is_closed and standing.room_for(endpoint).has_place

    def require(self, provider: CredentialProvider, endpoint: str) -> None:
        """Check whether an endpoint may be asked now, without asking it.

        Raises:
            UpstreamUnavailable: If it has failed of late, or wants to be left in peace.
            ProviderMisconfigured: If it refuses our client.
        """
        self._standing(provider).require(provider, endpoint, self.clock.monotonic())

    @asynccontextmanager
    async def turn(
        self, provider: CredentialProvider, endpoint: str, *, owner: str = "", waits: bool = True
    ) -> AsyncGenerator[Turn]:
        """Wait for a turn to ask an endpoint; use `Turn.asking` around the request.

        Args:
            provider: Whose.
            endpoint: Its URL, or `api_endpoint`.
            owner: Who shall leave half of the places to others; empty for us.
            waits: Whether to wait for a place.

        Raises:
            UpstreamUnavailable: If it is not to be asked now, or too many requests to this provider are under way.
            ProviderMisconfigured: If it refuses our client.
        """
        standing = self._standing(provider)
        standing.require(provider, endpoint, self.clock.monotonic())
        try:
            await standing.room_for(endpoint).enter(owner, waits=waits)
        except NoRoom:
            why = f"{provider.name} answers slowly, and as many requests to it as may be are under way; ask again"
            raise _turned_away(why, _BUSY_SECONDS) from None
        turn = Turn(self, standing, provider, endpoint, owner)
        try:
            yield turn
        finally:
            turn.end()

    @contextmanager
    def at_once(self, provider: CredentialProvider, endpoint: str) -> Generator[None]:
        """Ask without a turn, because a person waits or a code would be lost; how it ends is noted all the same."""
        standing, ticket = self._standing(provider), Ticket()
        try:
            yield
        except IdentityError as error:
            self.note(standing, provider, endpoint, ticket, _result(error, endpoint), error)
            raise
        self.note(standing, provider, endpoint, ticket, Result.SUCCESS, None)

    def note(
        self,
        standing: _Standing,
        provider: CredentialProvider,
        endpoint: str,
        ticket: Ticket,
        result: Result,
        error: IdentityError | None,
    ) -> None:
        """Note how a request ended."""
        now = self.clock.monotonic()
        if standing.breaker(endpoint).give_back(ticket, result, now):
            what = "refuses our client" if result is Result.CLIENT_REFUSED else "does not answer as it should"
            log.warning("the provider %s of tenant %s %s; it is left in peace", provider.name, provider.tenant, what)
        wanted = error.retry_after_seconds if error is not None and result is Result.FAILURE else None
        if wanted and not endpoint.startswith(_API):
            standing.paused_until = max(standing.paused_until, now + wanted)


def as_told(provider: CredentialProvider, error: IdentityError) -> IdentityError:
    """What callers are told of a vendor's refusal: where it refuses our client, who can help."""
    return _client_refused(provider) if _refuses_client(error) else error


def _refuses_client(error: IdentityError) -> bool:
    return isinstance(error, UpstreamRejected) and error.error in _CLIENT_REFUSED


def _result(error: IdentityError, endpoint: str) -> Result:
    """What an error says about the endpoint; an orderly refusal says that it works."""
    if isinstance(error, UpstreamRejected):
        if _refuses_client(error):
            return Result.CLIENT_REFUSED
        return Result.FAILURE if error.error in _TEMPORARY else Result.SUCCESS
    if endpoint.startswith(_API) and (not isinstance(error, UpstreamUnavailable) or error.may_have_been_processed):
        return Result.FAILURE if isinstance(error, UpstreamTls) else Result.NOTHING
    failures = UpstreamUnavailable | UpstreamBadResponse | UpstreamTls | UrlRefused
    return Result.FAILURE if isinstance(error, failures) else Result.NOTHING


def _client_refused(provider: CredentialProvider) -> ProviderMisconfigured:
    return ProviderMisconfigured(
        f"{provider.name} does not accept our client; an operator has to correct its id, its secret or its way to "
        f"authenticate: mcp-identity providers test {provider.name}"
    )


def _turned_away(message: str, seconds: float) -> UpstreamError:
    return UpstreamUnavailable(message, may_have_been_processed=False, retry_after_seconds=max(1, math.ceil(seconds)))
