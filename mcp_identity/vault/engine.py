"""How a SQLite database is opened: durably, strictly, and for its owner alone.

Transactions begin IMMEDIATE, because a deferred one that reads and then writes loses at once to any other writer.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from sqlalchemy import Engine, create_engine, event
from sqlalchemy.pool import NullPool, QueuePool

BUSY_MILLISECONDS = 5000
_PRAGMAS = (
    "journal_mode=WAL",
    "synchronous=FULL",
    "foreign_keys=ON",
    f"busy_timeout={BUSY_MILLISECONDS}",
    "secure_delete=ON",
    "trusted_schema=OFF",
)


def create_database_file(path: Path) -> None:
    """Make an empty database file that its owner alone can read; the journal files inherit its mode."""
    os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))


def writing_engine(path: Path) -> Engine:
    """An engine for the writer: one connection at a time, each transaction IMMEDIATE."""
    return _engine(path, "BEGIN IMMEDIATE", poolclass=NullPool)


def reading_engine(path: Path) -> Engine:
    """An engine for readers, which never write."""
    return _engine(path, "BEGIN", "query_only=ON", poolclass=QueuePool, pool_size=4, max_overflow=4)


def _engine(path: Path, begin: str, *more_pragmas: str, **options: Any) -> Engine:
    engine = create_engine(
        f"sqlite:///{path}",
        connect_args={"check_same_thread": False, "timeout": BUSY_MILLISECONDS / 1000},
        hide_parameters=True,
        **options,
    )

    @event.listens_for(engine, "connect")
    def _prepare(connection: Any, _record: Any) -> None:  # pyright: ignore[reportUnusedFunction]
        connection.isolation_level = None
        for pragma in (*_PRAGMAS, *more_pragmas):
            connection.execute(f"PRAGMA {pragma}")

    @event.listens_for(engine, "begin")
    def _begin(connection: Any) -> None:  # pyright: ignore[reportUnusedFunction]
        connection.exec_driver_sql(begin)

    return engine
