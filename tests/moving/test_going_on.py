"""Whatever stops a copy, wherever: does nothing open what is there, and does the same command go on?"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from mcp_identity.app import moving
from mcp_identity.domain.errors import VaultUnavailable
from mcp_identity.vault.moving import reading
from tests.moving.kit import EITHER, Somewhere, Watching, new_database, nobody, without_trail

KILLED = [
    ("target.Target.begin", "before", 1),
    ("target.Target.begin", "after", 1),
    ("filling.write_batch", "before", 4),
    ("filling.write_batch", "after", 9),
    ("filling.remove_strangers", "after", 1),
    ("copying.verify_copy", "before", 1),
    ("copying.verify_copy", "after", 1),
    ("copying.open_to_others", "before", 1),
    ("copying.open_to_others", "after", 1),
]
"""Where a process is killed, one after another on the same copy: a step, and its how many-eth call."""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are killed that were forked")
@pytest.mark.parametrize(
    ("vault_on", "to"),
    [("sqlite", "postgresql"), *([("postgresql", "sqlite")] if os.environ.get("PROVE") else [])],
    indirect=["vault_on"],
)
def test_a_copy_that_is_killed_at_every_step_goes_on_and_arrives(vault_on: Somewhere, to: str, tmp_path: Path) -> None:
    copied = vault_on.at(new_database(to, tmp_path))
    orders = {"home": str(vault_on.home), "url": vault_on.url, "to": copied.url, "killed": KILLED, "at_once": 1}
    done = subprocess.run(
        [sys.executable, "-m", "tests.moving.killed"],
        input=json.dumps(orders),
        capture_output=True,
        text=True,
        check=False,
        timeout=110,
        cwd=Path(__file__).parents[2],
    )
    assert done.returncode == 0, done.stderr
    said = [json.loads(line) for line in done.stdout.splitlines()]
    killed = said[:-1]
    assert [each["signal"] for each in killed] == [signal.SIGKILL] * len(KILLED)
    made_nothing, finished = KILLED[0], KILLED[-1]
    expected = {made_nothing: "none", finished: "ready"}
    assert [each["opened"] for each in killed] == [expected.get(step, "being filled") for step in KILLED]
    assert said[-1] == {"was_complete": True, "unreadable": {}}
    assert without_trail(copied.rows()) == without_trail(vault_on.rows())
    copied.open().close()


@pytest.mark.parametrize(("vault_on", "to"), [("sqlite", "postgresql"), ("postgresql", "sqlite")], indirect=["vault_on"])
def test_what_changed_in_the_source_since_an_attempt_is_put_right(
    vault_on: Somewhere, to: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "AT_ONCE", 1)
    copied = vault_on.at(new_database(to, tmp_path))
    with pytest.raises(KeyboardInterrupt):
        moving.copy(vault_on.settings, copied.url, Watching("copied", _interrupt, table="workload_keys"))
    with pytest.raises(VaultUnavailable) as caught:
        copied.open()
    assert caught.value.code == "vault_unavailable"
    assert "being filled" in caught.value.message
    assert moving.look(copied.settings).condition == "being filled"
    vault_on.edit("DELETE FROM grants WHERE user_key <> ''")
    vault_on.edit("DELETE FROM releases")
    vault_on.edit("UPDATE workload_identities SET purpose = 'changed', epoch = epoch + 1")
    vault_on.edit("UPDATE vault_state SET configuration_epoch = 77")
    report = moving.copy(vault_on.settings, copied.url, nobody)
    assert report.resumed
    assert without_trail(copied.rows()) == without_trail(vault_on.rows())
    assert report.findings.unreadable == {"workload_identities": 2}


def _interrupt() -> None:
    raise KeyboardInterrupt


def test_rows_that_stand_are_not_written_again(here: Somewhere, tmp_path: Path) -> None:
    copied = here.at(new_database("sqlite", tmp_path))
    with pytest.raises(KeyboardInterrupt):
        moving.copy(here.settings, copied.url, Watching("compared", _interrupt))
    report = moving.copy(here.settings, copied.url, nobody)
    assert report.resumed
    assert report.written == 3  # what the second attempt wrote into the trail of the source: an event, a writer, its head
    assert report.contents.rows["audit_events"] > 2


@pytest.mark.parametrize("kind", EITHER)
def test_another_vault_does_not_go_on_where_this_one_was(here: Somewhere, kind: str, tmp_path: Path) -> None:
    copied = here.at(new_database(kind, tmp_path))
    with pytest.raises(KeyboardInterrupt):
        moving.copy(here.settings, copied.url, Watching("compared", _interrupt))
    other = Somewhere(tmp_path / "other")
    other.open().close()
    before = copied.rows()
    with pytest.raises(Exception) as caught:  # noqa: PT011 - its code is looked at
        moving.copy(other.settings, copied.url, nobody)
    assert getattr(caught.value, "code", "") == "conflict"
    assert copied.rows() == before


@pytest.mark.skipif(os.name != "posix", reason="the limit is POSIX's")
def test_a_disk_that_is_full_stops_it_and_it_goes_on_once_there_is_room(here: Somewhere, tmp_path: Path) -> None:
    import resource

    copied = here.at(new_database("sqlite", tmp_path))
    moving.copy(here.settings, f"sqlite:///{tmp_path}/whole/vault.db", nobody)
    room = (tmp_path / "whole" / "vault.db").stat().st_size - 8192

    def little_room() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (room, room))

    done = subprocess.run(
        [sys.executable, "-m", "mcp_identity", "vault", "copy", "--to", copied.url],
        env=os.environ | {"MCP_IDENTITY_HOME": str(here.home)},
        preexec_fn=little_room,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 74, done.stderr
    assert "run the same command again" in done.stderr
    assert moving.copy(here.settings, copied.url, nobody).findings.unreadable == {}
    copied.open().close()
