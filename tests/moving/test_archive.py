"""Is an archive one that was changed in any way, or is of another, never taken for one? Bytes alone; no vault.

Covers: A33
"""

from __future__ import annotations

import io
import os
from dataclasses import dataclass
from functools import cache

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcp_identity.domain.errors import ConfigurationError, IdentityError, VaultCorrupt
from mcp_identity.vault.moving.cells import Contents, Digest, decode_cells, encode_cells
from mcp_identity.vault.moving.frames import END, ROW, TABLE, contents_at_end, end_of, frame, read_frames
from mcp_identity.vault.moving.sealed_stream import (
    PIECE_BYTES,
    TAG_BYTES,
    SealedWriter,
    file_key,
    read_head,
    read_sealed,
    write_head,
)

CELLS = st.lists(st.none() | st.integers(0, 1 << 62) | st.binary(max_size=40) | st.text(max_size=20), max_size=8).map(tuple)
KEY = bytes(range(32))
WHOLE = PIECE_BYTES + TAG_BYTES


@dataclass(frozen=True)
class Sealed:
    """A sealed file, and what is in it."""

    data: bytes
    plain: bytes
    head: int

    def pieces(self) -> list[bytes]:
        """Its pieces; the last one is shorter."""
        return [self.data[start : start + WHOLE] for start in range(self.head, len(self.data), WHOLE)]

    def with_pieces(self, pieces: list[bytes]) -> bytes:
        """The same head before other pieces."""
        return self.data[: self.head] + b"".join(pieces)


def sealed(plain: bytes, salt: bytes = b"s" * 32) -> Sealed:
    file, key = io.BytesIO(), file_key(KEY, salt)
    proof = write_head(file, ("vault", 1, salt, key.commitment))
    head = file.tell()
    writer = SealedWriter(file, key, proof)
    for start in range(0, len(plain), 7919):
        writer.write(plain[start : start + 7919])
    writer.close()
    return Sealed(file.getvalue(), plain, head)


@cache
def archive(salt: bytes = b"s" * 32) -> Sealed:
    """One of three whole pieces and a bit."""
    return sealed(os.urandom(3 * PIECE_BYTES + 1000), salt)


def opened(data: bytes, material: bytes = KEY) -> bytes:
    file = io.BytesIO(data)
    cells, proof = read_head(file)
    match cells:
        case (str(), int(), bytes(salt), bytes(commitment)):
            return b"".join(read_sealed(file, file_key(material, salt), commitment, proof))
        case _:
            raise VaultCorrupt("the head is damaged")


def refused(data: bytes) -> str:
    with pytest.raises(IdentityError) as caught:
        opened(data)
    assert isinstance(caught.value, VaultCorrupt | ConfigurationError)
    return caught.value.code


@pytest.mark.parametrize("size", [0, 1, PIECE_BYTES - 1, PIECE_BYTES, PIECE_BYTES + 1, 2 * PIECE_BYTES])
def test_what_goes_in_comes_out(size: int) -> None:
    plain = os.urandom(size)
    assert opened(sealed(plain).data) == plain


def test_no_piece_says_anything_and_none_is_like_another() -> None:
    written = sealed(b"the same words again and again. " * 10_000)
    assert b"the same words" not in written.data
    assert len(set(written.pieces())) == len(written.pieces())
    assert sealed(written.plain, b"t" * 32).pieces()[0] != written.pieces()[0]


@given(st.data())
def test_a_changed_byte_anywhere_is_found(data: st.DataObject) -> None:
    whole = archive()
    regions = {
        "magic": (0, 23),
        "length": (23, 27),
        "head": (27, whole.head),
        "first piece": (whole.head, whole.head + WHOLE),
        "a tag": (whole.head + 2 * WHOLE - TAG_BYTES, whole.head + 2 * WHOLE),
        "last piece": (whole.head + 3 * WHOLE, len(whole.data)),
    }
    first, last = regions[data.draw(st.sampled_from(sorted(regions)))]
    place = data.draw(st.integers(first, last - 1))
    changed = bytearray(whole.data)
    changed[place] ^= data.draw(st.integers(1, 255))
    assert refused(bytes(changed)) in ("vault_corrupt", "configuration_error")


@given(st.data())
def test_an_end_that_is_missing_or_goes_on_is_found(data: st.DataObject) -> None:
    whole = archive()
    at_a_border = st.sampled_from([whole.head + count * WHOLE for count in range(4)])
    place = data.draw(st.integers(0, len(whole.data) - 1) | at_a_border)
    refused(whole.data[:place])
    refused(whole.data + data.draw(st.binary(min_size=1, max_size=64) | st.just(whole.pieces()[-1])))


@pytest.mark.parametrize("order", [(1, 0, 2, 3), (0, 2, 1, 3), (0, 1, 3), (0, 1, 1, 2, 3), (3,), (0, 1, 2, 3, 3), (0, 3, 2, 1)])
def test_pieces_in_another_order_missing_or_twice_are_found(order: tuple[int, ...]) -> None:
    pieces = archive().pieces()
    assert refused(archive().with_pieces([pieces[number] for number in order])) == "vault_corrupt"


@pytest.mark.parametrize("number", range(4))
def test_a_piece_of_another_archive_of_the_same_vault_is_found(number: int) -> None:
    pieces = archive().pieces()
    pieces[number] = archive(b"t" * 32).pieces()[number]
    assert refused(archive().with_pieces(pieces)) == "vault_corrupt"


def test_an_archive_of_another_key_is_refused_before_a_piece_is_opened() -> None:
    with pytest.raises(VaultCorrupt) as caught:
        opened(archive().data, b"x" * 32)
    assert caught.value.code == "vault_corrupt"


def test_a_newer_format_says_so_and_something_else_is_no_archive() -> None:
    newer = archive().data.replace(b"archive 1\n", b"archive 2\n", 1)
    for data, words in ((newer, "newer version"), (b"SQLite format 3\0" * 100, "no archive"), (b"", "no archive")):
        with pytest.raises(ConfigurationError) as caught:
            opened(data)
        assert words in caught.value.message


@given(st.binary(max_size=400))
def test_no_head_that_somebody_makes_up_does_more_than_be_refused(made_up: bytes) -> None:
    refused(b"mcp-identity archive 1\n" + made_up)
    refused(b"mcp-identity archive 1\n" + len(made_up).to_bytes(4, "big") + made_up)


@given(CELLS)
def test_a_row_is_written_in_one_way_and_read_back(cells: tuple[int | bytes | str | None, ...]) -> None:
    assert decode_cells(encode_cells(cells)) == cells


@given(st.binary(max_size=60))
def test_what_is_no_row_is_no_row_and_nothing_is_read_in_two_ways(data: bytes) -> None:
    try:
        cells = decode_cells(data)
    except ValueError:
        return
    assert encode_cells(cells) == data


@given(st.lists(CELLS, max_size=6), st.integers(1, 7))
def test_frames_come_back_however_they_were_cut(rows: list[tuple[int | bytes | str | None, ...]], size: int) -> None:
    data = b"".join(frame(ROW, row) for row in rows)
    pieces = [data[start : start + size] for start in range(0, len(data), size)]
    assert list(read_frames(pieces)) == [(ROW, row) for row in rows]


@pytest.mark.parametrize("data", [b"\0", b"\0\0\0\0", b"\0\0\0\2R", b"\0\0\0\1X", b"\xff\xff\xff\xffR", b"\0\0\0\2R\0"])
def test_what_is_no_frame_is_refused(data: bytes) -> None:
    with pytest.raises(VaultCorrupt) as caught:
        list(read_frames([frame(TABLE, ("grants",)), data]))
    assert caught.value.code == "vault_corrupt"


def test_the_end_says_what_came_before() -> None:
    contents = Contents({"grants": 2, "users": 0}, {"grants": "aa", "users": "bb"})
    ((kind, cells),) = read_frames([end_of(contents)])
    assert kind == END
    assert contents_at_end(cells) == contents
    with pytest.raises(VaultCorrupt):
        contents_at_end(cells[:-1])


@given(st.permutations([b"a", b"b", b"c", b"d"]))
def test_a_digest_does_not_depend_on_the_order_and_sees_every_row(rows: list[bytes]) -> None:
    def value(of: list[bytes], key: bytes = KEY) -> tuple[int, str]:
        digest = Digest(key)
        for row in of:
            digest.add(row)
        return digest.rows, digest.value()

    assert value(rows) == value(sorted(rows))
    assert len({value(rows), value(rows[:-1]), value([*rows, b"a"]), value([*rows[:-1], b"e"]), value(rows, b"k" * 32)}) == 5
