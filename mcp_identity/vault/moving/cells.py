"""How is a row written down, so that every database gives the same bytes for the same row?

A digest is made of these bytes, and an archive holds them. Each cell says its kind and its length, so that no two different
rows are written alike; what the product does not write into a column is refused before it goes anywhere.
"""

from __future__ import annotations

import hmac
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

from sqlalchemy import Table

from mcp_identity.domain.errors import VaultCorrupt, clean_text
from mcp_identity.vault.envelope import Cell
from mcp_identity.vault.records.base import intact

Cells = tuple[Cell, ...]
_LENGTH_BYTES = 4
_MODULUS = 1 << 256
_DIGITS = 20
"""No number of a column has more."""


def encode_cells(cells: Iterable[Cell]) -> bytes:
    """Write a row down: of each cell its length, a letter for its kind, and itself.

    Raises:
        VaultCorrupt: If a cell is of no kind that the product writes.
    """
    parts: list[bytes] = []
    for cell in cells:
        if cell is None:
            data = b"n"
        elif type(cell) is int:
            data = b"i%d" % cell
        elif type(cell) is bytes:
            data = b"b" + cell
        elif type(cell) is str:
            try:
                data = b"s" + cell.encode()
            except UnicodeEncodeError:
                raise VaultCorrupt("a row holds text that is no text") from None
        else:
            raise VaultCorrupt("a row holds a value of a type that the product does not write")
        parts += (len(data).to_bytes(_LENGTH_BYTES, "big"), data)
    return b"".join(parts)


def decode_cells(data: bytes) -> Cells:
    """Read a row that `encode_cells` wrote.

    Raises:
        ValueError: If it is none.
    """
    cells: list[Cell] = []
    place = 0
    while place < len(data):
        start = place + _LENGTH_BYTES
        place = start + int.from_bytes(data[start - _LENGTH_BYTES : start], "big")
        if not start < place <= len(data):
            raise ValueError("a cell is cut off")
        cells.append(_decoded(data[start : start + 1], data[start + 1 : place]))
    return tuple(cells)


def _decoded(kind: bytes, data: bytes) -> Cell:
    if kind == b"b":
        return data
    if kind == b"s":
        return data.decode()
    if kind == b"i" and len(data) <= _DIGITS:
        number = int(data)
        if b"%d" % number == data:
            return number
    if kind == b"n" and not data:
        return None
    raise ValueError("a cell is of no kind")


def checked(table: Table, row: Sequence[Any]) -> Cells:
    """The cells of a row in the order of its columns, each of the kind that its column has.

    Raises:
        VaultCorrupt: If one is not; it is named by its table and id.
    """
    cells = dict(zip(table.columns.keys(), row, strict=True))
    try:
        return tuple(intact(table.name, cells).values())
    except VaultCorrupt:
        which = clean_text(str(cells[next(iter(table.primary_key.columns)).name]), 64)
        raise VaultCorrupt(
            f"the row {which} of {table.name} holds what the product does not write; nothing can carry it: remove it first"
        ) from None


@dataclass(slots=True)
class Digest:
    """What all rows of a table come to, in whatever order they are read; keyed, so that nobody makes two tables alike.

    Attributes:
        rows: How many were added.
    """

    key: bytes
    rows: int = 0
    _sum: int = 0

    def add(self, encoded: bytes) -> None:
        """Add a row."""
        self.rows += 1
        self._sum = (self._sum + int.from_bytes(hmac.digest(self.key, encoded, sha256), "big")) % _MODULUS

    def value(self) -> str:
        """The digest, in hexadecimal."""
        return f"{self._sum:064x}"


@dataclass(frozen=True, slots=True)
class Contents:
    """What a vault holds, by table.

    Attributes:
        rows: How many rows.
        digests: What they come to.
    """

    rows: dict[str, int]
    digests: dict[str, str]

    def differing(self, other: Contents) -> tuple[str, ...]:
        """The tables in which two vaults are not the same."""
        names = sorted(self.rows.keys() | other.rows.keys())
        return tuple(name for name in names if self._of(name) != other._of(name))

    def _of(self, name: str) -> tuple[int | None, str | None]:
        return self.rows.get(name), self.digests.get(name)


def contents_of(digests: Sequence[tuple[str, Digest]]) -> Contents:
    """The contents that these digests found."""
    return Contents({str(name): each.rows for name, each in digests}, {str(name): each.value() for name, each in digests})
