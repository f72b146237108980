"""Whether this process may open the vault: every state of folder, key and database at start-up.

First start with neither vault nor key makes both. Whatever does not fit together is refused with not one byte changed: a
vault without its key, a key without its vault, a wrong or damaged key, two keys, files that others can read.
"""

from __future__ import annotations

import os
import sqlite3
import stat
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import Connection, insert, select, update

from mcp_identity.domain.clock import Clock, Entropy
from mcp_identity.domain.errors import ConfigurationError, VaultCorrupt, VaultUnavailable
from mcp_identity.domain.identity import DEFAULT_TENANT
from mcp_identity.vault.engine import create_database_file, writing_engine
from mcp_identity.vault.keys import VAULT, KeyRing, WrappedKey, new_key
from mcp_identity.vault.kms.backend import KeyBackend, WrapContext
from mcp_identity.vault.kms.local import LocalKey, create_key_file, parse_key_text, read_key_file, sync_folder
from mcp_identity.vault.locks import ProcessLocks
from mcp_identity.vault.records import Records
from mcp_identity.vault.records.base import Caches, table
from mcp_identity.vault.records.chain import AuditChain
from mcp_identity.vault.records.moments import micros
from mcp_identity.vault.writer import SCHEMA_VERSION, WRITER_VERSION

_CHECK = b"mcp-identity key check"


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
    """

    home: Path
    key: KeySource | None
    process_id: str
    database_path: Path | None = None

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
    locks: ProcessLocks


def open_location(location: VaultLocation, clock: Clock, entropy: Entropy, *, initialise: bool = False) -> OpenedVault:
    """Open the vault, making it on the first start.

    Args:
        location: Where it is.
        clock: For creation times and key caching.
        entropy: For keys.
        initialise: `mcp-identity init`: a key without a vault gets one.

    Raises:
        ConfigurationError: If folder, key and vault do not fit together; nothing was changed.
        VaultUnavailable: If others hold the vault, or a newer version wrote it.
        VaultCorrupt: If the database is no vault.
    """
    _check_home(location.home)
    locks = ProcessLocks(location.home, location.process_id)
    if not location.database.exists():
        _check_creation(location, initialise=initialise)
        location.home.mkdir(mode=0o700, parents=True, exist_ok=True)
        with locks.creating():
            if not location.database.exists():
                _check_creation(location, initialise=initialise)
                backend = _make_key(location, entropy)
                _make_vault(location, backend, clock, entropy)
    backend = LocalKey(_read_key(location), entropy)
    _check_private(location.database, "the vault")
    vault_id, version = _check_key(location.database, backend)
    if version < SCHEMA_VERSION:
        with locks.exclusive():
            _upgrade(location.database, version)
    locks.hold()
    ring = KeyRing(backend, vault_id, clock)
    return OpenedVault(vault_id, ring, locks)


def _check_home(home: Path) -> None:
    if home.is_dir():
        _check_private(home, "the folder")
    elif home.exists():
        raise ConfigurationError(f"{home} is not a folder")


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
    source = location.key_source
    if location.key is not None and location.default_key.exists() and source.path != location.default_key:
        raise ConfigurationError(
            f"there is a key file {location.default_key} beside the configured {source.where}, and no vault; "
            "move the one away that is not meant"
        )
    if source.path is None or source.path.exists() or source.path.is_symlink():
        _read_key(location)
        if not initialise:
            raise ConfigurationError(
                f"there is a key ({source.where}) but no vault in {location.home}; restore the vault, or run: mcp-identity init"
            )
    elif location.key is not None and not source.path.parent.is_dir():
        raise ConfigurationError(f"the folder of the key file {source.path} does not exist")


def _read_key(location: VaultLocation) -> bytes:
    source = location.key_source
    if source.path is None:
        text = source.read_text() if source.read_text else None
        if not text:
            raise ConfigurationError(f"the key {source.where} is not set")
        material = parse_key_text(text, source.where)
    elif not (source.path.exists() or source.path.is_symlink()):
        raise ConfigurationError(
            f"the vault {location.database} is there, but its key {source.where} is not; restore the key from your backup"
        )
    else:
        material = read_key_file(source.path)
    if location.key is not None and location.default_key.exists() and read_key_file(location.default_key) != material:
        raise ConfigurationError(
            f"{source.where} is configured, but {location.default_key} holds a different key; move away the one not meant"
        )
    return material


def _make_key(location: VaultLocation, entropy: Entropy) -> KeyBackend:
    path = location.key_source.path
    if path is not None and not path.exists():
        create_key_file(path, entropy)
    return LocalKey(_read_key(location), entropy)


def _make_vault(location: VaultLocation, backend: KeyBackend, clock: Clock, entropy: Entropy) -> None:
    """Build it aside and move it into place, so that a half-made vault is never met."""
    building = location.database.with_name(location.database.name + ".new")
    for suffix in ("", "-wal", "-shm", "-journal"):
        building.with_name(building.name + suffix).unlink(missing_ok=True)
    create_database_file(building)
    vault_id, now = entropy.random_bytes(16).hex(), clock.now()
    keys = [new_key(backend, entropy, vault_id, tenant) for tenant in (VAULT, DEFAULT_TENANT)]
    ring = KeyRing(backend, vault_id, clock)
    for key in keys:
        ring.load(key.tenant, [key])
    engine = writing_engine(building)
    with engine.begin() as connection:
        run_migrations(connection)
        for key in keys:
            connection.execute(insert(table("vault_keys")), {**_key_row(key), "created_at": micros(now)})
        connection.execute(
            insert(table("vault_state")),
            {
                "id": 1,
                "vault_id": vault_id,
                "schema_version": SCHEMA_VERSION,
                "minimum_writer": WRITER_VERSION,
                "configuration_epoch": 1,
                "key_id": backend.key_id,
                "key_check": backend.wrap(_CHECK, WrapContext(vault_id, VAULT, 1, "check")),
                "created_at": micros(now),
            },
        )
        Records(connection, ring, entropy, Caches(), AuditChain(""), now).insert_tenant(DEFAULT_TENANT)
    with engine.connect() as connection:
        connection.exec_driver_sql("SELECT 1")
    engine.dispose()
    with closing(sqlite3.connect(building)) as plain:
        plain.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    building.replace(location.database)
    sync_folder(location.database.parent)


def _key_row(key: WrappedKey) -> dict[str, str | int | bytes]:
    return {
        "id": key.id,
        "tenant": key.tenant,
        "purpose": key.purpose,
        "version": key.version,
        "backend_key_id": key.backend_key_id,
        "wrapped": key.wrapped,
        "constant": key.constant,
        "state": key.state,
    }


def read_wrapped_keys(connection: Connection, tenant: str) -> list[WrappedKey]:
    """A tenant's wrapped keys, or with `VAULT` the vault's own."""
    keys = table("vault_keys")
    rows = connection.execute(select(keys).where(keys.c.tenant == tenant)).mappings().all()
    return [
        WrappedKey(
            row["id"],
            row["tenant"],
            row["purpose"],
            row["version"],
            row["backend_key_id"],
            row["wrapped"],
            row["constant"],
            row["state"],
        )
        for row in rows
    ]


def _check_key(database: Path, backend: KeyBackend) -> tuple[str, int]:
    """Whether the key is this vault's, read without writing a byte.

    Returns:
        The vault's id and its schema version.
    """
    row = _read_state(database)
    vault_id, version, minimum_writer, key_id, key_check = row
    if version > SCHEMA_VERSION or minimum_writer > WRITER_VERSION:
        raise VaultUnavailable("the vault was written by a newer version of mcp-identity; start that version", retryable=False)
    if key_id != backend.key_id:
        raise ConfigurationError(f"the key is not the one of the vault {database}; nothing was changed")
    try:
        backend.unwrap(key_check, WrapContext(vault_id, VAULT, 1, "check"))
    except VaultCorrupt:
        raise VaultCorrupt(f"the state of the vault {database} was changed outside the product") from None
    return vault_id, version


def _read_state(database: Path) -> tuple[str, int, int, str, bytes]:
    wal = database.with_name(database.name + "-wal")
    quiet = not wal.exists() or wal.stat().st_size == 0
    # A read-only connection to a WAL database still makes its index file; an immutable one touches nothing.
    uri = f"{database.absolute().as_uri()}?mode=ro{'&immutable=1' if quiet else ''}"
    query = "SELECT vault_id, schema_version, minimum_writer, key_id, key_check FROM vault_state"
    try:
        with closing(sqlite3.connect(uri, uri=True)) as connection:
            row: tuple[str, int, int, str, bytes] | None = connection.execute(query).fetchone()
    except sqlite3.Error as error:
        name = error.sqlite_errorname.removeprefix("SQLITE_").lower()
        raise VaultCorrupt(f"{database} cannot be read as a vault ({name}); restore it from a backup") from None
    if row is None:
        raise VaultCorrupt(f"{database} holds no vault; restore it from a backup")
    return row


def run_migrations(connection: Connection) -> None:
    """Bring the schema of this connection's database to the newest revision."""
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    config.attributes["connection"] = connection
    command.upgrade(config, "head")


def _upgrade(database: Path, version: int) -> None:
    """Bring an older vault to our schema, after a backup beside it."""
    backup = database.with_name(f"{database.name}.before-schema-{SCHEMA_VERSION}")
    backup.unlink(missing_ok=True)
    create_database_file(backup)
    with closing(sqlite3.connect(database)) as source, closing(sqlite3.connect(backup)) as target:
        source.backup(target)
    engine = writing_engine(database)
    state = table("vault_state")
    with engine.begin() as connection:
        run_migrations(connection)
        connection.execute(
            update(state)
            .where(state.c.schema_version == version)
            .values(schema_version=SCHEMA_VERSION, minimum_writer=WRITER_VERSION)
        )
    engine.dispose()
