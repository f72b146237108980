"""How is a long file sealed, so that it can be written and read piece by piece and still counts only as a whole?

The STREAM construction (Hoang, Reyhanitabar, Rogaway and Vizár, 2015) on AES-256-GCM: pieces of one size, each sealed under a
nonce that is its number and whether it is the last. A piece that was changed, moved, left out, put twice or cut off does not
open, and neither does a file that ends too early or goes on too long. The key is derived for this one file from 32 random
bytes in its head, so no nonce is ever used twice with a key. The head is read before anything proves it; it is associated
data of every piece.

    magic | length of head (4) | head | piece | piece | … | last piece
"""

from __future__ import annotations

import hmac
import os
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256
from typing import BinaryIO

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from mcp_identity.domain.errors import ConfigurationError, VaultCorrupt
from mcp_identity.vault.envelope import derive
from mcp_identity.vault.moving.cells import Cells, decode_cells, encode_cells

_MAGIC = b"mcp-identity archive "
FORMAT = b"1\n"
"""Follows the magic; another one is another format."""
PIECE_BYTES = 64 * 1024
TAG_BYTES = 16
SALT_BYTES = 32
_HEAD_LIMIT = 16 * 1024
_LENGTH_BYTES = 4
_COUNTER_BYTES = 11
_MORE, _LAST = b"\x00", b"\x01"


@dataclass(frozen=True, slots=True)
class FileKey:
    """What one file is sealed with.

    Attributes:
        sealing: The AES-256-GCM key.
        commitment: Says which key it is; compared before anything is opened, because AES-GCM commits to none.
    """

    sealing: bytes
    commitment: bytes

    def __repr__(self) -> str:
        """Nothing of it."""
        return "FileKey()"


def file_key(material: bytes, salt: bytes) -> FileKey:
    """The key of one file.

    Args:
        material: The vault's own key.
        salt: `SALT_BYTES` random bytes, never used for another file.
    """
    return FileKey(derive(material, "archive", salt), derive(material, "archive-commitment", salt))


def write_head(file: BinaryIO, cells: Cells) -> bytes:
    """Write what is read before the key is known; the bytes that authenticate it are returned."""
    head = encode_cells(cells)
    start = _MAGIC + FORMAT + len(head).to_bytes(_LENGTH_BYTES, "big") + head
    file.write(start)
    return sha256(start).digest()


def read_head(file: BinaryIO) -> tuple[Cells, bytes]:
    """Read the head back.

    Returns:
        Its cells, of which nothing is proven yet, and the bytes that authenticate it.

    Raises:
        ConfigurationError: If the file is no archive, or one of a newer format.
        VaultCorrupt: If the head is damaged.
    """
    start = file.read(len(_MAGIC) + len(FORMAT))
    if not start.startswith(_MAGIC):
        raise ConfigurationError("the file is no archive of mcp-identity")
    if start != _MAGIC + FORMAT:
        raise ConfigurationError("the archive is of a format that this version does not know; a newer version reads it")
    length = file.read(_LENGTH_BYTES)
    size = int.from_bytes(length, "big")
    head = file.read(min(size, _HEAD_LIMIT))
    try:
        cells = decode_cells(head)
    except ValueError:
        raise VaultCorrupt("the head of the archive is damaged") from None
    if len(head) != size:
        raise VaultCorrupt("the head of the archive is damaged")
    return cells, sha256(start + length + head).digest()


class SealedWriter:
    """Writes a sealed file; it is one only once `close` came back."""

    def __init__(self, file: BinaryIO, key: FileKey, head: bytes) -> None:
        """Begin after the head.

        Args:
            file: Where to.
            key: For this file alone.
            head: What `write_head` returned.
        """
        self._file = file
        self._cipher = AESGCM(key.sealing)
        self._head = head
        self._waiting = bytearray()
        self._count = 0

    def write(self, data: bytes) -> None:
        """Write some more."""
        self._waiting += data
        while len(self._waiting) > PIECE_BYTES:  # a full piece may be the last one, so it waits until something follows
            self._put(bytes(self._waiting[:PIECE_BYTES]), _MORE)
            del self._waiting[:PIECE_BYTES]

    def close(self) -> None:
        """Write the last piece."""
        self._put(bytes(self._waiting), _LAST)
        self._waiting.clear()

    def _put(self, piece: bytes, which: bytes) -> None:
        self._file.write(self._cipher.encrypt(_nonce(self._count, which), piece, self._head))
        self._count += 1


def read_sealed(file: BinaryIO, key: FileKey, commitment: bytes, head: bytes) -> Iterator[bytes]:
    """Open a sealed file piece by piece; what it said counts only once the iterator has come to its end.

    Args:
        file: Behind its head.
        key: Made of the vault's own key and the head's salt.
        commitment: What the head says of the key.
        head: What `read_head` returned.

    Raises:
        VaultCorrupt: If it was changed, reordered, cut off or continued, or is another vault's.
    """
    if not hmac.compare_digest(commitment, key.commitment):
        raise VaultCorrupt("the archive was changed, or is not sealed with the key of its vault; nothing of it is used")
    cipher, count = AESGCM(key.sealing), 0
    piece = file.read(PIECE_BYTES + TAG_BYTES)
    while True:
        following = file.read(PIECE_BYTES + TAG_BYTES)
        try:
            yield cipher.decrypt(_nonce(count, _MORE if following else _LAST), piece, head)
        except (InvalidTag, ValueError):
            raise VaultCorrupt("the archive was changed or cut off; nothing of it is used") from None
        if not following:
            return
        piece, count = following, count + 1


def _nonce(count: int, which: bytes) -> bytes:
    return count.to_bytes(_COUNTER_BYTES, "big") + which


def made_durable(file: BinaryIO) -> None:
    """See to it that what was written is on the disk."""
    file.flush()
    os.fsync(file.fileno())
