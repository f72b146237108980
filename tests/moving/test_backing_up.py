"""Is a backup of a vault that is used whole, sealed, and good for both databases?

Covers: A33
"""

from __future__ import annotations

import os
import stat
from functools import partial
from pathlib import Path
from typing import BinaryIO, cast

import anyio
import anyio.to_thread
import pytest

from mcp_identity.app import moving
from mcp_identity.domain.errors import AuditUnavailable, ConfigurationError, Conflict, VaultUnavailable
from mcp_identity.domain.identity import DEFAULT_TENANT
from mcp_identity.vault.kms.local import read_key_file
from mcp_identity.vault.records import Records
from tests.moving.kit import DATABASES, Somewhere, Watching, new_database, nobody, rows_of, without_trail
from tests.vault.kit import EVENT, behind_its_back

WISH = moving.Wish()


@pytest.mark.parametrize("vault_on", DATABASES, indirect=True)
async def test_a_backup_under_load_is_the_vault_at_one_moment(vault_on: Somewhere, tmp_path: Path) -> None:
    vault, archive = vault_on.open(), tmp_path / "archive"
    written = 0
    begun = anyio.Event()

    def unit(records: Records) -> None:
        records.register_workload(DEFAULT_TENANT, f"made-{written}", "stdio")
        records.append_audit(EVENT.ending("ok", made=f"made-{written}"))

    async def write() -> None:
        nonlocal written
        while True:
            await vault.run(unit)
            written += 1
            if written == 5:
                begun.set()

    slowly = Watching("written", partial(anyio.from_thread.run_sync, lambda: None), table="audit_events")
    try:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(write)
            await begun.wait()
            await anyio.to_thread.run_sync(lambda: moving.back_up(vault_on.settings, archive, None, slowly))
            tasks.cancel_scope.cancel()
    finally:
        await anyio.to_thread.run_sync(vault.close)
    restored = vault_on.at(new_database("sqlite", tmp_path))
    report = moving.restore(restored.settings, archive, WISH, nobody)
    assert report.findings.unreadable == {}  # the trail's chains end where their heads say
    rows = restored.rows()
    made = sorted(row[2] for row in rows["workload_identities"] if row[2].startswith("made-"))
    told = sorted(row[-2].split('"')[3] for row in rows["audit_events"] if "made-" in row[-2])
    assert made == told
    assert {f"made-{number}" for number in range(len(made))} == set(made)
    assert 5 <= len(made) <= written + 1


@pytest.mark.parametrize("vault_on", DATABASES, indirect=True)
def test_a_backup_holds_every_row_and_is_written_down_first(vault_on: Somewhere, tmp_path: Path) -> None:
    before, archive = vault_on.rows(), tmp_path / "archive"
    said: list[object] = []
    contents = moving.back_up(vault_on.settings, archive, None, Watching("written", lambda: said.append(vault_on.trail())))
    assert said == [vault_on.trail()]
    assert vault_on.trail()[-1][:2] == ("backup_vault", "ok")
    assert without_trail(vault_on.rows()) == without_trail(before)
    head, checked = moving.check(vault_on.settings, archive, nobody)
    assert checked == contents
    assert rows_of(contents) == sum(map(len, vault_on.rows().values())) - 1  # the state is no row
    assert head.vault_id == vault_on.rows()["vault_state"][0][1]


def test_an_archive_says_nothing_without_the_key_and_the_key_is_not_in_it(here: Somewhere, tmp_path: Path) -> None:
    archive = tmp_path / "archive"
    moving.back_up(here.settings, archive, None, nobody)
    data = archive.read_bytes()
    key = here.home / "key"
    for secret in (read_key_file(key), key.read_bytes().strip(), key.read_bytes().split(b":")[2]):
        assert secret not in data
    names = {
        cell
        for name in ("users", "credential_providers", "grants", "workload_identities", "tenants")
        for row in here.rows()[name]
        for cell in row
        if isinstance(cell, str) and len(cell) > 5
    }
    assert len(names) > 20
    assert [name for name in names if name.encode() in data] == []


def test_the_file_is_its_owners_alone_and_nothing_is_overwritten(here: Somewhere, tmp_path: Path) -> None:
    archive = tmp_path / "archive"
    before = os.umask(0)
    try:
        moving.back_up(here.settings, archive, None, nobody)
    finally:
        os.umask(before)
    assert stat.S_IMODE(archive.stat().st_mode) == 0o600
    data = archive.read_bytes()
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "nowhere")
    for taken in (archive, link):
        with pytest.raises(Conflict) as caught:
            moving.back_up(here.settings, taken, None, nobody)
        assert caught.value.code == "conflict"
    assert archive.read_bytes() == data
    assert sorted(path.name for path in tmp_path.iterdir()) == ["archive", "home", "link"]


def test_a_name_that_somebody_took_meanwhile_is_left_to_them(here: Somewhere, tmp_path: Path) -> None:
    archive = tmp_path / "archive"
    with pytest.raises(Conflict):
        moving.back_up(here.settings, archive, None, Watching("written", lambda: archive.write_text("theirs")))
    assert archive.read_text() == "theirs"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["archive", "home"]


def test_ctrl_c_leaves_no_half_of_it(here: Somewhere, tmp_path: Path) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        moving.back_up(here.settings, tmp_path / "archive", None, Watching("written", interrupt))
    assert [path.name for path in tmp_path.iterdir()] == ["home"]
    here.open().close()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no device that is always full")
def test_a_full_disk_is_told_and_the_vault_works_on(here: Somewhere) -> None:
    with Path("/dev/full").open("wb", buffering=0) as full, pytest.raises(VaultUnavailable) as caught:
        moving.back_up(here.settings, None, cast("BinaryIO", full), nobody)
    assert caught.value.code == "vault_unavailable"
    assert "No space" in caught.value.message
    here.open().close()


def test_a_folder_that_is_not_there_is_told(here: Somewhere, tmp_path: Path) -> None:
    with pytest.raises(VaultUnavailable) as caught:
        moving.back_up(here.settings, tmp_path / "nowhere" / "archive", None, nobody)
    assert caught.value.code == "vault_unavailable"


def test_what_cannot_be_written_down_is_not_read(here: Somewhere, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_records: Records) -> None:
        raise AuditUnavailable("no")

    monkeypatch.setattr(Records, "write_audit", fail)
    with pytest.raises(AuditUnavailable):
        moving.back_up(here.settings, tmp_path / "archive", None, nobody)
    assert not (tmp_path / "archive").exists()


def test_where_no_vault_is_none_is_made(tmp_path: Path) -> None:
    nowhere = Somewhere(tmp_path / "nowhere")
    for command in (
        lambda: moving.back_up(nowhere.settings, tmp_path / "archive", None, nobody),
        lambda: moving.copy(nowhere.settings, f"sqlite:///{tmp_path}/other.db", nobody),
        lambda: moving.look(nowhere.settings),
        lambda: moving.migrate(nowhere.settings),
    ):
        with pytest.raises(ConfigurationError) as caught:
            command()
        assert caught.value.code == "configuration_error"
    assert list(tmp_path.iterdir()) == []


def add_newcomer(records: Records) -> None:
    records.register_workload(DEFAULT_TENANT, "newcomer", "stdio")


def test_a_copied_file_without_its_journal_lacks_what_was_written_last(here: Somewhere, tmp_path: Path) -> None:
    """Why a backup is a command, and no copy of a file."""
    vault = here.open()
    anyio.run(vault.run, add_newcomer)
    copied, archive = tmp_path / "copied.db", tmp_path / "archive"
    copied.write_bytes((here.home / "vault.db").read_bytes())
    moving.back_up(here.settings, archive, None, nobody)
    vault.close()
    restored = here.at(new_database("sqlite", tmp_path))
    moving.restore(restored.settings, archive, WISH, nobody)
    names = "SELECT name FROM workload_identities WHERE name = 'newcomer'"
    assert behind_its_back(copied, names) == []
    assert [row[2] for row in restored.rows()["workload_identities"] if row[2] == "newcomer"] == ["newcomer"]


def test_every_column_of_every_table_is_in_it(here: Somewhere, tmp_path: Path) -> None:
    archive = tmp_path / "archive"
    moving.back_up(here.settings, archive, None, nobody)
    restored = here.at(new_database("sqlite", tmp_path))
    moving.restore(restored.settings, archive, WISH, nobody)
    settled = {"consent_sessions", "login_transactions", "releases", "approvals", "workload_identities", "vault_state"}
    before, after = without_trail(here.rows()), without_trail(restored.rows())
    assert {name for name in before if before[name] != after[name]} == settled
