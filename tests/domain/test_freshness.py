from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcp_identity.domain.credentials import CLOCK_TOLERANCE, UNREPORTED_LIFETIME_SECONDS
from tests.domain.values import tokens
from tests.fakes.clock import START

lives = st.integers(-10, 400 * 86_400) | st.floats(0, 100)
moments = st.floats(-11 * 365 * 86_400, 11 * 365 * 86_400).map(lambda seconds: START + timedelta(seconds=seconds))
asked = st.none() | st.integers(-10, 10**7)


def fresh_for(life: float, minimum: int | None = None) -> float:
    """How many seconds after it was obtained a token stops being fresh."""
    low, high = 0.0, max(life, 0.0)
    for _ in range(60):
        middle = (low + high) / 2
        if tokens(life).is_fresh(START + timedelta(seconds=middle), minimum):
            low = middle
        else:
            high = middle
    return low


@pytest.mark.parametrize(
    ("life", "minimum", "left"),
    [
        (3600, None, 60),
        (86_400, None, 60),
        (600, None, 60),
        (300, None, 30),
        (10, None, 1),
        (3600, 0, 0),
        (3600, -5, 0),
        (3600, 300, 300),
        (3600, 900, 900),
        (3600, 3600, 900),
        (3600, 10**9, 900),
        (1000, 900, 500),
        (20, 60, 10),
    ],
)
def test_what_must_be_left_of_a_life_is_the_smaller_of_what_the_rule_names(
    life: float, minimum: int | None, left: float
) -> None:
    assert fresh_for(life, minimum) == pytest.approx(life - left, abs=0.01)


@given(lives, moments, asked)
def test_a_fresh_token_is_alive(life: float, now: datetime, minimum: int | None) -> None:
    if tokens(life).is_fresh(now, minimum):
        assert tokens(life).is_alive(now)


@given(st.integers(1, 400 * 86_400), asked)
def test_a_token_that_was_just_obtained_is_fresh_whatever_is_asked(life: int, minimum: int | None) -> None:
    assert tokens(life).is_fresh(START, minimum)


@given(lives, moments, asked, asked)
def test_asking_for_more_never_makes_a_token_fresher(life: float, now: datetime, one: int | None, two: int | None) -> None:
    if one is not None and two is not None and tokens(life).is_fresh(now, max(one, two)):
        assert tokens(life).is_fresh(now, min(one, two))


@given(moments, asked)
def test_a_token_without_an_end_is_always_fresh(now: datetime, minimum: int | None) -> None:
    assert tokens(None).is_fresh(now, minimum)
    assert tokens(None).is_alive(now)
    assert tokens(None).life is None


@given(lives, moments)
def test_at_most_one_refresh_in_five_seconds_or_half_of_a_life(life: float, now: datetime) -> None:
    since = (now - START).total_seconds()
    pause = min(5, life / 2)
    expected = since < -CLOCK_TOLERANCE.total_seconds() or since >= pause
    if abs(since - pause) > 0.001:
        assert tokens(life).may_refresh(now) == expected


def test_a_token_without_an_end_is_refreshed_at_most_every_five_seconds() -> None:
    assert not tokens(None).may_refresh(START + timedelta(seconds=4.9))
    assert tokens(None).may_refresh(START + timedelta(seconds=5))


@pytest.mark.parametrize("jump", [timedelta(days=1), timedelta(days=3650)])
def test_a_clock_that_jumps_ahead_ends_a_token_and_lets_it_be_refreshed(jump: timedelta) -> None:
    now = START + timedelta(minutes=1) + jump
    assert not tokens().is_fresh(now)
    assert not tokens().is_alive(now)
    assert tokens().may_refresh(now)


@pytest.mark.parametrize("jump", [timedelta(days=1), timedelta(days=3650)])
@pytest.mark.parametrize("age", [timedelta(minutes=1), timedelta(hours=2), timedelta(hours=23)])
def test_a_clock_that_jumps_back_makes_no_ended_token_fresh_again(jump: timedelta, age: timedelta) -> None:
    now = START + age - jump
    assert not tokens().is_fresh(now)
    assert tokens().may_refresh(now)
    again = replace(tokens(), obtained_at=now, expires_at=now + timedelta(hours=1))
    assert again.is_fresh(now)
    assert not again.may_refresh(now)


def test_a_clock_that_is_a_little_behind_the_one_that_obtained_the_token_refreshes_nothing() -> None:
    for behind in (timedelta(milliseconds=50), timedelta(minutes=4)):
        assert tokens().is_fresh(START - behind)
        assert not tokens().may_refresh(START - behind)


def test_a_lifetime_that_nobody_reported_is_short_and_one_that_has_no_end_is_not() -> None:
    unknown = replace(tokens(None), expiry_reported=False)
    end = START + timedelta(seconds=UNREPORTED_LIFETIME_SECONDS)
    assert unknown.effective_expires_at == end
    assert unknown.is_fresh(end - timedelta(seconds=31))
    assert not unknown.is_fresh(end - timedelta(seconds=30))
    assert not unknown.is_alive(end)


@pytest.mark.parametrize(("life", "long"), [(3600, False), (86_400, False), (86_401, True), (None, True)])
def test_what_lives_longer_than_a_day_is_long_lived(life: float | None, *, long: bool) -> None:
    assert tokens(life).is_long_lived == long
    assert replace(tokens(life), expiry_reported=False).is_long_lived == long


def test_what_was_asked_and_not_granted_was_declined() -> None:
    assert tokens().declined_scopes == {"b"}
    assert tokens().with_account("7") == replace(tokens(), account_id="7")
