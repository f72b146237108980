"""What can somebody do who holds the file, and not the key?

Swapping, truncating or editing any sealed cell, or any owner, scope-bearing, provider or endpoint column, gives
`vault_corrupt` for that row and leaves the others readable.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Generator
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import pytest
from sqlalchemy.exc import OperationalError

from mcp_identity.domain.credentials import Grant, GrantKey
from mcp_identity.domain.errors import NotFound, VaultCorrupt
from mcp_identity.domain.identity import DEFAULT_TENANT, User
from mcp_identity.vault.columns import metadata
from mcp_identity.vault.keys import KeyNotLoaded
from mcp_identity.vault.records import Records
from mcp_identity.vault.vault import Vault
from tests.vault.kit import (
    ALICE,
    MALLORY,
    Seeded,
    attempt,
    consent_session,
    digest,
    grant_key,
    provider,
    seed,
    token_set,
)

pytestmark = pytest.mark.sqlite  # what others take into their columns: test_postgres_tampering.py

Kind = Literal["bound", "found by", "free"]
"""What editing a column does. bound: the row is corrupt. found by: the row is not found any more where it was, and is corrupt
wherever it is found instead. free: decides nothing that the vault vouches for, and must not break the reading of a row."""


def columns(bound: str, found_by: str, free: str) -> dict[str, Kind]:
    kinds: dict[str, Kind] = {}
    for name in bound.split():
        kinds[name] = "bound"
    for name in found_by.split():
        kinds[name] = "found by"
    for name in free.split():
        kinds[name] = "free"
    return kinds


COLUMNS: dict[str, dict[str, Kind]] = {
    "grants": columns(
        bound="id tenant_id workload_id user_key provider_row flow resource audience scope_key generation tokens "
        "granted_scopes expires_at obtained_by",
        found_by="key_hash",
        free="state reason lease_owner lease_counter lease_until intent created_at updated_at",
    ),
    "credential_providers": columns(
        bound="vendor kind provider_id settings issuer authorization_url token_url refresh_url revocation_url jwks_url "
        "requires_iss client_id client_authentication flows scopes release api_hosts subject_issuers allow_http_loopback "
        "owner tags epoch disabled secret secret_generation secret_updated_at created_at updated_at mac",
        found_by="id tenant_id name",
        free="",
    ),
    "consent_sessions": columns(
        bound="tenant_id workload_id user_key provider_row request_hash request attempt attempt_sealed created_at expires_at",
        found_by="id state_hash",
        free="state error_code grant_id code completion_hash updated_at",  # a code that waits: test_waiting_codes.py
    ),
    "workload_identities": columns(
        bound="epoch disabled group_id owner purpose environment tags authorizer shared_authorizer allowed_providers "
        "return_urls identity_audiences may_assert_users registered_by expires_at created_at updated_at mac",
        found_by="id tenant_id name",
        free="",
    ),
    "users": columns(
        bound="id kind display not_before_at created_at mac", found_by="tenant_id issuer subject", free="last_seen_at"
    ),
}


@dataclass(frozen=True, slots=True)
class Contents:
    """What stands in the vault, and how each row of a table is read."""

    grants: dict[GrantKey, Grant]
    seeded: Seeded

    def readers(self, table: str) -> dict[str, Callable[[Records], object]]:
        """Of every row of a table: how the product reads it, by the name that the product knows it under."""
        match table:
            case "grants":
                return {str(number): lambda r, k=key: must(r.find_grant(k)) for number, key in enumerate(self.grants)}
            case "credential_providers":
                return {name: lambda r, n=name: read_provider(r, n) for name in ("github", "slack")}
            case "consent_sessions":
                return {name: lambda r, n=name: read_session(r, n) for name in "abc"}
            case "workload_identities":
                found = (self.seeded.agent, self.seeded.other)
                return {
                    w.name: lambda r, w=w: (r.find_workload(w.tenant, w.name), must(r.find_workload_id(w.tenant, w.id)))
                    for w in found
                }
            case _:
                return {user.subject: lambda r, u=user: r.register_user(DEFAULT_TENANT, u) for user in (ALICE, MALLORY)}


def must(found: object) -> object:
    if found is None:
        raise NotFound("absent")
    return found


def read_provider(records: Records, name: str) -> object:
    found = records.find_provider(DEFAULT_TENANT, name)
    if found is None:
        raise NotFound("absent")
    must(records.find_provider_row(DEFAULT_TENANT, f"row-{name}"))
    secret = records.open_provider_secret(found)
    return found, secret.reveal() if secret else None


def read_session(records: Records, name: str) -> object:
    found = records.find_session(name * 43)
    kept = records.find_attempt(attempt(name).state_hash)
    if found is None or kept is None:
        raise NotFound("absent")
    return found.request, found.created_at, found.expires_at, kept[1]


@pytest.fixture
async def contents(vault: Vault) -> Contents:
    def unit(records: Records) -> Contents:
        seeded = seed(records)
        keys = [
            grant_key(seeded.agent),
            grant_key(seeded.agent, MALLORY),
            grant_key(seeded.agent, None),
            grant_key(seeded.other),
        ]
        grants = {key: records.complete_grant(key, token_set(str(number)), "consent") for number, key in enumerate(keys)}
        for name, user in zip("abc", (ALICE, MALLORY, ALICE), strict=True):
            session = consent_session(seeded.agent, name, user)
            records.insert_session(session, digest(f"request-{name}"))
            records.start_attempt(session, attempt(name))
        return Contents(grants, seeded)

    return await vault.run(unit)


@pytest.fixture
def file(home: Path) -> Generator[sqlite3.Connection]:
    with closing(sqlite3.connect(home / "vault.db", isolation_level=None)) as connection:
        connection.execute("PRAGMA foreign_keys=OFF")
        connection.execute("PRAGMA synchronous=OFF")
        connection.text_factory = as_text
        yield connection


def as_text(data: bytes) -> str:
    return data.decode("utf-8", "replace")


def edits(value: Any, others: list[Any]) -> list[Any]:
    """What somebody might put in place of a value: other rows' values, near misses, and what has no business there."""
    strange: list[Any] = ["", "another", b"", b"\x00", "\x00", "é", 0, 1, -1, 2**62, -(2**63), 1.5]
    match value:
        case bytes():
            flips = [
                bytes([*value[:at], value[at] ^ 1, *value[at + 1 :]])
                for at in {0, 1, 16, 40, 60, 90, len(value) - 1}
                if at < len(value)
            ]
            cuts = [value[:-1], value[1:], value[: len(value) // 2], value + b"\x00", bytes(len(value)), value[::-1]]
            return [*flips, *cuts, *others, *strange, value.hex()]
        case str():
            near = [
                value.upper(),
                value + " ",
                value + "\n",
                value[:-1],
                value[1:],
                value + "x",
                f"{value} {value}",
                value.encode(),
            ]
            return [*near, *others, *strange, _NoText()]
        case int():
            return [value + 1, value - 1, value * 10, *others, *strange, str(value) + "x"]
        case _:
            return [*others, *strange]


class _NoText:
    """Text that is no UTF-8; only SQL can make it."""


def state_of(records: Records, read: Callable[[Records], object]) -> object:
    """What reading a row gives: its value, or what became of it."""
    try:
        return read(records)
    except VaultCorrupt:
        return "corrupt"
    except KeyNotLoaded as missing:
        if missing.tenant == DEFAULT_TENANT:
            raise  # it is loaded, and the row read again
        return "corrupt"  # of a tenant that is not there no key can be loaded, which is vault_corrupt too
    except NotFound:
        return "absent"
    except OperationalError as error:
        return "absent" if "readonly" in str(error) else error  # it was absent, and a reader may not register it


async def states_of(vault: Vault, readers: dict[str, Callable[[Records], object]]) -> dict[str, object]:
    return await vault.read(lambda records: {name: state_of(records, read) for name, read in readers.items()})


async def elsewhere(vault: Vault, table: str, row: dict[str, Any]) -> object:
    """What stands where a row is found after what it is found by was edited."""
    if not all(isinstance(row[name], str) for name in ("id", "tenant_id")):
        return "absent"

    def read(records: Records) -> object:
        match table:
            case "grants":
                found = records.list_grants(DEFAULT_TENANT, row["workload_id"], (row["user_key"],))
                return (
                    "corrupt" if row["id"] in found.corrupt else row["id"] in {grant.id for grant in found.grants} or "absent"
                )
            case "credential_providers":
                listed = records.list_providers(row["tenant_id"])
                return (
                    "corrupt"
                    if row["id"] in listed.corrupt
                    else row["id"] in {each.id for each in listed.providers} or "absent"
                )
            case "workload_identities":
                known = records.list_workloads(row["tenant_id"])
                return "corrupt" if row["id"] in known.corrupt else row["id"] in {each.id for each in known} or "absent"
            case "consent_sessions":
                session, kept = records.find_session(row["id"]), None
                if isinstance(row["state_hash"], bytes):
                    kept = records.find_attempt(row["state_hash"])
                return "absent" if session is None or kept is None else (session, kept)
            case _:
                if not (isinstance(row["issuer"], str) and isinstance(row["subject"], str)):
                    return "absent"
                return records.register_user(row["tenant_id"], User(row["issuer"], row["subject"], ALICE.kind)) or "registered"

    return await vault.read(lambda records: state_of(records, read))


def current(file: sqlite3.Connection, table: str) -> dict[int, dict[str, Any]]:
    names = [column.name for column in metadata.tables[table].columns]
    rows = file.execute(f"SELECT rowid, {', '.join(names)} FROM {table} ORDER BY rowid")  # noqa: S608 - names of ours
    return {row[0]: dict(zip(names, row[1:], strict=True)) for row in rows}


def test_every_column_is_classified() -> None:
    for table, kinds in COLUMNS.items():
        assert kinds.keys() == {column.name for column in metadata.tables[table].columns}, table


@pytest.mark.parametrize("table", COLUMNS)
async def test_no_column_can_be_edited_and_no_cell_replaced(
    vault: Vault, contents: Contents, file: sqlite3.Connection, table: str
) -> None:
    readers = contents.readers(table)
    whole = await states_of(vault, readers)
    assert not [state for state in whole.values() if isinstance(state, str)]
    rows = current(file, table)
    rowid, row = next(iter(rows.items()))
    cells = [cell for other in COLUMNS for each in current(file, other).values() for cell in each.values()]
    sealed = [cell for cell in cells if isinstance(cell, bytes)]
    count = 0
    for column, kind in COLUMNS[table].items():
        others = sealed if isinstance(row[column], bytes) else [each[column] for each in rows.values()]
        for edited in edits(row[column], others):
            if not edit(file, table, rowid, column, edited):
                continue
            count += 1
            what = (table, column, row[column], edited)
            after = current(file, table)[rowid]
            states = await states_of(vault, readers)
            touched = [name for name in states if states[name] != whole[name]]
            found = [states[name] for name in touched]
            assert len(touched) <= 1, what
            if kind == "bound":
                assert found == ["corrupt"], what
            elif kind == "found by":
                assert found in (["absent"], ["corrupt"]), what
                assert await elsewhere(vault, table, after) in ("absent", "corrupt"), what
            else:
                assert found in ([], ["corrupt"]) or same_but_for_bookkeeping(found[0], whole[touched[0]]), what
            edit(file, table, rowid, column, row[column])
    assert await states_of(vault, readers) == whole
    assert count >= 100, count


@pytest.mark.parametrize("table", COLUMNS)
async def test_no_two_rows_can_swap_a_cell(vault: Vault, contents: Contents, file: sqlite3.Connection, table: str) -> None:
    readers = contents.readers(table)
    whole = await states_of(vault, readers)
    (one, first), (two, second), *_ = current(file, table).items()
    for column, kind in COLUMNS[table].items():
        if first[column] == second[column] or kind == "free":
            continue
        for values in ((second[column], first[column]), (first[column], second[column])):
            edit(file, table, two, column, b"aside")
            edit(file, table, one, column, values[0])
            edit(file, table, two, column, values[1])
            states = await states_of(vault, readers)
            touched = {states[name] for name in states if states[name] != whole[name]}
            expected = {"corrupt"} if values[0] != first[column] else set[object]()
            assert touched in (expected, expected and {"absent"}), column
    assert await states_of(vault, readers) == whole


async def test_a_row_moved_to_a_tenant_that_is_not_there_is_corrupt(
    vault: Vault, contents: Contents, file: sqlite3.Connection
) -> None:
    del contents
    for tenant in ("", "nobody"):
        file.execute("UPDATE consent_sessions SET tenant_id = ?", (tenant,))
        for run in (vault.read, vault.run):
            with pytest.raises(VaultCorrupt) as caught:
                await run(lambda records: records.find_session("a" * 43))
            assert caught.value.code == "vault_corrupt"


@pytest.mark.parametrize("number", [-1, 2**62, 2**63 - 1])
async def test_a_number_that_could_not_be_counted_on_is_corrupt(
    vault: Vault, contents: Contents, file: sqlite3.Connection, number: int
) -> None:
    key = next(iter(contents.grants))
    file.execute("UPDATE grants SET lease_counter = ?", (number,))
    with pytest.raises(VaultCorrupt) as caught:
        await vault.run(lambda records: records.find_grant(key))
    assert caught.value.code == "vault_corrupt"


async def test_a_listing_names_what_is_corrupt_and_shows_the_rest(
    vault: Vault, contents: Contents, file: sqlite3.Connection
) -> None:
    for table in ("grants", "credential_providers", "workload_identities"):
        column = "user_key" if table == "grants" else "created_at"
        file.execute(f"UPDATE {table} SET {column} = {column} || '1' WHERE rowid = 1")  # noqa: S608 - names of ours
    rows = {table: current(file, table)[1]["id"] for table in COLUMNS}
    owners = (ALICE.key, MALLORY.key, "", f"{ALICE.key}1")
    grants = await vault.read(lambda records: records.list_grants(DEFAULT_TENANT, contents.seeded.agent.id, owners))
    assert (len(grants.grants), grants.corrupt) == (2, (rows["grants"],))
    providers = await vault.read(lambda records: records.list_providers(DEFAULT_TENANT))
    assert ([each.name for each in providers.providers], providers.corrupt) == (["slack"], (rows["credential_providers"],))
    workloads = await vault.read(lambda records: records.list_workloads(DEFAULT_TENANT))
    assert ([each.name for each in workloads], workloads.corrupt) == (["other"], (rows["workload_identities"],))


async def test_an_edited_provider_is_not_made_whole_by_the_next_change(
    vault: Vault, contents: Contents, file: sqlite3.Connection
) -> None:
    del contents
    await vault.run(lambda records: records.find_provider(DEFAULT_TENANT, "github"))
    file.execute("UPDATE credential_providers SET created_at = 1 WHERE name = 'github'")
    with pytest.raises(VaultCorrupt) as caught:
        await vault.run(lambda records: records.update_provider(provider(), None))
    assert caught.value.code == "vault_corrupt"


def same_but_for_bookkeeping(found: object, before: object) -> bool:
    """Whether a grant is the one that it was, but for whose turn it is and how it stands."""
    if not (isinstance(found, Grant) and isinstance(before, Grant)):
        return False
    names = ("state", "reason", "lease_owner", "lease_counter", "intent", "created_at", "updated_at")
    return replace(found, **{name: getattr(before, name) for name in names}) == before


def edit(file: sqlite3.Connection, table: str, rowid: int, column: str, value: Any) -> bool:
    """Put a value into a cell; whether that changed it. Some edits a constraint forbids."""
    where = f"{table} WHERE rowid = {rowid}"
    before = file.execute(f"SELECT {column} FROM {where}").fetchone()[0]  # noqa: S608 - names of ours
    given, values = ("CAST(x'ff' AS TEXT)", ()) if isinstance(value, _NoText) else ("?", (value,))
    try:
        file.execute(f"UPDATE {table} SET {column} = {given} WHERE rowid = {rowid}", values)  # noqa: S608 - likewise
    except sqlite3.IntegrityError:
        return False
    after = file.execute(f"SELECT {column} FROM {where}").fetchone()[0]  # noqa: S608 - likewise
    return after != before or type(after) is not type(before)
