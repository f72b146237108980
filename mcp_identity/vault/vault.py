"""The token vault, opened: run units of work, read, and derive the keys that belong to the vault itself."""

from __future__ import annotations

import hmac
from collections import Counter
from hashlib import sha256
from typing import TYPE_CHECKING, TypeVar

import anyio.to_thread
from sqlalchemy import Engine, select
from sqlalchemy.exc import SQLAlchemyError

from mcp_identity.domain.audit import AuditEvent
from mcp_identity.domain.clock import Clock, Entropy
from mcp_identity.domain.errors import VaultUnavailable
from mcp_identity.domain.identity import DEFAULT_TENANT
from mcp_identity.domain.provider import CredentialProvider
from mcp_identity.domain.standing import standing
from mcp_identity.vault.envelope import length_prefixed
from mcp_identity.vault.failures import storage_failure
from mcp_identity.vault.key_loading import KeyLoader
from mcp_identity.vault.keys import VAULT, KeyNotLoaded, KeyRing
from mcp_identity.vault.opening import OpenedVault, VaultLocation, open_location
from mcp_identity.vault.records import Records
from mcp_identity.vault.records.base import Caches, table
from mcp_identity.vault.records.chain import AuditChain
from mcp_identity.vault.stores.store import Store
from mcp_identity.vault.writer import Unit, Writer

if TYPE_CHECKING:
    from mcp_identity.vault.key_life import KeyLife

T = TypeVar("T")
_PROOF_VERSION = b"1"
_KEY_ATTEMPTS = 3
_TENANT_ATTEMPTS = 16
"""Every new tenant moves the configuration epoch, so many that are made at once get into one another's way."""
_STATE = table("vault_state")
_READ_EPOCH = select(_STATE.c.configuration_epoch)
_NO_KEYS = "the tenant's keys cannot be unwrapped"


class Vault:
    """The encrypted store of one process."""

    def __init__(self, location: VaultLocation, opened: OpenedVault, clock: Clock, entropy: Entropy) -> None:
        """Use `open_vault`."""
        self.id = opened.vault_id
        self.process_id = location.process_id
        self._clock = clock
        self._entropy = entropy
        self._ring: KeyRing = opened.ring
        self._store: Store = opened.store
        self._readers: Engine = self._store.reading_engine()
        self._loader = KeyLoader(self._readers, self._ring, clock)
        self._writer = Writer(self._store, self._ring, clock, entropy, self.process_id)

    @property
    def ready(self) -> bool:
        """Whether the writer works."""
        return self._writer.ready

    @property
    def configuration_epoch(self) -> int:
        """The configuration epoch, as far as this process has seen: what was read under another one may have changed."""
        return self._writer.epoch

    def recent_epoch(self, seconds: float) -> int | None:
        """The configuration epoch, if this process has looked at it within so many seconds; else None."""
        is_recent = self._clock.monotonic() - self._writer.looked_at <= seconds and not self._writer.caches.is_outdated
        return self._writer.epoch if is_recent else None

    def recall_provider(self, tenant: str, name: str) -> CredentialProvider | None:
        """A provider as the writer last decoded it; whoever acts on it checks it in a unit."""
        stored = self._writer.caches.providers.get((tenant, name))
        return stored.provider if stored else None

    async def run(self, unit: Unit[T], event: AuditEvent | None = None, foreseen: bytes = b"") -> T:
        """Run a unit of work in one durable transaction; see `Writer.run`.

        Raises:
            Outdated: If it is the first of a remembered caller, who must be verified anew.
        """
        missed = Counter[str]()  # a unit may need the keys of many tenants, one after another
        while True:
            try:
                remembered = standing.get()
                if remembered is not None and remembered.is_confirmed:
                    remembered = None
                return await self._writer.run(unit, event, foreseen, remembered)
            except KeyNotLoaded as missing:
                _count_miss(missed, missing.tenant)
                await self._loader.load(missing.tenant)

    async def read(self, unit: Unit[T]) -> T:
        """Run a unit that only reads, beside the writer.

        Raises:
            VaultUnavailable: If the database cannot be read now.
            VaultCorrupt: If it is damaged.
        """
        missed = Counter[str]()
        while True:
            try:
                return await anyio.to_thread.run_sync(self._read, unit)
            except KeyNotLoaded as missing:
                _count_miss(missed, missing.tenant)
                await self._loader.load(missing.tenant)

    def _read(self, unit: Unit[T]) -> T:
        try:
            with self._readers.connect() as connection:
                self._ring.follow(connection.execute(_READ_EPOCH).scalar_one())  # a process that only reads obeys it, too
                chain, now = AuditChain(""), self._clock.now()
                return unit(Records(connection, self._ring, self._entropy, Caches(), chain, now, self._clock))
        except SQLAlchemyError as error:
            raise storage_failure(error) from None

    async def check_storage(self) -> tuple[int, tuple[str, ...]]:
        """Let the database check its own files.

        Returns:
            The schema version, and what is damaged; nothing for an intact one.
        """

        def unit(records: Records) -> tuple[int, tuple[str, ...]]:
            version = records.connection.execute(select(_STATE.c.schema_version)).scalar_one()
            return int(version), self._store.damage(records.connection)

        return await self.read(unit)

    def load_keys(self, tenant: str) -> None:
        """Unwrap a tenant's keys; may ask the key backend, so it is called outside any transaction.

        Raises:
            VaultUnavailable: If they cannot be read now.
            VaultCorrupt: If they were changed outside the product.
        """
        self._loader.load_now(tenant)

    async def ensure_tenant(self, tenant: str) -> None:
        """See to it that there is a tenant of this name, with a key of its own.

        Raises:
            VaultUnavailable: If the key backend or the database cannot be used now.
        """
        if tenant in await self.read(lambda records: records.list_tenants()):
            return
        key = await anyio.to_thread.run_sync(self._ring.make, tenant, self._entropy)

        def unit(records: Records) -> None:
            if tenant not in records.list_tenants():
                records.add_key(key)
                records.insert_tenant(tenant)

        for _ in range(_TENANT_ATTEMPTS):
            await anyio.to_thread.run_sync(self._ring.load, tenant, [key])
            try:
                await self._writer.run(unit)
            except KeyNotLoaded:  # the configuration epoch moved, so the writer dropped it; it is in no row to be read from
                continue
            finally:
                self._ring.drop(tenant)  # whichever is in the database is the tenant's: another process may have been first
            await self._loader.load(tenant)
            return
        raise VaultUnavailable(_NO_KEYS)

    def key_life(self) -> KeyLife:
        """What operators do with the keys."""
        from mcp_identity.vault.key_life import KeyLife

        return KeyLife(self, self._ring, self._store, self._entropy)

    def derived_key(self, purpose: str) -> bytes:
        """A 32-byte key of this vault for one purpose."""
        return self._ring.derived(purpose)

    def prove(self, nonce: bytes, port: int) -> bytes:
        """Prove to a sibling process that whoever holds `port` serves this vault."""
        message = length_prefixed(_PROOF_VERSION, nonce, self.id.encode(), str(port).encode())
        return hmac.digest(self._ring.derived("callback"), message, sha256)

    def check_proof(self, nonce: bytes, port: int, proof: bytes) -> bool:
        """Whether `prove` of this vault made the proof, in constant time."""
        return hmac.compare_digest(proof, self.prove(nonce, port))

    def is_dead(self, process_id: str) -> bool:
        """Whether the process that holds a lease is known to have ended."""
        return self._store.is_dead(process_id)

    def start(self) -> None:
        """Unwrap the keys that every call needs, and begin to take units.

        Raises:
            VaultUnavailable: If the vault cannot be read now.
            VaultCorrupt: If it is damaged, or its keys were changed outside the product.
        """
        try:
            with self._readers.connect() as connection:
                epoch = connection.execute(select(_STATE.c.configuration_epoch)).scalar_one()
        except SQLAlchemyError as error:
            raise storage_failure(error) from None
        for tenant in (VAULT, DEFAULT_TENANT):
            self.load_keys(tenant)
        self._writer.start(epoch)

    def close(self) -> None:
        """Finish the units that wait, then let go; call it off the event loop."""
        self._writer.close()
        self._readers.dispose()
        self._store.release()


def _count_miss(missed: Counter[str], tenant: str) -> None:
    """Note that a tenant's keys are not loaded.

    Raises:
        VaultUnavailable: If loading them did not help, again and again.
    """
    missed[tenant] += 1
    if missed[tenant] >= _KEY_ATTEMPTS:
        raise VaultUnavailable(_NO_KEYS)


def open_vault(location: VaultLocation, clock: Clock, entropy: Entropy, *, initialise: bool = False) -> Vault:
    """Open the vault of a folder, making it on the first start; see `open_location` for what is refused."""
    vault = Vault(location, open_location(location, clock, entropy, initialise=initialise), clock, entropy)
    try:
        vault.start()
    except BaseException:
        vault.close()
        raise
    return vault
