"""Where time and randomness come from: the two seams of nondeterminism.

Nothing in the product calls `datetime.now` or `os.urandom` by itself; it is handed these. The real ones are made in
`app/`, tests bring their own.
"""

from __future__ import annotations

from datetime import datetime
from typing import Protocol


class Clock(Protocol):
    """Two clocks in one: the wall for expiries that are stored, the monotonic one for deadlines."""

    def now(self) -> datetime:
        """The time on the wall, aware, in UTC."""
        ...

    def monotonic(self) -> float:
        """Seconds since some moment in the past; never goes back."""
        ...


class Entropy(Protocol):
    """A source of unpredictable bytes."""

    def random_bytes(self, count: int) -> bytes:
        """Return `count` unpredictable bytes."""
        ...


def random_token(entropy: Entropy, count: int = 32) -> str:
    """Make an unguessable URL-safe string.

    Args:
        entropy: Where the bytes come from.
        count: Bytes of entropy; 32 give 256 bits and 43 characters.
    """
    from base64 import urlsafe_b64encode

    return urlsafe_b64encode(entropy.random_bytes(count)).rstrip(b"=").decode("ascii")
