"""Workload keys: bearers of an agent's own, kept as their SHA-256 and never as themselves."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import RowMapping, select

from mcp_identity.domain.errors import NotFound, VaultCorrupt
from mcp_identity.vault.records.base import table
from mcp_identity.vault.records.moments import micros, moment
from mcp_identity.vault.records.rows import AuthenticatedRows

_KEYS = table("workload_keys")
ACTIVE, REVOKED = "active", "revoked"


@dataclass(frozen=True, slots=True)
class StoredWorkloadKey:
    """A workload key, without the key.

    Attributes:
        id: Row id; names it for operators and in the trail.
        tenant: The tenant.
        workload_id: Whose it is.
        label: What operators call it.
        revoked: It opens nothing any more.
        created_at: When it was issued.
        expires_at: When it ends; None for no end.
    """

    id: str
    tenant: str
    workload_id: str
    label: str
    revoked: bool
    created_at: datetime
    expires_at: datetime | None


class WorkloadKeyRecords(AuthenticatedRows):
    """The keys of workloads."""

    def insert_workload_key(
        self, tenant: str, workload_id: str, key_hash: bytes, *, label: str = "", expires_at: datetime | None = None
    ) -> StoredWorkloadKey:
        """Keep a new key by its SHA-256."""
        key_id = self.new_id()
        given = {
            "id": key_id,
            "tenant_id": tenant,
            "workload_id": workload_id,
            "key_hash": key_hash,
            "label": label,
            "state": ACTIVE,
            "created_at": micros(self.now),
            "expires_at": micros(expires_at) if expires_at else 0,
        }
        self._insert_row("workload_keys", tenant, given)
        return StoredWorkloadKey(key_id, tenant, workload_id, label, revoked=False, created_at=self.now, expires_at=expires_at)

    def find_workload_key(self, key_hash: bytes) -> StoredWorkloadKey | None:
        """A key by its SHA-256, of whatever tenant: the key itself says which.

        Raises:
            VaultCorrupt: If its row was changed outside the product.
        """
        row = self.connection.execute(select(_KEYS).where(_KEYS.c.key_hash == key_hash)).mappings().first()
        return self._workload_key(row) if row else None

    def has_workload_keys(self) -> bool:
        """Whether any key of any tenant is active; a look, not a proof."""
        return self.connection.execute(select(_KEYS.c.id).where(_KEYS.c.state == ACTIVE).limit(1)).first() is not None

    def list_workload_keys(self, tenant: str, workload_id: str) -> tuple[StoredWorkloadKey, ...]:
        """The keys of a workload, oldest first."""
        query = select(_KEYS).where(_KEYS.c.tenant_id == tenant, _KEYS.c.workload_id == workload_id)
        rows = self.connection.execute(query.order_by(_KEYS.c.created_at, _KEYS.c.id)).mappings().all()
        return tuple(self._workload_key(row) for row in rows)

    def revoke_workload_key(self, tenant: str, workload_id: str, key_id: str) -> None:
        """End a key.

        Raises:
            NotFound: If the workload has no such key.
        """
        query = select(_KEYS).where(_KEYS.c.tenant_id == tenant, _KEYS.c.workload_id == workload_id, _KEYS.c.id == key_id)
        row = self.connection.execute(query).mappings().first()
        if row is None:
            raise NotFound("the workload has no such key")
        self._update_row("workload_keys", tenant, row, {"state": REVOKED})
        self.raise_epoch()

    def _workload_key(self, row: RowMapping) -> StoredWorkloadKey:
        self._check_row("workload_keys", row)
        created_at = moment(row["created_at"])
        if created_at is None or row["state"] not in (ACTIVE, REVOKED):
            raise VaultCorrupt("a workload key is not what the product wrote")
        return StoredWorkloadKey(
            row["id"], row["tenant_id"], row["workload_id"], row["label"], row["state"] == REVOKED, created_at,
            moment(row["expires_at"]),
        )  # fmt: skip
