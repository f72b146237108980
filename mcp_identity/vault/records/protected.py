"""How a whole row is opened, checked and sealed anew, without knowing what it means.

Each record module says of its table which columns are sealed, where each of them belongs, and what the MAC covers;
`registry.py` has them all. That is what moving rows to a newer key, or to another database, goes by.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from mcp_identity.domain.clock import Entropy
from mcp_identity.domain.errors import VaultCorrupt
from mcp_identity.vault.envelope import (
    KEY_ID_BYTES,
    RANDOM_BYTES,
    Cell,
    Place,
    check_row_mac,
    key_id_of,
    open_sealed,
    row_mac,
    seal,
)
from mcp_identity.vault.keys import KeyRing

Row = Mapping[Any, Any]
"""A row by its column names, as a driver gives it or as it will be written."""
Versions = Mapping[int, tuple[str, ...]]
"""The columns that each version of a table's MAC covers, in order."""
MAC = "mac"


@dataclass(frozen=True, slots=True)
class SealedColumn:
    """A column that holds sealed records.

    Attributes:
        name: The column.
        place: Where the record of a row belongs, told by the row's other columns.
    """

    name: str
    place: Callable[[Row], Place]


@dataclass(frozen=True, slots=True)
class Protected:
    """What protects the rows of one table.

    Attributes:
        table: Its name.
        cells: The sealed columns.
        covered: What the MAC covers, by its version; empty where rows have none.
        tenant_column: Says whose keys are meant.
    """

    table: str
    cells: tuple[SealedColumn, ...] = ()
    covered: Versions = field(default_factory=dict[int, tuple[str, ...]])
    tenant_column: str = "tenant_id"

    @property
    def columns(self) -> tuple[str, ...]:
        """Every column that a newer key changes."""
        return (*(cell.name for cell in self.cells), *((MAC,) if self.covered else ()))

    def key_ids(self, row: Row) -> frozenset[bytes]:
        """The ids of the keys that a row is under.

        Raises:
            VaultCorrupt: If a cell is no sealed record, or the MAC is none.
        """
        found = {key_id_of(_bytes(row[cell.name])) for cell in self.cells if row[cell.name] is not None}
        if self.covered:
            found.add(_bytes(row[MAC])[1 : 1 + KEY_ID_BYTES])
        return frozenset(found)

    def verify(self, ring: KeyRing, row: Row) -> dict[str, bytes]:
        """Open every sealed cell of a row and check its MAC.

        Returns:
            What is in the cells, by column; absent ones are left out.

        Raises:
            VaultCorrupt: If anything was changed or moved outside the product.
            KeyNotLoaded: If the tenant's keys have to be unwrapped first.
        """
        tenant = self._tenant(row)
        if self.covered:
            check_row_mac(lambda key_id: ring.find(tenant, key_id), _bytes(row[MAC]), self.table, self._values(row))
        return {
            cell.name: open_sealed(
                lambda key_id: ring.find(tenant, key_id), _bytes(row[cell.name]), _place_of(self.table, cell, row)
            )
            for cell in self.cells
            if row[cell.name] is not None
        }

    def resealed(self, ring: KeyRing, entropy: Entropy, row: Row) -> dict[str, bytes]:
        """The cells and the MAC of a row under its tenant's current key; only the columns that differ.

        Nothing else of the row changes, its generation neither. A row that does not stand is not made to.

        Raises:
            VaultCorrupt: If anything was changed or moved outside the product.
            KeyNotLoaded: If the tenant's keys have to be unwrapped first.
        """
        key = ring.current(self._tenant(row))
        if self.key_ids(row) <= {key.id}:
            return {}
        plain, changed = self.verify(ring, row), dict[str, bytes]()
        for cell in self.cells:
            if cell.name in plain and key_id_of(row[cell.name]) != key.id:
                random = entropy.random_bytes(RANDOM_BYTES)
                changed[cell.name] = seal(key, plain[cell.name], _place_of(self.table, cell, row), random)
        if self.covered:
            version = max(self.covered)
            values = {**row, **changed}
            covered: tuple[Cell, ...] = tuple(values[name] for name in self.covered[version])
            changed[MAC] = row_mac(key, self.table, version, covered)
        return changed

    def _tenant(self, row: Row) -> str:
        return str(row[self.tenant_column])

    def _values(self, row: Row) -> Callable[[int], tuple[Cell, ...]]:
        def values(version: int) -> tuple[Cell, ...]:
            if version not in self.covered:
                raise VaultCorrupt(f"a row of {self.table} carries a MAC of an unknown version")
            return tuple(row[name] for name in self.covered[version])

        return values


def _bytes(value: object) -> bytes:
    if not isinstance(value, bytes):
        raise VaultCorrupt("a row holds a value of another type than the product writes")
    return value


def _place_of(table: str, cell: SealedColumn, row: Row) -> Place:
    try:
        return cell.place(row)
    except (AttributeError, KeyError, TypeError, ValueError):
        raise VaultCorrupt(f"a row of {table} is not what the product wrote") from None
