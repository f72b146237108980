"""Whether this process may open the vault: every state of folder, key and database at start-up, in the order they are asked.

First start with neither vault nor key makes both. Whatever does not fit together is refused with nothing changed: a vault
without its key, a key without its vault, a wrong or damaged key, two keys, files that others can read. What there is to know
of a database, and how it is made, is in `stores/`.
"""

from __future__ import annotations

import hmac
import sqlite3
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from sqlalchemy.exc import SQLAlchemyError

from mcp_identity.domain.clock import Clock, Entropy
from mcp_identity.domain.errors import ConfigurationError, VaultCorrupt, VaultUnavailable
from mcp_identity.vault.failures import describe
from mcp_identity.vault.keys import KeyRing
from mcp_identity.vault.kms.backend import KeyBackend
from mcp_identity.vault.kms.choosing import KeySource
from mcp_identity.vault.kms.local import read_key_file
from mcp_identity.vault.making import check_context, new_vault, upgrade
from mcp_identity.vault.marks import unusable
from mcp_identity.vault.stores.site import Site, VaultState
from mcp_identity.vault.stores.sqlite import WAIT_SECONDS
from mcp_identity.vault.stores.sqlite_site import SqliteSite, check_folder
from mcp_identity.vault.stores.store import Store
from mcp_identity.vault.writer import SCHEMA_VERSION, WRITER_VERSION

if TYPE_CHECKING:
    from mcp_identity.vault.stores.postgres_url import PostgresAddress

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class VaultLocation:
    """Where a vault is.

    Attributes:
        home: The private folder.
        key: The configured key; None for the key file in `home`.
        process_id: Random, new for every process.
        database_path: The database file; None for `vault.db` in `home`.
        wait_seconds: How long other processes are waited for.
        postgres: The PostgreSQL database that is used instead of a file.
    """

    home: Path
    key: KeySource | None
    process_id: str
    database_path: Path | None = None
    wait_seconds: float = WAIT_SECONDS
    postgres: PostgresAddress | None = None

    @property
    def database(self) -> Path:
        """The database file, where it is one."""
        return self.database_path or self.home / "vault.db"

    @property
    def name(self) -> str:
        """What people call the database; no password is in it."""
        return self.postgres.name if self.postgres else str(self.database)

    @property
    def default_key(self) -> Path:
        """The key file that is used, and made, where no key is configured."""
        return self.home / "key"

    @property
    def key_source(self) -> KeySource:
        """The key that is meant."""
        return self.key or KeySource(f"file:{self.default_key}", self.default_key)

    def site(self) -> Site:
        """Where its database is."""
        if self.postgres is None:
            return SqliteSite(self.database, self.process_id, self.wait_seconds)
        from mcp_identity.vault.stores.postgres_site import PostgresSite

        return PostgresSite(self.postgres, self.wait_seconds)


@dataclass(frozen=True, slots=True)
class OpenedVault:
    """What opening found: a key that fits a vault of our schema."""

    vault_id: str
    ring: KeyRing
    store: Store


@dataclass(frozen=True, slots=True)
class Migration:
    """What became of a vault's schema.

    Attributes:
        before: Its version before.
        after: Its version now.
    """

    before: int
    after: int


def open_location(location: VaultLocation, clock: Clock, entropy: Entropy, *, initialise: bool = False) -> OpenedVault:
    """Open the vault, making it on the first start.

    Args:
        location: Where it is.
        clock: For creation times and key caching.
        entropy: For keys.
        initialise: `mcp-identity init`: a key without a vault gets one.

    Raises:
        ConfigurationError: If folder, key and vault do not fit together; nothing was changed.
        VaultUnavailable: If others hold the vault, another version wrote it, or it cannot be read or written now.
        VaultCorrupt: If the database is no vault.
    """
    opening = _Opening(location, clock, entropy)
    return _guarded(location, lambda: opening.open(initialise=initialise))


def find_vault(location: VaultLocation) -> bool:
    """Whether there is a vault, or something in its place; nothing is made.

    Raises:
        ConfigurationError: If it is a link.
        VaultUnavailable: If its database cannot be asked now.
    """
    return _guarded(location, location.site().has_vault)


def migrate_location(location: VaultLocation, clock: Clock, entropy: Entropy) -> Migration:
    """Bring a vault of an older schema to ours; one of ours is left as it is.

    Raises:
        ConfigurationError: If there is no vault, or folder, key and vault do not fit together; nothing was changed.
        VaultUnavailable: If a newer version wrote it, others keep it busy, or it cannot be read or written now.
        VaultCorrupt: If the database is no vault.
    """
    return _guarded(location, _Opening(location, clock, entropy).migrate)


def _guarded(location: VaultLocation, step: Callable[[], T]) -> T:
    """Take a step; what the operating system or the database refuses is said without their own words."""
    try:
        return step()
    except (OSError, SQLAlchemyError, sqlite3.Error) as error:
        why = getattr(error, "strerror", None) or describe(error)
        raise VaultUnavailable(f"the vault {location.name} cannot be opened now ({why})") from None


class _Opening:
    """One process at the door of one vault."""

    def __init__(self, location: VaultLocation, clock: Clock, entropy: Entropy) -> None:
        self._location = location
        self._clock = clock
        self._entropy = entropy
        self._site = location.site()

    def open(self, *, initialise: bool) -> OpenedVault:
        """Open the vault, making or upgrading it first where that is this process's to do."""
        self._check_surroundings()
        if not self._site.has_vault():
            self._start_first(initialise=initialise)
        backend = self._backend()
        state = self._checked_state(backend)
        if state.schema_version < SCHEMA_VERSION:
            if not self._site.upgrades_itself:
                how = "back it up, and run: mcp-identity vault migrate"
                raise VaultUnavailable(f"the vault {self._location.name} has an older schema; {how}", retryable=False)
            self._upgrade(backend)
        store = self._site.open()
        return OpenedVault(state.vault_id, KeyRing(backend, state.vault_id, self._clock), store)

    def migrate(self) -> Migration:
        """Bring the vault to our schema."""
        self._check_surroundings()
        if not self._site.has_vault():
            raise ConfigurationError(
                f"there is no vault {self._location.name}; the first start makes it, or: mcp-identity init"
            )
        backend = self._backend()
        before = self._checked_state(backend).schema_version
        if before < SCHEMA_VERSION:
            before = self._upgrade(backend)
        return Migration(before, SCHEMA_VERSION)

    def _check_surroundings(self) -> None:
        check_folder(self._location.home)
        self._site.check_surroundings()

    def _start_first(self, *, initialise: bool) -> None:
        """Make key and vault, unless another process just did."""
        site, source = self._site, self._location.key_source
        try:
            self._check_creation(initialise=initialise)
        except ConfigurationError:
            # A key without a vault is also what another process's first start looks like from outside. Where nobody is at it,
            # the refusal leaves no trace.
            if not (site.is_being_made() or site.has_vault()):
                raise
        # A key that is in no file may be on another machine, which nobody is made to wait for.
        remote = initialise and source.path is None and source.is_given
        fill = new_vault(self._backend(), self._clock, self._entropy) if remote else None
        if self._location.key is None:
            self._location.home.mkdir(mode=0o700, parents=True, exist_ok=True)
        with site.creating():
            if not site.has_vault():
                self._check_creation(initialise=initialise)
                site.make(fill or new_vault(self._make_key(), self._clock, self._entropy))

    def _check_creation(self, *, initialise: bool) -> None:
        location, source = self._location, self._location.key_source
        self._site.check_vacancy()
        if source.is_given:
            self._check_key()
            if not initialise:
                how = "bring it back: mcp-identity vault restore FILE; or make another: mcp-identity init"
                raise ConfigurationError(f"there is a key ({source.where}) but no vault {location.name}; {how}")
        elif _is_there(location.default_key):
            raise ConfigurationError(
                f"there is a key file {location.default_key} beside the configured {source.where}, which is not there; "
                "move the one away that is not meant"
            )
        elif location.key is not None and source.path is not None and not source.path.parent.is_dir():
            raise ConfigurationError(f"the folder of the key file {source.path} does not exist")

    def _upgrade(self, backend: KeyBackend) -> int:
        """Bring the vault to our schema, unless another process does while we wait; the version that it had."""
        with self._site.exclusive():
            before = self._checked_state(backend).schema_version
            if before < SCHEMA_VERSION:
                self._site.upgrade(upgrade, SCHEMA_VERSION)
        return before

    def _checked_state(self, backend: KeyBackend) -> VaultState:
        """Whether the key is this vault's, and the vault one that we know, read without changing anything."""
        found: VaultState | None = None
        for found in self._site.states():
            self._check_state(found, backend)
        if found is None:
            raise RuntimeError("a vault says something of itself")
        if found.key_id != backend.key_id:
            how = "start with that key, and finish the move: mcp-identity keys move"
            raise ConfigurationError(f"the vault {self._location.name} is still under the key {found.key_id}; {how}")
        return found

    def _check_state(self, state: VaultState, backend: KeyBackend) -> None:
        if state.schema_version > SCHEMA_VERSION or state.minimum_writer > WRITER_VERSION:
            raise unusable(f"the vault {self._location.name}", state.minimum_writer)
        name = self._location.name
        if state.key_id != backend.key_id:
            if state.coming_key_id == backend.key_id:
                return  # the vault may be under it already: what says so may be in the journal
            where = "" if state.key_id.startswith("local:") else f", which is under {state.key_id}"
            raise ConfigurationError(f"the key is not the one of the vault {name}{where}; nothing was changed")
        try:
            backend.unwrap(state.key_check, check_context(state.vault_id))
        except VaultCorrupt:
            raise VaultCorrupt(f"the state of the vault {name} was changed outside the product") from None

    def _backend(self) -> KeyBackend:
        self._check_key()
        return self._location.key_source.open(self._entropy)

    def _check_key(self) -> None:
        """Refuse a key that is not there or is damaged, and one of two that differ."""
        location, source = self._location, self._location.key_source
        if not source.is_given:
            raise ConfigurationError(
                f"the vault {location.name} is there, but its key {source.where} is not; restore the key from your backup"
            )
        material = source.material()
        if location.key is None or not _is_there(location.default_key):
            return
        if material is None or not hmac.compare_digest(read_key_file(location.default_key), material):
            raise ConfigurationError(
                f"{source.where} is configured, but {location.default_key} holds a different key; move away the one not meant"
            )

    def _make_key(self) -> KeyBackend:
        self._location.key_source.create(self._entropy)
        return self._backend()


def _is_there(path: Path) -> bool:
    return path.exists() or path.is_symlink()
