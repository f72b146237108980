"""Who may write: one thread per process that runs units of work, many to a transaction.

It takes all units that wait, runs them in one transaction, commits once, and then answers them all. Nobody is answered
before COMMIT returned. Each unit has a savepoint of its own; the audit row of a refused one is written outside it. If
SQLite ended the transaction by itself (a full disk, an I/O error), the whole batch fails and nothing more runs on it.
Whatever else goes wrong fails everybody who waits, at once, and the writer begins anew on a fresh connection.
"""

from __future__ import annotations

import contextlib
import copy
import logging
import queue
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import anyio
import anyio.from_thread
from anyio.lowlevel import EventLoopToken, current_token
from sqlalchemy import Connection, select
from sqlalchemy.exc import SQLAlchemyError

from mcp_identity.domain.audit import AuditEvent
from mcp_identity.domain.clock import Clock, Entropy
from mcp_identity.domain.errors import (
    AuditUnavailable,
    IdentityError,
    RateLimited,
    VaultCorrupt,
    VaultUnavailable,
)
from mcp_identity.vault.failures import TransactionLost, is_conflict, is_disconnect, storage_failure
from mcp_identity.vault.keys import KeyNotLoaded, KeyRing
from mcp_identity.vault.marks import unusable
from mcp_identity.vault.prepared import Prepared
from mcp_identity.vault.records import Records
from mcp_identity.vault.records.base import Caches, table
from mcp_identity.vault.records.chain import AuditChain
from mcp_identity.vault.stores.store import Store
from mcp_identity.vault.transaction import NeedsItsOwnTransaction, Transaction

T = TypeVar("T")
Unit = Callable[[Records], T]
SCHEMA_VERSION = 1
WRITER_VERSION = 1
CAPACITY = 1024
MAXIMUM_BATCH = 256
ATTEMPTS = 5
"""How often a transaction is begun anew because another process's came first."""
_STATE = table("vault_state")
_READ_STATE = Prepared(select(_STATE.c.schema_version, _STATE.c.minimum_writer, _STATE.c.configuration_epoch))
log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Progress:
    """Whether COMMIT was sent, after which nobody can say that nothing stands."""

    is_over: bool = False


@dataclass(slots=True)
class _Job(Generic[T]):
    unit: Unit[T]
    event: AuditEvent | None
    token: EventLoopToken
    done: anyio.Event
    foreseen: bytes
    result: T | None = None
    error: BaseException | None = None


class Writer:
    """The only writer of this process."""

    def __init__(self, store: Store, ring: KeyRing, clock: Clock, entropy: Entropy, writer_id: str) -> None:
        """Prepare; `start` begins to take units."""
        self._store = store
        self._engine = store.writing_engine()
        self._ring = ring
        self._clock = clock
        self._entropy = entropy
        self.caches = Caches()
        self._chain = AuditChain(writer_id)
        self._jobs: queue.Queue[_Job[Any] | None] = queue.Queue(CAPACITY)
        self._connection: Connection | None = None
        self._thread = threading.Thread(target=self._work, name="vault-writer", daemon=True)
        self._gate = threading.Lock()  # between it and `close`, so that no unit is queued behind the last one
        self._closed = False
        self._stopping = False
        self.ready = False

    @property
    def epoch(self) -> int:
        """The configuration epoch that the last batch found."""
        return self.caches.epoch

    def start(self, epoch: int) -> None:
        """Begin to take units.

        Args:
            epoch: The configuration epoch that held before the keys were unwrapped.
        """
        self.caches.epoch = epoch
        self.ready = True
        self._thread.start()

    def close(self) -> None:
        """Finish what waits and stop; call it off the event loop."""
        with self._gate:
            self._closed = True
        if self._thread.is_alive():
            self._jobs.put(None)
            self._thread.join()
        self._engine.dispose()
        self.ready = False

    async def run(self, unit: Unit[T], event: AuditEvent | None = None, foreseen: bytes = b"") -> T:
        """Run a unit in the next transaction and wait until that is durable.

        Args:
            unit: May run more than once; sees only its `Records`.
            event: What the trail says if the unit is refused or fails; its outcome becomes the error's code.
            foreseen: The hash of the grant key that the unit will ask for; read ahead, with those of its neighbours.

        Raises:
            RateLimited: If too many units wait already.
            VaultUnavailable: If the database failed; nothing of the unit stands, or COMMIT's outcome is not known.
            VaultCorrupt: If the database file is damaged.
            AuditUnavailable: If the trail could not be written.
            IdentityError: Whatever the unit raised.
        """
        job: _Job[T] = _Job(unit, event, current_token(), anyio.Event(), foreseen)
        with self._gate:
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
        while not self._stopping:
            jobs = self._take(self._jobs.get(), MAXIMUM_BATCH)
            try:
                if jobs:
                    self._batch(jobs)
                    self.ready = True
            except BaseException as error:  # if the thread ended, everybody would wait for ever
                log.exception("the vault's writer failed and begins anew")
                self.ready = False
                self._disconnect()
                with contextlib.suppress(queue.Empty):
                    jobs += self._take(self._jobs.get_nowait(), CAPACITY)
                self._fail(jobs, storage_failure(error))
            self._answer(jobs)
        self._disconnect()

    def _take(self, first: _Job[Any] | None, most: int) -> list[_Job[Any]]:
        """The first job and those that wait behind it; None marks the end."""
        jobs: list[_Job[Any]] = []
        following = first
        with contextlib.suppress(queue.Empty):
            while following is not None:
                jobs.append(following)
                if len(jobs) == most:
                    return jobs
                following = self._jobs.get_nowait()
            self._stopping = True
        return jobs

    def _batch(self, jobs: list[_Job[Any]]) -> None:
        """Run units in one transaction, and those that are left each in one of its own."""
        for job in self._transact(jobs):
            self._transact([job])

    def _transact(self, jobs: list[_Job[Any]]) -> list[_Job[Any]]:
        """Run units in one transaction, again where another process came first or the connection had gone.

        Returns:
            Those that are left, to be run each by itself.
        """
        for attempt in range(ATTEMPTS):
            before_commit = _Progress()
            try:
                return self._attempt(jobs, before_commit)
            except (SQLAlchemyError, TransactionLost, IdentityError) as error:
                self._disconnect()
                # Units may run again, as long as it is certain that nothing of them stands.
                lost = is_disconnect(error) and attempt == 0 and not before_commit.is_over
                if attempt + 1 < ATTEMPTS and (is_conflict(error) or lost):
                    continue
                if isinstance(error, AuditUnavailable) and len(jobs) > 1:
                    return jobs  # one row that cannot be written is no reason to refuse those who need none
                self._fail(jobs, error if isinstance(error, IdentityError) else storage_failure(error))
                return []
        raise AssertionError  # the last attempt returns

    def _attempt(self, jobs: list[_Job[Any]], progress: _Progress) -> list[_Job[Any]]:
        connection = self._connected()
        with contextlib.closing(Transaction(connection, self._store, shared=len(jobs) > 1)) as transaction:
            records = self._records(connection)
            foreseen = {job.foreseen for job in jobs if job.foreseen}
            if foreseen:
                records.foresee_grants([*foreseen])
            postponed = [job for job in jobs if not self._run(job, records, transaction)]
            try:
                records.write_audit()
            except AuditUnavailable as error:
                transaction.require_open(error)
                raise
            self._chain.in_doubt = progress.is_over = True
            transaction.commit()
            self._chain.commit()
            return postponed

    def _records(self, connection: Connection) -> Records:
        state = _READ_STATE.run(connection, {}).fetchone()
        if state is None:
            raise VaultCorrupt("the vault's state is gone; restore it from a backup")
        schema_version, minimum_writer, epoch = state
        if schema_version > SCHEMA_VERSION or minimum_writer > WRITER_VERSION:
            raise unusable("the vault", minimum_writer)
        if self.caches.follow(epoch):
            self._ring.forget()
        records = Records(connection, self._ring, self._entropy, self.caches, self._chain, self._clock.now())
        if self._chain.in_doubt:
            records.settle_audit_head()
        self._chain.begin()
        return records

    def _run(self, job: _Job[Any], records: Records, transaction: Transaction) -> bool:
        """Run one unit; False if it needs a transaction of its own."""
        before, written = self._chain.working, len(records.trail)
        transaction.begin_unit(records.forget_read)
        job.result = job.error = None
        failure: Exception | None = None
        try:
            job.result = job.unit(records)
        except NeedsItsOwnTransaction:
            del records.trail[written:]
            self._chain.working = before
            return False
        except Exception as error:  # noqa: BLE001 - whatever a unit raises is its caller's answer
            failure = error
        if failure is not None or transaction.unit_changed:
            transaction.require_open(failure)
        if failure is not None:
            transaction.undo_unit()
            del records.trail[written:]
            self._chain.working = before
            if transaction.unit_changed:
                self.caches.clear()  # the unit may have decoded what it had just written
            job.error = self._refused(job, failure, records)
        transaction.end_unit()
        return True

    def _refused(self, job: _Job[Any], error: Exception, records: Records) -> Exception:
        if isinstance(error, KeyNotLoaded):
            return error
        outcome = storage_failure(error) if isinstance(error, SQLAlchemyError) else error
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
        self.caches.clear()  # they may have been read out of a transaction that does not stand
        if self._connection is not None:
            with contextlib.suppress(SQLAlchemyError):
                self._connection.close()
            self._connection = None

    def _fail(self, jobs: list[_Job[Any]], error: IdentityError) -> None:
        for job in jobs:
            # To each its own: whoever handles an error notes on it that the trail has it.
            job.result, job.error = None, copy.copy(error)

    def _answer(self, jobs: list[_Job[Any]]) -> None:
        by_loop: dict[EventLoopToken, list[_Job[Any]]] = {}
        for job in jobs:
            by_loop.setdefault(job.token, []).append(job)
        for token, answered in by_loop.items():
            with contextlib.suppress(RuntimeError):  # that event loop has ended; nobody waits there any more
                anyio.from_thread.run_sync(_settle, answered, token=token)


def _settle(jobs: list[_Job[Any]]) -> None:
    for job in jobs:
        job.done.set()
