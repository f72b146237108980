"""A signed write has one effect, however often it is sent: whoever sends it again gets the first outcome.

A signature is good for five minutes before and after its time, so for ten in all somebody who has read a request can send it
once more. Reads may repeat; a write is marked before it begins, in a transaction of its own, and what it came to is kept,
sealed to that mark. The work runs in a task that the server owns, so a caller who goes away ends neither. Two at once: the
later one waits for the first. Of a first one that was cut off by the end of its process nobody knows what stands: then nothing
is done again, and the error says so. One that a designed error refused has had no effect, so its signature may come again.

A signature knows the time to the second, so a caller who makes equal calls within one second signs them alike. Clients name
their calls, unsigned: where the names differ, the later one is held until that second is over and then told to be signed anew,
which clients do by themselves. So neither a call nor a replay has the effect of another, and no call is lost in silence.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import timedelta
from hashlib import sha256

import anyio

from mcp_identity.broker.services import Services
from mcp_identity.domain.errors import Conflict, IdentityError, RateLimited
from mcp_identity.domain.standing import Outdated
from mcp_identity.vault.records import Records
from mcp_identity.vault.records.replay_marks import ReplayMark

PURPOSE = "signature"
KEPT = timedelta(minutes=11)
"""As long as a signature may be good, and a minute for replicas whose clocks differ."""
PATIENCE_SECONDS = 10.0
"""How long a second one waits for what the first one comes to."""
LATEST_SECONDS = 5.0
"""So long a request that was signed in the same second as another may have been on its way."""
_DETAIL = 32
_SHORTEST_PAUSE, _LONGEST_PAUSE = 0.025, 0.25


@dataclass(frozen=True, slots=True)
class _First:
    """Nobody sent this signature before: the mark that says that somebody has now."""

    mark_id: str


class Replays:
    """The signed writes of the last minutes."""

    def __init__(self, services: Services) -> None:
        """Keep what it works with."""
        self._services = services
        self._under_way: dict[bytes, anyio.Event] = {}

    async def once(
        self, tenant: str, signature_hash: bytes, work: Callable[[], Awaitable[bytes]], *, call_name: bytes = b""
    ) -> bytes:
        """Do a piece of work, if its signature was not seen before; else give what the first one came to.

        Args:
            tenant: Of the verified signer.
            signature_hash: Of the signature, which tells it from every other of every key.
            work: Does it, and gives the whole answer as it is to be sent: a refusal that stands is an answer, too.
            call_name: What the client calls the call that the request is of; its own retries have the same. Not signed.

        Raises:
            RateLimited: If another call was signed alike, in the same second.
            Conflict: If the first one's process ended, or it takes too long, and nobody knows what it came to.
            StorageError: If the vault cannot be used now.
            IdentityError: Whatever the work raises; then it came to nothing, and its signature may come again.
        """
        detail = sha256(call_name).hexdigest()[:_DETAIL] if call_name else ""
        found = await self._services.vault.run(lambda records: _look(records, tenant, signature_hash, detail))
        if isinstance(found, _First):
            return await self._first(tenant, signature_hash, found, work)
        if found.detail != detail:
            await self._sit_out(found)
        if found.outcome is not None:
            return found.outcome
        return await self._outcome(tenant, signature_hash)

    async def sweep(self) -> int:
        """Forget signatures that are no longer good; how many."""
        vault = self._services.vault
        if not await vault.read(lambda records: records.has_late_replay_marks()):
            return 0
        return await vault.run(lambda records: records.sweep_replay_marks())

    async def _first(self, tenant: str, signature_hash: bytes, first: _First, work: Callable[[], Awaitable[bytes]]) -> bytes:
        done = self._under_way[signature_hash] = anyio.Event()

        async def forget() -> None:
            await self._services.vault.run(lambda records: records.forget_replay_mark(tenant, first.mark_id))

        async def whole() -> bytes:
            try:
                try:
                    outcome = await work()
                except (IdentityError, Outdated):
                    await forget()
                    raise
                await self._services.vault.run(lambda records: records.settle_replay_mark(tenant, first.mark_id, outcome))
                return outcome
            finally:
                self._ended(signature_hash, done)

        try:
            owned = self._services.tasks.start(whole)
        except IdentityError:  # the server is ending: nothing was begun
            self._ended(signature_hash, done)
            await forget()
            raise
        return await owned.wait()

    def _ended(self, signature_hash: bytes, done: anyio.Event) -> None:
        self._under_way.pop(signature_hash, None)
        done.set()

    async def _sit_out(self, mark: ReplayMark) -> None:
        """Hold a call that was signed as another one was, until the next is not; much later, it is that one sent again.

        Raises:
            RateLimited: Then.
        """
        age = (self._services.clock.now() - mark.created_at).total_seconds()
        if age < LATEST_SECONDS:
            await anyio.sleep(min(max(0.0, 1 - age), 1))
            raise RateLimited("an equal call was signed in the same second; sign this one anew", retry_after_seconds=1)

    async def _outcome(self, tenant: str, signature_hash: bytes) -> bytes:
        """What somebody else's first one comes to; where that is in this process, its end is heard of."""
        pause = _SHORTEST_PAUSE
        with anyio.move_on_after(PATIENCE_SECONDS):
            while True:
                under_way = self._under_way.get(signature_hash)
                if under_way is not None:
                    await under_way.wait()
                found = await self._services.vault.read(
                    lambda records: records.find_replay_mark(tenant, PURPOSE, signature_hash)
                )
                if found is None or found.outcome is not None:
                    break
                if self._services.clock.now() - found.created_at > timedelta(seconds=PATIENCE_SECONDS):
                    raise _unknown()
                await anyio.sleep(pause)
                pause = min(pause * 2, _LONGEST_PAUSE)
            if found is not None and found.outcome is not None:
                return found.outcome
            raise Conflict("the same signed request came at the same time, and came to nothing; sign it anew", retryable=True)
        raise _unknown()


def _look(records: Records, tenant: str, signature_hash: bytes, detail: str) -> _First | ReplayMark:
    """What is known of a signature; where nothing is, it is known from now on."""
    found = records.find_replay_mark(tenant, PURPOSE, signature_hash)
    if found is not None:
        return found
    expires_at = records.now + KEPT
    return _First(records.insert_replay_mark(tenant, PURPOSE, signature_hash, expires_at=expires_at, detail=detail))


def _unknown() -> Conflict:
    return Conflict(
        "this signed request was received before, and what it came to is not known; look at what is there, then sign a new one"
    )
