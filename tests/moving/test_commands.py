"""What do the commands on whole vaults say, to people and to programs, and how do they end?"""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from mcp_identity.cli import progress
from mcp_identity.cli.application import application
from tests.moving.kit import PASSWORD_VARIABLE, Somewhere, new_database, without_trail


@pytest.fixture
def run(here: Somewhere, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Runs a command on a vault in a file."""
    monkeypatch.setenv("MCP_IDENTITY_HOME", str(here.home))

    def command(*arguments: str, **environment: str) -> Result:
        return CliRunner().invoke(application, ["vault", *arguments], env=environment, prog_name="mcp-identity")

    return command


def test_status_names_the_database_and_counts_what_is_in_it(run: Any, here: Somewhere) -> None:
    said = run("status")
    assert said.exit_code == 0
    assert str(here.home / "vault.db") in said.stdout
    assert "ready" in said.stdout
    assert "grants\t2" in said.stdout
    found = json.loads(run("status", "--json").stdout)
    assert (found["kind"], found["schema"], found["condition"]) == ("sqlite", 1, "ready")
    assert found["rows"]["grants"] == 2


def test_status_of_postgresql_shows_no_password(run: Any, there: Somewhere) -> None:
    import os

    said = run("status", "--json", MCP_IDENTITY_DATABASE_URL=there.url)
    assert said.exit_code == 0, said.stderr
    found = json.loads(said.stdout)
    assert found["kind"] == "postgresql"
    assert found["bytes"] > 0
    assert os.environ[PASSWORD_VARIABLE] not in said.output
    assert PASSWORD_VARIABLE not in said.output


def test_migrate_says_that_nothing_was_to_be_done(run: Any) -> None:
    assert "nothing was changed" in run("migrate").stdout
    assert json.loads(run("migrate", "--json").stdout) == {"before": 1, "after": 1}


def test_migrate_upgrades_an_older_vault_and_writes_it_down(run: Any, here: Somewhere) -> None:
    here.edit("UPDATE vault_state SET schema_version = 0, minimum_writer = 0")
    said = run("migrate")
    assert said.exit_code == 0, said.stderr
    assert "from schema 0 to 1" in said.stdout
    assert here.trail()[-1][:2] == ("migrate_vault", "ok")


def test_migrate_refuses_a_newer_vault(run: Any, here: Somewhere) -> None:
    here.edit("UPDATE vault_state SET schema_version = 99")
    said = run("migrate")
    assert said.exit_code == 74
    assert "vault_unavailable" in said.stderr


def test_copy_says_what_was_done_and_what_comes_next(run: Any, here: Somewhere, tmp_path: Path) -> None:
    url = new_database("sqlite", tmp_path)
    said = run("copy", "--to", url)
    assert said.exit_code == 0, said.stderr
    assert "the same in both" in said.stdout
    assert f"MCP_IDENTITY_DATABASE_URL='{url}'" in said.stdout
    assert "Copying grants: 2" in said.stderr
    assert without_trail(here.at(url).rows()) == without_trail(here.rows())
    again = json.loads(run("copy", "--to", url, "--json").stdout)
    assert again["was_complete"]
    assert {each["table"] for each in again["tables"]} >= {"grants", "users"}
    assert run("copy", "--to", url, "--json").stderr == ""


def test_copy_refuses_a_password_in_an_argument(run: Any) -> None:
    said = run("copy", "--to", "postgresql://identity:hunter2@db.example/identity")
    assert said.exit_code == 2
    assert "password_from" in said.stderr
    assert "hunter2" not in said.output


def test_backup_and_restore_and_what_they_say(run: Any, tmp_path: Path) -> None:
    archive, url = tmp_path / "archive", new_database("sqlite", tmp_path)
    made = run("backup", str(archive))
    assert made.exit_code == 0, made.stderr
    assert "back up that key somewhere else" in made.stdout
    assert "The archive is whole" in run("backup", "--verify", str(archive)).stdout
    assert json.loads(run("backup", "--verify", str(archive), "--json").stdout)["rows"] > 10
    said = run("restore", str(archive), MCP_IDENTITY_DATABASE_URL=url)
    assert said.exit_code == 0, said.stderr
    assert "1 grants of users" in said.stdout
    assert "workload keys that were revoked since work again" in said.stdout
    other = new_database("sqlite", tmp_path)
    ended = run("restore", str(archive), "--end-bearers", "--ask-again", "--json", MCP_IDENTITY_DATABASE_URL=other)
    assert (
        json.loads(ended.stdout)["ended"] | {"grants": 1, "users": 2, "workload_keys": 1} == json.loads(ended.stdout)["ended"]
    )
    refused = run("restore", str(archive))
    assert refused.exit_code == 1
    assert "conflict" in refused.stderr
    assert run("backup", str(archive)).exit_code == 1


def test_an_archive_goes_through_a_pipe_alone(run: Any, tmp_path: Path) -> None:
    said = run("backup", "-")
    assert said.exit_code == 0, said.stderr
    archive = tmp_path / "archive"
    archive.write_bytes(said.stdout_bytes)
    assert "The archive is whole" in run("backup", "--verify", str(archive)).stdout


def test_a_damaged_archive_is_a_matter_of_storage_and_another_file_one_of_configuration(run: Any, tmp_path: Path) -> None:
    archive = tmp_path / "archive"
    run("backup", str(archive))
    data = bytearray(archive.read_bytes())
    data[-1] ^= 1
    archive.write_bytes(data)
    assert run("backup", "--verify", str(archive)).exit_code == 74
    archive.write_bytes(b"something else")
    assert run("backup", "--verify", str(archive)).exit_code == 78
    assert run("backup", "--verify", str(tmp_path / "nowhere")).exit_code == 2


@pytest.mark.parametrize("command", ["status", "migrate", "copy", "backup", "restore"])
def test_help_shows_how(run: Any, command: str) -> None:
    assert f"mcp-identity vault {command}" in run(command, "--help").stdout


def test_a_terminal_sees_a_bar_for_each_step(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = _Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    with progress.shown({"copied": "Copying"}, {"compared": 2}, quiet=False) as begun:
        advance = begun(10)
        for step, rows in (("copied", 6), ("copied", 4), ("compared", 10)):
            advance(step, "grants", rows)
    shown = terminal.getvalue()
    assert "Copying" in shown
    assert "10/10" in shown
    assert "compared" in shown


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True
