from __future__ import annotations

import os
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from mcp_identity.domain.errors import ConfigurationError, VaultCorrupt, VaultUnavailable
from mcp_identity.vault.kms.choosing import KeySource
from mcp_identity.vault.kms.local import new_key_text
from mcp_identity.vault.opening import VaultLocation
from tests.fakes.clock import SystemEntropy
from tests.vault.kit import behind_its_back, location
from tests.vault.starts import env_key, opened, posix, refusal, start, write_key

pytestmark = pytest.mark.sqlite  # about a file, its folder and its journal; for the rest: test_postgres_opening.py

# --- what does not fit together ---------------------------------------------------------------------------------------


def test_a_vault_without_its_key_is_refused(home: Path) -> None:
    (home / "key").unlink()
    error = refusal(location(home))
    assert isinstance(error, ConfigurationError)
    assert "restore the key" in error.message
    assert refusal(location(home), initialise=True).code == "configuration_error"


def test_a_key_without_its_vault_is_refused_until_it_is_told_to(home: Path) -> None:
    before = (home / "key").read_bytes()
    (home / "vault.db").unlink()
    assert "init" in refusal(location(home)).message
    start(location(home), initialise=True)
    assert (home / "key").read_bytes() == before


def test_a_key_without_its_vault_is_refused_before_a_lock_file_is_made(home: Path, tmp_path: Path) -> None:
    fresh = tmp_path / "fresh"
    fresh.mkdir(0o700)
    shutil.copy2(home / "key", fresh / "key")
    assert refusal(location(fresh)).code == "configuration_error"
    assert os.listdir(fresh) == ["key"]  # noqa: PTH208 - names are what is compared


def test_another_key_is_refused(home: Path) -> None:
    write_key(home, new_key_text(SystemEntropy()))
    error = refusal(location(home))
    assert error.code == "configuration_error"
    assert "not the one" in error.message


def edits(text: str) -> dict[str, str]:
    prefix, version, key, checksum = text.strip().split(":")
    other = "B" if key[3] != "B" else "C"
    return {
        "empty": "",
        "cut in the middle": text[:30],
        "without its last character": text.strip()[:-1],
        "with an edited checksum": f"{prefix}:{version}:{key}:{'0' * 8 if checksum != '0' * 8 else '1' * 8}",
        "with a checksum that is no ASCII": f"{prefix}:{version}:{key}:{'é' * 8}",
        "with an edited character": f"{prefix}:{version}:{key[:3]}{other}{key[4:]}:{checksum}",
        "of another version": f"{prefix}:v2:{key}:{checksum}",
        "without a checksum": f"{prefix}:{version}:{key}",
        "in another case": text.upper(),
        "of another program": "-----BEGIN PRIVATE KEY-----\n",
        "too long": text.strip() + "A" * 5000,
        "short, with a checksum that fits": f"{prefix}:{version}:AAAAA:{short_checksum()}",
    }


def short_checksum() -> str:
    from hashlib import sha256

    return sha256(b"AAAAA").hexdigest()[:8]


@pytest.mark.parametrize("damage", edits("mcp-identity-key:v1:" + "A" * 43 + ":00000000"))
def test_a_damaged_key_is_refused(home: Path, damage: str) -> None:
    write_key(home, edits((home / "key").read_text())[damage])
    assert refusal(location(home)).code == "configuration_error"


@posix
@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604, 0o620, 0o601])
def test_a_key_that_others_can_reach_is_refused(home: Path, mode: int) -> None:
    (home / "key").chmod(mode)
    assert "chmod 600" in refusal(location(home)).message


@posix
@pytest.mark.parametrize("name", ["vault.db", "vault.db-wal"])
def test_a_vault_that_others_can_reach_is_refused(home: Path, name: str) -> None:
    (home / name).touch()
    (home / name).chmod(0o644)
    assert "chmod 600" in refusal(location(home)).message


@posix
@pytest.mark.parametrize("mode", [0o755, 0o750, 0o701])
def test_a_folder_that_others_can_enter_is_refused(home: Path, tmp_path: Path, mode: int) -> None:
    home.chmod(mode)
    assert "chmod 700" in refusal(location(home)).message
    (tmp_path / "inner").mkdir(0o700)
    assert "chmod 700" in refusal(location(tmp_path / "inner", database=home / "vault.db")).message


@posix
@pytest.mark.skipif(os.name == "posix" and os.getuid() != 0, reason="only root gives files away")
@pytest.mark.parametrize("name", ["", "key", "vault.db"])
def test_what_belongs_to_another_user_is_refused(home: Path, name: str) -> None:
    os.chown(home / name, 12345, -1)
    assert refusal(location(home)).code == "configuration_error"


@posix
@pytest.mark.parametrize("name", ["key", "vault.db"])
@pytest.mark.parametrize("dangling", [False, True])
def test_a_link_is_not_followed(home: Path, tmp_path: Path, name: str, *, dangling: bool) -> None:
    real = (home / name).rename(tmp_path / f"real-{name}")
    (home / name).symlink_to(real)
    if dangling:
        real.unlink()
    assert refusal(location(home)).code == "configuration_error"


@posix
@pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo], ids=["folder", "pipe"])
def test_a_key_that_is_no_file_is_refused_without_waiting_for_it(home: Path, make: Callable[[Path], None]) -> None:
    (home / "key").unlink()
    make(home / "key")
    (home / "key").chmod(0o700)
    assert refusal(location(home)).code == "configuration_error"


def test_a_home_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "home").write_text("")
    assert refusal(location(tmp_path / "home")).code == "configuration_error"


# --- two keys ---------------------------------------------------------------------------------------------------------


def two_keys(home: Path, text: str) -> VaultLocation:
    other = home.parent / "configured"
    other.write_text(text)
    other.chmod(0o600)
    return location(home, key=KeySource("file:configured", other))


@pytest.mark.parametrize("initialise", [False, True])
@pytest.mark.parametrize("with_vault", [False, True])
def test_two_different_keys_are_refused_whichever_fits(home: Path, *, initialise: bool, with_vault: bool) -> None:
    mine = (home / "key").read_text()
    if not with_vault:
        (home / "vault.db").unlink()
    error = refusal(two_keys(home, new_key_text(SystemEntropy())), initialise=initialise)
    assert error.code == "configuration_error"
    write_key(home, new_key_text(SystemEntropy()))
    assert refusal(two_keys(home, mine), initialise=initialise).code == "configuration_error"


def test_the_same_key_twice_is_fine(home: Path) -> None:
    text = (home / "key").read_text()
    start(two_keys(home, text))
    start(location(home, key=env_key(text)))
    (home / "vault.db").unlink()
    start(two_keys(home, text), initialise=True)


def test_a_configured_key_that_is_missing_beside_a_key_file_is_refused(home: Path) -> None:
    absent = KeySource("file:absent", home.parent / "absent")
    assert refusal(location(home, key=absent)).code == "configuration_error"
    (home / "vault.db").unlink()
    assert refusal(location(home, key=absent)).code == "configuration_error"
    assert refusal(location(home, key=absent), initialise=True).code == "configuration_error"


# --- what is not a vault of ours --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "content", [b"", b"not a database, but long enough to be asked about" * 40, b"SQLite format 3\x00" + b"\x00" * 2000]
)
def test_what_is_no_database_is_refused_and_never_made_anew(home: Path, content: bytes) -> None:
    (home / "vault.db").write_bytes(content)
    assert isinstance(refusal(location(home)), VaultCorrupt)
    assert isinstance(refusal(location(home), initialise=True), VaultCorrupt)


def test_a_truncated_database_is_refused(home: Path) -> None:
    data = (home / "vault.db").read_bytes()
    for length in (50, 100, 4096, len(data) // 2, len(data) - 4096):
        (home / "vault.db").write_bytes(data[:length])
        assert isinstance(refusal(location(home)), VaultCorrupt)


@pytest.mark.parametrize(
    ("edit", "code"),
    [
        ("DELETE FROM vault_state", "vault_corrupt"),
        ("DROP TABLE vault_state", "vault_corrupt"),
        ("UPDATE vault_state SET vault_id = 'another'", "vault_corrupt"),
        ("UPDATE vault_state SET vault_id = CAST(x'ff' AS TEXT)", "vault_corrupt"),
        ("UPDATE vault_state SET key_check = zeroblob(60)", "vault_corrupt"),
        ("UPDATE vault_state SET key_check = ''", "vault_corrupt"),
        ("UPDATE vault_state SET schema_version = 'one'", "vault_corrupt"),
        ("UPDATE vault_state SET minimum_writer = 1.5", "vault_corrupt"),
        ("UPDATE vault_state SET key_id = 'local:another'", "configuration_error"),
        ("UPDATE vault_state SET schema_version = schema_version + 1", "vault_unavailable"),
        ("UPDATE vault_state SET minimum_writer = minimum_writer + 1", "vault_unavailable"),
    ],
)
def test_an_edited_or_newer_state_is_refused(home: Path, edit: str, code: str) -> None:
    behind_its_back(home / "vault.db", edit)
    error = refusal(location(home))
    assert error.code == code
    assert not error.retryable


@pytest.mark.parametrize(
    "edit",
    [
        "UPDATE vault_keys SET id = 'no hexadecimal' WHERE tenant = ''",
        "UPDATE vault_keys SET wrapped = zeroblob(60) WHERE tenant = ''",
        "UPDATE vault_keys SET wrapped = 'text' WHERE tenant = ''",
        "UPDATE vault_keys SET constant = zeroblob(120) WHERE tenant = ''",
        "UPDATE vault_keys SET constant = (SELECT constant FROM vault_keys WHERE tenant = 'default') WHERE tenant = ''",
        "UPDATE vault_keys SET wrapped = (SELECT wrapped FROM vault_keys WHERE tenant = 'default') WHERE tenant = ''",
        "UPDATE vault_keys SET version = 2 WHERE tenant = 'default'",
        "UPDATE vault_keys SET purpose = 'vault' WHERE tenant = 'default'",
        "UPDATE vault_keys SET state = 'disabled' WHERE tenant = 'default'",
        "DELETE FROM vault_keys WHERE tenant = 'default'",
    ],
)
def test_a_wrapped_key_that_was_changed_or_moved_stops_the_start_and_lets_go(home: Path, edit: str) -> None:
    behind_its_back(home / "vault.db", edit)
    with pytest.raises(VaultCorrupt) as caught:
        start(location(home))
    assert caught.value.code == "vault_corrupt"
    assert not list((home / "processes").iterdir())


@pytest.mark.parametrize("with_index", [True, False])
async def test_a_wrong_key_changes_nothing_beside_the_journal_of_a_killed_process(
    home: Path, tmp_path: Path, *, with_index: bool
) -> None:
    vault = opened(location(home))
    await vault.run(lambda records: records.raise_epoch())
    killed = shutil.copytree(home, tmp_path / "killed")
    vault.close()
    if not with_index:
        (killed / "vault.db-shm").unlink()
    assert (killed / "vault.db-wal").stat().st_size > 0
    write_key(killed, new_key_text(SystemEntropy()))
    assert refusal(location(killed)).code == "configuration_error"


async def test_a_vault_that_another_program_keeps_for_itself_cannot_be_opened_now(home: Path) -> None:
    with closing(sqlite3.connect(home / "vault.db", isolation_level=None)) as other:
        other.execute("PRAGMA locking_mode = EXCLUSIVE")
        other.execute("UPDATE vault_state SET configuration_epoch = 2")
        with pytest.raises(VaultUnavailable) as caught:
            start(location(home, wait=0.05))
    assert caught.value.code == "vault_unavailable"
    assert caught.value.retryable
    start(location(home))
