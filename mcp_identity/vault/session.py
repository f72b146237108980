"""The transactions of the writer: which units have changed something in it, and how one of them is undone.

A unit that only reads costs the database nothing beyond its reads. The first statement that changes a row marks where its unit
began; where units that change rows may not share a transaction, it ends the attempt instead, and the unit is run again alone.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator
from typing import Any

from sqlalchemy import Connection, ExceptionContext, Transaction, event
from sqlalchemy.exc import SQLAlchemyError

from mcp_identity.vault.failures import TransactionLost
from mcp_identity.vault.stores.store import Store


class NeedsItsOwnTransaction(BaseException):
    """A unit wants to change a row where others share its transaction; no unit may catch it."""


class Session:
    """The writer's connection: one transaction at a time, and in it one unit at a time."""

    def __init__(self, connection: Connection, store: Store) -> None:
        """Watch what units do with a connection.

        Args:
            connection: The writer's own.
            store: What the connection leads to.
        """
        self.connection = connection
        self._store = store
        self._may_change = self._in_unit = self._marked = False
        self._changing: Callable[[], object] = bool
        event.listen(connection, "before_cursor_execute", self._before)
        if not event.contains(connection.engine, "handle_error", _keep_connection):
            event.listen(connection.engine, "handle_error", _keep_connection)

    def close(self) -> None:
        """Let go of the connection."""
        with contextlib.suppress(SQLAlchemyError):
            self.connection.close()

    @contextlib.contextmanager
    def transaction(self, *, shared: bool) -> Generator[Transaction]:
        """Begin one; it is rolled back at the end, unless it was committed.

        Args:
            shared: Whether units of several callers are in it.
        """
        self._may_change = self._store.shares_writes or not shared
        self._in_unit = self._marked = False
        transaction = self.connection.begin()
        try:
            yield transaction
        finally:
            with contextlib.suppress(SQLAlchemyError):
                transaction.close()

    def begin_unit(self, changing: Callable[[], object]) -> None:
        """A unit begins; it has changed nothing yet.

        Args:
            changing: Called before its first change.
        """
        self._in_unit, self._marked, self._changing = True, False, changing

    @property
    def unit_changed(self) -> bool:
        """Whether the unit has changed something, or tried to."""
        return self._marked

    def undo_unit(self) -> None:
        """Undo what the unit changed."""
        if self._marked:
            self._say("ROLLBACK TO SAVEPOINT unit")

    def end_unit(self) -> None:
        """Keep what the unit changed."""
        self._in_unit = False
        if self._marked:
            self._say("RELEASE SAVEPOINT unit")

    def require_open(self, cause: BaseException | None) -> None:
        """Check that the database did not end the transaction by itself.

        Raises:
            TransactionLost: If it did; units that ran before are gone with it.
        """
        if not self._store.is_open(self.connection):
            raise TransactionLost from cause

    def _before(self, _connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        if self._marked or not self._in_unit or statement.startswith("SELECT"):
            return
        if not self._may_change:
            raise NeedsItsOwnTransaction
        self._marked = True
        self._changing()
        self._say("SAVEPOINT unit")

    def _say(self, words: str) -> None:
        driver: Any = self.connection.connection.driver_connection
        driver.execute(words)


def _keep_connection(context: ExceptionContext) -> None:
    """What is no `Exception` makes SQLAlchemy give up the connection; ours says nothing about it."""
    if isinstance(context.original_exception, NeedsItsOwnTransaction):
        context.is_disconnect = False
