"""`mcp-identity keys`: what an operator does, what is said, and what is there afterwards."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.conftest import CommandLine
from tests.kms.peers import Bao, bao


@pytest.fixture(scope="session")
def openbao(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bao]:
    """A real OpenBao server."""
    with bao(tmp_path_factory.mktemp("bao")) as server:
        yield server


def secret_of(cli: CommandLine) -> str:
    """What the vault gives of an API key that was added before anything happened to keys."""
    return cli("token", "weather", "--workload", "agent").out.strip()


def states(cli: CommandLine, tenant: str = "default") -> list[tuple[str, int]]:
    versions = cli.succeed("keys", "status", "--json").json["tenants"][tenant]
    return [(each["state"], each["records"]) for each in versions]


def test_keys_are_rotated_and_records_brought_under_the_newest(vault: CommandLine) -> None:
    vault.with_api_key()
    assert secret_of(vault) == "sk-made-up"
    ((_, count),) = states(vault)
    answer = vault.succeed("keys", "rotate")
    assert "version 2" in answer.out
    assert states(vault) == [("retired", count), ("active", 0)]
    answer = vault.succeed("keys", "rewrap", "--batch", "2")
    assert f"default: {count} records" in answer.out
    assert "Rewrapping credential_providers: 1" in answer.err
    assert states(vault) == [("retired", 0), ("active", count)]
    assert secret_of(vault) == "sk-made-up"
    assert vault.succeed("keys", "rewrap", "--json").json == {
        "default": {"moved": 0, "unreadable": {}, "left": 0, "removed_versions": 0}
    }
    early = vault("keys", "rewrap", "--remove-old")
    assert (early.code, "not a minute old" in early.err) == (1, True)
    shown = vault.succeed("keys", "status").out
    assert "local:" in shown
    assert f"file:{vault.home / 'key'}" in shown
    trail = vault.succeed("audit", "tail", "--json").out
    assert all(each in trail for each in ("rotate_key", "rewrap_records", "begun", "remove_old_keys", "conflict"))


def test_a_tenant_is_erased_only_when_that_is_said_twice(vault: CommandLine) -> None:
    vault.succeed("--tenant", "acme", "workloads", "create", "agent")
    refused = vault("keys", "erase", "--tenant", "acme")
    assert (refused.code, "--yes" in refused.err) == (2, True)
    answer = vault.succeed("keys", "erase", "--tenant", "acme", "--yes")
    assert "gone" in answer.out
    assert states(vault, "acme") == [("erased", states(vault, "acme")[0][1])]
    gone = vault("--tenant", "acme", "workloads", "show", "agent")
    assert gone.code != 0
    assert "erased" in gone.err
    again = vault("keys", "erase", "--tenant", "acme", "--yes")
    assert (again.code, "[conflict]" in again.err) == (1, True)
    assert list(vault.succeed("keys", "rotate", "--json").json) == ["default"]
    nobody = vault("keys", "rotate", "--tenant", "nobody")
    assert (nobody.code, "[not_found]" in nobody.err) == (1, True)
    doctor = vault.succeed("doctor", "--json").json
    assert [each["state"] for each in doctor if each["check"] == "rows"] == ["ok"]


def test_a_vault_moves_into_openbao_and_back_into_a_file(
    vault: CommandLine, openbao: Bao, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    vault.with_api_key()
    reference = f"transit:{openbao.reference()}"
    answer = vault.succeed("keys", "move", "--to", reference)
    assert "Moved 2 keys" in answer.out
    assert "transit:transit/vault" in answer.out
    old = vault("keys", "status")
    assert (old.code, "which is under transit:transit/vault" in old.err) == (78, True)
    monkeypatch.setenv("MCP_IDENTITY_KEY", reference)
    two = vault("keys", "status")
    assert (two.code, "move away" in two.err) == (78, True)
    shutil.move(vault.home / "key", tmp_path / "old-key")
    assert secret_of(vault) == "sk-made-up"
    assert "there already" in vault.succeed("keys", "move", "--to", reference).out
    assert vault.succeed("keys", "rotate", "--json").json == {"default": 2}
    openbao.call("transit/keys/vault/rotate")
    vault.succeed("keys", "rewrap")
    openbao.call("transit/keys/vault/config", min_decryption_version=2)
    try:
        assert secret_of(vault) == "sk-made-up"
    finally:
        openbao.call("transit/keys/vault/config", min_decryption_version=1)
    target = f"file:{tmp_path / 'new-key'}"
    assert vault.succeed("keys", "move", "--to", target, "--json").json["keys"] == 3
    monkeypatch.setenv("MCP_IDENTITY_KEY", target)
    assert secret_of(vault) == "sk-made-up"
    assert "ok" in vault.succeed("doctor").out


def test_a_vault_is_made_for_a_key_that_is_elsewhere_only_by_init(
    cli: CommandLine, openbao: Bao, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MCP_IDENTITY_KEY", f"transit:{openbao.reference('other')}")
    refused = cli("providers", "list")
    assert (refused.code, "mcp-identity init" in refused.err) == (78, True)
    assert not cli.home.exists()
    assert "deletes everything here" in cli.succeed("init").out
    assert cli.succeed("keys", "status", "--json").json["key_id"] == "transit:transit/other"
    assert not (cli.home / "key").exists()


@pytest.mark.parametrize(
    ("reference", "code"),
    [("nothing", 78), ("transit:http://bao.example/transit/x?token_file=/t", 78), ("env:NOT_SET", 78), ("aws-kms:alias/x", 78)],
)
def test_a_move_to_what_is_no_key_changes_nothing(vault: CommandLine, reference: str, code: int) -> None:
    before = vault.succeed("keys", "status", "--json").json
    answer = vault("keys", "move", "--to", reference)
    assert answer.code == code, answer
    assert vault.succeed("keys", "status", "--json").json == before
