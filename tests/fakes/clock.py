"""What time is it, and what is random? Both as a test says."""

from __future__ import annotations

import os
import random
from datetime import UTC, datetime, timedelta

START = datetime(2026, 1, 1, 12, 0, tzinfo=UTC)


class FakeClock:
    """A clock that stands still until it is moved.

    Attributes:
        wall: What `now` tells; set it to make the wall clock jump alone.
        failure: Raised by the next call of `now`, once.
    """

    def __init__(self, wall: datetime = START) -> None:
        """Start at `wall`."""
        self.wall = wall
        self.failure: BaseException | None = None
        self._monotonic = 1000.0

    def now(self) -> datetime:
        """The time on the wall."""
        failure, self.failure = self.failure, None
        if failure is not None:
            raise failure
        return self.wall

    def monotonic(self) -> float:
        """Seconds that only `advance` adds to."""
        return self._monotonic

    def advance(self, seconds: float) -> None:
        """Let time pass, on both clocks."""
        self.wall += timedelta(seconds=seconds)
        self._monotonic += seconds


class SeededEntropy:
    """Randomness that is the same in every run."""

    def __init__(self, seed: int = 0) -> None:
        """Begin the sequence that `seed` names."""
        self._random = random.Random(seed)  # noqa: S311 - a test that repeats is worth more here than a secret

    def random_bytes(self, count: int) -> bytes:
        """The next bytes of the sequence."""
        return self._random.randbytes(count)


class SystemEntropy:
    """The operating system's randomness, for tests in which several processes or threads must not draw the same."""

    def random_bytes(self, count: int) -> bytes:
        """Unpredictable bytes."""
        return os.urandom(count)
