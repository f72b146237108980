"""What goes wrong below a server that runs? Knobs that its test turns, in the process that it is; the product knows of none."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from typing import Any

from tests.crash.control import Control

READ_ONLY = "read-only"


def install(control: Control, app: Any) -> None:
    """Wrap the product of this process."""
    clock = app.SystemClock

    def now(_clock: Any) -> datetime:
        return datetime.now(UTC) + timedelta(seconds=control.clocks[0])

    def monotonic(_clock: Any) -> float:
        return time.monotonic() + control.clocks[1]

    clock.now, clock.monotonic = now, monotonic
    _break_sqlite(control)


def _break_sqlite(control: Control) -> None:
    """Before each transaction, let the database be read-only where the test says so."""
    from sqlalchemy import Engine, event

    @event.listens_for(Engine, "begin")
    def _begin(connection: Any) -> None:  # pyright: ignore[reportUnusedFunction]
        fault, _ = control.fault
        if connection.dialect.name != "sqlite" or connection.info.get("fault", "") == fault:
            return
        connection.connection.driver_connection.execute(f"PRAGMA query_only = {'ON' if fault == READ_ONLY else 'OFF'}")
        connection.info["fault"] = fault
