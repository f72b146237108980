# pyright: reportPrivateUsage=false
"""Is a token obtained once, and is nothing lost that a vendor has rotated?"""

from __future__ import annotations

from pathlib import Path

import anyio
import pytest

from mcp_identity.broker import refresh
from mcp_identity.broker.answers import ConsentRequired, HandleIssued, ProviderSpec, TokenReleased, TokenRequest
from mcp_identity.broker.plan import make_plan
from mcp_identity.domain.credentials import GrantState, Reason, Secret
from mcp_identity.domain.errors import IdentityError
from mcp_identity.domain.http import HttpResponse
from tests.broker.kit import Product, raising
from tests.broker.test_exchange import FULL, until, until_refused
from tests.fakes.authorization_server import respond_json
from tests.vault.faults import SqliteFaults, disk_error


async def stale(product: Product) -> TokenReleased:
    """A grant whose access token has ended."""
    released = await product.connected()
    product.clock.advance(3600)
    return released


# Once


async def test_a_thousand_callers_cause_one_refresh_and_all_get_it(idp: Product) -> None:
    await stale(idp)
    tokens: list[str] = []

    async def get() -> None:
        tokens.append((await idp.token()).access_token.reveal())

    async with anyio.create_task_group() as group:
        for _ in range(1000):
            group.start_soon(get)
    assert (len(tokens), len(set(tokens))) == (1000, 1)
    assert idp.server.count("refresh_token") == 1


async def test_callers_of_a_first_token_of_the_client_cause_one_request(m2m: Product) -> None:
    async with anyio.create_task_group() as group:
        for _ in range(50):
            group.start_soon(m2m.token)
    assert m2m.server.count("client_credentials") == 1


async def test_each_of_many_callers_is_in_the_trail_when_the_vendor_fails_them(idp: Product) -> None:
    await stale(idp)
    idp.server.refuses_connections = True
    codes: list[str] = []

    async def get() -> None:
        try:
            await idp.get()
        except IdentityError as error:
            codes.append(error.code)

    before = len(await idp.outcomes("get_token"))
    async with anyio.create_task_group() as group:
        for _ in range(10):
            group.start_soon(get)
    assert codes == ["upstream_unavailable"] * 10
    assert (await idp.outcomes("get_token"))[before:] == ["upstream_unavailable"] * 10


# Cancelled


async def test_a_cancelled_caller_does_not_lose_what_was_rotated(idp: Product) -> None:
    await stale(idp)
    idp.server.hold = anyio.Event()
    async with anyio.create_task_group() as group:
        group.start_soon(idp.get)
        await until(idp.server.holding)
        group.cancel_scope.cancel()
    assert (await idp.grant()).intent != 0
    hold, idp.server.hold = idp.server.hold, None
    hold.set()
    released = await idp.token()
    assert idp.server.count("refresh_token") == 1
    assert idp.server.is_active(released.access_token.reveal())
    grant = await idp.grant()
    assert grant.tokens is not None
    assert grant.tokens.refresh_token is not None
    assert grant.tokens.refresh_token.reveal() == idp.server.families[0].newest
    assert (grant.intent, grant.lease_owner) == (0, "")


# The vendor fails


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        (respond_json({}, 503), "upstream_unavailable"),
        (respond_json({}, 500), "upstream_unavailable"),
        (respond_json({}, 429, retry_after="30"), "upstream_unavailable"),
        (HttpResponse(200, {"content-type": "text/html"}, b"<html>"), "upstream_bad_response"),
        (HttpResponse(200, {"content-type": "application/json"}, b"{"), "upstream_bad_response"),
        (HttpResponse(302, {"location": "https://evil.example.com"}, b""), "upstream_bad_response"),
    ],
)
async def test_while_the_vendor_fails_a_token_that_lives_is_served_and_a_dead_one_is_not(
    idp: Product, answer: HttpResponse, code: str
) -> None:
    before = await idp.connected()
    idp.clock.advance(3590)
    idp.server.answer = answer
    assert (await idp.token()).access_token == before.access_token
    assert (await idp.token(minimum_lifetime_seconds=900)).access_token == before.access_token
    assert await idp.outcomes("refresh") == ["ok", code]
    idp.clock.advance(60)
    with raising(code):
        await idp.get()
    assert await idp.state() is GrantState.ACTIVE
    idp.server.answer = None
    idp.clock.advance(60)
    assert (await idp.token()).refreshed


async def test_a_vendor_that_fails_is_asked_at_most_once_in_five_seconds_for_one_grant(idp: Product) -> None:
    await stale(idp)
    idp.server.answer = respond_json({}, 503)
    for _ in range(20):
        with raising("upstream_unavailable") as told:
            await idp.get()
        assert 1 <= (told.value.retry_after_seconds or 5) <= 5
        idp.clock.advance(1)
    assert idp.server.count("refresh_token") == 4


async def test_a_vendor_that_names_a_time_is_not_asked_before_it(idp: Product) -> None:
    await stale(idp)
    idp.server.answer = respond_json({}, 429, retry_after="30")
    with raising("upstream_unavailable") as told:
        await idp.get()
    assert told.value.retry_after_seconds == 30
    idp.server.answer = None
    idp.clock.advance(29)
    with raising("upstream_unavailable"):
        await idp.get()
    assert idp.server.count("refresh_token") == 1
    idp.clock.advance(1)
    assert (await idp.token()).refreshed


async def test_one_vendors_failure_does_not_touch_another_grant(idp: Product) -> None:
    await stale(idp)
    other = await idp.as_workload("other")
    await other.connected()
    idp.server.refuses_connections = True
    with raising("upstream_unavailable"):
        await idp.get()
    idp.server.refuses_connections = False
    idp.clock.advance(3600 - 1)
    assert (await other.token()).refreshed


async def test_a_refused_refresh_needs_the_user_and_keeps_the_row(idp: Product) -> None:
    await stale(idp)
    idp.server.families[0].revoked = True
    for _ in range(3):
        consent = await idp.link()
        assert consent.reason is Reason.REFRESH_REJECTED
        assert consent.missing_scopes == ()
    assert idp.server.count("refresh_token") == 1
    grant = await idp.grant()
    assert (grant.state, grant.tokens is not None) == (GrantState.NEEDS_CONSENT, True)


# The answer is lost


async def test_a_lost_answer_is_tried_once_more_and_then_has_a_name(idp: Product) -> None:
    await stale(idp)
    idp.server.loses_answers = True
    with raising("upstream_unavailable"):
        await idp.get()
    assert (await idp.grant()).intent == 2
    idp.server.loses_answers = False
    idp.clock.advance(5)
    assert (await idp.link()).reason is Reason.LOST_IN_FLIGHT
    assert idp.server.count("refresh_token") == 2


async def test_a_lost_answer_of_a_server_without_rotation_costs_nothing(idp: Product) -> None:
    await stale(idp)
    idp.server.rotates = False
    idp.server.loses_answers = True
    with raising("upstream_unavailable"):
        await idp.get()
    idp.server.loses_answers = False
    idp.clock.advance(5)
    assert (await idp.token()).refreshed
    assert (await idp.grant()).intent == 0


async def test_a_request_that_never_left_leaves_no_doubt(idp: Product) -> None:
    await stale(idp)
    idp.server.refuses_connections = True
    with raising("upstream_unavailable"):
        await idp.get()
    assert (await idp.grant()).intent == 0
    idp.server.refuses_connections = False
    idp.server.families[0].revoked = True
    idp.clock.advance(5)
    assert (await idp.link()).reason is Reason.REFRESH_REJECTED


# The vault fails


@pytest.mark.sqlite
async def test_a_full_disk_is_waited_for(idp: Product) -> None:
    await stale(idp)
    await idp.sql(FULL)
    idp.server.hold = anyio.Event()
    answers: list[TokenReleased | HandleIssued | ConsentRequired] = []

    async def get() -> None:
        answers.append(await idp.get())

    async with anyio.create_task_group() as group:
        group.start_soon(get)
        await until(idp.server.holding)
        idp.server.hold.set()
        await until_refused(idp)
        await idp.sql("DROP TRIGGER full")
    (released,) = answers
    assert isinstance(released, TokenReleased)
    assert idp.server.is_active(released.access_token.reveal())
    assert idp.server.count("refresh_token") == 1


@pytest.mark.sqlite
async def test_a_rotation_that_could_not_be_stored_has_a_name(idp: Product, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(refresh, "_PAUSES", (0.0, 0.0))
    await stale(idp)
    await idp.sql(FULL)
    with raising("vault_unavailable"):
        await idp.get()
    assert (await idp.grant()).intent == 2
    await idp.sql("DROP TRIGGER full")
    assert (await idp.link()).reason is Reason.LOST_IN_FLIGHT


@pytest.mark.sqlite
async def test_without_a_trail_the_vendor_is_not_even_asked(idp: Product) -> None:
    await stale(idp)
    await idp.sql("CREATE TRIGGER mute BEFORE INSERT ON audit_events BEGIN SELECT RAISE(ABORT, 'no'); END")
    with raising("audit_unavailable"):
        await idp.get()
    assert idp.server.count("refresh_token") == 0
    await idp.sql("DROP TRIGGER mute")
    assert (await idp.token()).refreshed


async def test_a_change_of_the_provider_sends_no_secret_to_the_old_place(idp: Product) -> None:
    await stale(idp)
    before = await idp.broker.directory.get("default", "idp")
    plan = make_plan(idp.principal, before, TokenRequest("idp"))
    spec = ProviderSpec(settings={"token_url": "https://moved.example.com/token"}, secret=Secret("the-new-secret"))
    await idp.broker.directory.update(idp.call(), "idp", spec)
    with raising("conflict"):
        await idp.broker._tokens._refresher.obtain(idp.call(), plan, 1)
    assert idp.server.count("refresh_token") == 0


@pytest.mark.sqlite
async def test_a_commit_of_which_nobody_was_sure_is_not_taken_for_a_loss(idp: Product, tmp_path: Path) -> None:
    await idp.connected()
    idp.clock.advance(3601)
    faults = SqliteFaults(idp.vault, tmp_path / "home" / "vault.db")
    idp.server.hold = anyio.Event()
    async with anyio.create_task_group() as group:
        group.start_soon(idp.token)
        with anyio.fail_after(10):
            await idp.server.holding.wait()
        hold, idp.server.hold = idp.server.hold, None
        faults.fail_after_commit = disk_error()
        hold.set()
    assert "conflict" not in await idp.outcomes("refresh")
    assert idp.server.revocations == []
    assert idp.server.is_active((await idp.token()).access_token.reveal())
