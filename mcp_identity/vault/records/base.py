"""What every kind of record needs: the open transaction, the time, and the tenant's keys."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, TypeVar

from sqlalchemy import BigInteger, Connection, Table, Text

from mcp_identity.domain.clock import Clock, Entropy
from mcp_identity.domain.errors import VaultCorrupt
from mcp_identity.vault import tables, tables_own
from mcp_identity.vault.columns import Blob, metadata
from mcp_identity.vault.envelope import KEY_ID_BYTES, RANDOM_BYTES, Cell, Place, check_row_mac, open_sealed, row_mac, seal
from mcp_identity.vault.keys import KeyRing
from mcp_identity.vault.records.chain import AuditChain

AnyRow = Mapping[Any, Any]
"""A row by the names of its columns."""
Row = TypeVar("Row", bound=AnyRow)
_DECLARED = (tables, tables_own)  # importing them fills the metadata
_KINDS: dict[type[Any], type] = {Text: str, BigInteger: int, Blob: bytes}
_SHAPES = {
    name: tuple((column.name, _KINDS[type(column.type)], bool(column.nullable)) for column in declared.columns)
    for name, declared in metadata.tables.items()
}
_NUMBERS = 1 << 62
"""No number of ours comes near; one that does could not be counted on."""


def table(name: str) -> Table:
    """A table of the vault, for Core statements."""
    return metadata.tables[name]


def intact(name: str, row: Row) -> Row:
    """The row, if every cell is of the type that the product writes; SQLite keeps whatever anybody puts into a column.

    Raises:
        VaultCorrupt: If one is not.
    """
    for column, kind, nullable in _SHAPES[name]:
        value: Any = row[column]
        if nullable and value is None:
            continue
        if type(value) is not kind:
            raise VaultCorrupt(f"a row of {name} holds a value of another type than the product writes")
        if kind is int and not 0 <= value < _NUMBERS:
            raise VaultCorrupt(f"a row of {name} holds a number that the product does not write")
    return row


@dataclass(slots=True)
class Caches:
    """What a process keeps decoded between batches; emptied whenever the configuration epoch moves."""

    epoch: int = 0
    providers: dict[tuple[str, str], Any] = field(default_factory=dict[tuple[str, str], Any])
    workloads: dict[tuple[str, str], Any] = field(default_factory=dict[tuple[str, str], Any])
    authorizers: dict[str, Any] = field(default_factory=dict[str, Any])
    exchanging: dict[str, tuple[Any, ...]] = field(default_factory=dict[str, tuple[Any, ...]])
    issuers: tuple[Any, ...] | None = None
    grants: OrderedDict[bytes, tuple[tuple[Any, ...], Any, Any]] = field(
        default_factory=OrderedDict[bytes, tuple[tuple[Any, ...], Any, Any]]
    )
    """Opened grants by the hash of their key, each with the row and the tenant key that it was opened from."""
    is_outdated: bool = False
    """Whether this process has itself raised the epoch since it last read it."""

    def follow(self, epoch: int) -> bool:
        """Empty the caches if `epoch` is another one; say whether they were."""
        self.is_outdated = False
        if epoch == self.epoch:
            return False
        self.epoch = epoch
        self.clear()
        return True

    def clear(self) -> None:
        """Forget everything that is decoded."""
        self.providers.clear()
        self.workloads.clear()
        self.authorizers.clear()
        self.exchanging.clear()
        self.grants.clear()
        self.issuers = None


class RecordsBase:
    """One open transaction, as the records see it."""

    def __init__(
        self,
        connection: Connection,
        ring: KeyRing,
        entropy: Entropy,
        caches: Caches,
        chain: AuditChain,
        now: datetime,
        clock: Clock,
    ) -> None:
        """Bind the transaction to its keys and its time.

        Args:
            connection: Inside a transaction; nobody here commits.
            ring: The unwrapped keys.
            entropy: Where row ids, salts and nonces come from.
            caches: Decoded rows, good for this configuration epoch.
            chain: The end of this process's audit chain.
            now: The batch's time.
            clock: For what outlives the batch; within it, `now` counts.

        Attributes:
            trail: Rows of the audit trail that are collected for the end of the batch.
            foreseen: Grants that were read ahead for the whole batch, by the hash of their key.
        """
        self.connection = connection
        self.ring = ring
        self.entropy = entropy
        self.caches = caches
        self.chain = chain
        self.now = now
        self.clock = clock
        self.trail: list[dict[str, Any]] = []
        self.foreseen: dict[bytes, tuple[Any, ...] | None] = {}

    def forget_read(self) -> None:
        """Something is about to change: what was read before may be so no longer."""
        self.foreseen.clear()

    def new_id(self) -> str:
        """A random row id; it survives a copy of the vault."""
        return self.entropy.random_bytes(KEY_ID_BYTES).hex()

    def _seal(self, plaintext: bytes, place: Place) -> bytes:
        return seal(self.ring.current(place.tenant), plaintext, place, self.entropy.random_bytes(RANDOM_BYTES))

    def _open(self, record: bytes, place: Place) -> bytes:
        return open_sealed(lambda key_id: self.ring.find(place.tenant, key_id), record, place)

    def _mac(self, tenant: str, table: str, version: int, values: tuple[Cell, ...]) -> bytes:
        return row_mac(self.ring.current(tenant), table, version, values)

    def _check_mac(self, tenant: str, mac: bytes, table: str, columns: dict[int, tuple[Cell, ...]]) -> None:
        def values(version: int) -> tuple[Cell, ...]:
            if version not in columns:
                raise VaultCorrupt(f"a row of {table} carries a MAC of an unknown version")
            return columns[version]

        check_row_mac(lambda key_id: self.ring.find(tenant, key_id), mac, table, values)
