"""Does `doctor` tell the truth about a healthy vault, and useful things about every other one?"""

from __future__ import annotations

import json
import re
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from tests.cli.conftest import Answer, CommandLine, free_port
from tests.fakes.hostile_server import Script, hostile_server


def _states(answer: Answer) -> dict[str, str]:
    return {row["check"]: row["state"] for row in answer.json}


def test_a_healthy_vault_is_all_well(vault: CommandLine) -> None:
    vault.with_api_key()
    before = vault.digest()
    answer = vault.succeed("doctor", "--json")
    expected = ["settings", "home", "key", "vault", "schema", "database", "rows", "callback port", "provider weather"]
    assert [name for name in _states(answer) if name != "platform"] == expected
    assert set(_states(answer).values()) <= {"ok", "note"}
    assert vault.digest() == before
    assert "database\tok\tSQLite finds nothing damaged" in vault.succeed("doctor").out


def test_where_nothing_is_made_yet_nothing_is_made(cli: CommandLine) -> None:
    answer = cli.succeed("doctor", "--json")
    assert _states(answer)["vault"] == "note"
    assert "mcp-identity init" in answer.out
    assert not cli.home.exists()


def test_a_key_file_whose_folder_is_missing_is_told(cli: CommandLine, tmp_path: Path) -> None:
    answer = cli("doctor", "--json", MCP_IDENTITY_KEY=f"file:{tmp_path / 'nowhere' / 'key'}")
    assert (answer.code, _states(answer)["vault"]) == (78, "failed")
    assert not cli.home.exists()


def test_settings_that_do_not_stand_are_one_row(cli: CommandLine) -> None:
    answer = cli("doctor", "--json", MCP_IDENTITY_CALLBACK_PORT="none")
    assert (answer.code, _states(answer)) == (78, {"settings": "failed"})


def test_a_settings_file_that_is_no_toml_is_one_row(vault: CommandLine) -> None:
    (vault.home / "mcp-identity.toml").write_text("callback_port = [")
    answer = vault("doctor", "--json")
    assert (answer.code, _states(answer)) == (78, {"settings": "failed"})


def test_a_row_that_was_changed_is_storage(vault: CommandLine) -> None:
    vault.with_api_key("weather")
    vault.with_api_key("climate")
    with closing(sqlite3.connect(vault.home / "vault.db")) as database, database:
        database.execute("UPDATE credential_providers SET vendor = 'github' WHERE name = 'climate'")
    answer = vault("doctor", "--json")
    states = _states(answer)
    assert (answer.code, states["rows"], states["provider weather"], "provider climate" in states) == (
        74,
        "failed",
        "ok",
        False,
    )


@pytest.mark.parametrize("table", ["tenants", "workload_identities", "workload_keys", "signing_keys"])
def test_a_row_of_another_tenant_that_was_changed_is_storage_too(vault: CommandLine, table: str) -> None:
    vault.succeed(
        "--tenant", "acme", "workloads", "create", "agent", "--issue-key", "--identity-audience", "https://a.example.com"
    )
    assert _states(vault.succeed("doctor", "--json"))["rows"] == "ok"
    with closing(sqlite3.connect(vault.home / "vault.db")) as database, database:
        database.execute(f"UPDATE {table} SET created_at = 1")  # noqa: S608 - a name from above
    answer = vault("doctor", "--json")
    assert (answer.code, _states(answer)["rows"]) == (74, "failed")


def test_the_providers_of_every_tenant_are_looked_at(vault: CommandLine) -> None:
    key = ("--kind", "api-key", "--api-key-stdin", "--release", "token")
    vault.succeed("--tenant", "acme", "providers", "add", "weather", *key, stdin="sk-acme\n")
    assert _states(vault.succeed("doctor", "--json"))["provider weather of acme"] == "ok"


def test_a_secret_that_is_missing_is_told_with_what_to_do(vault: CommandLine) -> None:
    urls = ("--authorization-url", "https://a.example.com/authorize", "--token-url", "https://a.example.com/token")
    vault.succeed("providers", "add", "idp", *urls, "--client-id", "x", "--client-secret-stdin", stdin="made-up")
    vault.succeed("providers", "update", "idp", "--token-url", "https://b.example.com/token")
    answer = vault("doctor", "--json")
    assert (answer.code, _states(answer)["provider idp"]) == (1, "failed")
    assert "providers update idp" in answer.out


def test_a_database_that_is_damaged_is_storage(vault: CommandLine) -> None:
    vault.with_api_key()
    path = vault.home / "vault.db"
    content = bytearray(path.read_bytes())
    with closing(sqlite3.connect(path)) as database:
        size: int = database.execute("PRAGMA page_size").fetchone()[0]
        roots = database.execute("SELECT rootpage FROM sqlite_master WHERE tbl_name = 'grants' AND rootpage > 0").fetchall()
    for (root,) in roots:
        content[(root - 1) * size : root * size] = b"\xff" * size
    path.write_bytes(content)
    answer = vault("doctor", "--json")
    assert answer.code == 74
    assert "failed" in (_states(answer)["database"], _states(answer).get("vault", ""))


async def test_a_port_that_another_program_holds_is_told(vault: CommandLine) -> None:
    from anyio.to_thread import run_sync

    async with hostile_server(Script(body=b"x" * 32)) as squatter:
        environment = {"MCP_IDENTITY_CALLBACK_PORT": str(squatter.port)}
        answer = await run_sync(lambda: vault.program("doctor", "--json", **environment))
    assert (answer.code, _states(answer)["callback port"]) == (1, "failed")
    assert "MCP_IDENTITY_CALLBACK_PORT" in answer.out


def test_a_port_that_a_server_of_this_vault_holds_is_well(vault: CommandLine) -> None:
    urls = ("--authorization-url", "https://a.example.com/authorize", "--token-url", "https://a.example.com/token")
    vault.succeed("providers", "add", "idp", *urls, "--client-id", "x", "--client-auth", "none")
    with vault.started("connect", "idp", "--no-browser", "--workload", "cursor") as process:
        assert process.stderr is not None
        assert any(re.search("/consent/", line) for line in process.stderr)
        answer = vault.succeed("doctor", "--json")
    assert "held by a server of this vault" in answer.out


@pytest.mark.parametrize("spoilt", [False, True])
def test_a_held_port_is_noted_where_the_vault_does_not_open(vault: CommandLine, spoilt: bool) -> None:
    if spoilt:
        (vault.home / "key").unlink()
    answer = vault("doctor", "--json", MCP_IDENTITY_CALLBACK_PORT=str(free_port()))
    assert _states(answer)["callback port"] == "ok"
    assert answer.code == (78 if spoilt else 0)


def test_clients_that_start_us_are_named(vault: CommandLine) -> None:
    vault.succeed("clients", "install", "cursor")
    (vault.home.parent / "person" / ".claude.json").write_text("{ not json")
    rows = {row["check"]: row for row in json.loads(vault.succeed("doctor", "--json").out)}
    assert rows["client cursor"]["detail"] == "starts us as identity"
    assert rows["client claude-code"]["state"] == "note"
    assert "client vscode" not in rows
