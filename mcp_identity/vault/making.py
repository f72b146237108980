"""What a new vault holds, and how an older one is brought to our schema.

Both happen in one transaction of whoever keeps every other process away; see `stores/site.py`.
"""

from __future__ import annotations

from pathlib import Path

from sqlalchemy import Connection, insert, update

from mcp_identity.domain.clock import Clock, Entropy
from mcp_identity.domain.identity import DEFAULT_TENANT
from mcp_identity.vault.keys import VAULT, KeyRing, new_key
from mcp_identity.vault.kms.backend import KeyBackend, WrapContext
from mcp_identity.vault.records import Records
from mcp_identity.vault.records.base import Caches, table
from mcp_identity.vault.records.chain import AuditChain
from mcp_identity.vault.records.keys import insert_wrapped_key
from mcp_identity.vault.records.moments import micros
from mcp_identity.vault.stores.site import Change
from mcp_identity.vault.writer import SCHEMA_VERSION, WRITER_VERSION

REVISIONS = Path(__file__).parent / "migrations"
"""Where the lineage of the schema is; one for every database."""
_CHECK = b"mcp-identity key check"
_STATE = table("vault_state")


def check_context(vault_id: str) -> WrapContext:
    """What the vault's key check is bound to."""
    return WrapContext(vault_id, VAULT, 1, "check")


def new_check(backend: KeyBackend, vault_id: str) -> bytes:
    """What tells at every start whether a key-encryption key is the vault's."""
    return backend.wrap(_CHECK, check_context(vault_id))


def new_vault(backend: KeyBackend, clock: Clock, entropy: Entropy) -> Change:
    """What fills an empty database with a vault that has nothing in it.

    The key backend is asked here, and not by what is returned, which runs inside a transaction.
    """
    vault_id, now = entropy.random_bytes(16).hex(), clock.now()
    keys = [new_key(backend, entropy, vault_id, tenant) for tenant in (VAULT, DEFAULT_TENANT)]
    ring = KeyRing(backend, vault_id, clock)
    for key in keys:
        ring.load(key.tenant, [key])
    state = {
        "id": 1,
        "vault_id": vault_id,
        "schema_version": SCHEMA_VERSION,
        "minimum_writer": WRITER_VERSION,
        "configuration_epoch": 1,
        "key_id": backend.key_id,
        "key_check": new_check(backend, vault_id),
        "created_at": micros(now),
    }

    def fill(connection: Connection) -> None:
        run_migrations(connection)
        for key in keys:
            insert_wrapped_key(connection, key, micros(now))
        connection.execute(insert(_STATE), state)
        Records(connection, ring, entropy, Caches(), AuditChain(""), now, clock).insert_tenant(DEFAULT_TENANT)

    return fill


def upgrade(connection: Connection) -> None:
    """Bring the vault of this connection to our schema."""
    run_migrations(connection)
    connection.execute(update(_STATE).values(schema_version=SCHEMA_VERSION, minimum_writer=WRITER_VERSION))


def run_migrations(connection: Connection) -> None:
    """Bring the schema of this connection's database to the newest revision."""
    from alembic import command
    from alembic.config import Config

    if connection.dialect.name == "postgresql":
        from mcp_identity.vault.stores.postgres import make_schema

        make_schema(connection)
    config = Config()
    config.set_main_option("script_location", str(REVISIONS).replace("%", "%%"))  # the option is interpolated
    config.attributes["connection"] = connection
    command.upgrade(config, "head")
