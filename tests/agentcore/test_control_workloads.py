"""Can an operator manage workload identities as clients of the service do, and can nobody else?"""

from __future__ import annotations

from typing import Any

import anyio
import anyio.to_thread
import pytest
from sqlalchemy import update

from mcp_identity.agentcore.paging import next_token
from mcp_identity.agentcore.routes import OPERATIONS
from mcp_identity.vault.records import Records
from mcp_identity.vault.records.base import table
from mcp_identity.vault.records.rows import Page
from tests.agentcore.kit import Reply, World, boto, signed

CONTROL = [operation for operation in OPERATIONS if operation.plane == "control"]
ARN = "arn:aws:bedrock-agentcore:eu-central-1:000000000000:workload-identity-directory/default/workload-identity/"


async def test_a_stock_client_makes_shows_changes_lists_and_removes_a_workload(world: World) -> None:
    def drive() -> None:
        client = boto(world, "bedrock-agentcore-control", "admin")
        urls = ["https://app.example.com/cb", "http://localhost:8081/oauth2/callback", "http://127.0.0.1:9090/cb"]
        made = client.create_workload_identity(name="Stock_Agent.1", allowedResourceOauth2ReturnUrls=urls, tags={"team": "a"})
        assert made["ResponseMetadata"]["HTTPStatusCode"] == 201
        assert made["workloadIdentityArn"] == f"{ARN}Stock_Agent.1"
        assert made["allowedResourceOauth2ReturnUrls"] == urls
        shown = client.get_workload_identity(name="Stock_Agent.1")
        assert shown["createdTime"] == shown["lastUpdatedTime"]
        changed = client.update_workload_identity(
            name="Stock_Agent.1", allowedResourceOauth2ReturnUrls=["https://app.example.com/other"]
        )
        assert changed["allowedResourceOauth2ReturnUrls"] == ["https://app.example.com/other"]
        assert changed["createdTime"] == shown["createdTime"] < changed["lastUpdatedTime"]
        kept = client.update_workload_identity(name="Stock_Agent.1")
        assert kept["allowedResourceOauth2ReturnUrls"] == ["https://app.example.com/other"]
        with pytest.raises(client.exceptions.ConflictException):
            client.create_workload_identity(name="stock_agent.1")
        pages = client.get_paginator("list_workload_identities").paginate(PaginationConfig={"PageSize": 2})
        listed = [each["name"] for page in pages for each in page["workloadIdentities"]]
        assert len(listed) == len(set(listed)) >= 3
        assert "Stock_Agent.1" in listed
        removed = client.delete_workload_identity(name="Stock_Agent.1")
        assert removed["ResponseMetadata"]["HTTPStatusCode"] == 204
        with pytest.raises(client.exceptions.ResourceNotFoundException):
            client.get_workload_identity(name="Stock_Agent.1")

    await anyio.to_thread.run_sync(drive)
    removed = [
        event
        for event in await world.trail("delete_workload_identity")
        if event.detail.get("workload_identity") == "Stock_Agent.1"
    ]
    assert [(event.edge, event.outcome) for event in removed] == [("agentcore", "ok")]
    assert all(event.workload == "operator" for event in await world.trail("get_workload_identity"))


async def test_what_exists_under_a_like_name_is_not_made_twice(world: World) -> None:
    assert (await world.ask("CreateWorkloadIdentity", key="admin", name="Twin")).status == 201
    reply = await world.ask("CreateWorkloadIdentity", key="admin", name="twin")
    assert (reply.status, reply.error) == (409, "ConflictException")


async def test_of_those_who_make_it_at_once_one_does(world: World) -> None:
    replies: list[Reply] = []

    async def make(name: str) -> None:
        replies.append(await world.ask("CreateWorkloadIdentity", key="admin", name=name))

    async with anyio.create_task_group() as tasks:
        for name in ("at-once", "At-once", "aT-once", "AT-ONCE"):
            tasks.start_soon(make, name)
    assert sorted(reply.status for reply in replies) == [201, 409, 409, 409]


async def test_the_same_signed_request_makes_one_workload_and_gets_one_answer(world: World) -> None:
    body, path = b'{"name": "only-once"}', "/identities/CreateWorkloadIdentity"
    headers = signed(world.keys["admin"], "POST", world.url + path, body)
    first, second = [await world.send("POST", path, body, headers) for _ in range(2)]
    assert (first.status, first.json) == (second.status, second.json)
    assert first.status == 201
    made = [event for event in await world.trail("create_workload_identity") if "only-once" in event.detail.values()]
    assert len(made) == 1


@pytest.mark.parametrize(
    ("members", "field"),
    [
        ({}, "name"),
        ({"name": None}, "name"),
        ({"name": 7}, "name"),
        ({"name": "ab"}, "name"),
        ({"name": "a" * 256}, "name"),
        ({"name": "a b"}, "name"),
        ({"name": "abc\n"}, "name"),
        ({"name": "fine", "allowedResourceOauth2ReturnUrls": "https://a.example.com"}, "allowedResourceOauth2ReturnUrls"),
        ({"name": "fine", "allowedResourceOauth2ReturnUrls": ["nowhere"]}, "allowedResourceOauth2ReturnUrls.0"),
        ({"name": "fine", "allowedResourceOauth2ReturnUrls": ["https://a b"]}, "allowedResourceOauth2ReturnUrls.0"),
        ({"name": "fine", "allowedResourceOauth2ReturnUrls": [""]}, "allowedResourceOauth2ReturnUrls.0"),
        ({"name": "fine", "allowedResourceOauth2ReturnUrls": ["a:" + "b" * 2048]}, "allowedResourceOauth2ReturnUrls.0"),
        ({"name": "fine", "tags": {str(number): "" for number in range(51)}}, "tags"),
        ({"name": "fine", "tags": {"a" * 129: ""}}, "tags"),
        ({"name": "fine", "tags": {"a": "b" * 257}}, "tags.a"),
        ({"name": "fine", "tags": {"a": "b#"}}, "tags.a"),
    ],
)
async def test_what_breaks_the_model_is_named_and_nothing_is_made(world: World, members: dict[str, Any], field: str) -> None:
    reply = await world.ask("CreateWorkloadIdentity", key="admin", **members)
    assert (reply.status, reply.error) == (400, "ValidationException")
    assert reply.json["reason"] == "FieldValidationFailed"
    assert field in [each["name"] for each in reply.json["fieldList"]]
    assert (await world.ask("GetWorkloadIdentity", key="admin", name="fine")).status == 404


@pytest.mark.parametrize("url", ["http://app.example.com/cb", "myapp://callback", "https://app.example.com/#part"])
async def test_a_browser_is_sent_to_no_address_that_others_could_answer_at(world: World, url: str) -> None:
    reply = await world.ask("CreateWorkloadIdentity", key="admin", name="fine", allowedResourceOauth2ReturnUrls=[url])
    assert (reply.status, reply.error) == (400, "ValidationException")
    assert "return URL" in reply.json["message"]


async def test_each_workload_stands_on_one_page(world: World) -> None:
    for number in range(43):
        await world.add_workload(f"many-{number:02}")
    names, sizes = list[str](), list[int]()
    token: str | None = None
    while True:
        reply = await world.ask("ListWorkloadIdentities", key="admin", nextToken=token)
        names += [each["name"] for each in reply.json["workloadIdentities"]]
        sizes.append(len(reply.json["workloadIdentities"]))
        token = reply.json.get("nextToken")
        if token is None:
            break
    assert names == sorted(set(names))
    assert {f"many-{number:02}" for number in range(43)} < set(names)
    assert set(sizes[:-1]) == {20}


@pytest.mark.parametrize("limit", [0, -1, 21, "5", 1.5, True])
async def test_a_page_has_one_to_twenty(world: World, limit: object) -> None:
    reply = await world.ask("ListWorkloadIdentities", key="admin", maxResults=limit)
    assert [each["name"] for each in reply.json["fieldList"]] == ["maxResults"]


@pytest.mark.parametrize(
    "token",
    [
        "x",
        "W10=",
        "é",
        "[" * 2000,
        "QQ" * 4000,
        next_token("ListApiKeyCredentialProviders", "default", "a"),
        next_token("ListWorkloadIdentities", "acme", "a"),
        next_token("ListWorkloadIdentities", "default", "\ud800"),
        next_token("ListWorkloadIdentities", "default", "a\x00b"),
    ],
)
async def test_a_page_token_is_good_for_its_own_listing_alone(world: World, token: str) -> None:
    reply = await world.ask("ListWorkloadIdentities", key="admin", nextToken=token)
    assert (reply.status, reply.error) == (400, "ValidationException")
    assert [each["name"] for each in reply.json["fieldList"]] == ["nextToken"]


async def test_a_page_costs_what_is_on_it(world: World) -> None:
    """A row that does not stand is noticed on its own page, and not on the one before."""
    await world.add_workload("zz-last")
    assert world.server.serving is not None
    vault = world.server.serving.prepared.vault
    rows = table("workload_identities")

    def damage(owner: str) -> Any:
        def unit(records: Records) -> None:
            records.connection.execute(update(rows).where(rows.c.name == "zz-last").values(owner=owner))

        return unit

    await vault.run(damage("mallory"))
    try:
        first = await vault.read(lambda records: records.list_workloads("default", Page(2)))
        assert (len(first.workloads), first.corrupt) == (2, ())
        last = await vault.read(lambda records: records.list_workloads("default", Page(2, "zz")))
        assert (last.workloads, len(last.corrupt), last.next) == ((), 1, "")
        assert (await world.ask("ListWorkloadIdentities", key="admin", maxResults=1)).status == 200
    finally:
        await vault.run(damage(""))


async def test_nothing_is_left_of_a_workload_that_was_removed(world: World) -> None:
    await world.add_workload("leaver")
    found = await world.broker.workloads.get("default", "leaver")
    wat = await world.wat(None, key="admin", workload="leaver")
    assert (await world.token(wat, key="admin", flow="M2M")).status == 200
    assert (await world.ask("DeleteWorkloadIdentity", key="admin", name="leaver")).status == 204
    assert world.server.serving is not None
    kept = await world.server.serving.prepared.vault.read(lambda records: records.list_workload_grants("default", found.id))
    assert kept.grants == ()
    assert (await world.token(wat, key="admin", flow="M2M")).status in (401, 403)
    assert (await world.ask("GetWorkloadAccessToken", key="admin", workloadName="leaver")).status == 404


@pytest.mark.parametrize("operation", CONTROL, ids=lambda operation: operation.name)
async def test_what_operators_do_is_for_operators(world: World, operation: Any) -> None:
    path = operation.path.replace("{resourceArn}", "arn%3Aaws%3Abedrock-agentcore%3Aeu-central-1%3A000000000000%3Aa%2Fb")
    headers = signed(world.keys["agent"], operation.method, world.url + path, b"{}")
    reply = await world.send(operation.method, path, b"{}", headers)
    assert (reply.status, reply.error) == (403, "AccessDeniedException")
    assert "role admin" in reply.json["message"]
