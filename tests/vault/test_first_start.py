from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Generator
from pathlib import Path

import pytest

from mcp_identity.domain.errors import IdentityError, VaultUnavailable
from mcp_identity.vault.kms.choosing import KeySource
from mcp_identity.vault.kms.local import new_key_text
from mcp_identity.vault.vault import open_vault
from tests.fakes.clock import FakeClock, SystemEntropy
from tests.vault.kit import location
from tests.vault.starts import env_key, modes, opened, posix, refusal, start


@pytest.fixture
def umask() -> Generator[Callable[[int], object]]:
    before = os.umask(0o022)
    yield os.umask
    os.umask(before)


# --- first start ------------------------------------------------------------------------------------------------------


@posix
@pytest.mark.parametrize("mask", [0o000, 0o022, 0o077])
async def test_the_first_start_makes_a_private_key_and_a_private_vault(
    tmp_path: Path, umask: Callable[[int], object], mask: int
) -> None:
    umask(mask)
    home = tmp_path / "home"
    vault = opened(location(home))
    await vault.run(lambda records: records.raise_epoch())
    found = modes(tmp_path)
    vault.close()
    assert {"home/key", "home/vault.db", "home/vault.db-wal", "home/vault.db-shm"} <= found.keys()
    for name, mode in (found | modes(tmp_path)).items():
        assert mode == (0o700 if (tmp_path / name).is_dir() else 0o600), name


def test_the_second_start_opens_the_same_vault(tmp_path: Path) -> None:
    home = tmp_path / "home"
    assert start(location(home)) == start(location(home))


def test_a_folder_whose_name_means_something_in_a_url_is_just_a_folder(tmp_path: Path) -> None:
    home = tmp_path / "a?mode=memory#b%20c &d"
    first = start(location(home))
    assert start(location(home)) == first
    assert [path.name for path in tmp_path.iterdir()] == [home.name]


def test_a_configured_key_file_is_made_where_it_was_configured(tmp_path: Path) -> None:
    key = tmp_path / "elsewhere"
    start(location(tmp_path / "home", key=KeySource("file:elsewhere", key)))
    assert key.exists()
    assert not (tmp_path / "home" / "key").exists()


def test_a_configured_key_file_in_a_folder_that_is_not_there_is_refused(tmp_path: Path) -> None:
    key = KeySource("file:nowhere/key", tmp_path / "nowhere" / "key")
    assert refusal(location(tmp_path / "home", key=key)).code == "configuration_error"


def test_a_key_in_the_environment_needs_the_command_to_make_a_vault(tmp_path: Path) -> None:
    where = location(tmp_path / "home", key=env_key(new_key_text(SystemEntropy())))
    assert refusal(where).code == "configuration_error"
    first = start(where, initialise=True)
    assert start(where) == first
    assert not where.default_key.exists()


@pytest.mark.parametrize("text", [None, "", "   ", "mcp-identity-key:v1:short:00000000"])
def test_a_key_that_the_environment_lacks_or_garbles_is_refused(tmp_path: Path, text: str | None) -> None:
    where = location(tmp_path / "home", key=env_key(text))
    assert refusal(where).code == refusal(where, initialise=True).code == "configuration_error"


def test_a_database_elsewhere_gets_its_folder_and_shares_its_locks_there(tmp_path: Path) -> None:
    database = tmp_path / "data" / "identity.db"
    one = opened(location(tmp_path / "one", database=database))
    shutil.copytree(tmp_path / "one", tmp_path / "two")
    two = opened(location(tmp_path / "two", database=database))
    assert one.id == two.id
    assert not one.is_dead(two.process_id)
    assert not two.is_dead(one.process_id)
    one.close()
    assert two.is_dead(one.process_id)
    two.close()


def test_half_a_vault_of_a_start_that_was_killed_is_never_met(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir(0o700)
    for suffix in ("", "-wal", "-shm"):
        (home / f"vault.db.new{suffix}").write_bytes(b"half")
    start(location(home))
    assert not list(home.glob("vault.db.new*"))


@pytest.mark.parametrize("leftover", ["vault.db-wal", "vault.db-journal"])
def test_a_new_vault_is_not_made_beside_the_journal_of_a_lost_one(tmp_path: Path, leftover: str) -> None:
    home = tmp_path / "home"
    home.mkdir(0o700)
    (home / leftover).write_bytes(b"pages")
    assert leftover in refusal(location(home)).message


@posix
def test_a_folder_that_cannot_be_made_is_said_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(VaultUnavailable) as caught:
        start(location(tmp_path / "file" / "home"))
    assert caught.value.code == "vault_unavailable"


class FullDisk:
    """Entropy on a machine whose disk is full whenever something is about to be written."""

    def __init__(self, after: int) -> None:
        self._left = after

    def random_bytes(self, count: int) -> bytes:
        self._left -= 1
        if self._left < 0:
            raise OSError(28, "No space left on device")
        return os.urandom(count)


@pytest.mark.parametrize("after", [0, 1, 2, 5])
def test_a_disk_that_fills_up_during_the_first_start_is_said_so_and_leaves_no_half_key(tmp_path: Path, after: int) -> None:
    home = tmp_path / "home"
    with pytest.raises(IdentityError) as caught:
        open_vault(location(home), FakeClock(), FullDisk(after))
    assert "No space left" in caught.value.message
    assert not (home / "vault.db").exists()
    if (home / "key").exists():
        start(location(home), initialise=True)
    else:
        start(location(home))


# --- many at once -----------------------------------------------------------------------------------------------------

_STARTS = """
import sys
from pathlib import Path
from contextlib import closing
from mcp_identity.domain.errors import IdentityError, VaultUnavailable
from mcp_identity.vault.vault import open_vault
from tests.fakes.clock import FakeClock
from mcp_identity.vault.opening import VaultLocation
from mcp_identity.vault.vault import open_vault
sys.path.insert(0, sys.argv[3])
from tests.fakes.clock import FakeClock, SystemEntropy
sys.stdin.readline()
with closing(open_vault(VaultLocation(Path(sys.argv[1]), None, sys.argv[2]), FakeClock(), SystemEntropy())) as vault:
    print(vault.id, flush=True)
    sys.stdin.readline()
"""


def test_processes_that_start_at_once_make_one_vault_and_all_open_it(tmp_path: Path) -> None:
    root = str(Path(__file__).parents[2])
    started = [
        subprocess.Popen(
            [sys.executable, "-c", _STARTS, str(tmp_path / "home"), f"process-{name}", root],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for name in "ab"
    ]
    for process in started:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    outputs = [process.communicate("\n", timeout=30)[0] for process in started]
    assert [process.returncode for process in started] == [0, 0]
    assert outputs[0] == outputs[1] != ""


def test_threads_that_start_at_once_make_one_vault_and_all_open_it(tmp_path: Path) -> None:
    barrier = threading.Barrier(8)
    found: list[str] = []
    failed: list[BaseException] = []

    def work() -> None:
        barrier.wait()
        try:
            found.append(start(location(tmp_path / "home")))
        except BaseException as error:  # noqa: BLE001 - told below
            failed.append(error)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
    assert len(found) == 8
    assert len(set(found)) == 1
