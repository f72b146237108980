# pyright: reportPrivateUsage=false
"""What becomes of a vendor that fails, hangs, limits our rate or does not know us, and of all who want something of it?"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import replace
from pathlib import Path

import anyio
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from mcp_identity.broker import upstreams as module
from mcp_identity.broker.answers import ProviderSpec
from mcp_identity.broker.breaker import FAILURES, OPEN_SECONDS, REFUSED_SECONDS, Breaker, Result, Ticket
from mcp_identity.broker.upstreams import Upstreams, api_endpoint
from mcp_identity.domain.credentials import GrantState, Secret
from mcp_identity.domain.errors import IdentityError, UpstreamTls, UpstreamUnavailable
from mcp_identity.domain.http import HttpResponse
from mcp_identity.domain.provider import CredentialProvider, ProviderKind
from tests.broker.kit import Product, raising, running_product
from tests.fakes.authorization_server import CLIENT_SECRET, FakeAuthorizationServer, respond_json
from tests.fakes.clock import FakeClock

DOWN = respond_json({}, 503)


# The state machine


class Requests(RuleBasedStateMachine):
    """Requests to one endpoint, in every order in which they can begin and end, against what is promised of it."""

    def __init__(self) -> None:
        super().__init__()
        self.breaker = Breaker()
        self.now = 1000.0
        self.under_way: list[Ticket] = []
        self.in_a_row = 0
        self.last: Result | None = None

    @rule(seconds=st.sampled_from([0.5, 1.0, 10.0, OPEN_SECONDS, REFUSED_SECONDS]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    @rule()
    def somebody_asks(self) -> None:
        left = self.breaker.seconds_left(self.now)
        ticket = self.breaker.admit(self.now)
        assert (ticket is None) == (left > 0)
        if ticket is not None:
            self.under_way.append(ticket)

    @rule()
    def a_person_asks_without_leave(self) -> None:
        self.under_way.append(Ticket())

    @precondition(lambda self: self.under_way)
    @rule(which=st.integers(0, 100), result=st.sampled_from(list(Result)))
    def one_ends(self, which: int, result: Result) -> None:
        ticket = self.under_way.pop(which % len(self.under_way))
        was_closed, was_trial = self.breaker.is_closed, bool(ticket.probe) and ticket.probe == self.breaker.probe
        opened = self.breaker.give_back(ticket, result, self.now)
        if result is Result.SUCCESS:
            self.in_a_row = 0
            assert self.breaker.is_closed
            assert self.breaker.admit(self.now) == Ticket()
        elif result is Result.CLIENT_REFUSED:
            assert opened
            assert self.breaker.seconds_left(self.now) >= REFUSED_SECONDS
            self.in_a_row = 0
        elif result is Result.FAILURE and was_closed:
            self.in_a_row += 1
            assert opened == (self.in_a_row == FAILURES)
            if opened:
                assert self.breaker.seconds_left(self.now) == OPEN_SECONDS
                self.in_a_row = 0
        elif result is Result.FAILURE and was_trial:
            assert opened
            assert self.breaker.seconds_left(self.now) >= OPEN_SECONDS
        else:
            assert not opened
            assert self.breaker.is_closed == was_closed

    @invariant()
    def at_most_one_tries_a_half_open_endpoint(self) -> None:
        trials = [ticket for ticket in self.under_way if ticket.probe and ticket.probe == self.breaker.probe]
        assert len(trials) <= 1
        if not self.breaker.is_closed and self.breaker.probe:
            assert len(trials) == 1

    @invariant()
    def it_always_comes_to_an_end(self) -> None:
        assert self.breaker.seconds_left(self.now) <= REFUSED_SECONDS + OPEN_SECONDS


def test_every_order_of_requests_keeps_the_promises_of_the_breaker() -> None:
    checks = (HealthCheck.too_slow, HealthCheck.data_too_large)
    run_state_machine_as_test(Requests, settings=settings(stateful_step_count=60, deadline=None, suppress_health_check=checks))


# One vendor


@pytest.fixture
async def many(tmp_path: Path) -> AsyncGenerator[list[Product]]:
    """Seven workloads, each with a grant whose token has ended, at one provider."""
    async with running_product(tmp_path / "home") as product:
        await product.add()
        found = [await product.as_workload(f"agent-{number}") for number in range(7)]
        for each in found:
            await each.connected()
        product.clock.advance(3600)
        yield found


async def fail(product: Product, code: str = "upstream_unavailable") -> IdentityError:
    with raising(code) as told:
        await product.get()
    return told.value


async def open_it(many: list[Product]) -> None:
    """Five grants fail, one after the other."""
    server = many[0].server
    server.answer = DOWN
    for each in many[:FAILURES]:
        await fail(each)


async def test_after_five_failures_nobody_is_sent_there_for_half_a_minute(many: list[Product]) -> None:
    await open_it(many)
    first = many[0]
    before = len(first.server.requests)
    for each in many:
        told = await fail(each)
        assert told.retry_after_seconds is not None
        assert 1 <= told.retry_after_seconds <= OPEN_SECONDS
        assert told.retryable
    first.clock.advance(OPEN_SECONDS - 1)
    await fail(many[6])
    assert len(first.server.requests) == before
    assert all(grant.lease_owner == "" for grant in await first.grants())


async def test_a_refusal_by_the_breaker_takes_no_lease_and_leaves_its_row_in_the_trail(many: list[Product]) -> None:
    await open_it(many)
    counters = sorted(grant.lease_counter for grant in await many[0].grants())
    before = await many[0].outcomes("refresh")
    for each in many[5:]:
        await fail(each)
    assert sorted(grant.lease_counter for grant in await many[0].grants()) == counters
    assert await many[0].outcomes("refresh") == before
    assert (await many[0].outcomes("get_token"))[-2:] == ["upstream_unavailable"] * 2


async def test_then_one_tries_and_the_others_wait_for_what_comes_of_it(many: list[Product]) -> None:
    await open_it(many)
    first = many[0]
    first.clock.advance(OPEN_SECONDS)
    first.server.answer, first.server.hold = None, anyio.Event()
    before = len(first.server.requests)
    async with anyio.create_task_group() as group:
        group.start_soon(many[0].token)
        await until(first.server.holding)
        for each in many[1:]:
            told = await fail(each)
            assert told.retry_after_seconds == 1
        assert len(first.server.requests) == before + 1
        hold, first.server.hold = first.server.hold, None
        hold.set()
    for each in many[1:]:
        assert (await each.token()).refreshed


async def test_a_trial_that_fails_begins_the_half_minute_anew(many: list[Product]) -> None:
    await open_it(many)
    first = many[0]
    first.clock.advance(OPEN_SECONDS)
    await fail(many[6])
    before = len(first.server.requests)
    first.clock.advance(OPEN_SECONDS - 1)
    await fail(many[5])
    assert len(first.server.requests) == before


async def test_a_trial_that_is_not_needed_leaves_it_to_the_next(many: list[Product]) -> None:
    """The grant was revoked meanwhile: nothing was sent, so nothing is known."""
    await open_it(many)
    first = many[0]
    first.clock.advance(OPEN_SECONDS)
    provider = await first.broker.directory.get("default", "idp")
    upstreams = first.prepared.graph.broker._services.upstreams
    async with upstreams.turn(provider, provider.server.token_url):
        await fail(many[6])
    first.server.answer = None
    assert (await many[6].token()).refreshed


async def test_while_it_is_open_a_token_that_lives_is_served(many: list[Product]) -> None:
    await open_it(many)
    first = many[0]
    fresh = await first.as_workload("fresh")
    first.server.answer = None
    released = await fresh.connected()  # the code of a person at the browser is exchanged all the same
    first.server.answer = DOWN
    first.clock.advance(3590)
    await open_it(many)
    before = len(first.server.requests)
    assert (await fresh.token()).access_token == released.access_token
    assert len(first.server.requests) == before


async def test_a_person_at_the_browser_is_never_turned_away_and_a_success_helps_everybody(many: list[Product]) -> None:
    await open_it(many)
    newcomer = await many[0].as_workload("newcomer")
    many[0].server.answer = None
    await newcomer.connected()
    assert (await many[6].token()).refreshed


async def test_another_vendor_notices_nothing(many: list[Product]) -> None:
    first = many[0]
    await first.add("other", flows="M2M")
    await open_it(many)
    first.server.answer = None
    assert (await first.token(provider="other")).refreshed


async def test_refused_connections_and_nonsense_and_a_hostile_redirect_open_it_alike(many: list[Product]) -> None:
    first = many[0]
    answers = [
        HttpResponse(200, {"content-type": "text/html"}, b"<html>"),
        HttpResponse(302, {"location": "https://evil.example.com"}, b""),
        respond_json({"error": "temporarily_unavailable"}, 400),
        respond_json({}, 500),
    ]
    for each, answer in zip(many, answers, strict=False):
        first.server.answer = answer
        with pytest.raises(IdentityError):
            await each.get()
    first.server.refuses_connections = True
    await fail(many[4])
    first.server.refuses_connections, first.server.answer = False, None
    before = len(first.server.requests)
    await fail(many[5])
    assert len(first.server.requests) == before


async def test_an_orderly_refusal_is_no_failure_of_the_vendor(many: list[Product]) -> None:
    first = many[0]
    for family in first.server.families[:6]:
        family.revoked = True
    for each in many[:6]:
        await each.link()
    assert (await many[6].token()).refreshed


# What the vendor asks for itself


@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize("dated", [False, True])
async def test_a_time_that_the_vendor_names_holds_for_all_its_grants(many: list[Product], status: int, *, dated: bool) -> None:
    first = many[0]
    after = "Thu, 01 Jan 2026 13:02:00 GMT" if dated else "120"  # the clock of this test stands at 13:00
    first.server.answer = respond_json({}, status, retry_after=after)
    assert (await fail(first)).retry_after_seconds == 120
    first.server.answer = None
    before = len(first.server.requests)
    first.clock.advance(100)
    for each in many:
        told = await fail(each)
        assert told.retry_after_seconds == 20
    assert len(first.server.requests) == before
    first.clock.advance(20)
    for each in many:
        assert (await each.token()).refreshed


async def test_nobody_is_kept_waiting_for_more_than_an_hour_by_a_vendor(many: list[Product]) -> None:
    first = many[0]
    first.server.answer = respond_json({}, 429, retry_after="999999999")
    await fail(first)
    first.server.answer = None
    first.clock.advance(3600)
    assert (await many[1].token()).refreshed


# A vendor that does not know us


async def test_a_client_that_is_refused_is_the_operators_to_mend_and_the_vendor_is_not_hammered(many: list[Product]) -> None:
    first = many[0]
    first.server.answer = respond_json({"error": "invalid_client"}, 401)
    for each in many:
        told = await fail(each, "provider_misconfigured")
        assert "providers test idp" in told.message
    assert first.server.count("refresh_token") == 1
    assert (await first.outcomes("refresh"))[-1] == "upstream_rejected"
    assert {grant.state for grant in await first.grants()} == {GrantState.ACTIVE}
    first.server.answer = None
    first.clock.advance(REFUSED_SECONDS - 1)
    await fail(many[3], "provider_misconfigured")
    first.clock.advance(1)
    assert (await many[3].token()).refreshed


async def test_a_change_of_the_provider_begins_anew(many: list[Product]) -> None:
    first = many[0]
    first.server.answer = respond_json({"error": "invalid_client"}, 401)
    await fail(first, "provider_misconfigured")
    first.server.answer = None
    await first.broker.directory.update(first.call(), "idp", ProviderSpec(secret=Secret(CLIENT_SECRET)))
    assert (await many[1].token()).refreshed


async def test_while_the_client_is_refused_a_token_that_lives_is_served(idp: Product) -> None:
    before = await idp.connected()
    idp.clock.advance(3590)
    idp.server.answer = respond_json({"error": "invalid_client"}, 401)
    for _ in range(2):
        assert (await idp.token()).access_token == before.access_token
    assert idp.server.count("refresh_token") == 1


async def test_the_clients_own_tokens_know_the_same_states(m2m: Product) -> None:
    m2m.server.answer = respond_json({"error": "invalid_client"}, 401)
    for scope in ("a", "b", "c"):
        with raising("provider_misconfigured"):
            await m2m.get(scope)
    assert m2m.server.count("client_credentials") == 1


# Giving back


async def test_a_vendor_that_takes_nothing_back_is_asked_a_few_times_however_much_there_is(many: list[Product]) -> None:
    first = many[0]
    first.server.revocation_answer = DOWN
    outcomes = await first.broker.directory.remove(first.call(), "idp")
    assert [each.at_vendor for each in outcomes] == ["failed"] * len(many)
    assert len(first.server.revocations) == FAILURES


# Places


@pytest.fixture
def places(monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(module, "PLACES", 3)
    return 3


async def test_only_so_many_are_with_one_vendor_at_once_and_the_others_come_in_after_them(
    places: int, many: list[Product]
) -> None:
    server = many[0].server
    server.hold = anyio.Event()
    before = len(server.requests)
    async with anyio.create_task_group() as group:
        for each in many:
            group.start_soon(each.token)
        await until_count(server, before + places)
        await anyio.wait_all_tasks_blocked()
        assert len(server.requests) == before + places
        hold, server.hold = server.hold, None
        hold.set()
    assert server.count("refresh_token") == len(many)


async def test_beside_a_vendor_that_hangs_everybody_else_is_served(places: int, many: list[Product]) -> None:
    first = many[0]
    await first.add("healthy", flows="M2M")
    server = first.server
    async with anyio.create_task_group() as group:
        hold = server.hold = anyio.Event()
        before = len(server.requests)
        for each in many:
            group.start_soon(each.get)
        await until_count(server, before + places)
        server.hold = None  # for whoever comes now; the others hang on
        for number in range(30):
            assert (await first.token(f"scope-{number}", provider="healthy")).refreshed
        first.clock.advance(3)  # nobody has left for a while: whoever comes now is told at once
        late = await first.as_workload("late")
        await late.consent(await late.link())
        first.clock.advance(3600)
        told = await fail(late)
        assert told.retry_after_seconds == 1
        assert server.count("refresh_token") == places
        hold.set()


async def until(event: anyio.Event) -> None:
    with anyio.fail_after(10):
        await event.wait()


async def until_count(server: FakeAuthorizationServer, count: int) -> None:
    with anyio.fail_after(10):
        while len(server.requests) < count:
            await anyio.lowlevel.checkpoint()


async def test_who_gives_up_waiting_leaves_the_place_to_others() -> None:
    upstreams, provider = Upstreams(FakeAuthorizationServer(FakeClock().now), FakeClock()), a_provider()

    async def enter(inside: anyio.Event, leave: anyio.Event) -> None:
        async with upstreams.turn(provider, "https://idp.example.com/token"):
            inside.set()
            await leave.wait()

    async with anyio.create_task_group() as group:
        leave = anyio.Event()
        for _ in range(module.PLACES):
            inside = anyio.Event()
            group.start_soon(enter, inside, leave)
            await inside.wait()
        with anyio.move_on_after(0.01):
            await enter(anyio.Event(), leave)
        last = anyio.Event()
        group.start_soon(enter, last, leave)
        await anyio.wait_all_tasks_blocked()
        assert not last.is_set()
        leave.set()
        await last.wait()
    assert upstreams.is_calm(provider, "https://idp.example.com/token")
    assert upstreams._standings[provider.id].is_blank(0)


# An API


def a_provider(number: int = 0, epoch: int = 1) -> CredentialProvider:
    return CredentialProvider(
        f"row-{number}", "default", f"p{number}", "custom", ProviderKind.OAUTH2, f"id-{number}", epoch=epoch
    )


async def ask(upstreams: Upstreams, provider: CredentialProvider, endpoint: str, error: IdentityError | None = None) -> None:
    async with upstreams.turn(provider, endpoint, owner="one") as turn:
        with turn.asking():
            if error is not None:
                raise error


@pytest.mark.parametrize(
    ("error", "opens"),
    [
        (UpstreamUnavailable("no answer in time", may_have_been_processed=True), False),
        (UpstreamUnavailable("refused", may_have_been_processed=False), True),
        (UpstreamTls("expired"), True),
    ],
    ids=["slow", "unreachable", "TLS"],
)
async def test_what_an_agent_calls_at_an_api_closes_it_to_nobody_unless_it_cannot_be_reached(
    error: IdentityError, *, opens: bool
) -> None:
    upstreams = Upstreams(FakeAuthorizationServer(FakeClock().now), FakeClock())
    endpoint = api_endpoint("api.example.com")
    for _ in range(FAILURES):
        with pytest.raises(type(error)):
            await ask(upstreams, a_provider(), endpoint, error)
    if opens:
        with raising("upstream_unavailable"):
            await ask(upstreams, a_provider(), endpoint)
    else:
        await ask(upstreams, a_provider(), endpoint)
    await ask(upstreams, a_provider(), api_endpoint("uploads.example.com"))
    await ask(upstreams, a_provider(), "https://idp.example.com/token")


async def test_one_agents_slow_calls_leave_half_of_the_places_to_others() -> None:
    upstreams = Upstreams(FakeAuthorizationServer(FakeClock().now), FakeClock())
    endpoint = api_endpoint("api.example.com")

    async def call(owner: str) -> None:
        async with upstreams.turn(a_provider(), endpoint, owner=owner):
            await anyio.sleep_forever()

    async with anyio.create_task_group() as group:
        for _ in range(module.API_PLACES // 2):
            group.start_soon(call, "greedy")
        await anyio.wait_all_tasks_blocked()
        with raising("upstream_unavailable") as told:
            await call("greedy")
        assert told.value.retry_after_seconds == 1
        async with upstreams.turn(a_provider(), endpoint, owner="modest"):
            pass
        group.cancel_scope.cancel()
    assert upstreams._standings["row-0"].is_blank(0)


# The record itself


async def test_the_record_is_bounded_and_forgets_what_says_nothing_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_PROVIDERS", 3)
    monkeypatch.setattr(module, "MOST_ENDPOINTS", 3)
    upstreams = Upstreams(FakeAuthorizationServer(FakeClock().now), FakeClock())
    error = UpstreamUnavailable("down", may_have_been_processed=False)
    for _ in range(FAILURES):
        with raising("upstream_unavailable"):
            await ask(upstreams, a_provider(0), "https://idp.example.com/token", error)
    for number in range(1, 20):
        await ask(upstreams, a_provider(number), "https://idp.example.com/token")
        await ask(upstreams, a_provider(0), f"https://idp.example.com/{number}")
    assert len(upstreams._standings) == 3
    assert len(upstreams._standings["row-0"].breakers) == 3
    with raising("upstream_unavailable"):
        await ask(upstreams, a_provider(0), "https://idp.example.com/token")


async def test_what_was_begun_before_a_change_says_nothing_about_what_is_configured_now() -> None:
    upstreams = Upstreams(FakeAuthorizationServer(FakeClock().now), FakeClock())
    old, new = a_provider(epoch=1), a_provider(epoch=2)
    error = UpstreamUnavailable("down", may_have_been_processed=False)
    await ask(upstreams, new, "https://idp.example.com/token")
    for _ in range(FAILURES):
        with raising("upstream_unavailable"):
            await ask(upstreams, old, "https://idp.example.com/token", error)
    await ask(upstreams, new, "https://idp.example.com/token")
    await ask(upstreams, replace(new, tenant="other"), "https://idp.example.com/token")
