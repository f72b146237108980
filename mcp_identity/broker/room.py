"""How many requests may be under way to one vendor at once, and who waits? So that one that hangs ties up little.

Whoever finds no place waits in order, for a bounded time, and not at all where nobody has left for a while: a vendor that
answers slowly lets all pass in the end, one that hangs turns them away at once. Wakes one waiter for each place. Where places
have owners, half of them are for the others.
"""

from __future__ import annotations

from collections import Counter, deque

import anyio

from mcp_identity.domain.clock import Clock

STUCK_SECONDS = 2.0
"""After so long without anybody leaving, nobody waits for a place any more."""
WAIT_SECONDS = 10.0
"""How long one waits for a place at most."""
MOST_WAITING = 1000


class NoRoom(Exception):
    """There is no place, and none is to be expected soon."""


class Room:
    """The places for one vendor."""

    def __init__(self, places: int, clock: Clock) -> None:
        """Nobody is in.

        Args:
            places: How many may be in at once.
            clock: For how long nobody left.
        """
        self._free = self._places = places
        self._clock = clock
        self._waiting: deque[anyio.Event] = deque()
        self._moved_at = 0.0
        self._owned = Counter[str]()

    @property
    def is_empty(self) -> bool:
        """Whether nobody is in, and nobody waits."""
        return self._free == self._places

    @property
    def has_place(self) -> bool:
        """Whether the next one need not wait."""
        return self._free > 0

    async def enter(self, owner: str = "", *, waits: bool = True) -> None:
        """Take a place; `leave` gives it back.

        Args:
            owner: Who may have half of the places at most; empty for whoever may have all.
            waits: Whether to wait for one.

        Raises:
            NoRoom: If there is none, and it is not waited for, or not any longer.
        """
        if owner and self._owned[owner] >= self._places // 2:
            raise NoRoom
        self._owned[owner] += 1
        try:
            await self._enter(waits=waits)
        except BaseException:
            self._disown(owner)
            raise

    def leave(self, owner: str = "") -> None:
        """Give a place back: to who waits longest, if anybody does."""
        self._disown(owner)
        self._pass_on()

    async def _enter(self, *, waits: bool) -> None:
        if self._free:
            self._free -= 1
            if not self._free:
                self._moved_at = self._clock.monotonic()
            return
        stuck = self._clock.monotonic() - self._moved_at > STUCK_SECONDS
        if not waits or stuck or len(self._waiting) >= MOST_WAITING:
            raise NoRoom
        turn = anyio.Event()
        self._waiting.append(turn)
        try:
            with anyio.move_on_after(WAIT_SECONDS):
                await turn.wait()
        except BaseException:
            self._give_up(turn)
            raise
        if not turn.is_set():
            self._give_up(turn)
            raise NoRoom

    def _pass_on(self) -> None:
        self._moved_at = self._clock.monotonic()
        if self._waiting:
            self._waiting.popleft().set()
        else:
            self._free += 1

    def _give_up(self, turn: anyio.Event) -> None:
        if turn.is_set():  # the place was given in the very moment; it is somebody else's now
            self._pass_on()
        else:
            self._waiting.remove(turn)

    def _disown(self, owner: str) -> None:
        self._owned[owner] -= 1
        if not self._owned[owner]:
            del self._owned[owner]
