"""When does an app's word finish a consent, how often, and what is left if it never comes?"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio
import pytest

from mcp_identity.broker.answers import ConsentStatus
from mcp_identity.broker.release import ELICITED
from mcp_identity.domain.authorizer import Authorizer
from mcp_identity.domain.consent import Binding
from mcp_identity.domain.errors import ConsentMismatch
from mcp_identity.domain.identity import Principal, Proof
from mcp_identity.vault.records import Records
from tests.broker.kit import Product, raising, running_product
from tests.fakes.clock import FakeClock
from tests.fakes.identity_provider import ALICE, BOB
from tests.web.remote import RETURN_URL, Remote, answer_of, asserted, running_remote, user_of


@pytest.fixture
async def remote(tmp_path: Path) -> AsyncGenerator[Remote]:
    async with running_remote(tmp_path / "home") as one:
        yield one


async def received(product: Product, **request: Any) -> str:
    """A consent whose browser has arrived at the app; its completion URI."""
    consent = await product.start(return_url=RETURN_URL, **request)
    pressed = await product.press(consent)
    found = await product.broker.directory.get("default", "idp")
    answer = product.server.person_consents(pressed.url)
    returned = await product.broker.receive_callback(found.provider_id, answer, pressed.cookies)
    return answer_of(returned.redirect_url)["session_id"]


async def complete(product: Product, completion: str) -> ConsentStatus:
    return await product.broker.complete_consent(product.call("complete_consent"), completion, user_of(ALICE))


# How often


async def test_of_fifty_completions_at_once_one_exchanges(remote: Remote) -> None:
    """covers: A16."""
    completion = await received(remote.product)
    statuses: list[str] = []

    async def once() -> None:
        statuses.append((await complete(remote.product, completion)).status)

    async with anyio.create_task_group() as group:
        for _ in range(50):
            group.start_soon(once)
    assert remote.product.server.count("authorization_code") == 1
    assert set(statuses) <= {"completed", "pending"}
    assert "completed" in statuses
    assert (await complete(remote.product, completion)).status == "completed"
    assert len(await remote.product.grants()) == 1


async def test_right_and_wrong_users_at_once_never_make_more_than_one_grant(remote: Remote) -> None:
    for _ in range(5):
        completion = await received(remote.product)
        before = remote.product.server.count("authorization_code")

        async def once(user: Any, completion: str = completion) -> None:
            with contextlib.suppress(ConsentMismatch):
                await remote.product.broker.complete_consent(remote.product.call(), completion, user)

        async with anyio.create_task_group() as group:
            for number in range(10):
                group.start_soon(once, user_of(BOB if number % 2 else ALICE))
        assert remote.product.server.count("authorization_code") - before <= 1


async def test_an_app_that_hangs_up_loses_nothing(remote: Remote) -> None:
    """covers: A55."""
    completion = await received(remote.product)
    remote.product.server.hold = anyio.Event()
    async with anyio.create_task_group() as group:
        group.start_soon(complete, remote.product, completion)
        with anyio.fail_after(10):
            await remote.product.server.holding.wait()
        group.cancel_scope.cancel()
    assert (await complete(remote.product, completion)).status == "pending"
    remote.product.server.hold.set()
    with anyio.fail_after(10):
        while (await complete(remote.product, completion)).status == "pending":
            await anyio.lowlevel.checkpoint()
    assert (await complete(remote.product, completion)).status == "completed"
    assert remote.product.server.count("authorization_code") == 1


# How long


async def test_a_code_waits_for_a_minute(remote: Remote) -> None:
    completion = await received(remote.product)
    remote.product.clock.advance(59)
    assert (await complete(remote.product, completion)).status == "completed"
    late = await received(remote.product)
    remote.product.clock.advance(60)
    with raising("consent_expired"):
        await complete(remote.product, late)
    assert (await complete(remote.product, late)).status == "expired"
    assert remote.product.server.count("authorization_code") == 1


async def test_a_code_that_nobody_claims_is_erased_and_its_consent_told(remote: Remote) -> None:
    """On a server without a port of its own: nobody but the server's own round ends it."""
    consent = await remote.product.link(return_url=RETURN_URL)
    pressed = await remote.product.press(consent)
    found = await remote.product.broker.directory.get("default", "idp")
    await remote.product.broker.receive_callback(
        found.provider_id, remote.product.server.person_consents(pressed.url), pressed.cookies
    )
    remote.product.clock.advance(60)
    assert await remote.product.broker.sweep() == 1
    assert await remote.product.status(consent) == ("expired", "consent_expired")
    assert await remote.product.outcomes("sweep_consent") == ["consent_expired"]
    cells = await remote.product.run(
        lambda records: records.connection.exec_driver_sql(
            "SELECT attempt_sealed, state_hash, code FROM consent_sessions"
        ).one()
    )
    assert tuple(cells) == (None, None, None)
    with raising("consent_expired"):
        await remote.product.get(session_uri=consent.session_uri)


async def test_a_round_of_the_sweeper_ends_thousands_and_sign_ins_too(remote: Remote) -> None:
    """covers: A45."""
    for number in range(60):
        await remote.product.start("read", f"scope-{number}")
    remote.product.clock.advance(600)
    assert await remote.product.broker.sweep() == 60
    assert await remote.product.broker.sweep() == 0
    assert not await remote.product.broker.has_open_consents()


# What must hold still


@pytest.mark.parametrize("what", ["provider", "workload", "removed"])
async def test_a_change_while_the_code_waits_ends_the_consent(remote: Remote, what: str) -> None:
    completion, product = await received(remote.product), remote.product
    agent, call = product.principal.workload, product.call("complete_consent")
    match what:
        case "provider":
            await product.update(client_id="another")
        case "workload":
            agent = await product.run(lambda records: records.update_workload(replace(agent, owner="somebody else")))
            call = product.broker.call(replace(product.principal, workload=agent), "complete_consent")
        case _:
            await product.broker.directory.remove(product.call(), "idp")
    with raising("consent_not_found" if what == "removed" else "provider_misconfigured"):
        await product.broker.complete_consent(call, completion, user_of(ALICE))
    assert product.server.count("authorization_code") == 0


async def test_a_revocation_while_the_code_waits_ends_the_consent(remote: Remote) -> None:
    """covers: A31."""
    completion = await received(remote.product)
    await remote.product.broker.revoke_grant(remote.product.call(), "idp")
    status = await complete(remote.product, completion)
    assert (status.status, status.error_code) == ("failed", "conflict")
    assert remote.product.server.count("authorization_code") == 0


async def test_nothing_of_a_waiting_code_can_be_read_or_moved_in_the_file(remote: Remote) -> None:
    first, second = await received(remote.product), await received(remote.product)
    rows = await remote.product.run(
        lambda records: records.connection.exec_driver_sql("SELECT id, code, completion_hash FROM consent_sessions").all()
    )
    assert all(b"code-" not in row[1] for row in rows)
    mine, other = rows

    def swap(records: Records) -> None:
        for row, code in ((mine, other[1]), (other, mine[1])):
            records.connection.exec_driver_sql("UPDATE consent_sessions SET code = ? WHERE id = ?", (code, row[0]))

    await remote.product.run(swap)
    for completion in (first, second):
        with raising("vault_corrupt"):
            await complete(remote.product, completion)
    assert remote.product.server.count("authorization_code") == 0


# Kill points: what the next process finds


@pytest.mark.parametrize("point", ["code kept", "code taken", "while the vendor answers", "committed"])
async def test_whatever_kills_the_server_no_code_is_exchanged_twice_and_nothing_is_stuck(tmp_path: Path, point: str) -> None:
    """The process dies at each step after the browser arrived.

    covers: A55
    """
    clock = FakeClock()
    async with running_remote(tmp_path / "home", clock=clock, grace_seconds=0) as first:
        completion, server = await received(first.product), first.product.server
        if point == "code taken":
            await first.product.sql("UPDATE consent_sessions SET state = 'exchanging', attempt_sealed = NULL, code = NULL")
        if point == "while the vendor answers":
            server.hold = anyio.Event()
            async with anyio.create_task_group() as group:
                group.start_soon(complete, first.product, completion)
                with anyio.fail_after(10):
                    await server.holding.wait()
                group.cancel_scope.cancel()
        if point == "committed":
            await complete(first.product, completion)
        exchanged = server.count("authorization_code")
    clock.advance(61)
    async with running_remote(tmp_path / "home", clock=clock) as second:
        await second.product.broker.sweep()
        status = await complete(second.product, completion)
        expected = {
            "code kept": ("expired", "consent_expired"),
            "code taken": ("failed", "upstream_unavailable"),
            "while the vendor answers": ("failed", "upstream_unavailable"),
            "committed": ("completed", ""),
        }
        assert (status.status, status.error_code) == expected[point]
        assert exchanged + second.product.server.count("authorization_code") <= 1
        assert (await second.product.start(return_url=RETURN_URL)).authorization_url


# Which binding


async def test_who_asks_and_how_decides_the_binding(remote: Remote) -> None:
    async def binding(product: Product, **request: Any) -> Binding:
        consent = await product.start(**request)
        session = await product.run(lambda records: records.find_session(consent.session_uri.rpartition(":")[2]))
        return session.request.binding

    assert await binding(remote.product) is Binding.LOGIN
    assert await binding(remote.product, return_url=RETURN_URL) is Binding.APP
    assert await binding(remote.as_asserted("u1"), return_url=RETURN_URL) is Binding.APP


async def test_a_user_named_by_an_id_needs_an_app(remote: Remote) -> None:
    with raising("provider_misconfigured") as told:
        await remote.as_asserted("u1").get()
    assert "workloads update agent --return-url" in told.value.message
    assert await remote.product.outcomes("get_token") == ["provider_misconfigured"]


@pytest.mark.parametrize("fields", [{"login_client_id": ""}, {"disabled": True}, {"login_authorization_url": ""}])
async def test_an_issuer_without_a_login_client_says_what_to_configure(tmp_path: Path, fields: dict[str, Any]) -> None:
    async with running_remote(tmp_path / "home", issuer=fields) as remote:
        with raising("provider_misconfigured") as told:
            await remote.product.get()
        assert "issuers add" in told.value.message
        assert "--login-client-id" in told.value.message
        assert (await remote.product.link(return_url=RETURN_URL)).session_uri


async def test_the_initiators_own_issuer_is_asked_where_a_tenant_has_several(remote: Remote) -> None:
    def unit(records: Records) -> None:
        issuer = records.find_issuer("default", "company")
        assert issuer is not None
        records.insert_issuer(replace(issuer, id="issuer-0", name="another"), None)

    await remote.product.run(unit)
    consent = await remote.product.link()
    session = await remote.product.run(lambda records: records.find_session(consent.session_uri.rpartition(":")[2]))
    assert session.request.login_issuer == "issuer-1"
    other = await remote.add_workload("other", authorizer=Authorizer(issuer_id="issuer-0", clients=frozenset({"x"})))
    consent = await remote.as_agent(other).link()
    session = await remote.product.run(lambda records: records.find_session(consent.session_uri.rpartition(":")[2]))
    assert session.request.login_issuer == "issuer-0"


async def test_a_single_users_server_takes_no_return_url(tmp_path: Path) -> None:
    async with running_product(tmp_path / "home") as local:
        await local.add()
        agent = local.principal.workload
        agent = await local.run(lambda records: records.update_workload(replace(agent, return_urls=(RETURN_URL,))))
        product = replace(local, principal=replace(local.principal, workload=agent))
        with raising("invalid_request"):
            await product.get(return_url=RETURN_URL)
        assert (await product.link()).session_uri


ALMOST = [
    "//app.example.com/connected?tab=1",
    "\\\\app.example.com/connected?tab=1",
    "https:app.example.com/connected?tab=1",
    "https:/app.example.com/connected?tab=1",
    "https:///app.example.com/connected?tab=1",
    "https://app.example.com@evil.example/connected?tab=1",
    "https://evil.example\\@app.example.com/connected?tab=1",
    "https://app.example.com.evil.example/connected?tab=1",
    "https://evilapp.example.com/connected?tab=1",
    "https://app.example.com/connected?tab=1#",
    "https://app.example.com/connected?tab=1&next=//evil.example",
    "https://app.example.com/connected?tab=1%0d%0aSet-Cookie:a=b",
    "https://app.example.com/connected?tab=1\r\nSet-Cookie: a=b",
    "https://app.example.com/connected?tab=1 ",
    " https://app.example.com/connected?tab=1",
    "https://app.example.com/connected",
    "https://app.example.com/connected/?tab=1",
    "https://app.example.com/connected/../connected?tab=1",
    "https://app.example.com/CONNECTED?tab=1",
    "https://APP.example.com/connected?tab=1",
    "HTTPS://app.example.com/connected?tab=1",
    "https://app.example.com:443/connected?tab=1",
    "https://app.example.com:8443/connected?tab=1",
    "http://app.example.com/connected?tab=1",
    "https://app.example.com/connected?tab=%31",
    "https://app\u3002example.com/connected?tab=1",
    "https://\u0430pp.example.com/connected?tab=1",
    "javascript:alert(1)//https://app.example.com/connected?tab=1",
    "data:text/html,x",
    "/connected?tab=1",
    "*",
]


@pytest.mark.parametrize("url", ALMOST)
async def test_only_a_registered_url_exactly_is_returned_to(remote: Remote, url: str) -> None:
    """covers: A21."""
    for product in (remote.product, remote.as_asserted("u1")):
        with raising("invalid_request"):
            await product.get(return_url=url)
    assert not await remote.product.broker.has_open_consents()


@pytest.mark.parametrize(
    ("state", "taken"), [("", True), ("x" * 4096, True), ("\r\n<b>&=é\U0001f600", True), ("x" * 4097, False), ("\ud800", False)]
)
async def test_a_state_of_the_app_is_text_of_some_length(remote: Remote, state: str, taken: bool) -> None:
    if taken:
        assert (await remote.product.link(return_url=RETURN_URL, custom_state=state)).session_uri
    else:
        with raising("invalid_request"):
            await remote.product.get(return_url=RETURN_URL, custom_state=state)
    if state:
        with raising("invalid_request"):
            await remote.product.get(custom_state=state)


# Elicited consents


@pytest.mark.parametrize(("release", "elicited"), [("never", True), ("handle", True), ("token", False), (None, False)])
async def test_an_elicited_consent_makes_a_grant_that_never_leaves_as_a_token(
    remote: Remote, release: str | None, elicited: bool
) -> None:
    if release:
        await remote.product.update(release=release)
    consent = await remote.product.start(return_url=RETURN_URL, elicits=True)
    assert consent.elicited is elicited
    completion = await received(remote.product, elicits=True)
    assert (await complete(remote.product, completion)).status == "completed"
    assert (await remote.product.grant()).obtained_by == (ELICITED if elicited else "consent")


async def test_an_elicited_link_and_another_are_two(remote: Remote) -> None:
    await remote.product.update(release="never")
    first = await remote.product.start()
    second = await remote.product.start(elicits=True)
    assert (first.elicited, second.elicited) == (False, True)
    # An open session of an equal request is given again; these two are not equal.
    given = await remote.product.link(session_uri=first.session_uri, elicits=True)
    assert (given.session_uri, given.elicited) == (first.session_uri, False)


# Quotas


async def test_principals_over_http_have_limits_of_their_own(tmp_path: Path) -> None:
    """covers: A45."""
    async with running_remote(tmp_path / "home", pending_consents=3, links_per_minute=4) as remote:
        for _ in range(3):
            await remote.product.start()
        with raising("rate_limited") as refused:
            await remote.product.start()
        assert refused.value.retry_after_seconds
        for other in (remote.as_person(BOB), remote.as_asserted("u1"), remote.as_agent(await remote.add_workload("other"))):
            assert (await other.start(return_url=RETURN_URL)).session_uri
        given = ["consent_required"] * 3
        assert await remote.product.outcomes("start_consent") == [*given, "rate_limited", *given]


async def test_a_server_has_a_limit_of_open_consents_at_all(tmp_path: Path) -> None:
    """covers: A45."""
    async with running_remote(tmp_path / "home", total_consents=2) as remote:
        await remote.product.start()
        await remote.as_person(BOB).start()
        with raising("rate_limited"):
            await remote.as_asserted("u1").start(return_url=RETURN_URL)
        remote.product.clock.advance(600)
        assert (await remote.product.start()).session_uri


async def test_a_workload_with_many_users_leaves_a_part_of_the_consents_to_others(tmp_path: Path) -> None:
    """covers: A45."""
    async with running_remote(tmp_path / "home", total_consents=8) as remote:
        for number in range(7):
            assert (await remote.as_asserted(f"u{number}").start(return_url=RETURN_URL)).session_uri
        with raising("rate_limited"):
            await remote.as_asserted("u7").start(return_url=RETURN_URL)
        other = remote.as_agent(await remote.add_workload("other"))
        assert (await other.start(return_url=RETURN_URL)).session_uri


async def test_a_workload_alone_asks_nobody(remote: Remote) -> None:
    principal = Principal(remote.product.principal.workload, None, Proof.WORKLOAD_KEY, verified=True)
    alone = replace(remote.product, principal=principal)
    with raising("unsupported_flow"):
        await alone.get(return_url=RETURN_URL)
    assert asserted("x").key != user_of(ALICE).key
