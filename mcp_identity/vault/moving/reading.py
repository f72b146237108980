"""How is a whole vault read while others write: every row once, as all of them were at one moment?

One transaction that reads from one snapshot, table after table, some rows at a time. On SQLite that is a reading transaction
of the write-ahead log: writers go on, and unlike the backup API, which begins anew whenever another process has written, it
always comes to an end. On PostgreSQL it is REPEATABLE READ, READ ONLY, through the server's own cursor.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Column, Connection, CursorResult, Row, Table, select
from sqlalchemy.exc import SQLAlchemyError

from mcp_identity.vault.failures import storage_failure
from mcp_identity.vault.keys import KeyRing
from mcp_identity.vault.moving.cells import Cells, Contents, Digest, checked, contents_of, encode_cells
from mcp_identity.vault.moving.state import CARRIED
from mcp_identity.vault.stores.store import Store

AT_ONCE = 500
"""Rows that are read, and written, in one go."""
Progress = Callable[[str, str, int], None]
"""Told what is done, in which table, and how many rows more of it are."""


@contextlib.contextmanager
def said() -> Generator[None]:
    """What the database refuses is said as everywhere.

    Raises:
        VaultUnavailable: If it cannot be used now.
        VaultCorrupt: If it is damaged.
    """
    try:
        yield
    except (SQLAlchemyError, sqlite3.Error) as error:
        raise storage_failure(error) from None


@contextlib.contextmanager
def snapshot(store: Store) -> Generator[Connection]:
    """A transaction that reads a vault as it is at this moment; whatever is still being read ends with it."""
    engine = store.carrying_engine()
    try:
        with engine.connect() as connection, connection.begin():
            unread: list[CursorResult[Any]] = []
            connection.info[_UNREAD] = unread
            try:
                yield connection
            finally:
                for each in unread:
                    with contextlib.suppress(SQLAlchemyError):
                        each.close()
    finally:
        engine.dispose()


_UNREAD = "unread"


def read_rows(connection: Connection, table: Table, *order: Column[Any]) -> Iterator[Sequence[Row[Any]]]:
    """All rows of a table, some at a time, out of a snapshot."""
    options = {"stream_results": True, "yield_per": AT_ONCE}
    result = connection.execute(select(table).order_by(*order), execution_options=options)
    unread: list[CursorResult[Any]] = connection.info[_UNREAD]
    unread.append(result)
    yield from result.partitions()
    unread.remove(result)


def row_of(table: Table, row: Sequence[Any]) -> dict[str, Any]:
    """A row by the names of its columns."""
    return dict(zip(table.columns.keys(), row, strict=True))


def read_cells(connection: Connection, table: Table) -> Iterator[list[Cells]]:
    """The same, each cell checked.

    Raises:
        VaultCorrupt: If a row holds what the product does not write.
    """
    for rows in read_rows(connection, table):
        yield [checked(table, row) for row in rows]


def digest_key(ring: KeyRing) -> bytes:
    """The key of this vault's digests: the same rows come to the same digest in every database and archive of it."""
    return ring.derived("row-digest")


def read_contents(connection: Connection, key: bytes, progress: Progress, step: str) -> Contents:
    """Read every row, and say what they come to."""
    digests: list[tuple[str, Digest]] = []
    for table in CARRIED:
        digest = Digest(key)
        for rows in read_cells(connection, table):
            for row in rows:
                digest.add(encode_cells(row))
            progress(step, table.name, len(rows))
        digests.append((table.name, digest))
    return contents_of(digests)


@dataclass(frozen=True, slots=True)
class VaultRows:
    """The rows of a vault, out of a snapshot of it."""

    connection: Connection

    def batches(self) -> Iterator[tuple[Table, list[Cells]]]:
        """Every row of every table, some at a time; those that others refer to come first."""
        for table in CARRIED:
            for batch in self.of(table):
                yield table, batch

    def of(self, table: Table) -> Iterator[list[Cells]]:
        """Every row of one table, some at a time."""
        return read_cells(self.connection, table)

    def missing(self, table: Table, keys: list[Any]) -> list[Any]:
        """Which of some rows are not there."""
        key = next(iter(table.primary_key.columns))
        there = set(self.connection.execute(select(key).where(key.in_(keys))).scalars())
        return [each for each in keys if each not in there]
