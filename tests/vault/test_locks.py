from __future__ import annotations

import json
import os
import threading
from pathlib import Path

import pytest

from mcp_identity.domain.errors import VaultUnavailable
from mcp_identity.vault.locks import ProcessLocks


def locks(home: Path, name: str) -> ProcessLocks:
    return ProcessLocks(home, name, wait_seconds=0.05)


def test_a_process_is_alive_while_it_holds_its_lock_and_dead_when_it_let_go(tmp_path: Path) -> None:
    mine, other = locks(tmp_path, "mine"), locks(tmp_path, "other")
    mine.hold()
    other.hold()
    assert not mine.is_dead("other")
    assert not mine.is_dead("mine")
    other.release()
    assert mine.is_dead("other")
    mine.release()
    assert list((tmp_path / "processes").iterdir()) == []


def test_a_process_that_was_killed_is_dead_and_its_file_is_cleared_away(tmp_path: Path) -> None:
    mine = locks(tmp_path, "mine")
    mine.hold()
    left = tmp_path / "processes" / "killed.lock"
    left.write_text("{}")
    assert mine.is_dead("killed")
    assert not left.exists()
    mine.release()


@pytest.mark.parametrize(
    "name", ["", "..", "../create", "../../secret", "/etc/anything", "a/b", "a\x00b", "x" * 65, "é", "a\n"]
)
def test_a_name_out_of_the_database_reaches_no_other_file(tmp_path: Path, name: str) -> None:
    home = tmp_path / "home"
    home.mkdir()
    mine = locks(home, "mine")
    mine.hold()
    for path in (home / "create.lock", tmp_path / "secret.lock"):
        path.write_text("kept")
    assert not mine.is_dead(name)
    assert not mine.is_dead(str(tmp_path / "secret"))
    assert (home / "create.lock").read_text() == (tmp_path / "secret.lock").read_text() == "kept"
    mine.release()


@pytest.mark.skipif(os.name != "posix", reason="a folder in place of a file is an error of POSIX")
def test_what_cannot_be_asked_is_not_known_to_be_dead(tmp_path: Path) -> None:
    mine = locks(tmp_path, "mine")
    mine.hold()
    (tmp_path / "processes" / "odd.lock").mkdir()
    assert not mine.is_dead("odd")
    mine.release()


def test_two_processes_cannot_have_one_name(tmp_path: Path) -> None:
    one, two = locks(tmp_path, "same"), locks(tmp_path, "same")
    one.hold()
    with pytest.raises(VaultUnavailable):
        two.hold()
    assert not locks(tmp_path, "third").is_dead("same")
    one.release()


def test_a_process_that_is_asked_about_while_it_starts_is_still_alive_afterwards(tmp_path: Path) -> None:
    watcher = locks(tmp_path, "watcher")
    watcher.hold()
    done = threading.Event()

    def ask() -> None:
        while not done.is_set():
            for path in (tmp_path / "processes").glob("started-*.lock"):
                watcher.is_dead(path.stem)

    asking = threading.Thread(target=ask)
    asking.start()
    try:
        for number in range(200):
            started = ProcessLocks(tmp_path, f"started-{number}", wait_seconds=5)
            started.hold()
            assert not watcher.is_dead(f"started-{number}")
            started.release()
    finally:
        done.set()
        asking.join()
        watcher.release()


def test_who_waits_is_told_for_whom(tmp_path: Path) -> None:
    mine, other = locks(tmp_path, "mine"), locks(tmp_path, "other")
    other.hold()
    (tmp_path / "processes" / "dead.lock").write_text(json.dumps({"pid": 1, "program": "dead"}))
    with pytest.raises(VaultUnavailable) as caught, mine.exclusive():
        pytest.fail("another process has it open")
    assert caught.value.code == "vault_unavailable"
    assert f"(pid {os.getpid()})" in caught.value.message
    assert "dead" not in caught.value.message
    other.release()
    with mine.exclusive(), pytest.raises(VaultUnavailable) as caught:
        other.hold()
    assert "another process" in caught.value.message
    other.hold()
    other.release()


def test_a_holder_that_left_no_name_is_another_process(tmp_path: Path) -> None:
    mine, other = locks(tmp_path, "mine"), locks(tmp_path, "other")
    other.hold()
    (tmp_path / "processes" / "other.lock").write_text("no JSON")
    assert mine.others() == []
    with pytest.raises(VaultUnavailable) as caught, mine.exclusive():
        pytest.fail("another process has it open")
    assert "another process" in caught.value.message
    other.release()


def test_one_process_at_a_time_makes_a_vault(tmp_path: Path) -> None:
    mine, other = locks(tmp_path, "mine"), locks(tmp_path, "other")
    assert not mine.is_being_made()
    with mine.creating():
        assert other.is_being_made()
        with pytest.raises(VaultUnavailable), other.creating():
            pytest.fail("another process is at it")
    with other.creating():
        pass
