"""Wrapped keys as rows of `vault_keys`; what is in them is bound by the key backend, so they need no MAC."""

from __future__ import annotations

from dataclasses import asdict

from sqlalchemy import Connection, insert, select

from mcp_identity.vault.keys import WrappedKey
from mcp_identity.vault.records.base import intact, table

_KEYS = table("vault_keys")


def insert_wrapped_key(connection: Connection, key: WrappedKey, created_at: int) -> None:
    """Keep a key that the backend wrapped."""
    connection.execute(insert(_KEYS), {**asdict(key), "created_at": created_at})


def read_wrapped_keys(connection: Connection, tenant: str) -> list[WrappedKey]:
    """A tenant's wrapped keys, or with `VAULT` the vault's own.

    Raises:
        VaultCorrupt: If a row is not of the shape that the product writes.
    """
    rows = connection.execute(select(_KEYS).where(_KEYS.c.tenant == tenant)).mappings().all()
    return [
        WrappedKey(
            id=row["id"],
            tenant=row["tenant"],
            purpose=row["purpose"],
            version=row["version"],
            backend_key_id=row["backend_key_id"],
            wrapped=row["wrapped"],
            constant=row["constant"],
            state=row["state"],
        )
        for row in (intact("vault_keys", row) for row in rows)
    ]
