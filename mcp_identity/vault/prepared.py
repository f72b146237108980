"""How the few statements of the hot path are run: compiled once for each database, then on the driver's own connection.

The statements are Core on the same tables as everywhere. Only what a cached token needs is worth it: compiling, caching and
wrapping rows costs more than the database does.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from sqlalchemy import BigInteger, ClauseElement, Connection, Table, Text, bindparam, insert, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import DBAPIError

from mcp_identity.vault.columns import Blob

_DIALECTS: dict[str, Any] = {
    "sqlite": sqlite.dialect(paramstyle="qmark"),
    "postgresql": postgresql.dialect(paramstyle="format"),
}
_ARRAYS: dict[type[Any], str] = {Text: "text[]", BigInteger: "bigint[]", Blob: "bytea[]"}
_MOST = 256


class Prepared:
    """A statement with named parameters."""

    def __init__(self, statement: ClauseElement) -> None:
        """Keep it; it is compiled on first use."""
        self._statement = statement
        self._compiled: dict[str, tuple[str, tuple[str, ...]]] = {}

    def compiled_for(self, connection: Connection) -> tuple[str, tuple[str, ...]]:
        """The statement's text for this database, and the names of its parameters in their order."""
        name = connection.dialect.name
        found = self._compiled.get(name)
        if found is None:
            compiled: Any = self._statement.compile(dialect=_DIALECTS[name])
            found = self._compiled[name] = (str(compiled), tuple(compiled.positiontup or ()))
        return found

    def run(self, connection: Connection, values: Mapping[str, Any]) -> Any:
        """Run it once; the driver's cursor."""
        text, names = self.compiled_for(connection)
        return _on_driver(connection, text, [values[name] for name in names])


class RowsByDigest:
    """Finds all rows whose column is one of several digests, in one statement."""

    def __init__(self, table: Table, column: str) -> None:
        """Name the table and its column of digests."""
        self.columns = tuple(each.name for each in table.columns)
        self._table, self._column = table, table.c[column]
        self._place = self.columns.index(column)
        self._by_size: dict[int, Prepared] = {}

    def run(self, connection: Connection, digests: Sequence[bytes]) -> dict[bytes, tuple[Any, ...]]:
        """The rows that are there, each as its `columns`, by their digests."""
        found: dict[bytes, tuple[Any, ...]] = {}
        for start in range(0, len(digests), _MOST):
            some = digests[start : start + _MOST]
            size = 1 << (len(some) - 1).bit_length()  # few sizes, so few statements to prepare
            text, _ = self._sized(size).compiled_for(connection)
            padded = [*some, *([some[0]] * (size - len(some)))]
            for row in _on_driver(connection, text, padded).fetchall():
                found[row[self._place]] = row
        return found

    def _sized(self, size: int) -> Prepared:
        if size not in self._by_size:
            wanted = [bindparam(f"digest_{number}", type_=self._column.type) for number in range(size)]
            self._by_size[size] = Prepared(select(self._table).where(self._column.in_(wanted)))
        return self._by_size[size]


class Rows:
    """Adds many rows to a table in one statement."""

    def __init__(self, table: Table) -> None:
        """Name the table."""
        self._columns = tuple(each.name for each in table.columns)
        self._one = Prepared(insert(table).values({name: bindparam(name) for name in self._columns}))
        # PostgreSQL takes a column as an array, so that the statement is the same for any number of rows.
        types = (_ARRAYS[type(each.type)] for each in table.columns)
        arrays = ", ".join(f"%s::{each}" for each in types)
        into = f"{table.name} ({', '.join(self._columns)})"
        self._unnesting = f"INSERT INTO {into} SELECT * FROM unnest({arrays})"  # noqa: S608 - the names are ours
        self._texts: dict[int, str] = {}

    def add(self, connection: Connection, rows: Sequence[Mapping[str, Any]]) -> int:
        """Add the rows; how many the database says it added."""
        if connection.dialect.name == "postgresql":
            columns = [[row[name] for row in rows] for name in self._columns]
            return _on_driver(connection, self._unnesting, columns).rowcount
        added = 0
        text, names = self._one.compiled_for(connection)
        for start in range(0, len(rows), _MOST):
            some = rows[start : start + _MOST]
            added += _on_driver(
                connection, self._several(text, len(some)), [row[name] for row in some for name in names]
            ).rowcount
        return added

    def _several(self, text: str, count: int) -> str:
        if count not in self._texts:
            head, values = re.split(r"(?<= VALUES) ", text, maxsplit=1)
            self._texts[count] = f"{head} {', '.join([values] * count)}"
        return self._texts[count]


def _on_driver(connection: Connection, text: str, values: Iterable[Any]) -> Any:
    driver: Any = connection.connection.driver_connection
    try:
        return driver.execute(text, values)
    except connection.dialect.loaded_dbapi.Error as error:
        raise DBAPIError("a prepared statement", None, error, hide_parameters=True) from error
