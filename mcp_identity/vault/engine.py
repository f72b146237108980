"""How a SQLite database is opened: durably, strictly, and for its owner alone.

Transactions begin IMMEDIATE, because a deferred one that reads and then writes loses at once to any other writer. No
connection makes a database: one that vanished is an error, not an empty vault.
"""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path
from typing import Any

from sqlalchemy import Engine, create_engine, event
from sqlalchemy.pool import NullPool, QueuePool

WAIT_SECONDS = 5.0
"""How long another process is waited for."""
_PRAGMAS = ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", "secure_delete=ON", "trusted_schema=OFF")


def create_database_file(path: Path) -> None:
    """Make an empty database file that its owner alone can read; the journal files inherit its mode."""
    os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))


def writing_engine(path: Path, wait_seconds: float = WAIT_SECONDS) -> Engine:
    """An engine for the writer: one connection at a time, each transaction IMMEDIATE."""
    return _engine(path, "BEGIN IMMEDIATE", (), wait_seconds, poolclass=NullPool)


def reading_engine(path: Path, wait_seconds: float = WAIT_SECONDS) -> Engine:
    """An engine for readers, which never write."""
    return _engine(path, "BEGIN", ("query_only=ON",), wait_seconds, poolclass=QueuePool, pool_size=4, max_overflow=4)


def _engine(path: Path, begin: str, more_pragmas: tuple[str, ...], wait_seconds: float, **pool: Any) -> Engine:
    uri = f"{path.absolute().as_uri()}?mode=rw"

    def connect() -> sqlite3.Connection:
        # No isolation level: the driver begins no transaction of its own beside ours.
        connection = sqlite3.connect(uri, wait_seconds, isolation_level=None, check_same_thread=False, uri=True)
        # Text that is no UTF-8 was put there by somebody else. It is read as other text, which then does not authenticate;
        # an error out of the driver would hide the other rows with it.
        connection.text_factory = _text
        try:
            for pragma in (*_PRAGMAS, *more_pragmas):
                connection.execute(f"PRAGMA {pragma}")
        except sqlite3.Error:
            connection.close()
            raise
        return connection

    engine = create_engine("sqlite://", creator=connect, hide_parameters=True, **pool)

    @event.listens_for(engine, "begin")
    def _begin(connection: Any) -> None:  # pyright: ignore[reportUnusedFunction]
        connection.exec_driver_sql(begin)

    return engine


def _text(data: bytes) -> str:
    return data.decode("utf-8", "replace")
