"""What does a database say of the vault in it, before any key is asked: whose it is, which schema, and whether it is whole?

While a copy or a backup is put into a database, its vault is marked as being filled, and nobody opens it; see `marks.py`.
"""

from __future__ import annotations

from dataclasses import astuple, dataclass, replace
from typing import Any

from sqlalchemy import Connection, func, insert, inspect, select, update

from mcp_identity.domain.errors import VaultCorrupt, VaultUnavailable
from mcp_identity.vault.columns import metadata
from mcp_identity.vault.marks import FILLING, unusable
from mcp_identity.vault.records.base import intact, table
from mcp_identity.vault.writer import SCHEMA_VERSION, WRITER_VERSION

_STATE = table("vault_state")
CARRIED = tuple(each for each in metadata.sorted_tables if each.name != _STATE.name)
"""The tables whose rows are carried, those that others refer to first; the state itself is put in last."""


@dataclass(frozen=True, slots=True)
class State:
    """The one row of `vault_state`."""

    vault_id: str
    schema_version: int
    minimum_writer: int
    configuration_epoch: int
    key_id: str
    key_check: bytes
    created_at: int

    @property
    def is_being_filled(self) -> bool:
        """Whether a copy or a restore is not finished."""
        return self.minimum_writer == FILLING

    def require_ours(self, name: str) -> None:
        """Refuse a vault that this version cannot carry.

        Raises:
            VaultUnavailable: If it is being filled, or of another schema.
        """
        if self.schema_version > SCHEMA_VERSION or self.minimum_writer > WRITER_VERSION:
            raise unusable(name, self.minimum_writer)
        if self.schema_version < SCHEMA_VERSION:
            raise VaultUnavailable(f"{name} has an older schema; upgrade it first: mcp-identity vault migrate", retryable=False)


_COLUMNS = tuple(State.__dataclass_fields__)


def read_state(connection: Connection) -> State | None:
    """What the database says; None where there is no vault.

    Raises:
        VaultCorrupt: If there is something else of our names.
    """
    names = set(inspect(connection).get_table_names())
    if _STATE.name not in names:
        if names & metadata.tables.keys():
            raise VaultCorrupt("the database holds tables of our names, but no vault; name an empty one")
        return None
    rows = connection.execute(select(_STATE)).mappings().all()
    if len(rows) != 1:
        raise VaultCorrupt("the database holds the tables of a vault, but no vault; name an empty one")
    row = intact(_STATE.name, rows[0])
    return State(*(row[name] for name in _COLUMNS))


def insert_state(connection: Connection, state: State) -> None:
    """Put the row in, marked as being filled."""
    connection.execute(insert(_STATE), {"id": 1, **_values(replace(state, minimum_writer=FILLING))})


def replace_state(connection: Connection, state: State) -> None:
    """Put what stands in place of the mark."""
    connection.execute(update(_STATE).where(_STATE.c.id == 1).values(_values(state)))


def count_rows(connection: Connection) -> dict[str, int]:
    """How many rows each table has that is carried."""
    return {each.name: connection.execute(select(func.count()).select_from(each)).scalar_one() for each in CARRIED}


def _values(state: State) -> dict[str, Any]:
    return dict(zip(_COLUMNS, astuple(state), strict=True))
