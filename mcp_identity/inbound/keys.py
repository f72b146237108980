"""With which keys does an issuer sign, now? Its key set, kept and fetched so that no caller can make us fetch much.

One fetch serves everybody who waits for it, and belongs to the server, not to who began it. A key id that nobody knows causes
at most one fetch in a cool-down, whoever asks and how often. While an issuer cannot be reached, or answers with something that
is no key set, the keys that it had stand for a day. Only issuers that an operator added are ever asked, at the address that
was pinned then; redirects are not followed.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

from mcp_identity.domain.clock import Clock
from mcp_identity.domain.errors import IdentityError, UpstreamBadResponse
from mcp_identity.domain.issuer import Issuer
from mcp_identity.oauth.jws import PublicKey, key_set_request, process_key_set_response
from mcp_identity.transport import Transport

COOL_DOWN_SECONDS = 30.0
"""Between two fetches of one key set, whatever happens."""
FRESH_SECONDS = 300.0
"""Older keys are fetched anew beside the calls that use them."""
AGED_SECONDS = 600.0
"""Calls wait for keys that are older than this to be fetched, and use them only where that fails."""
STALE_SECONDS = 24 * 3600.0
"""For so long keys stand while their issuer cannot be asked."""
UNKNOWN_SECONDS = 120.0
"""For so long a key id that the issuer did not have causes no fetch."""
MAXIMUM_UNKNOWN = 1000
MAXIMUM_KEY_SETS = 1000

_NEVER = float("-inf")

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)
log = logging.getLogger(__name__)


class Running(Protocol[T_co]):
    """Work that the server owns."""

    async def wait(self) -> T_co:
        """Its result; cancelling who waits does not cancel it."""
        ...


class Tasks(Protocol):
    """Who owns work that outlives the request that began it."""

    def start(self, work: Callable[[], Awaitable[T]]) -> Running[T]:
        """Begin it."""
        ...


@dataclass(slots=True)
class _KeySet:
    """What is known of one key set; times are monotonic."""

    keys: tuple[PublicKey, ...] = ()
    fetched_at: float = _NEVER
    attempted_at: float = _NEVER
    flight: Running[None] | None = None
    unknown: dict[str, float] = field(default_factory=dict[str, float])


class IssuerKeys:
    """The key sets of the issuers, in this process."""

    def __init__(self, transport: Transport, clock: Clock, tasks: Tasks) -> None:
        """Know nothing yet.

        Args:
            transport: To the issuers.
            clock: For ages and cool-downs.
            tasks: Who owns the fetches.
        """
        self._transport = transport
        self._clock = clock
        self._tasks = tasks
        self._key_sets: dict[tuple[str, bool], _KeySet] = {}

    async def get(self, issuer: Issuer, key_id: str | None) -> tuple[PublicKey, ...]:
        """The keys of an issuer, fetched if need be.

        Args:
            issuer: A configured one.
            key_id: The key that a token names; one that is not known causes a fetch, within the limits.

        Returns:
            All usable keys; none where they cannot be had.

        Raises:
            VaultUnavailable: If the server is ending.
        """
        found = self._key_set(issuer)
        now, before = self._clock.monotonic(), found.fetched_at
        known = key_id is None or _has(found, key_id)
        if now - before > FRESH_SECONDS or not (known or now - found.unknown.get(key_id or "", _NEVER) < UNKNOWN_SECONDS):
            flight = self._fetch(issuer, found, now)
            if flight is not None and not (known and now - before <= AGED_SECONDS):
                await flight.wait()
                now = self._clock.monotonic()
                if key_id is not None and found.fetched_at > before and not _has(found, key_id):
                    _remember_unknown(found, key_id, now)
        return found.keys if now - found.fetched_at <= STALE_SECONDS else ()

    def _key_set(self, issuer: Issuer) -> _KeySet:
        place = (issuer.jwks_url, issuer.allow_http_loopback)
        found = self._key_sets.get(place)
        if found is None:
            while len(self._key_sets) >= MAXIMUM_KEY_SETS:
                self._key_sets.pop(next(iter(self._key_sets)))
            found = self._key_sets[place] = _KeySet()
        return found

    def _fetch(self, issuer: Issuer, found: _KeySet, now: float) -> Running[None] | None:
        """The fetch under way, or a new one; None while the cool-down lasts."""
        if found.flight is None and now - found.attempted_at >= COOL_DOWN_SECONDS:
            found.attempted_at = now

            async def work() -> None:
                try:
                    await self._refresh(issuer, found)
                finally:
                    found.flight = None

            found.flight = self._tasks.start(work)
        return found.flight

    async def _refresh(self, issuer: Issuer, found: _KeySet) -> None:
        try:
            request = key_set_request(issuer.jwks_url)
            response = await self._transport.send(request, allow_http_loopback=issuer.allow_http_loopback)
            keys = process_key_set_response(response)
            if not keys:
                raise UpstreamBadResponse("the key set holds no key that we can use")
        except IdentityError as error:
            log.warning("the keys of the issuer %s cannot be fetched: %s", issuer.name, error.message)
            return
        found.keys, found.fetched_at = keys, self._clock.monotonic()


def _has(found: _KeySet, key_id: str) -> bool:
    return any(key.key_id == key_id for key in found.keys)


def _remember_unknown(found: _KeySet, key_id: str, now: float) -> None:
    """Remember a key id that the issuer was just asked for and does not have."""
    found.unknown.pop(key_id, None)
    while len(found.unknown) >= MAXIMUM_UNKNOWN:
        found.unknown.pop(next(iter(found.unknown)))
    found.unknown[key_id] = now
