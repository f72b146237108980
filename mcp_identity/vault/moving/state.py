"""What does a database say of the vault in it, before any key is asked: whose it is, which schema, and whether it is whole?

While a copy or a backup is put into a database, its vault is marked as being filled, and nobody opens it; see `marks.py`.
"""

from __future__ import annotations

from dataclasses import astuple, dataclass, replace
from typing import Any

from sqlalchemy import Connection, func, insert, select, update

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


def require_ours(name: str, schema_version: int, minimum_writer: int) -> None:
    """Refuse a vault that this version cannot carry.

    Raises:
        VaultUnavailable: If it is being filled, or of another schema.
    """
    if schema_version > SCHEMA_VERSION or minimum_writer > WRITER_VERSION:
        raise unusable(name, minimum_writer)
    if schema_version < SCHEMA_VERSION:
        raise VaultUnavailable(f"{name} has an older schema; upgrade it first: mcp-identity vault migrate", retryable=False)


_COLUMNS = tuple(State.__dataclass_fields__)


def read_state(connection: Connection) -> State:
    """What the database says of the vault in it.

    Raises:
        VaultCorrupt: If it says nothing, or something else.
    """
    rows = connection.execute(select(_STATE)).mappings().all()
    if len(rows) != 1:
        raise VaultCorrupt("the database holds no vault; restore it from a backup")
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
