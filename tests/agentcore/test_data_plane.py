"""Does an agent get at run time what is its own, by the operations of the service, and nothing else?"""

from __future__ import annotations

from typing import Any

import anyio
import pytest

from mcp_identity.broker.answers import ProviderSpec
from mcp_identity.broker.specifications import IssuerSpec, WorkloadSpec
from mcp_identity.domain.credentials import Secret
from mcp_identity.domain.identity import DEFAULT_TENANT
from mcp_identity.vault.vault import Vault
from tests.agentcore.kit import OTHER_CLIENT, RETURN_URL, Reply, World
from tests.fakes.identity_provider import ALICE, BOB, FakeIdentityProvider, Person

PAYMENT = {"coinbaseCdpTokenRequest": {"requestMethod": "GET", "requestPath": "/platform"}}


async def key_of(world: World, wat: str, provider: str = "weather", *, key: str = "agent") -> Reply:
    return await world.ask("GetResourceApiKey", key=key, workloadIdentityToken=wat, resourceCredentialProviderName=provider)


# Workload access tokens


async def test_a_workload_gets_a_token_for_itself_and_with_it_what_the_client_may(world: World) -> None:
    wat = await world.wat(None)
    assert wat.startswith("mid_wat_")
    reply = await world.token(wat, flow="M2M", resourceOauth2ReturnUrl="https://nowhere.example.com/x")
    assert reply.status == 200, reply.json
    assert set(reply.json) == {"accessToken"}
    assert reply.json["accessToken"] in world.vendor.minted


async def test_a_token_that_is_still_good_is_not_asked_for_again(world: World) -> None:
    wat = await world.wat(None)
    first = await world.token(wat, flow="M2M", scopes=["cached"])
    asked = world.vendor.count("client_credentials")
    again = [await world.token(await world.wat(None), flow="M2M", scopes=["cached"]) for _ in range(3)]
    assert [each.json for each in again] == [first.json] * 3
    assert world.vendor.count("client_credentials") == asked


async def test_a_token_that_is_there_costs_one_unit_of_work(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Signer and workload access token are remembered, and confirmed by the unit that serves."""
    wat = await world.wat(None)
    first = await world.token(wat, flow="M2M")
    run, units = Vault.run, list[str]()

    async def counting(self: Vault, *given: Any, **named: Any) -> Any:
        units.append("unit")
        return await run(self, *given, **named)

    monkeypatch.setattr(Vault, "run", counting)
    counts: list[int] = []
    while len(counts) < 5:  # whoever has not looked for a second which configuration holds remembers nobody
        units.clear()
        assert (await world.token(wat, flow="M2M")).json == first.json
        counts.append(len(units))
    assert min(counts) == 1
    counts.clear()
    while len(counts) < 5:
        units.clear()
        await world.wat(None)
        counts.append(len(units))
    assert min(counts) == 1


async def test_no_scopes_are_the_providers_own(world: World) -> None:
    wat = await world.wat(None)
    assert (await world.token(wat, flow="M2M", scopes=[])).json == (await world.token(wat, flow="M2M", scopes=["read"])).json


async def test_every_key_gets_tokens_of_its_own_workloads_alone_and_an_operators_of_all(world: World) -> None:
    """covers: A46."""
    foreign = await world.ask("GetWorkloadAccessToken", key="other", workloadName="agent")
    absent = await world.ask("GetWorkloadAccessToken", key="other", workloadName="nothing-of-this-name")
    assert (foreign.status, foreign.json) == (absent.status, absent.json)
    assert foreign.error == "ResourceNotFoundException"
    for workload in ("agent", "other"):
        assert (await world.wat(None, key="admin", workload=workload)).startswith("mid_wat_")
    nowhere = await world.ask("GetWorkloadAccessToken", key="admin", workloadName="nothing-of-this-name")
    assert nowhere.json == absent.json


async def test_a_token_speaks_for_its_workload_only_where_the_signer_may(world: World) -> None:
    """A stolen one is worth nothing to whoever has another workload's key.

    covers: A03
    """
    wat = await world.wat(ALICE)
    for stolen in (await world.token(wat, key="other"), await key_of(world, wat, key="other")):
        assert (stolen.status, stolen.error) == (403, "AccessDeniedException")
    assert (await key_of(world, wat, key="admin")).status == 200


@pytest.mark.parametrize("bad", ["mid_wat_" + "A" * 120, "x", "a.b.c", "mid_wk_" + "A" * 43])
async def test_what_is_no_workload_access_token_is_unauthorized_and_not_repeated(world: World, bad: str) -> None:
    reply = await world.token(bad)
    assert (reply.status, reply.error) == (401, "UnauthorizedException")
    assert bad not in str(reply.json["message"].split())


async def test_no_other_bearer_stands_in_for_a_workload_access_token(world: World) -> None:
    issued = await world.broker.workloads.issue_key(world.operator(), "agent")
    for bearer in (issued.key.reveal(), world.user_token(ALICE)):
        reply = await key_of(world, bearer)
        assert (reply.status, reply.error) == (401, "UnauthorizedException")
        assert bearer not in str(reply.json)


async def test_a_changed_workload_ends_what_was_issued_before(world: World) -> None:
    """covers: A17."""
    await world.add_workload("changing")
    await world.add_key("changing", "workload", "changing")
    wat = await world.wat(None, key="changing", workload="changing")
    assert (await key_of(world, wat, key="changing")).status == 200
    await world.broker.workloads.update(world.operator(), "changing", WorkloadSpec(owner="somebody"))
    assert (await key_of(world, wat, key="changing")).error == "UnauthorizedException"
    fresh = await world.wat(None, key="changing", workload="changing")
    assert (await key_of(world, fresh, key="changing")).status == 200
    await world.broker.workloads.update(world.operator(), "changing", WorkloadSpec(disabled=True))
    assert (await key_of(world, fresh, key="changing")).status in (401, 403)
    gone = await world.ask("GetWorkloadAccessToken", key="admin", workloadName="changing")
    assert gone.error == "ResourceNotFoundException"


# Users


async def test_a_users_token_must_pass_the_named_workloads_own_authorizer(world: World) -> None:
    mine = world.user_token(ALICE, client=OTHER_CLIENT)
    refused = await world.ask("GetWorkloadAccessTokenForJWT", workloadName="agent", userToken=mine)
    assert (refused.status, refused.error) == (401, "UnauthorizedException")
    assert mine not in str(refused.json)
    by_admin = await world.ask("GetWorkloadAccessTokenForJWT", key="admin", workloadName="agent", userToken=mine)
    assert by_admin.error == "UnauthorizedException"
    theirs = await world.ask("GetWorkloadAccessTokenForJWT", key="other", workloadName="other", userToken=mine)
    assert theirs.status == 200


async def test_a_users_token_that_has_ended_or_was_forged_proves_nobody(world: World) -> None:
    forger = FakeIdentityProvider()
    forger.origin, forger.keys = world.idp.origin, ["forged"]
    for bad in (world.user_token(lifetime_seconds=-600), forger.access_token(ALICE), world.user_token() + "x"):
        reply = await world.ask("GetWorkloadAccessTokenForJWT", workloadName="agent", userToken=bad)
        assert (reply.status, reply.error) == (401, "UnauthorizedException")
        assert bad not in str(reply.json)


async def test_a_user_is_named_by_an_id_only_where_the_workload_or_the_key_may_do_so(world: World) -> None:
    asked: dict[str, Any] = {"workloadName": "agent", "userId": "cognito+user123"}
    for key in ("agent", "admin"):
        refused = await world.ask("GetWorkloadAccessTokenForUserId", key=key, **asked)
        assert (refused.status, refused.error) == (403, "AccessDeniedException")
        assert "--may-assert-users" in refused.json["message"]
    assert (await world.ask("GetWorkloadAccessTokenForUserId", key="trusted", **asked)).status == 200
    await world.add_workload("asserting", may_assert_users=True)
    mine = await world.ask("GetWorkloadAccessTokenForUserId", key="admin", workloadName="asserting", userId="8f0a1b2c")
    assert mine.status == 200
    for bad in (" x", "x ", "a\nb", "\u202ex"):
        strange = await world.ask("GetWorkloadAccessTokenForUserId", key="trusted", workloadName="agent", userId=bad)
        assert (strange.status, strange.error) == (400, "ValidationException")


async def test_a_user_named_by_an_id_is_never_the_one_who_signed_in(world: World) -> None:
    """Not even with the same subject."""
    token = await world.connected(ALICE)
    for user_id in ("alice", f"{world.idp.issuer} alice"):
        issued = await world.ask("GetWorkloadAccessTokenForUserId", key="trusted", workloadName="agent", userId=user_id)
        reply = await world.token(issued.json["workloadAccessToken"], key="trusted")
        assert "accessToken" not in reply.json
    assert (await world.token(await world.wat(ALICE))).json == {"accessToken": token}


async def test_each_user_gets_their_own_token_also_when_both_ask_at_once(world: World) -> None:
    tokens = {who: await world.connected(who) for who in (ALICE, BOB)}
    wats = {who: await world.wat(who) for who in (ALICE, BOB)}
    wrong: list[Any] = []

    async def ask(who: Person) -> None:
        reply = await world.token(wats[who])
        if reply.json != {"accessToken": tokens[who]}:
            wrong.append((who, reply.json))

    async with anyio.create_task_group() as tasks:
        for _ in range(10):
            tasks.start_soon(ask, ALICE)
            tasks.start_soon(ask, BOB)
    assert wrong == []
    assert tokens[ALICE] != tokens[BOB]
    stranger = await world.token(await world.wat(Person("stranger", "Stranger")))
    assert "accessToken" not in stranger.json


async def test_what_a_user_granted_by_one_workload_is_not_anothers(world: World) -> None:
    """covers: A28."""
    await world.connected(ALICE)
    reply = await world.token(await world.wat(ALICE, key="other", workload="other"), key="other")
    assert "accessToken" not in reply.json


# Credentials


async def test_a_key_is_given_to_code_and_kept_where_an_operator_said_never(world: World) -> None:
    wat = await world.wat(None)
    reply = await key_of(world, wat)
    assert reply.json == {"apiKey": world.server.home.api_key}
    sealed = await key_of(world, wat, "sealed")
    assert (sealed.status, sealed.error) == (403, "AccessDeniedException")
    assert world.server.home.api_key not in str(sealed.json)


async def test_where_models_get_a_handle_code_gets_the_value(world: World) -> None:
    spec = ProviderSpec(release="handle")
    for name in ("weather", "billing"):
        await world.broker.directory.update(world.operator(), name, spec)
    try:
        wat = await world.wat(None)
        assert (await key_of(world, wat)).json == {"apiKey": world.server.home.api_key}
        assert set((await world.token(wat, flow="M2M")).json) == {"accessToken"}
    finally:
        for name in ("weather", "billing"):
            await world.broker.directory.update(world.operator(), name, ProviderSpec(release="token"))


async def test_a_provider_that_is_not_there_or_of_another_kind_is_told(world: World) -> None:
    wat = await world.wat(ALICE)
    for reply in (await world.token(wat, resourceCredentialProviderName="nothing"), await key_of(world, wat, "nothing")):
        assert (reply.status, reply.error) == (404, "ResourceNotFoundException")
    for reply in (
        await world.token(wat, resourceCredentialProviderName="weather"),
        await key_of(world, wat, "notes"),
        await world.token(wat, flow="M2M", resourceCredentialProviderName="notes"),
    ):
        assert (reply.status, reply.error) == (400, "ValidationException")
        assert reply.json["reason"] == "FieldValidationFailed"


async def test_a_workload_that_may_use_some_providers_alone_gets_no_other(world: World) -> None:
    await world.add_workload("narrow", allowed_providers=("weather",))
    await world.add_key("narrow", "workload", "narrow")
    wat = await world.wat(None, key="narrow", workload="narrow")
    assert (await key_of(world, wat, key="narrow")).status == 200
    refused = await world.token(wat, key="narrow", flow="M2M")
    assert (refused.status, refused.error) == (403, "AccessDeniedException")


async def test_more_than_one_target_at_a_time_is_refused(world: World) -> None:
    wat = await world.wat(None)
    for name in ("resources", "audiences"):
        two: dict[str, Any] = {name: ["https://a.example.com", "https://b.example.com"]}
        reply = await world.token(wat, flow="M2M", **two)
        assert (reply.status, reply.json["fieldList"][0]["name"]) == (400, name)


async def test_a_vendor_that_refuses_is_the_callers_to_know_at_once(world: World) -> None:
    """Not worth a second try, so no client makes one by itself."""
    world.vendor.echo = "description"
    try:
        reply = await world.token(await world.wat(None), flow="M2M", scopes=["refused"])
    finally:
        world.vendor.echo = None
    assert (reply.status, reply.error) == (400, "ValidationException")
    assert world.vendor.client_secret not in str(reply.json)


async def test_payment_is_not_served_and_says_so(world: World) -> None:
    wat = await world.wat(None)
    reply = await world.ask(
        "GetResourcePaymentToken",
        workloadIdentityToken=wat,
        resourceCredentialProviderName="weather",
        paymentTokenRequest=PAYMENT,
    )
    assert (reply.status, reply.error) == (400, "ValidationException")
    assert "not served" in reply.json["message"]


async def test_a_users_own_token_is_exchanged_for_one_that_acts_for_them(world: World) -> None:
    """Only of a user who was proved by it: a workload alone, and a user named by an id, have none."""
    settings = {
        "token_url": f"{world.vendor.url}/token_url",
        "flows": "ON_BEHALF_OF_TOKEN_EXCHANGE",
        "on_behalf_of": "jwt-bearer",
    }
    spec = ProviderSpec(
        vendor="custom",
        client_id="the-client",
        secret=Secret(world.vendor.client_secret),
        settings=settings,
        subject_issuers=("corp",),
        allow_http_loopback=True,
    )
    await world.broker.directory.add(world.operator(), "exchanged", spec)
    flow, asked = "ON_BEHALF_OF_TOKEN_EXCHANGE", {"resourceCredentialProviderName": "exchanged"}
    reply = await world.token(await world.wat(ALICE), flow=flow, resourceOauth2ReturnUrl=RETURN_URL, **asked)
    assert set(reply.json) == {"accessToken"}
    assert reply.json["accessToken"] in world.vendor.minted
    sent = world.vendor.received[-1]
    assert sent["grant_type"] == "urn:ietf:params:oauth:grant-type:jwt-bearer"
    assert sent["assertion"].count(".") == 2
    named = await world.ask("GetWorkloadAccessTokenForUserId", key="trusted", workloadName="agent", userId="alice")
    for key, wat in (("agent", await world.wat(None)), ("trusted", named.json["workloadAccessToken"])):
        refused = await world.token(wat, key=key, flow=flow, **asked)
        assert refused.status in (400, 403)
        assert sent["assertion"] not in str(refused.json)


# Another tenant


async def test_a_key_of_another_tenant_finds_nothing_of_this_one(world: World) -> None:
    graph = world.graph
    call = world.broker.call(world.broker.directory.operator(graph.user, "acme"), "operate")
    await world.broker.workloads.create(call, "agent", WorkloadSpec(return_urls=(RETURN_URL,)))
    await world.add_key_of("acme", "acme", "admin")
    wat = await world.wat(None)
    for crossed in (await world.token(wat, key="acme", flow="M2M"), await key_of(world, wat, key="acme")):
        assert (crossed.status, crossed.error) == (403, "AccessDeniedException")
    theirs = await world.wat(None, key="acme")
    assert (await key_of(world, theirs, key="acme")).error == "ResourceNotFoundException"
    assert (await key_of(world, theirs, key="admin")).error == "AccessDeniedException"
    mine = await world.ask("GetWorkloadAccessTokenForJWT", key="acme", workloadName="agent", userToken=world.user_token())
    assert mine.error == "UnauthorizedException"
    assert DEFAULT_TENANT not in str(mine.json)


# Bearers


async def test_a_workload_key_is_a_caller_for_its_own_workload(world: World) -> None:
    issued = (await world.broker.workloads.issue_key(world.operator(), "agent")).key.reveal()
    reply = await world.ask_by_bearer("GetWorkloadAccessToken", issued, workloadName="agent")
    assert reply.status == 200
    wat = reply.json["workloadAccessToken"]
    given = await world.ask_by_bearer(
        "GetResourceApiKey", issued, workloadIdentityToken=wat, resourceCredentialProviderName="weather"
    )
    assert given.json == {"apiKey": world.server.home.api_key}
    foreign = await world.ask_by_bearer("GetWorkloadAccessToken", issued, workloadName="other")
    absent = await world.ask_by_bearer("GetWorkloadAccessToken", issued, workloadName="nothing-of-this-name")
    assert (foreign.status, foreign.json) == (404, absent.json)
    stolen = await world.wat(None, key="other", workload="other")
    crossed = await world.ask_by_bearer(
        "GetResourceApiKey", issued, workloadIdentityToken=stolen, resourceCredentialProviderName="weather"
    )
    assert crossed.error == "AccessDeniedException"


async def test_neither_a_user_nor_a_derived_token_is_a_caller_here(world: World) -> None:
    for bearer in (world.user_token(ALICE), await world.wat(ALICE), await world.wat(None)):
        reply = await world.ask_by_bearer("GetWorkloadAccessToken", bearer, workloadName="agent")
        assert (reply.status, reply.error) == (403, "AccessDeniedException")
    nobody = await world.ask_by_bearer("GetWorkloadAccessToken", "mid_wk_" + "A" * 43, workloadName="agent")
    assert (nobody.status, nobody.error) == (401, "UnauthorizedException")
    assert nobody.headers["www-authenticate"] == "Bearer"


async def test_a_token_with_the_operators_scope_is_an_operators_and_needs_the_other_one_for_credentials(world: World) -> None:
    staff = FakeIdentityProvider()
    async with staff.serve():
        spec = IssuerSpec(staff.discovery_url, audiences=(staff.audience,), require_tool_scopes=True, allow_http_loopback=True)
        await world.broker.issuers.add(world.operator(), "staff", spec)
        await world.add_workload("desk", issuer="staff", clients=("desk",))

        async def ask(scopes: str, operation: str, **members: Any) -> Reply:
            return await world.ask_by_bearer(operation, staff.service_token("desk", scopes=scopes), **members)

        asked = {"workloadName": "agent"}
        assert (await ask("identity:admin identity:token", "GetWorkloadAccessToken", **asked)).status == 200
        for scopes, error in (
            ("identity:admin", "AccessDeniedException"),
            ("identity:token", "ResourceNotFoundException"),
            ("identity:read", "ResourceNotFoundException"),
        ):
            assert (await ask(scopes, "GetWorkloadAccessToken", **asked)).error == error
        own = await ask("identity:read", "GetWorkloadAccessToken", workloadName="desk")
        assert own.error == "AccessDeniedException"
        assert (await ask("identity:token", "GetWorkloadAccessToken", workloadName="desk")).status == 200
        derived = await ask("identity:admin identity:token", "GetWorkloadAccessToken", workloadName="desk")
        by_derived = await world.ask_by_bearer(
            "ListWorkloadIdentities", derived.json["workloadAccessToken"]
        )  # it holds the scope, and is a workload's all the same
        assert by_derived.error == "AccessDeniedException"
