"""Workload identities: who asks. Rows that grant authority, so every column is under a MAC.

A change that must end what was issued before raises the workload's own epoch; every change raises the configuration epoch,
so that each process drops what it keeps decoded.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from sqlalchemy import RowMapping, delete, func, select

from mcp_identity.domain.authorizer import NOBODY, Authorizer, ClaimOperator, ClaimRule
from mcp_identity.domain.errors import Conflict, VaultCorrupt
from mcp_identity.domain.identity import WorkloadIdentity
from mcp_identity.vault.records.base import table
from mcp_identity.vault.records.moments import micros, moment
from mcp_identity.vault.records.rows import AuthenticatedRows, Page
from mcp_identity.vault.records.tags import decode_tags, encode_tags

_WORKLOADS = table("workload_identities")
_BELONGING = tuple(table(name) for name in ("releases", "workload_keys", "consent_sessions", "grants"))


@dataclass(frozen=True, slots=True)
class WorkloadList:
    """What a listing found; iterating gives the readable ones, rows that do not authenticate are named by id.

    Attributes:
        workloads: The readable ones.
        corrupt: The ids of the others.
        next: After which name the next page begins; empty where there is none.
    """

    workloads: tuple[WorkloadIdentity, ...]
    corrupt: tuple[str, ...] = ()
    next: str = ""

    def __iter__(self) -> Iterator[WorkloadIdentity]:
        return iter(self.workloads)


class WorkloadRecords(AuthenticatedRows):
    """Who asks."""

    def find_workload(self, tenant: str, name: str) -> WorkloadIdentity | None:
        """A workload by its name.

        Raises:
            VaultCorrupt: If its row was changed outside the product.
        """
        query = select(_WORKLOADS).where(_WORKLOADS.c.tenant_id == tenant, _WORKLOADS.c.name == name)
        row = self.connection.execute(query).mappings().first()
        return self._workload(row) if row else None

    def find_workload_like(self, tenant: str, name: str) -> str:
        """The name of the workload that this one could be taken for: itself, or one that differs by case alone; else empty."""
        query = select(_WORKLOADS.c.name).where(_WORKLOADS.c.tenant_id == tenant, func.lower(_WORKLOADS.c.name) == name.lower())
        return self.connection.execute(query).scalar() or ""

    def find_workload_id(self, tenant: str, workload_id: str) -> WorkloadIdentity | None:
        """A workload by its immutable id."""
        cached: WorkloadIdentity | None = self.caches.workloads.get((tenant, workload_id))
        if cached is not None:
            return cached
        row = self._workload_row(tenant, workload_id)
        if row is None:
            return None
        found = self.caches.workloads[tenant, workload_id] = self._workload(row)
        return found

    def list_workloads(self, tenant: str, page: Page | None = None) -> WorkloadList:
        """The workloads of a tenant, by name: all of them, or one page."""
        query = select(_WORKLOADS).where(_WORKLOADS.c.tenant_id == tenant).order_by(_WORKLOADS.c.name)
        rows, following = self._page(query, _WORKLOADS.c.name, page)
        return self._all_readable(rows, following)

    def _all_readable(self, rows: Sequence[RowMapping], following: str = "") -> WorkloadList:
        found: list[WorkloadIdentity] = []
        corrupt: list[str] = []
        for row in rows:
            try:
                found.append(self._workload(row))
            except VaultCorrupt:
                corrupt.append(str(row["id"]))
        return WorkloadList(tuple(found), tuple(corrupt), following)

    def workloads_with_authorizer(self, tenant: str) -> tuple[WorkloadIdentity, ...]:
        """The workloads that a JWT may speak for; kept decoded until the configuration changes."""
        cached: tuple[WorkloadIdentity, ...] | None = self.caches.authorizers.get(tenant)
        if cached is None:
            query = select(_WORKLOADS).where(_WORKLOADS.c.tenant_id == tenant, _WORKLOADS.c.authorizer != "")
            found = self._all_readable(self.connection.execute(query.order_by(_WORKLOADS.c.name)).mappings().all())
            cached = tuple(each for each in found if each.authorizer.is_decisive)
            self.caches.authorizers[tenant] = cached
        return cached

    def register_workload(self, tenant: str, name: str, registered_by: str) -> WorkloadIdentity:
        """Keep a workload that was seen for the first time."""
        return self.insert_workload(WorkloadIdentity(self.new_id(), tenant, name), registered_by)

    def insert_workload(self, workload: WorkloadIdentity, registered_by: str) -> WorkloadIdentity:
        """Keep a new workload.

        Args:
            workload: With its random id.
            registered_by: The edge that made it.
        """
        now = micros(self.now)
        given = self._encode_workload(workload) | {"registered_by": registered_by, "created_at": now, "updated_at": now}
        self._insert_row("workload_identities", workload.tenant, given)
        if workload.authorizer.is_decisive:  # else nobody can have decoded anything that it changes
            self.raise_epoch()
        return replace(workload, created_at=self.now, updated_at=self.now)

    def update_workload(self, workload: WorkloadIdentity) -> WorkloadIdentity:
        """Replace a workload's configuration; its epoch is raised, so what was issued before ends.

        Raises:
            Conflict: If it was removed or changed meanwhile.
            VaultCorrupt: If its row was changed outside the product.
        """
        row = self._workload_row(workload.tenant, workload.id)
        if row is None or row["epoch"] != workload.epoch:
            raise Conflict(f"the workload {workload.name} was changed or removed meanwhile; try again", retryable=True)
        after = replace(workload, epoch=workload.epoch + 1)
        changed = self._encode_workload(after) | {"updated_at": micros(self.now)}
        self._update_row("workload_identities", workload.tenant, row, changed)
        self.raise_epoch()
        return replace(after, updated_at=self.now)

    def tag_workload(self, workload: WorkloadIdentity) -> None:
        """Replace the tags of a workload, and nothing else of it: what was issued to it goes on.

        Raises:
            Conflict: If it was removed meanwhile.
            VaultCorrupt: If its row was changed outside the product.
        """
        row = self._workload_row(workload.tenant, workload.id)
        if row is None:
            raise Conflict(f"the workload {workload.name} was removed meanwhile")
        changed = {"tags": encode_tags(workload.tags), "updated_at": micros(self.now)}
        self._update_row("workload_identities", workload.tenant, row, changed)
        self.raise_epoch()

    def delete_workload(self, workload: WorkloadIdentity) -> None:
        """Remove a workload with everything that was filed under it: grants, consents, keys, handles."""
        for owned in _BELONGING:
            self.connection.execute(
                delete(owned).where(owned.c.tenant_id == workload.tenant, owned.c.workload_id == workload.id)
            )
        self.connection.execute(
            delete(_WORKLOADS).where(_WORKLOADS.c.tenant_id == workload.tenant, _WORKLOADS.c.id == workload.id)
        )
        self.raise_epoch()

    def _workload_row(self, tenant: str, workload_id: str) -> RowMapping | None:
        query = select(_WORKLOADS).where(_WORKLOADS.c.tenant_id == tenant, _WORKLOADS.c.id == workload_id)
        return self.connection.execute(query).mappings().first()

    def _encode_workload(self, workload: WorkloadIdentity) -> dict[str, Any]:
        return {
            "id": workload.id,
            "tenant_id": workload.tenant,
            "name": workload.name,
            "epoch": workload.epoch,
            "disabled": int(workload.disabled),
            "owner": workload.owner,
            "tags": encode_tags(workload.tags),
            "authorizer": _encode_authorizer(workload.authorizer),
            "shared_authorizer": int(workload.shared_authorizer),
            "allowed_providers": " ".join(sorted(workload.allowed_providers)),
            "return_urls": "\n".join(workload.return_urls),
            "identity_audiences": "\n".join(workload.identity_audiences),
            "may_assert_users": int(workload.may_assert_users),
        }

    def _workload(self, row: RowMapping) -> WorkloadIdentity:
        self._check_row("workload_identities", row)
        try:
            authorizer = _decode_authorizer(row["authorizer"])
        except (KeyError, TypeError, ValueError):
            raise VaultCorrupt("a workload identity is not what the product wrote") from None
        return WorkloadIdentity(
            id=row["id"],
            tenant=row["tenant_id"],
            name=row["name"],
            epoch=row["epoch"],
            disabled=bool(row["disabled"]),
            authorizer=authorizer,
            shared_authorizer=bool(row["shared_authorizer"]),
            allowed_providers=frozenset(row["allowed_providers"].split()),
            return_urls=tuple(row["return_urls"].splitlines()),
            identity_audiences=tuple(row["identity_audiences"].splitlines()),
            may_assert_users=bool(row["may_assert_users"]),
            owner=row["owner"],
            tags=decode_tags(row["tags"]),
            created_at=moment(row["created_at"]),
            updated_at=moment(row["updated_at"]),
        )


def _encode_authorizer(authorizer: Authorizer) -> str:
    if authorizer == NOBODY:
        return ""
    return json.dumps(
        {
            "issuer_id": authorizer.issuer_id,
            "audiences": sorted(authorizer.audiences),
            "clients": sorted(authorizer.clients),
            "scopes": sorted(authorizer.scopes),
            "claims": [[rule.claim, rule.operator.value, list(rule.values)] for rule in authorizer.claims],
        },
        separators=(",", ":"),
    )


def _decode_authorizer(text: str) -> Authorizer:
    if not text:
        return NOBODY
    fields: dict[str, Any] = json.loads(text)
    return Authorizer(
        issuer_id=fields["issuer_id"],
        audiences=frozenset(fields["audiences"]),
        clients=frozenset(fields["clients"]),
        scopes=frozenset(fields["scopes"]),
        claims=tuple(ClaimRule(claim, ClaimOperator(operator), tuple(values)) for claim, operator, values in fields["claims"]),
    )
