"""What the vault's own tables are: its state, its keys, and the ends of the audit chains. They belong to no tenant."""

# pyright: reportAssignmentType=false
# SQLModel declares __tablename__ for declared_attr too; a plain string is what its documentation asks for.

from __future__ import annotations

from sqlalchemy import BigInteger, Column, UniqueConstraint
from sqlmodel import Field

from mcp_identity.vault import columns as col
from mcp_identity.vault.columns import Base


class VaultState(Base, table=True):
    """One row: what the writer reads first in every batch."""

    __tablename__ = "vault_state"
    id: int = Field(sa_column=Column(BigInteger, primary_key=True, autoincrement=False))
    vault_id: str = col.text()
    schema_version: int = col.number()
    minimum_writer: int = col.number()
    configuration_epoch: int = col.number(1)
    key_id: str = col.text()
    key_check: bytes = col.blob(nullable=False)
    created_at: int = col.number()


class VaultKey(Base, table=True):
    """A tenant key or the vault key, wrapped by the key backend."""

    __tablename__ = "vault_keys"
    __table_args__ = (UniqueConstraint("tenant", "purpose", "version"),)
    id: str = col.row_id()
    tenant: str = col.text()
    purpose: str = col.text()
    version: int = col.number(1)
    backend_key_id: str = col.text()
    wrapped: bytes = col.blob(nullable=False)
    constant: bytes = col.blob(nullable=False)
    state: str = col.text()
    created_at: int = col.number()


class AuditHead(Base, table=True):
    """The end of one writer's chain, updated in the transaction that appends."""

    __tablename__ = "audit_heads"
    writer_id: str = col.row_id()
    sequence: int = col.number()
    mac: bytes = col.blob(nullable=False)


class AuditWriter(Base, table=True):
    """The registry that counts the writers; each entry is chained to the one before."""

    __tablename__ = "audit_writers"
    number: int = Field(sa_column=Column(BigInteger, primary_key=True, autoincrement=False))
    writer_id: str = col.text(unique=True)
    started_at: int = col.number()
    mac: bytes = col.blob(nullable=False)
