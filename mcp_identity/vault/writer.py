"""Who may write: one thread per process that runs units of work, many to a transaction.

It takes all units that wait, runs them in one transaction, commits once, and then answers them all. Nobody is answered
before COMMIT returned. Each unit has a savepoint of its own; the audit row of a refused one is written outside it. If
SQLite ended the transaction by itself (a full disk, an I/O error), the whole batch fails and nothing more runs on it.
Whatever else goes wrong fails everybody who waits, at once, and the writer begins anew on a fresh connection.
"""

from __future__ import annotations

import copy
import logging
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from sqlalchemy import Connection, select
from sqlalchemy.exc import SQLAlchemyError

from mcp_identity.domain.audit import AuditEvent
from mcp_identity.domain.clock import Clock, Entropy
from mcp_identity.domain.errors import (
    AuditUnavailable,
    IdentityError,
    VaultCorrupt,
)
from mcp_identity.domain.standing import Outdated, Standing
from mcp_identity.vault.failures import TransactionLost, is_conflict, is_disconnect, storage_failure
from mcp_identity.vault.keys import KeyNotLoaded, KeyRing
from mcp_identity.vault.marks import unusable
from mcp_identity.vault.prepared import Prepared
from mcp_identity.vault.records import Records
from mcp_identity.vault.records.base import Caches, table
from mcp_identity.vault.records.chain import AuditChain
from mcp_identity.vault.session import NeedsItsOwnTransaction, Session
from mcp_identity.vault.stores.store import Store
from mcp_identity.vault.waiting import Group, Job, WaitingRoom, answer, set_apart

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

    is_commit_sent: bool = False


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
        self._room = WaitingRoom(CAPACITY)
        self._session: Session | None = None
        self._thread = threading.Thread(target=self._work, name="vault-writer", daemon=True)
        self.ready = False
        self.looked_at = float("-inf")

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
        self._room.close()
        if self._thread.is_alive():
            self._thread.join()
        self._engine.dispose()
        self.ready = False

    async def run(
        self,
        unit: Unit[T],
        event: AuditEvent | None = None,
        foreseen: bytes = b"",
        remembered: Standing | None = None,
    ) -> T:
        """Run a unit in the next transaction and wait until that is durable.

        Args:
            unit: May run more than once; sees only its `Records`.
            event: What the trail says if the unit is refused or fails; its outcome becomes the error's code.
            foreseen: The hash of the grant key that the unit will ask for; read ahead, with those of its neighbours.
            remembered: Its caller, if nothing has confirmed them since they were remembered.

        Raises:
            Outdated: If the caller was remembered from another configuration; the unit was not run.
            RateLimited: If too many units wait already.
            VaultUnavailable: If the database failed; nothing of the unit stands, or COMMIT's outcome is not known.
            VaultCorrupt: If the database file is damaged.
            AuditUnavailable: If the trail could not be written.
            IdentityError: Whatever the unit raised.
        """
        job: Job[T] = Job(unit, event, foreseen, remembered)
        await self._room.wait(job)
        if job.error is not None:
            raise job.error
        return job.result  # type: ignore[return-value]  # set whenever there is no error

    def _work(self) -> None:
        apart: deque[Group] = deque()  # units that need a transaction each; others do not wait for all of them
        while True:
            groups = self._room.take_now() if apart else self._room.take()
            if groups is None:
                break
            jobs, left = [job for group in groups for job in group.jobs], list[Job[Any]]()
            try:
                while jobs:
                    left += self._transact(jobs[:MAXIMUM_BATCH])
                    del jobs[:MAXIMUM_BATCH]
                apart += set_apart(groups, left)
                left = []
                answer(groups)
                groups = [apart.popleft()] if apart else []
                jobs = [job for group in groups for job in group.jobs]
                if jobs:
                    self._transact(jobs)
                    jobs = []
            except BaseException as error:  # if the thread ended, everybody would wait for ever
                log.exception("the vault's writer failed and begins anew")
                self.ready = False
                self._disconnect()
                late = [*apart, *self._room.take_now()]
                apart.clear()
                groups += late
                self._fail([*jobs, *left, *(job for group in late for job in group.jobs)], storage_failure(error))
            answer(groups)
        self._disconnect()

    def _transact(self, jobs: list[Job[Any]]) -> list[Job[Any]]:
        """Run units in one transaction, again where another process came first or the connection had gone.

        Returns:
            Those that are left, to be run each by itself.
        """
        for attempt in range(ATTEMPTS):
            progress = _Progress()
            try:
                return self._attempt(jobs, progress)
            except (SQLAlchemyError, TransactionLost, IdentityError) as error:
                self._disconnect()
                # Units may run again, as long as it is certain that nothing of them stands.
                lost = is_disconnect(error) and attempt == 0 and not progress.is_commit_sent
                if attempt + 1 < ATTEMPTS and (is_conflict(error) or lost):
                    continue
                if len(jobs) > 1 and self._is_of_one(error):
                    return jobs  # a row or a statement that cannot be is no reason to refuse those who have none like it
                self._fail(jobs, error if isinstance(error, IdentityError) else storage_failure(error))
                return []
        raise AssertionError  # the last attempt returns

    def _is_of_one(self, error: Exception) -> bool:
        """Whether one unit may have ended the transaction of all."""
        lost = isinstance(error, TransactionLost) and not self._store.shares_writes and not is_disconnect(error)
        return lost or isinstance(error, AuditUnavailable)

    def _attempt(self, jobs: list[Job[Any]], progress: _Progress) -> list[Job[Any]]:
        session = self._connected()
        with session.transaction(shared=len(jobs) > 1) as transaction:
            records = self._records(session.connection)
            foreseen = {job.foreseen for job in jobs if job.foreseen}
            if foreseen:
                records.foresee_grants([*foreseen])
            postponed = [job for job in jobs if not self._run(job, records, session)]
            try:
                records.write_audit()
            except AuditUnavailable as error:
                session.require_open(error)
                raise
            self._chain.in_doubt = progress.is_commit_sent = True
            transaction.commit()
            self._chain.commit()
            self.ready = True
            return postponed

    def _records(self, connection: Connection) -> Records:
        state = _READ_STATE.run(connection, {}).fetchone()
        if state is None:
            raise VaultCorrupt("the vault's state is gone; restore it from a backup")
        schema_version, minimum_writer, epoch = state
        if schema_version > SCHEMA_VERSION or minimum_writer > WRITER_VERSION:
            raise unusable("the vault", minimum_writer)
        self.looked_at = self._clock.monotonic()
        self.caches.follow(epoch)
        self._ring.follow(epoch)
        clock = self._clock
        records = Records(connection, self._ring, self._entropy, self.caches, self._chain, clock.now(), clock)
        if self._chain.in_doubt:
            records.settle_audit_head()
        self._chain.begin()
        return records

    def _run(self, job: Job[Any], records: Records, session: Session) -> bool:
        """Run one unit; False if it needs a transaction of its own."""
        before, written = self._chain.working, len(records.trail)
        job.result = job.error = None
        if job.remembered is not None:
            if job.remembered.epoch != self.caches.epoch or self.caches.is_outdated:  # a unit of this very batch may raise it
                job.error = Outdated()
                return True
            job.remembered.is_confirmed = True
        session.begin_unit(records.forget_read)
        failure: Exception | None = None
        try:
            job.result = job.unit(records)
        except NeedsItsOwnTransaction:
            session.end_unit()  # or what the batch itself writes would be taken for the unit's
            del records.trail[written:]
            self._chain.working = before
            return False
        except Exception as error:  # noqa: BLE001 - whatever a unit raises is its caller's answer
            failure = error
        if failure is not None or session.unit_changed:
            session.require_open(failure)
        if failure is not None:
            session.undo_unit()
            del records.trail[written:]
            self._chain.working = before
            if session.unit_changed:
                self.caches.clear()  # the unit may have decoded what it had just written
            job.error = self._refused(job, failure, records)
        session.end_unit()
        return True

    def _refused(self, job: Job[Any], error: Exception, records: Records) -> Exception:
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

    def _connected(self) -> Session:
        if self._session is None:
            self._session = Session(self._engine.connect(), self._store)
        return self._session

    def _disconnect(self) -> None:
        self.caches.clear()  # they may have been read out of a transaction that does not stand
        if self._session is not None:
            self._session.close()
            self._session = None

    def _fail(self, jobs: list[Job[Any]], error: IdentityError) -> None:
        for job in jobs:
            # To each its own: whoever handles an error notes on it that the trail has it.
            job.result, job.error = None, copy.copy(error)
