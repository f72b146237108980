"""Key sets of issuers: fetched together, seldom, and never because a stranger wants it.

covers: A22, A23
"""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from itertools import pairwise
from typing import Any

import anyio
import pytest

from mcp_identity.broker.tasks import OwnedTasks
from mcp_identity.domain.errors import VaultUnavailable
from mcp_identity.domain.http import HttpResponse
from mcp_identity.domain.issuer import Issuer
from mcp_identity.inbound.keys import AGED_SECONDS, COOL_DOWN_SECONDS, FRESH_SECONDS, STALE_SECONDS, UNKNOWN_SECONDS, IssuerKeys
from mcp_identity.transport import Transport
from tests.fakes.clock import FakeClock
from tests.fakes.identity_provider import FakeIdentityProvider, respond_json, signing_key
from tests.inbound.kit import issuer_of


@pytest.fixture
async def tasks() -> AsyncGenerator[OwnedTasks]:
    owned = OwnedTasks()
    async with owned.running(lambda: 5.0):
        yield owned


@pytest.fixture
def issuer(idp: FakeIdentityProvider) -> Issuer:
    return issuer_of(idp)


@pytest.fixture
def keys(idp: FakeIdentityProvider, clock: FakeClock, tasks: OwnedTasks) -> IssuerKeys:
    return IssuerKeys(idp.transport, clock, tasks)


async def ids(keys: IssuerKeys, issuer: Issuer, key_id: str | None = "1") -> list[str | None]:
    return [key.key_id for key in await keys.get(issuer, key_id)]


async def settle(idp: FakeIdentityProvider, fetches: int) -> None:
    """Let fetches end that nobody waits for."""
    with anyio.fail_after(5):
        while idp.jwks_fetches < fetches:
            await anyio.lowlevel.checkpoint()
        for _ in range(10):
            await anyio.lowlevel.checkpoint()


async def test_keys_are_fetched_once_and_kept(idp: FakeIdentityProvider, issuer: Issuer, keys: IssuerKeys) -> None:
    for _ in range(100):
        assert await ids(keys, issuer) == ["1"]
    assert idp.jwks_fetches == 1


async def test_ten_thousand_random_key_ids_cause_two_fetches_a_minute(
    idp: FakeIdentityProvider, issuer: Issuer, keys: IssuerKeys, clock: FakeClock
) -> None:
    minute = list[int]()
    for number in range(10_000):
        if number % 5000 == 0:
            minute.append(idp.jwks_fetches)
        assert f"random-{number}" not in await ids(keys, issuer, f"random-{number}")
        clock.advance(60 / 5000)
    minute.append(idp.jwks_fetches)
    assert [after - before for before, after in pairwise(minute)] == [2, 2]


async def test_everybody_who_waits_shares_one_fetch(idp: FakeIdentityProvider, issuer: Issuer, keys: IssuerKeys) -> None:
    idp.knobs.hold = anyio.Event()
    found = list[list[str | None]]()

    async def ask(number: int) -> None:
        found.append(await ids(keys, issuer, "1" if number % 2 else f"unknown-{number}"))

    async with anyio.create_task_group() as group:
        for number in range(200):
            group.start_soon(ask, number)
        await idp.knobs.holding.wait()
        idp.knobs.hold.set()
    assert found == [["1"]] * 200
    assert idp.jwks_fetches == 1


async def test_who_begins_a_fetch_and_leaves_does_not_end_it(
    idp: FakeIdentityProvider, issuer: Issuer, keys: IssuerKeys
) -> None:
    idp.knobs.hold = anyio.Event()
    found = list[list[str | None]]()

    async def ask() -> None:
        found.append(await ids(keys, issuer))

    async with anyio.create_task_group() as group:
        async with anyio.create_task_group() as first:
            first.start_soon(ask)
            await idp.knobs.holding.wait()
            group.start_soon(ask)
            await anyio.lowlevel.checkpoint()
            first.cancel_scope.cancel()
        idp.knobs.hold.set()
    assert found == [["1"]]
    assert idp.jwks_fetches == 1


async def test_a_new_key_is_found_at_once_where_the_last_fetch_is_long_enough_ago(
    idp: FakeIdentityProvider, issuer: Issuer, keys: IssuerKeys, clock: FakeClock
) -> None:
    assert await ids(keys, issuer) == ["1"]
    idp.rotate("2")
    assert await ids(keys, issuer, "2") == ["1"]
    clock.advance(COOL_DOWN_SECONDS)
    assert await ids(keys, issuer, "2") == ["2", "1"]
    assert idp.jwks_fetches == 2


async def test_a_key_id_that_the_issuer_did_not_have_causes_no_fetch_for_a_while(
    idp: FakeIdentityProvider, issuer: Issuer, keys: IssuerKeys, clock: FakeClock
) -> None:
    assert await ids(keys, issuer, "gone") == ["1"]
    for _ in range(3):
        clock.advance(COOL_DOWN_SECONDS)
        assert await ids(keys, issuer, "gone") == ["1"]
    assert idp.jwks_fetches == 1
    clock.advance(UNKNOWN_SECONDS)
    idp.rotate("gone")
    assert "gone" in await ids(keys, issuer, "gone")


async def test_a_key_id_that_the_issuer_was_not_asked_for_is_not_held_to_be_unknown(
    idp: FakeIdentityProvider, issuer: Issuer, keys: IssuerKeys, clock: FakeClock
) -> None:
    assert await ids(keys, issuer) == ["1"]
    idp.knobs.down = True
    clock.advance(COOL_DOWN_SECONDS)
    assert await ids(keys, issuer, "2") == ["1"]
    idp.knobs.down = False
    idp.rotate("2")
    clock.advance(COOL_DOWN_SECONDS)
    assert "2" in await ids(keys, issuer, "2")


async def test_what_is_remembered_of_unknown_key_ids_is_bounded(
    idp: FakeIdentityProvider, issuer: Issuer, keys: IssuerKeys, clock: FakeClock
) -> None:
    for number in range(1200):
        clock.advance(COOL_DOWN_SECONDS)
        await keys.get(issuer, f"random-{number}")
    (found,) = keys._key_sets.values()  # pyright: ignore[reportPrivateUsage]
    assert len(found.unknown) <= 1000
    assert idp.jwks_fetches == 1200


async def test_a_removed_key_is_forgotten_soon(
    idp: FakeIdentityProvider, issuer: Issuer, keys: IssuerKeys, clock: FakeClock
) -> None:
    assert await ids(keys, issuer) == ["1"]
    idp.rotate("2", keep=False)
    clock.advance(FRESH_SECONDS + 1)
    assert await ids(keys, issuer) == ["1"]
    await settle(idp, 2)
    assert await ids(keys, issuer) == ["2"]
    idp.rotate("3", keep=False)
    clock.advance(AGED_SECONDS + 1)
    assert await ids(keys, issuer, "2") == ["3"]


@pytest.mark.parametrize(
    "answer",
    [
        HttpResponse(503),
        HttpResponse(429),
        HttpResponse(404, {"content-type": "text/html"}, b"<html>"),
        HttpResponse(200, {"content-type": "text/html"}, b"<html>"),
        HttpResponse(200, {"content-type": "application/json"}, b""),
        HttpResponse(200, {"content-type": "application/json"}, b"[]"),
        HttpResponse(200, {"content-type": "application/json"}, b'{"keys":{}}'),
        HttpResponse(200, {"content-type": "application/json"}, b'{"keys":[],"keys":[]}'),
        HttpResponse(200, {"content-type": "application/json"}, b"[" * 100_000),
        HttpResponse(204),
        HttpResponse(301, {"location": "https://evil.example/jwks"}),
        respond_json({"keys": []}),
        respond_json({"keys": [{"kty": "oct", "k": "AAAA", "kid": "1"}]}),
        respond_json({"keys": [{"kty": "RSA", "kid": str(number)} for number in range(101)]}),
        respond_json({"error": "server_error"}, 400),
    ],
    ids=lambda answer: f"{answer.status} {answer.body[:20]!r}",
)
async def test_an_answer_that_is_no_key_set_changes_nothing(
    answer: HttpResponse, idp: FakeIdentityProvider, issuer: Issuer, keys: IssuerKeys, clock: FakeClock
) -> None:
    assert await ids(keys, issuer) == ["1"]
    idp.knobs.jwks_answer = answer
    clock.advance(AGED_SECONDS + 1)
    assert await ids(keys, issuer) == ["1"]
    assert idp.jwks_fetches == 2


async def test_keys_stand_for_a_day_while_their_issuer_is_down(
    idp: FakeIdentityProvider, issuer: Issuer, keys: IssuerKeys, clock: FakeClock
) -> None:
    assert await ids(keys, issuer) == ["1"]
    idp.knobs.down = True
    clock.advance(STALE_SECONDS - 60)
    assert await ids(keys, issuer) == ["1"]
    clock.advance(61)
    assert await ids(keys, issuer) == []
    idp.knobs.down = False
    clock.advance(COOL_DOWN_SECONDS)
    assert await ids(keys, issuer) == ["1"]


async def test_an_issuer_that_is_down_from_the_beginning_has_no_keys_and_is_asked_seldom(
    idp: FakeIdentityProvider, issuer: Issuer, keys: IssuerKeys, clock: FakeClock
) -> None:
    idp.knobs.down = True
    for _ in range(60):
        assert await ids(keys, issuer) == []
        clock.advance(1)
    assert idp.jwks_fetches == 2


async def test_a_fetch_that_takes_long_delays_nobody_whose_key_is_known(
    idp: FakeIdentityProvider, issuer: Issuer, keys: IssuerKeys, clock: FakeClock
) -> None:
    assert await ids(keys, issuer) == ["1"]
    idp.knobs.hold = anyio.Event()
    clock.advance(FRESH_SECONDS + 1)
    assert await ids(keys, issuer) == ["1"]
    await idp.knobs.holding.wait()
    assert await ids(keys, issuer) == ["1"]
    idp.knobs.hold.set()


async def test_two_tenants_of_one_provider_share_its_keys(idp: FakeIdentityProvider, keys: IssuerKeys) -> None:
    for tenant in ("one", "two", "three"):
        assert await ids(keys, issuer_of(idp, tenant=tenant)) == ["1"]
    assert idp.jwks_fetches == 1


async def test_nothing_is_fetched_while_the_server_ends(idp: FakeIdentityProvider, issuer: Issuer, clock: FakeClock) -> None:
    keys = IssuerKeys(idp.transport, clock, OwnedTasks())
    with pytest.raises(VaultUnavailable):
        await keys.get(issuer, "1")
    assert idp.jwks_fetches == 0


# --- on a real port ---------------------------------------------------------------------------------------------------


async def test_redirects_are_not_followed_and_floods_are_cut(clock: FakeClock, tasks: OwnedTasks) -> None:
    """covers: A22."""
    idp, target = FakeIdentityProvider(now=clock.now), FakeIdentityProvider(now=clock.now)
    async with idp.serve(), target.serve():
        keys, issuer = IssuerKeys(Transport(), clock, tasks), issuer_of(idp, allow_http_loopback=True)
        idp.knobs.jwks_redirect = target.jwks_url
        assert await ids(keys, issuer) == []
        assert target.requests == []
        idp.knobs.jwks_redirect, idp.knobs.jwks_padding = "", 600 * 1024
        clock.advance(COOL_DOWN_SECONDS)
        assert await ids(keys, issuer) == []
        idp.knobs.jwks_padding = 400 * 1024
        clock.advance(COOL_DOWN_SECONDS)
        assert await ids(keys, issuer) == ["1"]
        idp.knobs.down = True
        clock.advance(AGED_SECONDS + 1)
        assert await ids(keys, issuer) == ["1"]


async def test_http_is_for_issuers_that_may_have_it(clock: FakeClock, tasks: OwnedTasks) -> None:
    idp = FakeIdentityProvider(now=clock.now)
    async with idp.serve():
        assert await ids(IssuerKeys(Transport(), clock, tasks), issuer_of(idp)) == []
        assert idp.requests == []


# --- what is in a key set ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes",
    [
        {"use": "enc"},
        {"use": None},
        {"key_ops": ["sign"]},
        {"key_ops": ["encrypt", "wrapKey"]},
        {"key_ops": "verify"},
        {"key_ops": []},
        {"kty": "oct"},
        {"kty": "EC"},
        {"kid": 1},
        {"alg": 1},
        {"n": "AQAB"},
        {"n": 1},
        {"n": "A" * 2000},
        {"e": "AQ"},
        {"e": None},
    ],
    ids=json.dumps,
)
async def test_a_key_that_is_not_for_signatures_or_not_sound_is_left_out(
    changes: dict[str, Any], idp: FakeIdentityProvider, issuer: Issuer, keys: IssuerKeys
) -> None:
    """covers: A05b."""
    idp.knobs.extra_keys = [signing_key("2").as_dict(private=False) | changes, "no object", None, [], 1]
    assert await ids(keys, issuer) == ["1"]


async def test_a_key_may_say_what_it_is_for_and_bring_what_we_do_not_read(
    idp: FakeIdentityProvider, issuer: Issuer, keys: IssuerKeys
) -> None:
    more: dict[str, Any] = {"key_ops": ["verify"], "x5c": ["broken"], "x5u": 1, "made-up": {}}
    idp.knobs.extra_keys = [signing_key("2").as_dict(private=False) | more]
    assert await ids(keys, issuer) == ["1", "2"]
