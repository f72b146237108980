"""How a row that grants authority is written and read: every covered column under one MAC of its tenant.

The version of a MAC names the columns that it covers; a new column makes a new version. Rows are looked up by their ids and
hashes, and believed only when their MAC stands.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Column, RowMapping, Select, insert, update

from mcp_identity.vault.envelope import Cell
from mcp_identity.vault.records.base import RecordsBase, intact, table
from mcp_identity.vault.records.protected import Versions

COVERED: dict[str, Versions] = {
    "workload_identities": {
        1: (
            "id", "tenant_id", "name", "epoch", "disabled", "group_id", "owner", "purpose", "environment", "tags", "authorizer",
            "shared_authorizer", "allowed_providers", "return_urls", "identity_audiences", "may_assert_users", "registered_by",
            "expires_at", "created_at", "updated_at",
        )
    },
    "users": {1: ("id", "tenant_id", "issuer", "subject", "kind", "display", "not_before_at", "created_at")},
    "tenants": {1: ("id", "title", "created_at")},
    "issuers": {
        1: (
            "id", "tenant_id", "name", "preset", "issuer", "discovery_url", "jwks_url", "audiences", "discriminator",
            "subject_claims", "configuration", "login_client_id", "login_client_secret", "login_discovery_url",
            "secret_generation", "require_tool_scopes", "allow_http_loopback", "epoch", "disabled", "created_at", "updated_at",
        )
    },
    "workload_keys": {1: ("id", "tenant_id", "workload_id", "key_hash", "label", "state", "created_at", "expires_at")},
    "access_keys": {
        1: (
            "id", "tenant_id", "access_key_id", "secret", "secret_generation", "role", "workload_ids", "may_assert_users",
            "state", "created_at",
        )
    },
    "releases": {
        1: (
            "id", "tenant_id", "handle_hash", "workload_id", "workload_epoch", "user_key", "grant_id", "provider_row",
            "generation", "state", "created_at", "expires_at",
        )
    },
    "signing_keys": {
        1: ("id", "tenant_id", "version", "algorithm", "public_jwk", "private_key", "state", "created_at", "retires_at")
    },
}  # fmt: skip
"""What each version of a table's MAC covers. Left out is only what no decision reads, e.g. when a row was last used."""


@dataclass(frozen=True, slots=True)
class Page:
    """A part of a listing.

    Attributes:
        limit: How many rows at most.
        after: The name that the page before ended with; empty for the first page.
    """

    limit: int
    after: str = ""


class AuthenticatedRows(RecordsBase):
    """Rows under a MAC."""

    def _page(self, query: Select[Any], name: Column[Any], page: Page | None) -> tuple[Sequence[RowMapping], str]:
        """The rows of one page of a query that is ordered by a name, and the name after which the next one begins.

        Nothing is decoded and no more than one row too many is read, however long the listing is.
        """
        if page is None:
            return self.connection.execute(query).mappings().all(), ""
        rows = self.connection.execute(query.where(name > page.after).limit(page.limit + 1)).mappings().all()
        following = str(rows[page.limit - 1][name.name]) if len(rows) > page.limit else ""
        return rows[: page.limit], following

    def _insert_row(self, name: str, tenant: str, given: Mapping[str, Any]) -> None:
        """Keep a new row; columns that are not given are empty."""
        target = table(name)
        values: dict[str, Any] = {
            column.name: given.get(column.name, _empty(column)) for column in target.columns if column.name != "mac"
        }
        self.connection.execute(insert(target), values | {"mac": self._row_mac(name, tenant, values)})

    def _update_row(self, name: str, tenant: str, row: RowMapping, changed: Mapping[str, Any]) -> None:
        """Change a row that was read and checked, and authenticate it anew.

        Raises:
            VaultCorrupt: If its MAC does not stand; a new one must not cover that up.
        """
        self._check_row(name, row)
        target, values = table(name), {**row, **changed}
        values["mac"] = self._row_mac(name, tenant, values)
        self.connection.execute(update(target).where(target.c.id == row["id"], target.c.tenant_id == tenant).values(values))

    def _check_row(self, name: str, row: RowMapping) -> RowMapping:
        """The row, if it was written by the product.

        Raises:
            VaultCorrupt: If it was not.
        """
        intact(name, row)
        versions: dict[int, tuple[Cell, ...]] = {
            version: tuple(row[column] for column in names) for version, names in COVERED[name].items()
        }
        self._check_mac(row["id"] if name == "tenants" else row["tenant_id"], row["mac"], name, versions)
        return row

    def _row_mac(self, name: str, tenant: str, values: Mapping[str, Any]) -> bytes:
        version = max(COVERED[name])
        return self._mac(tenant, name, version, tuple(values[column] for column in COVERED[name][version]))

    def raise_epoch(self) -> None:
        """Make every process drop what it keeps decoded."""
        state = table("vault_state")
        self.connection.execute(update(state).values(configuration_epoch=state.c.configuration_epoch + 1))
        self.caches.clear()
        self.caches.is_outdated = True


def _empty(column: Any) -> Any:
    if column.nullable:
        return None
    return {int: 0, str: "", bytes: b""}[column.type.python_type]
