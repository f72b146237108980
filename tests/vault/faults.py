"""What can go wrong below the writer? Knobs on the engine of one vault, which break what a test names and mend it again."""

# pyright: reportPrivateUsage=false
# The faults are put where the driver is, below what the vault shows.

from __future__ import annotations

import contextlib
import sqlite3
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import anyio.to_thread
import psycopg
import psycopg.errors
from sqlalchemy import event

from mcp_identity.domain.audit import AuditEvent
from mcp_identity.vault.records import Records
from mcp_identity.vault.vault import Vault
from tests.fakes.postgres import Database
from tests.vault.kit import Place, behind_its_back


class Faults(ABC):
    """The faults of one vault's writer, and what is counted there.

    Attributes:
        commits: How many transactions were committed.
        connections: How many connections were made.
        fail_commit: Raised instead of committing, once.
        fail_after_commit: Raised although the commit stands, once.
    """

    def __init__(self, vault: Vault) -> None:
        """Nothing is broken yet."""
        self.commits = 0
        self.connections = 0
        self.fail_commit: Exception | None = None
        self.fail_after_commit: Exception | None = None
        engine = vault._writer._engine
        commit: Callable[[Any], None] = engine.dialect.do_commit

        def do_commit(dbapi_connection: Any) -> None:
            failure, self.fail_commit = self.fail_commit, None
            if failure is not None:
                raise failure
            commit(dbapi_connection)
            self.commits += 1
            failure, self.fail_after_commit = self.fail_after_commit, None
            if failure is not None:
                raise failure

        engine.dialect.do_commit = do_commit

        @event.listens_for(engine, "connect")
        def _connected(connection: Any, _record: Any) -> None:  # pyright: ignore[reportUnusedFunction]
            self.connections += 1
            self.on_connection(connection)

    @abstractmethod
    def on_connection(self, connection: Any) -> None:
        """The writer has made a connection."""

    @abstractmethod
    def disk_error(self) -> Exception:
        """What the driver raises when the disk fails."""

    @abstractmethod
    def fill_disk(self) -> None:
        """The next page that the database needs is not there."""

    @abstractmethod
    def read_only(self) -> None:
        """The database takes no more writes."""

    @abstractmethod
    def mend(self) -> None:
        """Everything works again."""

    @abstractmethod
    def break_audit(self) -> None:
        """No row can be added to the trail."""

    @abstractmethod
    def mend_audit(self) -> None:
        """The trail takes rows again."""


class SqliteFaults(Faults):
    """The same for a vault in a file."""

    def __init__(self, vault: Vault, database: Path) -> None:
        """Nothing is broken yet."""
        self._pragmas: tuple[str, ...] = ()
        self._connection: sqlite3.Connection | None = None
        self._database = database
        super().__init__(vault)

    def on_connection(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._set(*self._pragmas)

    def disk_error(self) -> sqlite3.OperationalError:
        return disk_error()

    def fill_disk(self) -> None:
        self._set("max_page_count = 1")

    def read_only(self) -> None:
        self._set("query_only = ON")

    def mend(self) -> None:
        self._set("max_page_count = 1073741823", "query_only = OFF")

    def _set(self, *pragmas: str) -> None:
        self._pragmas = pragmas
        if self._connection is not None:
            with contextlib.suppress(sqlite3.ProgrammingError):  # the writer has let go of it; the next one gets them
                for pragma in pragmas:
                    self._connection.execute(f"PRAGMA {pragma}")

    def break_audit(self) -> None:
        behind_its_back(
            self._database, "CREATE TRIGGER no_audit BEFORE INSERT ON audit_events BEGIN SELECT RAISE(ABORT, 'no'); END"
        )

    def mend_audit(self) -> None:
        behind_its_back(self._database, "DROP TRIGGER no_audit")


class PostgresFaults(Faults):
    """The same on PostgreSQL: each fault is the error that the server raises for it, out of a trigger on what is written."""

    def __init__(self, vault: Vault, database: Database) -> None:
        """Nothing is broken yet."""
        self._database = database
        super().__init__(vault)

    def on_connection(self, connection: Any) -> None:
        del connection

    def disk_error(self) -> psycopg.Error:
        return psycopg.errors.IoError("could not fsync file")

    def fill_disk(self) -> None:
        self._break("53100", "workload_identities", "audit_events", "settings")

    def read_only(self) -> None:
        self._break("25006", "workload_identities", "audit_events", "settings")

    def mend(self) -> None:
        self._database.execute("DROP FUNCTION IF EXISTS public.fail CASCADE")

    def break_audit(self) -> None:
        self._break("P0001", "audit_events")

    def mend_audit(self) -> None:
        self.mend()

    def _break(self, code: str, *tables: str) -> None:
        fail = f"BEGIN RAISE EXCEPTION 'no' USING ERRCODE = '{code}'; END"
        self._database.execute(
            f"CREATE FUNCTION public.fail() RETURNS trigger LANGUAGE plpgsql AS $$ {fail} $$",
            *(f"CREATE TRIGGER fail BEFORE INSERT ON {table} EXECUTE FUNCTION public.fail()" for table in tables),
        )


def faults_of(vault: Vault, database: Place) -> Faults:
    """The faults of a vault, whatever it is in."""
    return PostgresFaults(vault, database) if isinstance(database, Database) else SqliteFaults(vault, database)


def disk_error() -> sqlite3.OperationalError:
    """What SQLite raises when the disk fails."""
    error = sqlite3.OperationalError("disk I/O error")
    error.sqlite_errorname = "SQLITE_IOERR_FSYNC"
    return error


Work = Callable[[Records], object]
Job = Work | tuple[Work, AuditEvent]


async def batch(vault: Vault, *jobs: Job) -> list[Any]:
    """Have the writer find all of these waiting, so that they share a transaction.

    Returns:
        Of each unit its result, or the error that its caller got.
    """
    outcomes: list[Any] = [None] * len(jobs)
    entered, leave = threading.Event(), threading.Event()

    def keep_busy(_: Records) -> None:
        entered.set()
        leave.wait(10)

    async def run(number: int, job: Job) -> None:
        try:
            outcomes[number] = await vault.run(job) if callable(job) else await vault.run(*job)
        except Exception as error:  # noqa: BLE001 - it is what the test asks for
            outcomes[number] = error

    async with anyio.create_task_group() as group:
        group.start_soon(vault.run, keep_busy)
        await anyio.to_thread.run_sync(entered.wait, 10)
        for number, job in enumerate(jobs):
            group.start_soon(run, number, job)
            await anyio.lowlevel.checkpoint()
        await anyio.wait_all_tasks_blocked()
        leave.set()
    return outcomes
