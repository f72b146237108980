"""Is an endpoint of a vendor worth asking now? Its record of failures, as a state machine that does nothing by itself.

    closed ──5 failures in a row──→ open for 30 s ──→ half open: one caller tries ──success──→ closed
                                      ↑                                └──failure──┘

A vendor that does not know our client is asked once in five minutes: only an operator can help, here or there. Any success
closes it, whoever had it; a failure that was begun before it opened changes nothing. Knows neither clock nor vendor; times
are monotonic seconds that its user passes.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

FAILURES = 5
"""So many in a row open it."""
OPEN_SECONDS = 30.0
REFUSED_SECONDS = 300.0
"""How long a vendor that refuses our client is left in peace, unless an operator changes the provider."""
PROBE_SECONDS = 1.0
"""When to ask again while somebody is trying it out."""


class Result(StrEnum):
    """How a request ended, for the record."""

    SUCCESS = "success"
    FAILURE = "failure"
    CLIENT_REFUSED = "client refused"
    NOTHING = "nothing"
    """It says nothing about the endpoint: it was cancelled, or never sent."""


@dataclass(frozen=True, slots=True)
class Ticket:
    """The right to send one request; given back with its result.

    Attributes:
        probe: Which trial of a half-open endpoint it is; 0 for none.
    """

    probe: int = 0


@dataclass(slots=True)
class Breaker:
    """The record of one endpoint.

    Attributes:
        failures: In a row, while it is closed.
        until: It is open until then; None while it is closed.
        refused: It is open because our client is not accepted.
        probe: The trial under way; 0 for none.
    """

    failures: int = 0
    until: float | None = None
    refused: bool = False
    probe: int = 0
    _probes: int = 0

    @property
    def is_closed(self) -> bool:
        """Whether everybody may ask."""
        return self.until is None

    @property
    def is_blank(self) -> bool:
        """Whether nothing would be lost by forgetting it."""
        return self.until is None and not self.failures

    def seconds_left(self, now: float) -> float:
        """How long not to ask; 0 where it may be asked."""
        if self.until is None:
            return 0.0
        if now < self.until:
            return self.until - now
        return PROBE_SECONDS if self.probe else 0.0

    def admit(self, now: float) -> Ticket | None:
        """Let somebody ask, or None; of a half-open endpoint one at a time."""
        if self.until is None:
            return Ticket()
        if self.seconds_left(now) > 0:
            return None
        self._probes += 1
        self.probe = self._probes
        return Ticket(self.probe)

    def give_back(self, ticket: Ticket, result: Result, now: float) -> bool:
        """Note how a request ended.

        Args:
            ticket: What it was admitted with; an empty one if nobody was asked.
            result: How it ended.
            now: When.

        Returns:
            Whether it opened by this.
        """
        is_probe = bool(ticket.probe) and ticket.probe == self.probe
        if is_probe:
            self.probe = 0
        match result:
            case Result.SUCCESS:
                self.failures, self.until, self.refused, self.probe = 0, None, False, 0
            case Result.CLIENT_REFUSED:
                return self._open(now + REFUSED_SECONDS, refused=True)
            case Result.FAILURE if self.until is None:
                self.failures += 1
                if self.failures >= FAILURES:
                    return self._open(now + OPEN_SECONDS, refused=False)
            case Result.FAILURE if is_probe:
                return self._open(now + OPEN_SECONDS, refused=self.refused)
            case _:
                pass
        return False

    def _open(self, until: float, *, refused: bool) -> bool:
        self.failures, self.refused = 0, refused
        self.until = max(until, self.until or 0.0)
        return True
