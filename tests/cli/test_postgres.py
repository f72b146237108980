"""Does the command line know a vault on PostgreSQL as well as one in a file?"""

from __future__ import annotations

from collections.abc import Generator
from subprocess import PIPE, Popen

import pytest

from tests.cli.conftest import PROGRAM, CommandLine
from tests.fakes.postgres import Database, postgres

URL = "MCP_IDENTITY_DATABASE_URL"


@pytest.fixture
def database(monkeypatch: pytest.MonkeyPatch) -> Generator[Database]:
    made = postgres().create_database()
    monkeypatch.setenv(URL, made.url)
    yield made
    made.drop()


def test_a_vault_is_made_looked_at_and_used_there(cli: CommandLine, database: Database) -> None:
    before = cli("doctor", "--json")
    assert {row["check"]: row["state"] for row in before.json}["vault"] == "note"
    assert "not made yet on PostgreSQL" in before.out
    made = cli.succeed("init")
    assert "Made the vault and its key." in made.out
    assert f"PostgreSQL database {database.name} on 127.0.0.1" in made.out
    assert "nothing was changed" in cli.succeed("init").out
    cli.with_api_key()
    doctor = cli.succeed("doctor")
    assert "PostgreSQL has met nothing damaged" in doctor.out
    assert "provider weather" in doctor.out
    assert [path.name for path in cli.home.iterdir()] == ["key"]
    for answer in (before, made, doctor):
        assert database.server.password not in answer.out + answer.err
        assert "identity:" not in answer.out + answer.err


def test_a_wrong_password_is_said_and_not_repeated(cli: CommandLine, database: Database) -> None:
    cli.succeed("init")
    answer = cli("doctor", **{URL: database.url.replace("identity:", "identity:canary")})
    assert answer.code == 74
    assert "the password is not right" in answer.out
    assert "canary" not in answer.out + answer.err


def test_stdio_believes_this_machines_user_only_where_it_is_told_to(cli: CommandLine, database: Database) -> None:
    cli.succeed("init")
    environment = {URL: database.url}
    with Popen([*PROGRAM, "serve"], stdin=PIPE, stderr=PIPE, text=True, env=cli.environment | environment) as host:
        assert host.wait(30) == 78  # although its input has not ended
        assert host.stderr is not None
        said = host.stderr.read()
    assert "--trust-local-user" in said
    assert "[configuration_error]" in said
    assert cli.program("serve", "--trust-local-user", **environment).code == 0
    answer = cli.program("serve", "--transport", "http", "--port", "0", "--insecure-loopback", **environment)
    assert answer.code == 78
    assert "--trust-local-user" in answer.err


def test_the_password_is_written_into_no_clients_configuration(cli: CommandLine, database: Database) -> None:
    answer = cli("clients", "show", "claude-desktop")
    assert answer.code == 78
    assert "password_from=file:" in answer.err
    assert database.server.password not in answer.out + answer.err
    shown = cli.succeed(
        "clients", "show", "claude-desktop", **{URL: f"{database.url_without_password}?password_from=file:/run/p"}
    )
    assert "password_from=file:/run/p" in shown.out


def test_without_the_driver_the_message_says_what_to_install(cli: CommandLine, database: Database) -> None:
    del database
    elsewhere = cli.home.parent / "without"
    elsewhere.mkdir()
    (elsewhere / "psycopg.py").write_text("raise ImportError")
    answer = cli.program("doctor", PYTHONPATH=str(elsewhere), **{URL: "postgresql://u@127.0.0.1/v"})
    assert answer.code == 78
    assert "pip install 'mcp-identity[postgres]'" in answer.out
