from __future__ import annotations

import hmac
import re
from dataclasses import replace
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mcp_identity.domain.audit import AuditEvent
from mcp_identity.domain.errors import AccessDenied, AuditUnavailable
from mcp_identity.domain.identity import DEFAULT_TENANT
from mcp_identity.vault.records import Records
from mcp_identity.vault.records.audit import CHAINED, AuditPlace, event_mac, writer_mac
from mcp_identity.vault.records.chain import GENESIS
from mcp_identity.vault.vault import Vault
from tests.fakes.clock import FakeClock
from tests.fakes.postgres import Database
from tests.vault.conftest import Opener
from tests.vault.faults import Job, batch
from tests.vault.kit import EVENT, Place, behind_its_back

NUMBERS = re.compile("SET (sequence|at|verified) ")


def verify(vault: Vault, database: Place) -> dict[str, int]:
    """Recompute every chain and the registry from the rows alone.

    Returns:
        How many rows each writer has.
    """
    key = vault.derived_key("audit")
    names = ", ".join(CHAINED)
    rows = behind_its_back(database, f"SELECT {names}, mac FROM audit_events ORDER BY writer_id, sequence")  # noqa: S608 - names of ours
    ends: dict[str, tuple[int, bytes]] = {}
    for *values, mac in rows:
        row: dict[str, Any] = dict(zip(CHAINED, values, strict=True))
        sequence, previous = ends.get(row["writer_id"], (0, GENESIS))
        assert row["sequence"] == sequence + 1
        assert mac == event_mac(key, previous, row)
        ends[row["writer_id"]] = (row["sequence"], mac)
    heads = behind_its_back(database, "SELECT writer_id, sequence, mac FROM audit_heads")
    assert {writer: (sequence, mac) for writer, sequence, mac in heads if sequence} == ends
    previous = GENESIS
    registry = behind_its_back(database, "SELECT number, writer_id, started_at, mac FROM audit_writers ORDER BY number")
    for expected, (number, writer, started_at, mac) in enumerate(registry, 1):
        assert number == expected
        assert mac == writer_mac(key, previous, number, writer, started_at)
        previous = mac
    assert {writer for _, writer, _, _ in registry} == {writer for writer, _, _ in heads} == ends.keys()
    return {writer: sequence for writer, (sequence, _) in ends.items()}


async def append(vault: Vault, *events: AuditEvent) -> None:
    def unit(records: Records) -> None:
        for event in events:
            records.append_audit(event)

    await vault.run(unit)


async def listed(vault: Vault, limit: int = 100, after: AuditPlace | None = None) -> list[AuditEvent]:
    found = await vault.read(lambda records: records.list_audit(DEFAULT_TENANT, limit=limit, after=after))
    return [event for _, event in found]


async def test_every_row_is_chained_to_the_one_before(vault: Vault, database: Place, clock: FakeClock) -> None:
    for number in range(5):
        clock.advance(1)
        await append(vault, EVENT, replace(EVENT, action=f"a{number}"))
    assert list(verify(vault, database).values()) == [10]


async def test_a_process_that_audited_nothing_is_not_registered(vault: Vault, database: Place) -> None:
    await vault.run(lambda records: records.raise_epoch())
    assert verify(vault, database) == {}


async def test_every_process_has_a_chain_of_its_own_and_the_registry_counts_them(opener: Opener, database: Place) -> None:
    first, second = opener(), opener()
    for vault in (first, second, first, second, first):
        await append(vault, EVENT)
    assert sorted(verify(first, database).values()) == [2, 3]
    third = opener()
    await append(third, EVENT)
    assert sorted(verify(third, database).values()) == [1, 2, 3]


async def test_a_unit_that_was_undone_leaves_no_gap(vault: Vault, database: Place) -> None:
    def undone(records: Records) -> None:
        records.append_audit(replace(EVENT, action="undone"))
        records.append_audit(replace(EVENT, action="undone"))
        raise AccessDenied("no")

    def good(records: Records) -> None:
        records.append_audit(EVENT)

    await batch(vault, undone, good, (undone, EVENT), good, undone)
    assert list(verify(vault, database).values()) == [3]
    assert [event.outcome for event in await listed(vault)] == ["ok", "access_denied", "ok"]


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.lists(st.sampled_from(["good", "refused", "silent", "broken"]), min_size=1, max_size=5), max_size=4))
async def test_no_order_of_good_and_refused_units_breaks_the_chain(
    vault: Vault, database: Place, batches: list[list[str]]
) -> None:
    def unit(kind: str, records: Records) -> None:
        records.append_audit(replace(EVENT, action=kind))
        if kind in ("refused", "silent"):
            raise AccessDenied("no")
        if kind == "broken":
            raise ZeroDivisionError

    def job(kind: str) -> Job:
        work = partial(unit, kind)
        return work if kind == "silent" else (work, EVENT)

    before = sum(verify(vault, database).values())
    for kinds in batches:
        await batch(vault, *map(job, kinds))
    expected = sum(kind != "silent" for kinds in batches for kind in kinds)
    assert sum(verify(vault, database).values()) == before + expected


@pytest.mark.parametrize(
    "edit",
    [
        *("UPDATE audit_events SET column = column || 'x' WHERE sequence = 2".replace("column", name) for name in CHAINED),
        "UPDATE audit_events SET mac = zeroblob(32) WHERE sequence = 3",
        "DELETE FROM audit_events WHERE sequence = 2",
        "DELETE FROM audit_events WHERE sequence = 3",
        "UPDATE audit_heads SET sequence = 2",
        "UPDATE audit_writers SET started_at = started_at + 1",
        "DELETE FROM audit_writers",
    ],
)
async def test_an_edit_of_the_trail_shows(vault: Vault, database: Place, edit: str) -> None:
    if isinstance(database, Database):  # where numbers are numbers
        edit = edit.replace(" || 'x'", " + 10") if NUMBERS.search(edit) else edit
    await append(vault, EVENT, EVENT, EVENT)
    verify(vault, database)
    behind_its_back(database, edit)
    with pytest.raises(AssertionError):
        verify(vault, database)


def test_a_mac_covers_the_borders_between_columns() -> None:
    row: dict[str, Any] = dict.fromkeys(CHAINED, "")
    key = b"k" * 32
    one = event_mac(key, GENESIS, row | {"workload": "ab", "workload_id": "c"})
    assert one != event_mac(key, GENESIS, row | {"workload": "a", "workload_id": "bc"})
    assert one != event_mac(key, one, row | {"workload": "ab", "workload_id": "c"})
    assert one != hmac.digest(key, GENESIS, sha256)


async def test_an_event_is_read_back_as_it_was_written(vault: Vault, clock: FakeClock) -> None:
    event = replace(EVENT, flow="M2M", scopes=("a", "b"), correlation_id="c0ffee", detail={"why": "because"})
    await append(vault, event)
    assert await listed(vault) == [replace(event, at=clock.wall)]


async def test_the_latest_are_listed_oldest_first_and_only_behind_a_place(vault: Vault, clock: FakeClock) -> None:
    for number in range(4):
        clock.advance(1)
        await append(vault, replace(EVENT, action=str(number)))
    assert [event.action for event in await listed(vault, 2)] == ["2", "3"]
    places = await vault.read(lambda records: records.list_audit(DEFAULT_TENANT, limit=9))
    assert [event.action for event in await listed(vault, 9, places[1][0])] == ["2", "3"]
    assert [event.action for event in await listed(vault, 1, places[1][0])] == ["2"]
    assert await vault.read(lambda records: records.list_audit("another", limit=9)) == []
    assert await vault.read(lambda records: records.count_audit()) == 4


async def test_what_others_wrote_is_cleaned_and_bounded_before_it_is_kept(vault: Vault, database: Place) -> None:
    evil = "a\nb\x1b[31m\u202e\U000e0041\ud800"
    event = replace(
        EVENT,
        workload=evil,
        user_display=evil,
        provider=evil + "p" * 9000,
        correlation_id=evil,
        detail={"why": evil + "w" * 9000},
    )
    await append(vault, event)
    [kept] = await listed(vault)
    assert (kept.workload, kept.user_display, kept.correlation_id) == ("a b[31m",) * 3
    assert kept.provider.startswith("a b[31mppp")
    assert kept.detail["why"].startswith("a b[31mwww")
    assert len(kept.provider) == len(kept.detail["why"]) == 512
    assert list(verify(vault, database).values()) == [1]


@pytest.mark.parametrize("detail", ["{", "[]", "null", "7"])
async def test_a_detail_that_was_garbled_hides_no_other_row(vault: Vault, database: Place, detail: str) -> None:
    await append(vault, EVENT, replace(EVENT, detail={"why": "because"}))
    behind_its_back(database, ("UPDATE audit_events SET detail = ? WHERE sequence = 2", (detail,)))
    first, second = await listed(vault)
    assert first.detail == {}
    assert second.detail == {"detail": "unreadable"}


@pytest.mark.sqlite  # the others take no such values
@pytest.mark.parametrize(("column", "value"), [("at", 2**61), ("at", -1), ("at", "noon"), ("verified", "x"), ("scopes", b"")])
async def test_a_row_that_cannot_be_shown_is_named_and_hides_no_other(
    vault: Vault, database: Place, column: str, value: object
) -> None:
    await append(vault, EVENT, EVENT, EVENT)
    behind_its_back(database, (f"UPDATE audit_events SET {column} = ? WHERE sequence = 2", (value,)))  # noqa: S608 - a column of ours
    assert sorted(event.outcome for event in await listed(vault)) == ["ok", "ok", "vault_corrupt"]


async def test_following_the_trail_misses_nothing_however_much_came_at_once(vault: Vault) -> None:
    await append(vault, EVENT)
    place, seen = (await vault.read(lambda records: records.list_audit(DEFAULT_TENANT, limit=1)))[-1][0], 0
    await append(vault, *[EVENT] * 250)
    while found := await vault.read(lambda records, place=place: records.list_audit(DEFAULT_TENANT, limit=100, after=place)):
        place, seen = found[-1][0], seen + len(found)
    assert seen == 250


@pytest.mark.parametrize("table", ["audit_events", "audit_heads"])
async def test_an_audit_row_that_the_database_swallows_is_an_audit_that_is_broken(
    vault: Vault, database: Place, table: str
) -> None:
    await append(vault, EVENT)
    mute(database, "INSERT" if table == "audit_events" else "UPDATE", table)
    with pytest.raises(AuditUnavailable):
        await append(vault, EVENT)


def mute(database: Place, verb: str, table: str) -> None:
    """Whatever this verb does to the table does nothing from now on."""
    if isinstance(database, Path):
        behind_its_back(database, f"CREATE TRIGGER mute BEFORE {verb} ON {table} BEGIN SELECT RAISE(IGNORE); END")
        return
    behind_its_back(
        database,
        "CREATE FUNCTION public.mute() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NULL; END $$",
        f"CREATE TRIGGER mute BEFORE {verb} ON {table} FOR EACH ROW EXECUTE FUNCTION public.mute()",
    )
