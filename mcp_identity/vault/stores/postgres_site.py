"""A vault in a schema of its own on PostgreSQL: what is checked of it, and how replicas that start at once make one.

Whoever makes or upgrades it holds one advisory lock, in the transaction that does it: it ends with that transaction, however
that ends. Whoever owns the database can change everything in it; what he adds that would run or hide something by itself is
refused at start-up, what he changes in rows is found where they are read.
"""

# ruff: noqa: S608 - what is put into statements here are names of ours

from __future__ import annotations

import contextlib
from collections.abc import Generator, Iterator
from contextlib import AbstractContextManager
from hashlib import sha256

from sqlalchemy import Connection, Engine
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import NullPool

from mcp_identity.domain.errors import VaultCorrupt, VaultUnavailable
from mcp_identity.vault.stores.postgres import SCHEMA, PostgresStore, postgres_engine
from mcp_identity.vault.stores.postgres_url import PostgresAddress
from mcp_identity.vault.stores.site import STATE_QUERY, Change, VaultState, parse_state

_LOCK = int.from_bytes(sha256(b"mcp-identity vault").digest()[:8], "big", signed=True)
_HELD = f"""
SELECT EXISTS (
    SELECT FROM pg_catalog.pg_locks
    WHERE locktype = 'advisory' AND objsubid = 1
    AND classid = {(_LOCK >> 32) & 0xFFFFFFFF} AND objid = {_LOCK & 0xFFFFFFFF}
    AND database = (SELECT oid FROM pg_catalog.pg_database WHERE datname = pg_catalog.current_database())
)
"""
_THERE = f"""
SELECT count(*) FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname = '{SCHEMA}' AND c.relkind IN ('r', 'p', 'v', 'm', 'f')
"""
_MINE = f"(SELECT oid FROM pg_catalog.pg_namespace WHERE nspname = '{SCHEMA}')"
_TABLES = f"(SELECT oid FROM pg_catalog.pg_class WHERE relnamespace = {_MINE})"
_FOREIGN = {
    "views or other relations": f"pg_catalog.pg_class WHERE relnamespace = {_MINE} AND relkind NOT IN ('r', 'i', 't')",
    "tables that a crash empties": f"pg_catalog.pg_class WHERE relnamespace = {_MINE} AND relpersistence <> 'p'",
    "row security": f"pg_catalog.pg_class WHERE relnamespace = {_MINE} AND (relrowsecurity OR relforcerowsecurity)",
    "triggers": f"pg_catalog.pg_trigger WHERE NOT tgisinternal AND tgrelid IN {_TABLES}",
    "rules": f"pg_catalog.pg_rewrite WHERE ev_class IN {_TABLES}",
    "inheritance": f"pg_catalog.pg_inherits WHERE inhparent IN {_TABLES} OR inhrelid IN {_TABLES}",
    "defaults or generated columns": f"pg_catalog.pg_attrdef WHERE adrelid IN {_TABLES}",
    "functions": f"pg_catalog.pg_proc WHERE pronamespace = {_MINE}",
    "operators": f"pg_catalog.pg_operator WHERE oprnamespace = {_MINE}",
}
"""What would run, hide, add or lose rows by itself, and is none of ours."""
_LOOK = f"SELECT {', '.join(f'(SELECT count(*) FROM {what})' for what in _FOREIGN.values())}"
_INSUFFICIENT_PRIVILEGE = "42501"
_UNREADABLE = ("42P01", "42703")
"""No such table, no such column."""


class PostgresSite:
    """The schema of a vault, which replicas on many machines share."""

    upgrades_itself = False

    def __init__(self, address: PostgresAddress, wait_seconds: float) -> None:
        """Name the database."""
        self.name = address.name
        self._address = address
        self._wait_seconds = wait_seconds
        self._locked: Connection | None = None

    def check_surroundings(self) -> None:
        """Nothing on this machine belongs to it."""

    def has_vault(self) -> bool:
        """Whether anything is in the schema."""
        with self._connected() as connection:
            return bool(connection.exec_driver_sql(_THERE).scalar_one())

    def check_vacancy(self) -> None:
        """Whatever is left of a vault counts as one."""

    def is_being_made(self) -> bool:
        """Whether another process makes a vault, or upgrades it, right now."""
        with self._connected() as connection:
            return bool(connection.exec_driver_sql(_HELD).scalar_one())

    def creating(self) -> AbstractContextManager[None]:
        """Hold the lock, in a transaction that everything until the end of the block is in."""
        return self._alone(patient=False)

    def make(self, fill: Change) -> None:
        """Make the schema and what is in it; it stands when `creating` ends."""
        try:
            fill(self._held())
        except DBAPIError as error:
            if sql_state(error) != _INSUFFICIENT_PRIVILEGE:
                raise
            how = f"as the database's owner run: CREATE SCHEMA {SCHEMA} AUTHORIZATION <the user of the URL>"
            raise VaultUnavailable(f"{self.name} lets its user make no schema; {how}", retryable=False) from None

    def states(self) -> Iterator[VaultState]:
        """What the vault says of itself."""
        with self._connected() as connection:
            try:
                row = connection.exec_driver_sql(STATE_QUERY).first()
            except DBAPIError as error:
                if sql_state(error) not in _UNREADABLE:
                    raise
                raise VaultCorrupt(f"{self.name} cannot be read as a vault; restore it from a backup") from None
            counts = connection.exec_driver_sql(_LOOK).one()
        if found := [what for what, number in zip(_FOREIGN, counts, strict=True) if number]:
            raise VaultCorrupt(f"{self.name} holds {', '.join(found)}, which are none of ours; restore it from a backup")
        yield parse_state(None if row is None else tuple(row), self.name)

    def exclusive(self) -> AbstractContextManager[None]:
        """Hold the lock; what is done in the block may take as long as it takes."""
        return self._alone(patient=True)

    def upgrade(self, change: Change, version: int) -> None:
        """Change the schema; it stands when `exclusive` ends. There is no copy: the operator has a backup."""
        del version
        change(self._held())

    def bare(self) -> PostgresStore:
        """The store."""
        return PostgresStore(self._address, self._wait_seconds)

    def open(self) -> PostgresStore:
        """Nothing is held: whoever upgrades the vault tells every writer by the row that each batch reads."""
        return PostgresStore(self._address, self._wait_seconds)

    @contextlib.contextmanager
    def _alone(self, *, patient: bool) -> Generator[None]:
        # Whoever waited for the lock must see what its last holder did, so each statement looks anew.
        engine = self._engine("read committed", patient=patient)
        with engine.begin() as connection:
            self._locked = connection
            try:
                connection.exec_driver_sql(f"SELECT pg_catalog.pg_advisory_xact_lock({_LOCK})")
                yield
            finally:
                self._locked = None

    def _held(self) -> Connection:
        if self._locked is None:
            raise RuntimeError("nobody holds the lock")
        return self._locked

    @contextlib.contextmanager
    def _connected(self) -> Generator[Connection]:
        """A connection that only looks; where the lock is held, the one that holds it."""
        if self._locked is not None:
            yield self._locked
            return
        with self._engine("repeatable read", read_only=True).connect() as connection:
            yield connection

    def _engine(self, isolation: str, **options: bool) -> Engine:
        return postgres_engine(self._address, self._wait_seconds, isolation, poolclass=NullPool, **options)


def sql_state(error: DBAPIError) -> str:
    """The code of what PostgreSQL refused."""
    return getattr(error.orig, "sqlstate", None) or ""
