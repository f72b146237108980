# pyright: reportPrivateUsage=false
# Two tests reach below what the vault shows: for a writer without its vault, and for the pool of open files.

from __future__ import annotations

import threading
from typing import Any

import anyio
import anyio.to_thread
import pytest
from sqlalchemy import text

from mcp_identity.domain.credentials import Secret
from mcp_identity.domain.errors import AccessDenied, IdentityError, RateLimited, VaultUnavailable
from mcp_identity.domain.identity import DEFAULT_TENANT
from mcp_identity.vault import writer as writer_module
from mcp_identity.vault.records import Records
from mcp_identity.vault.vault import Vault
from tests.fakes.clock import FakeClock
from tests.vault.conftest import Opener
from tests.vault.faults import Faults, batch
from tests.vault.kit import EVENT, Place, behind_its_back, provider
from tests.vault.units import add_workload, codes, outcomes, refuse, workloads

BIG = "x" * 20_000


# --- one transaction for all ------------------------------------------------------------------------------------------


@pytest.mark.sqlite
async def test_units_that_wait_together_share_one_commit(vault: Vault, faults: Faults, database: Place) -> None:
    names = [f"w{number:02}" for number in range(20)]
    assert await batch(vault, *map(add_workload, names)) == names
    assert faults.commits == 2  # that of the unit which kept the writer busy, and theirs
    assert workloads(database) == names


@pytest.mark.sqlite
async def test_a_batch_is_bounded_and_what_is_left_comes_next(
    vault: Vault, faults: Faults, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer_module, "MAXIMUM_BATCH", 4)
    assert await batch(vault, *map(add_workload, "abcdefghij")) == list("abcdefghij")
    assert faults.commits == 1 + 3


@pytest.mark.sqlite
async def test_a_unit_sees_what_the_unit_before_it_did(vault: Vault) -> None:
    first, second = await batch(vault, add_workload("a"), lambda records: records.find_workload(DEFAULT_TENANT, "a"))
    assert second is not None
    assert second.name == first


async def test_a_refused_unit_leaves_the_others_of_its_batch_standing(vault: Vault, database: Place) -> None:
    found = await batch(vault, add_workload("a"), refuse("b"), add_workload("c"))
    assert codes(found) == ["ok", "access_denied", "ok"]
    assert workloads(database) == ["a", "c"]


async def test_any_error_of_a_unit_is_its_callers_alone(vault: Vault, database: Place) -> None:
    def broken(records: Records) -> None:
        records.register_workload(DEFAULT_TENANT, "b", "stdio")
        raise ZeroDivisionError

    found = await batch(vault, add_workload("a"), (broken, EVENT), add_workload("c"))
    assert isinstance(found[1], ZeroDivisionError)
    assert workloads(database) == ["a", "c"]
    assert outcomes(database) == ["internal_error"]


async def test_a_statement_that_the_database_refuses_is_told_without_its_text(vault: Vault, database: Place) -> None:
    found = await batch(vault, add_workload("a"), add_workload("a"), add_workload("b"))
    assert codes(found) == ["ok", "vault_unavailable", "ok"]
    assert "INSERT" not in str(found[1])
    assert workloads(database) == ["a", "b"]


async def test_the_refusal_of_a_unit_is_audited_outside_what_was_undone(vault: Vault, database: Place) -> None:
    found = await batch(vault, (refuse("a"), EVENT), (refuse("b"), EVENT))
    assert codes(found) == ["access_denied"] * 2
    assert all(each.audited for each in found)
    assert outcomes(database) == ["access_denied"] * 2
    assert workloads(database) == []


async def test_a_provider_that_was_undone_is_not_remembered(vault: Vault) -> None:
    def undone(records: Records) -> None:
        records.insert_provider(provider(), Secret("s"))
        assert records.find_provider(DEFAULT_TENANT, "github") is not None
        raise AccessDenied("no")

    found = await batch(vault, undone, lambda records: records.find_provider(DEFAULT_TENANT, "github"))
    assert codes(found[:1]) == ["access_denied"]
    assert found[1] is None


async def test_a_unit_that_waits_for_a_transaction_of_its_own_disturbs_no_first_row_of_a_trail(
    vault: Vault, database: Place
) -> None:
    found = await batch(vault, lambda records: records.append_audit(EVENT), add_workload("a"))
    assert codes(found) == ["ok", "ok"]
    assert workloads(database) == ["a"]
    assert outcomes(database) == ["ok"]


# --- the database ends the transaction --------------------------------------------------------------------------------


def grow(records: Records) -> None:
    records.connection.execute(
        text("INSERT INTO settings VALUES (:id, 'default', :id, :v, 0, x'')"), {"id": records.new_id(), "v": BIG}
    )


@pytest.mark.sqlite
async def test_a_full_disk_fails_the_whole_batch_and_stores_nothing_of_it(
    vault: Vault, faults: Faults, database: Place
) -> None:
    await vault.run(add_workload("before"))
    faults.fill_disk()
    found = await batch(vault, (add_workload("a"), EVENT), (refuse("b"), EVENT), (grow, EVENT), (add_workload("c"), EVENT))
    assert codes(found) == ["vault_unavailable"] * 4
    assert all(each.retryable and ("full" in each.message or "53100" in each.message) for each in found)
    assert not any(each.audited for each in found)
    assert len({id(each) for each in found}) == 4
    assert workloads(database) == ["before"]
    assert outcomes(database) == []
    faults.mend()
    assert codes(await batch(vault, add_workload("a"), grow)) == ["ok", "ok"]
    assert workloads(database) == ["a", "before"]


@pytest.mark.sqlite
async def test_a_disk_that_fills_up_under_the_audit_row_fails_those_who_need_one(
    vault: Vault, faults: Faults, database: Place
) -> None:
    faults.fill_disk()
    event = EVENT.ending("ok", **{f"d{number}": "y" * 500 for number in range(40)})
    found = await batch(vault, add_workload("a"), (refuse("b"), event), lambda records: records.append_audit(event))
    assert codes(found) == ["ok", "vault_unavailable", "vault_unavailable"]
    assert workloads(database) == ["a"]
    assert outcomes(database) == []


@pytest.mark.sqlite
async def test_a_unit_that_swallows_the_loss_of_its_transaction_does_not_pass(
    vault: Vault, faults: Faults, database: Place
) -> None:
    def swallow(records: Records) -> str:
        try:
            grow(records)
        except Exception:  # noqa: BLE001 - what a careless unit would do
            return "fine"
        return "no fault"

    faults.fill_disk()
    found = await batch(vault, add_workload("a"), swallow)
    assert codes(found) == ["vault_unavailable"] * 2
    assert "TransactionLost" in found[0].message
    assert workloads(database) == []


async def test_nobody_is_answered_before_the_commit_returned(vault: Vault, faults: Faults, database: Place) -> None:
    faults.fail_commit = faults.disk_error()
    found = await batch_failing(vault, faults)
    assert codes(found) == ["vault_unavailable"] * 3
    assert "ioerr_fsync" in found[0].message or "58030" in found[0].message
    assert workloads(database) == outcomes(database) == []
    assert codes(await batch(vault, add_workload("a"), (refuse("b"), EVENT))) == ["ok", "access_denied"]
    assert outcomes(database) == ["access_denied"]


async def test_a_provider_of_a_batch_that_failed_is_not_remembered(vault: Vault, faults: Faults) -> None:
    def add(records: Records) -> None:
        records.insert_provider(provider(), Secret("s"))
        assert records.find_provider(DEFAULT_TENANT, "github") is not None

    faults.fail_commit = faults.disk_error()
    with pytest.raises(VaultUnavailable) as caught:
        await vault.run(add)
    assert caught.value.code == "vault_unavailable"
    assert await vault.run(lambda records: records.find_provider(DEFAULT_TENANT, "github")) is None


async def batch_failing(vault: Vault, faults: Faults) -> list[Any]:
    """A batch whose own commit fails, not that of the unit which keeps the writer busy."""
    before, faults.fail_commit = faults.fail_commit, None
    after, faults.fail_after_commit = faults.fail_after_commit, None

    def arm(records: Records) -> None:
        del records
        faults.fail_commit, faults.fail_after_commit = before, after

    return await batch(vault, arm, add_workload("a"), (refuse("b"), EVENT))


@pytest.mark.sqlite
async def test_a_commit_of_which_nobody_knows_answers_with_its_code_and_the_trail_goes_on_from_what_stands(
    vault: Vault, faults: Faults, database: Place
) -> None:
    await vault.run(lambda records: records.append_audit(EVENT))
    faults.fail_after_commit = faults.disk_error()
    assert codes(await batch_failing(vault, faults)) == ["vault_unavailable"] * 3
    assert workloads(database) == ["a"]
    assert outcomes(database) == ["ok", "access_denied"]
    for _ in range(2):
        assert codes(await batch(vault, (refuse("c"), EVENT))) == ["access_denied"]
    assert outcomes(database) == ["ok"] + ["access_denied"] * 3


async def test_a_head_that_was_changed_while_a_commit_was_in_doubt_stops_the_trail(
    vault: Vault, faults: Faults, database: Place
) -> None:
    await vault.run(lambda records: records.append_audit(EVENT))
    faults.fail_after_commit = faults.disk_error()
    await batch_failing(vault, faults)
    behind_its_back(database, "UPDATE audit_heads SET mac = zeroblob(32)")
    with pytest.raises(IdentityError) as caught:
        await vault.run(add_workload("c"))
    assert caught.value.code == "audit_unavailable"


async def test_a_head_that_was_removed_stops_the_trail(vault: Vault, database: Place) -> None:
    await vault.run(lambda records: records.append_audit(EVENT))
    behind_its_back(database, "DELETE FROM audit_heads")
    assert codes(await batch(vault, add_workload("a"), lambda records: records.append_audit(EVENT))) == [
        "ok",
        "audit_unavailable",
    ]
    assert workloads(database) == ["a"]


# --- an exception that leaves the loop --------------------------------------------------------------------------------


@pytest.mark.sqlite
@pytest.mark.parametrize("failure", [RuntimeError("the clock broke"), SystemExit(1), KeyboardInterrupt()])
async def test_whatever_leaves_the_loop_fails_all_who_wait_and_the_writer_begins_anew(
    vault: Vault, clock: FakeClock, faults: Faults, database: Place, monkeypatch: pytest.MonkeyPatch, failure: BaseException
) -> None:
    monkeypatch.setattr(writer_module, "MAXIMUM_BATCH", 2)  # some wait in the queue behind the batch that fails

    def arm(records: Records) -> None:
        del records
        clock.failure = failure

    await vault.run(add_workload("before"))
    ready: list[bool] = []

    async def watch() -> None:
        found = await batch(vault, arm, *map(add_workload, "abcde"))
        ready.append(vault.ready)
        assert codes(found) == ["ok", "ok"] + ["vault_unavailable"] * 4

    await watch()
    assert ready == [False]
    assert workloads(database) == ["a", "before"]
    assert await vault.run(add_workload("after")) == "after"
    assert vault.ready
    assert faults.connections == 2


async def test_a_unit_that_ends_the_program_fails_its_batch_and_not_the_thread(vault: Vault) -> None:
    def end(records: Records) -> None:
        del records
        raise SystemExit

    assert codes(await batch(vault, add_workload("a"), end, add_workload("b"))) == ["vault_unavailable"] * 3
    assert await vault.run(add_workload("c")) == "c"


# --- too much to do, and the end --------------------------------------------------------------------------------------


@pytest.mark.sqlite  # the queue is the same, and on PostgreSQL each unit has a transaction of its own
async def test_the_queue_is_bounded(vault: Vault) -> None:
    full = [add_workload(f"w{number:04}") for number in range(writer_module.CAPACITY + 3)]
    found = await batch(vault, *full)
    assert codes(found).count("rate_limited") == 3
    refused = next(each for each in found if isinstance(each, RateLimited))
    assert refused.retryable
    assert refused.retry_after_seconds == 1


async def test_a_unit_whose_caller_went_away_still_commits(vault: Vault, database: Place) -> None:
    async def leave(records_entered: threading.Event, go_on: threading.Event) -> None:
        def unit(records: Records) -> None:
            records_entered.set()
            go_on.wait(10)
            records.register_workload(DEFAULT_TENANT, "kept", "stdio")

        await vault.run(unit)

    entered, go_on = threading.Event(), threading.Event()
    async with anyio.create_task_group() as group:
        group.start_soon(leave, entered, go_on)
        await anyio.to_thread.run_sync(entered.wait, 10)
        group.cancel_scope.cancel()
    go_on.set()
    await vault.run(add_workload("next"))
    assert workloads(database) == ["kept", "next"]


async def test_closing_finishes_what_waits_and_takes_no_more(opener: Opener, database: Place) -> None:
    vault = opener()
    entered, leave = threading.Event(), threading.Event()

    def keep_busy(_: Records) -> None:
        entered.set()
        leave.wait(10)

    async with anyio.create_task_group() as group:
        group.start_soon(vault.run, keep_busy)
        await anyio.to_thread.run_sync(entered.wait, 10)
        group.start_soon(vault.run, add_workload("last"))
        await anyio.wait_all_tasks_blocked()
        group.start_soon(anyio.to_thread.run_sync, vault.close)
        await anyio.wait_all_tasks_blocked()
        leave.set()
    assert workloads(database) == ["last"]
    assert not vault.ready
    with pytest.raises(VaultUnavailable) as caught:
        await vault.run(add_workload("too late"))
    assert caught.value.code == "vault_unavailable"


def test_a_caller_whose_event_loop_has_ended_keeps_nobody_waiting(opener: Opener) -> None:
    vault = opener()
    entered, leave = threading.Event(), threading.Event()

    def keep_busy(_: Records) -> None:
        entered.set()
        leave.wait(10)

    async def abandon() -> None:
        async with anyio.create_task_group() as group:
            group.start_soon(vault.run, keep_busy)
            await anyio.to_thread.run_sync(entered.wait, 10)
            group.cancel_scope.cancel()

    anyio.run(abandon)
    leave.set()

    async def again() -> str:
        return await vault.run(add_workload("next"))

    assert anyio.run(again) == "next"


def test_a_vault_that_never_started_can_be_closed(vault: Vault) -> None:
    never = writer_module.Writer(vault._store, vault._ring, vault._clock, vault._entropy, "never")
    never.close()
    assert not never.ready
