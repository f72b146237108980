"""How does a vault move to another database: SQLite to PostgreSQL, back, or to another file?

Every row goes as it is: ids, generations, MACs and sealed cells are not touched, the vault's id and its keys stay, and the
key-encryption key is the same. While it lasts nobody writes to the source. Everything that was carried is then read again
from both sides and must come to the same digests; only then the target may be opened. Leases go along, and end by watching.

Each step is a function of its own, and each may be the last one that a killed process ran: the same command goes on.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass

from sqlalchemy import Connection
from sqlalchemy.exc import SQLAlchemyError

from mcp_identity.domain.audit import AuditEvent
from mcp_identity.domain.errors import Conflict, VaultCorrupt, VaultUnavailable
from mcp_identity.vault.failures import describe
from mcp_identity.vault.keys import VAULT, KeyRing
from mcp_identity.vault.marks import FILLING
from mcp_identity.vault.moving.cells import Contents
from mcp_identity.vault.moving.filling import fill, finish_filling, remove_strangers
from mcp_identity.vault.moving.inspecting import Findings, Inspection
from mcp_identity.vault.moving.reading import Progress, VaultRows, digest_key, read_contents, read_rows, said, snapshot
from mcp_identity.vault.moving.state import CARRIED, State, count_rows, read_state, require_ours
from mcp_identity.vault.moving.target import Target
from mcp_identity.vault.moving.trail import Seams, write_down
from mcp_identity.vault.opening import OpenedVault
from mcp_identity.vault.records.keys import read_wrapped_keys
from mcp_identity.vault.stores.store import Store


@dataclass(frozen=True, slots=True)
class CopyReport:
    """What came of a copy.

    Attributes:
        vault_id: The vault's, in both.
        contents: What both hold, by table.
        findings: What was found in the target.
        written: Rows that this run wrote.
        resumed: An earlier attempt had begun.
        was_complete: The target was a finished copy before; nothing was changed.
    """

    vault_id: str
    contents: Contents
    findings: Findings
    written: int = 0
    resumed: bool = False
    was_complete: bool = False


def interrupted(error: Exception) -> VaultUnavailable:
    """What is said of a failure in the middle: what was begun can be gone on with."""
    why = getattr(error, "strerror", None) or describe(error)
    return VaultUnavailable(f"it could not be finished ({why}); nothing opens what is there: run the same command again")


def load_vault_key(opened: OpenedVault) -> None:
    """Unwrap the vault's own key, which the trail and the digests need.

    Raises:
        VaultUnavailable: If the database cannot be read now.
        VaultCorrupt: If the key was changed outside the product.
    """
    with said(), snapshot(opened.store) as connection:
        keys = read_wrapped_keys(connection, VAULT)
    opened.ring.load(VAULT, keys)


def count_source(opened: OpenedVault) -> Mapping[str, int]:
    """How much there is to carry, by table; others may still be writing."""
    with said(), snapshot(opened.store) as connection:
        return count_rows(connection)


def copy_vault(opened: OpenedVault, target: Target, event: AuditEvent, seams: Seams, progress: Progress) -> CopyReport:
    """Copy a vault, verify the copy, and let it be opened.

    Args:
        opened: The source, opened as any process opens it; let go of at the end.
        target: An empty database, or one that an earlier attempt began to fill.
        event: What the trail of both says.
        seams: Time and randomness.
        progress: Told as it goes on.

    Raises:
        Conflict: If the target holds another vault, or a finished one that is not the same as the source.
        VaultUnavailable: If one of them cannot be used now, somebody else has the source open, or a schema is not ours.
        VaultCorrupt: If a row cannot be carried, or the copy is not the same as the source.
    """
    try:
        load_vault_key(opened)
        write_down(opened.store, opened.ring, seams, event.ending("ok", to=target.name))
        with opened.store.standing_still(), snapshot(opened.store) as connection:
            return _copy(opened, connection, target, event, seams, progress)
    except (SQLAlchemyError, sqlite3.Error, OSError) as error:
        raise interrupted(error) from None
    finally:
        opened.store.release()


def _copy(
    opened: OpenedVault, source: Connection, target: Target, event: AuditEvent, seams: Seams, progress: Progress
) -> CopyReport:
    state = require_state(source, opened.store.name)
    if (finished := _finished(opened, source, target, state, progress)) is not None:
        return finished
    resumed = target.begin(state)
    with target.alone(state) as store:
        written = carry(VaultRows(source), store, progress, resumed=resumed)
        contents, findings = verify_copy(source, store, opened.ring, seams, progress)
        open_to_others(store, opened.ring, state, event.ending("ok", source=opened.store.name), seams)
    return CopyReport(state.vault_id, contents, findings, written, resumed=resumed)


def carry(rows: VaultRows, store: Store, progress: Progress, *, resumed: bool) -> int:
    """Put every row into the target; how many were not there."""
    engine = store.writing_engine()
    try:
        with engine.connect() as connection:
            if resumed:
                remove_strangers(connection, rows.missing)
            return fill(connection, rows, progress)
    finally:
        engine.dispose()


def require_state(connection: Connection, name: str) -> State:
    """The state of a vault that this version can carry.

    Raises:
        VaultUnavailable: If it is of another schema, or being filled itself.
    """
    state = read_state(connection)
    require_ours(name, state.schema_version, state.minimum_writer)
    return state


def _finished(opened: OpenedVault, source: Connection, target: Target, state: State, progress: Progress) -> CopyReport | None:
    """The report of a copy that an earlier attempt had finished, if it is one and nobody has used it since."""
    standing = target.standing()
    if standing is None or standing.vault_id != state.vault_id or standing.minimum_writer == FILLING:
        return None
    require_ours(target.name, standing.schema_version, standing.minimum_writer)
    with snapshot(target.store) as copy:
        key = digest_key(opened.ring)
        mine, theirs = (read_contents(each, key, progress, "compared") for each in (source, copy))
        if set(mine.differing(theirs)) - _TRAIL or _was_used(source, copy):
            raise Conflict(
                f"{target.name} holds a finished copy of this vault, and one of the two was used since; both are left as they "
                "are. To copy again, name an empty database"
            )
        return CopyReport(state.vault_id, theirs, Findings(), was_complete=True)


def _was_used(source: Connection, copy: Connection) -> bool:
    """Whether the trail of the source says more than that of the copy, other than that it was to be copied."""
    events = next(each for each in CARRIED if each.name == "audit_events")
    there = VaultRows(copy)
    for rows in read_rows(source, events):
        since = {row.id: row.action for row in rows if row.action != COPY}
        if since and there.missing(events, list(since)):
            return True
    return False


COPY = "copy_vault"
"""What the trail calls it."""
_TRAIL = {"audit_events", "audit_heads", "audit_writers"}
"""The tables that the copying itself writes to, in both."""


def verify_copy(source: Connection, store: Store, ring: KeyRing, seams: Seams, progress: Progress) -> tuple[Contents, Findings]:
    """Read every row of both again, compare what they come to, and open everything in the copy.

    Raises:
        VaultCorrupt: If they are not the same; the target stays marked.
    """
    key = digest_key(ring)
    with snapshot(store) as copy:
        mine, theirs = (read_contents(each, key, progress, "compared") for each in (source, copy))
        if differing := mine.differing(theirs):
            raise VaultCorrupt(f"the copy is not the same as the vault in {', '.join(differing)}; run the same command again")
        return theirs, Inspection(copy, ring, seams).inspect(progress)


def open_to_others(store: Store, ring: KeyRing, state: State, event: AuditEvent, seams: Seams) -> None:
    """Take the mark away, and write into the copy's trail where it came from."""
    write_down(
        store,
        ring,
        seams,
        event,
        lambda records: finish_filling(records.connection, state),
        unmarked=False,
    )
