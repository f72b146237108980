"""What becomes of units when PostgreSQL is restarted, ends connections, is locked, full, or lets another replica come first?

Each ends in its code, nothing that was answered is lost, and the next one is served without anybody's doing.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import psycopg
import pytest

from mcp_identity.domain.errors import IdentityError, VaultCorrupt, VaultUnavailable
from mcp_identity.domain.identity import DEFAULT_TENANT
from mcp_identity.vault.records import Records
from mcp_identity.vault.vault import Vault, open_vault
from tests.fakes.clock import FakeClock, SystemEntropy
from tests.fakes.postgres import Database
from tests.vault.conftest import Opener
from tests.vault.faults import Faults, batch
from tests.vault.kit import EVENT, behind_its_back, grant_key, location, seed, token_set
from tests.vault.test_records_audit import verify
from tests.vault.units import add_workload, codes, outcomes, refuse, workloads

pytestmark = pytest.mark.postgresql
NORMAL_WITHIN_SECONDS = 10.0


async def until_normal(unit: Callable[[], Any]) -> Any:
    """Ask again and again, as callers do, until it is served; within the time that is promised."""
    end = time.monotonic() + NORMAL_WITHIN_SECONDS
    while True:
        try:
            return await unit()
        except VaultUnavailable as error:
            if not error.retryable or time.monotonic() > end:
                raise
        await anyio.sleep(0.05)


@contextmanager
def transaction(database: Database, *statements: str) -> Generator[psycopg.Connection[tuple[Any, ...]]]:
    """Somebody else's transaction, open while the block lasts."""
    with closing(database.server.connect(database.name)) as other:
        other.autocommit = False
        for statement in ("SET search_path = mcp_identity", *statements):
            other.execute(statement.encode())
        yield other


# --- the server goes away ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("crash", [False, True])
async def test_what_was_answered_before_a_restart_is_there_after_it(vault: Vault, database: Database, *, crash: bool) -> None:
    for name in "abc":
        await vault.run(add_workload(name))
        await vault.run(lambda records: records.append_audit(EVENT))
    await anyio.to_thread.run_sync(lambda: database.server.restart(crash=crash))
    assert await until_normal(lambda: vault.run(add_workload("d"))) == "d"
    await until_normal(lambda: vault.run(lambda records: records.append_audit(EVENT)))
    assert len(await until_normal(lambda: vault.read(lambda records: list(records.list_workloads(DEFAULT_TENANT))))) == 4
    assert workloads(database) == list("abcd")
    assert list(verify(vault, database).values()) == [4]


async def test_while_the_server_is_away_everybody_is_told_so_and_nobody_waits_for_long(
    vault: Vault, database: Database
) -> None:
    await vault.run(add_workload("a"))
    database.server.stop()
    try:
        started = time.monotonic()
        found = await batch_of(vault, *map(add_workload, "bc"))
        with pytest.raises(VaultUnavailable) as caught:
            await vault.read(lambda records: records.count_audit())
        assert time.monotonic() - started < NORMAL_WITHIN_SECONDS
    finally:
        database.server.start()
    assert codes([*found, caught.value]) == ["vault_unavailable"] * 3
    assert all(each.retryable for each in found)
    assert database.server.password not in str(found)
    assert await until_normal(lambda: vault.run(add_workload("b"))) == "b"


async def batch_of(vault: Vault, *units: Callable[[Records], object]) -> list[Any]:
    outcomes: list[Any] = []

    async def run(unit: Callable[[Records], object]) -> None:
        try:
            outcomes.append(await vault.run(unit))
        except IdentityError as error:
            outcomes.append(error)

    async with anyio.create_task_group() as group:
        for unit in units:
            group.start_soon(run, unit)
    return outcomes


async def test_units_that_wait_when_their_connection_is_ended_are_run_on_another_or_told_so(
    vault: Vault, database: Database
) -> None:
    def cut(records: Records) -> None:
        database.terminate_connections()
        records.append_audit(EVENT)

    found = await batch(vault, add_workload("a"), cut, (refuse("b"), EVENT), add_workload("c"))
    assert set(codes(found)) <= {"ok", "vault_unavailable", "access_denied"}
    stands = workloads(database)
    for name, outcome in zip("ac", (found[0], found[3]), strict=True):
        assert (name in stands) == (outcome == name)
    assert await until_normal(lambda: vault.run(add_workload("d"))) == "d"
    verify(vault, database)


async def test_readers_notice_nothing_of_a_connection_that_ended_while_nobody_used_it(vault: Vault, database: Database) -> None:
    assert await vault.read(lambda records: records.count_audit()) == 0
    database.terminate_connections()
    assert await vault.read(lambda records: records.count_audit()) == 0


# --- locks and time ---------------------------------------------------------------------------------------------------


async def test_a_row_that_another_transaction_keeps_is_waited_for_only_so_long(vault: Vault, database: Database) -> None:
    seeded = await vault.run(seed)
    key = grant_key(seeded.agent)
    await vault.run(lambda records: records.complete_grant(key, token_set(), "consent"))
    with transaction(database, "SELECT * FROM grants FOR UPDATE"):
        started = time.monotonic()
        with pytest.raises(VaultUnavailable) as caught:
            await vault.run(lambda records: records.complete_grant(key, token_set("2"), "consent"))
        assert time.monotonic() - started < NORMAL_WITHIN_SECONDS
        assert caught.value.retryable
        assert await vault.run(lambda records: records.append_audit(EVENT)) is None  # nobody else waits
    found = await vault.run(lambda records: records.complete_grant(key, token_set("2"), "consent"))
    assert found.generation == 2


async def test_long_transactions_of_others_hold_up_nobody(vault: Vault, database: Database) -> None:
    with (
        transaction(database, "SELECT * FROM workload_identities"),
        transaction(database, "SET TRANSACTION ISOLATION LEVEL SERIALIZABLE", "SELECT count(*) FROM audit_events"),
    ):
        assert await vault.run(add_workload("a")) == "a"
        await vault.run(lambda records: records.append_audit(EVENT))


async def test_a_process_that_hangs_inside_a_transaction_is_put_out_of_it(vault: Vault) -> None:
    setting = "SELECT current_setting('idle_in_transaction_session_timeout'), current_setting('statement_timeout')"
    found = await vault.run(lambda records: records.connection.exec_driver_sql(setting).one())
    assert tuple(found) == ("15s", "30s")


# --- another replica comes first --------------------------------------------------------------------------------------


async def test_a_unit_that_read_what_another_replica_changed_meanwhile_is_run_again(opener: Opener, database: Database) -> None:
    vault = opener()
    await vault.run(add_workload("a"))
    runs: list[int] = []

    def unit(records: Records) -> int:
        names = len(list(records.list_workloads(DEFAULT_TENANT)))
        runs.append(names)
        if len(runs) == 1:
            behind_its_back(database, "UPDATE vault_state SET created_at = created_at + 1")
        records.connection.exec_driver_sql("UPDATE vault_state SET created_at = created_at + 1")
        return names

    before = behind_its_back(database, "SELECT created_at FROM vault_state")[0][0]
    assert await vault.run(unit) == 1
    assert len(runs) >= 2
    assert behind_its_back(database, "SELECT created_at FROM vault_state") == [(before + 2,)]


async def test_a_row_that_another_replica_made_first_is_found_when_the_unit_is_run_again(
    home: Path, database: Database, clock: FakeClock
) -> None:
    found: list[str] = []

    def unit(records: Records) -> str:
        known = records.find_workload(DEFAULT_TENANT, "a")
        return (known or records.register_workload(DEFAULT_TENANT, "a", "stdio")).id

    async def register(vault: Vault) -> None:
        found.append(await vault.run(unit))

    with (
        closing(open_vault(location(home, database=database), clock, SystemEntropy())) as one,
        closing(open_vault(location(home, database=database), clock, SystemEntropy())) as two,
    ):
        for _ in range(3):
            async with anyio.create_task_group() as group:
                for vault in (one, two):
                    group.start_soon(register, vault)
    assert len(set(found)) == 1


async def test_a_unit_that_always_loses_ends_in_its_code(vault: Vault, database: Database) -> None:
    def unit(records: Records) -> None:
        records.count_audit()
        behind_its_back(database, "UPDATE vault_state SET created_at = created_at + 1")
        records.connection.exec_driver_sql("UPDATE vault_state SET created_at = created_at + 1")

    with pytest.raises(VaultUnavailable) as caught:
        await vault.run(unit)
    assert "40001" in caught.value.message
    assert caught.value.retryable
    assert await vault.run(add_workload("a")) == "a"


# --- COMMIT, and a disk that is full ----------------------------------------------------------------------------------


async def test_a_commit_of_which_nobody_knows_is_told_so_and_the_trail_goes_on_from_what_stands(
    vault: Vault, faults: Faults, database: Database
) -> None:
    await vault.run(lambda records: records.append_audit(EVENT))
    for fault in ("fail_commit", "fail_after_commit"):
        setattr(faults, fault, psycopg.OperationalError("the connection is lost"))
        with pytest.raises(VaultUnavailable) as caught:
            await vault.run(lambda records: records.append_audit(EVENT.ending("access_denied")))
        assert caught.value.code == "vault_unavailable"
    await vault.run(lambda records: records.append_audit(EVENT))
    assert outcomes(database) == ["ok", "access_denied", "ok"]
    verify(vault, database)


async def test_a_full_disk_stores_nothing_of_what_did_not_fit(vault: Vault, faults: Faults, database: Database) -> None:
    faults.fill_disk()
    found = await batch(vault, add_workload("a"), (refuse("b"), EVENT), lambda records: records.count_audit())
    assert codes(found[:2]) == ["vault_unavailable"] * 2
    assert "53100" in found[0].message
    assert found[2] == 0
    assert workloads(database) == outcomes(database) == []
    faults.mend()
    assert codes(await batch(vault, add_workload("a"), (refuse("b"), EVENT))) == ["ok", "access_denied"]


@pytest.mark.parametrize("end", ["DROP TABLE workload_keys", "ALTER TABLE users RENAME TO others"])
async def test_a_table_that_is_gone_is_unavailable_and_harms_no_other(vault: Vault, database: Database, end: str) -> None:
    behind_its_back(database, end)
    table = end.split()[2]
    with pytest.raises((VaultUnavailable, VaultCorrupt)):
        await vault.run(lambda records: records.connection.exec_driver_sql(f"SELECT * FROM {table}").all())  # noqa: S608
    assert await vault.run(add_workload("a")) == "a"
