"""Which vault is in a database, of which schema, how large, with how many rows? Answered without its key, changing nothing."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import Connection

from mcp_identity.vault.marks import FILLING
from mcp_identity.vault.moving.reading import said, snapshot
from mcp_identity.vault.moving.state import CARRIED, State, count_rows, read_state
from mcp_identity.vault.opening import VaultLocation
from mcp_identity.vault.writer import SCHEMA_VERSION, WRITER_VERSION


@dataclass(frozen=True, slots=True)
class Overview:
    """What there is.

    Attributes:
        database: What people call it; no password is in it.
        kind: ``sqlite`` or ``postgresql``.
        state: What the vault says of itself.
        condition: ``ready``, ``being filled``, ``older schema`` or ``newer version``.
        bytes: What it takes up.
        rows: By table; empty where the schema is not ours.
    """

    database: str
    kind: str
    state: State
    condition: str
    bytes: int
    rows: dict[str, int]


def look_at(location: VaultLocation) -> Overview | None:
    """Look at the vault of a location; None where there is none.

    Raises:
        ConfigurationError: If others can get at it.
        VaultUnavailable: If it cannot be read now.
        VaultCorrupt: If it is no vault.
    """
    site = location.site()
    with said():
        site.check_surroundings()
        if not site.has_vault():
            return None
        for _ in site.states():  # changes nothing, and refuses what is no vault
            continue
        with snapshot(site.bare()) as connection:
            state = read_state(connection)
            rows = count_rows(connection) if state.schema_version == SCHEMA_VERSION else {}
            return Overview(site.name, connection.dialect.name, state, _condition(state), _size(connection, location), rows)


def _condition(state: State) -> str:
    if state.minimum_writer == FILLING:
        return "being filled"
    if state.schema_version > SCHEMA_VERSION or state.minimum_writer > WRITER_VERSION:
        return "newer version"
    return "ready" if state.schema_version == SCHEMA_VERSION else "older schema"


def _size(connection: Connection, location: VaultLocation) -> int:
    if connection.dialect.name == "sqlite":
        names = (location.database.with_name(location.database.name + suffix) for suffix in ("", "-wal"))
        return sum(path.stat().st_size for path in names if path.exists())
    tables = ", ".join(f"('{each.name}')" for each in CARRIED)
    query = f"SELECT sum(pg_catalog.pg_total_relation_size(name::regclass)) FROM (VALUES {tables}) AS ours (name)"  # noqa: S608
    return int(connection.exec_driver_sql(query).scalar_one())
