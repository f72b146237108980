"""Grants, many at a time: what was granted, by whom and to whom, and what is to be removed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import delete, select, tuple_

from mcp_identity.domain.credentials import Grant, GrantState
from mcp_identity.domain.errors import VaultCorrupt
from mcp_identity.vault.records.base import AnyRow, table
from mcp_identity.vault.records.grants import GrantRecords, key_of_row
from mcp_identity.vault.records.owners import Owner, owned_rows

_GRANTS = table("grants")


@dataclass(frozen=True, slots=True)
class GrantList:
    """What a listing found: one row that does not authenticate does not hide the others.

    Attributes:
        grants: The readable ones.
        corrupt: Row ids of the others.
    """

    grants: tuple[Grant, ...]
    corrupt: tuple[str, ...] = ()


GrantPlace = tuple[int, str, int]
"""Where a grant stands among those of its tenant: when it was made in microseconds, its row id, and nothing."""


@dataclass(frozen=True, slots=True)
class GrantPage:
    """A part of a listing, the newest first.

    Attributes:
        grants: The readable ones.
        corrupt: Row ids of the others.
        next_place: Before which place the next page begins; None where there is none.
    """

    grants: tuple[Grant, ...]
    corrupt: tuple[str, ...]
    next_place: GrantPlace | None


class GrantListings(GrantRecords):
    """All grants of somebody, or at some provider."""

    def list_grants(self, tenant: str, workload_id: str, user_keys: tuple[str, ...]) -> GrantList:
        """The grants of one workload and of these users; with the empty key, its M2M grants."""
        query = select(_GRANTS).where(
            _GRANTS.c.tenant_id == tenant,
            _GRANTS.c.workload_id == workload_id,
            _GRANTS.c.user_key.in_(user_keys),
        )
        return self._readable(self.connection.execute(query.order_by(_GRANTS.c.created_at)).mappings().all())

    def page_grants(self, owner: Owner, *, limit: int, before: GrantPlace | None = None, ended: bool = True) -> GrantPage:
        """Grants of whomever, the newest first.

        Args:
            owner: Whose.
            limit: The most rows.
            before: Only those before this place; None for the newest.
            ended: Whether revoked ones are among them.
        """
        order, found = (_GRANTS.c.created_at, _GRANTS.c.id), owned_rows(_GRANTS, owner)
        if not ended:
            found.append(_GRANTS.c.state != GrantState.REVOKED.value)
        if before is not None:
            found.append(tuple_(*order) < before[:2])
        query = select(_GRANTS).where(*found).order_by(*(column.desc() for column in order)).limit(limit + 1)
        rows = self.connection.execute(query).mappings().all()
        readable = self._readable(rows[:limit])
        last = rows[limit - 1] if len(rows) > limit else None
        return GrantPage(readable.grants, readable.corrupt, (last["created_at"], str(last["id"]), 0) if last else None)

    def list_user_grants(self, tenant: str, user_key: str) -> GrantList:
        """What one user has granted, to whichever workload."""
        query = select(_GRANTS).where(_GRANTS.c.tenant_id == tenant, _GRANTS.c.user_key == user_key)
        return self._readable(self.connection.execute(query.order_by(_GRANTS.c.created_at)).mappings().all())

    def list_workload_grants(self, tenant: str, workload_id: str) -> GrantList:
        """All grants of one workload, for whomever; for its removal."""
        query = select(_GRANTS).where(_GRANTS.c.tenant_id == tenant, _GRANTS.c.workload_id == workload_id)
        return self._readable(self.connection.execute(query).mappings().all())

    def list_provider_grants(self, tenant: str, provider_row: str) -> GrantList:
        """All grants at one provider, whoever owns them; for its removal."""
        query = select(_GRANTS).where(_GRANTS.c.tenant_id == tenant, _GRANTS.c.provider_row == provider_row)
        return self._readable(self.connection.execute(query).mappings().all())

    def delete_provider_grants(self, tenant: str, provider_row: str) -> None:
        """Remove the rows of a provider that is being removed."""
        self.connection.execute(delete(_GRANTS).where(_GRANTS.c.tenant_id == tenant, _GRANTS.c.provider_row == provider_row))

    def delete_unreadable_grants(self, tenant: str, provider_row: str, row_ids: Sequence[str]) -> int:
        """Remove rows at one provider that a listing called corrupt, so that a new consent can take their place."""
        named = _GRANTS.c.id.in_(row_ids) & (_GRANTS.c.tenant_id == tenant) & (_GRANTS.c.provider_row == provider_row)
        return self.connection.execute(delete(_GRANTS).where(named)).rowcount

    def _readable(self, rows: Sequence[AnyRow]) -> GrantList:
        grants: list[Grant] = []
        corrupt: list[str] = []
        for row in rows:
            try:
                grants.append(self._grant(row, key_of_row(row)))
            except VaultCorrupt:
                corrupt.append(str(row["id"]))
        return GrantList(tuple(grants), tuple(corrupt))
