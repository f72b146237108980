"""What stands inside an archive: the vault's state, each table with its rows, and at the end how many and what they come to.

Pure: bytes in, frames out. The bytes were authenticated before they come here; what is no frame all the same is
`vault_corrupt`, and so is an end that does not fit what came before it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from mcp_identity.domain.errors import VaultCorrupt
from mcp_identity.vault.envelope import Cell
from mcp_identity.vault.moving.cells import Cells, Contents, decode_cells, encode_cells

_LENGTH_BYTES = 4
_FRAME_LIMIT = 64 * 1024 * 1024
"""No row is longer; one that says so would only fill the memory."""
STATE, TABLE, ROW, END = "V", "T", "R", "E"
Frame = tuple[str, Cells]


def frame(kind: str, cells: Iterable[Cell]) -> bytes:
    """Write one frame."""
    return framed(kind, encode_cells(cells))


def framed(kind: str, encoded: bytes) -> bytes:
    """Write one frame of cells that are encoded already."""
    return (len(encoded) + 1).to_bytes(_LENGTH_BYTES, "big") + kind.encode() + encoded


def read_frames(pieces: Iterable[bytes]) -> Iterator[Frame]:
    """The frames of an archive, in order.

    Raises:
        VaultCorrupt: If there is something else.
    """
    waiting = bytearray()
    for piece in pieces:
        waiting += piece
        place = 0
        while len(waiting) - place >= _LENGTH_BYTES:
            start = place + _LENGTH_BYTES
            size = int.from_bytes(waiting[place:start], "big")
            if not 1 <= size <= _FRAME_LIMIT:
                raise VaultCorrupt(_STRANGE)
            if len(waiting) - start < size:
                break
            place = start + size
            yield _decoded(bytes(waiting[start:place]))
        del waiting[:place]
    if waiting:
        raise VaultCorrupt(_STRANGE)


_STRANGE = "the archive holds what no archive holds"


def _decoded(data: bytes) -> Frame:
    kind = data[:1].decode("latin-1")
    try:
        cells = decode_cells(data[1:])
    except ValueError:
        raise VaultCorrupt(_STRANGE) from None
    if kind not in (STATE, TABLE, ROW, END):
        raise VaultCorrupt(_STRANGE)
    return kind, cells


def end_of(contents: Contents) -> bytes:
    """The last frame."""
    flat: list[Cell] = []
    for name, rows in contents.rows.items():
        flat += (name, rows, contents.digests[name])
    return frame(END, flat)


def contents_at_end(cells: Cells) -> Contents:
    """What the last frame says.

    Raises:
        VaultCorrupt: If it says something else.
    """
    rows: dict[str, int] = {}
    digests: dict[str, str] = {}
    for start in range(0, len(cells), 3):
        match cells[start : start + 3]:
            case (str(name), int(count), str(digest)):
                rows[name], digests[name] = count, digest
            case _:
                raise VaultCorrupt(_STRANGE)
    return Contents(rows, digests)
