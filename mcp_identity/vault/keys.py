"""Which keys are unwrapped: tenant keys, the vault key, and what is derived from it.

Unwrapping asks the key backend, so it never happens inside a unit of work: a unit that misses a key raises `KeyNotLoaded`,
the vault loads it outside the transaction and runs the unit again. Unwrapped keys are forgotten after 15 minutes and
whenever the configuration epoch moves, so that erasing or disabling a key stops every process.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from mcp_identity.domain.clock import Clock, Entropy
from mcp_identity.domain.errors import VaultCorrupt
from mcp_identity.vault.envelope import KEY_BYTES, KEY_ID_BYTES, RANDOM_BYTES, DataKey, Place, derive, open_sealed, seal
from mcp_identity.vault.kms.backend import KeyBackend, WrapContext

CACHE_SECONDS = 900.0
VAULT = ""
"""The "tenant" of the vault's own key."""
_CONSTANT = b"mcp-identity sealed constant"


class KeyNotLoaded(Exception):
    """A unit needs the keys of this tenant."""

    def __init__(self, tenant: str) -> None:
        """Name the tenant."""
        super().__init__(tenant)
        self.tenant = tenant


@dataclass(frozen=True, slots=True)
class WrappedKey:
    """A row of `vault_keys`."""

    id: str
    tenant: str
    purpose: str
    version: int
    backend_key_id: str
    wrapped: bytes
    constant: bytes
    state: str = "active"


def _place(tenant: str, key_id: str) -> Place:
    return Place("vault_keys", tenant, key_id, "constant")


def new_key(backend: KeyBackend, entropy: Entropy, vault_id: str, tenant: str, version: int = 1) -> WrappedKey:
    """Make and wrap a key for a tenant, or with `VAULT` the vault's own."""
    purpose = "tenant" if tenant else "vault"
    key = DataKey(entropy.random_bytes(KEY_ID_BYTES), entropy.random_bytes(KEY_BYTES))
    return WrappedKey(
        id=key.id.hex(),
        tenant=tenant,
        purpose=purpose,
        version=version,
        backend_key_id=backend.key_id,
        wrapped=backend.wrap(key.material, WrapContext(vault_id, tenant, version, purpose)),
        constant=seal(key, _CONSTANT, _place(tenant, key.id.hex()), entropy.random_bytes(RANDOM_BYTES)),
    )


class KeyRing:
    """The unwrapped keys of one process."""

    def __init__(self, backend: KeyBackend, vault_id: str, clock: Clock) -> None:
        """Start empty."""
        self.vault_id = vault_id
        self._backend = backend
        self._clock = clock
        self._keys: dict[str, dict[bytes, DataKey]] = {}
        self._current: dict[str, DataKey] = {}
        self._loaded_at: dict[str, float] = {}
        self._derived: dict[str, bytes] = {}

    def load(self, tenant: str, rows: Iterable[WrappedKey]) -> None:
        """Unwrap all versions of a tenant's keys.

        Raises:
            VaultCorrupt: If a row was changed, moved, or its sealed constant does not open.
        """
        keys: dict[bytes, DataKey] = {}
        current: DataKey | None = None
        for row in sorted(rows, key=lambda row: row.version):
            key = self._unwrapped(row)
            keys[key.id] = key
            current = key if row.state == "active" else current
        if current is None:
            raise VaultCorrupt("the vault holds no usable key for this tenant")
        self._keys[tenant], self._current[tenant] = keys, current
        self._loaded_at[tenant] = self._clock.monotonic()
        if tenant == VAULT:
            self._derived.clear()

    def make(self, tenant: str, entropy: Entropy) -> WrappedKey:
        """Make the first key of a new tenant; asks the key backend, so call it outside any transaction."""
        return new_key(self._backend, entropy, self.vault_id, tenant)

    def forget(self) -> None:
        """Drop the tenants' keys; they are unwrapped again on next use."""
        for tenant in list(self._loaded_at):
            if tenant != VAULT:
                self._loaded_at.pop(tenant, None)

    def current(self, tenant: str) -> DataKey:
        """The key that new records of a tenant are sealed with.

        Raises:
            KeyNotLoaded: If it has to be unwrapped first.
        """
        self._require(tenant)
        return self._current[tenant]

    def find(self, tenant: str, key_id: bytes) -> DataKey:
        """Any version of a tenant's key, by its id.

        Raises:
            KeyNotLoaded: If the tenant's keys have to be unwrapped first.
            VaultCorrupt: If the tenant has no such key.
        """
        self._require(tenant)
        try:
            return self._keys[tenant][key_id]
        except KeyError:
            raise VaultCorrupt("a record names a key that its tenant does not have") from None

    def derived(self, purpose: str) -> bytes:
        """A 32-byte key of the vault for one purpose: ``audit``, ``callback``, ``page``."""
        key = self._derived.get(purpose)
        if key is None:
            key = self._derived[purpose] = derive(self._current[VAULT].material, purpose)
        return key

    def _unwrapped(self, row: WrappedKey) -> DataKey:
        context = WrapContext(self.vault_id, row.tenant, row.version, row.purpose)
        try:
            key = DataKey(bytes.fromhex(row.id), self._backend.unwrap(row.wrapped, context))
        except ValueError:
            raise VaultCorrupt("a tenant key was changed outside the product") from None
        if open_sealed(lambda _: key, row.constant, _place(row.tenant, row.id)) != _CONSTANT:
            raise VaultCorrupt("a tenant key does not open its own constant")
        return key

    def _require(self, tenant: str) -> None:
        loaded_at = self._loaded_at.get(tenant)
        if loaded_at is None or self._clock.monotonic() - loaded_at > CACHE_SECONDS:
            raise KeyNotLoaded(tenant)
