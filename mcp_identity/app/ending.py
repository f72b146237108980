"""When does a server end, and how long does what is under way still have? One deadline for open requests and owned work."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

import anyio

if TYPE_CHECKING:
    from mcp_identity.domain.clock import Clock

ANSWER_LEAVES_SECONDS = 0.3
"""An answer that is ready goes through some queues before it is on the wire."""


class Ending:
    """The end of one server.

    Attributes:
        begun: Set when nothing new is begun any more.
        grace_seconds: How long open requests and owned work have then, together.
    """

    def __init__(self, clock: Clock, grace_seconds: float) -> None:
        """Not yet.

        Args:
            clock: Its monotonic time counts.
            grace_seconds: How long open requests and owned work have, together.
        """
        self.begun = anyio.Event()
        self._clock = clock
        self.grace_seconds = grace_seconds
        self._deadline: float | None = None
        self._calls = 0
        self._idle = anyio.Event()

    @property
    def has_begun(self) -> bool:
        """Whether nothing new is begun any more."""
        return self._deadline is not None

    def begin(self) -> None:
        """Take nothing new."""
        if self._deadline is None:
            self._deadline = self._clock.monotonic() + self.grace_seconds
            self.begun.set()

    def seconds_left(self) -> float:
        """How long what is under way still has."""
        return self.grace_seconds if self._deadline is None else max(0.0, self._deadline - self._clock.monotonic())

    async def count(self, ctx: Any, call_next: Callable[[Any], Awaitable[Any]]) -> Any:
        """Server middleware: know how many messages are being answered."""
        self._calls += 1
        try:
            return await call_next(ctx)
        finally:
            self._calls -= 1
            if not self._calls:
                self._idle.set()

    async def wait_for_answers(self) -> None:
        """Wait until nothing is being answered any more, or there is just time to say so."""
        with anyio.move_on_after(max(0.0, self.seconds_left() - 2 * ANSWER_LEAVES_SECONDS)):
            while self._calls:
                self._idle = anyio.Event()
                await self._idle.wait()
        await anyio.sleep(ANSWER_LEAVES_SECONDS)
