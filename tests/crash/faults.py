"""What goes wrong below a server that runs? Knobs that its test turns, in the process that it is; the product knows of none."""

from __future__ import annotations

import os
import sqlite3
import time
from datetime import UTC, datetime, timedelta
from typing import Any

from tests.crash.control import Control

READ_ONLY = "read-only"
VFS = "CRASH_VFS"
"""Names another way for SQLite to reach files: `unix-dotfile` has no shared memory, as file systems of a network have none."""


def install(control: Control, app: Any) -> None:
    """Wrap the product of this process."""
    clock = app.SystemClock

    def now(_clock: Any) -> datetime:
        return datetime.now(UTC) + timedelta(seconds=control.clocks[0])

    def monotonic(_clock: Any) -> float:
        return time.monotonic() + control.clocks[1]

    clock.now, clock.monotonic = now, monotonic
    _break_sqlite(control)
    if vfs := os.environ.get(VFS):
        _open_on(vfs)


def _open_on(vfs: str) -> None:
    """Open every database that is named by a URI through another VFS."""
    connect = sqlite3.connect

    def connecting(database: Any, *args: Any, **more: Any) -> sqlite3.Connection:
        if more.get("uri"):
            database = f"{database}{'&' if '?' in database else '?'}vfs={vfs}"
        return connect(database, *args, **more)

    setattr(sqlite3, "connect", connecting)  # noqa: B010 - a checker knows that it is no such function


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
