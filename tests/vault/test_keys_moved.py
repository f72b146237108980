"""Does a vault that is moved to another key-encryption key open, wherever the move was killed, and can it be finished?"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import pytest

from mcp_identity.domain.audit import AuditEvent
from mcp_identity.domain.errors import ConfigurationError, Conflict, VaultCorrupt, VaultUnavailable
from mcp_identity.domain.identity import DEFAULT_TENANT
from mcp_identity.vault.kms.choosing import KeySource
from mcp_identity.vault.kms.local import create_key_file
from mcp_identity.vault.records import Records
from mcp_identity.vault.vault import Vault, open_vault
from tests.fakes.clock import FakeClock, SystemEntropy
from tests.vault.kit import behind_its_back, fingerprint, location, provider, seed

EVENT = AuditEvent(DEFAULT_TENANT, "", "", "", "", verified=True, edge="cli", action="move_keys")
pytestmark = pytest.mark.sqlite  # elsewhere the move is one transaction, and there is no file to be read first


class Snapshots:
    """What a process that is killed leaves behind, at every step of a move: the files as they are then."""

    def __init__(self, vault: Vault, home: Path, folder: Path) -> None:
        self.taken: list[Path] = []
        self._home, self._folder = home, folder
        life = self.life = vault.key_life()
        life._vault = self  # type: ignore[assignment]  # pyright: ignore[reportPrivateUsage, reportAttributeAccessIssue]
        store = life._store  # pyright: ignore[reportPrivateUsage]
        life._store = self  # type: ignore[assignment]  # pyright: ignore[reportPrivateUsage, reportAttributeAccessIssue]
        self._vault, self._store = vault, store

    async def run(self, *arguments: Any) -> Any:
        self._take()
        found: Any = await self._vault.run(*arguments)
        self._take()
        return found

    async def read(self, unit: Callable[[Records], object]) -> object:
        return await self._vault.read(unit)

    def checkpoint(self) -> None:
        self._store.checkpoint()
        self._take()

    def _take(self) -> None:
        name = self._folder / f"killed-{len(self.taken)}"
        self.taken.append(Path(shutil.copytree(self._home, name, ignore=shutil.ignore_patterns("processes", "*.lock"))))


def key_at(path: Path) -> KeySource:
    return KeySource(f"file:{path}", path)


async def opens(home: Path, key: KeySource) -> Vault | None:
    """The vault, opened with this key and read; None where it is refused."""
    before = fingerprint(home)
    try:
        vault = open_vault(location(home, key=key, wait=0.05), FakeClock(), SystemEntropy())
    except ConfigurationError:
        if not (home / "vault.db-wal").exists():
            assert fingerprint(home) == before
        return None
    assert await vault.read(lambda records: records.find_provider(DEFAULT_TENANT, "github")) == provider()
    return vault


@pytest.fixture
def old_key(home: Path, tmp_path: Path) -> KeySource:
    """The vault's key, configured: a key file beside the vault would be a second one after the move."""
    (home / "key").rename(tmp_path / "old")
    return key_at(tmp_path / "old")


@pytest.fixture
def new_key(tmp_path: Path) -> KeySource:
    create_key_file(tmp_path / "new", SystemEntropy())
    return key_at(tmp_path / "new")


async def test_wherever_a_move_is_killed_one_reference_opens_the_vault_and_the_same_command_finishes_it(
    home: Path, tmp_path: Path, old_key: KeySource, new_key: KeySource
) -> None:
    vault = open_vault(location(home, key=old_key), FakeClock(), SystemEntropy())
    await vault.run(seed)
    await vault.ensure_tenant("acme")
    target = new_key.open(SystemEntropy())
    snapshots = Snapshots(vault, home, tmp_path)
    assert await snapshots.life.move(target, EVENT) == 3
    vault.close()
    opened_with: list[str] = []
    for killed in snapshots.taken:
        left = shutil.copytree(killed, killed.with_suffix(".old"))
        with_old, with_new = await opens(left, old_key), await opens(killed, new_key)
        assert (with_old is None) != (with_new is None), killed.name
        opened_with.append("old" if with_old else "new")
        opened = with_old or with_new
        assert opened is not None
        await opened.key_life().move(new_key.open(SystemEntropy()), EVENT)
        status = await opened.key_life().status()
        assert (status.key_id, status.coming_key_id) == (target.key_id, "")
        opened.close()
        finished = left if with_old else killed
        assert await opens(finished, old_key) is None
        again = await opens(finished, new_key)
        assert again is not None
        assert await again.run(lambda records: records.has_tenant("acme"))
        again.close()
    assert opened_with == sorted(opened_with, reverse=True)  # first the old one, then the new one, and never neither
    assert set(opened_with) == {"old", "new"}


async def test_the_old_key_is_refused_with_the_name_of_the_new_one(home: Path, old_key: KeySource, new_key: KeySource) -> None:
    vault = open_vault(location(home, key=old_key), FakeClock(), SystemEntropy())

    class Named:
        """A key that is somewhere else."""

        inner = new_key.open(SystemEntropy())
        key_id = "aws-kms:arn:aws:kms:eu-west-1:111122223333:key/1234"
        wrap, unwrap, rewrap = inner.wrap, inner.unwrap, inner.rewrap

    await vault.key_life().move(Named(), EVENT)
    vault.close()
    with pytest.raises(ConfigurationError) as caught:
        open_vault(location(home, key=old_key), FakeClock(), SystemEntropy())
    assert Named.key_id in caught.value.message


async def test_a_target_that_was_only_announced_does_not_open_the_vault(
    home: Path, old_key: KeySource, new_key: KeySource
) -> None:
    vault = open_vault(location(home, key=old_key), FakeClock(), SystemEntropy())
    target = new_key.open(SystemEntropy())
    await vault.run(lambda records: records.announce_key(target.key_id))
    vault.close()
    before = fingerprint(home)
    with pytest.raises(ConfigurationError) as caught:
        open_vault(location(home, key=new_key), FakeClock(), SystemEntropy())
    assert "keys move" in caught.value.message
    assert fingerprint(home) == before
    open_vault(location(home, key=old_key), FakeClock(), SystemEntropy()).close()


async def test_a_move_that_somebody_only_wrote_into_the_file_opens_nothing(
    home: Path, database: Path, old_key: KeySource, new_key: KeySource
) -> None:
    target = new_key.open(SystemEntropy())
    open_vault(location(home, key=old_key), FakeClock(), SystemEntropy()).close()
    behind_its_back(database, ("UPDATE vault_state SET key_id = ?", (target.key_id,)))
    with pytest.raises(VaultCorrupt) as caught:
        open_vault(location(home, key=new_key), FakeClock(), SystemEntropy())
    assert caught.value.code == "vault_corrupt"


def test_two_moves_at_once_end_in_one_of_the_two_keys(home: Path, tmp_path: Path, old_key: KeySource) -> None:
    async def race() -> tuple[str, set[str]]:
        vaults = [open_vault(location(home, key=old_key), FakeClock(), SystemEntropy()) for _ in range(2)]
        targets: list[KeySource] = []
        for number in range(2):
            create_key_file(tmp_path / f"target-{number}", SystemEntropy())
            targets.append(key_at(tmp_path / f"target-{number}"))

        async def turn(vault: Vault, target: KeySource) -> None:
            try:
                await vault.key_life().move(target.open(SystemEntropy()), EVENT)
            except (Conflict, VaultUnavailable):  # one of the two is refused, by what it meets first
                return

        async with anyio.create_task_group() as group:
            for vault, target in zip(vaults, targets, strict=True):
                group.start_soon(turn, vault, target)
        status = await vaults[0].key_life().status()
        keys = await vaults[0].read(lambda records: records.list_keys())
        for vault in vaults:
            vault.close()
        return status.key_id, {each.key.backend_key_id for each in keys}

    key_id, under = anyio.run(race)
    assert under == {key_id}
