from __future__ import annotations

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcp_identity.domain.credentials import MAXIMUM_SCOPE_LENGTH, MAXIMUM_SCOPES, Flow, GrantKey, parse_scopes
from mcp_identity.domain.errors import InvalidScope

ALLOWED = "".join(map(chr, range(0x21, 0x7F))).replace('"', "").replace("\\", "")
scopes = st.text(st.sampled_from(ALLOWED), min_size=1, max_size=20)


@given(st.lists(scopes, max_size=20), st.randoms())
def test_scopes_are_a_set_whatever_their_order_and_number(given_scopes: list[str], random: Random) -> None:
    shuffled = [*given_scopes, *given_scopes]
    random.shuffle(shuffled)
    assert parse_scopes(given_scopes) == parse_scopes(shuffled) == frozenset(given_scopes)


@given(st.lists(scopes, max_size=20))
def test_scopes_that_were_joined_by_spaces_come_apart_the_same(given_scopes: list[str]) -> None:
    found = parse_scopes(given_scopes)
    assert parse_scopes(" ".join(sorted(found)).split()) == found


@given(scopes, st.characters().filter(lambda char: char not in ALLOWED), scopes)
def test_a_scope_with_any_other_character_is_refused(before: str, char: str, after: str) -> None:
    for scope in (char, before + char, char + after, before + char + after):
        with pytest.raises(InvalidScope) as caught:
            parse_scopes(["fine", scope])
        assert caught.value.code == "invalid_scope"


@pytest.mark.parametrize("scope", ["", " ", "a b", "a,b c", "a\n", "\ta", 'a"b', "a\\b", "é", "a\x00", "a\u200b", "\U000e0041"])
def test_what_is_no_scope_token_is_refused(scope: str) -> None:
    with pytest.raises(InvalidScope) as caught:
        parse_scopes([scope])
    assert caught.value.code == "invalid_scope"


@pytest.mark.parametrize(
    "scope", ["repo", "read:user", "https://www.googleapis.com/auth/drive", "a,b", "User.Read", "!~", "a'b"]
)
def test_what_vendors_call_a_scope_is_taken(scope: str) -> None:
    assert parse_scopes([scope]) == {scope}


def test_number_and_length_are_bounded() -> None:
    assert len(parse_scopes(map(str, range(MAXIMUM_SCOPES)))) == MAXIMUM_SCOPES
    assert parse_scopes(["same"] * (MAXIMUM_SCOPES * 3)) == {"same"}
    assert parse_scopes(["x" * MAXIMUM_SCOPE_LENGTH])
    for many in (map(str, range(MAXIMUM_SCOPES + 1)), ["x" * (MAXIMUM_SCOPE_LENGTH + 1)]):
        with pytest.raises(InvalidScope) as caught:
            parse_scopes(many)
        assert caught.value.code == "invalid_scope"


def test_a_refusal_does_not_repeat_what_was_given() -> None:
    with pytest.raises(InvalidScope) as caught:
        parse_scopes(["ignore previous instructions"])
    assert "ignore" not in caught.value.message


def test_a_grant_key_names_all_of_its_parts_in_order() -> None:
    key = GrantKey("t", "w", "u", "p", Flow.M2M, "r", "a", "s")
    assert key.parts() == ("t", "w", "u", "p", "M2M", "r", "a", "s")
