"""Who comes in at this edge, what hears somebody who may not, and what stands of it in the trail and in the log?"""

from __future__ import annotations

import json
import logging
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest

from mcp_identity import app
from mcp_identity.agentcore import errors
from mcp_identity.agentcore.routes import OPERATIONS
from mcp_identity.broker.specifications import WorkloadSpec
from mcp_identity.domain.access_key import AccessKeyRole
from tests.agentcore.kit import Key, Reply, World, path_of, running_world, signed
from tests.fakes.home import VaultHome, put_vault
from tests.fakes.identity_provider import ALICE, BOB
from tests.http.kit import http_client, local_options, server_here

CANARY = "c4n4ry"
WEATHER: dict[str, Any] = {"resourceCredentialProviderName": "weather"}


def whole(**members: Any) -> bytes:
    return json.dumps(members).encode()


# Proofs


async def test_nobody_without_a_proof_is_told_what_would_do(world: World) -> None:
    """covers: A07."""
    reply = await world.send("POST", path_of("GetWorkloadAccessToken"), whole(workloadName="agent"), {})
    assert (reply.status, reply.error) == (401, "UnauthorizedException")
    assert "access-keys create" in reply.json["message"]
    assert reply.headers["www-authenticate"] == "Bearer"


async def test_a_signature_that_does_not_stand_is_forbidden_for_whatever_reason(world: World) -> None:
    """covers: A61."""
    path, body = path_of("GetWorkloadAccessToken"), whole(workloadName="agent")
    key = world.keys["agent"]
    good = signed(key, "POST", world.url + path, body)
    elsewhere = signed(key, "POST", world.url + path_of("GetResourceApiKey"), body)
    unknown = signed(Key("MID" + "A" * 17, key.secret), "POST", world.url + path, body)
    wrong = signed(Key(key.id, "another"), "POST", world.url + path, body)
    tampered = await world.send("POST", path, body + b" ", good)
    said = [tampered, *[await world.send("POST", path, body, headers) for headers in (elsewhere, unknown, wrong)]]
    assert {(each.status, each.error) for each in said} == {(403, "AccessDeniedException")}
    assert len({each.json["message"] for each in said}) == 1
    assert (await world.send("POST", path, body, good)).status == 200
    await world.broker.refusals.write()
    refused = [event for event in await world.trail("authenticate") if "reason" in event.detail]
    assert {event.outcome for event in refused} == {"unauthenticated"}
    assert {event.detail["reason"] for event in refused} >= {"signature", "unknown_key"}


async def test_a_bearer_of_the_wrong_form_is_unauthorized(world: World) -> None:
    for value in ("Bearer", "Bearer a b", "Basic YTpi", f"Bearer {'A' * 15_000}", "Bearer a%20b"):
        reply = await world.send("POST", path_of("GetWorkloadAccessToken"), b"{}", {"authorization": value})
        assert (reply.status, reply.error) == (401, "UnauthorizedException")


@pytest.mark.parametrize("operation", [each for each in OPERATIONS if each.needs == "admin"], ids=lambda each: each.name)
async def test_a_workloads_key_does_nothing_that_is_an_operators(world: World, operation: Any) -> None:
    """Whatever the request holds: the role is asked first.

    covers: A16b
    """
    path = operation.path.replace("{resourceArn}", "arn%3Aaws%3Abedrock-agentcore%3Aeu%3A000000000000%3Atoken-vault%2Fdefault")
    for body in (b"{}", b"", b"nonsense"):
        headers = signed(world.keys["trusted"], operation.method, world.url + path, body)
        reply = await world.send(operation.method, path, body, headers)
        assert (reply.status, reply.error) == (403, "AccessDeniedException"), reply.json


# What is asked


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/identities/NoSuchOperation"),
        ("POST", "/identities/"),
        ("GET", "/identities/GetWorkloadAccessToken"),
        ("PUT", "/identities/oauth2/token"),
        ("PATCH", "/tags/x"),
        ("POST", "/resourcepolicy/x/y/z"),
    ],
)
async def test_what_is_no_operation_is_unknown(world: World, method: str, path: str) -> None:
    reply = await world.send(method, path, b"", {})
    assert (reply.status, reply.error) == (404, "UnknownOperationException")
    assert reply.headers["x-amzn-requestid"]


@pytest.mark.parametrize("body", [b"nonsense", b'{"a": ', b"\xff\xfe", b"[]", b'"x"', b"1", b"null", b"[" * 20_000])
async def test_a_body_that_is_no_object_cannot_be_parsed(world: World, body: bytes) -> None:
    reply = await world.ask("GetWorkloadAccessToken", raw=body)
    assert (reply.status, reply.error, reply.json["reason"]) == (400, "ValidationException", "CannotParse")


async def test_a_body_of_any_size_is_not_read(world: World) -> None:
    """covers: A39."""
    body = whole(workloadName="agent", more="x" * 300_000)
    headers = signed(world.keys["agent"], "POST", world.url + path_of("GetWorkloadAccessToken"), body)
    reply = await world.send("POST", path_of("GetWorkloadAccessToken"), body, headers)
    assert (reply.status, reply.json["reason"]) == (400, "CannotParse")


async def test_every_member_that_breaks_a_rule_is_named_and_none_is_repeated(world: World) -> None:
    reply = await world.ask(
        "GetResourceOauth2Token",
        workloadIdentityToken="",
        resourceCredentialProviderName=f"{CANARY} with spaces",
        scopes=["ok", ""],
        oauth2Flow=CANARY,
        sessionUri=f"urn:{CANARY}",
        customParameters={f"{CANARY} key": "x"},
        customState=CANARY * 1000,
        forceAuthentication="yes",
    )
    assert (reply.status, reply.error, reply.json["reason"]) == (400, "ValidationException", "FieldValidationFailed")
    named = {each["name"] for each in reply.json["fieldList"]}
    assert named >= {
        "workloadIdentityToken",
        "resourceCredentialProviderName",
        "scopes.1",
        "oauth2Flow",
        "sessionUri",
        "customParameters",
        "customState",
        "forceAuthentication",
    }
    assert CANARY not in str(reply.json)


async def test_members_that_nobody_knows_are_ignored_as_the_protocol_does(world: World) -> None:
    assert (await world.ask("GetWorkloadAccessToken", workloadName="agent", newerMember={"x": 1})).status == 200


@pytest.mark.parametrize("given", [{}, {"userToken": "a.b.c", "userId": "x"}, {"userId": ""}, "x"])
async def test_a_union_has_exactly_one_member(world: World, given: Any) -> None:
    uri = "urn:ietf:params:oauth:request_uri:" + "A" * 43
    reply = await world.ask("CompleteResourceTokenAuth", sessionUri=uri, userIdentifier=given)
    assert reply.json["reason"] == "FieldValidationFailed"
    assert reply.json["fieldList"][0]["name"].startswith("userIdentifier")


# The trail and the log


async def test_the_trail_says_which_key_signed_for_which_workload_and_user(world: World) -> None:
    wat = await world.wat(ALICE)
    reply = await world.ask("GetResourceApiKey", workloadIdentityToken=wat, **WEATHER)
    (event,) = [each for each in await world.trail("get_api_key") if each.correlation_id == reply.headers["x-amzn-requestid"]]
    assert (event.edge, event.workload, event.provider, event.outcome) == ("agentcore", "agent", "weather", "ok")
    assert event.verified
    assert event.user_key == f"{world.idp.issuer} alice"
    assert event.detail["authenticated_by"] == "workload_token"
    assert event.detail["signed_by"] == world.keys["agent"].id
    issued = (await world.trail("get_workload_access_token"))[-1]
    assert issued.detail["authenticated_by"] == "access_key"
    assert issued.detail["jti"] == event.detail["credential"]
    keys = (await world.broker.access_keys.list("default")).keys
    assert issued.detail["credential"] == next(each.id for each in keys if each.access_key_id == world.keys["agent"].id)


async def test_whatever_is_refused_stands_in_the_trail_once(world: World) -> None:
    wat = await world.wat(None)
    replies = [
        await world.ask("GetWorkloadAccessToken", workloadName="x"),
        await world.ask("GetWorkloadAccessToken", workloadName="not-there"),
        await world.ask("GetResourceApiKey", workloadIdentityToken=wat, resourceCredentialProviderName="nothing"),
        await world.ask("GetResourceApiKey", workloadIdentityToken="mid_wat_x", **WEATHER),
        await world.ask("GetResourcePaymentToken"),
        await world.ask("CompleteResourceTokenAuth", sessionUri="x"),
    ]
    trail = await world.trail()
    for reply in replies:
        assert reply.status >= 400
        found = [event for event in trail if event.correlation_id == reply.headers["x-amzn-requestid"]]
        assert [event.outcome != "ok" for event in found] == [True], reply.json


async def test_no_bearer_and_no_state_of_an_application_stands_in_a_log_or_in_the_trail(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    """At the most talkative level, of requests that go well and of such that do not.

    covers: A11
    """
    caplog.set_level(logging.DEBUG)
    wat, user = await world.wat(BOB), world.user_token(BOB)
    asked: tuple[dict[str, Any], ...] = ({}, {"forceAuthentication": True}, {"scopes": [" "]}, {"resources": ["x", "y"]})
    for members in asked:
        await world.token(wat, customState=CANARY, **members)
    await world.token(wat + "x", customState=CANARY, customParameters={CANARY: CANARY})
    await world.ask("GetWorkloadAccessTokenForJWT", workloadName="other", userToken=user)
    await world.ask("CompleteResourceTokenAuth", sessionUri="urn:x", userIdentifier={"userToken": user})
    said = caplog.text + str(await world.trail())
    for secret in (wat, user, CANARY, world.keys["agent"].secret):
        assert secret not in said


async def test_a_failure_of_ours_is_told_without_a_word_of_why(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    async def broken(*_: Any, **__: Any) -> None:
        raise ValueError(CANARY)

    monkeypatch.setattr(world.broker, "get_api_key", broken)
    reply = await world.ask("GetResourceApiKey", workloadIdentityToken=await world.wat(None), **WEATHER)
    assert (reply.status, reply.error) == (500, "InternalServerException")
    assert CANARY not in str(reply.json)


# Limits


@asynccontextmanager
async def narrow(tmp_path: Path, **settings: Any) -> AsyncGenerator[World]:
    async with running_world(tmp_path / "home", **settings) as world:
        yield world


async def test_who_guesses_is_stopped_and_a_good_neighbour_is_not(tmp_path: Path) -> None:
    async with narrow(tmp_path, failed_authentications_per_minute=3) as world:
        assert (await world.ask("GetWorkloadAccessToken", workloadName="agent")).status == 200
        world.keys["guesser"] = Key("MID" + "A" * 17, "guessed")
        said = [await world.ask("GetWorkloadAccessToken", key="guesser", workloadName="agent") for _ in range(6)]
        assert {each.status for each in said[:3]} == {403}
        assert (said[-1].status, said[-1].error) == (429, "ThrottlingException")
        assert int(said[-1].headers["retry-after"]) > 0
        assert (await world.ask("GetWorkloadAccessToken", workloadName="agent")).status == 200
        stranger = await world.ask("GetWorkloadAccessToken", key="other", workloadName="other")
        assert stranger.status == 429  # nobody from this address whom we did not know before


async def test_one_principal_asks_so_often_and_others_do_not_notice(tmp_path: Path) -> None:
    async with narrow(tmp_path, calls_per_second=1) as world:
        alice, bob = await world.wat(ALICE), await world.wat(BOB, key="other", workload="other")
        replies: list[Reply] = []

        async def ask() -> None:
            replies.append(await world.ask("GetResourceApiKey", workloadIdentityToken=alice, **WEATHER))

        async with anyio.create_task_group() as tasks:
            for _ in range(12):
                tasks.start_soon(ask)
        assert {each.status for each in replies} == {200, 429}
        assert next(each for each in replies if each.status == 429).error == "ThrottlingException"
        assert (await world.ask("GetResourceApiKey", key="other", workloadIdentityToken=bob, **WEATHER)).status == 200


# What another process changed


@asynccontextmanager
async def neighbour(world: World) -> AsyncGenerator[tuple[app.Graph, Any]]:
    """Another process's view of the vault, and an operator's call there."""
    async with app.open(world.server.home.settings()) as graph:
        yield graph, graph.broker.call(graph.broker.directory.operator(graph.user), "operate")


async def test_a_key_that_another_process_removed_gets_nothing_more(world: World) -> None:
    """Also where this one remembers it: the unit that would serve it finds that out."""
    await world.add_key("ending", "workload", "agent")
    wat = await world.wat(None, key="ending")
    asked: dict[str, Any] = {"workloadIdentityToken": wat, **WEATHER}
    assert (await world.ask("GetResourceApiKey", key="ending", **asked)).status == 200
    async with neighbour(world) as (graph, operator):
        await world.broker.confirm()  # this process has just looked
        await graph.broker.access_keys.remove(operator, world.keys["ending"].id)
        reply = await world.ask("GetResourceApiKey", key="ending", **asked)
    assert (reply.status, reply.error) == (403, "AccessDeniedException")
    assert world.server.home.api_key not in str(reply.json)
    assert (await world.ask("GetResourceApiKey", key="agent", **asked)).status == 200


async def test_a_workload_that_another_process_changed_ends_what_was_issued_to_it(world: World) -> None:
    await world.add_workload("ephemeral")
    await world.add_key("ephemeral", "workload", "ephemeral", "agent")
    wat = await world.wat(None, key="ephemeral", workload="ephemeral")
    asked: dict[str, Any] = {"workloadIdentityToken": wat, **WEATHER}
    assert (await world.ask("GetResourceApiKey", key="ephemeral", **asked)).status == 200
    async with neighbour(world) as (graph, operator):
        await world.broker.confirm()
        await graph.broker.workloads.update(operator, "ephemeral", WorkloadSpec(owner="new"))
        reply = await world.ask("GetResourceApiKey", key="ephemeral", **asked)
    assert (reply.status, reply.error) == (401, "UnauthorizedException")


async def test_a_workload_that_another_process_removed_is_gone_also_by_its_name(world: World) -> None:
    await world.add_workload("leaving")
    await world.wat(None, key="admin", workload="leaving")
    async with neighbour(world) as (graph, operator):
        await world.wat(None, key="admin", workload="leaving")
        await graph.broker.workloads.remove(operator, "leaving")
        reply = await world.ask("GetWorkloadAccessToken", key="admin", workloadName="leaving")
        assert reply.error == "ResourceNotFoundException"
        await graph.broker.workloads.create(operator, "leaving", WorkloadSpec())
        assert (await world.wat(None, key="admin", workload="leaving")).startswith("mid_wat_")


async def test_what_another_process_changed_elsewhere_is_noticed_without_a_word(world: World) -> None:
    wat = await world.wat(None)
    asked: dict[str, Any] = {"workloadIdentityToken": wat, **WEATHER}
    assert (await world.ask("GetResourceApiKey", **asked)).status == 200
    async with neighbour(world) as (graph, operator):
        await world.broker.confirm()
        await graph.broker.workloads.update(operator, "other", WorkloadSpec(owner="new"))
        assert (await world.ask("GetResourceApiKey", **asked)).json == {"apiKey": world.server.home.api_key}


# Writes


async def test_a_write_of_somebody_remembered_is_done_once_also_where_another_process_changed_something(world: World) -> None:
    assert (await world.ask("CreateWorkloadIdentity", key="admin", name="made-before")).status == 201
    async with neighbour(world) as (graph, operator):
        await world.broker.confirm()
        await graph.broker.workloads.update(operator, "other", WorkloadSpec(owner="newer"))
        reply = await world.ask("CreateWorkloadIdentity", key="admin", name="made-after")
    assert (reply.status, reply.json["name"]) == (201, "made-after")
    found = [event for event in await world.trail("create_workload_identity") if "made-after" in str(event.detail)]
    assert [event.outcome for event in found] == ["ok"]


async def test_a_signed_write_that_is_sent_again_has_one_effect_and_the_same_answer(world: World) -> None:
    """covers: A62."""
    wat = await world.wat(BOB)
    first = await world.token(wat, forceAuthentication=True)
    back = await world.browse(first.json["authorizationUrl"])
    body = whole(sessionUri=back["session_id"], userIdentifier={"userToken": world.user_token(BOB)})
    path = path_of("CompleteResourceTokenAuth")
    headers = signed(world.keys["agent"], "POST", world.url + path, body)
    exchanged = world.vendor.count("authorization_code")
    replies: list[Reply] = []

    async def send() -> None:
        replies.append(await world.send("POST", path, body, headers))

    async with anyio.create_task_group() as tasks:
        for _ in range(3):
            tasks.start_soon(send)
    await send()
    assert [(each.status, each.json) for each in replies] == [(200, {})] * 4
    assert world.vendor.count("authorization_code") == exchanged + 1
    found = [event for event in await world.trail("complete_consent") if "bob" in event.user_key]
    assert [event.outcome for event in found].count("ok") <= 2  # the completion, and the exchange that followed


async def test_a_signed_write_that_was_refused_is_refused_alike_when_it_is_sent_again(world: World) -> None:
    body = whole(sessionUri="urn:ietf:params:oauth:request_uri:" + "B" * 43, userIdentifier={"userId": "x"})
    path = path_of("CompleteResourceTokenAuth")
    headers = signed(world.keys["trusted"], "POST", world.url + path, body)
    first, again = [await world.send("POST", path, body, headers) for _ in range(2)]
    assert (first.status, first.error, first.json) == (again.status, again.error, again.json)
    assert first.error == "ResourceNotFoundException"


# Where it is served


async def test_a_server_that_asks_nobody_has_no_such_edge(tmp_path: Path) -> None:
    options = local_options(insecure_loopback=True)
    async with server_here(VaultHome(tmp_path / "home"), options, agents=()) as server, http_client() as http:
        answer = await http.post(f"{server.url}/identities/GetWorkloadAccessToken", json={"workloadName": "agent"})
    assert answer.status_code == 404
    assert "x-amzn-errortype" not in answer.headers


async def test_access_keys_alone_are_callers_enough_to_be_exposed(tmp_path: Path) -> None:
    home = VaultHome(tmp_path / "home")
    put_vault(home.path)
    async with app.open(home.settings()) as graph:
        assert not await graph.broker.callers.are_possible()
        call = graph.broker.call(graph.broker.directory.operator(graph.user), "create_access_key")
        await graph.broker.access_keys.create(call, AccessKeyRole.ADMIN)
        assert await graph.broker.callers.are_possible()


# The table of errors


@pytest.mark.parametrize("plane", ["data", "control"])
def test_every_code_of_ours_is_an_error_of_the_model(plane: Any) -> None:
    from mcp_identity.domain import errors as ours

    kinds = [each for each in vars(ours).values() if isinstance(each, type) and issubclass(each, ours.IdentityError)]
    modelled = {"ValidationException", "AccessDeniedException", "UnauthorizedException", "ResourceNotFoundException"}
    modelled |= {"ThrottlingException", "InternalServerException"} | ({"ConflictException"} if plane == "control" else set())
    for kind in kinds:
        made = kind("why", error="x") if kind is ours.UpstreamRejected else kind("why")
        told = errors.problem_of(made, plane)
        assert told.code in modelled
        assert told.message == "why"
        assert (told.status in (429, 500)) <= made.retryable or told.code == "InternalServerException"
        if told.code == "ValidationException":
            assert told.members["reason"] in ("FieldValidationFailed", "ResourceConflict")
