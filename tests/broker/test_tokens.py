# pyright: reportPrivateUsage=false
"""Which token is served, when is a new one obtained, and when must the user be asked?"""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from mcp_identity.broker.answers import TokenReleased, TokenRequest
from mcp_identity.broker.plan import make_plan
from mcp_identity.domain.credentials import Flow, GrantState, Reason
from tests.broker.kit import BY_ISSUER, Product, raising

# Which flow


async def test_the_only_flow_of_a_provider_needs_no_name(m2m: Product) -> None:
    assert (await m2m.token()).flow is Flow.M2M


async def test_where_several_flows_fit_one_must_be_named(product: Product) -> None:
    await product.add(flows="both")
    with raising("unsupported_flow") as refused:
        await product.get()
    assert "M2M, USER_FEDERATION" in refused.value.message
    assert (await product.token(flow="M2M")).flow is Flow.M2M
    assert (await product.link(flow="USER_FEDERATION")).reason is Reason.NO_GRANT


async def test_without_a_user_only_the_flow_that_needs_none_fits(product: Product) -> None:
    await product.add(flows="both")
    alone = product.as_workload_alone()
    assert (await alone.token()).flow is Flow.M2M
    with raising("unsupported_flow"):
        await alone.get(flow="USER_FEDERATION")


@pytest.mark.parametrize("flow", ["M2M", "ON_BEHALF_OF_TOKEN_EXCHANGE", "m2m"])
async def test_a_flow_that_is_not_offered_is_refused(idp: Product, flow: str) -> None:
    with raising("unsupported_flow"):
        await idp.get(flow=flow)


async def test_an_unknown_provider_is_refused(product: Product) -> None:
    for name in ("absent", "", "../x", "A B", "x" * 500):
        with raising("unknown_provider"):
            await product.get(provider=name)


async def test_a_provider_of_an_api_key_gives_no_tokens(product: Product) -> None:
    await product.add_api_key()
    with raising("unsupported_flow"):
        await product.get(provider="key")


@pytest.mark.parametrize(
    ("request_", "code"),
    [
        ({"minimum_lifetime_seconds": -1}, "invalid_request"),
        ({"minimum_lifetime_seconds": 86_401}, "invalid_request"),
        ({"return_url": "https://app.example.com/"}, "invalid_request"),
        ({"custom_state": "x"}, "invalid_request"),
        ({"custom_parameters": (("prompt", "none"),)}, "invalid_request"),
        ({"custom_parameters": (("redirect_uri", "https://evil.example.com"),)}, "invalid_request"),
        ({"resource": "not a url"}, "invalid_target"),
        ({"audience": "two\nlines"}, "invalid_target"),
    ],
)
async def test_a_malformed_request_reaches_nobody(idp: Product, request_: dict[str, Any], code: str) -> None:
    with raising(code):
        await idp.get(**request_)
    with raising(code):
        await idp.start(**request_)
    assert idp.server.requests == []


@pytest.mark.parametrize("scopes", [("a b",), ("",), ("é",), ("x" * 513,), tuple(map(str, range(129)))])
async def test_a_malformed_scope_is_refused(idp: Product, scopes: tuple[str, ...]) -> None:
    with raising("invalid_scope"):
        await idp.get(*scopes)


# Scopes


async def test_no_scopes_means_the_configured_ones_and_not_whatever_is_stored(product: Product) -> None:
    await product.add(scopes=("read", "list"))
    await product.connected("write")
    consent = await product.link()
    assert consent.reason is Reason.MISSING_SCOPES
    assert consent.missing_scopes == ("list", "read")


async def test_a_grant_answers_for_any_part_of_it_in_any_order(idp: Product) -> None:
    released = await idp.connected("a", "b", "c")
    for scopes in (("a",), ("c", "a"), ("b", "b", "c"), ("c", "b", "a")):
        answer = await idp.token(*scopes)
        assert answer.access_token == released.access_token
        assert answer.scopes == ("a", "b", "c")


async def test_what_is_missing_is_asked_for_together_with_what_is_granted(idp: Product) -> None:
    old = await idp.connected("a")
    consent = await idp.link("b")
    assert (consent.reason, consent.missing_scopes) == (Reason.MISSING_SCOPES, ("b",))
    view = await idp.page(consent)
    assert view.scopes == ("a", "b")
    assert (await idp.token("a")).access_token == old.access_token
    await idp.consent(consent)
    assert (await idp.token("b")).scopes == ("a", "b")


async def test_a_declined_scope_is_named_and_not_asked_for_again_until_somebody_insists(idp: Product) -> None:
    idp.server.granted = ("read",)
    first = await idp.connected("read", "write")
    assert (first.scopes, first.missing_scopes) == (("read",), ("write",))
    assert (await idp.token("write")).missing_scopes == ("write",)
    idp.server.granted = None
    consent = await idp.start("write")
    assert consent.missing_scopes == ("write",)
    await idp.consent(consent)
    again = await idp.token("write")
    assert (again.scopes, again.missing_scopes) == (("read", "write"), ())


async def test_more_than_was_asked_for_is_stored_audited_and_shown(idp: Product) -> None:
    idp.server.granted = ("read", "admin")
    released = await idp.connected("read")
    assert released.scopes == ("admin", "read")
    (completed,) = [event for event in await idp.trail() if event.action == "complete_consent"]
    assert completed.detail["granted"] == "admin read"
    assert (await idp.trail())[-1].scopes == ("admin", "read")


async def test_a_scope_that_another_includes_is_not_missing(product: Product) -> None:
    await product.add()
    await product.connected("repo")
    provider = await product.broker.directory.get("default", "idp")
    plan = make_plan(product.principal, provider, TokenRequest("idp", ("public_repo",)))
    including = replace(plan, dialect=plan.dialect.model_copy(update={"implied_scopes": {"repo": ("public_repo",)}}))
    served = await product.broker._tokens.get(product.call("get_token"), including)
    assert isinstance(served, TokenReleased)
    assert served.missing_scopes == ()


async def test_an_insisted_consent_does_not_lose_what_is_granted(idp: Product) -> None:
    await idp.connected("a", "b")
    await idp.consent(await idp.start("a"))
    assert (await idp.token("a")).scopes == ("a", "b")


# Freshness


async def test_a_token_is_served_from_the_vault_until_it_is_stale(idp: Product) -> None:
    released = await idp.connected()
    idp.clock.advance(3600 - 61)
    assert (await idp.token()).access_token == released.access_token
    idp.clock.advance(2)
    again = await idp.token()
    assert again.refreshed
    assert again.access_token != released.access_token
    assert idp.server.count("refresh_token") == 1


async def test_a_longer_life_can_be_asked_for_up_to_half_of_it(idp: Product) -> None:
    idp.server.expires_in = 1000
    released = await idp.connected()
    idp.clock.advance(400)
    assert (await idp.token(minimum_lifetime_seconds=500)).access_token == released.access_token
    idp.clock.advance(101)
    assert (await idp.token()).access_token == released.access_token
    again = await idp.token(minimum_lifetime_seconds=86_400)
    assert again.refreshed


@pytest.mark.parametrize("expires_in", [0, 1])
async def test_a_token_got_within_the_call_always_answers(idp: Product, expires_in: int) -> None:
    await idp.connected()
    idp.clock.advance(3600)
    idp.server.expires_in = expires_in
    released = await idp.token(minimum_lifetime_seconds=86_400)
    assert released.refreshed
    assert idp.server.count("refresh_token") == 1


async def test_a_grant_is_refreshed_at_most_once_in_five_seconds(idp: Product) -> None:
    idp.server.expires_in = 30
    released = await idp.connected()
    idp.clock.advance(4.9)
    for seconds in (15, 900):
        idp.clock.advance(0)
        assert (await idp.token(minimum_lifetime_seconds=seconds)).access_token == released.access_token
    assert idp.server.count("refresh_token") == 0


async def test_a_lifetime_that_nobody_reported_is_short_and_not_endless(product: Product) -> None:
    await product.add(release="token")
    product.server.expires_in = None
    released = await product.connected()
    assert released.expires_at is None
    product.clock.advance(260)
    assert not (await product.token()).refreshed
    product.clock.advance(41)
    assert (await product.token()).refreshed


@pytest.mark.parametrize("jump", [timedelta(days=-2), timedelta(days=1), timedelta(days=3650), timedelta(days=-3650)])
async def test_after_the_clock_jumped_one_refresh_sets_things_right(idp: Product, jump: timedelta) -> None:
    await idp.connected()
    idp.clock.wall += jump
    for _ in range(5):
        await idp.token()
        idp.clock.advance(10)
    assert idp.server.count("refresh_token") == 1


async def test_a_token_without_refresh_token_is_served_to_its_end_and_then_the_user_is_asked(idp: Product) -> None:
    idp.server.gives_refresh_tokens = False
    released = await idp.connected()
    idp.clock.advance(3599)
    assert (await idp.token()).access_token == released.access_token
    consent = await idp.link(minimum_lifetime_seconds=60)
    assert consent.reason is Reason.EXPIRED
    idp.clock.advance(1)
    assert (await idp.link()).reason is Reason.EXPIRED


async def test_a_refresh_token_that_the_server_does_not_repeat_is_kept(idp: Product) -> None:
    idp.server.rotates = False
    await idp.connected()
    for _ in range(3):
        idp.clock.advance(3600)
        assert (await idp.token()).refreshed
    assert {request.form.get("refresh_token") for request in idp.server.requests if request.grant_type == "refresh_token"} == {
        "refresh-token-canary-1"
    }


# The client's own tokens


async def test_the_clients_own_token_is_asked_for_once_in_its_life(m2m: Product) -> None:
    first = await m2m.token("b", "a")
    assert (first.scopes, first.refreshed) == (("a", "b"), True)
    m2m.clock.advance(3000)
    again = await m2m.token("a", "b")
    assert (again.access_token, again.refreshed) == (first.access_token, False)
    m2m.clock.advance(600)
    assert (await m2m.token("a", "b")).access_token != first.access_token
    assert [request.form["scope"] for request in m2m.server.requests] == ["a b", "a b"]


async def test_the_clients_own_token_is_asked_for_exactly_the_scopes_that_are_needed(m2m: Product) -> None:
    wide = await m2m.token("a", "b")
    narrow = await m2m.token("a")
    assert narrow.access_token != wide.access_token
    assert (await m2m.token()).scopes == ("read",)
    assert [request.form["scope"] for request in m2m.server.requests] == ["a b", "a", "read"]


async def test_a_revoked_token_of_the_client_is_simply_asked_for_again(m2m: Product) -> None:
    first = await m2m.token()
    await m2m.broker.revoke_grant(m2m.call(), "idp")
    assert await m2m.state() is GrantState.REVOKED
    assert (await m2m.token()).access_token != first.access_token


async def test_a_users_grant_and_the_clients_own_never_answer_for_each_other(product: Product) -> None:
    await product.add(flows="both")
    own = await product.token(flow="M2M")
    assert (await product.link(flow="USER_FEDERATION")).reason is Reason.NO_GRANT
    users = await product.connected(flow="USER_FEDERATION")
    assert users.access_token != own.access_token
    assert (await product.token(flow="M2M")).access_token == own.access_token
    assert {(grant.key.flow, bool(grant.key.user)) for grant in await product.grants()} == {
        (Flow.M2M, False),
        (Flow.USER_FEDERATION, True),
    }


@pytest.mark.parametrize("where", [{"resource": "https://a.example.com/"}, {"audience": "a"}])
async def test_a_grant_for_one_audience_is_none_for_another(product: Product, where: dict[str, str]) -> None:
    await product.add(flows="both", settings=BY_ISSUER)
    for flow in ("M2M", "USER_FEDERATION"):
        plain = await (product.token if flow == "M2M" else product.connected)(flow=flow)
        bound = await (product.token if flow == "M2M" else product.connected)(flow=flow, **where)
        assert plain.access_token != bound.access_token
        assert (await product.token(flow=flow, **where)).access_token == bound.access_token
    product.clock.advance(3600)
    await product.token(flow="USER_FEDERATION", **where)
    sent = {name: product.server.requests[-1].form.get(name) for name in where}
    assert sent == where


async def test_a_disabled_provider_serves_nobody(idp: Product) -> None:
    await idp.connected()
    await idp.update(disabled=True)
    with raising("access_denied"):
        await idp.get()
    with raising("access_denied"):
        await idp.start()
    listing = await idp.broker.list_providers(idp.call())
    assert listing.providers == ()
