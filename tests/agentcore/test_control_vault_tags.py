"""What is told of the vault, can things be tagged by their ARN, and what is said of all that is not served?"""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

import anyio.to_thread
import pytest

from mcp_identity.agentcore import unserved
from mcp_identity.agentcore.arns import Kind, arn
from mcp_identity.agentcore.vaults import Named, get
from mcp_identity.broker.storage import VaultStanding
from tests.agentcore.kit import REGION, Reply, World, boto, signed

KEY_ARN = "arn:aws:kms:eu-central-1:123456789012:key/11111111-2222-3333-4444-555555555555"


async def at(world: World, method: str, path: str, body: bytes = b"", query: str = "") -> Reply:
    """Ask an operation whose path names a resource."""
    headers = signed(world.keys["admin"], method, f"{world.url}{path}{query}", body)
    return await world.send(method, path, body, headers, query=query)


# The vault


async def test_the_vault_is_under_the_servers_own_key(world: World) -> None:
    shown = await world.ask("GetTokenVault", key="admin")
    assert shown.status == 200
    assert shown.json["kmsConfiguration"] == {"keyType": "ServiceManagedKey"}
    assert shown.json["tokenVaultId"] == "default"
    same = await world.ask("SetTokenVaultCMK", key="admin", kmsConfiguration={"keyType": "ServiceManagedKey"})
    assert (same.status, same.json) == (200, shown.json)
    other = await world.ask("GetTokenVault", key="admin", tokenVaultId="other")
    assert (other.status, other.error) == (404, "ResourceNotFoundException")


async def test_another_key_is_chosen_where_the_server_is_started(world: World) -> None:
    asked = {"keyType": "CustomerManagedKey", "kmsKeyArn": KEY_ARN}
    reply = await world.ask("SetTokenVaultCMK", key="admin", kmsConfiguration=asked)
    assert (reply.status, reply.error) == (400, "ValidationException")
    assert "mcp-identity keys move" in reply.json["message"]
    reset = await world.ask("ResetTokenVaultKeyMaterial", key="admin", tokenVaultId="default")
    assert (reset.status, reset.error) == (400, "ValidationException")
    outcomes = [event.outcome for event in await world.trail("set_token_vault_key")]
    assert outcomes[-1] == "invalid_request"


async def test_a_key_of_the_customers_own_is_shown_by_its_name(world: World) -> None:
    """The vault of this test is under no such key, so what the broker tells is made up."""
    standing = (await world.broker.vault_standing(world.operator()), f"aws-kms:{KEY_ARN}")

    class Broker:
        async def vault_standing(self, _call: object) -> VaultStanding:
            return VaultStanding(standing[1], standing[0].changed_at)

    class Edge:
        broker = Broker()

    class Asker:
        def call(self, _action: str) -> None:
            return None

    edge, asker = Edge(), Asker()
    shown = await get(edge, asker, Named())  # type: ignore[arg-type]  # what it uses of them
    assert shown.kms_configuration.key_type == "CustomerManagedKey"
    assert shown.kms_configuration.kms_key_arn == KEY_ARN


@pytest.mark.parametrize(
    ("configuration", "field"),
    [
        ({}, "kmsConfiguration.keyType"),
        ({"keyType": "Mine"}, "kmsConfiguration.keyType"),
        ({"keyType": "CustomerManagedKey"}, "kmsConfiguration.kmsKeyArn"),
        ({"keyType": "ServiceManagedKey", "kmsKeyArn": KEY_ARN}, "kmsConfiguration.kmsKeyArn"),
        ({"keyType": "CustomerManagedKey", "kmsKeyArn": "arn:aws:kms:eu:1:alias/x"}, "kmsConfiguration.kmsKeyArn"),
    ],
)
async def test_a_key_that_is_none_is_refused(world: World, configuration: dict[str, Any], field: str) -> None:
    reply = await world.ask("SetTokenVaultCMK", key="admin", kmsConfiguration=configuration)
    assert [each["name"] for each in reply.json["fieldList"]] == [field]


# Tags


async def test_a_stock_client_tags_what_it_made(world: World) -> None:
    def drive() -> None:
        client = boto(world, "bedrock-agentcore-control", "admin")
        made = {
            client.create_workload_identity(name="tagged", tags={"team": "a"})["workloadIdentityArn"],
            client.create_api_key_credential_provider(name="tagged", apiKey="k", tags={"team": "a"})["credentialProviderArn"],
            client.create_oauth2_credential_provider(
                name="tagged-too",
                credentialProviderVendor="GithubOauth2",
                oauth2ProviderConfigInput={"githubOauth2ProviderConfig": {"clientId": "a", "clientSecret": "b"}},
                tags={"team": "a"},
            )["credentialProviderArn"],
        }
        assert len(made) == 3
        for name in made:
            tagged = client.tag_resource(resourceArn=name, tags={"team": "b", "cost center": "7/x:y=z+@"})
            assert tagged["ResponseMetadata"]["HTTPStatusCode"] == 204
            assert client.list_tags_for_resource(resourceArn=name)["tags"] == {"team": "b", "cost center": "7/x:y=z+@"}
            untagged = client.untag_resource(resourceArn=name, tagKeys=["team", "never there"])
            assert untagged["ResponseMetadata"]["HTTPStatusCode"] == 204
            assert client.list_tags_for_resource(resourceArn=name)["tags"] == {"cost center": "7/x:y=z+@"}
            with pytest.raises(client.exceptions.ServiceQuotaExceededException) as caught:
                client.tag_resource(resourceArn=name, tags={f"tag-{number}": "" for number in range(50)})
            assert caught.value.response["ResponseMetadata"]["HTTPStatusCode"] == 402
            assert client.list_tags_for_resource(resourceArn=name)["tags"] == {"cost center": "7/x:y=z+@"}

    await anyio.to_thread.run_sync(drive)


async def test_tags_end_nothing(world: World) -> None:
    wat = await world.wat(None)
    given = await world.token(wat, flow="M2M")
    for kind, name in ((Kind.WORKLOAD, "agent"), (Kind.OAUTH2, "billing")):
        path = f"/tags/{quote(arn(kind, REGION, name), safe='')}"
        assert (await at(world, "POST", path, b'{"tags": {"team": "b"}}')).status == 204
    again = await world.token(wat, flow="M2M")
    assert (again.status, again.json) == (200, given.json)


@pytest.mark.parametrize(
    ("named", "status"),
    [
        (arn(Kind.WORKLOAD, REGION, "nobody"), 404),
        (arn(Kind.OAUTH2, REGION, "weather"), 404),
        (arn(Kind.API_KEY, REGION, "billing"), 404),
        (arn(Kind.WORKLOAD, REGION, "agent").replace("workload-identity/", "gateway/"), 404),
        (arn(Kind.DIRECTORY, REGION), 400),
        (arn(Kind.VAULT, REGION), 400),
        ("arn:aws:s3:eu-central-1:000000000000:bucket/a", 400),
        ("short", 400),
        (arn(Kind.WORKLOAD, REGION, "a" * 1000), 400),
    ],
)
async def test_what_bears_no_tags_is_refused(world: World, named: str, status: int) -> None:
    path = f"/tags/{quote(named, safe='')}"
    replies = [
        await at(world, "GET", path),
        await at(world, "POST", path, b'{"tags": {"a": "b"}}'),
        await at(world, "DELETE", path, query="?tagKeys=a"),
    ]
    assert [reply.status for reply in replies] == [status] * 3
    expected = {404: "ResourceNotFoundException", 400: "ValidationException"}[status]
    assert [reply.error for reply in replies] == [expected] * 3


async def test_region_and_account_of_an_arn_say_nothing(world: World) -> None:
    named = arn(Kind.WORKLOAD, "us-west-2", "other").replace("000000000000", "123456789012")
    assert (await at(world, "GET", f"/tags/{quote(named, safe='')}")).json == {"tags": {}}


@pytest.mark.parametrize(
    "body", [b"{}", b'{"tags": {"": "b"}}', b'{"tags": {"a": 1}}', b'{"tags": {"a#": "b"}}', b'{"tags": []}', b"[]", b"{"]
)
async def test_tags_that_are_none_are_refused(world: World, body: bytes) -> None:
    path = f"/tags/{quote(arn(Kind.WORKLOAD, REGION, 'agent'), safe='')}"
    reply = await at(world, "POST", path, body)
    assert (reply.status, reply.error) == (400, "ValidationException")


# What is not served


@pytest.mark.parametrize("operation", unserved.OPERATIONS, ids=lambda operation: operation.name)
async def test_what_is_not_served_says_so_and_what_is_instead(world: World, operation: Any) -> None:
    path = operation.path.replace("{resourceArn}", quote(arn(Kind.WORKLOAD, REGION, "agent"), safe=""))
    reply = await at(world, operation.method, path, b"{}")
    assert (reply.status, reply.error) == (400, "ValidationException")
    assert reply.json["reason"] == "FieldValidationFailed"
    assert "not served" in reply.json["message"] or "have no resource policies" in reply.json["message"]
    assert (await world.trail(operation.action))[-1].outcome == "invalid_request"
