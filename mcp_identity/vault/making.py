"""How a vault comes to be, and how an older one is brought to our schema.

A new one is built aside and moved into place; an older one is copied first and then changed in one transaction. Who calls
these holds the lock that keeps every other process away.
"""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

from sqlalchemy import Connection, insert, update

from mcp_identity.domain.clock import Clock, Entropy
from mcp_identity.domain.identity import DEFAULT_TENANT
from mcp_identity.vault.keys import VAULT, KeyRing, new_key
from mcp_identity.vault.kms.backend import KeyBackend, WrapContext
from mcp_identity.vault.kms.local import sync_folder
from mcp_identity.vault.records import Records
from mcp_identity.vault.records.base import Caches, table
from mcp_identity.vault.records.chain import AuditChain
from mcp_identity.vault.records.keys import insert_wrapped_key
from mcp_identity.vault.records.moments import micros
from mcp_identity.vault.stores.sqlite import create_database_file, writing_engine
from mcp_identity.vault.writer import SCHEMA_VERSION, WRITER_VERSION

_CHECK = b"mcp-identity key check"
_STATE = table("vault_state")


def check_context(vault_id: str) -> WrapContext:
    """What the vault's key check is bound to."""
    return WrapContext(vault_id, VAULT, 1, "check")


def make_vault(database: Path, backend: KeyBackend, clock: Clock, entropy: Entropy) -> None:
    """Build a vault aside and move it into place, so that a half-made one is never met."""
    building = database.with_name(database.name + ".new")
    for suffix in ("", "-wal", "-shm", "-journal"):
        building.with_name(building.name + suffix).unlink(missing_ok=True)
    create_database_file(building)
    vault_id, now = entropy.random_bytes(16).hex(), clock.now()
    keys = [new_key(backend, entropy, vault_id, tenant) for tenant in (VAULT, DEFAULT_TENANT)]
    ring = KeyRing(backend, vault_id, clock)
    for key in keys:
        ring.load(key.tenant, [key])
    engine = writing_engine(building)
    with engine.begin() as connection:
        run_migrations(connection)
        for key in keys:
            insert_wrapped_key(connection, key, micros(now))
        connection.execute(
            insert(_STATE),
            {
                "id": 1,
                "vault_id": vault_id,
                "schema_version": SCHEMA_VERSION,
                "minimum_writer": WRITER_VERSION,
                "configuration_epoch": 1,
                "key_id": backend.key_id,
                "key_check": backend.wrap(_CHECK, check_context(vault_id)),
                "created_at": micros(now),
            },
        )
        Records(connection, ring, entropy, Caches(), AuditChain(""), now).insert_tenant(DEFAULT_TENANT)
    engine.dispose()
    with closing(sqlite3.connect(building)) as plain:
        plain.execute("PRAGMA wal_checkpoint(TRUNCATE)")  # what is moved is one file, and complete
    building.replace(database)
    sync_folder(database.parent)


def upgrade_vault(database: Path) -> None:
    """Bring an older vault to our schema, after a backup beside it."""
    backup = database.with_name(f"{database.name}.before-schema-{SCHEMA_VERSION}")
    backup.unlink(missing_ok=True)  # of an attempt that failed; the vault is still the older one
    create_database_file(backup)
    with closing(sqlite3.connect(database)) as source, closing(sqlite3.connect(backup)) as target:
        source.backup(target)
    sync_folder(backup.parent)
    engine = writing_engine(database)
    with engine.begin() as connection:
        run_migrations(connection)
        connection.execute(update(_STATE).values(schema_version=SCHEMA_VERSION, minimum_writer=WRITER_VERSION))
    engine.dispose()


def run_migrations(connection: Connection) -> None:
    """Bring the schema of this connection's database to the newest revision."""
    from alembic import command
    from alembic.config import Config

    config = Config()
    folder = str(Path(__file__).parent / "migrations")
    config.set_main_option("script_location", folder.replace("%", "%%"))  # the option is interpolated
    config.attributes["connection"] = connection
    command.upgrade(config, "head")
