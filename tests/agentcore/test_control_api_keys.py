"""Can an operator manage API key credential providers as clients of the service do, and never see a key again?"""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from typing import Any

import anyio.to_thread
import pytest

from mcp_identity.domain.provider import Release
from tests.agentcore.kit import World, boto, running_world

KEY = "canary-" + "k" * 24


@pytest.fixture(scope="module")
async def world(tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[World]:
    """A server whose operator listed a place for secrets."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ACME_KEYS", json.dumps({"weather": KEY}))
        sources = ("default=env:ACME_",)
        async with running_world(tmp_path_factory.mktemp("agentcore") / "home", secret_sources=sources) as world:
            yield world


async def key_of(world: World, name: str) -> Any:
    """What an agent is given."""
    wat = await world.wat(None)
    return await world.ask("GetResourceApiKey", workloadIdentityToken=wat, resourceCredentialProviderName=name)


async def test_a_stock_client_makes_shows_changes_lists_and_removes_a_key(world: World) -> None:
    seen: list[Any] = []

    def make() -> None:
        client = boto(world, "bedrock-agentcore-control", "admin")
        made = client.create_api_key_credential_provider(name="openai", apiKey=KEY, tags={"team": "a"})
        assert made["ResponseMetadata"]["HTTPStatusCode"] == 201
        assert made["apiKeySecretArn"]["secretArn"].endswith(":secret:bedrock-agentcore-identity!default/apikey/openai")
        assert made["apiKeySecretSource"] == "MANAGED"
        shown = client.get_api_key_credential_provider(name="openai")
        assert shown["createdTime"] == shown["lastUpdatedTime"]
        with pytest.raises(client.exceptions.ConflictException):
            client.create_api_key_credential_provider(name="OpenAI", apiKey="other")
        pages = client.get_paginator("list_api_key_credential_providers").paginate(PaginationConfig={"PageSize": 1})
        listed = [each["name"] for page in pages for each in page["credentialProviders"]]
        assert "openai" in listed
        assert not {"notes", "billing"} & {*listed}
        seen.extend([made, shown])

    def change() -> None:
        client = boto(world, "bedrock-agentcore-control", "admin")
        kept = client.update_api_key_credential_provider(name="openai")
        seen.append(kept)
        changed = client.update_api_key_credential_provider(name="openai", apiKey=f"{KEY}-2")
        assert changed["createdTime"] < changed["lastUpdatedTime"]
        seen.append(changed)

    def remove() -> None:
        client = boto(world, "bedrock-agentcore-control", "admin")
        assert client.delete_api_key_credential_provider(name="openai")["ResponseMetadata"]["HTTPStatusCode"] == 204
        with pytest.raises(client.exceptions.ResourceNotFoundException):
            client.get_api_key_credential_provider(name="openai")

    await anyio.to_thread.run_sync(make)
    assert (await key_of(world, "openai")).json == {"apiKey": KEY}
    assert (await world.broker.directory.get("default", "openai")).release is Release.HANDLE
    await anyio.to_thread.run_sync(change)
    assert (await key_of(world, "openai")).json == {"apiKey": f"{KEY}-2"}
    await anyio.to_thread.run_sync(remove)
    assert (await key_of(world, "openai")).status == 404
    assert KEY not in str(seen)
    assert KEY not in str(await world.trail())


@pytest.mark.parametrize("key", [None, ""])
async def test_a_provider_begins_with_some_key(world: World, key: str | None) -> None:
    reply = await world.ask("CreateApiKeyCredentialProvider", key="admin", name="bare", apiKey=key)
    assert [each["name"] for each in reply.json["fieldList"]] == ["apiKey"]


async def test_a_key_may_be_named_where_the_operator_listed_a_place(world: World) -> None:
    reply = await world.ask(
        "CreateApiKeyCredentialProvider",
        key="admin",
        name="named",
        apiKeySecretSource="EXTERNAL",
        apiKeySecretConfig={"secretId": "env:ACME_KEYS", "jsonKey": "weather"},
    )
    assert reply.status == 201, reply.json
    assert (reply.json["apiKeySecretSource"], reply.json["apiKeySecretJsonKey"]) == ("EXTERNAL", "weather")
    assert (await key_of(world, "named")).json == {"apiKey": KEY}
    own = await world.ask("UpdateApiKeyCredentialProvider", key="admin", name="named", apiKey="own")
    assert own.json["apiKeySecretSource"] == "MANAGED"
    assert "apiKeySecretJsonKey" not in own.json
    elsewhere = await world.ask(
        "UpdateApiKeyCredentialProvider",
        key="admin",
        name="named",
        apiKeySecretSource="EXTERNAL",
        apiKeySecretConfig={"secretId": "env:HOME", "jsonKey": "weather"},
    )
    assert (elsewhere.status, elsewhere.error) == (400, "ValidationException")
    assert (await key_of(world, "named")).json == {"apiKey": "own"}


@pytest.mark.parametrize(
    ("members", "field"),
    [
        ({"name": "a b"}, "name"),
        ({"name": "a" * 129}, "name"),
        ({"name": "a.b"}, "name"),
        ({"apiKey": 7}, "apiKey"),
        ({"apiKey": "k" * 65_537}, "apiKey"),
        ({"apiKeySecretSource": "x"}, "apiKeySecretSource"),
        ({"apiKeySecretSource": "EXTERNAL"}, "apiKeySecretConfig"),
        ({"apiKeySecretConfig": {"secretId": "", "jsonKey": "a"}}, "apiKeySecretConfig.secretId"),
        ({"apiKeySecretConfig": {"secretId": "a", "jsonKey": "a" * 129}}, "apiKeySecretConfig.jsonKey"),
        ({"apiKeySecretConfig": {"secretId": "a"}}, "apiKeySecretConfig.jsonKey"),
    ],
)
async def test_what_breaks_the_model_is_named(world: World, members: dict[str, Any], field: str) -> None:
    given: dict[str, Any] = {"name": "contrary", "apiKey": KEY, **members}
    reply = await world.ask("CreateApiKeyCredentialProvider", key="admin", **given)
    assert (reply.status, reply.error) == (400, "ValidationException")
    assert field in [each["name"] for each in reply.json["fieldList"]]
    assert "kkk" not in str(reply.json)


@pytest.mark.parametrize("operation", ["Get", "Update", "Delete"])
async def test_an_oauth_provider_is_no_key(world: World, operation: str) -> None:
    reply = await world.ask(f"{operation}ApiKeyCredentialProvider", key="admin", name="billing")
    assert (reply.status, reply.error) == (404, "ResourceNotFoundException")
    assert (await world.broker.directory.get("default", "billing")).name == "billing"


async def test_a_page_has_one_to_a_hundred(world: World) -> None:
    for limit, status in ((0, 400), (1, 200), (100, 200), (101, 400)):
        reply = await world.ask("ListApiKeyCredentialProviders", key="admin", maxResults=limit)
        assert reply.status == status
