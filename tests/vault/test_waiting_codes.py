"""What can somebody do with a code that waits, or with a sign-in on its way, who holds the file and not the key?

Every column of such rows is edited and swapped, as in `test_tampering.py`: nobody gets a code or a verifier that was another's.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Generator
from contextlib import closing
from datetime import timedelta
from pathlib import Path

import pytest

from mcp_identity.domain.credentials import Secret
from mcp_identity.domain.errors import VaultCorrupt
from mcp_identity.domain.identity import DEFAULT_TENANT
from mcp_identity.domain.login import LoginPurpose
from mcp_identity.vault.columns import metadata
from mcp_identity.vault.records import Records
from mcp_identity.vault.records.logins import Login
from mcp_identity.vault.vault import Vault
from tests.fakes.clock import START
from tests.vault.kit import ALICE, MALLORY, attempt, consent_session, digest, seed
from tests.vault.test_tampering import Kind, as_text, columns, current, edit, edits, state_of

pytestmark = pytest.mark.sqlite  # likewise: test_postgres_tampering.py

COLUMNS: dict[str, dict[str, Kind]] = {
    "consent_sessions": columns(
        bound="id tenant_id workload_id user_key provider_row request_hash request attempt attempt_sealed code created_at "
        "expires_at",
        found_by="completion_hash",
        free="state error_code grant_id state_hash updated_at",
    ),
    "login_transactions": columns(
        bound="id tenant_id purpose issuer_id consent_id cookie_hash sealed expires_at",
        found_by="state_hash",
        free="state created_at",
    ),
}
Readers = dict[str, Callable[[Records], object]]


def read_waiting(records: Records, name: str) -> object:
    found = records.find_completion(digest(f"completion-{name}"))
    if found is None:
        return "absent"
    session, received = found
    code = (received.attempt, received.code.reveal(), received.received_at) if received else "no code"
    return session.request, code


def take(records: Records, name: str) -> object:
    """Take a sign-in, and undo it."""
    savepoint = records.connection.begin_nested()
    try:
        login = records.take_login(digest(f"state-{name}"))
    finally:
        savepoint.rollback()
    return "absent" if login is None else (login, login.code_verifier.reveal())


@pytest.fixture
async def readers(vault: Vault) -> dict[str, Readers]:
    def unit(records: Records) -> None:
        seeded = seed(records)
        for name, user in zip("ab", (ALICE, MALLORY), strict=True):
            session = consent_session(seeded.agent, name, user)
            records.insert_session(session, digest(f"request-{name}"))
            records.start_attempt(session, attempt(name))
            assert records.keep_code(session, Secret(f"code-{name}"), digest(f"completion-{name}"))
            records.insert_login(
                Login(
                    tenant=DEFAULT_TENANT,
                    issuer_id=f"issuer-{name}",
                    purpose=LoginPurpose.CONSENT if name == "a" else LoginPurpose.PORTAL,
                    consent_id=name * 43,
                    state_hash=digest(f"state-{name}"),
                    browser_hash=digest(f"browser-{name}"),
                    code_verifier=Secret(f"verifier-{name}"),
                    nonce=f"nonce-{name}",
                    redirect_uri=f"https://{name}.example/login/callback/issuer-{name}",
                    expires_at=START + timedelta(minutes=10),
                )
            )

    await vault.run(unit)
    await vault.run(lambda records: read_waiting(records, "a"))  # the keys are unwrapped anew after a change of configuration
    return {
        "consent_sessions": {name: lambda r, n=name: read_waiting(r, n) for name in "ab"},
        "login_transactions": {name: lambda r, n=name: take(r, n) for name in "ab"},
    }


@pytest.fixture
def file(home: Path) -> Generator[sqlite3.Connection]:
    with closing(sqlite3.connect(home / "vault.db", isolation_level=None)) as connection:
        connection.execute("PRAGMA foreign_keys=OFF")
        connection.execute("PRAGMA synchronous=OFF")
        connection.text_factory = as_text
        yield connection


async def states_of(vault: Vault, readers: Readers) -> dict[str, object]:
    return await vault.run(lambda records: {name: state_of(records, read) for name, read in readers.items()})


def test_every_column_is_classified() -> None:
    for table, kinds in COLUMNS.items():
        assert kinds.keys() == {column.name for column in metadata.tables[table].columns}, table


@pytest.mark.parametrize("table", COLUMNS)
async def test_no_column_can_be_edited(vault: Vault, readers: dict[str, Readers], file: sqlite3.Connection, table: str) -> None:
    whole = await states_of(vault, readers[table])
    assert not [state for state in whole.values() if isinstance(state, str)]
    rows = current(file, table)
    rowid, row = next(iter(rows.items()))
    sealed = [cell for other in COLUMNS for each in current(file, other).values() for cell in each.values()]
    sealed = [cell for cell in sealed if isinstance(cell, bytes)]
    count = 0
    for column, kind in COLUMNS[table].items():
        others = sealed if isinstance(row[column], bytes) else [each[column] for each in rows.values()]
        for edited in edits(row[column], others):
            if not edit(file, table, rowid, column, edited):
                continue
            count += 1
            what = (table, column, row[column], edited)
            states = await states_of(vault, readers[table])
            found = [states[name] for name in states if states[name] != whole[name]]
            assert len(found) <= 1, what
            if kind == "bound":
                assert found == ["corrupt"], what
            elif kind == "found by":
                assert found in (["absent"], ["corrupt"]), what
                hash_now = current(file, table)[rowid][column]
                if isinstance(hash_now, bytes):
                    assert await elsewhere(vault, table, hash_now) == "corrupt", what
            else:
                assert found in ([], ["corrupt"]) or found[0] == (whole_request(whole), "no code"), what
            edit(file, table, rowid, column, row[column])
    assert await states_of(vault, readers[table]) == whole
    assert count >= 100, count


def whole_request(whole: dict[str, object]) -> object:
    first = whole["a"]
    return first[0] if isinstance(first, tuple) else None  # pyright: ignore[reportUnknownVariableType]


async def elsewhere(vault: Vault, table: str, found_by: bytes) -> object:
    """What stands where a row is found after what it is found by was edited."""

    def unit(records: Records) -> str:
        savepoint = records.connection.begin_nested()
        try:
            if table == "consent_sessions":
                return "a code" if records.find_completion(found_by) else "absent"
            return "a sign-in" if records.take_login(found_by) else "absent"
        except VaultCorrupt:
            return "corrupt"
        finally:
            savepoint.rollback()

    return await vault.run(unit)


@pytest.mark.parametrize("table", COLUMNS)
async def test_no_two_rows_can_swap_a_cell(
    vault: Vault, readers: dict[str, Readers], file: sqlite3.Connection, table: str
) -> None:
    whole = await states_of(vault, readers[table])
    (one, first), (two, second) = current(file, table).items()
    for column, kind in COLUMNS[table].items():
        if first[column] == second[column] or kind == "free":
            continue
        for values in ((second[column], first[column]), (first[column], second[column])):
            edit(file, table, two, column, b"aside")
            edit(file, table, one, column, values[0])
            edit(file, table, two, column, values[1])
            states = await states_of(vault, readers[table])
            touched = {states[name] for name in states if states[name] != whole[name]}
            assert touched == ({"corrupt"} if values[0] != first[column] else set[object]()), column
    assert await states_of(vault, readers[table]) == whole
