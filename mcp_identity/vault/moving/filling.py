"""How does a vault get into an empty database, so that no step of it leaves half a vault that somebody takes for one?

The schema and the mark that says *being filled* come in one transaction; rows follow, some at a time; the mark goes only after
everything was read again and found the same. Whoever is killed in between leaves a database that refuses to be opened, and
the same command goes on where it was: rows that stand are compared, not written again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Protocol

from sqlalchemy import Connection, Table, delete, insert, select, update

from mcp_identity.vault.moving.cells import Cells
from mcp_identity.vault.moving.reading import AT_ONCE, Progress
from mcp_identity.vault.moving.state import CARRIED, State, replace_state


class Rows(Protocol):
    """Where rows come from."""

    def batches(self) -> Iterator[tuple[Table, list[Cells]]]:
        """Every row of every table, some at a time; those that others refer to come first."""
        ...


def remove_strangers(connection: Connection, missing: Callable[[Table, list[Any]], list[Any]]) -> int:
    """Take out what an earlier attempt had put in, and what has gone from the source since.

    Args:
        connection: To the target, in no transaction.
        missing: Says which rows the source does not have.
    """
    removed = 0
    for table in reversed(CARRIED):
        key = next(iter(table.primary_key.columns))
        after: Any = None
        while True:
            with connection.begin():
                query = select(key).order_by(key).limit(AT_ONCE)
                keys = list(connection.execute(query if after is None else query.where(key > after)).scalars())
                gone = missing(table, keys) if keys else []
                if gone:
                    removed += connection.execute(delete(table).where(key.in_(gone))).rowcount
            if len(keys) < AT_ONCE:
                break
            after = keys[-1]
    return removed


def fill(connection: Connection, rows: Rows, progress: Progress) -> int:
    """Put every row in that does not stand there already; how many those were.

    Args:
        connection: To the target, in no transaction.
        rows: What to put in.
        progress: Told as it goes on.
    """
    written = 0
    standing: dict[str, bool] = {}
    for table, batch in rows.batches():
        if table.name not in standing:
            with connection.begin():
                standing[table.name] = connection.execute(select(table).limit(1)).first() is not None
        written += write_batch(connection, table, batch, compare=standing[table.name])
        progress("copied", table.name, len(batch))
    return written


def write_batch(connection: Connection, table: Table, batch: list[Cells], *, compare: bool) -> int:
    """Put some rows in, in one transaction; how many were not there yet.

    Args:
        connection: To the target, in no transaction.
        table: Whose they are.
        batch: The rows.
        compare: Look first which of them stand there.
    """
    with connection.begin():
        new = _merge(connection, table, batch) if compare else batch
        names = [column.name for column in table.columns]
        if new:
            connection.execute(insert(table), [dict(zip(names, row, strict=True)) for row in new])
    return len(new)


def _merge(connection: Connection, table: Table, batch: list[Cells]) -> list[Cells]:
    """Put right what stands there; the rows that do not."""
    key = next(iter(table.primary_key.columns))
    place = list(table.columns).index(key)
    rows = {row[place]: row for row in batch}
    for row in connection.execute(select(table).where(key.in_(list(rows)))).all():
        wanted = rows.pop(row[place])
        if tuple(row) != wanted:
            names = [column.name for column in table.columns]
            connection.execute(update(table).where(key == row[place]).values(dict(zip(names, wanted, strict=True))))
    return list(rows.values())


def finish_filling(connection: Connection, state: State) -> None:
    """Take the mark away: from the end of this transaction on the vault may be opened."""
    replace_state(connection, state)
