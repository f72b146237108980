"""Can an operator manage OAuth2 credential providers as clients of the service do: every vendor, and never a secret back?"""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import anyio.to_thread
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from mcp_identity import app
from mcp_identity.agentcore import oauth_providers
from mcp_identity.agentcore.operations import Edge
from mcp_identity.agentcore.shapes_providers import OAuthProviderCreation
from mcp_identity.app.front import configured_front
from mcp_identity.broker.answers import ProviderSpec, TokenRequest
from mcp_identity.broker.audit import Call
from mcp_identity.broker.broker import Broker
from mcp_identity.broker.catalogue import list_definitions
from mcp_identity.broker.specifications import IssuerSpec
from mcp_identity.domain.credentials import Secret
from mcp_identity.domain.identity import Principal, Proof, WorkloadIdentity
from mcp_identity.domain.provider import ProviderDefinition, Release
from mcp_identity.providers import catalog
from mcp_identity.settings import Settings
from tests.agentcore.kit import REGION, RETURN_URL, Reply, World, boto, running_world
from tests.broker.operators import ALICE, PUBLIC_URL, Operator
from tests.fakes.clock import FakeClock
from tests.fakes.home import put_vault
from tests.fakes.identity_provider import BOB, FakeIdentityProvider, FakeIdentityTransport

VENDORS = tuple(each for each in list_definitions() if each.agentcore_vendor)
SECRET = "canary-" + "s" * 24
OWN = {
    "issuer": "https://login.example.com",
    "authorizationEndpoint": "https://login.example.com/authorize",
    "tokenEndpoint": "https://login.example.com/token",
}
METADATA = {"authorizationServerMetadata": OWN}
URL = "https://login.example.com/oauth2/authorize"


@pytest.fixture(scope="module")
async def world(tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[World]:
    """A server whose operator listed a place for secrets."""
    folder = tmp_path_factory.mktemp("secrets")
    (folder / "client.json").write_text(json.dumps({"client_secret": SECRET, "other": "x"}))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ACME_CLIENT", json.dumps({"client_secret": SECRET}))
        sources = ("default=env:ACME_", f"default=file:{folder}/")
        async with running_world(tmp_path_factory.mktemp("agentcore") / "home", secret_sources=sources) as world:
            yield world


async def create(world: World, name: str, vendor: str = "CustomOauth2", **block: Any) -> Reply:
    """Create a provider of a vendor, with a client and whatever else its block says."""
    definition = catalog.by_agentcore_vendor(vendor)
    assert definition is not None
    return await world.ask(
        "CreateOauth2CredentialProvider",
        key="admin",
        name=name,
        credentialProviderVendor=vendor,
        oauth2ProviderConfigInput={definition.agentcore_config: {"clientId": "the-client", "clientSecret": SECRET, **block}},
    )


async def update(world: World, name: str, **block: Any) -> Reply:
    """Replace what a custom provider's block says."""
    return await world.ask(
        "UpdateOauth2CredentialProvider",
        key="admin",
        name=name,
        credentialProviderVendor="CustomOauth2",
        oauth2ProviderConfigInput={"customOauth2ProviderConfig": {"clientId": "the-client", **block}},
    )


def custom_of(world: World) -> dict[str, Any]:
    """The world's vendor, as a custom provider's metadata."""
    return {
        "oauthDiscovery": {
            "authorizationServerMetadata": {
                "issuer": world.vendor.url,
                "authorizationEndpoint": world.vendor.settings["authorization_url"],
                "tokenEndpoint": world.vendor.settings["token_url"],
            }
        },
        "clientSecret": world.vendor.client_secret,
    }


def refused(reply: Reply, field: str) -> str:
    """The text of a refusal that names this member alone."""
    assert (reply.status, reply.error) == (400, "ValidationException"), reply.json
    assert [each["name"] for each in reply.json["fieldList"]] == [field]
    return str(reply.json["message"])


# Vendors


@dataclass(frozen=True, slots=True)
class Asking:
    """What operations use of whoever asks: an operator, whose key was verified."""

    broker: Broker
    region: str = REGION

    def call(self, action: str) -> Call:
        """A call of the operator's own."""
        who = WorkloadIdentity("", "default", "operator")
        return self.broker.call(Principal(who, None, Proof.ACCESS_KEY, verified=True, edge="agentcore"), action)


@pytest.fixture(scope="module")
async def operator(tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[Operator]:
    """The product at a public address, which every vendor redirects to."""
    home = tmp_path_factory.mktemp("public") / "home"
    put_vault(home)
    settings = Settings(home=home, public_url=PUBLIC_URL, pending_consents=100)
    clock, transport = FakeClock(), FakeIdentityTransport()
    prepared = app.prepare(settings, clock=clock, transport=transport, front=configured_front(settings))
    async with app.running(prepared):
        operator = Operator(prepared, transport, clock)
        await operator.create(return_urls=(RETURN_URL,))
        yield operator


def test_the_model_names_25_vendors() -> None:
    from botocore.session import get_session  # pyright: ignore[reportMissingTypeStubs, reportUnknownVariableType]

    session: Any = get_session()
    model = session.get_service_model("bedrock-agentcore-control")
    creation = model.operation_model("CreateOauth2CredentialProvider").input_shape
    assert {each.agentcore_vendor for each in VENDORS} == set(creation.members["credentialProviderVendor"].enum)
    blocks = set(creation.members["oauth2ProviderConfigInput"].members)
    assert {each.agentcore_config for each in VENDORS} == blocks
    assert len(VENDORS) == 25


@pytest.mark.parametrize("definition", VENDORS, ids=lambda each: each.agentcore_vendor)
async def test_a_vendor_is_made_by_its_name_and_asks_users_at_its_own_page(
    operator: Operator, definition: ProviderDefinition
) -> None:
    block: dict[str, Any] = {"clientId": "the-client", "clientSecret": SECRET}
    if definition.agentcore_config == "customOauth2ProviderConfig":
        block["oauthDiscovery"] = METADATA
    elif any(setting.default is None for setting in definition.settings.values()) and not definition.agentcore_defaults:
        block |= OWN
    given = OAuthProviderCreation.model_validate(
        {
            "name": definition.name,
            "credentialProviderVendor": definition.agentcore_vendor,
            "oauth2ProviderConfigInput": {definition.agentcore_config: block},
        }
    )
    broker, prepared = operator.broker, operator.prepared
    edge, asker = Edge(broker, app.authenticator_of(prepared), prepared.clock), Asking(broker)
    made = await oauth_providers.create(edge, asker, given)  # type: ignore[arg-type]  # what it uses of them

    agent = await broker.workloads.get("default", "agent")
    alice = Principal(agent, ALICE, Proof.JWT, verified=True, edge="agentcore", expires_at=operator.in_minutes(60))
    asked = TokenRequest(definition.name, scopes=("read",), flow="USER_FEDERATION", return_url=RETURN_URL)
    link = await broker.start_consent(broker.call(alice, "start_consent"), asked)
    begun = await broker.begin_consent(link.session_uri.rpartition(":")[2], allow_other_account=False)

    where, query = begun.authorization_url.split("?")
    expected = OWN["authorizationEndpoint"]
    if not {"issuer", "oauthDiscovery"} & block.keys():
        expected = catalog.resolve(definition, definition.agentcore_defaults).endpoints.authorization
    assert (urlsplit(where).scheme, where) == ("https", expected)
    parameters = dict(parse_qsl(query))
    assert (parameters["client_id"], parameters["response_type"]) == ("the-client", "code")
    assert parameters["redirect_uri"] == made.callback_url
    assert ("code_challenge" in parameters) == definition.dialect.pkce
    shown = made.oauth2_provider_config_output[definition.agentcore_config].oauth_discovery.authorization_server_metadata
    assert shown is not None
    assert shown.authorization_endpoint == expected
    assert (await broker.directory.get("default", definition.name)).release is Release.HANDLE


async def test_a_vendor_at_each_customers_own_address_has_to_be_told_it(world: World) -> None:
    said = refused(await create(world, "okta", "OktaOauth2"), "oauth2ProviderConfigInput.includedOauth2ProviderConfig.issuer")
    assert "customer" in said


async def test_a_vendor_is_described_by_its_own_block(world: World) -> None:
    reply = await world.ask(
        "CreateOauth2CredentialProvider",
        key="admin",
        name="mixed",
        credentialProviderVendor="GithubOauth2",
        oauth2ProviderConfigInput={"googleOauth2ProviderConfig": {"clientId": "a", "clientSecret": "b"}},
    )
    assert "githubOauth2ProviderConfig" in refused(reply, "oauth2ProviderConfigInput")


@pytest.mark.parametrize("vendor", ["", "github", "githubOauth2", "MicrosoftOAuth2", "CoinbaseCDP"])
async def test_a_vendor_that_is_none_is_refused(world: World, vendor: str) -> None:
    reply = await world.ask(
        "CreateOauth2CredentialProvider",
        key="admin",
        name="none",
        credentialProviderVendor=vendor,
        oauth2ProviderConfigInput={"githubOauth2ProviderConfig": {"clientId": "a", "clientSecret": "b"}},
    )
    refused(reply, "credentialProviderVendor")


async def test_a_directory_of_microsofts_is_named_by_its_id(world: World) -> None:
    tenant = "11111111-2222-3333-4444-555555555555"
    reply = await create(world, "entra", "MicrosoftOauth2", tenantId=tenant)
    assert reply.status == 201, reply.json
    shown = reply.json["oauth2ProviderConfigOutput"]["microsoftOauth2ProviderConfig"]
    assert set(shown) == {"oauthDiscovery", "clientId"}
    assert tenant in shown["oauthDiscovery"]["authorizationServerMetadata"]["tokenEndpoint"]
    assert (await create(world, "entra-2", "MicrosoftOauth2", tenantId="../common")).status == 400


# What is shown


async def test_a_stock_client_makes_shows_changes_lists_and_removes_a_provider(world: World) -> None:
    seen: list[Any] = []

    def drive() -> None:
        client = boto(world, "bedrock-agentcore-control", "admin")
        config = {"clientId": "placeholder", "clientSecret": SECRET}
        made = client.create_oauth2_credential_provider(
            name="stock_github",
            credentialProviderVendor="GithubOauth2",
            oauth2ProviderConfigInput={"githubOauth2ProviderConfig": config},
            tags={"team": "a"},
        )
        assert made["ResponseMetadata"]["HTTPStatusCode"] == 201
        assert made["status"] == "READY"
        assert made["callbackUrl"].startswith(f"{world.url}/oauth2/callback/")
        assert made["clientSecretSource"] == "MANAGED"
        arn = made["clientSecretArn"]["secretArn"]
        assert arn.endswith(":secret:bedrock-agentcore-identity!default/oauth2/stock_github")
        config |= {"clientId": "the-real-one", "clientSecret": f"{SECRET}-2"}
        changed = client.update_oauth2_credential_provider(
            name="stock_github",
            credentialProviderVendor="GithubOauth2",
            oauth2ProviderConfigInput={"githubOauth2ProviderConfig": config},
        )
        shown = client.get_oauth2_credential_provider(name="stock_github")
        assert shown["callbackUrl"] == made["callbackUrl"]
        assert shown["oauth2ProviderConfigOutput"]["githubOauth2ProviderConfig"]["clientId"] == "the-real-one"
        assert shown["createdTime"] < shown["lastUpdatedTime"] == changed["lastUpdatedTime"]
        pages = client.get_paginator("list_oauth2_credential_providers").paginate(PaginationConfig={"PageSize": 1})
        listed = [each for page in pages for each in page["credentialProviders"]]
        assert {each["name"]: each["credentialProviderVendor"] for each in listed}["stock_github"] == "GithubOauth2"
        assert "weather" not in {each["name"] for each in listed}
        with pytest.raises(client.exceptions.ConflictException):
            client.create_oauth2_credential_provider(
                name="Stock_GitHub",
                credentialProviderVendor="GithubOauth2",
                oauth2ProviderConfigInput={"githubOauth2ProviderConfig": config},
            )
        removed = client.delete_oauth2_credential_provider(name="stock_github")
        assert removed["ResponseMetadata"]["HTTPStatusCode"] == 204
        with pytest.raises(client.exceptions.ResourceNotFoundException):
            client.get_oauth2_credential_provider(name="stock_github")
        seen.extend([made, changed, shown, listed])

    await anyio.to_thread.run_sync(drive)
    assert SECRET not in str(seen)
    assert SECRET not in str(await world.trail())


async def test_a_key_provider_is_no_oauth_provider(world: World) -> None:
    for operation in ("Get", "Delete"):
        reply = await world.ask(f"{operation}Oauth2CredentialProvider", key="admin", name="weather")
        assert (reply.status, reply.error) == (404, "ResourceNotFoundException")


# A server of one's own


async def test_what_is_made_here_serves_agents_here_and_handles_over_mcp(world: World) -> None:
    reply = await create(world, "own", **custom_of(world))
    assert reply.status == 201, reply.json
    given = await world.token(await world.wat(None), flow="M2M", resourceCredentialProviderName="own")
    assert given.json["accessToken"] in world.vendor.minted
    assert (await world.broker.directory.get("default", "own")).release is Release.HANDLE


async def test_a_person_consents_to_what_is_made_here(world: World) -> None:
    assert (await create(world, "asked", **custom_of(world))).status == 201
    reply = await world.token(await world.wat(BOB), resourceCredentialProviderName="asked")
    back = await world.browse(reply.json["authorizationUrl"])
    assert back[""] == RETURN_URL
    assert "session_id" in back


async def test_a_server_is_found_by_the_address_of_its_metadata(world: World) -> None:
    discovery = {"discoveryUrl": world.idp.discovery_url}
    reply = await create(world, "discovered", oauthDiscovery=discovery)
    assert reply.status == 201, reply.json
    assert reply.json["oauth2ProviderConfigOutput"]["customOauth2ProviderConfig"]["oauthDiscovery"] == discovery
    server = (await world.broker.directory.get("default", "discovered")).server
    assert server.issuer == world.idp.issuer
    changed = await update(world, "discovered", **custom_of(world))
    assert changed.status == 200, changed.json
    assert "discoveryUrl" not in str(changed.json)
    assert (await world.broker.directory.get("default", "discovered")).server.issuer == world.vendor.url


async def test_metadata_that_is_another_issuers_makes_no_provider(world: World) -> None:
    elsewhere = world.idp.discovery_url.replace("/.well-known", "/elsewhere/.well-known")
    reply = await create(world, "strange", oauthDiscovery={"discoveryUrl": elsewhere})
    assert (reply.status, reply.error) == (400, "ValidationException")
    assert (await world.ask("GetOauth2CredentialProvider", key="admin", name="strange")).status == 404


async def test_a_secret_stays_where_none_is_given_and_goes_nowhere_else(world: World) -> None:
    own = custom_of(world)
    assert (await create(world, "moving", **own)).status == 201
    stays = await update(world, "moving", oauthDiscovery=own["oauthDiscovery"])
    assert stays.status == 200, stays.json
    wat = await world.wat(None)
    assert (await world.token(wat, flow="M2M", resourceCredentialProviderName="moving")).status == 200
    moved = await update(world, "moving", oauthDiscovery=METADATA)
    assert moved.status == 200, moved.json
    assert not await world.broker.directory.has_secret(await world.broker.directory.get("default", "moving"))
    reply = await world.token(wat, flow="M2M", resourceCredentialProviderName="moving", scopes=["write"])
    assert (reply.status, reply.error) == (400, "ValidationException")


async def test_how_a_client_authenticates_is_said_once(world: World) -> None:
    prefix = "oauth2ProviderConfigInput.customOauth2ProviderConfig"
    legacy = {"authorizationServerMetadata": {**OWN, "tokenEndpointAuthMethods": ["client_secret_post"]}}
    made = await create(world, "legacy", oauthDiscovery=legacy)
    assert made.json["oauth2ProviderConfigOutput"]["customOauth2ProviderConfig"]["clientAuthenticationMethod"].endswith("POST")
    both = await create(world, "both", oauthDiscovery=legacy, clientAuthenticationMethod="CLIENT_SECRET_POST")
    refused(both, f"{prefix}.clientAuthenticationMethod")
    cloud = await create(world, "cloud", oauthDiscovery=METADATA, clientAuthenticationMethod="AWS_IAM_ID_TOKEN_JWT")
    refused(cloud, f"{prefix}.clientAuthenticationMethod")


@pytest.mark.parametrize(
    "given",
    [
        {"privateEndpoint": {"selfManagedLatticeResource": {}}},
        {"privateEndpointOverrides": []},
        {"certificateConfigurations": [{"s3": {"uri": "s3://a/b"}}]},
    ],
)
async def test_what_only_a_cloud_has_is_refused_by_name(world: World, given: dict[str, Any]) -> None:
    reply = await create(world, "private", oauthDiscovery=METADATA, **given)
    assert "not served" in refused(reply, f"oauth2ProviderConfigInput.customOauth2ProviderConfig.{next(iter(given))}")


async def test_how_users_tokens_are_exchanged_comes_back_as_it_was_said(world: World) -> None:
    exchange: dict[str, Any] = {
        "grantType": "TOKEN_EXCHANGE",
        "tokenExchangeGrantTypeConfig": {"actorTokenContent": "M2M", "actorTokenScopes": ["act", "more"]},
        "onBehalfOfAuthenticationConfig": {"clientAuthenticationMethod": "NO_CLIENT"},
    }
    made = await create(world, "exchanging", oauthDiscovery=METADATA, onBehalfOfTokenExchangeConfig=exchange)
    assert made.status == 201, made.json
    shown = made.json["oauth2ProviderConfigOutput"]["customOauth2ProviderConfig"]
    assert shown["onBehalfOfTokenExchangeConfig"] == exchange
    issuers = [each.id for each in await world.broker.issuers.list("default")]
    assert (await world.broker.directory.get("default", "exchanging")).subject_issuers == frozenset(issuers)
    without = await update(world, "exchanging", oauthDiscovery=METADATA)
    assert "onBehalfOf" not in str(without.json)
    assert (await world.broker.directory.get("default", "exchanging")).subject_issuers == frozenset()


async def test_an_authorization_server_that_was_left_is_sent_nothing_of_the_next_one(world: World) -> None:
    left = "https://left.example.com"
    endpoints = {"authorization_url": f"{left}/authorize", "token_url": f"{left}/token"}
    beside = {"revocation_url": f"{left}/revoke", "jwks_url": f"{left}/keys"}
    spec = ProviderSpec("custom", {"issuer": left, **endpoints, **beside}, "the-client", secret=Secret(SECRET))
    await world.broker.directory.add(world.operator("create_provider"), "moved-away", spec)
    metadata = {"issuer": left, "authorizationEndpoint": f"{left}/authorize", "tokenEndpoint": f"{left}/token"}
    stays = await update(world, "moved-away", oauthDiscovery={"authorizationServerMetadata": metadata})
    assert stays.status == 200, stays.json
    server = (await world.broker.directory.get("default", "moved-away")).server
    assert (server.revocation_url, server.jwks_url) == tuple(beside.values())
    gone = await update(world, "moved-away", oauthDiscovery=METADATA, clientSecret=f"{SECRET}-2")
    assert gone.status == 200, gone.json
    server = (await world.broker.directory.get("default", "moved-away")).server
    assert (server.token_url, server.revocation_url, server.jwks_url) == (OWN["tokenEndpoint"], "", "")


@pytest.mark.parametrize("vendor", ["CustomOauth2", "MicrosoftOauth2"])
@pytest.mark.parametrize("narrowed", [("corp",), ()])
async def test_what_an_operator_narrowed_is_not_widened_by_a_new_secret(
    world: World, vendor: str, narrowed: tuple[str, ...]
) -> None:
    partner = FakeIdentityProvider()
    if "partner" not in [each.name for each in await world.broker.issuers.list("default")]:
        async with partner.serve():
            spec = IssuerSpec(partner.discovery_url, audiences=(partner.audience,), allow_http_loopback=True)
            await world.broker.issuers.add(world.operator("create_issuer"), "partner", spec)
    known = {each.name: each.id for each in await world.broker.issuers.list("default")}
    name = f"narrowed-{vendor}-{len(narrowed)}"
    custom = {"oauthDiscovery": METADATA, "onBehalfOfTokenExchangeConfig": {"grantType": "TOKEN_EXCHANGE"}}
    block: dict[str, Any] = custom if vendor == "CustomOauth2" else {}
    assert (await create(world, name, vendor, **block)).status == 201
    assert (await world.broker.directory.get("default", name)).subject_issuers == frozenset(known.values())
    await world.broker.directory.update(world.operator("update_provider"), name, ProviderSpec(subject_issuers=narrowed))
    config = catalog.by_agentcore_vendor(vendor)
    assert config is not None
    changed = await world.ask(
        "UpdateOauth2CredentialProvider",
        key="admin",
        name=name,
        credentialProviderVendor=vendor,
        oauth2ProviderConfigInput={config.agentcore_config: {"clientId": "the-client", "clientSecret": f"{SECRET}-2", **block}},
    )
    assert changed.status == 200, changed.json
    kept = (await world.broker.directory.get("default", name)).subject_issuers
    assert kept == frozenset(known[each] for each in narrowed)


@pytest.mark.parametrize(
    ("exchange", "field"),
    [
        ({"grantType": "x"}, "grantType"),
        (
            {"grantType": "TOKEN_EXCHANGE", "tokenExchangeGrantTypeConfig": {"actorTokenContent": "AWS_IAM_ID_TOKEN_JWT"}},
            "tokenExchangeGrantTypeConfig.actorTokenContent",
        ),
        (
            {
                "grantType": "TOKEN_EXCHANGE",
                "tokenExchangeGrantTypeConfig": {"actorTokenContent": "NONE", "actorTokenScopes": ["a"]},
            },
            "tokenExchangeGrantTypeConfig.actorTokenScopes",
        ),
        (
            {"grantType": "JWT_AUTHORIZATION_GRANT", "tokenExchangeGrantTypeConfig": {"actorTokenContent": "NONE"}},
            "tokenExchangeGrantTypeConfig",
        ),
    ],
)
async def test_an_exchange_that_cannot_be_is_refused(world: World, exchange: dict[str, Any], field: str) -> None:
    reply = await create(world, "odd", oauthDiscovery=METADATA, onBehalfOfTokenExchangeConfig=exchange)
    prefix = "oauth2ProviderConfigInput.customOauth2ProviderConfig.onBehalfOfTokenExchangeConfig"
    refused(reply, f"{prefix}.{field}")


def new_key() -> str:
    """A private key in PEM, small enough for the model."""
    key = ec.generate_private_key(ec.SECP256R1())
    form = serialization.PrivateFormat.PKCS8
    return key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption()).decode()


async def test_a_client_may_sign_who_it_is_by_a_key_that_is_kept_here(world: World) -> None:
    config: dict[str, Any] = {
        "signingAlgorithm": "ES256",
        "additionalHeaderClaims": {"kid": "key-1"},
        "additionalPayloadClaims": {"aud": "https://login.example.com"},
    }
    made = await create(world, "signing", oauthDiscovery=METADATA, clientSecret=new_key(), privateKeyJwtConfig=config)
    assert made.status == 201, made.json
    shown = made.json["oauth2ProviderConfigOutput"]["customOauth2ProviderConfig"]
    assert (shown["clientAuthenticationMethod"], shown["privateKeyJwtConfig"]) == ("PRIVATE_KEY_JWT", config)
    assert "PRIVATE KEY" not in str(made.json)
    no_key = await create(world, "no-key", oauthDiscovery=METADATA, clientAuthenticationMethod="PRIVATE_KEY_JWT")
    assert (no_key.status, no_key.error) == (400, "ValidationException")
    back = await update(world, "signing", oauthDiscovery=METADATA, clientAuthenticationMethod="CLIENT_SECRET_POST")
    assert (back.status, back.error) == (400, "ValidationException")  # a key is not sent as if it were a secret


@pytest.mark.parametrize(
    ("config", "field"),
    [
        (
            {"privateKeySource": {"kmsKeySource": {"kmsKeyArn": f"arn:aws:kms:eu-central-1:123456789012:key/{'1' * 36}"}}},
            "privateKeySource",
        ),
        ({"privateKeySource": {}}, "privateKeySource"),
        ({"signingAlgorithm": "HS256"}, "signingAlgorithm"),
        ({"additionalHeaderClaims": {"typ": "x"}}, "additionalHeaderClaims"),
        ({"additionalPayloadClaims": {"sub": "x"}}, "additionalPayloadClaims"),
    ],
)
async def test_a_signature_that_cannot_be_made_is_refused(world: World, config: dict[str, Any], field: str) -> None:
    reply = await create(world, "odd", oauthDiscovery=METADATA, clientSecret=new_key(), privateKeyJwtConfig=config)
    refused(reply, f"oauth2ProviderConfigInput.customOauth2ProviderConfig.privateKeyJwtConfig.{field}")


# Secrets


@pytest.mark.parametrize("secret", [None, ""])
async def test_a_provider_begins_with_some_secret(world: World, secret: str | None) -> None:
    reply = await create(world, "bare", "GithubOauth2", clientSecret=secret)
    refused(reply, "oauth2ProviderConfigInput.githubOauth2ProviderConfig.clientSecret")


@pytest.mark.parametrize("place", ["env:ACME_CLIENT", "file"])
async def test_a_secret_may_be_named_where_the_operator_listed_a_place(world: World, place: str) -> None:
    sources = world.graph.settings.secret_sources
    if place == "file":
        place = f"{sources[1].partition('=')[2]}client.json"
    name = f"named-{place.partition(':')[0]}"
    reference = {"secretId": place, "jsonKey": "client_secret"}
    reply = await create(
        world, name, "GithubOauth2", clientSecret=None, clientSecretSource="EXTERNAL", clientSecretConfig=reference
    )
    assert reply.status == 201, reply.json
    assert (reply.json["clientSecretSource"], reply.json["clientSecretJsonKey"]) == ("EXTERNAL", "client_secret")
    assert reply.json["clientSecretArn"]["secretArn"].startswith("arn:aws:secretsmanager:")
    assert SECRET not in str(reply.json)
    assert await world.broker.directory.has_secret(await world.broker.directory.get("default", name))


@pytest.mark.parametrize("place", ["env:HOME", "env:MCP_IDENTITY_KEY", "file:/etc/passwd", "env:ACME_NOTHING", "arn:aws:x"])
async def test_a_secret_is_read_from_no_other_place(world: World, place: str) -> None:
    reply = await create(
        world,
        "elsewhere",
        "GithubOauth2",
        clientSecret=None,
        clientSecretSource="EXTERNAL",
        clientSecretConfig={"secretId": place, "jsonKey": "client_secret"},
    )
    assert (reply.status, reply.error) == (400, "ValidationException")
    assert (await world.ask("GetOauth2CredentialProvider", key="admin", name="elsewhere")).status == 404


@pytest.mark.parametrize(
    ("block", "field"),
    [
        ({"clientSecretSource": "EXTERNAL"}, "clientSecretConfig"),
        (
            {"clientSecretSource": "EXTERNAL", "clientSecretConfig": {"secretId": "env:ACME_A", "jsonKey": "a"}},
            "clientSecret",
        ),
        ({"clientSecretConfig": {"secretId": "env:ACME_A", "jsonKey": "a"}}, "clientSecretConfig"),
        ({"clientSecretSource": "MINE"}, "clientSecretSource"),
        ({"clientSecret": "s" * 2049}, "clientSecret"),
        ({"clientId": ""}, "clientId"),
        ({"clientId": "c" * 257}, "clientId"),
    ],
)
async def test_what_contradicts_itself_or_the_model_is_named(world: World, block: dict[str, Any], field: str) -> None:
    reply = await create(world, "contrary", "GithubOauth2", **block)
    refused(reply, f"oauth2ProviderConfigInput.githubOauth2ProviderConfig.{field}")
    assert "sss" not in str(reply.json)


@pytest.mark.parametrize(
    "given", [{}, {"githubOauth2ProviderConfig": None}, {"strangeConfig": {}}, {"githubOauth2ProviderConfig": {}, "x": 1}]
)
async def test_exactly_one_block_is_given(world: World, given: dict[str, Any]) -> None:
    reply = await world.ask(
        "CreateOauth2CredentialProvider",
        key="admin",
        name="blocks",
        credentialProviderVendor="GithubOauth2",
        oauth2ProviderConfigInput=given,
    )
    assert (reply.status, reply.error) == (400, "ValidationException")
    assert reply.json["fieldList"][0]["name"].startswith("oauth2ProviderConfigInput")


async def test_two_blocks_are_one_too_many(world: World) -> None:
    client = {"clientId": "a", "clientSecret": "b"}
    reply = await world.ask(
        "CreateOauth2CredentialProvider",
        key="admin",
        name="blocks",
        credentialProviderVendor="GithubOauth2",
        oauth2ProviderConfigInput={"githubOauth2ProviderConfig": client, "googleOauth2ProviderConfig": client},
    )
    refused(reply, "oauth2ProviderConfigInput")


async def test_nothing_is_left_of_a_provider_that_was_removed(world: World) -> None:
    assert (await create(world, "leaving", **custom_of(world))).status == 201
    provider = await world.broker.directory.get("default", "leaving")
    wat = await world.wat(None)
    assert (await world.token(wat, flow="M2M", resourceCredentialProviderName="leaving")).status == 200
    assert (await world.ask("DeleteOauth2CredentialProvider", key="admin", name="leaving")).status == 204
    assert world.server.serving is not None
    vault = world.server.serving.prepared.vault
    assert (await vault.read(lambda records: records.list_provider_grants("default", provider.id))).grants == ()
    reply = await world.token(wat, flow="M2M", resourceCredentialProviderName="leaving")
    assert (reply.status, reply.error) == (404, "ResourceNotFoundException")
