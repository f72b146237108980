"""How a PostgreSQL database is opened: one snapshot for each transaction, nothing that waits for ever, and no trust.

Replicas write beside each other, so a transaction that reads what another one changed meanwhile fails (REPEATABLE READ) and
its unit is run again. The tables are in a schema of their own, which is all that is searched: in one that others may write
to, their functions and tables could stand before ours. Poolers must pool sessions, not transactions.
"""

from __future__ import annotations

import contextlib
from collections.abc import Generator
from typing import Any

from sqlalchemy import Connection, Engine, create_engine
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import NullPool, QueuePool

from mcp_identity.domain.errors import VaultUnavailable
from mcp_identity.vault.columns import metadata
from mcp_identity.vault.failures import describe
from mcp_identity.vault.stores.postgres_url import PostgresAddress

SCHEMA = "mcp_identity"
WAIT_SECONDS = 5.0
"""How long another process is waited for."""
_STATEMENT_SECONDS = 30
_IDLE_SECONDS = 15
"""So long may a process keep a transaction open in which it does nothing: one that hangs must not keep rows from others."""
_READERS = 4
_LOCK_ATTEMPTS = 3
_IN_TRANSACTION = 2  # psycopg.pq.TransactionStatus.INTRANS, without importing it
_SET = "SELECT pg_catalog.set_config(name, value, false) FROM unnest(%s::text[], %s::text[]) AS given (name, value)"
_PHRASES = {
    "password authentication failed": "the password is not right",
    "no password supplied": "it wants a password; say where it is with ?password_from=env:<name>",
    "require_auth": "it wants the password itself; with sslmode=verify-full it may have it",
    "authentication method requirement": "it wants the password itself; with sslmode=verify-full it may have it",
    "no pg_hba.conf entry": "it does not let this machine or user in",
    "not permitted to log in": "this user may not log in",
    "could not translate host name": "its host is not known",
    "failed to resolve host": "its host is not known",
    "Name or service not known": "its host is not known",
    "does not support SSL": "it does not speak TLS; sslmode=disable goes without",
    "certificate": "its certificate is not one that is trusted here; name the authority with sslrootcert",
    "too many": "it has too many connections",
    "remaining connection slots": "it has too many connections",
    "starting up": "it is starting",
    "shutting down": "it is stopping",
    "session is read-only": "it is a copy that takes no writes",
    "in recovery": "it is a copy that takes no writes",
    "does not exist": "it has no such database or user",
    "timeout": "it does not answer",
    "refused": "nothing listens there",
    "No such file": "nothing listens there",
}
"""What the driver's words for a failed connection mean. They may hold names of users and hosts, so they are not repeated."""


class PostgresStore:
    """A vault in a database that replicas on many machines share."""

    shares_writes = False

    def __init__(self, address: PostgresAddress, wait_seconds: float = WAIT_SECONDS) -> None:
        """Name the database."""
        self.name = address.name
        self._address = address
        self._wait_seconds = wait_seconds

    def writing_engine(self) -> Engine:
        """An engine for the writer: one connection at a time, each transaction one snapshot."""
        return postgres_engine(self._address, self._wait_seconds, "repeatable read", poolclass=NullPool)

    def reading_engine(self) -> Engine:
        """An engine for readers, which never write; a connection that broke while nobody used it is replaced unnoticed."""
        pool: dict[str, Any] = {"pool_size": _READERS, "max_overflow": _READERS, "pool_pre_ping": True, "pool_timeout": 10}
        return postgres_engine(
            self._address, self._wait_seconds, "repeatable read", read_only=True, poolclass=QueuePool, **pool
        )

    def carrying_engine(self) -> Engine:
        """An engine for connections that read the whole vault; nothing ends their transactions but they themselves."""
        return postgres_engine(
            self._address, self._wait_seconds, "repeatable read", read_only=True, patient=True, poolclass=NullPool
        )

    def is_open(self, connection: Connection) -> bool:
        """Whether a transaction is open in which no statement failed."""
        driver: Any = connection.connection.driver_connection
        return driver.pgconn.transaction_status == _IN_TRANSACTION

    def is_dead(self, process_id: str) -> bool:
        """False: a connection that ended is no proof that its process did."""
        del process_id
        return False

    def checkpoint(self) -> None:
        """Nothing: there is one truth, wherever it is kept."""

    def damage(self, connection: Connection) -> tuple[str, ...]:
        """How many pages PostgreSQL has met whose checksum was wrong; it tells what it met, and looks through nothing."""
        query = "SELECT checksum_failures FROM pg_catalog.pg_stat_database WHERE datname = pg_catalog.current_database()"
        failures = connection.exec_driver_sql(query).scalar()
        return (f"PostgreSQL has met {failures} pages with a wrong checksum",) if failures else ()

    @contextlib.contextmanager
    def standing_still(self) -> Generator[None]:
        """Lock every table against changes, in a transaction that ends with this process at the latest.

        The other replicas go on reading; what they would write fails as long, and is tried again.
        """
        engine = postgres_engine(self._address, self._wait_seconds, "read committed", patient=True, poolclass=NullPool)
        try:
            with _locked(engine, self.name):
                yield
        finally:
            engine.dispose()

    def release(self) -> None:
        """Nothing is held but connections, which end with their engines."""


@contextlib.contextmanager
def _locked(engine: Engine, name: str) -> Generator[None]:
    """A transaction in which nobody else changes a row of ours: what others had begun has ended before."""
    tables = ", ".join(sorted(metadata.tables))
    attempts = _LOCK_ATTEMPTS
    while True:
        with engine.begin() as connection:
            try:
                connection.exec_driver_sql(f"LOCK TABLE {tables} IN SHARE MODE")
            except DBAPIError as error:
                attempts -= 1
                if not attempts:
                    why = f"{name} is being written to by somebody who does not come to an end ({describe(error)}); try again"
                    raise VaultUnavailable(why) from None
                continue  # somebody waited for us as we did for him
            yield
            return


def postgres_engine(
    address: PostgresAddress,
    wait_seconds: float,
    isolation: str,
    *,
    read_only: bool = False,
    patient: bool = False,
    **pool: Any,
) -> Engine:
    """An engine whose connections are set up as the vault's rules want them.

    Args:
        address: The database.
        wait_seconds: How long a lock is waited for.
        isolation: Of its transactions.
        read_only: Whether they change nothing.
        patient: Whether a statement may take as long as it takes.
        **pool: How connections are kept.
    """
    settings = {
        "search_path": f"{SCHEMA}, pg_temp",  # named last, or temporary tables would stand before ours
        "default_transaction_isolation": isolation,
        "default_transaction_read_only": "on" if read_only else "off",
        "synchronous_commit": "on",  # nobody is answered before a COMMIT that stands
        "lock_timeout": f"{round(wait_seconds * 1000)}ms",
        "statement_timeout": "0" if patient else f"{_STATEMENT_SECONDS}s",
        "idle_in_transaction_session_timeout": "0" if patient else f"{_IDLE_SECONDS}s",
        "row_security": "off",  # rows that a policy would hide are an error
        "client_min_messages": "error",
    }

    def connect() -> Any:
        import psycopg

        try:
            connection = psycopg.connect(**address.driver_parameters(), autocommit=True)  # pyright: ignore[reportArgumentType]
        except psycopg.OperationalError as error:
            raise VaultUnavailable(f"{address.name} cannot be reached now ({_why(error)})") from None
        try:
            connection.execute(_SET, (list(settings), list(settings.values())))
            connection.autocommit = False
        except BaseException:
            connection.close()
            raise
        return connection

    return create_engine("postgresql+psycopg://", creator=connect, hide_parameters=True, use_native_hstore=False, **pool)


def make_schema(connection: Connection) -> None:
    """See to it that there is a schema for the tables; where an owner made it for our role, that role may make no other."""
    there = connection.exec_driver_sql(f"SELECT pg_catalog.to_regnamespace('{SCHEMA}') IS NOT NULL").scalar_one()
    if not there:
        connection.exec_driver_sql(f"CREATE SCHEMA {SCHEMA}")


def _why(error: BaseException) -> str:
    text = str(error)
    return next((meaning for phrase, meaning in _PHRASES.items() if phrase in text), type(error).__name__)
