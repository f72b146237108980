"""Granted scopes, in the words in which they were asked for."""

from __future__ import annotations

import pytest

from mcp_identity.domain.provider import Dialect
from mcp_identity.oauth.scopes import granted, join, read, with_implied

FULL = "https://www.example.com/auth/userinfo.email"
DIALECT = Dialect(
    scope_aliases={"email": FULL},
    implied_scopes={"admin": ("write",), "write": ("read",)},
    unreported_scopes=("offline_access",),
    always_scopes=("openid",),
)


@pytest.mark.parametrize(
    ("reported", "requested", "expected"),
    [
        ({"a"}, {"a"}, {"a"}),
        ({"a"}, {"a", "b"}, {"a"}),
        ({"a", "b"}, {"a"}, {"a", "b"}),
        ({FULL}, {"email"}, {"email"}),
        ({FULL}, {FULL}, {FULL}),
        ({FULL}, {"email", FULL}, {"email", FULL}),
        ({FULL}, {"a"}, {"email"}),
        ({"email"}, {"email"}, {"email"}),
        ({"a"}, {"a", "offline_access"}, {"a", "offline_access"}),
        ({"admin"}, {"admin"}, {"admin"}),
        ({"admin"}, {"admin", "read"}, {"admin", "read"}),
        ({"read"}, {"admin"}, {"read"}),
        ({"a", "openid"}, {"a"}, {"a"}),
        ({"a", "openid"}, {"a", "openid"}, {"a", "openid"}),
        (set[str](), {"a"}, set[str]()),
    ],
)
def test_a_report_is_said_in_the_words_of_the_request(reported: set[str], requested: set[str], expected: set[str]) -> None:
    assert granted(frozenset(reported), frozenset(requested), DIALECT) == frozenset(expected)


def test_what_a_scope_includes_is_found_through_all_steps_and_circles_end() -> None:
    assert with_implied(frozenset({"admin"}), DIALECT) == frozenset({"admin", "write", "read"})
    circle = Dialect(implied_scopes={"a": ("b",), "b": ("a",)})
    assert with_implied(frozenset({"a"}), circle) == frozenset({"a", "b"})


@pytest.mark.parametrize(
    ("text", "separators", "expected"),
    [
        ("a b", " ", {"a", "b"}),
        ("a,b", " ", {"a,b"}),
        ("a,b", ",", {"a", "b"}),
        ("a, b  c", ", ", {"a", "b", "c"}),
        ("a^b]c", "^]", {"a", "b", "c"}),
        ("", " ", set[str]()),
        (" a ", " ", {"a"}),
    ],
)
def test_answers_separate_scopes_as_the_data_says(text: str, separators: str, expected: set[str]) -> None:
    assert read(text, Dialect(response_scope_separators=separators)) == frozenset(expected)


def test_requests_join_scopes_in_one_order() -> None:
    assert join(["b", "a", "b"], Dialect(scope_separator=",")) == "a,b"
