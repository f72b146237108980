"""Workload identities and users, as far as they are registered at first sight."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from sqlalchemy import RowMapping, insert, select

from mcp_identity.domain.errors import VaultCorrupt
from mcp_identity.domain.identity import User, WorkloadIdentity
from mcp_identity.vault.envelope import Cell
from mcp_identity.vault.records.base import RecordsBase, intact, table
from mcp_identity.vault.records.moments import micros

_WORKLOADS, _USERS, _TENANTS = (table(name) for name in ("workload_identities", "users", "tenants"))
_COVERED = {
    "workload_identities": {
        1: (
            "id", "tenant_id", "name", "epoch", "disabled", "group_id", "owner", "purpose", "environment", "tags", "authorizer",
            "shared_authorizer", "allowed_providers", "return_urls", "identity_audiences", "may_assert_users", "registered_by",
            "expires_at", "created_at", "updated_at",
        )
    },
    "users": {1: ("id", "tenant_id", "issuer", "subject", "kind", "display", "not_before_at", "created_at")},
    "tenants": {1: ("id", "title", "created_at")},
}  # fmt: skip
"""The columns that each version of a MAC covers; `last_seen_at` of users is read by no decision and may change alone."""


@dataclass(frozen=True, slots=True)
class WorkloadList:
    """What a listing found; iterating gives the readable ones, rows that do not authenticate are named by id."""

    workloads: tuple[WorkloadIdentity, ...]
    corrupt: tuple[str, ...] = ()

    def __iter__(self) -> Iterator[WorkloadIdentity]:
        return iter(self.workloads)


class WorkloadRecords(RecordsBase):
    """Who asks, and for whom."""

    def find_workload(self, tenant: str, name: str) -> WorkloadIdentity | None:
        """A workload by its name.

        Raises:
            VaultCorrupt: If its row was changed outside the product.
        """
        query = select(_WORKLOADS).where(_WORKLOADS.c.tenant_id == tenant, _WORKLOADS.c.name == name)
        row = self.connection.execute(query).mappings().first()
        return self._workload(row) if row else None

    def find_workload_id(self, tenant: str, workload_id: str) -> WorkloadIdentity | None:
        """A workload by its immutable id."""
        query = select(_WORKLOADS).where(_WORKLOADS.c.tenant_id == tenant, _WORKLOADS.c.id == workload_id)
        row = self.connection.execute(query).mappings().first()
        return self._workload(row) if row else None

    def list_workloads(self, tenant: str) -> WorkloadList:
        """All workloads of a tenant, by name."""
        query = select(_WORKLOADS).where(_WORKLOADS.c.tenant_id == tenant).order_by(_WORKLOADS.c.name)
        found: list[WorkloadIdentity] = []
        corrupt: list[str] = []
        for row in self.connection.execute(query).mappings().all():
            try:
                found.append(self._workload(row))
            except VaultCorrupt:
                corrupt.append(str(row["id"]))
        return WorkloadList(tuple(found), tuple(corrupt))

    def register_workload(self, tenant: str, name: str, registered_by: str) -> WorkloadIdentity:
        """Keep a workload that was seen for the first time."""
        workload = WorkloadIdentity(self.new_id(), tenant, name)
        now = micros(self.now)
        self._insert(
            "workload_identities",
            tenant,
            {
                "id": workload.id,
                "tenant_id": tenant,
                "name": name,
                "epoch": workload.epoch,
                "registered_by": registered_by,
                "created_at": now,
                "updated_at": now,
            },
        )
        return workload

    def register_user(self, tenant: str, user: User) -> None:
        """Keep a user, if it is seen for the first time.

        Raises:
            VaultCorrupt: If its row was changed outside the product.
        """
        query = select(_USERS).where(
            _USERS.c.tenant_id == tenant, _USERS.c.issuer == user.issuer, _USERS.c.subject == user.subject
        )
        row = self.connection.execute(query).mappings().first()
        if row is not None:
            self._checked("users", row)
            return
        now = micros(self.now)
        self._insert(
            "users",
            tenant,
            {
                "id": self.new_id(),
                "tenant_id": tenant,
                "issuer": user.issuer,
                "subject": user.subject,
                "kind": user.kind.value,
                "display": user.display,
                "created_at": now,
                "last_seen_at": now,
            },
        )

    def insert_tenant(self, tenant: str) -> None:
        """Keep a new tenant."""
        now = micros(self.now)
        values: dict[str, Any] = {"id": tenant, "title": tenant, "created_at": now}
        covered: tuple[Cell, ...] = tuple(values[name] for name in _COVERED["tenants"][1])
        self.connection.execute(insert(_TENANTS), values | {"mac": self._mac(tenant, "tenants", 1, covered)})

    def _insert(self, name: str, tenant: str, given: dict[str, Any]) -> None:
        target = table(name)
        values: dict[str, Any] = {
            column.name: given.get(column.name, 0 if column.type.python_type is int else "")
            for column in target.columns
            if column.name != "mac"
        }
        covered: tuple[Cell, ...] = tuple(values[column] for column in _COVERED[name][1])
        self.connection.execute(insert(target), values | {"mac": self._mac(tenant, name, 1, covered)})

    def _checked(self, name: str, row: RowMapping) -> None:
        intact(name, row)
        versions: dict[int, tuple[Cell, ...]] = {
            version: tuple(row[column] for column in names) for version, names in _COVERED[name].items()
        }
        self._check_mac(row["tenant_id"], row["mac"], name, versions)

    def _workload(self, row: RowMapping) -> WorkloadIdentity:
        self._checked("workload_identities", row)
        return WorkloadIdentity(row["id"], row["tenant_id"], row["name"], row["epoch"], bool(row["disabled"]))
