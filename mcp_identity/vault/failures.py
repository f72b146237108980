"""What does a database's error mean: for the caller, and for whoever may try again?

A driver's own text may hold anything, so none of it is told; its code is.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator

from mcp_identity.domain.errors import StorageError, VaultCorrupt, VaultUnavailable

_DAMAGED = ("corrupt", "notadb", "XX001", "XX002")
"""SQLite's names, and PostgreSQL's codes for damaged data and a damaged index."""
_CONFLICTS = frozenset({"40001", "40P01", "23505"})
"""Serialization failure, deadlock, and a row that another transaction made first (PostgreSQL, appendix A)."""

_LOCK_NOT_AVAILABLE = "55P03"
_DISCONNECTED = ("08", "57P01", "57P02", "57P03")
"""Connection exceptions, and what a server says that stops, crashed, or is starting."""


class TransactionLost(Exception):
    """The database ended the transaction under a unit."""


def storage_failure(error: BaseException) -> StorageError:
    """What a caller is told when the database fails."""
    why = describe(error)
    if why.startswith(_DAMAGED):
        return VaultCorrupt(f"the vault's database is damaged ({why}); restore it from a backup")
    failure = VaultUnavailable(f"the vault cannot be used now ({locked_for(error) or why}); nothing was released")
    failure.unwritable = True
    return failure


def locked_for(error: BaseException) -> str:
    """Why others keep every table of PostgreSQL locked for longer than anybody waits; empty for another error."""
    return "it is being copied, or upgraded" if describe(error) == _LOCK_NOT_AVAILABLE else ""


def describe(error: BaseException) -> str:
    """A short reason out of a driver's error, without its statement or parameters."""
    for cause in _causes(error):
        if isinstance(cause, sqlite3.Error) and hasattr(cause, "sqlite_errorname"):
            return cause.sqlite_errorname.removeprefix("SQLITE_").lower()
        state = getattr(cause, "sqlstate", None)
        if isinstance(state, str):
            return state
    return type(error).__name__


def is_conflict(error: BaseException) -> bool:
    """Whether another process's transaction came first, so that the same unit may well pass when it is run again."""
    return any(getattr(cause, "sqlstate", None) in _CONFLICTS for cause in _causes(error))


def is_disconnect(error: BaseException) -> bool:
    """Whether the database's end of the connection is gone: it ended it, is starting or stopping, or the network broke."""
    for cause in _causes(error):
        if type(cause).__module__.startswith("psycopg"):
            state = getattr(cause, "sqlstate", None)
            return (state is None and type(cause).__name__ == "OperationalError") or str(state).startswith(_DISCONNECTED)
    return False


def _causes(error: BaseException) -> Iterator[BaseException]:
    cause: BaseException | None = error
    while cause is not None:
        yield cause
        cause = cause.__cause__
