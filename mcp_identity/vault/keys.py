"""Which keys are unwrapped: tenant keys, the vault key, and what is derived from it.

Unwrapping asks the key backend, so it never happens inside a unit of work: a unit that misses a key raises `KeyNotLoaded`,
the vault loads it outside the transaction and runs the unit again. What was unwrapped is used for 15 minutes, and only as long
as the configuration epoch stands under which the rows were read: when it moves, they are read again, and a key that was erased
is gone in every process. One that is still there needs no second unwrapping.

The vault's own key is kept as long as the process lives: without it nothing could be written into the trail, not even that the
key backend does not answer.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from threading import Lock

from mcp_identity.domain.clock import Clock, Entropy
from mcp_identity.domain.errors import ConfigurationError, VaultCorrupt, VaultUnavailable
from mcp_identity.vault.envelope import KEY_BYTES, KEY_ID_BYTES, RANDOM_BYTES, DataKey, Place, derive, open_sealed, seal
from mcp_identity.vault.kms.backend import KeyBackend, WrapContext

CACHE_SECONDS = 900.0
VAULT = ""
"""The "tenant" of the vault's own key."""
ACTIVE, RETIRED, ERASED = "active", "retired", "erased"
"""What a version is for: new records and old ones, old ones alone, none any more."""
_CONSTANT = b"mcp-identity sealed constant"
_GONE = "the key of this tenant was erased: what it protected cannot be read any more, by anybody"


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
    state: str = ACTIVE

    def context(self, vault_id: str) -> WrapContext:
        """What its wrapping is bound to."""
        return WrapContext(vault_id, self.tenant, self.version, self.purpose)


@dataclass(frozen=True, slots=True)
class _Loaded:
    """The keys of one tenant.

    Attributes:
        epoch: The configuration epoch that held before their rows were read.
        unwrapped_at: When the first of them was unwrapped.
        current: What new records are sealed with; None where all were erased.
        keys: All that are left, by their ids.
        constants: The sealed constant of each, by which its row is known again, however it is wrapped.
    """

    epoch: int
    unwrapped_at: float
    current: DataKey | None
    keys: dict[bytes, DataKey] = field(default_factory=dict[bytes, DataKey])
    constants: dict[str, bytes] = field(default_factory=dict[str, bytes])


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
        self.backend = backend
        self._clock = clock
        self._epoch = 0
        self._moving = Lock()
        self._loaded: dict[str, _Loaded] = {}
        self._derived: dict[str, bytes] = {}

    def load(self, tenant: str, rows: Iterable[WrappedKey], epoch: int | None = None) -> None:
        """Unwrap what is new of a tenant's keys, and drop what is gone.

        Args:
            tenant: The tenant.
            rows: All its keys.
            epoch: The configuration epoch that held before they were read; None for rows that are not in the database yet.
                If it has moved since, nothing is kept, and they have to be read again.

        Raises:
            VaultCorrupt: If a row was changed, moved, or its sealed constant does not open.
            VaultUnavailable: If the key backend cannot unwrap them now.
        """
        known, now = self._loaded.get(tenant), self._clock.monotonic()
        if known is not None and now - known.unwrapped_at > CACHE_SECONDS:
            known = None
        fresh = _Loaded(self._epoch if epoch is None else epoch, known.unwrapped_at if known else now, None)
        ordered = sorted(rows, key=lambda row: row.version)
        left = [row for row in ordered if row.state != ERASED]
        if not ordered or (left and left[-1].state != ACTIVE):
            raise VaultCorrupt("the vault holds no usable key for this tenant")
        current: DataKey | None = None
        for row in left:
            current = _known(known, row) or self._unwrapped(row)
            fresh.keys[current.id], fresh.constants[row.id] = current, row.constant
        self._loaded[tenant] = _Loaded(fresh.epoch, fresh.unwrapped_at, current, fresh.keys, fresh.constants)
        if tenant == VAULT:
            self._derived.clear()

    def make(self, tenant: str, entropy: Entropy, version: int = 1) -> WrappedKey:
        """Make a new version of a tenant's key; asks the key backend, so call it outside any transaction.

        Raises:
            VaultUnavailable: If the key backend cannot wrap it now.
        """
        try:
            return new_key(self.backend, entropy, self.vault_id, tenant, version)
        except ConfigurationError as error:
            raise VaultUnavailable(error.message, retryable=False) from None

    def follow(self, epoch: int) -> None:
        """The configuration epoch is at least this: what was read under an earlier one has to be read again."""
        if epoch > self._epoch:
            with self._moving:
                self._epoch = max(epoch, self._epoch)

    def drop(self, tenant: str) -> None:
        """Forget a tenant's keys."""
        self._loaded.pop(tenant, None)

    def has(self, tenant: str) -> bool:
        """Whether a tenant's keys can be used now."""
        loaded = self._loaded.get(tenant)
        if loaded is None or loaded.epoch < self._epoch:
            return False
        return self._clock.monotonic() - loaded.unwrapped_at <= CACHE_SECONDS

    def current(self, tenant: str) -> DataKey:
        """The key that new records of a tenant are sealed with.

        Raises:
            KeyNotLoaded: If it has to be unwrapped first.
            VaultCorrupt: If it was erased.
        """
        found = self._required(tenant).current
        if found is None:
            raise VaultCorrupt(_GONE)
        return found

    def find(self, tenant: str, key_id: bytes) -> DataKey:
        """Any version of a tenant's key, by its id.

        Raises:
            KeyNotLoaded: If the tenant's keys have to be unwrapped first.
            VaultCorrupt: If the tenant has no such key, or it was erased.
        """
        loaded = self._required(tenant)
        found = loaded.keys.get(key_id)
        if found is None:
            raise VaultCorrupt(_GONE if loaded.current is None else "a record names a key that its tenant does not have")
        return found

    def derived(self, purpose: str) -> bytes:
        """A 32-byte key of the vault for one purpose: ``audit``, ``callback``, ``page``."""
        key = self._derived.get(purpose)
        if key is None:
            current = self._loaded[VAULT].current
            if current is None:
                raise VaultCorrupt("the vault's own key was erased outside the product")
            key = self._derived[purpose] = derive(current.material, purpose)
        return key

    def unwrap(self, row: WrappedKey) -> bytes:
        """What a row wraps.

        Raises:
            VaultCorrupt: If it was changed, or moved.
            VaultUnavailable: If the key backend cannot unwrap it now, or it is under another key-encryption key.
        """
        if row.backend_key_id != self.backend.key_id:
            how = "restart this process with that one"
            raise VaultUnavailable(f"the vault is under another key-encryption key now; {how}", retryable=False)
        try:
            return self.backend.unwrap(row.wrapped, row.context(self.vault_id))
        except ConfigurationError as error:  # what stops a start, while serving is a backend that cannot be used
            raise VaultUnavailable(error.message, retryable=False) from None

    def _unwrapped(self, row: WrappedKey) -> DataKey:
        material = self.unwrap(row)
        try:
            key = DataKey(bytes.fromhex(row.id), material)
        except ValueError:
            raise VaultCorrupt("a tenant key was changed outside the product") from None
        if open_sealed(lambda _: key, row.constant, _place(row.tenant, row.id)) != _CONSTANT:
            raise VaultCorrupt("a tenant key does not open its own constant")
        return key

    def _required(self, tenant: str) -> _Loaded:
        loaded = self._loaded.get(tenant)
        if loaded is None or loaded.epoch < self._epoch or self._clock.monotonic() - loaded.unwrapped_at > CACHE_SECONDS:
            raise KeyNotLoaded(tenant)
        return loaded


def _known(loaded: _Loaded | None, row: WrappedKey) -> DataKey | None:
    """The key of a row that was unwrapped before; a rewrapped row has the same constant, an erased one has none."""
    if loaded is None or loaded.constants.get(row.id) != row.constant:
        return None
    return loaded.keys[bytes.fromhex(row.id)]
