"""What goes wrong below a server that runs? Knobs that its test turns, in the process that it is; the product knows of none."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from typing import Any

from tests.crash.control import Control


def install(control: Control, app: Any) -> None:
    """Wrap the product of this process."""
    clock = app.SystemClock

    def now(_clock: Any) -> datetime:
        return datetime.now(UTC) + timedelta(seconds=control.clocks[0])

    def monotonic(_clock: Any) -> float:
        return time.monotonic() + control.clocks[1]

    clock.now, clock.monotonic = now, monotonic
