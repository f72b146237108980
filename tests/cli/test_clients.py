"""Is a client's configuration extended and never harmed?"""

from __future__ import annotations

import json
import os
import stat
import sys
from pathlib import Path
from typing import Any

import pytest

from mcp_identity.cli.client_files import CLIENTS, is_ours
from mcp_identity.cli.connect import may_open
from tests.cli.conftest import CommandLine

OTHERS: dict[str, Any] = {
    "theme": "dark",
    "größe": [1, 2.5, None, "\ud800"],
    "mcpServers": {"files": {"command": "npx", "args": ["files"], "env": {"TOKEN": "somebody-else's"}}},
}


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """A configuration with another server in it."""
    path = tmp_path / "claude_desktop_config.json"
    path.write_text(json.dumps(OTHERS, indent=4))
    path.chmod(0o640)
    return path


def _install(cli: CommandLine, config: Path, *options: str) -> str:
    return cli.succeed("clients", "install", "claude-desktop", "--config", str(config), *options).out


def test_everything_else_stays_with_mode_and_backup(cli: CommandLine, config: Path) -> None:
    before = config.read_bytes()
    said = _install(cli, config)
    after = json.loads(config.read_text())
    ours = after["mcpServers"].pop("identity")
    assert after == OTHERS
    assert ours["args"] == ["serve"]
    assert Path(ours["command"]).is_absolute()
    assert ours["env"] == {
        "MCP_IDENTITY_WORKLOAD": "claude-desktop",
        "MCP_IDENTITY_HOME": str(cli.home),
        "MCP_IDENTITY_CALLBACK_PORT": os.environ["MCP_IDENTITY_CALLBACK_PORT"],
    }
    (backup,) = config.parent.glob("claude_desktop_config.json.backup-*")
    assert (backup.read_bytes(), str(backup) in said) == (before, True)
    assert [stat.S_IMODE(path.stat().st_mode) for path in (config, backup)] == [0o640, 0o640]
    assert {path.name for path in config.parent.iterdir()} == {config.name, backup.name, "person"}


def test_twice_is_once(cli: CommandLine, config: Path) -> None:
    _install(cli, config)
    before = config.read_bytes()
    assert "nothing was changed" in _install(cli, config)
    assert config.read_bytes() == before
    assert len(list(config.parent.glob("*.backup-*"))) == 1


def test_again_with_another_name_changes_our_entry_and_keeps_what_was_added_to_it(cli: CommandLine, config: Path) -> None:
    _install(cli, config)
    changed = json.loads(config.read_text())
    changed["mcpServers"]["identity"]["env"]["MCP_IDENTITY_LOG_LEVEL"] = "INFO"
    changed["mcpServers"]["identity"]["disabled"] = True
    config.write_text(json.dumps(changed))
    _install(cli, config, "--workload", "work")
    ours = json.loads(config.read_text())["mcpServers"]["identity"]
    assert (ours["env"]["MCP_IDENTITY_WORKLOAD"], ours["env"]["MCP_IDENTITY_LOG_LEVEL"], ours["disabled"]) == (
        "work",
        "INFO",
        True,
    )


def test_a_server_of_that_name_that_is_not_ours_is_left_alone(cli: CommandLine, config: Path) -> None:
    before = config.read_bytes()
    answer = cli("clients", "install", "claude-desktop", "--config", str(config), "--name", "files")
    assert (answer.code, answer.out) == (1, "")
    assert answer.err.endswith("[conflict]\n")
    assert config.read_bytes() == before


@pytest.mark.parametrize(
    "content",
    [b'{"mcpServers": {', b"{} // a comment", b"[]", b'{"mcpServers": []}', b'{"a": 1, "a": 2}', b"\xff\xfe", b"[" * 100_000],
)
def test_what_is_not_plain_json_is_refused_untouched(cli: CommandLine, config: Path, content: bytes) -> None:
    config.write_bytes(content)
    answer = cli("clients", "install", "claude-desktop", "--config", str(config))
    assert (answer.code, answer.out) == (78, "")
    assert str(config) in answer.err
    assert config.read_bytes() == content
    assert len(list(config.parent.glob("*.backup-*"))) == 0


@pytest.mark.parametrize("content", [None, b"", b"\xef\xbb\xbf{}"])
def test_an_empty_or_missing_configuration_is_made(cli: CommandLine, config: Path, content: bytes | None) -> None:
    config.unlink()
    config = config.parent / "new" / "config.json" if content is None else config
    if content is not None:
        config.write_bytes(content)
    _install(cli, config)
    assert list(json.loads(config.read_text())["mcpServers"]) == ["identity"]


def test_of_a_link_the_file_that_it_names_is_replaced(cli: CommandLine, config: Path) -> None:
    link = config.parent / "link.json"
    link.symlink_to(config)
    _install(cli, link)
    assert link.is_symlink()
    assert "identity" in json.loads(config.read_text())["mcpServers"]


def test_a_dry_run_writes_nothing_and_shows_nothing_of_others(cli: CommandLine, config: Path) -> None:
    before = config.read_bytes()
    said = _install(cli, config, "--dry-run")
    assert '"MCP_IDENTITY_WORKLOAD": "claude-desktop"' in said
    assert "somebody-else's" not in said
    assert config.read_bytes() == before


@pytest.mark.parametrize(
    ("client", "place", "key", "typed"),
    [
        ("claude-desktop", ".config/Claude/claude_desktop_config.json", "mcpServers", False),
        ("cursor", ".cursor/mcp.json", "mcpServers", False),
        ("vscode", ".config/Code/User/mcp.json", "servers", True),
        ("claude-code", ".claude.json", "mcpServers", True),
    ],
)
@pytest.mark.skipif(sys.platform != "linux", reason="the places are Linux's")
def test_each_client_has_its_place_and_form(cli: CommandLine, client: str, place: str, key: str, typed: bool) -> None:
    shown = cli.succeed("clients", "show", client).json
    cli.succeed("clients", "install", client)
    path = cli.home.parent / "person" / place
    assert json.loads(path.read_text()) == shown
    assert list(shown) == [key]
    assert shown[key]["identity"].get("type") == ("stdio" if typed else None)
    assert shown[key]["identity"]["env"]["MCP_IDENTITY_WORKLOAD"] == client


def test_a_project_has_a_configuration_of_its_own(cli: CommandLine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    cli.succeed("clients", "install", "claude-code", "--project")
    assert "identity" in json.loads((tmp_path / ".mcp.json").read_text())["mcpServers"]
    answer = cli("clients", "install", "claude-desktop", "--project")
    assert (answer.code, answer.out) == (2, "")


def test_the_vaults_folder_and_port_are_named_only_where_they_were_set(
    cli: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MCP_IDENTITY_HOME")
    monkeypatch.delenv("MCP_IDENTITY_CALLBACK_PORT")
    shown = cli.succeed("clients", "show", "cursor").json
    assert shown["mcpServers"]["identity"]["env"] == {"MCP_IDENTITY_WORKLOAD": "cursor"}


@pytest.mark.parametrize("options", [("emacs",), ("cursor", "--workload", "My Agent"), ("cursor", "--name", "a b")])
def test_what_cannot_be_is_a_usage_error(cli: CommandLine, options: tuple[str, ...]) -> None:
    answer = cli("clients", "show", *options)
    assert (answer.code, answer.out) == (2, "")


def test_a_folder_that_cannot_be_written_leaves_everything_as_it_was(cli: CommandLine, config: Path) -> None:
    answer = cli("clients", "install", "cursor", "--config", str(config / "below" / "a-file.json"))
    assert (answer.code, answer.out) == (78, "")
    assert json.loads(config.read_text()) == OTHERS


@pytest.mark.parametrize(
    ("entry", "ours"),
    [
        ({"command": "mcp-identity", "args": ["serve"]}, True),
        ({"command": "C:\\Python\\Scripts\\mcp-identity.exe"}, True),
        ({"command": "/usr/bin/python3", "args": ["-m", "mcp_identity", "serve"]}, True),
        ({"command": "uvx", "args": ["something-else"]}, False),
        ({"url": "https://identity.example.com/mcp"}, False),
        ({"command": "mcp-identity", "env": []}, False),
        ("mcp-identity", False),
    ],
)
def test_an_entry_is_ours_if_it_starts_us(entry: object, ours: bool) -> None:
    assert is_ours(entry) is ours


def test_this_machines_user_is_trusted_by_a_server_on_a_shared_vault_only_where_that_was_said(
    cli: CommandLine, config: Path
) -> None:
    shared = {"MCP_IDENTITY_DATABASE_URL": "postgresql://u@db.example.com/v?password_from=file:/run/password"}
    install = ("clients", "install", "claude-desktop", "--config", str(config))
    for options, arguments in (((), ["serve"]), (("--trust-local-user",), ["serve", "--trust-local-user"]), ((), ["serve"])):
        cli.succeed(*install, *options, **shared)
        assert json.loads(config.read_text())["mcpServers"]["identity"]["args"] == arguments
        shown = cli.succeed("clients", "show", "claude-desktop", *options, **shared).json
        assert shown["mcpServers"]["identity"]["args"] == arguments


def test_no_client_writes_a_secret(cli: CommandLine) -> None:
    for client in CLIENTS.values():
        shown = cli.succeed("clients", "show", client.name, MCP_IDENTITY_KEY="env:A_VARIABLE", A_VARIABLE="made-up").json
        assert shown[client.key]["identity"]["env"].keys() == {
            "MCP_IDENTITY_WORKLOAD",
            "MCP_IDENTITY_HOME",
            "MCP_IDENTITY_CALLBACK_PORT",
        }


@pytest.mark.parametrize(
    ("url", "opened"),
    [
        ("http://127.0.0.1:8976/consent/x", True),
        ("http://localhost:8976/consent/x", True),
        ("https://id.example.com/consent/x", True),
        ("http://id.example.com/consent/x", False),
        ("file:///etc/passwd", False),
        ("javascript:alert(1)", False),
    ],
)
def test_a_browser_is_started_for_https_and_this_machine_alone(url: str, opened: bool) -> None:
    assert may_open(url) is opened
