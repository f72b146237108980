"""Whether this process may open the vault: every state of folder, key and database at start-up.

First start with neither vault nor key makes both. Whatever does not fit together is refused with not one byte changed: a
vault without its key, a key without its vault, a wrong or damaged key, two keys, files that others can read.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import stat
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy.exc import SQLAlchemyError

from mcp_identity.domain.clock import Clock, Entropy
from mcp_identity.domain.errors import ConfigurationError, VaultCorrupt, VaultUnavailable
from mcp_identity.vault.failures import describe
from mcp_identity.vault.keys import KeyRing
from mcp_identity.vault.kms.backend import KeyBackend
from mcp_identity.vault.kms.local import LocalKey, create_key_file, parse_key_text, read_key_file
from mcp_identity.vault.locks import ProcessLocks
from mcp_identity.vault.making import check_context, make_vault, upgrade_vault
from mcp_identity.vault.stores.sqlite import WAIT_SECONDS, SqliteStore
from mcp_identity.vault.stores.store import Store
from mcp_identity.vault.writer import SCHEMA_VERSION, WRITER_VERSION

_READ_ATTEMPTS = 3
_State = tuple[str, int, int, str, bytes]
_DAMAGED = ("SQLITE_CORRUPT", "SQLITE_NOTADB", "SQLITE_ERROR")
"""What SQLite says of a file that is no database, or of one without our tables."""


@dataclass(frozen=True, slots=True)
class KeySource:
    """Where the key-encryption key comes from.

    Attributes:
        where: Names it for people, e.g. ``env:VAULT_KEY``.
        path: The key file; None for a key that is not in a file.
        read_text: Reads a key that is not in a file; None where there is none.
    """

    where: str
    path: Path | None = None
    read_text: Callable[[], str | None] | None = None


@dataclass(frozen=True, slots=True)
class VaultLocation:
    """Where a vault is.

    Attributes:
        home: The private folder.
        key: The configured key; None for the key file in `home`.
        process_id: Random, new for every process.
        database_path: The database file; None for `vault.db` in `home`.
        wait_seconds: How long other processes are waited for.
    """

    home: Path
    key: KeySource | None
    process_id: str
    database_path: Path | None = None
    wait_seconds: float = WAIT_SECONDS

    @property
    def database(self) -> Path:
        """The database file."""
        return self.database_path or self.home / "vault.db"

    @property
    def default_key(self) -> Path:
        """The key file that is used, and made, where no key is configured."""
        return self.home / "key"

    @property
    def key_source(self) -> KeySource:
        """The key that is meant."""
        return self.key or KeySource(f"file:{self.default_key}", self.default_key)


@dataclass(frozen=True, slots=True)
class OpenedVault:
    """What opening found: a key that fits a vault of our schema."""

    vault_id: str
    ring: KeyRing
    store: Store


def open_location(location: VaultLocation, clock: Clock, entropy: Entropy, *, initialise: bool = False) -> OpenedVault:
    """Open the vault, making it on the first start.

    Args:
        location: Where it is.
        clock: For creation times and key caching.
        entropy: For keys.
        initialise: `mcp-identity init`: a key without a vault gets one.

    Raises:
        ConfigurationError: If folder, key and vault do not fit together; nothing was changed.
        VaultUnavailable: If others hold the vault, a newer version wrote it, or it cannot be read or written now.
        VaultCorrupt: If the database is no vault.
    """
    try:
        return _open_location(location, clock, entropy, initialise=initialise)
    except (OSError, SQLAlchemyError, sqlite3.Error) as error:
        why = getattr(error, "strerror", None) or describe(error)
        raise VaultUnavailable(f"the vault {location.database} cannot be opened now ({why})") from None


def _open_location(location: VaultLocation, clock: Clock, entropy: Entropy, *, initialise: bool) -> OpenedVault:
    database = location.database
    for folder in (location.home, database.parent):
        _check_folder(folder)
    # The locks are beside the database, which everybody who has it open shares, whatever their home is.
    locks = ProcessLocks(database.parent, location.process_id, wait_seconds=location.wait_seconds)
    if not _is_file(database):
        _start_first(location, locks, clock, entropy, initialise=initialise)
    backend = LocalKey(_read_key(location), entropy)
    for suffix in ("", "-wal", "-shm"):
        with contextlib.suppress(FileNotFoundError):  # the last process that closes the vault removes the other two
            _check_private(_with_suffix(database, suffix), "the vault")
    vault_id, version = _check_key(location, backend)
    if version < SCHEMA_VERSION:
        with locks.exclusive():
            _, version = _check_key(location, backend)  # another process may have upgraded it while we waited
            if version < SCHEMA_VERSION:
                upgrade_vault(database)
    locks.hold()
    store = SqliteStore(database, locks, location.wait_seconds)
    return OpenedVault(vault_id, KeyRing(backend, vault_id, clock), store)


def _start_first(location: VaultLocation, locks: ProcessLocks, clock: Clock, entropy: Entropy, *, initialise: bool) -> None:
    """Make key and vault, unless another process just did."""
    try:
        _check_creation(location, initialise=initialise)
    except ConfigurationError:
        # A key without a vault is also what another process's first start looks like from outside; that one made its lock
        # file before the key. Where there is none nobody is at it, and the refusal leaves no trace.
        if not locks.is_being_made():
            raise
    for folder in (location.home, location.database.parent):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    with locks.creating():
        if not _is_file(location.database):
            _check_creation(location, initialise=initialise)
            make_vault(location.database, _make_key(location, entropy), clock, entropy)


def _with_suffix(database: Path, suffix: str) -> Path:
    return database.with_name(database.name + suffix)


def _is_file(database: Path) -> bool:
    if database.is_symlink():
        raise ConfigurationError(f"the vault {database} is a link; name the file itself")
    return database.exists()


def _check_folder(folder: Path) -> None:
    if folder.exists():
        if not folder.is_dir():
            raise ConfigurationError(f"{folder} is not a folder")
        _check_private(folder, "the folder")


def _check_private(path: Path, what: str) -> None:
    if os.name != "posix":
        return
    state = path.stat()
    if state.st_uid != os.getuid():
        raise ConfigurationError(f"{what} {path} belongs to another user")
    if state.st_mode & 0o077:
        mode = "700" if stat.S_ISDIR(state.st_mode) else "600"
        raise ConfigurationError(f"{what} {path} is open to other users; run: chmod {mode} {path}")


def _check_creation(location: VaultLocation, *, initialise: bool) -> None:
    source, database = location.key_source, location.database
    for suffix in ("-wal", "-journal"):
        if _with_suffix(database, suffix).exists():
            raise ConfigurationError(
                f"{_with_suffix(database, suffix)} is left of a vault that is gone; restore the vault, or move that file away"
            )
    if source.path is None or _is_there(source.path):
        _read_key(location)
        if not initialise:
            raise ConfigurationError(
                f"there is a key ({source.where}) but no vault {database}; restore the vault, or run: mcp-identity init"
            )
    elif _is_there(location.default_key):
        raise ConfigurationError(
            f"there is a key file {location.default_key} beside the configured {source.where}, which is not there; "
            "move the one away that is not meant"
        )
    elif location.key is not None and not source.path.parent.is_dir():
        raise ConfigurationError(f"the folder of the key file {source.path} does not exist")


def _is_there(path: Path) -> bool:
    return path.exists() or path.is_symlink()


def _read_key(location: VaultLocation) -> bytes:
    source = location.key_source
    if source.path is None:
        text = source.read_text() if source.read_text else None
        if not text:
            raise ConfigurationError(f"the key {source.where} is not set")
        material = parse_key_text(text, source.where)
    elif not _is_there(source.path):
        raise ConfigurationError(
            f"the vault {location.database} is there, but its key {source.where} is not; restore the key from your backup"
        )
    else:
        material = read_key_file(source.path)
    if location.key is not None and _is_there(location.default_key) and read_key_file(location.default_key) != material:
        raise ConfigurationError(
            f"{source.where} is configured, but {location.default_key} holds a different key; move away the one not meant"
        )
    return material


def _make_key(location: VaultLocation, entropy: Entropy) -> KeyBackend:
    path = location.key_source.path
    if path is not None and not path.exists():
        create_key_file(path, entropy)
    return LocalKey(_read_key(location), entropy)


def _check_key(location: VaultLocation, backend: KeyBackend) -> tuple[str, int]:
    """Whether the key is this vault's, read without writing a byte.

    Returns:
        The vault's id and its schema version.
    """
    # Reading the journal of a process that was killed writes its index file. The file alone is therefore asked first: key and
    # id are in it from the beginning. Whoever will change them must bring that change into the file.
    in_file = _checked_state(location, backend, immutable=True)
    return in_file if _is_quiet(location.database) else _checked_state(location, backend, immutable=False)


def _checked_state(location: VaultLocation, backend: KeyBackend, *, immutable: bool) -> tuple[str, int]:
    database = location.database
    vault_id, version, minimum_writer, key_id, key_check = _read_state(location, immutable=immutable)
    if version > SCHEMA_VERSION or minimum_writer > WRITER_VERSION:
        raise VaultUnavailable("the vault was written by a newer version of mcp-identity; start that version", retryable=False)
    if key_id != backend.key_id:
        raise ConfigurationError(f"the key is not the one of the vault {database}; nothing was changed")
    try:
        backend.unwrap(key_check, check_context(vault_id))
    except VaultCorrupt:
        raise VaultCorrupt(f"the state of the vault {database} was changed outside the product") from None
    return vault_id, version


def _is_quiet(database: Path) -> bool:
    try:
        return _with_suffix(database, "-wal").stat().st_size == 0
    except FileNotFoundError:
        return True


def _read_state(location: VaultLocation, *, immutable: bool) -> _State:
    attempts = _READ_ATTEMPTS
    while True:
        try:
            return _read_state_once(location, immutable=immutable)
        except sqlite3.Error as error:
            attempts -= 1  # another process may have written into the file, or closed it, meanwhile
            if attempts == 0:
                if getattr(error, "sqlite_errorname", "SQLITE_ERROR").startswith(_DAMAGED):
                    why = f"{location.database} cannot be read as a vault ({describe(error)}); restore it from a backup"
                    raise VaultCorrupt(why) from None
                raise


def _read_state_once(location: VaultLocation, *, immutable: bool) -> _State:
    database = location.database
    uri = f"{database.absolute().as_uri()}?mode=ro{'&immutable=1' if immutable else ''}"
    query = "SELECT vault_id, schema_version, minimum_writer, key_id, key_check FROM vault_state"
    with closing(sqlite3.connect(uri, location.wait_seconds / _READ_ATTEMPTS, uri=True)) as connection:
        row: _State | None = connection.execute(query).fetchone()
        foreign = connection.execute("SELECT count(*) FROM sqlite_master WHERE type IN ('trigger', 'view')").fetchone()
    if foreign[0]:
        raise VaultCorrupt(f"{database} holds triggers or views, which are none of ours; restore it from a backup")
    if row is None or tuple(map(type, row)) != (str, int, int, str, bytes):
        raise VaultCorrupt(f"{database} holds no vault; restore it from a backup")
    return row
