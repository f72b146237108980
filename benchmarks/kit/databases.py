"""On which databases is measured? A SQLite file each time, and a PostgreSQL server of this benchmark's own.

The PostgreSQL server is the one of the tests: out of a wheel, over TCP, and durable as an operator's is.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

from kit import ROOT  # pyright: ignore[reportUnusedImport]  # noqa: F401 - first: it makes the fakes importable
from tests.fakes.postgres import Database, PostgresServer

DatabaseKind = Literal["sqlite", "postgresql"]
KINDS: tuple[DatabaseKind, ...] = ("sqlite", "postgresql")


@dataclass(frozen=True, slots=True)
class Databases:
    """Makes empty databases.

    Attributes:
        server: A PostgreSQL server that runs; None where none was wanted.
    """

    server: PostgresServer | None

    def url(self, kind: DatabaseKind) -> str:
        """An empty database of a kind; empty for SQLite, whose file the vault makes in its own folder.

        Raises:
            RuntimeError: If there is no server of this kind.
        """
        if kind == "sqlite":
            return ""
        if self.server is None:
            raise RuntimeError("no PostgreSQL server was asked for")
        return self.server.create_database().url

    def execute(self, url: str, query: str) -> list[tuple[Any, ...]]:
        """Ask a PostgreSQL database of this server, as its superuser.

        Raises:
            RuntimeError: If there is no server.
        """
        if self.server is None:
            raise RuntimeError("no PostgreSQL server was asked for")
        return Database(self.server, url.rpartition("/")[2]).execute(query)

    @property
    def version(self) -> str:
        """Of PostgreSQL; empty where there is none."""
        if self.server is None:
            return ""
        with self.server.connect("postgres") as connection:
            found = connection.execute("SHOW server_version").fetchone()
        return str(found[0]).split()[0] if found else ""


@contextmanager
def databases(*kinds: DatabaseKind) -> Generator[Databases]:
    """Have databases of these kinds while the block lasts."""
    if "postgresql" not in kinds:
        yield Databases(None)
        return
    server = PostgresServer()
    try:
        yield Databases(server)
    finally:
        server.remove()
