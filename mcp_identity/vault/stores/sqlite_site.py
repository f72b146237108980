"""A vault in a file: what is checked of the file, how it comes to be, and who else has it open.

A new vault is built aside and moved into place; an older one is copied first and then changed in one transaction. The file is
read without writing a byte until the key has proved to be its own.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import stat
from collections.abc import Generator, Iterator
from contextlib import AbstractContextManager, closing
from pathlib import Path

from mcp_identity.domain.errors import ConfigurationError, VaultCorrupt
from mcp_identity.vault.failures import describe
from mcp_identity.vault.kms.local import sync_folder
from mcp_identity.vault.locks import ProcessLocks
from mcp_identity.vault.stores.site import STATE_QUERY, Change, VaultState, parse_state
from mcp_identity.vault.stores.sqlite import SqliteStore, create_database_file, writing_engine

_READ_ATTEMPTS = 3
_DAMAGED = ("SQLITE_CORRUPT", "SQLITE_NOTADB", "SQLITE_ERROR")
"""What SQLite says of a file that is no database, or of one without our tables."""


class SqliteSite:
    """The file of a vault, which the processes of one machine share."""

    upgrades_itself = True

    def __init__(self, path: Path, process_id: str, wait_seconds: float) -> None:
        """Name the file and this process."""
        self.name = str(path)
        self._path = path
        self._wait_seconds = wait_seconds
        # The locks are beside the database, which everybody who has it open shares, whatever their home is.
        self._locks = ProcessLocks(path.parent, process_id, wait_seconds=wait_seconds)

    def check_surroundings(self) -> None:
        """Refuse a folder that others can get at."""
        check_folder(self._path.parent)

    def has_vault(self) -> bool:
        """Whether the file is there."""
        if self._path.is_symlink():
            raise ConfigurationError(f"the vault {self._path} is a link; name the file itself")
        return self._path.exists()

    def check_vacancy(self) -> None:
        """Refuse to make a vault beside the journal of a lost one."""
        for suffix in ("-wal", "-journal"):
            if (left := _with_suffix(self._path, suffix)).exists():
                raise ConfigurationError(f"{left} is left of a vault that is gone; restore the vault, or move that file away")

    def is_being_made(self) -> bool:
        """Whether a process makes a vault here, or once did; it made its lock file before the key."""
        return self._locks.is_being_made()

    @contextlib.contextmanager
    def creating(self) -> Generator[None]:
        """Be the only process that makes a vault here."""
        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with self._locks.creating():
            yield

    def make(self, fill: Change) -> None:
        """Build a vault aside and move it into place, so that a half-made one is never met."""
        building = _with_suffix(self._path, ".new")
        for suffix in ("", "-wal", "-shm", "-journal"):
            _with_suffix(building, suffix).unlink(missing_ok=True)
        create_database_file(building)
        self._change(building, fill)
        with closing(sqlite3.connect(building)) as plain:
            plain.execute("PRAGMA wal_checkpoint(TRUNCATE)")  # what is moved is one file, and complete
        building.replace(self._path)
        sync_folder(self._path.parent)

    def states(self) -> Iterator[VaultState]:
        """What the file says, and then what it says together with its journal."""
        for suffix in ("", "-wal", "-shm"):
            with contextlib.suppress(FileNotFoundError):  # the last process that closes the vault removes the other two
                check_private(_with_suffix(self._path, suffix), "the vault")
        # Reading the journal of a process that was killed writes its index file. The file alone is therefore asked first: key
        # and id are in it from the beginning. Whoever will change them must bring that change into the file.
        yield self._read_state(immutable=True)
        if not self._is_quiet():
            yield self._read_state(immutable=False)

    def exclusive(self) -> AbstractContextManager[None]:
        """Be the only process that has the vault open."""
        return self._locks.exclusive()

    def upgrade(self, change: Change, version: int) -> None:
        """Bring an older vault to our schema, after a backup beside it."""
        backup = _with_suffix(self._path, f".before-schema-{version}")
        backup.unlink(missing_ok=True)  # of an attempt that failed; the vault is still the older one
        create_database_file(backup)
        with closing(sqlite3.connect(self._path)) as source, closing(sqlite3.connect(backup)) as target:
            source.backup(target)
        sync_folder(backup.parent)
        self._change(self._path, change)

    def bare(self) -> SqliteStore:
        """The store; who else has the file open is known to whoever asks."""
        return SqliteStore(self._path, self._locks, self._wait_seconds)

    def open(self) -> SqliteStore:
        """Share the vault with the others that have it open."""
        self._locks.hold()
        return SqliteStore(self._path, self._locks, self._wait_seconds)

    def _change(self, path: Path, change: Change) -> None:
        engine = writing_engine(path, self._wait_seconds)
        try:
            with engine.begin() as connection:
                change(connection)
        finally:
            engine.dispose()

    def _is_quiet(self) -> bool:
        try:
            return _with_suffix(self._path, "-wal").stat().st_size == 0
        except FileNotFoundError:
            return True

    def _read_state(self, *, immutable: bool) -> VaultState:
        attempts = _READ_ATTEMPTS
        while True:
            try:
                return self._read_state_once(immutable=immutable)
            except sqlite3.Error as error:
                attempts -= 1  # another process may have written into the file, or closed it, meanwhile
                if attempts == 0:
                    if getattr(error, "sqlite_errorname", "SQLITE_ERROR").startswith(_DAMAGED):
                        why = f"{self._path} cannot be read as a vault ({describe(error)}); restore it from a backup"
                        raise VaultCorrupt(why) from None
                    raise

    def _read_state_once(self, *, immutable: bool) -> VaultState:
        uri = f"{self._path.absolute().as_uri()}?mode=ro{'&immutable=1' if immutable else ''}"
        with closing(sqlite3.connect(uri, self._wait_seconds / _READ_ATTEMPTS, uri=True)) as connection:
            row: object = connection.execute(STATE_QUERY).fetchone()
            foreign = connection.execute("SELECT count(*) FROM sqlite_master WHERE type IN ('trigger', 'view')").fetchone()
        if foreign[0]:
            raise VaultCorrupt(f"{self._path} holds triggers or views, which are none of ours; restore it from a backup")
        return parse_state(row, self.name)


def check_folder(folder: Path) -> None:
    """Refuse a folder that is there and that others can get at.

    Raises:
        ConfigurationError: If it is one.
    """
    if folder.exists():
        if not folder.is_dir():
            raise ConfigurationError(f"{folder} is not a folder")
        check_private(folder, "the folder")


def check_private(path: Path, what: str) -> None:
    """Refuse what belongs to another user, or is open to one.

    Raises:
        ConfigurationError: If it does, or is.
    """
    if os.name != "posix":
        return
    state = path.stat()
    if state.st_uid != os.getuid():
        raise ConfigurationError(f"{what} {path} belongs to another user")
    if state.st_mode & 0o077:
        mode = "700" if stat.S_ISDIR(state.st_mode) else "600"
        raise ConfigurationError(f"{what} {path} is open to other users; run: chmod {mode} {path}")


def _with_suffix(path: Path, suffix: str) -> Path:
    return path.with_name(path.name + suffix)
