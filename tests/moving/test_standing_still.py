"""Does nobody write while a vault is copied, and does everybody who may not say why?"""

from __future__ import annotations

import os
from pathlib import Path

import anyio
import anyio.from_thread
import anyio.to_thread
import pytest

from mcp_identity.app import moving
from mcp_identity.domain.errors import StorageError, VaultUnavailable
from mcp_identity.settings import Settings
from mcp_identity.vault.opening import VaultLocation
from mcp_identity.vault.records import Records
from tests.moving.kit import Somewhere, Watching, new_database, nobody
from tests.vault.kit import EVENT


def test_a_vault_that_somebody_has_open_is_not_copied_and_they_are_named(
    here: Somewhere, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def impatient(settings: Settings) -> VaultLocation:
        return here.at(settings.database_url).location(0.05)

    monkeypatch.setattr(moving, "vault_location", impatient)
    vault = here.open()
    url = new_database("sqlite", tmp_path)
    try:
        with pytest.raises(VaultUnavailable) as caught:
            moving.copy(here.settings, url, nobody)
    finally:
        vault.close()
    assert caught.value.code == "vault_unavailable"
    assert f"pid {os.getpid()}" in caught.value.message
    assert not Path(url.removeprefix("sqlite:///")).exists()


def test_nobody_opens_a_file_while_it_is_copied(here: Somewhere, tmp_path: Path) -> None:
    refused: list[str] = []

    def open_it() -> None:
        with pytest.raises(VaultUnavailable) as caught:
            here.open()
        refused.append(caught.value.code)

    moving.copy(here.settings, new_database("sqlite", tmp_path), Watching("copied", open_it))
    assert refused == ["vault_unavailable"]
    here.open().close()


async def test_replicas_write_nothing_while_it_lasts_say_why_and_write_again(there: Somewhere, tmp_path: Path) -> None:
    vault = there.open()
    refused: list[StorageError] = []

    def append(records: Records) -> None:
        records.append_audit(EVENT)

    def touch(records: Records) -> None:
        records.register_workload("default", "newcomer", "stdio")

    def tenants(records: Records) -> tuple[str, ...]:
        return records.list_tenants()

    def write_and_read() -> None:
        for unit in (append, touch):
            with pytest.raises(StorageError) as caught:
                anyio.from_thread.run(vault.run, unit)
            refused.append(caught.value)
        assert anyio.from_thread.run(vault.read, tenants) == ("default",)

    try:
        watching = Watching("copied", write_and_read)
        await anyio.to_thread.run_sync(lambda: moving.copy(there.settings, new_database("sqlite", tmp_path), watching))
        assert {error.code for error in refused} <= {"audit_unavailable", "vault_unavailable"}
        assert len(refused) == 2
        assert all(error.retryable and "it is being copied" in error.message for error in refused)
        await vault.run(append)
    finally:
        await anyio.to_thread.run_sync(vault.close)
