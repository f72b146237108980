"""How much may one caller ask of this process?

Counters in memory, of one process and for nobody but it; what may be kept open in the vault has limits of its own. Every
table is bounded, so that a limit is no way to fill the memory. Trusts the gate for who is counted.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mcp_identity.domain.errors import RateLimited

if TYPE_CHECKING:
    from mcp_identity.domain.clock import Clock
    from mcp_identity.domain.identity import Principal

MOST_COUNTED = 10_000
KEPT_FOR_OTHERS = 8
"""Every so-many-th place is not for a group that has taken all others."""
_MINUTE = 60.0


def caller_of(principal: Principal) -> tuple[str, str, str]:
    """Whose a count is: everything that tells one principal from another."""
    return principal.tenant, principal.workload.id, principal.user_key


def group_of(principal: Principal) -> tuple[str, str]:
    """Whose counts go together: the workload, since it brings the users."""
    return principal.tenant, principal.workload.id


class Buckets:
    """So many a second for each key, and as many at once after a rest (a token bucket)."""

    def __init__(self, clock: Clock, per_second: float, *, burst: float | None = None) -> None:
        """All are full.

        Args:
            clock: Its monotonic time counts.
            per_second: How fast a bucket fills.
            burst: How much it holds; None for what comes in a second.
        """
        self._clock = clock
        self._per_second = per_second
        self._burst = burst or per_second
        self._levels: OrderedDict[Hashable, tuple[float, float]] = OrderedDict()

    def take(self, key: Hashable) -> float:
        """Take one; 0 where there was one, else the seconds until there is."""
        now = self._clock.monotonic()
        level = self._level(key, now)
        if level < 1:
            return (1 - level) / self._per_second
        self._levels[key] = level - 1, now
        self._levels.move_to_end(key)
        if len(self._levels) > MOST_COUNTED:
            self._levels.popitem(last=False)
        return 0

    def is_empty(self, key: Hashable) -> bool:
        """Whether there is none to take."""
        return self._level(key, self._clock.monotonic()) < 1

    def _level(self, key: Hashable, now: float) -> float:
        level, at = self._levels.get(key, (self._burst, 0.0))
        return min(self._burst, level + (now - at) * self._per_second)


class Room:
    """So many at once: of everybody, of each, and of a group all but an eighth, so that none keeps the others out."""

    def __init__(self, total: int, each: int) -> None:
        """Nobody is in.

        Args:
            total: Of everybody.
            each: Of one key.
        """
        self._total = total
        self._each = each
        self._of_group = total - total // KEPT_FOR_OTHERS
        self._inside: dict[Hashable, int] = {}
        self._count = 0

    def hold(self, key: Hashable, group: Hashable) -> _Place:
        """Take a place while the block lasts; False where there is none, and then nothing is held.

        Args:
            key: Whose it is.
            group: Who can make any number of keys: an agent names its users.
        """
        return _Place(self, ("one", key), ("group", group))

    def enter(self, one: Hashable, group: Hashable) -> bool:
        """Take a place, if there is one."""
        inside = self._inside
        of_one, of_group = inside.get(one, 0), inside.get(group, 0)
        if of_one >= self._each or of_group >= self._of_group or self._count >= self._total:
            return False
        self._count += 1
        inside[one], inside[group] = of_one + 1, of_group + 1
        return True

    def leave(self, one: Hashable, group: Hashable) -> None:
        """Give a place back."""
        self._count -= 1
        for each in (one, group):
            self._inside[each] -= 1
            if not self._inside[each]:
                del self._inside[each]


class _Place:
    """A place in a room, or none; a class of its own, since every request holds two."""

    __slots__ = ("_group", "_is_held", "_one", "_room")

    def __init__(self, room: Room, one: Hashable, group: Hashable) -> None:
        self._room, self._one, self._group = room, one, group
        self._is_held = False

    def __enter__(self) -> bool:
        self._is_held = self._room.enter(self._one, self._group)
        return self._is_held

    def __exit__(self, *_: object) -> None:
        if self._is_held:
            self._room.leave(self._one, self._group)


class Sessions:
    """How many MCP sessions each caller has, as far as they were seen to begin, be used, and end."""

    def __init__(self, clock: Clock, each: int, idle_seconds: float) -> None:
        """Nobody has one.

        Args:
            clock: Its monotonic time counts.
            each: The most of one caller.
            idle_seconds: After so long without a request the SDK has ended a session.
        """
        self._clock = clock
        self._each = each
        self._idle_seconds = idle_seconds
        self._used: OrderedDict[Hashable, dict[str, float]] = OrderedDict()

    def has_room(self, key: Hashable) -> bool:
        """Whether a caller may begin another one."""
        now = self._clock.monotonic()
        live = {name: at for name, at in self._used.get(key, {}).items() if now - at < self._idle_seconds}
        if live:
            self._used[key] = live
        else:
            self._used.pop(key, None)
        return len(live) < self._each

    def note(self, key: Hashable, session: str) -> None:
        """A session of this caller began, or was used."""
        self._used.setdefault(key, {})[session] = self._clock.monotonic()
        self._used.move_to_end(key)
        if len(self._used) > MOST_COUNTED:
            self._used.popitem(last=False)

    def forget(self, key: Hashable, session: str) -> None:
        """A session of this caller has ended."""
        of_caller = self._used.get(key, {})
        of_caller.pop(session, None)
        if not of_caller:
            self._used.pop(key, None)


@dataclass(frozen=True, slots=True)
class Limits:
    """What the gate counts.

    Attributes:
        calls: Tool calls of a principal.
        requests: HTTP requests of a principal.
        failures: Bearers that proved nothing, by source address and by the bearer's digest.
        answering: Requests that are being answered.
        running: Tool calls that run; over SSE a request is answered long before.
        streams: Event streams that are open.
        sessions: MCP sessions.
        refused: Told of every refusal: why, at which edge, of whom, from where.
    """

    calls: Buckets
    requests: Buckets
    failures: Buckets
    answering: Room
    running: Room
    streams: Room
    sessions: Sessions
    refused: Callable[[str, str, Principal | None, str], None]

    def admit(self, principal: Principal, *, has_room: bool) -> None:
        """Let a tool call begin.

        Args:
            principal: Whose it is.
            has_room: It has a place among those that run.

        Raises:
            RateLimited: If this principal calls too often, or too much at once; written down in aggregate, not each time.
        """
        wait = self.calls.take(caller_of(principal))
        if wait or not has_room:
            self.refused(RateLimited.code, principal.edge, principal, "")
            what = "too many calls a second" if wait else "too many calls at once"
            error = RateLimited(what, retry_after_seconds=max(1, math.ceil(wait)))
            error.audited = True
            raise error


def per_minute(clock: Clock, count: int) -> Buckets:
    """So many a minute, all at once if need be."""
    return Buckets(clock, count / _MINUTE, burst=count)
