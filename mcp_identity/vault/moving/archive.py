"""What is a backup: one sealed file that says nothing to whoever has no key, and that both databases can be restored from.

It holds every row as it is, so secrets in it are sealed twice. It is sealed under a key that is derived from the vault's own
key, which stands in the head, wrapped by the key-encryption key; that one is never in it. In the clear are the vault's id and
schema, when the archive was made, and the id of the key-encryption key. How the file is sealed is in `sealed_stream.py`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import astuple, dataclass
from datetime import datetime
from typing import BinaryIO

from sqlalchemy import Connection, Table

from mcp_identity.domain.clock import Clock
from mcp_identity.domain.errors import ConfigurationError, VaultCorrupt, VaultUnavailable
from mcp_identity.vault.keys import VAULT, KeyRing, WrappedKey
from mcp_identity.vault.kms.backend import KeyBackend
from mcp_identity.vault.moving.cells import Cells, Contents, Digest, checked, contents_of, encode_cells
from mcp_identity.vault.moving.frames import END, ROW, STATE, TABLE, contents_at_end, end_of, frame, framed, read_frames
from mcp_identity.vault.moving.reading import AT_ONCE, Progress, VaultRows, digest_key
from mcp_identity.vault.moving.sealed_stream import (
    SALT_BYTES,
    FileKey,
    SealedWriter,
    file_key,
    read_head,
    read_sealed,
    write_head,
)
from mcp_identity.vault.moving.state import CARRIED, State
from mcp_identity.vault.moving.trail import Seams
from mcp_identity.vault.records.keys import read_wrapped_keys
from mcp_identity.vault.records.moments import micros, moment
from mcp_identity.vault.writer import SCHEMA_VERSION

_DAMAGED = "the head of the archive is damaged"
_STRANGE = "the archive holds what no archive of this schema holds"
_BY_NAME = {table.name: table for table in CARRIED}


@dataclass(frozen=True, slots=True)
class Head:
    """What an archive says in the clear; proven only once all of it was read.

    Attributes:
        vault_id: Whose it is.
        schema_version: Of the rows in it.
        made_at: When, in microseconds.
        key_id: The key-encryption key that opens it.
        key: The vault's own key, wrapped.
        salt: Makes the file's key out of it.
        commitment: Says which key that is.
    """

    vault_id: str
    schema_version: int
    made_at: int
    key_id: str
    key: WrappedKey
    salt: bytes
    commitment: bytes

    @property
    def made(self) -> datetime:
        """When the archive was made.

        Raises:
            VaultCorrupt: If it says no time.
        """
        at = moment(self.made_at)
        if at is None:
            raise VaultCorrupt(_DAMAGED)
        return at

    def cells(self) -> Cells:
        """The head as it is written."""
        key = self.key
        return (
            self.vault_id, self.schema_version, self.made_at, self.key_id, self.salt, self.commitment,
            key.id, key.version, key.purpose, key.backend_key_id, key.wrapped, key.constant,
        )  # fmt: skip


_HEAD_KINDS = (str, int, int, str, bytes, bytes, str, int, str, str, bytes, bytes)


def _head(cells: Cells) -> Head:
    if tuple(map(type, cells)) != _HEAD_KINDS:
        raise VaultCorrupt(_DAMAGED)
    vault_id, schema, made_at, key_id, salt, commitment, row_id, version, purpose, backend, wrapped, constant = cells
    key = WrappedKey(row_id, VAULT, purpose, version, backend, wrapped, constant)  # type: ignore[arg-type]
    return Head(vault_id, schema, made_at, key_id, key, salt, commitment)  # type: ignore[arg-type]


def write_archive(
    connection: Connection, state: State, ring: KeyRing, file: BinaryIO, seams: Seams, progress: Progress
) -> Contents:
    """Write everything that a snapshot of a vault shows.

    Args:
        connection: The snapshot.
        state: What it says of itself.
        ring: With the vault's own key.
        file: Where to.
        seams: The time, and the salt of the file's key.
        progress: Told as it goes on.
    """
    key = ring.current(VAULT)
    wrapped = next(row for row in read_wrapped_keys(connection, VAULT) if row.id == key.id.hex())
    salt = seams.entropy.random_bytes(SALT_BYTES)
    sealing = file_key(key.material, salt)
    head = Head(
        state.vault_id,
        state.schema_version,
        micros(seams.clock.now()),
        wrapped.backend_key_id,
        wrapped,
        salt,
        sealing.commitment,
    )
    writer = SealedWriter(file, sealing, write_head(file, head.cells()))
    writer.write(frame(STATE, astuple(state)))
    digests = {table.name: Digest(digest_key(ring)) for table in CARRIED}
    for table in CARRIED:
        writer.write(frame(TABLE, map(str, (table.name, *table.columns.keys()))))
        for rows in VaultRows(connection).of(table):
            for row in rows:
                encoded = encode_cells(row)
                digests[table.name].add(encoded)
                writer.write(framed(ROW, encoded))
            progress("written", table.name, len(rows))
    contents = contents_of(list(digests.items()))
    writer.write(end_of(contents))
    writer.close()
    return contents


class Archive:
    """An archive that is read; each reading proves it anew."""

    def __init__(self, file: BinaryIO, backend: KeyBackend, clock: Clock) -> None:
        """Read the head, and unwrap the key.

        Args:
            file: Can be read more than once.
            backend: Holds the key-encryption key.
            clock: For the key that is kept.

        Raises:
            ConfigurationError: If it is no archive, of a newer format, or of another key-encryption key.
            VaultUnavailable: If it is of another schema.
            VaultCorrupt: If it is damaged.
        """
        self._file = file
        self.head, self._proof = self._read_head()
        if self.head.schema_version != SCHEMA_VERSION:
            newer = self.head.schema_version > SCHEMA_VERSION
            which = "a newer" if newer else "an older"
            how = "use that version" if newer else "restore it with that version, then upgrade the vault"
            raise VaultUnavailable(f"the archive is of {which} schema of mcp-identity; {how}", retryable=False)
        if self.head.key_id != backend.key_id:
            raise ConfigurationError(
                f"the archive is of a vault with another key (its id is {self.head.key_id}); configure that one with "
                "MCP_IDENTITY_KEY"
            )
        self.ring = KeyRing(backend, self.head.vault_id, clock)
        self.ring.load(VAULT, [self.head.key])
        self._key: FileKey = file_key(self.ring.current(VAULT).material, self.head.salt)
        self.state: State | None = None
        self.contents: Contents | None = None

    def _read_head(self) -> tuple[Head, bytes]:
        self._file.seek(0)
        cells, proof = read_head(self._file)
        return _head(cells), proof

    def batches(self) -> Iterator[tuple[Table, list[Cells]]]:
        """Every row, some at a time; the archive counts only once all of them came.

        Raises:
            VaultCorrupt: If it was changed, cut off or continued, or is not what an archive of this schema is.
        """
        head, proof = self._read_head()
        frames = read_frames(read_sealed(self._file, self._key, head.commitment, proof))
        digests: dict[str, Digest] = {}
        table: Table | None = None
        batch: list[Cells] = []
        kind = ""
        for kind, cells in frames:
            if kind == ROW and table is not None:
                batch.append(_row(table, cells))
                digests[table.name].add(encode_cells(cells))
                if len(batch) < AT_ONCE:
                    continue
            if table is not None and batch:
                yield table, batch
                batch = []
            if kind == STATE:
                self.state = self._state(cells)
            elif kind == TABLE:
                table = _table(cells, digests)
                digests[table.name] = Digest(digest_key(self.ring))
            elif kind == END:
                self.contents = contents_at_end(cells)
            elif table is None:
                raise VaultCorrupt(_STRANGE)
        found = contents_of(list(digests.items()))
        if kind != END or self.contents != found or digests.keys() != _BY_NAME.keys() or self.state is None:
            raise VaultCorrupt(_STRANGE)

    def _state(self, cells: Cells) -> State:
        state = State(*cells) if tuple(map(type, cells)) == (str, int, int, int, str, bytes, int) else None  # type: ignore[arg-type]
        if state is None or (state.vault_id, state.schema_version) != (self.head.vault_id, self.head.schema_version):
            raise VaultCorrupt(_STRANGE)
        return state


def _table(cells: Cells, before: dict[str, Digest]) -> Table:
    table = _BY_NAME.get(str(cells[0])) if cells else None
    if table is None or table.name in before or list(cells[1:]) != table.columns.keys():
        raise VaultCorrupt(_STRANGE)
    return table


def _row(table: Table, cells: Cells) -> Cells:
    if len(cells) != len(table.columns):
        raise VaultCorrupt(_STRANGE)
    return checked(table, cells)


def vault_of(file: BinaryIO) -> str:
    """Whose an archive says that it is; nothing of that is proven.

    Raises:
        ConfigurationError: If the file is no archive, or one of a newer format.
        VaultCorrupt: If its head is damaged.
    """
    file.seek(0)
    return _head(read_head(file)[0]).vault_id


def check_archive(archive: Archive, progress: Progress) -> tuple[State, Contents]:
    """Read an archive to its end, and say what it holds; nothing is written anywhere.

    Raises:
        VaultCorrupt: If it was changed, cut off or continued.
    """
    for table, batch in archive.batches():
        progress("checked", table.name, len(batch))
    if archive.state is None or archive.contents is None:
        raise VaultCorrupt(_STRANGE)
    return archive.state, archive.contents
