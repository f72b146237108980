# pyright: reportPrivateUsage=false
# Two tests reach below what the vault shows: for a writer without its vault, and for the pool of open files.

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import anyio
import pytest

from mcp_identity.domain.credentials import Secret
from mcp_identity.domain.errors import VaultCorrupt, VaultUnavailable
from mcp_identity.domain.identity import DEFAULT_TENANT
from mcp_identity.vault.keys import CACHE_SECONDS
from mcp_identity.vault.records import Records
from mcp_identity.vault.vault import Vault, open_vault
from tests.fakes.clock import FakeClock, SystemEntropy
from tests.vault.conftest import Opener
from tests.vault.faults import Faults, batch
from tests.vault.kit import EVENT, Place, Seeded, behind_its_back, location, provider, seed
from tests.vault.units import add_workload, batch_while_locked, codes, outcomes, refuse, workloads

# --- the trail comes first --------------------------------------------------------------------------------------------


async def test_what_cannot_be_audited_gives_no_result(vault: Vault, faults: Faults, database: Place) -> None:
    def release(records: Records) -> str:
        records.register_workload(DEFAULT_TENANT, "a", "stdio")
        records.append_audit(EVENT)
        return "the secret"

    faults.break_audit()
    found = await batch(vault, release, (refuse("b"), EVENT), add_workload("c"))
    refused = "audit_unavailable" if isinstance(database, Path) else "vault_unavailable"  # there it ends the transaction
    assert codes(found) == [refused, refused, "ok"]
    assert not found[1].audited
    assert workloads(database) == ["c"]
    faults.mend_audit()
    assert await vault.run(release) == "the secret"


async def test_an_event_that_holds_no_text_is_not_audited_and_harms_nobody_else(vault: Vault, database: Place) -> None:
    from dataclasses import replace

    unpaired = replace(EVENT, user_key="\ud800")
    found = await batch(vault, add_workload("a"), (refuse("b"), unpaired), lambda records: records.append_audit(unpaired))
    assert codes(found) == ["ok", "audit_unavailable", "audit_unavailable"]
    assert workloads(database) == ["a"]


# --- other processes --------------------------------------------------------------------------------------------------


@pytest.mark.sqlite
async def test_a_database_that_another_process_holds_is_unavailable_for_now(vault: Vault, database: Path) -> None:
    with closing(sqlite3.connect(database, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        found = await batch_while_locked(vault)
        other.execute("ROLLBACK")
    assert codes(found) == ["vault_unavailable"] * 2
    assert found[0].retryable
    assert "busy" in found[0].message
    assert await vault.run(add_workload("a")) == "a"


async def test_two_processes_that_read_and_then_write_wait_for_one_another(
    home: Path, clock: FakeClock, database: Place
) -> None:
    def count_up(records: Records) -> None:
        number = len(list(records.list_workloads(DEFAULT_TENANT)))
        records.register_workload(DEFAULT_TENANT, f"w{number:03}", "stdio")

    with (
        closing(open_vault(location(home, database=database), clock, SystemEntropy())) as one,
        closing(open_vault(location(home, database=database), clock, SystemEntropy())) as two,
    ):
        for _ in range(10):
            async with anyio.create_task_group() as group:
                for vault in (one, two):
                    group.start_soon(vault.run, count_up)
    assert workloads(database) == [f"w{number:03}" for number in range(20)]


async def test_a_read_only_database_is_unavailable_until_it_is_writable(vault: Vault, faults: Faults, database: Place) -> None:
    faults.read_only()
    with pytest.raises(VaultUnavailable) as caught:
        await vault.run(add_workload("a"))
    assert "readonly" in caught.value.message or "25006" in caught.value.message
    faults.mend()
    await vault.run(add_workload("a"))
    assert workloads(database) == ["a"]


@pytest.mark.sqlite
async def test_a_database_that_vanished_is_not_made_anew(opener: Opener, database: Path) -> None:
    vault = opener()
    vault._readers.dispose()  # connections that are open keep the file that they know
    for path in database.parent.glob("vault.db*"):
        path.rename(path.with_name(f"moved-{path.name}"))
    with pytest.raises(VaultUnavailable) as caught:
        await vault.read(lambda records: records.count_audit())
    assert caught.value.code == "vault_unavailable"
    with pytest.raises(VaultUnavailable):
        await vault.run(add_workload("a"))
    vault._ring.drop(DEFAULT_TENANT)
    with pytest.raises(VaultUnavailable):
        vault.load_keys(DEFAULT_TENANT)
    assert not list(database.parent.glob("vault.db*"))


@pytest.mark.sqlite
async def test_a_damaged_page_is_corrupt_and_not_worth_trying_again(opener: Opener, database: Path) -> None:
    vault = opener()
    await vault.run(seed)
    vault.close()
    [(root,)] = behind_its_back(database, "SELECT rootpage FROM sqlite_master WHERE name = 'workload_identities'")
    with database.open("r+b") as file:
        file.seek((root - 1) * 4096)
        file.write(b"\xff" * 4096)
    vault = opener()
    for found in (vault.run, vault.read):
        with pytest.raises(VaultCorrupt) as caught:
            await found(lambda records: records.list_workloads(DEFAULT_TENANT))
        assert caught.value.code == "vault_corrupt"
        assert not caught.value.retryable
        assert "backup" in caught.value.message


@pytest.mark.parametrize("column", ["schema_version", "minimum_writer"])
async def test_a_vault_that_was_upgraded_meanwhile_is_not_written(vault: Vault, database: Place, column: str) -> None:
    await vault.run(add_workload("a"))
    behind_its_back(database, f"UPDATE vault_state SET {column} = 99")  # noqa: S608 - a name of ours
    found = await batch_while_locked(vault)
    assert codes(found) == ["vault_unavailable"] * 2
    assert not found[0].retryable
    assert "restart" in found[0].message
    assert workloads(database) == ["a"]


async def test_a_provider_changed_by_another_process_is_changed_here_at_once(opener: Opener) -> None:
    here, there = opener(), opener()
    await here.run(seed)

    def known(records: Records) -> bool:
        found = records.find_provider(DEFAULT_TENANT, "github")
        return found is not None and found.disabled

    assert not await here.run(known)
    await there.run(lambda records: records.update_provider(provider(disabled=True, epoch=2), Secret("s")))
    assert await here.run(known)
    await there.run(lambda records: records.delete_provider(provider()))
    assert not await here.run(known)


async def test_a_provider_is_decoded_once_for_as_long_as_nothing_changes(vault: Vault, seeded: Seeded, database: Place) -> None:
    del seeded
    find: Callable[[Records], Any] = lambda records: records.find_provider(DEFAULT_TENANT, "github")  # noqa: E731
    assert await vault.run(find) is await vault.run(find)
    behind_its_back(database, "UPDATE vault_state SET configuration_epoch = configuration_epoch + 1")
    assert await vault.run(find) == provider()


# --- keys -------------------------------------------------------------------------------------------------------------


async def test_keys_that_were_forgotten_are_unwrapped_and_the_unit_runs_again(
    vault: Vault, clock: FakeClock, database: Place
) -> None:
    await vault.run(add_workload("a"))
    clock.advance(CACHE_SECONDS + 1)
    runs: list[int] = []

    def unit(records: Records) -> str:
        runs.append(1)
        return records.register_workload(DEFAULT_TENANT, "b", "stdio").name

    assert await vault.run(unit, EVENT) == "b"
    assert len(runs) == 2
    assert outcomes(database) == []
    clock.advance(CACHE_SECONDS + 1)
    assert len(list(await vault.read(lambda records: records.list_workloads(DEFAULT_TENANT)))) == 2


async def test_a_key_that_was_erased_stops_every_process_at_the_next_epoch(vault: Vault, database: Place) -> None:
    await vault.run(add_workload("a"))
    behind_its_back(
        database,
        "DELETE FROM vault_keys WHERE tenant = 'default'",
        "UPDATE vault_state SET configuration_epoch = configuration_epoch + 1",
    )
    with pytest.raises(VaultCorrupt) as caught:
        await vault.run(add_workload("b"))
    assert caught.value.code == "vault_corrupt"


async def test_keys_that_are_forgotten_at_once_again_are_not_waited_for_for_ever(vault: Vault, clock: FakeClock) -> None:
    forgets: Callable[[Records], Any] = lambda records: (clock.advance(CACHE_SECONDS + 1), records.ring.current("default"))  # noqa: E731
    for found in (vault.run, vault.read):
        with pytest.raises(VaultUnavailable) as caught:
            await found(forgets)
        assert caught.value.code == "vault_unavailable"


async def test_readers_never_write(vault: Vault, database: Place) -> None:
    with pytest.raises(VaultUnavailable) as caught:
        await vault.read(add_workload("a"))
    assert "readonly" in caught.value.message or "25006" in caught.value.message
    assert workloads(database) == []
