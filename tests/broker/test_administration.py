"""What do operators see and end of everybody? All of their tenant, page by page, on every database."""

from __future__ import annotations

import pytest

from mcp_identity.broker.administration import GrantFilter, GrantPage
from mcp_identity.domain.audit import AuditQuery
from mcp_identity.domain.credentials import Grant, GrantState
from tests.broker.kit import Product, raising


async def everybody(product: Product) -> list[Product]:
    """Two users with two agents each, and what they granted."""
    await product.add()
    found: list[Product] = []
    for workload in ("one", "two"):
        agent = await product.as_workload(workload)
        for user in ("u", "v"):
            found.append(await agent.as_user(user))
            await found[-1].connected("read")
    return found


async def pages(product: Product, which: GrantFilter, limit: int) -> list[GrantPage]:
    """Every page of a listing."""
    found = [await product.broker.administration.list_grants(product.call(), which, limit=limit)]
    while found[-1].next_place is not None:
        place = found[-1].next_place
        found.append(await product.broker.administration.list_grants(product.call(), which, limit=limit, before=place))
    return found


async def test_every_grant_is_on_one_page_and_on_one_alone(product: Product) -> None:
    callers = await everybody(product)
    for limit, lengths in ((3, [3, 1]), (2, [2, 2]), (4, [4])):
        found = await pages(product, GrantFilter(), limit)
        assert [len(page.grants) for page in found] == lengths
        owners = [(known.workload, known.user) for page in found for known in page.grants]
        assert sorted(owners) == sorted((each.principal.workload.name, each.principal.user_key) for each in callers)


async def test_what_is_ended_is_what_was_named_and_no_more(product: Product) -> None:
    callers = await everybody(product)
    ended = await product.broker.administration.revoke_grants(
        product.call(), GrantFilter(workload="one", user=callers[0].principal.user_key, provider="idp")
    )
    assert [(each.workload, each.revoked.at_vendor) for each in ended.grants] == [("one", "revoked")]
    states = {each.id: each.state for each in await product.grants()}
    assert sorted(states.values()) == [GrantState.ACTIVE] * 3 + [GrantState.REVOKED]
    await callers[0].link("read")
    for each in callers[1:]:
        await each.token("read")
    assert len((await product.broker.administration.revoke_grants(product.call(), GrantFilter(provider="idp"))).grants) == 3


@pytest.mark.sqlite
async def test_many_are_ended_in_several_steps(product: Product, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mcp_identity.broker.administration._AT_ONCE", 1)
    await everybody(product)
    ended = await product.broker.administration.revoke_grants(product.call("revoke_grants"), GrantFilter(provider="idp"))
    assert len(ended.grants) == 4
    events = [event for event in await product.trail() if event.action == "revoke_grants"]
    assert sum(int(event.detail["grants"]) for event in events) == 4


@pytest.mark.sqlite
async def test_one_that_was_changed_outside_the_product_hides_and_spares_no_other(product: Product) -> None:
    await everybody(product)
    first: Grant = (await product.grants())[0]
    await product.sql(f"UPDATE grants SET granted_scopes = 'more' WHERE id = '{first.id}'")  # noqa: S608 - an id of ours
    (page,) = await pages(product, GrantFilter(), 9)
    assert (len(page.grants), page.unreadable) == (3, 1)
    ended = await product.broker.administration.revoke_grants(product.call(), GrantFilter(provider="idp"))
    assert (len(ended.grants), ended.unreadable) == (3, 1)


@pytest.mark.sqlite
async def test_a_consent_that_is_under_way_ends_with_the_grants(product: Product) -> None:
    await product.add()
    other = await product.as_user("other")
    mine, theirs = await product.link("read"), await other.link("read")
    which = GrantFilter(user=other.principal.user_key)
    assert (await product.broker.administration.revoke_grants(product.call(), which)).open_consents == 1
    assert (await other.status(theirs))[0] == "failed"
    assert (await product.status(mine))[0] == "pending"


@pytest.mark.sqlite
async def test_who_names_nobody_ends_nothing_and_is_written_down(product: Product) -> None:
    await product.add()
    await product.connected("read")
    wrong = {
        GrantFilter(): "invalid_request",
        GrantFilter(user="somebody"): "invalid_request",
        GrantFilter(workload="nobody"): "not_found",
        GrantFilter(provider="nothing"): "unknown_provider",
    }
    for which, code in wrong.items():
        with raising(code):
            await product.broker.administration.revoke_grants(product.call("revoke_grants"), which)
    assert await product.outcomes("revoke_grants") == list(wrong.values())
    assert await product.state() is GrantState.ACTIVE


async def test_the_trail_is_searched_without_gaps_or_repetitions(product: Product) -> None:
    for _ in range(7):
        await product.broker.note(product.call("noted"))  # all at one moment: the clock stands
    search, query = product.broker.administration.search_audit, AuditQuery(action="noted")
    seen: list[str] = []
    events, place = await search(product.call("search"), query, limit=3)
    while True:
        seen += [event.correlation_id for event in events]
        if place is None:
            break
        events, place = await search(product.call("search"), query, limit=3, before=place)
    assert len(seen) == len(set(seen)) == 7
    name = product.principal.workload.name
    assert len((await search(product.call("search"), AuditQuery(who=name, action="noted"), limit=200))[0]) == 7
    for nothing in (AuditQuery(who="' OR 1=1 --"), AuditQuery(until=product.clock.now()), AuditQuery(outcome="refused")):
        assert (await search(product.call("search"), nothing, limit=200))[0] == ()
