"""What does the command line do about every state that key and vault can be in?"""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cli.conftest import CommandLine


def test_init_makes_both_and_says_where_and_what_to_do(cli: CommandLine) -> None:
    answer = cli.succeed("init")
    assert str(cli.home / "vault.db") in answer.out
    assert str(cli.home / "key") in answer.out
    assert "Back up the key" in answer.out
    assert "mcp-identity providers add" in answer.out
    for name in ("vault.db", "key"):
        assert stat.S_IMODE((cli.home / name).stat().st_mode) == 0o600


def test_init_again_changes_nothing_and_says_so(vault: CommandLine) -> None:
    before = vault.digest()
    answer = vault.succeed("init")
    assert "nothing was changed" in answer.out
    assert vault.digest() == before


def test_init_makes_a_vault_for_a_key_that_is_there(vault: CommandLine) -> None:
    key = (vault.home / "key").read_bytes()
    (vault.home / "vault.db").unlink()
    answer = vault.succeed("init")
    assert "for the key that was here" in answer.out
    assert (vault.home / "key").read_bytes() == key


def test_the_first_command_makes_the_vault_by_itself(cli: CommandLine) -> None:
    cli.succeed("providers", "list")
    assert (cli.home / "vault.db").is_file()


def _missing(home: Path) -> Path:
    (home / "key").unlink()
    return home / "key"


def _another(home: Path) -> Path:
    other = home.parent / "other"
    shutil.move(home / "key", home.parent / "kept")
    (home / "key").write_text(_key_text(b"x" * 32))
    (home / "key").chmod(0o600)
    assert not other.exists()
    return home / "vault.db"


def _truncated(home: Path) -> Path:
    text = (home / "key").read_text()
    (home / "key").write_text(text[: len(text) // 2])
    return home / "key"


def _readable_by_others(home: Path) -> Path:
    (home / "key").chmod(0o644)
    return home / "key"


def _open_folder(home: Path) -> Path:
    home.chmod(0o755)
    return home


def _linked(home: Path) -> Path:
    shutil.move(home / "key", home.parent / "kept")
    (home / "key").symlink_to(home.parent / "kept")
    return home / "key"


STATES = [_missing, _another, _truncated, _readable_by_others, _open_folder, _linked]
COMMANDS = [("init",), ("providers", "list"), ("doctor",)]


@pytest.mark.skipif(os.name != "posix", reason="modes and links are POSIX")
@pytest.mark.parametrize("arguments", COMMANDS)
@pytest.mark.parametrize("spoil", STATES)
def test_what_does_not_fit_together_is_refused_unchanged(
    vault: CommandLine, spoil: Callable[[Path], Path], arguments: tuple[str, ...]
) -> None:
    secret = (vault.home / "key").read_text().strip()
    before, named = vault.digest(), spoil(vault.home)
    answer = vault(*arguments)
    said = answer.out + answer.err
    assert answer.code == 78
    assert str(named) in said
    assert vault.digest() == before
    assert secret.split(":")[2] not in said
    assert "Traceback" not in said


def test_a_key_without_its_vault_is_refused_but_by_init(vault: CommandLine) -> None:
    (vault.home / "vault.db").unlink()
    for arguments in (("providers", "list"), ("doctor",)):
        answer = vault(*arguments)
        assert answer.code == 78
        assert str(vault.home / "key") in answer.out + answer.err
        assert "mcp-identity init" in answer.out + answer.err
        assert not (vault.home / "vault.db").exists()


def test_two_keys_are_refused(vault: CommandLine) -> None:
    other = vault.home.parent / "configured-key"
    other.write_text(_key_text(b"y" * 32))
    other.chmod(0o600)
    before = vault.digest()
    answer = vault("providers", "list", MCP_IDENTITY_KEY=f"file:{other}")
    assert answer.code == 78
    assert str(other) in answer.err
    assert str(vault.home / "key") in answer.err
    assert vault.digest() == before


def test_a_key_in_a_variable_opens_the_vault_and_is_never_shown(cli: CommandLine) -> None:
    text = _key_text(b"z" * 32)
    given = {"MCP_IDENTITY_KEY": "env:VAULT_KEY", "VAULT_KEY": text}
    made = cli.succeed("init", **given)
    assert "env:VAULT_KEY" in made.out
    listed = cli.succeed("providers", "list", **given)
    without = cli("providers", "list", MCP_IDENTITY_KEY="env:VAULT_KEY")
    assert (without.code, without.out) == (78, "")
    assert text.split(":")[2] not in made.out + made.err + listed.out + listed.err + without.err


def test_a_vault_that_is_no_database_is_storage(vault: CommandLine) -> None:
    (vault.home / "vault.db").write_bytes(b"SQLite format 3\0" + b"nonsense" * 100)
    answer = vault("providers", "list")
    assert answer.code == 74
    assert answer.err.endswith("[vault_corrupt]\n")


def _key_text(material: bytes) -> str:
    from base64 import urlsafe_b64encode
    from hashlib import sha256

    encoded = urlsafe_b64encode(material).rstrip(b"=").decode()
    return f"mcp-identity-key:v1:{encoded}:{sha256(encoded.encode()).hexdigest()[:8]}\n"
