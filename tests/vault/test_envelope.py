from __future__ import annotations

from dataclasses import fields, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mcp_identity.domain.errors import VaultCorrupt
from mcp_identity.vault.envelope import (
    RANDOM_BYTES,
    Cell,
    DataKey,
    Place,
    check_row_mac,
    derive,
    length_prefixed,
    open_sealed,
    row_mac,
    seal,
)

KEY = DataKey(b"k" * 16, b"m" * 32)
OTHER = DataKey(b"o" * 16, b"n" * 32)
PLACE = Place("grants", "default", "row", "tokens", 3, ("alice", "github"))
RANDOM = bytes(range(RANDOM_BYTES))
SEALED = seal(KEY, b"secret", PLACE, RANDOM)

texts = st.text(max_size=12)
places = st.builds(Place, texts, texts, texts, texts, st.integers(0, 2**40), st.lists(texts, max_size=4).map(tuple))
cells = st.one_of(st.none(), st.booleans(), st.integers(0, 2**62), st.binary(max_size=8), texts)


def find(key_id: bytes) -> DataKey:
    for key in (KEY, OTHER):
        if key.id == key_id:
            return key
    raise VaultCorrupt("no such key")


def canonical(values: tuple[Cell, ...]) -> list[Cell]:
    """A flag is a number, in SQLite as in the MAC."""
    return [int(value) if isinstance(value, bool) else value for value in values]


def assert_refused(record: bytes, place: Place = PLACE) -> None:
    with pytest.raises(VaultCorrupt) as caught:
        open_sealed(find, record, place)
    assert caught.value.code == "vault_corrupt"
    assert "secret" not in str(caught.value)


@given(st.binary(max_size=200), places, st.binary(min_size=RANDOM_BYTES, max_size=RANDOM_BYTES))
def test_what_was_sealed_opens_in_its_place(plaintext: bytes, place: Place, random: bytes) -> None:
    assert open_sealed(find, seal(KEY, plaintext, place, random), place) == plaintext


def test_no_bit_of_a_sealed_record_can_be_flipped() -> None:
    for bit in range(len(SEALED) * 8):
        edited = bytearray(SEALED)
        edited[bit // 8] ^= 1 << bit % 8
        assert_refused(bytes(edited))


def test_no_sealed_record_can_be_cut_or_lengthened() -> None:
    for length in range(len(SEALED)):
        assert_refused(SEALED[:length])
        assert_refused(SEALED[length + 1 :])
    assert_refused(SEALED + b"\x00")


CHANGES: dict[str, list[object]] = {
    "table": ["grant", "consent_sessions", ""],
    "tenant": ["Default", "other", ""],
    "row_id": ["row2", "ro", ""],
    "field": ["token", "secret", ""],
    "generation": [2, 4, 33, 0],
    "context": [("alice",), ("github", "alice"), ("alicegithub",), ("alice", "github", ""), ("alic", "egithub"), ()],
}


def test_every_part_of_a_place_is_bound() -> None:
    assert set(CHANGES) == {part.name for part in fields(Place)}
    for part, values in CHANGES.items():
        for value in values:
            assert_refused(SEALED, replace(PLACE, **{part: value}))


@given(places, places)
def test_a_record_opens_in_no_other_place(mine: Place, other: Place) -> None:
    record = seal(KEY, b"secret", mine, RANDOM)
    if mine != other:
        assert_refused(record, other)


def test_no_text_moves_between_the_neighbours_of_a_place() -> None:
    record = seal(KEY, b"secret", Place("ab", "c", "d", "e"), RANDOM)
    assert_refused(record, Place("a", "bc", "d", "e"))
    assert_refused(record, Place("ab", "cd", "", "e"))
    assert_refused(record, Place("ab", "c", "d", "", context=("e",)))


def test_two_cells_cannot_be_swapped() -> None:
    other = replace(PLACE, row_id="row2", context=("mallory", "github"))
    assert_refused(seal(KEY, b"secret", other, RANDOM))


def test_a_record_that_names_another_key_is_refused_by_its_commitment() -> None:
    renamed = SEALED[:1] + OTHER.id + SEALED[17:]
    with pytest.raises(VaultCorrupt, match="does not belong to its key"):
        open_sealed(find, renamed, PLACE)


def test_a_commitment_made_with_another_key_is_refused() -> None:
    salt = SEALED[17:49]
    forged = SEALED[:49] + derive(OTHER.material, "commitment", salt) + SEALED[81:]
    with pytest.raises(VaultCorrupt, match="does not belong to its key"):
        open_sealed(find, forged, PLACE)


def test_record_key_and_commitment_are_different_outputs() -> None:
    salt = SEALED[17:49]
    assert derive(KEY.material, "record", salt) != derive(KEY.material, "commitment", salt) == SEALED[49:81]


def test_fresh_randomness_gives_another_record() -> None:
    assert seal(KEY, b"secret", PLACE, RANDOM[::-1]) != SEALED


def test_a_key_shows_its_id_alone() -> None:
    assert repr(KEY) == f"DataKey({KEY.id.hex()})"


@given(st.lists(st.binary(max_size=6), max_size=5), st.lists(st.binary(max_size=6), max_size=5))
def test_two_different_lists_never_join_to_the_same_bytes(one: list[bytes], two: list[bytes]) -> None:
    assert (length_prefixed(*one) == length_prefixed(*two)) == (one == two)


@settings(max_examples=300)
@given(st.lists(cells, max_size=5).map(tuple), st.lists(cells, max_size=5).map(tuple))
def test_a_row_mac_stands_for_exactly_its_columns(one: tuple[Cell, ...], two: tuple[Cell, ...]) -> None:
    mac = row_mac(KEY, "users", 1, one)
    check_row_mac(find, mac, "users", lambda _: one)
    if canonical(one) != canonical(two):
        with pytest.raises(VaultCorrupt):
            check_row_mac(find, mac, "users", lambda _: two)


@pytest.mark.parametrize(
    ("one", "two"),
    [
        (("ab", "c"), ("a", "bc")),
        (("a", None), ("a", "")),
        (("1",), (1,)),
        (("1",), (b"1",)),
        (("n",), (None,)),
        (("a",), ("a", None)),
        ((1, 11), (11, 1)),
    ],
)
def test_a_row_mac_tells_what_looks_alike_apart(one: tuple[Cell, ...], two: tuple[Cell, ...]) -> None:
    assert row_mac(KEY, "users", 1, one) != row_mac(KEY, "users", 1, two)


def test_a_row_mac_is_bound_to_table_version_and_key() -> None:
    mac = row_mac(KEY, "users", 1, ("a",))
    assert mac != row_mac(KEY, "tenants", 1, ("a",))
    assert mac[17:] != row_mac(KEY, "users", 2, ("a",))[17:]
    assert mac[17:] != row_mac(OTHER, "users", 1, ("a",))[17:]
    assert mac[17:] != row_mac(replace(KEY, id=OTHER.id), "users", 1, ("a",))[17:]


def test_no_bit_of_a_row_mac_can_be_flipped_and_none_cut() -> None:
    mac = row_mac(KEY, "users", 1, ("a",))
    for bit in range(len(mac) * 8):
        edited = bytearray(mac)
        edited[bit // 8] ^= 1 << bit % 8
        with pytest.raises(VaultCorrupt):
            check_row_mac(find, bytes(edited), "users", lambda _: ("a",))
    for length in range(len(mac)):
        with pytest.raises(VaultCorrupt):
            check_row_mac(find, mac[:length], "users", lambda _: ("a",))


def test_a_cell_of_a_type_that_nobody_writes_is_refused() -> None:
    with pytest.raises(VaultCorrupt) as caught:
        row_mac(KEY, "users", 1, (1.5,))  # type: ignore[arg-type]  # SQLite keeps a real number in any column
    assert caught.value.code == "vault_corrupt"
