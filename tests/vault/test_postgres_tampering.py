"""Does whoever owns the PostgreSQL database get errors, and no secrets, for what he edits, swaps and moves?

PostgreSQL keeps the types of its columns, so there is less to put into them than in `test_tampering.py`; each column is edited
in the ways that it takes.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import closing
from typing import Any

import psycopg
import pytest

from mcp_identity.domain.identity import DEFAULT_TENANT
from mcp_identity.vault.columns import metadata
from mcp_identity.vault.vault import Vault
from tests.fakes.postgres import Database
from tests.vault.test_tampering import COLUMNS, Contents, contents, same_but_for_bookkeeping, states_of

pytestmark = pytest.mark.postgresql
_ = contents  # a fixture
File = psycopg.Connection[tuple[Any, ...]]


@pytest.fixture
def file(database: Database) -> Generator[File]:
    with closing(database.server.connect(database.name)) as connection:
        connection.execute("SET search_path = mcp_identity")
        connection.execute("SET session_replication_role = replica")
        connection.execute("SET synchronous_commit = off")
        yield connection


def rows_of(file: File, table: str) -> list[dict[str, Any]]:
    names = [column.name for column in metadata.tables[table].columns]
    rows = file.execute(f"SELECT {', '.join(names)} FROM {table} ORDER BY ctid".encode())  # noqa: S608 - names of ours
    return [dict(zip(names, row, strict=True)) for row in rows]


def edit(file: File, table: str, row: dict[str, Any], column: str, value: Any) -> bool:
    """Put a value into a cell of the row that has these columns now; False where a constraint forbids it."""
    name = "id" if column != "id" else "tenant_id, created_at"
    where = " AND ".join(f"{each} = %s" for each in name.split(", "))
    try:
        done = file.execute(
            f"UPDATE {table} SET {column} = %s WHERE {where}".encode(),  # noqa: S608 - names of ours
            [value, *(row[each] for each in name.split(", "))],
        )
    except psycopg.errors.IntegrityError:
        return False
    return done.rowcount == 1


def edits(value: Any, others: list[Any]) -> list[Any]:
    match value:
        case bytes():
            flips = [bytes([*value[:at], value[at] ^ 1, *value[at + 1 :]]) for at in (0, len(value) // 2, len(value) - 1)]
            return [*flips, value[:-1], b"", *others]
        case str():
            return [f"{value}x", value[:-1], *others]
        case _:
            return [value + 1, -1]


@pytest.mark.parametrize("table", COLUMNS)
async def test_no_column_can_be_edited_and_no_cell_replaced(vault: Vault, contents: Contents, file: File, table: str) -> None:
    readers = contents.readers(table)
    await vault.run(lambda records: records.ring.current(DEFAULT_TENANT))  # unwrapped anew after a change of configuration
    whole = await states_of(vault, readers)
    assert not [state for state in whole.values() if isinstance(state, str)]
    rows = rows_of(file, table)
    row = rows[0]
    count = 0
    for column, kind in COLUMNS[table].items():
        if column == "id" or row[column] is None or (table == "users" and kind == "found by"):  # absent: it is registered
            continue
        others = [other[column] for other in rows[1:3] if other[column] not in (None, row[column])]
        for edited in edits(row[column], others):
            if edited == row[column] or not edit(file, table, row, column, edited):
                continue
            count += 1
            states = await states_of(vault, readers)
            found = [states[name] for name in states if states[name] != whole[name]]
            what = (table, column, row[column], edited)
            assert len(found) <= 1, what
            if kind == "bound":
                assert found == ["corrupt"], what
            elif kind == "found by":
                assert found in (["absent"], ["corrupt"]), what
            elif found not in ([], ["corrupt"]):
                before = next(whole[name] for name in states if states[name] != whole[name])
                assert same_but_for_bookkeeping(found[0], before), what
            assert edit(file, table, row, column, row[column])
    assert await states_of(vault, readers) == whole
    assert count >= 10, count


@pytest.mark.parametrize("table", COLUMNS)
async def test_a_column_of_another_type_is_corrupt_and_gives_nothing(
    vault: Vault, contents: Contents, file: File, table: str
) -> None:
    readers = contents.readers(table)
    await vault.run(lambda records: records.ring.current(DEFAULT_TENANT))
    column = "created_at"
    file.execute(f"ALTER TABLE {table} ALTER {column} TYPE text".encode())
    assert set((await states_of(vault, readers)).values()) <= {"corrupt", "absent"}
