"""Is a token in use refreshed before it ends, beside the call that it answers, and never more than that?"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import anyio
import pytest

from mcp_identity.broker.ahead import is_ageing
from mcp_identity.domain.credentials import Flow, Grant, GrantKey, GrantState, Reason, Secret, TokenSet
from mcp_identity.providers import catalog
from tests.broker.kit import BY_URLS, Product, raising, running_product
from tests.fakes.authorization_server import respond_json
from tests.fakes.clock import START

AT_ONCE = 3
OUTLIVING = {**BY_URLS, "tokens_outlive_refresh": "yes"}
EARLY, LATE = 3600 - 725, 3600 - 430
"""In an hour's life: before the first grant's moment has come, and after the last one's."""


@pytest.fixture
async def idp(tmp_path: Path) -> AsyncGenerator[Product]:
    """The product with a provider for user consents, `idp`, refreshing ahead of time."""
    async with running_product(tmp_path / "home", refreshes_ahead=AT_ONCE) as one:
        await one.add(settings=OUTLIVING)
        yield one


async def settled(product: Product) -> None:
    """Until nothing is under way beside the calls."""
    assert await product.prepared.tasks.drain(10)


async def connected(product: Product, count: int) -> list[Product]:
    """So many workloads, each with a grant."""
    found = [await product.as_workload(f"agent-{number}") for number in range(count)]
    for each in found:
        await each.connected()
    return found


# When


def grant(life: timedelta, *, row: str = "row", generation: int = 1, reported: bool = True) -> Grant:
    key = GrantKey("default", "workload", "user", "provider", Flow.USER_FEDERATION)
    ends = START + life if reported else None
    tokens = TokenSet(Secret("a"), "Bearer", frozenset(), frozenset(), START, expires_at=ends, expiry_reported=reported)
    return Grant(row, key, GrantState.ACTIVE, generation, tokens)


@pytest.mark.parametrize("life", [timedelta(minutes=1), timedelta(minutes=5), timedelta(hours=1)])
def test_the_moment_is_in_the_last_fifth_and_before_a_call_would_have_to_wait(life: timedelta) -> None:
    moments: list[float] = []
    for number in range(100):
        one = grant(life, row=f"row-{number}")
        steps = [step for step in range(1001) if is_ageing(one, START + life * step / 1000)]
        assert steps == list(range(steps[0], 1001))
        moments.append(steps[0] / 1000)
        assert one.tokens is not None
        assert one.tokens.is_fresh(START + life * steps[0] / 1000)
    assert min(moments) >= 0.8
    assert max(moments) <= 0.9
    assert len(set(moments)) > 30


def test_a_long_lived_token_is_left_alone_until_its_last_hour() -> None:
    one = grant(timedelta(days=30))
    assert not is_ageing(one, START + timedelta(days=30) - timedelta(minutes=61))
    assert is_ageing(one, START + timedelta(days=30) - timedelta(minutes=30))


def test_another_generation_draws_another_moment() -> None:
    now = START + timedelta(seconds=3600 - 560)
    assert len({is_ageing(grant(timedelta(hours=1), generation=number), now) for number in range(20)}) == 2


def test_what_has_no_end_or_a_very_near_one_has_no_moment() -> None:
    for step in range(100):
        assert not is_ageing(grant(timedelta(seconds=59)), START + timedelta(seconds=step))
    never = grant(timedelta(hours=1))
    assert never.tokens is not None
    never = replace(never, tokens=replace(never.tokens, expires_at=None))
    assert not is_ageing(never, START + timedelta(days=365))
    assert not is_ageing(replace(never, tokens=None), START)


def test_a_lifetime_that_nobody_reported_has_a_moment_too() -> None:
    assert is_ageing(grant(timedelta(), reported=False), START + timedelta(seconds=290))


@pytest.mark.parametrize("jump", [timedelta(days=-1), timedelta(days=-3650), timedelta(minutes=-10)])
def test_a_clock_that_was_set_back_makes_no_token_old(jump: timedelta) -> None:
    assert not is_ageing(grant(timedelta(hours=1)), START + jump)


# What


async def test_the_caller_gets_the_good_token_at_once_and_the_next_one_a_new_one(idp: Product) -> None:
    first = await idp.connected()
    idp.clock.advance(EARLY)
    assert (await idp.token()).access_token == first.access_token
    await settled(idp)
    assert idp.server.count("refresh_token") == 0
    idp.clock.advance(LATE - EARLY)
    idp.server.hold = anyio.Event()
    for _ in range(20):  # the vendor takes its time, and nobody notices
        served = await idp.token()
        assert (served.access_token, served.refreshed) == (first.access_token, False)
    assert idp.server.count("refresh_token") == 1
    hold, idp.server.hold = idp.server.hold, None
    hold.set()
    await settled(idp)
    second = await idp.token()
    assert second.access_token != first.access_token
    assert not second.refreshed
    assert idp.server.is_active(second.access_token.reveal())
    found = await idp.grant()
    assert (found.lease_owner, found.intent, found.generation) == ("", 0, 2)
    assert await idp.outcomes("refresh") == ["ok", "ok"]  # begun, and stored


async def test_who_needs_a_longer_life_waits_for_the_refresh_that_is_under_way(idp: Product) -> None:
    await idp.connected()
    idp.clock.advance(LATE)
    idp.server.hold = anyio.Event()
    await idp.token()
    async with anyio.create_task_group() as group:
        group.start_soon(lambda: idp.token(minimum_lifetime_seconds=900))
        await anyio.wait_all_tasks_blocked()
        hold, idp.server.hold = idp.server.hold, None
        hold.set()
    assert idp.server.count("refresh_token") == 1


async def test_a_grant_that_nobody_uses_is_left_alone(idp: Product) -> None:
    used, unused = await connected(idp, 2)
    idp.clock.advance(LATE)
    await used.token()
    await settled(idp)
    assert idp.server.count("refresh_token") == 1
    idp.clock.advance(3600)
    assert (await unused.token()).refreshed


async def test_the_clients_own_token_is_obtained_ahead_as_well(tmp_path: Path) -> None:
    async with running_product(tmp_path / "home", refreshes_ahead=AT_ONCE) as m2m:
        await m2m.add(flows="M2M")
        first = await m2m.token()
        m2m.clock.advance(LATE)
        assert (await m2m.token()).access_token == first.access_token
        await settled(m2m)
        assert (await m2m.token()).access_token != first.access_token
        assert m2m.server.count("client_credentials") == 2


async def test_without_a_refresh_token_nothing_is_begun(idp: Product) -> None:
    idp.server.gives_refresh_tokens = False
    first = await idp.connected()
    idp.clock.advance(LATE)
    assert (await idp.token()).access_token == first.access_token
    await settled(idp)
    assert await idp.outcomes("refresh") == []


async def test_where_a_refresh_may_end_the_token_before_it_a_good_one_is_left_alone(tmp_path: Path) -> None:
    """Its caller would hold a dead one."""
    async with running_product(tmp_path / "home", refreshes_ahead=AT_ONCE) as one:
        await one.add()
        first = await one.connected()
        one.clock.advance(LATE)
        assert (await one.token()).access_token == first.access_token
        await settled(one)
        assert one.server.count("refresh_token") == 0


@pytest.mark.parametrize(("vendor", "outlives"), [("google", True), ("microsoft", True), ("github", False), ("custom", False)])
def test_what_is_known_of_vendors(vendor: str, *, outlives: bool) -> None:
    settings = {"tenant": "common"} if vendor == "microsoft" else {}
    assert catalog.resolve(catalog.get(vendor), settings).dialect.tokens_outlive_refresh == outlives


async def test_a_command_does_not_wait_at_its_end_for_what_it_does_not_need(idp: Product) -> None:
    await idp.connected()
    idp.clock.advance(LATE)
    command = replace(idp, principal=replace(idp.principal, authenticated_by="cli"))
    await command.token()
    assert idp.server.count("refresh_token") == 0


async def test_it_can_be_turned_off(tmp_path: Path) -> None:
    async with running_product(tmp_path / "home", refreshes_ahead=0) as one:
        await one.add(settings=OUTLIVING)
        await one.connected()
        one.clock.advance(LATE)
        await one.token()
        await settled(one)
        assert one.server.count("refresh_token") == 0


# How it fails


async def test_a_failure_is_in_the_trail_and_nowhere_else(idp: Product) -> None:
    first = await idp.connected()
    idp.clock.advance(LATE)
    idp.server.answer = respond_json({}, 503)
    for _ in range(5):
        assert (await idp.token()).access_token == first.access_token
        await settled(idp)
    assert idp.server.count("refresh_token") == 1  # and the grant is left in peace for a while
    assert await idp.outcomes("refresh") == ["ok", "upstream_unavailable"]
    assert (await idp.grant()).state is GrantState.ACTIVE
    idp.clock.advance(5)
    idp.server.answer = None
    await idp.token()
    await settled(idp)
    assert (await idp.token()).access_token != first.access_token


async def test_a_failure_of_the_vault_is_nobodys_either(idp: Product) -> None:
    first = await idp.connected()
    idp.clock.advance(LATE)
    await idp.sql("CREATE TRIGGER held BEFORE UPDATE ON grants BEGIN SELECT RAISE(ABORT, 'no'); END")
    assert (await idp.token()).access_token == first.access_token
    await settled(idp)
    assert idp.server.count("refresh_token") == 0
    assert await idp.outcomes("refresh") == []
    assert (await idp.token()).access_token == first.access_token


async def test_a_refusal_means_what_it_means_after_any_refresh(idp: Product) -> None:
    await idp.connected()
    idp.clock.advance(LATE)
    idp.server.families[0].revoked = True
    await idp.token()
    await settled(idp)
    assert (await idp.link()).reason is Reason.REFRESH_REJECTED


async def test_a_lost_answer_leaves_its_intent_as_after_any_refresh(idp: Product) -> None:
    await idp.connected()
    idp.clock.advance(LATE)
    idp.server.loses_answers = True
    await idp.token()
    await settled(idp)
    assert (await idp.grant()).intent == 2
    idp.server.loses_answers = False
    idp.clock.advance(600)
    assert (await idp.link()).reason is Reason.LOST_IN_FLIGHT


async def test_where_something_is_wrong_with_the_vendor_nothing_is_begun(idp: Product) -> None:
    ageing, *others = await connected(idp, 6)
    idp.clock.advance(LATE)
    idp.server.answer = respond_json({}, 503)
    for each in others:
        await each.token(minimum_lifetime_seconds=900)  # in a hurry, so it asks the vendor, and is served what lives
    before = len(idp.server.requests)
    idp.server.answer = None
    await ageing.token()
    await settled(idp)
    assert len(idp.server.requests) == before


async def test_another_processs_refresh_is_not_waited_for(idp: Product) -> None:
    await idp.connected()
    idp.clock.advance(LATE)
    before = await idp.grant()
    await idp.run(lambda records: records.take_lease(before, "another process", intent=True))
    await idp.token()
    await settled(idp)
    assert idp.server.count("refresh_token") == 0
    assert (await idp.grant()).lease_owner == "another process"


# How many


async def test_only_so_many_are_under_way_at_once_whatever_the_clock_did(idp: Product) -> None:
    """A clock that jumps brings the moment of every grant at once."""
    many = await connected(idp, 8)
    idp.clock.wall += timedelta(seconds=LATE)
    idp.server.hold = anyio.Event()
    for _ in range(2):
        for each in many:
            await each.token()
    await anyio.wait_all_tasks_blocked()
    assert idp.server.count("refresh_token") == AT_ONCE
    hold, idp.server.hold = idp.server.hold, None
    hold.set()
    await settled(idp)
    for each in many:
        await each.token()
        await settled(idp)
    assert idp.server.count("refresh_token") == len(many)


@pytest.mark.parametrize("jump", [timedelta(days=1), timedelta(days=3650), timedelta(days=-1), timedelta(days=-3650)])
async def test_after_a_jump_no_ended_token_leaves_and_each_grant_in_use_is_refreshed_once(
    idp: Product, jump: timedelta
) -> None:
    many = await connected(idp, 4)
    idp.clock.wall += jump
    for _ in range(3):
        for each in many:
            released = await each.token()
            assert released.expires_at is not None
            assert released.expires_at > idp.clock.now()
        await settled(idp)
        idp.clock.advance(10)
    assert idp.server.count("refresh_token") == len(many)


async def test_a_server_that_ends_begins_nothing(tmp_path: Path) -> None:
    async with running_product(tmp_path / "home", refreshes_ahead=AT_ONCE) as one:
        await one.add(settings=OUTLIVING)
        await one.connected()
        one.clock.advance(LATE)
        one.prepared.tasks._group = None  # pyright: ignore[reportPrivateUsage] - as at the end
        await one.token()
        with raising("vault_unavailable"):
            await one.token(minimum_lifetime_seconds=900)
