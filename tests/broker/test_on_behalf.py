"""Is a user's own token exchanged only where it may go, and does what came back answer only that user?"""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from mcp_identity.broker.answers import HandleIssued, ProviderSpec, TokenReleased, TokenRequest
from mcp_identity.broker.upstreams import PLACES
from mcp_identity.domain.credentials import Flow, GrantState, Secret
from mcp_identity.domain.errors import IdentityError
from mcp_identity.domain.identity import Principal, Proof, WorkloadIdentity
from mcp_identity.vault.records import Records
from tests.broker.exchanging import FLOW, World, running_world
from tests.broker.kit import raising
from tests.fakes.authorization_server import respond_json
from tests.fakes.exchange_server import ACCESS_TOKEN_TYPE, CLIENT_ID, CLIENT_SECRET, JWT_BEARER, TOKEN_EXCHANGE, Exchanged
from tests.fakes.identity_provider import ALICE, BOB, CLIENT, FakeIdentityProvider


@pytest.fixture
async def world(tmp_path: Path) -> AsyncGenerator[World]:
    async with running_world(tmp_path / "home") as one:
        yield one


@pytest.fixture
async def exchanging(world: World) -> World:
    """The world, with the provider `downstream`."""
    await world.add()
    return world


# What is exchanged, and for whom


async def test_a_users_own_token_is_exchanged_for_one_that_acts_for_them(exchanging: World) -> None:
    jwt = exchanging.jwt()
    released = await exchanging.token(await exchanging.caller(jwt))
    assert released.flow is Flow.ON_BEHALF_OF_TOKEN_EXCHANGE
    assert exchanging.server.issued[released.access_token.reveal()] == Exchanged(ALICE.subject, ("read",))
    (form,) = exchanging.server.forms
    assert (form["grant_type"], form["subject_token"]) == (TOKEN_EXCHANGE, jwt)


async def test_a_workload_access_token_for_that_token_does_as_well(exchanging: World) -> None:
    wat = await exchanging.workload_token(exchanging.jwt())
    released = await exchanging.token(await exchanging.caller(wat))
    assert exchanging.server.issued[released.access_token.reveal()].subject == ALICE.subject


async def test_a_remembered_caller_brings_the_token_again(exchanging: World) -> None:
    await exchanging.operator.vault.run(lambda _records: None)
    for bearer in (exchanging.jwt(), await exchanging.workload_token(exchanging.jwt())):
        first = await exchanging.caller(bearer)
        recalled = exchanging.authenticator.recall(Secret(bearer), edge="http")
        assert recalled is not None
        assert recalled[0] == first
        assert recalled[0].subject_token == first.subject_token
        assert first.subject_token is not None
    # what is remembered between two calls holds no token of anybody's
    remembered = exchanging.authenticator._known.values()  # pyright: ignore[reportPrivateUsage]
    assert [each.principal.subject_token for each in remembered] == [None, None]


async def test_what_is_kept_answers_until_it_ends_and_then_it_is_exchanged_again(exchanging: World) -> None:
    caller = await exchanging.caller(exchanging.jwt())
    first, again = await exchanging.token(caller), await exchanging.token(caller)
    assert first.access_token == again.access_token
    exchanging.operator.clock.advance(601)
    assert (await exchanging.token(caller)).access_token != first.access_token
    assert exchanging.exchanges == 2


async def test_each_user_gets_their_own(exchanging: World) -> None:
    """covers: A03. A cached answer of one user is no answer to another."""
    for person in (ALICE, BOB, ALICE, BOB):
        jwt = exchanging.jwt(person)
        for bearer in (jwt, await exchanging.workload_token(jwt)):
            released = await exchanging.token(await exchanging.caller(bearer))
            assert exchanging.server.issued[released.access_token.reveal()].subject == person.subject
    assert exchanging.exchanges == 2


async def test_each_scope_set_and_audience_is_exchanged_by_itself(exchanging: World) -> None:
    caller = await exchanging.caller(exchanging.jwt())
    for scopes in (("read",), ("write", "read"), ("read", "write"), ()):
        assert set((await exchanging.token(caller, *scopes)).scopes) == set(scopes or ("read",))
    await exchanging.token(caller, audience="https://other.example.com")
    await exchanging.token(caller, resource="https://other.example.com/api")
    assert exchanging.exchanges == 4
    assert len({grant.key for grant in await exchanging.grants()}) == 4


async def test_many_at_once_are_answered_by_one_exchange(exchanging: World) -> None:
    caller = await exchanging.caller(exchanging.jwt())
    found: list[str] = []

    async def one() -> None:
        found.append((await exchanging.token(caller)).access_token.reveal())

    async with anyio.create_task_group() as group:
        for _ in range(50):
            group.start_soon(one)
    assert (exchanging.exchanges, len(found), len(set(found))) == (1, 50, 1)


# No longer than the user's own token


async def test_what_came_back_is_not_kept_longer_than_the_users_token_lives(exchanging: World) -> None:
    exchanging.server.knobs.expires_in = 80_000
    released = await exchanging.token(await exchanging.caller(exchanging.jwt(seconds=300)))
    assert released.expires_at == exchanging.operator.in_minutes(5)
    exchanging.operator.clock.advance(301)
    later = await exchanging.token(await exchanging.caller(exchanging.jwt()))
    assert later.access_token != released.access_token


async def test_a_token_whose_life_nobody_knows_is_not_kept_longer_either(world: World) -> None:
    await world.add(release="token")
    world.server.knobs.expires_in = None
    first = await world.token(await world.caller(world.jwt(seconds=30)))
    world.operator.clock.advance(31)
    assert (await world.token(await world.caller(world.jwt()))).access_token != first.access_token


async def test_the_end_of_the_users_token_makes_no_long_lived_one_short(exchanging: World) -> None:
    """The token itself lives on at the vendor, so an operator has to say that it may leave."""
    exchanging.server.knobs.expires_in = 7 * 24 * 3600
    with raising("provider_misconfigured"):
        await exchanging.get(await exchanging.caller(exchanging.jwt()))


async def test_an_ended_token_gets_nothing_although_the_answer_is_still_there(exchanging: World) -> None:
    """covers: A05. A caller that was verified while the token lived, and asks when it does not."""
    caller = await exchanging.caller(exchanging.jwt(seconds=300))
    await exchanging.token(caller)
    fresh = await exchanging.caller(exchanging.jwt())
    exchanging.operator.clock.advance(299)
    assert await exchanging.token(caller)
    exchanging.operator.clock.advance(1)
    with raising("token_expired"):
        await exchanging.get(caller)
    assert await exchanging.token(fresh)
    with raising("token_expired"):
        await exchanging.get(caller)


async def test_who_waits_for_somebody_whose_token_ends_meanwhile_exchanges_their_own(exchanging: World) -> None:
    """Two calls of one user with two tokens want the same; the first one's ends while they wait for a turn at the server."""
    first = await exchanging.caller(exchanging.jwt(seconds=60))
    second = await exchanging.caller(exchanging.jwt(seconds=3600))
    provider = await exchanging.operator.broker.directory.get("default", "downstream")
    upstreams = exchanging.operator.broker._services.upstreams  # pyright: ignore[reportPrivateUsage]
    ended: dict[str, str] = {}
    async with anyio.create_task_group() as group, AsyncExitStack() as turns:
        for _ in range(PLACES):
            await turns.enter_async_context(upstreams.turn(provider, provider.server.token_url))
        group.start_soon(_note, exchanging, first, "first", ended)
        while not exchanging.operator.broker._tokens._under_way:  # pyright: ignore[reportPrivateUsage]
            await anyio.lowlevel.checkpoint()
        group.start_soon(_note, exchanging, second, "second", ended)
        await anyio.lowlevel.checkpoint()
        await exchanging.operator.vault.run(lambda records: records.now)  # the second one's question came before
        await anyio.lowlevel.checkpoint()
        exchanging.operator.clock.advance(60)
    assert ended == {"first": "token_expired", "second": "ok"}
    assert exchanging.exchanges == 1


async def _note(world: World, caller: Principal, name: str, ended: dict[str, str]) -> None:
    try:
        await world.token(caller)
    except IdentityError as error:
        ended[name] = error.code
    else:
        ended[name] = "ok"


async def test_no_refresh_token_is_kept(exchanging: World) -> None:
    exchanging.server.knobs.gives = {"refresh_token": "refresh-canary", "refresh_token_expires_in": 9999}
    await exchanging.token(await exchanging.caller(exchanging.jwt()))
    (grant,) = await exchanging.grants()
    assert grant.tokens is not None
    assert (grant.tokens.refresh_token, grant.tokens.refresh_expires_at) == (None, None)
    assert (grant.obtained_by, grant.state) == ("on_behalf_of", GrantState.ACTIVE)


async def test_a_revoked_one_is_given_back_and_the_user_may_exchange_again(exchanging: World) -> None:
    caller = await exchanging.caller(exchanging.jwt())
    first = await exchanging.token(caller)
    call = exchanging.operator.broker.call(caller, "revoke_grant")
    (revoked,) = await exchanging.operator.broker.revoke_grant(call, "downstream")
    assert (revoked.flow, revoked.at_vendor) == (Flow.ON_BEHALF_OF_TOKEN_EXCHANGE, "revoked")
    assert exchanging.server.revoked == [first.access_token.reveal()]
    assert (await exchanging.token(caller)).access_token != first.access_token


# Who has nothing to exchange


async def test_an_asserted_user_has_no_token_to_exchange(exchanging: World) -> None:
    """covers: A02b."""
    workload = await exchanging.operator.update(may_assert_users=True)
    caller = exchanging.operator.caller(workload, Proof.WORKLOAD_TOKEN, user=exchanging.operator.asserted(ALICE.subject))
    with raising("unsupported_flow") as refused:
        await exchanging.get(caller)
    assert "user's JWT" in refused.value.message
    assert exchanging.server.forms == []


async def test_a_workload_alone_has_none_either(exchanging: World) -> None:
    for request in ({}, {"flow": FLOW}):
        with raising("unsupported_flow"):
            await exchanging.get(exchanging.operator.caller(exchanging.workload), **request)


async def test_a_local_user_has_none(exchanging: World) -> None:
    graph = exchanging.operator.prepared.graph
    caller = await graph.broker.directory.local_principal("local", graph.user, "stdio")
    with raising("unsupported_flow"):
        await exchanging.get(caller)


async def test_nobody_is_ever_asked_for_consent(exchanging: World) -> None:
    caller = await exchanging.caller(exchanging.jwt())
    with raising("unsupported_flow") as refused:
        call = exchanging.operator.broker.call(caller, "start_consent")
        await exchanging.operator.broker.start_consent(call, TokenRequest("downstream"))
    assert "needs no consent" in refused.value.message
    exchanging.server.knobs.answer = respond_json({"error": "interaction_required"}, 400)
    with raising("upstream_rejected"):
        await exchanging.get(caller)


async def test_the_flow_is_named_where_a_user_has_several(world: World) -> None:
    await world.add(settings={"flows": "M2M"})
    caller = await world.caller(world.jwt())
    with raising("unsupported_flow") as refused:
        await world.get(caller)
    assert f"M2M, {FLOW}" in refused.value.message
    assert (await world.token(caller, flow=FLOW)).flow.value == FLOW
    # who has no token of their own is not given the agent's instead
    asserted = world.operator.caller(world.workload, user=world.operator.asserted())
    with raising("unsupported_flow"):
        await world.get(asserted)


# Where a token may go


async def test_a_token_goes_only_to_a_provider_that_lists_its_issuer(world: World) -> None:
    other = FakeIdentityProvider("okta", now=world.operator.clock.now)
    await world.operator.add_issuer(other, "other")
    await world.add(subject_issuers=("other",))
    with raising("access_denied") as refused:
        await world.get(await world.caller(world.jwt()))
    assert "--subject-issuer" in refused.value.message
    assert world.server.forms == []
    await world.update(subject_issuers=("corp", "other"))
    assert await world.token(await world.caller(world.jwt()))


async def test_without_an_issuer_the_flow_is_not_offered(world: World) -> None:
    provider = await world.add(settings={"flows": "M2M"}, subject_issuers=())
    assert provider.flows == (Flow.M2M,)
    with raising("unsupported_flow") as refused:
        await world.get(await world.caller(world.jwt()), flow=FLOW)
    assert "--subject-issuer" in refused.value.message
    with raising("invalid_request"):
        await world.add("alone", subject_issuers=())
    with raising("not_found"):
        await world.add("absent", subject_issuers=("nobody",))


async def test_every_issuer_means_those_that_there_are_now(world: World) -> None:
    provider = await world.add(subject_issuers=("*",))
    await world.operator.add_issuer(FakeIdentityProvider("okta", now=world.operator.clock.now), "later")
    assert len(provider.subject_issuers) == 1
    assert await world.token(await world.caller(world.jwt()))


async def test_a_removed_issuer_vouches_for_nothing_that_it_vouched_for(exchanging: World) -> None:
    caller = await exchanging.caller(exchanging.jwt())
    await exchanging.token(caller)
    await exchanging.operator.update(issuer="", clients=())
    await exchanging.operator.broker.issuers.remove(exchanging.operator.call("delete_issuer"), "corp")
    workload = await exchanging.operator.broker.workloads.get("default", "agent")
    with raising("access_denied"):
        await exchanging.get(replace(caller, workload=workload))


async def test_an_issuer_of_another_tenant_is_none_of_ours(exchanging: World) -> None:
    """covers: A03. The same people, vouched for in another tenant: neither their tokens nor their answers are of use here."""
    await exchanging.token(await exchanging.caller(exchanging.jwt()))
    acme = exchanging.operator.of("acme")
    theirs = FakeIdentityProvider("okta", now=exchanging.operator.clock.now)
    await acme.add_issuer(theirs, "corp")
    await acme.create(issuer="corp", clients=(CLIENT,))
    stranger = await exchanging.caller(theirs.access_token(ALICE))
    assert stranger.tenant == "acme"
    with raising("unknown_provider"):
        await exchanging.get(stranger)
    forged = replace(stranger, workload=exchanging.workload)
    with raising("access_denied"):
        await exchanging.get(forged)
    # not even where a provider lists that very issuer
    provider = await exchanging.operator.broker.directory.get("default", "downstream")
    assert stranger.subject_token is not None
    listed = replace(provider, subject_issuers=frozenset({stranger.subject_token.issuer_id}), epoch=provider.epoch + 1)
    await exchanging.operator.vault.run(lambda records: records.update_provider(listed, Secret(CLIENT_SECRET)))
    with raising("access_denied"):
        await exchanging.get(forged)
    assert exchanging.exchanges == 1


async def test_a_moved_endpoint_is_sent_nobodys_token_until_an_operator_says_so(world: World) -> None:
    """covers: A08. Whose tokens a provider is sent was said of the endpoint that it had."""
    await world.add(settings={"flows": "M2M"})
    elsewhere, secret = {"token_url": "https://elsewhere.example.com/token"}, Secret("another secret")
    caller = await world.caller(world.jwt())
    await world.token(caller, flow=FLOW)
    moved = await world.update(settings=elsewhere, secret=secret)
    assert (moved.subject_issuers, moved.flows) == (frozenset(), (Flow.M2M,))
    with raising("unsupported_flow"):
        await world.get(caller, flow=FLOW)
    await world.add("alone")
    with raising("invalid_request"):
        await world.update("alone", settings=elsewhere, secret=secret)
    kept = await world.update("alone", settings=elsewhere, secret=secret, subject_issuers=("corp",))
    assert len(kept.subject_issuers) == 1


async def test_a_change_that_moves_nothing_keeps_the_list(exchanging: World) -> None:
    assert (await exchanging.update(scopes=("write",), settings={"actor_scopes": "act"})).subject_issuers
    assert (await exchanging.update(disabled=True)).subject_issuers


async def test_a_provider_without_a_way_to_exchange_lists_nobody(world: World) -> None:
    with raising("invalid_request") as refused:
        await world.add(settings={"flows": "M2M", "on_behalf_of": "no"})
    assert "on_behalf_of=" in refused.value.message
    with raising("invalid_request"):
        await world.add(client_authentication="none", secret=None, settings={"actor_token": "m2m"})
    spec = ProviderSpec("api-key", secret=Secret("key"), release="never", subject_issuers=("corp",))
    with raising("invalid_request"):
        await world.operator.broker.directory.add(world.operator.call(), "key", spec)


async def test_no_token_goes_over_plain_http(world: World) -> None:
    for url in ("http://exchange.example.com/token", "http://10.0.0.1/token"):
        with raising("url_refused"):
            await world.add(settings={"token_url": url})


# What is in a workload access token


async def test_the_users_token_is_in_it_only_where_the_workload_may_exchange_it(world: World) -> None:
    """covers: A10. What a workload has no use for is not in what its code passes around."""

    async def holds(workload: WorkloadIdentity | None = None) -> bool:
        caller = await world.caller(await world.workload_token(world.jwt(), workload))
        assert caller.user is not None
        return caller.subject_token is not None

    assert not await holds()
    await world.add("other", settings={"flows": "M2M"}, subject_issuers=())
    assert not await holds()
    await world.add()
    assert await holds()
    workload = await world.operator.update(allowed_providers=("other",))
    assert not await holds(workload)
    workload = await world.operator.update(allowed_providers=("downstream",))
    assert await holds(workload)
    await world.update(disabled=True)
    assert not await holds(workload)


async def test_it_can_be_as_long_as_the_longest_token_that_is_accepted(exchanging: World) -> None:
    jwt = exchanging.idp.access_token(ALICE, claims={"groups": ["x" * 100] * 100})
    assert 12_000 < len(jwt) < 16_384
    wat = await exchanging.workload_token(jwt)
    released = await exchanging.token(await exchanging.caller(wat))
    assert exchanging.server.issued[released.access_token.reveal()].subject == ALICE.subject


async def test_one_for_an_asserted_user_holds_none(exchanging: World) -> None:
    workload = await exchanging.operator.update(may_assert_users=True)
    own = exchanging.operator.caller(workload)
    call = exchanging.operator.broker.call(own, "get_workload_access_token")
    issued = await exchanging.operator.broker.issue_workload_access_token(call, exchanging.operator.asserted(), None)
    assert (await exchanging.caller(issued.token.reveal())).subject_token is None


async def test_a_token_of_somebody_else_does_not_become_part_of_it(exchanging: World) -> None:
    """covers: A05, A17. Only what the workload's own authorizer accepted is kept."""
    stranger = FakeIdentityProvider("okta", now=exchanging.operator.clock.now)
    exchanging.operator.reach(stranger)
    for jwt in (
        stranger.access_token(ALICE),
        exchanging.idp.access_token(ALICE, client="another-client"),
        exchanging.jwt()[:-6],
    ):
        with raising("unauthenticated"):
            await exchanging.workload_token(jwt)
        with raising("unauthenticated"):
            await exchanging.caller(jwt)
    with raising("token_expired"):
        await exchanging.workload_token(exchanging.jwt(seconds=-10))


# How it is asked for


async def test_by_the_jwt_bearer_grant_as_entra_has_it(world: World) -> None:
    world.server.knobs.client_method = "post"
    world.server.knobs.wants = {"requested_token_use": "on_behalf_of"}
    tenant = "11111111-2222-3333-4444-555555555555"
    spec = ProviderSpec(
        "microsoft", settings={"tenant": tenant}, client_id=CLIENT_ID, secret=Secret(CLIENT_SECRET), subject_issuers=("corp",)
    )
    provider = await world.operator.broker.directory.add(world.operator.call(), "entra", spec)
    assert Flow.ON_BEHALF_OF_TOKEN_EXCHANGE in provider.flows
    world.server.origin = "https://login.microsoftonline.com"
    caller = await world.caller(world.jwt())
    graph = "https://graph.microsoft.com/.default"
    released = await world.token(caller, graph, provider="entra", flow=FLOW)
    assert world.server.issued[released.access_token.reveal()] == Exchanged(ALICE.subject, (graph,))
    assert world.server.forms[0]["grant_type"] == JWT_BEARER
    again = await world.token(
        caller, graph, provider="entra", flow=FLOW, custom_parameters=(("requested_token_use", "on_behalf_of"),)
    )
    assert again.access_token == released.access_token


async def test_with_the_agents_own_token_as_the_actor(world: World) -> None:
    world.server.knobs.wants_actor = True
    await world.add(settings={"actor_token": "m2m", "actor_scopes": "act"})
    released = await world.token(await world.caller(world.jwt()))
    exchanged = world.server.issued[released.access_token.reveal()]
    assert world.server.issued[exchanged.actor] == Exchanged("", ("act",))
    other = await world.token(await world.caller(world.jwt(BOB)))
    assert world.server.issued[other.access_token.reveal()].actor == exchanged.actor
    assert (world.server.count("client_credentials"), world.exchanges) == (1, 2)
    steps = [event.detail["step"] for event in await world.operator.trail("get_token") if "step" in event.detail]
    assert steps == ["actor", "actor"]
    with raising("unsupported_flow"):
        await world.get(await world.caller(world.jwt()), flow="M2M")


async def test_without_a_word_about_the_client(world: World) -> None:
    world.server.knobs.client_method = "absent"
    await world.add(settings={"on_behalf_of_client": "no"})
    assert await world.token(await world.caller(world.jwt()))


async def test_an_agent_may_say_what_the_token_is_and_nothing_else(exchanging: World) -> None:
    caller = await exchanging.caller(exchanging.jwt())
    exchanging.server.knobs.subject_token_type = ACCESS_TOKEN_TYPE
    said = (("subject_token_type", ACCESS_TOKEN_TYPE),)
    assert await exchanging.token(caller, custom_parameters=said)
    for name, value in (
        ("subject_token_type", "urn:ietf:params:oauth:token-type:saml2"),
        ("subject_token", exchanging.jwt(BOB)),
        ("assertion", exchanging.jwt(BOB)),
        ("actor_token", "x"),
        ("client_id", "x"),
        ("audience", "x"),
        ("requested_token_type", ACCESS_TOKEN_TYPE),
        ("prompt", "login"),
    ):
        with raising("invalid_request"):
            await exchanging.get(caller, "other", custom_parameters=((name, value),))
    with raising("invalid_request"):
        await exchanging.get(caller, "other", custom_parameters=said * 2)
    assert exchanging.exchanges == 1


# What the server may answer


async def test_a_refusal_is_told_in_the_servers_own_word(exchanging: World) -> None:
    errors = ("invalid_grant", "invalid_target", "invalid_request", "interaction_required")
    for error in errors:
        exchanging.server.knobs.answer = respond_json({"error": error}, 400)
        with raising("upstream_rejected") as refused:
            await exchanging.get(await exchanging.caller(exchanging.jwt()))
        assert error in refused.value.message
        exchanging.operator.clock.advance(6)
    assert await exchanging.operator.outcomes("get_token") == ["upstream_rejected"] * len(errors)
    (grant,) = await exchanging.grants()
    assert grant.state is GrantState.PENDING


async def test_a_token_that_is_good_once_is_not_sent_twice(exchanging: World) -> None:
    exchanging.server.knobs.refuses_reuse = True
    caller = await exchanging.caller(exchanging.jwt())
    for _ in range(3):
        await exchanging.token(caller)
    with raising("upstream_rejected"):
        await exchanging.get(caller, "write")
    exchanging.operator.clock.advance(6)
    assert await exchanging.token(await exchanging.caller(exchanging.jwt()), "write")


async def test_a_client_that_is_not_accepted_is_the_operators_to_mend(world: World) -> None:
    await world.add(secret=Secret("a wrong secret"))
    with raising("provider_misconfigured"):
        await world.get(await world.caller(world.jwt()))


async def test_what_is_no_access_token_is_not_taken_for_one(exchanging: World) -> None:
    caller = await exchanging.caller(exchanging.jwt())
    wrong: list[dict[str, Any]] = [
        {"issued_token_type": None},
        {"issued_token_type": "urn:ietf:params:oauth:token-type:id_token"},
        {"issued_token_type": "urn:ietf:params:oauth:token-type:refresh_token"},
        {"token_type": "N_A"},
        {"token_type": None},
        {"access_token": None},
    ]
    for gives in wrong:
        exchanging.server.knobs.gives = gives
        with raising("upstream_bad_response"):
            await exchanging.get(caller)
        exchanging.operator.clock.advance(60)


# The user's token is nowhere


async def test_a_server_that_gives_the_users_token_back_has_given_nothing(exchanging: World) -> None:
    """covers: A10. Else the agent, the trail or a list of grants would have it."""
    jwt = exchanging.jwt()
    for gives in ({"access_token": jwt}, {"access_token": f"x{jwt}x"}, {"scope": jwt}, {"token_type": jwt}):
        exchanging.server.knobs.gives = gives
        with raising("upstream_bad_response") as refused:
            await exchanging.get(await exchanging.caller(jwt))
        await _appears_nowhere(exchanging, jwt, refused.value)
        exchanging.operator.clock.advance(60)


async def test_the_users_token_is_in_no_error_no_trail_no_log_and_no_table(
    exchanging: World, caplog: pytest.LogCaptureFixture
) -> None:
    """covers: A10."""
    caplog.set_level(logging.DEBUG)
    jwt = exchanging.jwt()
    signature = jwt.rpartition(".")[2]
    answers = [
        respond_json({"error": jwt}, 400),
        respond_json({"error": signature[:40], "error_description": jwt}, 400),
        respond_json({"error": "invalid_grant", "error_description": f"bad assertion {jwt}"}, 400),
        respond_json({"error": {"code": jwt, "message": jwt}}, 200),
        respond_json({"subject_token": jwt}),
    ]
    caller = await exchanging.caller(jwt)
    assert jwt not in repr(caller)
    for answer in answers:
        exchanging.server.knobs.answer = answer
        with pytest.raises(IdentityError) as caught:
            await exchanging.get(caller)
        assert jwt not in str(caught.value)
        assert signature not in caught.value.message
        exchanging.operator.clock.advance(60)
    exchanging.server.knobs.answer = None
    wat = await exchanging.workload_token(jwt)
    await exchanging.token(await exchanging.caller(wat))
    assert jwt not in wat
    assert signature not in caplog.text
    await _appears_nowhere(exchanging, jwt, None)


async def _appears_nowhere(world: World, jwt: str, error: IdentityError | None) -> None:
    signature = jwt.rpartition(".")[2]
    trail = [event for _, event in await world.operator.broker.list_audit("default", limit=10_000)]
    assert signature not in repr(trail)
    assert error is None or signature not in f"{error!r} {vars(error)} {error.message}"

    def everything(records: Records) -> str:
        names = [row[0] for row in records.connection.exec_driver_sql("SELECT name FROM sqlite_master WHERE type = 'table'")]
        return repr([records.connection.exec_driver_sql(f"SELECT * FROM {name}").all() for name in names])  # noqa: S608 - names of ours

    assert signature not in await world.operator.vault.read(everything)


# Handles and calls


async def test_a_handle_is_redeemed_only_with_the_users_token_at_hand(world: World) -> None:
    await world.add(release="handle")
    caller = await world.caller(world.jwt(seconds=600))
    issued = await world.get(caller)
    assert isinstance(issued, HandleIssued)
    wat = await world.caller(await world.workload_token(world.jwt(seconds=600)))
    bare = replace(wat, subject_token=None)
    broker = world.operator.broker
    with raising("unsupported_flow"):
        await broker.redeem(broker.call(bare, "redeem_release"), issued.handle)
    released = await broker.redeem(broker.call(wat, "redeem_release"), issued.handle)
    assert isinstance(released, TokenReleased)


async def test_the_flow_is_listed_and_its_grants_are_seen_by_their_user_alone(exchanging: World) -> None:
    alice, bob = [await exchanging.caller(exchanging.jwt(person)) for person in (ALICE, BOB)]
    await exchanging.token(alice)
    broker = exchanging.operator.broker
    (listed,) = (await broker.list_providers(broker.call(alice, "list_providers"))).providers
    assert listed.provider.flows == (Flow.ON_BEHALF_OF_TOKEN_EXCHANGE,)
    (grant,) = (await broker.list_grants(broker.call(alice, "list_grants"))).grants
    assert (grant.flow, grant.refreshable) == (Flow.ON_BEHALF_OF_TOKEN_EXCHANGE, True)
    assert (await broker.list_grants(broker.call(bob, "list_grants"))).grants == ()


async def test_a_provider_that_exchanges_is_checked_without_a_user(exchanging: World) -> None:
    directory = exchanging.operator.broker.directory
    checks = {each.name: each.passed for each in await directory.test(exchanging.operator.call("test_provider"), "downstream")}
    assert checks == {"secret": True, "exchange": True}
    await exchanging.update(secret=Secret("a wrong secret"))
    checks = {each.name: each.passed for each in await directory.test(exchanging.operator.call("test_provider"), "downstream")}
    assert checks == {"secret": True, "exchange": False}
