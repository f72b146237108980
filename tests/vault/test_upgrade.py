from __future__ import annotations

import os
import threading
from contextlib import closing
from pathlib import Path

import pytest

from mcp_identity.domain.errors import VaultCorrupt, VaultUnavailable
from mcp_identity.vault.writer import SCHEMA_VERSION, WRITER_VERSION
from tests.vault.kit import behind_its_back, first_of, location
from tests.vault.starts import modes, opened, posix, start

pytestmark = pytest.mark.sqlite  # SQLite upgrades itself; for PostgreSQL: test_postgres_opening.py


def age(home: Path) -> None:
    behind_its_back(home / "vault.db", "UPDATE vault_state SET schema_version = 0, minimum_writer = 0")


@posix
def test_an_older_vault_is_copied_and_then_upgraded(home: Path) -> None:
    age(home)
    before = first_of(behind_its_back(home / "vault.db", "SELECT vault_id FROM vault_state"))
    (home / "vault.db.before-schema-1").write_bytes(b"left of an attempt that was killed")
    assert start(location(home)) == before
    state = "SELECT schema_version, minimum_writer FROM vault_state"
    assert behind_its_back(home / "vault.db", state) == [(SCHEMA_VERSION, WRITER_VERSION)]
    assert behind_its_back(home / "vault.db.before-schema-1", state) == [(0, 0)]
    assert modes(home)["vault.db.before-schema-1"] == 0o600


def test_an_upgraded_vault_is_not_copied_again(home: Path) -> None:
    age(home)
    start(location(home))
    before = (home / "vault.db.before-schema-1").read_bytes()
    start(location(home))
    assert (home / "vault.db.before-schema-1").read_bytes() == before


def test_an_upgrade_waits_for_the_others_and_then_names_them(home: Path) -> None:
    with closing(opened(location(home))):
        age(home)
        with pytest.raises(VaultUnavailable) as caught:
            start(location(home, wait=0.05))
        assert caught.value.code == "vault_unavailable"
        assert f"pid {os.getpid()}" in caught.value.message
        assert behind_its_back(home / "vault.db", "SELECT schema_version FROM vault_state") == [(0,)]
        assert not (home / "vault.db.before-schema-1").exists()
    start(location(home, wait=0.05))


def test_of_many_that_upgrade_at_once_one_does_and_its_copy_is_of_the_older_vault(home: Path) -> None:
    age(home)
    ids: list[str] = []
    threads = [threading.Thread(target=lambda: ids.append(start(location(home)))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(ids) == 4
    assert behind_its_back(home / "vault.db.before-schema-1", "SELECT schema_version FROM vault_state") == [(0,)]


def test_an_upgrade_that_fails_leaves_the_older_vault_and_its_copy(home: Path) -> None:
    age(home)
    overflow = "abs(CASE schema_version WHEN 1 THEN -9223372036854775808 ELSE 0 END)"
    behind_its_back(home / "vault.db", f"CREATE INDEX stop ON vault_state ({overflow})")
    with pytest.raises(VaultUnavailable) as caught:
        start(location(home))
    assert caught.value.code == "vault_unavailable"
    assert behind_its_back(home / "vault.db", "SELECT schema_version FROM vault_state") == [(0,)]
    assert (home / "vault.db.before-schema-1").exists()


@pytest.mark.parametrize(
    "foreign",
    [
        "CREATE TRIGGER mute BEFORE INSERT ON audit_events BEGIN SELECT RAISE(IGNORE); END",
        "CREATE VIEW tokens AS SELECT tokens FROM grants",
    ],
)
def test_a_vault_with_a_trigger_or_a_view_is_not_opened(home: Path, foreign: str) -> None:
    behind_its_back(home / "vault.db", foreign)
    with pytest.raises(VaultCorrupt) as caught:
        start(location(home))
    assert caught.value.code == "vault_corrupt"
