"""Who may write: one thread per process that runs units of work, many to a transaction.

It takes all units that wait, runs them in one transaction, commits once, and then answers them all. Nobody is answered
before COMMIT returned. Each unit has a savepoint of its own; the audit row of a refused one is written outside it. If
SQLite ended the transaction by itself (a full disk, an I/O error), the whole batch fails and nothing more runs on it.
"""

from __future__ import annotations

import contextlib
import logging
import queue
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import anyio
import anyio.from_thread
from anyio.lowlevel import EventLoopToken, current_token
from sqlalchemy import Connection, Engine, select
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from mcp_identity.domain.audit import AuditEvent
from mcp_identity.domain.clock import Clock, Entropy
from mcp_identity.domain.errors import AuditUnavailable, IdentityError, RateLimited, VaultUnavailable
from mcp_identity.vault.keys import KeyNotLoaded, KeyRing
from mcp_identity.vault.records import Records
from mcp_identity.vault.records.base import Caches, table
from mcp_identity.vault.records.chain import AuditChain

T = TypeVar("T")
Unit = Callable[[Records], T]
SCHEMA_VERSION = 1
WRITER_VERSION = 1
CAPACITY = 1024
MAXIMUM_BATCH = 256
_STATE = table("vault_state")
_READ_STATE = select(_STATE.c.schema_version, _STATE.c.minimum_writer, _STATE.c.configuration_epoch)
log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Job(Generic[T]):
    unit: Unit[T]
    event: AuditEvent | None
    token: EventLoopToken
    done: anyio.Event
    result: T | None = None
    error: BaseException | None = None
    answered: bool = field(default=False)


class _TransactionLost(Exception):
    """The database ended the transaction under a unit."""


def unavailable(why: str) -> VaultUnavailable:
    """What a caller is told when the database fails; the driver's own text may hold anything."""
    return VaultUnavailable(f"the vault cannot be written now ({why}); nothing was released")


def describe(error: BaseException) -> str:
    """A short reason out of a driver's error, without its statement or parameters."""
    origin = getattr(error, "orig", None) or error
    name = getattr(origin, "sqlite_errorname", "") or type(origin).__name__
    return str(name).removeprefix("SQLITE_").lower()


class Writer:
    """The only writer of this process."""

    def __init__(self, engine: Engine, ring: KeyRing, clock: Clock, entropy: Entropy, writer_id: str) -> None:
        """Prepare; `start` begins to take units."""
        self._engine = engine
        self._ring = ring
        self._clock = clock
        self._entropy = entropy
        self._caches = Caches()
        self._chain = AuditChain(writer_id)
        self._jobs: queue.Queue[_Job[Any] | None] = queue.Queue(CAPACITY)
        self._connection: Connection | None = None
        self._thread = threading.Thread(target=self._work, name="vault-writer", daemon=True)
        self._closed = False
        self.ready = False

    def start(self) -> None:
        """Begin to take units."""
        self.ready = True
        self._thread.start()

    def close(self) -> None:
        """Finish what waits and stop; call it off the event loop."""
        self._closed = True
        self._jobs.put(None)
        if self._thread.is_alive():
            self._thread.join()

    async def run(self, unit: Unit[T], event: AuditEvent | None = None) -> T:
        """Run a unit in the next transaction and wait until that is durable.

        Args:
            unit: May run more than once; sees only its `Records`.
            event: What the trail says if the unit is refused or fails; its outcome becomes the error's code.

        Raises:
            RateLimited: If too many units wait already.
            VaultUnavailable: If the database failed; nothing of the unit stands, or COMMIT's outcome is not known.
            AuditUnavailable: If the trail could not be written.
            IdentityError: Whatever the unit raised.
        """
        job: _Job[T] = _Job(unit, event, current_token(), anyio.Event())
        if self._closed:
            raise VaultUnavailable("the vault is closed")
        try:
            self._jobs.put_nowait(job)
        except queue.Full:
            raise RateLimited("the vault has too much to do; try again", retry_after_seconds=1) from None
        await job.done.wait()
        if job.error is not None:
            raise job.error
        return job.result  # type: ignore[return-value]  # set whenever there is no error

    def _work(self) -> None:
        while True:
            first = self._jobs.get()
            jobs = self._take(first)
            try:
                if jobs:
                    self._batch(jobs)
                    self.ready = True
            except Exception as error:
                log.exception("the vault's writer failed and begins anew")
                self.ready = False
                self._disconnect()
                self._fail_all([*jobs, *self._waiting()], unavailable(describe(error)))
            if jobs:
                self._answer(jobs)
            if first is None or (self._closed and self._jobs.empty()):
                self._disconnect()
                self._fail_all(self._waiting(), VaultUnavailable("the vault is closed"))
                return

    def _take(self, first: _Job[Any] | None) -> list[_Job[Any]]:
        jobs = [first] if first else []
        while len(jobs) < MAXIMUM_BATCH:
            try:
                job = self._jobs.get_nowait()
            except queue.Empty:
                break
            if job is None:
                self._closed = True
                break
            jobs.append(job)
        return jobs

    def _waiting(self) -> list[_Job[Any]]:
        jobs: list[_Job[Any]] = []
        with contextlib.suppress(queue.Empty):
            while True:
                job = self._jobs.get_nowait()
                if job is not None:
                    jobs.append(job)
        return jobs

    def _batch(self, jobs: list[_Job[Any]]) -> None:
        self._chain.begin()
        try:
            connection = self._connected()
            with contextlib.closing(_Transaction(connection)) as transaction:
                records = self._records(connection)
                for job in jobs:
                    self._run(job, records, transaction)
                records.move_audit_head()
                transaction.commit()
        except (SQLAlchemyError, _TransactionLost, IdentityError) as error:
            failure = error if isinstance(error, IdentityError) else unavailable(describe(error.__cause__ or error))
            self._caches.providers.clear()
            self._disconnect()
            for job in jobs:
                job.result, job.error = None, failure
            return
        self._chain.commit()

    def _records(self, connection: Connection) -> Records:
        state = connection.execute(_READ_STATE).one()
        if state.schema_version > SCHEMA_VERSION or state.minimum_writer > WRITER_VERSION:
            raise VaultUnavailable("the vault was upgraded by a newer version; restart this process with that version")
        if self._caches.follow(state.configuration_epoch):
            self._ring.forget()
        return Records(connection, self._ring, self._entropy, self._caches, self._chain, self._clock.now())

    def _run(self, job: _Job[Any], records: Records, transaction: _Transaction) -> None:
        before = self._chain.working
        transaction.savepoint()
        try:
            job.result = job.unit(records)
        except Exception as error:  # noqa: BLE001 - whatever a unit raises is its caller's answer
            transaction.require_open(error)
            transaction.rollback_to_savepoint()
            self._chain.working = before
            job.error = self._refused(job, error, records)
        transaction.require_open(None)
        transaction.release_savepoint()

    def _refused(self, job: _Job[Any], error: Exception, records: Records) -> Exception:
        if isinstance(error, KeyNotLoaded):
            return error
        outcome = error
        if isinstance(error, DBAPIError):
            outcome = unavailable(describe(error))
        if job.event is not None:
            code = outcome.code if isinstance(outcome, IdentityError) else IdentityError.code
            try:
                records.append_audit(job.event.ending(code))
            except AuditUnavailable as failed:
                return failed
            if isinstance(outcome, IdentityError):
                outcome.audited = True
        return outcome

    def _connected(self) -> Connection:
        if self._connection is None:
            self._connection = self._engine.connect()
        return self._connection

    def _disconnect(self) -> None:
        if self._connection is not None:
            with contextlib.suppress(SQLAlchemyError):
                self._connection.close()
            self._connection = None

    def _fail_all(self, jobs: list[_Job[Any]], error: IdentityError) -> None:
        for job in jobs:
            job.result, job.error = None, error
        self._answer(jobs)

    def _answer(self, jobs: list[_Job[Any]]) -> None:
        by_loop: dict[EventLoopToken, list[_Job[Any]]] = {}
        for job in jobs:
            if not job.answered:
                job.answered = True
                by_loop.setdefault(job.token, []).append(job)
        for token, answered in by_loop.items():
            with contextlib.suppress(RuntimeError):  # that event loop has ended; nobody waits there any more
                anyio.from_thread.run_sync(_settle, answered, token=token)


def _settle(jobs: list[_Job[Any]]) -> None:
    for job in jobs:
        job.done.set()


class _Transaction:
    """One transaction of the writer, with one savepoint at a time."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._transaction = connection.begin()

    def close(self) -> None:
        """Roll back what was not committed."""
        with contextlib.suppress(SQLAlchemyError):
            self._transaction.close()

    def commit(self) -> None:
        """Make it durable."""
        self._transaction.commit()

    def savepoint(self) -> None:
        """Mark where a unit begins."""
        self._connection.exec_driver_sql("SAVEPOINT unit")

    def rollback_to_savepoint(self) -> None:
        """Undo a unit."""
        self._connection.exec_driver_sql("ROLLBACK TO unit")

    def release_savepoint(self) -> None:
        """Keep a unit."""
        self._connection.exec_driver_sql("RELEASE unit")

    def require_open(self, cause: Exception | None) -> None:
        """Check that the database did not end the transaction by itself.

        Raises:
            _TransactionLost: If it did; units that ran before are gone with it.
        """
        driver: Any = self._connection.connection.driver_connection
        if not driver.in_transaction:
            raise _TransactionLost from cause
