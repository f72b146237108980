"""Wrapped keys as rows of `vault_keys`; what is in them is bound by the key backend, so they need no MAC.

Whoever changes which keys there are raises the configuration epoch in the same transaction. That makes every process read them
again, and it makes two who do so at once meet in one row, so that neither overlooks what the other added.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass

from sqlalchemy import Connection, RowMapping, delete, insert, select, update

from mcp_identity.domain.errors import VaultCorrupt, VaultUnavailable
from mcp_identity.vault.keys import ACTIVE, ERASED, RETIRED, VAULT, WrappedKey
from mcp_identity.vault.records.base import intact, table
from mcp_identity.vault.records.moments import micros
from mcp_identity.vault.records.rows import AuthenticatedRows

_KEYS, _STATE = table("vault_keys"), table("vault_state")
CHECK = "check"
"""The purpose of a row that announces the key-encryption key which the vault is being moved to."""
_IS_COMING = (_KEYS.c.tenant == VAULT) & (_KEYS.c.purpose == CHECK)


@dataclass(frozen=True, slots=True)
class KeyHolder:
    """The key-encryption key of a vault, as the vault names it.

    Attributes:
        key_id: The one that its keys are under.
        key_check: A text wrapped by it.
        coming_key_id: The one that it is being moved to; empty where it is not.
    """

    key_id: str
    key_check: bytes
    coming_key_id: str = ""


@dataclass(frozen=True, slots=True)
class StoredKey:
    """A wrapped key, and when it was made, in microseconds."""

    key: WrappedKey
    created_at: int


def insert_wrapped_key(connection: Connection, key: WrappedKey, created_at: int) -> None:
    """Keep a key that the backend wrapped."""
    connection.execute(insert(_KEYS), {**asdict(key), "created_at": created_at})


def read_wrapped_keys(connection: Connection, tenant: str) -> list[WrappedKey]:
    """A tenant's wrapped keys, or with `VAULT` the vault's own.

    Raises:
        VaultCorrupt: If a row is not of the shape that the product writes.
    """
    query = select(_KEYS).where(_KEYS.c.tenant == tenant, _KEYS.c.purpose != CHECK)
    return [_key(row) for row in connection.execute(query).mappings().all()]


def _key(row: RowMapping) -> WrappedKey:
    intact("vault_keys", row)
    return WrappedKey(
        id=row["id"],
        tenant=row["tenant"],
        purpose=row["purpose"],
        version=row["version"],
        backend_key_id=row["backend_key_id"],
        wrapped=row["wrapped"],
        constant=row["constant"],
        state=row["state"],
    )


class KeyRecords(AuthenticatedRows):
    """The wrapped keys of all tenants, and the key-encryption key over them."""

    def list_keys(self, tenant: str | None = None) -> list[StoredKey]:
        """The wrapped keys, by tenant and version; None for those of all, and the vault's own.

        Raises:
            VaultCorrupt: If a row is not of the shape that the product writes.
        """
        query = select(_KEYS).where(_KEYS.c.purpose != CHECK).order_by(_KEYS.c.tenant, _KEYS.c.version)
        if tenant is not None:
            query = query.where(_KEYS.c.tenant == tenant)
        return [StoredKey(_key(row), row["created_at"]) for row in self.connection.execute(query).mappings().all()]

    def is_erased(self, tenant: str) -> bool:
        """Whether a tenant's key was erased: nothing of it can be read, which is no damage."""
        states = self.connection.execute(select(_KEYS.c.state).where(_KEYS.c.tenant == tenant)).scalars().all()
        return bool(states) and set(states) == {ERASED}

    def key_holder(self) -> KeyHolder:
        """The key-encryption key."""
        state = self.connection.execute(select(_STATE.c.key_id, _STATE.c.key_check)).one()
        coming = self.connection.execute(select(_KEYS.c.backend_key_id).where(_IS_COMING)).scalar_one_or_none()
        return KeyHolder(state.key_id, state.key_check, coming or "")

    def add_key(self, key: WrappedKey) -> None:
        """Keep a new version of a tenant's key: new records are sealed with it, those before it open what they sealed.

        Raises:
            VaultUnavailable: If the vault is under another key-encryption key than the one that wrapped it.
        """
        if self.key_holder().key_id != key.backend_key_id:
            how = "restart this process with that one"
            raise VaultUnavailable(f"the vault is under another key-encryption key now; {how}", retryable=False)
        before = (_KEYS.c.tenant == key.tenant) & (_KEYS.c.purpose == key.purpose) & (_KEYS.c.state == ACTIVE)
        self.connection.execute(update(_KEYS).where(before).values(state=RETIRED))
        insert_wrapped_key(self.connection, key, micros(self.now))
        self.raise_epoch()

    def erase_keys(self, tenant: str, key_ids: Iterable[str]) -> int:
        """Overwrite versions of a tenant's key for good; how many there were."""
        named = (_KEYS.c.tenant == tenant) & _KEYS.c.id.in_(list(key_ids)) & (_KEYS.c.state != ERASED)
        gone = self.connection.execute(update(_KEYS).where(named).values(state=ERASED, wrapped=b"", constant=b""))
        self.raise_epoch()
        return gone.rowcount

    def put_wrapping(self, key: WrappedKey, wrapped: bytes, backend_key_id: str) -> None:
        """Replace how a key is wrapped, and nothing else of it.

        Raises:
            VaultCorrupt: If the row is not what was read in this transaction.
        """
        mine = (_KEYS.c.id == key.id) & (_KEYS.c.wrapped == key.wrapped)
        changed = self.connection.execute(update(_KEYS).where(mine).values(wrapped=wrapped, backend_key_id=backend_key_id))
        if changed.rowcount != 1:
            raise VaultCorrupt("a wrapped key changed inside its own transaction")

    def put_key_holder(self, key_id: str, key_check: bytes) -> None:
        """Say which key-encryption key the vault is under."""
        self.connection.execute(update(_STATE).values(key_id=key_id, key_check=key_check))

    def announce_key(self, key_id: str) -> None:
        """Say which key-encryption key the vault is being moved to."""
        self.forget_announcement()
        coming = WrappedKey(self.new_id(), VAULT, CHECK, 1, key_id, b"", b"")
        insert_wrapped_key(self.connection, coming, micros(self.now))

    def forget_announcement(self) -> None:
        """The vault is where it was to be moved to, or is not moved any more."""
        self.connection.execute(delete(_KEYS).where(_IS_COMING))
