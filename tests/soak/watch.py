"""Does a process grow while it works? Its memory, file descriptors and threads, looked at once a second.

The first fifth of the time warms it up and does not count. What counts of the rest is the median of its first and of its last
third: one stall or one burst moves neither.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from statistics import median

import anyio
import psutil

WARM_UP = 0.2
MIB = 2**20


@dataclass(frozen=True, slots=True)
class Sample:
    """One look.

    Attributes:
        at: Seconds since the first.
        memory: Resident, MiB.
        files: File descriptors.
        threads: Threads.
    """

    at: float
    memory: float
    files: int
    threads: int


@dataclass(slots=True)
class Watch:
    """All looks at one process."""

    process_id: int
    samples: list[Sample] = field(default_factory=list[Sample])

    async def run(self, every_seconds: float = 1.0) -> None:
        """Look until cancelled."""
        process, began = psutil.Process(self.process_id), anyio.current_time()
        while True:
            with process.oneshot():
                memory = process.memory_info().rss / MIB
                sample = Sample(anyio.current_time() - began, memory, process.num_fds(), process.num_threads())
            self.samples.append(sample)
            await anyio.sleep(every_seconds)

    def first(self, what: str) -> float:
        """How much there is in the first third after the warm-up."""
        values = self._counted(what)
        return median(values[: max(1, len(values) // 3)])

    def growth(self, what: str) -> float:
        """How much more there is in the last third."""
        values = self._counted(what)
        return median(values[-max(1, len(values) // 3) :]) - self.first(what)

    def bars(self, what: str, count: int) -> list[float]:
        """The whole time in so many parts, from the beginning; the median of each."""
        width = max(1, len(self.samples) // count)
        parts = [self.samples[start : start + width] for start in range(0, len(self.samples), width)]
        return [median(float(getattr(sample, what)) for sample in part) for part in parts[:count]]

    def _counted(self, what: str) -> list[float]:
        return [float(getattr(sample, what)) for sample in self.samples[int(len(self.samples) * WARM_UP) :]]

    def slope_per_hour(self, what: str) -> float:
        """The median of the slopes between samples that lie half the time apart (after Theil and Sen)."""
        found = self.samples[int(len(self.samples) * WARM_UP) :]
        half = len(found) // 2
        slopes = [
            (getattr(later, what) - getattr(earlier, what)) / (later.at - earlier.at)
            for earlier, later in zip(found[: len(found) - half], found[half:], strict=True)
            if later.at > earlier.at
        ]
        return median(slopes) * 3600 if slopes else 0.0
