"""How a SQLite database is opened: durably, strictly, and for its owner alone.

Transactions begin IMMEDIATE, because a deferred one that reads and then writes loses at once to any other writer. No
connection makes a database: one that vanished is an error, not an empty vault.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Generator
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.pool import NullPool, QueuePool

from mcp_identity.domain.errors import VaultUnavailable
from mcp_identity.vault.locks import ProcessLocks

WAIT_SECONDS = 5.0
"""How long another process is waited for."""
_PRAGMAS = ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", "secure_delete=ON", "trusted_schema=OFF")


class SqliteStore:
    """A vault in a file, shared by the processes of one machine."""

    shares_writes = True

    def __init__(self, path: Path, locks: ProcessLocks, wait_seconds: float = WAIT_SECONDS) -> None:
        """Name the file, and who else has it open."""
        self.name = str(path)
        self._path = path
        self._locks = locks
        self._wait_seconds = wait_seconds

    def writing_engine(self) -> Engine:
        """An engine for the writer: one connection at a time, each transaction IMMEDIATE."""
        return writing_engine(self._path, self._wait_seconds)

    def reading_engine(self) -> Engine:
        """An engine for readers, which never write."""
        return reading_engine(self._path, self._wait_seconds)

    def carrying_engine(self) -> Engine:
        """An engine for connections that read the whole file."""
        return _engine(self._path, "BEGIN", ("query_only=ON",), self._wait_seconds, poolclass=NullPool)

    def is_open(self, connection: Connection) -> bool:
        """Whether SQLite did not end the transaction by itself, as it does when the disk is full."""
        driver: Any = connection.connection.driver_connection
        return driver.in_transaction

    def is_dead(self, process_id: str) -> bool:
        """Whether the process of this id is known to have ended: its lock file is free."""
        return self._locks.is_dead(process_id)

    def checkpoint(self) -> None:
        """Bring the journal into the file, and overwrite what was in it."""
        uri = f"{self._path.absolute().as_uri()}?mode=rw"
        with contextlib.closing(sqlite3.connect(uri, self._wait_seconds, isolation_level=None, uri=True)) as connection:
            connection.execute("PRAGMA secure_delete=ON")
            busy: int = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]
        if busy:
            raise VaultUnavailable("others read the vault without a pause; run the command again")

    def damage(self, connection: Connection) -> tuple[str, ...]:
        """What SQLite's own check finds, at most ten lines of it."""
        found = connection.exec_driver_sql("PRAGMA quick_check(10)").scalars().all()
        return tuple(str(problem) for problem in found if problem != "ok")

    @contextlib.contextmanager
    def standing_still(self) -> Generator[None]:
        """Have the vault for ourselves, as an upgrade has it; the others must have closed it."""
        self._locks.release()
        with self._locks.exclusive():
            yield

    def release(self) -> None:
        """Let go of the lock that says that this process lives."""
        self._locks.release()


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
