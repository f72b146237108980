"""Which grants did a vendor just fail? For a while nobody asks it for them; other grants of the same vendor go on.

Beside the record of the whole vendor (`upstreams.py`): one grant may fail where all others succeed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from mcp_identity.broker.tasks import one_more
from mcp_identity.domain.clock import Clock
from mcp_identity.domain.errors import IdentityError

PAUSE_SECONDS = 5.0
"""How long a vendor that failed is not asked again for the same grant, unless it named a longer time."""


@dataclass(frozen=True, slots=True)
class _Pause:
    until: float
    error: IdentityError


class Pauses:
    """The pauses of this process, by the hash of the grant's key."""

    def __init__(self, clock: Clock) -> None:
        """There are none."""
        self._clock = clock
        self._pauses: dict[bytes, _Pause] = {}

    def begin(self, name: bytes, error: IdentityError) -> None:
        """The vendor failed this grant; what has ended is forgotten."""
        now = self._clock.monotonic()
        self._pauses = {key: pause for key, pause in self._pauses.items() if pause.until > now}
        self._pauses[name] = _Pause(now + max(PAUSE_SECONDS, error.retry_after_seconds or 0), error)

    def is_on(self, name: bytes) -> bool:
        """Whether a grant has one."""
        pause = self._pauses.get(name)
        return pause is not None and self._clock.monotonic() < pause.until

    def require_none(self, name: bytes) -> None:
        """Raise what the vendor answered, while the pause lasts, with the time that is left of it."""
        pause = self._pauses.get(name)
        left = 0.0 if pause is None else pause.until - self._clock.monotonic()
        if pause is not None and left > 0:
            error = one_more(pause.error)
            if error.retryable:
                error.retry_after_seconds = max(1, math.ceil(left))
            raise error
