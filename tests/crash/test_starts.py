"""Where does a start end that was killed, or that finds another kind of disk?

covers: F28, F40
"""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from mcp_identity.vault.locks import ProcessLocks
from mcp_identity.vault.stores.sqlite import SqliteStore
from tests.crash.faults import VFS
from tests.crash.kills import KILLED
from tests.crash.test_storage import EXIT_STORAGE
from tests.crash.world import World

pytestmark = pytest.mark.xdist_group("crash-faults")
EXIT_CONFIGURATION = 78
FULL = 2
"""SQLite's own number: the journal is on the disk before a COMMIT returns."""


@pytest.mark.parametrize(
    ("point", "passes", "stands"), [("file.synced", 1, False), ("commit.after", 1, False), ("file.named", 1, True)]
)
def test_a_first_start_that_was_killed_left_a_vault_or_says_what_to_do(
    own_world: World, point: str, passes: int, *, stands: bool
) -> None:
    """Half a vault is never met; a key without a vault is not used by itself, since it may be that of a lost one."""
    world = own_world
    shutil.rmtree(world.home.path)
    assert world.run("workloads", "list", kill_at=point, passes=passes).wait() == KILLED
    second = world.run("workloads", "list", "--json")
    if not stands:
        assert second.wait() == EXIT_CONFIGURATION
        assert "mcp-identity init" in second.said()
        assert world.run("init").wait() == 0
        second = world.run("workloads", "list", "--json")
    assert second.wait() == 0
    assert world.look().problems == ()


def test_a_disk_without_shared_memory_is_refused_where_the_vault_needs_it(own_world: World) -> None:
    """covers: F40."""
    world = own_world
    world.environment_beside = {VFS: "unix-dotfile"}
    before = (world.home.path / "vault.db").read_bytes()
    child = world.start(wait=False)
    assert child.wait(20) == EXIT_STORAGE
    assert "vault_unavailable" in child.said()
    assert (world.home.path / "vault.db").read_bytes() == before


def test_a_vault_that_is_made_on_one_does_without_and_is_as_durable(own_world: World) -> None:
    """covers: F40."""
    world = own_world
    shutil.rmtree(world.home.path)
    world.environment_beside = {VFS: "unix-dotfile"}
    for _ in range(2):
        world.start()
        world.caller.call("list_providers")
        world.end()
    found = world.look()
    assert found.problems == ()
    assert found.events["list_providers", "ok"] == 2


def test_every_commit_is_brought_to_the_disk(own_world: World) -> None:
    """covers: F28. What a killed process wrote, the kernel has; what a power cut costs is decided by these two."""
    store = SqliteStore(own_world.home.path / "vault.db", ProcessLocks(own_world.home.path, "looks", wait_seconds=1))
    for engine in (store.writing_engine(), store.reading_engine()):
        with engine.connect() as connection:
            found = {name: connection.exec_driver_sql(f"PRAGMA {name}").scalar() for name in ("journal_mode", "synchronous")}
        engine.dispose()
        assert found == {"journal_mode": "wal", "synchronous": FULL}


def test_key_and_vault_are_on_the_disk_with_their_names_before_they_are_used(own_world: World) -> None:
    """covers: F28."""
    world = own_world
    shutil.rmtree(world.home.path)
    synced: list[list[str]] = []
    for passes in (1, 2, 3):
        shutil.rmtree(world.home.path, ignore_errors=True)
        assert world.run("workloads", "list", kill_at="file.synced", passes=passes).wait() == KILLED
        synced.append(names(world.home.path))
    assert synced[0] == synced[1] == ["key"]  # the key, and the folder in which it got its name
    assert synced[2] == ["key", "vault.db"]


def names(folder: Path) -> list[str]:
    """What is there, without what only tells processes of one another."""
    return sorted(path.name for path in folder.iterdir() if path.suffix != ".lock" and path.name != "processes")
