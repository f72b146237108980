"""Runs revisions on the connection that the vault hands over; it opens none of its own and commits nothing."""

from __future__ import annotations

from alembic import context
from sqlalchemy import Connection

from mcp_identity.vault import tables, tables_own
from mcp_identity.vault.columns import metadata

_ = (tables, tables_own)  # importing them fills the metadata

connection: Connection = context.config.attributes["connection"]
context.configure(connection=connection, target_metadata=metadata, transactional_ddl=False)
context.run_migrations()
