"""How every record comes under its tenant's newest key, while everybody goes on reading and writing.

A page of rows is read and sealed anew beside the writer; the writer then only puts each new cell where the old one still is.
A row that changed meanwhile keeps what it was changed to, which is under the newest key already. No generation changes, so
nobody who refreshes, consents or revokes at the same time notices. Nothing has to be remembered for a run that is stopped:
what is left to do is what is not under the newest key.

A row that does not stand is left as it is, and counted: sealing it anew would vouch for it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from sqlalchemy import ColumnElement, Table, bindparam, func, or_, select, update

from mcp_identity.domain.errors import VaultCorrupt, VaultUnavailable
from mcp_identity.vault.columns import Blob
from mcp_identity.vault.envelope import KEY_ID_BYTES
from mcp_identity.vault.records import Records
from mcp_identity.vault.records.base import intact, table
from mcp_identity.vault.records.protected import Protected
from mcp_identity.vault.records.registry import PROTECTED

if TYPE_CHECKING:
    from mcp_identity.vault.vault import Vault

ATTEMPTS = 3
"""How often a page is written that others have locked."""
PASSES = 4
"""How often all rows are gone through: a replica that was slow to follow may write under the old key for a moment."""
Advance = Callable[[str, int], object]
"""Told a table, and how many of its rows are done."""


@dataclass(frozen=True, slots=True)
class Rewrapped:
    """What became of a tenant's records.

    Attributes:
        moved: Rows that came under the newest key.
        unreadable: Rows that do not stand, by table; they are as they were.
        left: Other rows that are not under the newest key; run it again.
    """

    moved: int = 0
    unreadable: Mapping[str, int] = field(default_factory=dict[str, int])
    left: int = 0


@dataclass(frozen=True, slots=True)
class _Change:
    row_id: str
    before: Mapping[str, bytes | None]
    after: Mapping[str, bytes]


@dataclass(frozen=True, slots=True)
class _Page:
    changes: tuple[_Change, ...]
    unreadable: int
    last: str


def count_by_key(records: Records, tenant: str) -> dict[bytes, int]:
    """How many rows of a tenant are still under each of its keys; a row that is under two counts for both."""
    found = Counter[bytes]()
    for protected in PROTECTED.values():
        source = table(protected.table)
        ids = [_key_id(source, name).label(f"key_{number}") for number, name in enumerate(protected.columns)]
        query = select(func.count(), *ids).where(source.c[protected.tenant_column] == tenant).group_by(*ids)
        for row in records.connection.execute(query).all():
            count, *keys = tuple[Any, ...](row)
            for key_id in {key for key in keys if isinstance(key, bytes) and len(key) == KEY_ID_BYTES}:
                found[key_id] += count
    return dict(found)


def count_left(records: Records, tenant: str) -> int:
    """How many rows of a tenant are not wholly under its newest key."""
    newest, left = records.ring.current(tenant).id, 0
    for protected in PROTECTED.values():
        source = table(protected.table)
        query = select(func.count()).where(source.c[protected.tenant_column] == tenant, _is_older(source, protected, newest))
        left += records.connection.execute(query).scalar_one()
    return left


async def rewrap_records(vault: Vault, tenant: str, *, page: int, advance: Advance = lambda _table, _rows: None) -> Rewrapped:
    """Bring every record of a tenant under its newest key.

    Args:
        vault: Open; others may use it, here and elsewhere.
        tenant: The tenant.
        page: Rows of one transaction.
        advance: Told what is done, after each page.

    Raises:
        VaultUnavailable: If the database or the key backend cannot be used now; what was moved stays so.
        VaultCorrupt: If the tenant's key was erased.
    """
    moved, unreadable, left = 0, Counter[str](), 0
    for _ in range(PASSES):
        unreadable.clear()
        for protected in PROTECTED.values():
            after = ""
            while True:
                found = await vault.read(_reading(protected, tenant, after, page))
                unreadable[protected.table] += found.unreadable
                if found.changes:
                    await _write(vault, _writing(protected, found.changes))
                    moved += len(found.changes)
                if found.changes or found.unreadable:
                    advance(protected.table, len(found.changes) + found.unreadable)
                if not found.last:
                    break
                after = found.last
        left = await vault.read(lambda records: count_left(records, tenant)) - unreadable.total()
        if left <= 0:
            break
    return Rewrapped(moved, dict(+unreadable), max(left, 0))


async def _write(vault: Vault, unit: Callable[[Records], None]) -> None:
    """Run a unit; what others keep locked for a while is asked for again, since a long run must not end by that."""
    for left in reversed(range(ATTEMPTS)):
        try:
            await vault.run(unit)
        except VaultUnavailable:
            if not left:
                raise
        else:
            return


def _reading(protected: Protected, tenant: str, after: str, page: int) -> Callable[[Records], _Page]:
    """Read the next page of rows that are under an older key, and seal them anew."""
    source = table(protected.table)

    def unit(records: Records) -> _Page:
        # The tenant's column is hidden in an expression: by its index, each page would sort all rows of the tenant.
        mine = (source.c[protected.tenant_column] + "") == tenant
        older = _is_older(source, protected, records.ring.current(tenant).id)
        query = select(source).where(mine, older, source.c.id > after).order_by(source.c.id).limit(page)
        rows = records.connection.execute(query).mappings().all()
        changes: list[_Change] = []
        for row in rows:
            try:
                sealed = protected.resealed(records.ring, records.entropy, intact(protected.table, row))
            except VaultCorrupt:
                continue
            changes.append(_Change(row["id"], {name: row[name] for name in protected.columns}, sealed))
        return _Page(tuple(changes), len(rows) - len(changes), str(rows[-1]["id"]) if len(rows) == page else "")

    return unit


def _writing(protected: Protected, changes: Sequence[_Change]) -> Callable[[Records], None]:
    """Put each new cell where the old ones still are."""
    source = table(protected.table)
    names = protected.columns
    same = [source.c[name].is_not_distinct_from(bindparam(f"before_{name}", type_=Blob())) for name in names]
    change = (
        update(source)
        .where(source.c.id == bindparam("row_id"), *same)
        .values({name: bindparam(f"after_{name}", type_=Blob()) for name in names})
    )
    given: list[dict[str, Any]] = [
        {"row_id": each.row_id}
        | {f"before_{name}": each.before[name] for name in names}
        | {f"after_{name}": each.after.get(name, each.before[name]) for name in names}
        for each in changes
    ]

    def unit(records: Records) -> None:
        records.connection.execute(change, given)

    return unit


def _key_id(source: Table, name: str) -> ColumnElement[Any]:
    """The id of the key that a cell or a MAC names: both have it behind their first byte."""
    return func.substr(source.c[name], 2, KEY_ID_BYTES, type_=Blob())


def _is_older(source: Table, protected: Protected, newest: bytes) -> ColumnElement[bool]:
    return or_(*(_key_id(source, name) != newest for name in protected.columns))
