"""Do the stock clients run against this server unchanged: boto3, the SDK's client, and its decorators with their own polling?

They are what PyPI has; nothing of them is replaced but the address (the SDK reads it once, when it is imported) and how long
the SDK sleeps between two polls. They block, so they run in threads; those of the decorators that are asynchronous have an
event loop of their own there, as an agent has.
"""

from __future__ import annotations

import json
import time
import warnings
from collections.abc import AsyncGenerator, Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import pytest
from anyio.from_thread import BlockingPortal

from tests.agentcore.conversation import METADATA, conversation
from tests.agentcore.kit import REGION, RETURN_URL, World, boto
from tests.agentcore.model import all_operations, plane_of
from tests.agentcore.test_conformance import NEVER_GRANTED, SERVED
from tests.fakes.identity_provider import ALICE

xform_name: Any = import_module("botocore").xform_name  # it has no types
boto3: Any = import_module("boto3")
with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # theirs
    sdk_client: Any = import_module("bedrock_agentcore.services.identity")
    sdk: Any = import_module("bedrock_agentcore.identity")
    runtime: Any = import_module("bedrock_agentcore.runtime")
CONTROL = "bedrock-agentcore-control"
GRANTS = {
    "TOKEN_EXCHANGE": "urn:ietf:params:oauth:grant-type:token-exchange",
    "JWT_AUTHORIZATION_GRANT": "urn:ietf:params:oauth:grant-type:jwt-bearer",
}


async def in_thread(work: Callable[[], Any]) -> Any:
    """Run what blocks."""
    return await anyio.to_thread.run_sync(work)


class Agent:
    """A process of the stock SDK, as far as that is possible within this one."""

    def __init__(self, world: World, portal: BlockingPortal, patch: pytest.MonkeyPatch) -> None:
        self.world = world
        self._portal = portal
        self._patch = patch
        patch.setattr(sdk_client, "CP_ENDPOINT_OVERRIDE", world.url)
        patch.setattr(sdk_client, "DP_ENDPOINT_OVERRIDE", world.url)
        patch.setattr(sdk_client, "DEFAULT_POLLING_INTERVAL_SECONDS", 0.02)
        patch.setenv("AWS_REGION", REGION)
        patch.setenv("AWS_CONFIG_FILE", "/nowhere")
        patch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nowhere")
        patch.delenv("AWS_SESSION_TOKEN", raising=False)
        self.use("agent")

    def use(self, key: str) -> None:
        """Sign with this key from now on."""
        made = self.world.keys[key]
        self._patch.setenv("AWS_ACCESS_KEY_ID", made.id)
        self._patch.setenv("AWS_SECRET_ACCESS_KEY", made.secret)
        self._patch.setattr(boto3, "DEFAULT_SESSION", None)

    def client(self) -> Any:
        return sdk_client.IdentityClient(REGION)

    def wait_for(self, work: Callable[..., Any], *given: Any) -> Any:
        """Let the test's own event loop do something, from whatever thread."""
        return self._portal.call(work, *given)

    def with_wat(self, wat: str, work: Callable[[], Any]) -> Callable[[], Any]:
        """The work, as the runtime begins it: with the workload access token in its context."""

        def inside() -> Any:
            runtime.BedrockAgentCoreContext.set_workload_access_token(wat)
            return work()

        return inside


@pytest.fixture
async def agent(world: World, monkeypatch: pytest.MonkeyPatch) -> AsyncGenerator[Agent]:
    async with BlockingPortal() as portal:
        yield Agent(world, portal, monkeypatch)


async def test_boto3_speaks_every_operation_that_is_served(world: World) -> None:
    said = await conversation(world)

    def drive() -> set[str]:
        clients = {plane: boto(world, plane, key) for plane, key in ((CONTROL, "admin"), ("bedrock-agentcore", "trusted"))}
        for name, members in said:
            answer = getattr(clients[plane_of(name)], xform_name(name))(**members)
            told = answer["ResponseMetadata"]
            assert told["HTTPStatusCode"] == all_operations()[name].http["responseCode"], name
            assert told["RequestId"], name
        return {name for name, _ in said}

    assert await in_thread(drive) | NEVER_GRANTED == set(SERVED)


async def test_equal_calls_within_a_second_each_have_their_effect(world: World) -> None:
    """What a test suite does: the same thing is made and removed again and again, as fast as it goes."""

    def drive() -> None:
        client = boto(world, CONTROL, "admin")
        for _ in range(2):
            client.create_workload_identity(name="again-and-again")
            assert client.get_workload_identity(name="again-and-again")["name"] == "again-and-again"
            client.delete_workload_identity(name="again-and-again")
            with pytest.raises(client.exceptions.ResourceNotFoundException):
                client.get_workload_identity(name="again-and-again")

    await in_thread(drive)
    made = [event for event in await world.trail("create_workload_identity") if "again-and-again" in event.detail.values()]
    assert [event.outcome for event in made].count("ok") == 2


async def test_boto3_raises_the_modelled_exceptions(world: World) -> None:
    def drive() -> None:
        control, data = boto(world, CONTROL, "admin"), boto(world, "bedrock-agentcore")
        with pytest.raises(control.exceptions.ResourceNotFoundException):
            control.get_workload_identity(name="nobody-here")
        with pytest.raises(control.exceptions.ValidationException) as invalid:
            control.create_workload_identity(name="not a name")
        assert invalid.value.response["reason"] == "FieldValidationFailed"
        assert invalid.value.response["fieldList"][0]["name"] == "name"
        with pytest.raises(data.exceptions.UnauthorizedException):
            data.get_resource_api_key(workloadIdentityToken="none", resourceCredentialProviderName="weather")
        with pytest.raises(data.exceptions.ResourceNotFoundException):
            data.get_workload_access_token(workloadName="other")
        forged = boto3.Session(world.keys["admin"].id, "wrong", region_name=REGION).client(CONTROL, endpoint_url=world.url)
        with pytest.raises(forged.exceptions.AccessDeniedException):
            forged.list_workload_identities()
        made = world.keys["admin"]
        session = boto3.Session(made.id, made.secret, "a-session-token", region_name=REGION)
        temporary = session.client(CONTROL, endpoint_url=world.url)
        with pytest.raises(temporary.exceptions.AccessDeniedException, match="session tokens are not served"):
            temporary.list_workload_identities()

    await in_thread(drive)


async def test_the_sdks_client_does_what_its_methods_say(agent: Agent) -> None:
    world = agent.world
    user_token, billing = world.user_token(ALICE), {"provider_name": "billing", "auth_flow": "M2M", "scopes": ["read"]}

    def operate() -> None:
        agent.use("admin")
        client = agent.client()
        made = client.create_workload_identity()
        assert made["name"].startswith("workload-")
        client.update_workload_identity(made["name"], [RETURN_URL])
        assert client.get_workload_identity(made["name"])["allowedResourceOauth2ReturnUrls"] == [RETURN_URL]
        config = {"oauthDiscovery": {"authorizationServerMetadata": METADATA}, "clientId": "id", "clientSecret": "made-up"}
        request = {
            "credentialProviderVendor": "CustomOauth2",
            "oauth2ProviderConfigInput": {"customOauth2ProviderConfig": config},
        }
        created = client.create_oauth2_credential_provider({"name": "by-sdk", **request})
        assert created["callbackUrl"].startswith(world.url)
        shown = client.get_oauth2_credential_provider(name="by-sdk")
        assert shown["callbackUrl"] == created["callbackUrl"]
        client.update_oauth2_credential_provider(name="by-sdk", **request)
        assert "by-sdk" in [each["name"] for each in client.list_oauth2_credential_providers()["credentialProviders"]]
        client.create_api_key_credential_provider({"name": "key-by-sdk", "apiKey": "sk-made-up"})
        assert client.get_api_key_credential_provider(name="key-by-sdk")["credentialProviderArn"].endswith("/key-by-sdk")
        assert [each["name"] for each in client.list_api_key_credential_providers()["credentialProviders"]].count(
            "key-by-sdk"
        ) == 1
        client.delete_api_key_credential_provider(name="key-by-sdk")
        client.delete_oauth2_credential_provider(name="by-sdk")

    def act() -> None:
        agent.use("trusted")
        client = agent.client()
        wats = [
            client.get_workload_access_token("agent"),
            client.get_workload_access_token("agent", user_token=user_token),
            client.get_workload_access_token("agent", user_id="alice"),
        ]
        assert len({each["workloadAccessToken"] for each in wats}) == 3
        wat = wats[0]["workloadAccessToken"]

        async def ask() -> None:
            assert await client.get_token(agent_identity_token=wat, **billing) in world.vendor.minted
            key = await client.get_api_key(provider_name="weather", agent_identity_token=wat)
            assert key == world.server.home.api_key

        anyio.run(ask)

    await in_thread(operate)
    await in_thread(act)


async def test_the_decorators_hand_over_keys_and_tokens_of_the_client_itself(agent: Agent) -> None:
    """In sync and async functions, in a running event loop and outside of one."""
    world = agent.world
    wat = await world.wat(None)

    def work() -> None:
        @sdk.requires_api_key(provider_name="weather")
        def key(*, api_key: str) -> str:
            return api_key

        @sdk.requires_api_key(provider_name="weather", into="other")
        async def key_async(*, other: str) -> str:
            return other

        machine: dict[str, Any] = {"provider_name": "billing", "scopes": [], "auth_flow": "M2M", "callback_url": RETURN_URL}

        @sdk.requires_access_token(**machine)
        def token(*, access_token: str) -> str:
            return access_token

        @sdk.requires_access_token(**machine)
        async def token_async(*, access_token: str) -> str:
            return access_token

        async def in_a_loop() -> list[str]:
            return [key(), await key_async(), token(), await token_async()]

        found = [key(), token(), *anyio.run(in_a_loop)]
        assert set(found) == {world.server.home.api_key, found[1]}
        assert found[1] in world.vendor.minted

    await in_thread(agent.with_wat(wat, work))


@pytest.mark.parametrize("shape", ["sync", "sync in a running loop", "async"])
async def test_the_decorator_polls_until_the_user_has_consented(agent: Agent, shape: str) -> None:
    world, links = agent.world, list[str]()
    person = ALICE
    wat = await world.wat(person)
    polls_before = len(await world.trail("get_token"))

    async def consent(link: str) -> None:
        """The user goes the whole way, and the application completes it: by the URI that the browser brought."""
        back = await world.browse(link)
        assert back["custom_state"] == "st4te"
        identifier = {"userToken": world.user_token(person)}
        done = await world.ask("CompleteResourceTokenAuth", sessionUri=back["session_id"], userIdentifier=identifier)
        assert done.status == 200, done.json

    def on_auth_url(link: str) -> None:
        links.append(link)
        agent.wait_for(consent, link)

    asked: dict[str, Any] = {
        "provider_name": "notes",
        "scopes": ["read"],
        "auth_flow": "USER_FEDERATION",
        "callback_url": RETURN_URL,
        "custom_state": "st4te",
        "force_authentication": True,
        "on_auth_url": on_auth_url,
    }

    def work() -> str:
        @sdk.requires_access_token(**asked)
        def get(*, access_token: str) -> str:
            return access_token

        @sdk.requires_access_token(**asked)
        async def get_async(*, access_token: str) -> str:
            return access_token

        async def in_a_loop() -> str:
            return await get_async() if shape == "async" else get()

        return get() if shape == "sync" else anyio.run(in_a_loop)

    token = await in_thread(agent.with_wat(wat, work))
    assert token in world.vendor.minted
    assert len(links) == 1
    assert links[0].startswith(f"{world.url}/consent/")
    assert len(await world.trail("get_token")) > polls_before


@pytest.mark.parametrize("grant_type", ["TOKEN_EXCHANGE", "JWT_AUTHORIZATION_GRANT"])
async def test_a_users_token_is_exchanged_at_a_provider_that_boto3_made(agent: Agent, grant_type: str) -> None:
    world = agent.world
    metadata = {
        "issuer": world.vendor.url,
        "authorizationEndpoint": f"{world.vendor.url}/authorization_url",
        "tokenEndpoint": f"{world.vendor.url}/token_url",
    }
    exchange: dict[str, Any] = {"grantType": grant_type}
    if grant_type == "TOKEN_EXCHANGE":
        exchange["tokenExchangeGrantTypeConfig"] = {"actorTokenContent": "NONE"}
    config = {
        "oauthDiscovery": {"authorizationServerMetadata": metadata},
        "clientId": "the-client",
        "clientSecret": world.vendor.client_secret,
        "onBehalfOfTokenExchangeConfig": exchange,
    }
    name = f"exchanged-{grant_type}"

    def create() -> None:
        boto(world, CONTROL, "admin").create_oauth2_credential_provider(
            name=name,
            credentialProviderVendor="CustomOauth2",
            oauth2ProviderConfigInput={"customOauth2ProviderConfig": config},
        )

    def work() -> str:
        @sdk.requires_access_token(
            provider_name=name, scopes=["read"], auth_flow="ON_BEHALF_OF_TOKEN_EXCHANGE", callback_url=RETURN_URL
        )
        def get(*, access_token: str) -> str:
            return access_token

        return get()

    await in_thread(create)
    wat = await world.wat(ALICE)  # the user's token goes into it only where a provider has a use for it
    assert await in_thread(agent.with_wat(wat, work)) in world.vendor.minted
    sent = world.vendor.received[-1]
    assert sent["grant_type"] == GRANTS[grant_type]
    assert sent["subject_token" if grant_type == "TOKEN_EXCHANGE" else "assertion"].count(".") == 2


async def test_a_user_who_declines_ends_the_decorators_wait_at_once(agent: Agent) -> None:
    world = agent.world
    wat = await world.wat(ALICE)

    def on_auth_url(link: str) -> None:
        agent.wait_for(lambda: world.browse(link, says={"error": "access_denied"}))

    def work() -> float:
        @sdk.requires_access_token(
            provider_name="notes",
            scopes=["read"],
            auth_flow="USER_FEDERATION",
            callback_url=RETURN_URL,
            force_authentication=True,
            on_auth_url=on_auth_url,
        )
        def get(*, access_token: str) -> str:
            return access_token

        begun = time.monotonic()
        with pytest.raises(import_module("botocore.exceptions").ClientError) as caught:
            get()
        assert caught.value.response["Error"]["Code"] == "ValidationException"
        assert "consent" in str(caught.value) or "declin" in str(caught.value) or "denied" in str(caught.value)
        return time.monotonic() - begun

    assert await in_thread(agent.with_wat(wat, work)) < 30


async def test_an_agent_on_a_developers_machine_makes_its_own_workload(
    agent: Agent, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a runtime around it: the SDK registers a workload, and names its user by an id that it made up."""
    world = agent.world
    await world.add_key("developer", "admin", may_assert_users=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DOCKER_CONTAINER", raising=False)

    def work() -> tuple[str, str]:
        agent.use("developer")

        @sdk.requires_access_token(provider_name="billing", scopes=["read"], auth_flow="M2M")
        @sdk.requires_api_key(provider_name="weather")
        def both(*, access_token: str, api_key: str) -> tuple[str, str]:
            return access_token, api_key

        return both()

    token, key = await in_thread(work)
    assert token in world.vendor.minted
    assert key == world.server.home.api_key
    kept = json.loads((tmp_path / ".agentcore.json").read_text())
    assert len(kept["user_id"]) == 8
    assert kept["workload_identity_name"] in [each.name for each in await world.broker.workloads.list("default")]
