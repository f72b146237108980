"""Which figures describe many measurements? Medians and percentiles, never a mean: one stall of the machine moves a mean."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import median


@dataclass(frozen=True, slots=True)
class Spread:
    """What several runs of the same thing gave.

    Attributes:
        median: Of the runs.
        low: The least.
        high: The most.
    """

    median: float
    low: float
    high: float


def spread(values: Iterable[float]) -> Spread:
    """Median, least and most of several runs."""
    found = sorted(values)
    return Spread(median(found), found[0], found[-1])


def percentile(values: Sequence[float], percent: float) -> float:
    """The least value that so many per cent do not exceed (nearest rank)."""
    found = sorted(values)
    rank = -(-len(found) * percent // 100)  # rounded up
    return found[max(0, int(rank) - 1)]
