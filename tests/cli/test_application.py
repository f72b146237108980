"""Does the command line teach itself, and does it fail in one line with a status that scripts can act on?"""

from __future__ import annotations

import json
import os
import pty
import select
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from mcp_identity.cli.failures import exit_code
from mcp_identity.domain import errors
from mcp_identity.domain.errors import IdentityError, UpstreamRejected
from tests.cli.conftest import PROGRAM, CommandLine

COMMANDS = [
    "init",
    "doctor",
    "catalog list",
    "catalog show",
    "providers add",
    "providers list",
    "providers show",
    "providers update",
    "providers remove",
    "providers test",
    "issuers add",
    "issuers list",
    "issuers remove",
    "workloads create",
    "workloads list",
    "workloads show",
    "workloads update",
    "workloads remove",
    "workloads issue-key",
    "workloads keys",
    "workloads revoke-key",
    "access-keys create",
    "access-keys list",
    "access-keys remove",
    "connect",
    "token",
    "grants list",
    "grants revoke",
    "audit tail",
    "clients install",
    "clients show",
]


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_with_an_example(cli: CommandLine, command: str) -> None:
    shown = cli.succeed(*command.split(), "--help").out
    assert f"    mcp-identity {command}" in shown.partition("Examples:")[2]


@pytest.mark.parametrize("command", ["", "catalog list", "catalog show github", "clients show cursor", "providers add --help"])
def test_help_catalog_and_clients_open_no_vault(cli: CommandLine, command: str) -> None:
    cli(*command.split())
    assert not cli.home.exists()


def test_the_help_lists_serve(cli: CommandLine) -> None:
    assert "\n  serve " in cli.succeed("--help").out


def test_the_version_is_the_packages(cli: CommandLine) -> None:
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    assert cli.succeed("--version").out == f"mcp-identity {project['version']}\n"


def test_serve_takes_no_tenant(cli: CommandLine) -> None:
    answer = cli("--tenant", "acme", "serve")
    assert (answer.code, answer.out) == (2, "")
    assert "tenant" in answer.err


@pytest.mark.parametrize("arguments", [("nonsense",), ("providers", "list", "--nonsense"), ("token",)])
def test_what_cannot_be_understood_is_a_usage_error(cli: CommandLine, arguments: tuple[str, ...]) -> None:
    answer = cli(*arguments)
    assert (answer.code, answer.out) == (2, "")


@pytest.mark.parametrize(
    ("code", "status"),
    [
        ("invalid_request", 2),
        ("invalid_scope", 2),
        ("invalid_target", 2),
        ("unknown_provider", 1),
        ("access_denied", 1),
        ("upstream_rejected", 1),
        ("rate_limited", 1),
        ("vault_unavailable", 74),
        ("vault_corrupt", 74),
        ("audit_unavailable", 74),
        ("configuration_error", 78),
    ],
)
def test_the_exit_status_says_who_has_to_act(code: str, status: int) -> None:
    classes = [each for each in vars(errors).values() if isinstance(each, type) and issubclass(each, IdentityError)]
    (kind,) = [each for each in classes if each.code == code and "code" in vars(each)]
    error = kind("a made-up one", error="invalid_grant") if kind is UpstreamRejected else kind("a made-up one")
    assert exit_code(error) == status


def test_settings_that_do_not_stand_are_a_configuration_error_that_names_no_value(cli: CommandLine) -> None:
    answer = cli("providers", "list", MCP_IDENTITY_CALLBACK_PORT="hunter2")
    assert (answer.code, answer.out) == (78, "")
    assert "callback_port" in answer.err
    assert answer.err.endswith("[configuration_error]\n")
    assert "hunter2" not in answer.err


def test_an_unforeseen_error_shows_its_type_alone(vault: CommandLine, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        hidden = "a-secret-in-a-local"
        raise ZeroDivisionError(f"a message with {hidden}")

    monkeypatch.setattr("mcp_identity.cli.session.anyio.run", fail)
    answer = vault("providers", "list")
    assert (answer.code, answer.out) == (1, "")
    assert answer.err == (
        "error: unexpected ZeroDivisionError; set MCP_IDENTITY_LOG_LEVEL=DEBUG to see where [internal_error]\n"
    )
    told = vault("providers", "list", MCP_IDENTITY_LOG_LEVEL="DEBUG")
    assert "ZeroDivisionError at" in told.err
    assert "in fail" in told.err
    assert "a-secret-in-a-local" not in told.err + answer.err


def test_the_program_is_the_same_as_the_module(cli: CommandLine) -> None:
    answer = cli.program("providers", "list", "--json")
    assert (answer.code, answer.json, answer.err) == (0, [], "")


def test_serve_begins_before_typer_is_loaded() -> None:
    code = "import sys; sys.argv[1:] = ['serve', '--help']; from mcp_identity.cli import main; import atexit\n"
    code += "atexit.register(lambda: print([name for name in ('typer', 'rich', 'mcp_identity.app') if name in sys.modules]))\n"
    code += "main()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=30)
    assert done.stdout.endswith("[]\n")


def test_serve_behind_a_global_option_is_the_same_serve(cli: CommandLine) -> None:
    answer = cli("--workload", "cursor", "serve", "--help")
    assert answer.code == 0
    assert "--transport" in answer.out


def test_serve_takes_no_user_from_an_option(cli: CommandLine) -> None:
    answer = cli("--user", "ada", "serve")
    assert (answer.code, answer.out) == (2, "")
    assert "MCP_IDENTITY_USER" in answer.err


def test_tables_are_drawn_for_a_terminal_alone(vault: CommandLine) -> None:
    piped = vault.succeed("catalog", "list").out
    assert piped.startswith("vendor\ttitle\tkind\tflows\tchecked\napi-key\tAPI key\t")
    drawn = _at_a_terminal(vault, "catalog", "list", NO_COLOR="1")
    assert "─" in drawn
    assert "\t" not in drawn
    assert "\x1b[3" not in drawn  # no colour


def test_a_secret_is_asked_for_without_echo(vault: CommandLine) -> None:
    shown = _at_a_terminal(
        vault, "providers", "add", "weather", "--kind", "api-key", typed=["sk-typed-in\n", "token\n"], NO_COLOR="1"
    )
    assert "API key:" in shown
    assert "Release:" in shown
    assert "sk-typed-in" not in shown
    assert vault.succeed("token", "weather", "--workload", "cursor").out == "sk-typed-in\n"


def _at_a_terminal(cli: CommandLine, *arguments: str, typed: list[str] | None = None, **environment: str) -> str:
    """Run a command at a terminal, answer each of its prompts, and read what it shows."""
    ours, its = pty.openpty()
    shown, answers = b"", list(typed or [])
    with subprocess.Popen(
        [*PROGRAM, *arguments], stdin=its, stdout=its, stderr=its, start_new_session=True, env=cli.environment | environment
    ) as process:
        os.close(its)
        try:
            while select.select([ours], [], [], 20)[0]:
                try:
                    piece = os.read(ours, 65536)
                except OSError:  # Linux says so when the other side is closed
                    break
                if not piece:
                    break
                shown += piece
                if answers and shown.endswith(b": "):
                    os.write(ours, answers.pop(0).encode())
            assert process.wait(20) == 0, shown
        finally:
            process.kill()
            os.close(ours)
    return shown.decode()


def test_the_example_configuration_is_what_install_writes(cli: CommandLine) -> None:
    example = json.loads((Path(__file__).parents[2] / "claude_desktop_config.example.json").read_text())
    entry = example["mcpServers"]["identity"]
    assert entry == {"command": "mcp-identity", "args": ["serve"], "env": {"MCP_IDENTITY_WORKLOAD": "claude-desktop"}}
    shown = cli.succeed("clients", "show", "claude-desktop").json["mcpServers"]["identity"]
    assert shown["args"][-1:] == entry["args"]
    assert shown.keys() == entry.keys()
    assert shown["env"]["MCP_IDENTITY_WORKLOAD"] == "claude-desktop"


def test_a_misspelt_key_of_the_settings_file_is_named(vault: CommandLine) -> None:
    (vault.home / "mcp-identity.toml").write_text("callback_prt = 9000\n")
    answer = vault("providers", "list")
    assert answer.code == 78
    assert "callback_prt: there is no such setting; did you mean callback_port" in answer.err
