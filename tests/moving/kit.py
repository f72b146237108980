"""What do the tests of moving put into a vault, where do they move it, and how do they look at every row behind its back?"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

from sqlalchemy import insert, select

from mcp_identity.app import moving
from mcp_identity.domain.identity import DEFAULT_TENANT
from mcp_identity.settings import Settings
from mcp_identity.vault.columns import metadata
from mcp_identity.vault.moving.cells import Contents
from mcp_identity.vault.opening import VaultLocation
from mcp_identity.vault.records import Records
from mcp_identity.vault.records.registry import UNWRITTEN
from mcp_identity.vault.vault import Vault, open_vault
from tests.fakes.clock import FakeClock, SystemEntropy
from tests.fakes.postgres import Database, postgres
from tests.vault.kit import EVENT, grant_key, token_set
from tests.vault.test_registry import fill

PASSWORD_VARIABLE = "MOVING_TESTS_PASSWORD"
DATABASES = ("sqlite", "postgresql")
EITHER = DATABASES if os.environ.get("PROVE") else ("sqlite",)
"""Where one database shows what both would, since what decides does not know which it is."""
TRAIL = {"audit_events", "audit_heads", "audit_writers"}
"""What the commands themselves write to."""
_numbers = count(1)


def everything(records: Records) -> None:
    """Rows in every table, those that nothing writes yet included."""
    fill(records)
    agent = records.find_workload(DEFAULT_TENANT, "agent")
    assert agent is not None
    records.complete_grant(grant_key(agent, None), token_set("m2m", refresh_token=None), "client")
    for name in sorted(UNWRITTEN):
        table = metadata.tables[name]
        row = {column.name: _value(name, column.name, column.type.python_type) for column in table.columns}
        records.connection.execute(insert(table), row | {"tenant_id": DEFAULT_TENANT})
    for number in range(3):
        records.append_audit(EVENT.ending("ok", number=str(number)))


def _value(table: str, column: str, kind: type[Any]) -> Any:
    text = f"{table}.{column}: ünïcödé"
    return {str: text, int: len(text), bytes: bytes(range(256)) + text.encode()}[kind]


def nobody(_total: int) -> moving.Progress:
    """Nobody looks on."""
    return lambda _step, _table, _rows: None


@dataclass
class Watching:
    """Looks on, and does something at one moment."""

    step: str
    act: Callable[[], object]
    table: str = ""
    seen: list[tuple[str, str, int]] = field(default_factory=list[tuple[str, str, int]])

    def __call__(self, _total: int) -> moving.Progress:
        def advance(step: str, table: str, rows: int) -> None:
            first = not any(each[0] == self.step and self.table in ("", each[1]) for each in self.seen)
            self.seen.append((step, table, rows))
            if first and step == self.step and self.table in ("", table):
                self.act()

        return advance


@dataclass(frozen=True, slots=True)
class Somewhere:
    """A vault's key and its database, and what else there is of them in one test.

    Attributes:
        home: Where the key is, and the vault that is a file.
        url: Where the vault is; empty for the file in `home`.
    """

    home: Path
    url: str = ""

    @property
    def settings(self) -> Settings:
        """The settings of a process on it."""
        return Settings(home=self.home, database_url=self.url)

    def at(self, url: str) -> Somewhere:
        """The same key with another database."""
        return Somewhere(self.home, url)

    def location(self, wait_seconds: float = 0.3) -> VaultLocation:
        """Where it is, for a process that waits for nobody."""
        from dataclasses import replace

        from mcp_identity.app import vault_location

        return replace(vault_location(self.settings), wait_seconds=wait_seconds)

    def open(self) -> Vault:
        """Open it as a server does."""
        return open_vault(self.location(), FakeClock(), SystemEntropy())

    def rows(self) -> dict[str, list[tuple[Any, ...]]]:
        """Every row of every table, as it stands in the database."""
        engine = self.location().site().bare().carrying_engine()
        try:
            with engine.connect() as connection:
                return {
                    name: sorted((tuple(row) for row in connection.execute(select(table)).all()), key=repr)
                    for name, table in metadata.tables.items()
                }
        finally:
            engine.dispose()

    def edit(self, statement: str) -> None:
        """Change it behind the product's back."""
        location = self.location()
        if location.postgres is None:
            with closing(sqlite3.connect(location.database, isolation_level=None)) as connection:
                connection.execute("PRAGMA foreign_keys=OFF")
                connection.execute(statement)
        else:
            database_of(self.url).execute(statement)

    def trail(self) -> list[tuple[str, str, str]]:
        """What its trail says of whole vaults: the action, its outcome and its details."""
        events = metadata.tables["audit_events"]
        names = [column.name for column in events.columns]
        rows = [dict(zip(names, row, strict=True)) for row in self.rows()["audit_events"]]
        rows.sort(key=lambda row: (row["at"], row["id"]))
        return [(row["action"], row["outcome"], row["detail"]) for row in rows if row["action"].endswith("_vault")]


def without_trail(rows: dict[str, list[tuple[Any, ...]]]) -> dict[str, list[tuple[Any, ...]]]:
    """The rows that no command on whole vaults writes."""
    return {name: found for name, found in rows.items() if name not in TRAIL}


def rows_of(contents: Contents) -> int:
    """How many rows in all."""
    return sum(contents.rows.values())


def new_postgres() -> str:
    """The URL of an empty database."""
    database = postgres().create_database()
    return url_of(database)


def url_of(database: Database) -> str:
    """A URL that says where its password is: in a variable that stays, as the server does."""
    os.environ[PASSWORD_VARIABLE] = postgres().password
    return f"{database.url_without_password}?password_from=env:{PASSWORD_VARIABLE}"


def database_of(url: str) -> Database:
    """The database of such a URL."""
    return Database(postgres(), url.partition("?")[0].rpartition("/")[2])


def new_database(kind: str, folder: Path) -> str:
    """The URL of a database in which nothing is."""
    if kind == "postgresql":
        return new_postgres()
    return f"sqlite:///{folder / f'place-{next(_numbers)}' / 'vault.db'}"
