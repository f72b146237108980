"""Are agents, issuers and credentials registered as the code says, and never with a secret in it?"""

from __future__ import annotations

import sys
from collections.abc import Generator
from typing import Any

import pytest
from anyio.from_thread import start_blocking_portal

from mcp_identity import IdentityClient, IdentityClientError
from mcp_identity.sdk.registration import authorizer_steps, credential_steps
from mcp_identity.sdk.steps import Ask
from tests.fakes.home import VaultHome
from tests.fakes.vendor import CLIENT_ID, Vendor, running_vendor
from tests.sdk.kit import ALICE, World, play, running_company, tools

ISSUER = "https://cognito-idp.eu-west-1.amazonaws.com/eu-west-1_AbC"
DISCOVERY = f"{ISSUER}/.well-known/openid-configuration"
ABSENT = {"status": "error", "code": "not_found", "message": "no"}
NONE: dict[str, Any] = {"status": "ok", "issuers": []}
OK = {"status": "ok", "name": "x"}


def arguments(asked: list[Any], tool: str) -> dict[str, Any]:
    """What a tool was called with."""
    (found,) = [dict(step.arguments) for step in asked if isinstance(step, Ask) and step.tool == tool]
    return found


# Whose tokens speak for an agent


def test_an_issuer_and_an_agent_that_are_not_there_are_made() -> None:
    config = {"discoveryUrl": DISCOVERY, "allowedClients": ["client-1"]}
    made, asked = play(authorizer_steps(ALICE, "agent", "jwt", config), NONE, {**OK, "name": "an-issuer"}, ABSENT, OK)
    assert made == OK
    assert tools(asked) == ["list_issuers", "create_issuer", "get_workload_identity", "create_workload_identity"]
    assert arguments(asked, "create_issuer") == {
        "name": "cognito-idp.eu-west-1.amazonaws.com-eu-west-1_abc",
        "discovery_url": DISCOVERY,
        "preset": "cognito",
        "audiences": [],
        "claims": [],
    }
    assert arguments(asked, "create_workload_identity") == {
        "name": "agent",
        "issuer": "an-issuer",
        "audiences": [],
        "clients": ["client-1"],
        "scopes": [],
        "claims": [],
    }
    assert all(step.admin for step in asked if isinstance(step, Ask))
    assert [step.repeatable for step in asked if isinstance(step, Ask)] == [True, False, True, False]


def test_an_issuer_that_is_there_is_taken_and_the_agent_changed() -> None:
    known = {
        "status": "ok",
        "issuers": [{"name": "pool", "issuer": ISSUER, "discovery_url": DISCOVERY, "audiences": ["a", "b"]}],
    }
    config = {"discovery_url": f"{ISSUER}/", "allowed_audience": ["a"], "return_urls": ["https://app.example.com/done"]}
    _, asked = play(authorizer_steps(ALICE, "agent", "jwt", config), known, {"status": "ok", "name": "agent"}, OK)
    assert tools(asked) == ["list_issuers", "get_workload_identity", "update_workload_identity"]
    changed = arguments(asked, "update_workload_identity")
    assert (changed["issuer"], changed["audiences"]) == ("pool", ["a"])
    assert changed["return_urls"] == ["https://app.example.com/done"]
    with pytest.raises(IdentityClientError) as failed:
        play(authorizer_steps(ALICE, "agent", "jwt", {**config, "allowed_audience": ["c"]}), known)
    assert failed.value.code == "conflict"


def test_claims_are_taken_in_every_way_that_people_write_them() -> None:
    agentcore = {
        "inboundTokenClaimName": "groups",
        "inboundTokenClaimValueType": "STRING_ARRAY",
        "authorizingClaimMatchValue": {
            "claimMatchOperator": "CONTAINS_ANY",
            "claimMatchValue": {"matchValueStringList": ["admin", "dev"]},
        },
    }
    ours = {"claim": "groups", "operator": "contains_any", "values": ["admin", "dev"]}
    for claims, expected in (
        ([agentcore], [ours]),
        ([ours], [ours]),
        ({"groups": ["admin", "dev"]}, [ours]),
        ({"team": "red"}, [{"claim": "team", "operator": "equals", "values": ["red"]}]),
    ):
        config = {"customJWTAuthorizer": {"discoveryUrl": DISCOVERY, "customClaims": claims}}
        _, asked = play(authorizer_steps(ALICE, "agent", "customJWTAuthorizer", config), NONE, OK, ABSENT, OK)
        assert arguments(asked, "create_workload_identity")["claims"] == expected


@pytest.mark.parametrize(
    ("url", "preset"),
    [
        ("https://login.microsoftonline.com/8f/v2.0", "entra"),
        ("https://acme.okta.com/oauth2/default", "okta"),
        ("https://acme.eu.auth0.com/", "auth0"),
        ("https://accounts.google.com", "google"),
        ("https://idp.example.com", "oidc"),
        ("https://accounts.google.com.example.com", "oidc"),
    ],
)
def test_how_tokens_are_read_follows_from_where_they_are_of(url: str, preset: str) -> None:
    config = {"discovery_url": url, "allowed_audience": "aud"}
    _, asked = play(authorizer_steps(ALICE, "agent", "jwt", config), NONE, OK, ABSENT, OK)
    assert arguments(asked, "create_issuer")["preset"] == preset
    assert arguments(asked, "create_issuer")["audiences"] == ["aud"]


def test_an_organisation_and_a_sign_in_are_said_of_the_issuer() -> None:
    config = {
        "discovery_url": "https://accounts.google.com",
        "issuer": "workspace",
        "organisations": {"hd": "acme.example"},
        "allowed_audience": ["aud"],
        "login_client_id": "login",
        "login_secret_reference": "env:ACME_LOGIN",
    }
    _, asked = play(authorizer_steps(ALICE, "agent", "jwt", config), NONE, OK, ABSENT, OK)
    made = arguments(asked, "create_issuer")
    assert (made["name"], made["claims"]) == ("workspace", [{"claim": "hd", "value": "acme.example"}])
    assert (made["login_client_id"], made["secret_reference"]) == ("login", "env:ACME_LOGIN")


@pytest.mark.parametrize(
    ("kind", "config"),
    [
        ("iam", {}),
        ("jwt", {}),
        ("jwt", {"discovery_url": 7}),
        ("jwt", {"discovery_url": DISCOVERY, "allowed_client": ["x"]}),
        ("jwt", {"discovery_url": DISCOVERY, "allowed_clients": 7}),
        ("jwt", {"discovery_url": DISCOVERY, "custom_claims": ["x"]}),
        ("jwt", {"discovery_url": DISCOVERY, "custom_claims": [{"name": "x"}]}),
    ],
)
def test_an_authorizer_that_is_none_is_refused_before_anything_is_made(kind: str, config: dict[str, Any]) -> None:
    with pytest.raises(IdentityClientError) as failed:
        play(authorizer_steps(ALICE, "agent", kind, config))
    assert failed.value.code == "invalid_request"


# Credentials

CONFIG = {"client_id": "c", "client_secret_arn": "env:ACME_SECRET", "token_url": "https://idp.example.com/token"}


def test_a_provider_and_an_agent_that_are_not_there_are_made() -> None:
    made, asked = play(credential_steps(ALICE, "agent", "calendar", "oauth", CONFIG, "handle"), ABSENT, OK, ABSENT, OK)
    assert made == OK
    assert arguments(asked, "create_provider") == {
        "name": "calendar",
        "vendor": "custom",
        "release": "handle",
        "client_id": "c",
        "secret_reference": "env:ACME_SECRET",
        "secret_json_key": "",
        "settings": {"token_url": "https://idp.example.com/token"},
    }
    assert arguments(asked, "create_workload_identity") == {"name": "agent"}


def test_a_provider_that_is_there_is_changed_and_the_agent_may_use_it() -> None:
    before = {"status": "ok", "name": "calendar", "vendor": "custom"}
    agent = {"status": "ok", "name": "agent", "allowed_providers": ["other"]}
    _, asked = play(credential_steps(ALICE, "agent", "calendar", "oauth2", CONFIG, "handle"), before, OK, agent, OK)
    assert "release" not in arguments(asked, "update_provider")
    assert "vendor" not in arguments(asked, "update_provider")
    assert arguments(asked, "update_workload_identity") == {"name": "agent", "allowed_providers": ["other", "calendar"]}
    for fine in ({"status": "ok"}, {"status": "ok", "allowed_providers": ["calendar"]}):
        _, asked = play(credential_steps(ALICE, "agent", "calendar", "oauth2", CONFIG, "handle"), before, OK, fine)
        assert tools(asked) == ["get_provider", "update_provider", "get_workload_identity"]
    with pytest.raises(IdentityClientError) as failed:
        play(credential_steps(ALICE, "agent", "calendar", "oauth", CONFIG, "handle"), {**before, "vendor": "github"})
    assert failed.value.code == "conflict"


def test_a_vendor_and_a_key_have_what_is_theirs() -> None:
    github = {
        "vendor": "github",
        "clientId": "c",
        "clientSecretReference": "file:/run/s",
        "jsonKey": "secret",
        "scopes": ["repo"],
    }
    _, asked = play(credential_steps(ALICE, "agent", "gh", "oauth", github, "token"), ABSENT, OK, OK)
    made = arguments(asked, "create_provider")
    assert (made["vendor"], made["scopes"], made["secret_reference"]) == ("github", ["repo"], "file:/run/s")
    assert (made["secret_json_key"], made["release"]) == ("secret", "token")
    key = {"api_key_arn": "env:ACME_KEY", "release": "never", "name": "X-Api-Key", "settings": {"prefix": ""}}
    _, asked = play(credential_steps(ALICE, "agent", "maps", "api_key", key, "handle"), ABSENT, OK, OK)
    made = arguments(asked, "create_provider")
    assert (made["vendor"], made["release"], made["settings"]) == ("api-key", "never", {"prefix": "", "name": "X-Api-Key"})


@pytest.mark.parametrize(
    ("kind", "config", "said"),
    [
        ("oauth", {"client_secret": "s3cr3t"}, "never sent"),
        ("oauth", {"client_secret_arn": "s3cr3t"}, "never sent"),
        ("oauth", {"client_secret_arn": "arn:aws:secretsmanager:us-east-1:123456789012:secret:s3cr3t"}, "ARN"),
        ("oauth", {"client_secret_arn": "env:A", "secret_reference": "env:s3cr3t"}, "one secret"),
        ("oauth", {"token_url": 7}, "token_url"),
        ("api_key", {"api_key": "s3cr3t"}, "never sent"),
        ("password", {}, "oauth or api_key"),
    ],
)
def test_a_secret_is_named_and_never_sent_nor_repeated(kind: str, config: dict[str, Any], said: str) -> None:
    with pytest.raises(IdentityClientError) as failed:
        play(credential_steps(ALICE, "agent", "x", kind, config, "handle"))
    assert failed.value.code == "invalid_request"
    assert said in failed.value.message
    assert "s3cr3t" not in str(failed.value)
    if "secret" in said or "ARN" in said:
        assert "MCP_IDENTITY_SECRET_SOURCES" in failed.value.remedy


# With a server


@pytest.fixture
def discovery_url() -> Generator[str]:
    """An identity provider on this machine."""
    with running_company() as company:
        yield company.discovery_url


@pytest.fixture
def vendor() -> Generator[Vendor]:
    """A vendor in a thread of its own."""
    with start_blocking_portal() as portal, portal.wrap_async_context_manager(running_vendor()) as vendor:
        yield vendor


def test_what_was_stored_by_code_is_had_by_code(
    discovery_url: str, vendor: Vendor, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = VaultHome(tmp_path_factory.mktemp("home"))
    for name, value in home.environment(WORKLOAD="agent", SECRET_SOURCES="default=env:ACME_").items():
        if name.startswith("MCP_IDENTITY_"):
            monkeypatch.setenv(name, value)
    monkeypatch.setenv("ACME_SECRET", vendor.client_secret)
    monkeypatch.setenv("OTHER_SECRET", vendor.client_secret)
    command = (sys.executable, "-m", "mcp_identity", "serve", "--toolset", "admin", "--allow-http-loopback")
    with IdentityClient(command=command) as identity:
        local = {"allow_http_loopback": True}
        stored = identity.store_credential(
            "agent",
            credential_name="billing",
            credential_type="oauth",
            config={
                "client_id": CLIENT_ID,
                "client_secret_arn": "env:ACME_SECRET",
                "token_url": vendor.settings["token_url"],
                **local,
            },
        )
        assert (stored["name"], stored["has_secret"], stored["secret_reference"]) == ("billing", True, "env:ACME_SECRET")
        assert identity.get_token("billing").access_token in vendor.minted
        agent = identity.configure_authorizer(
            "agent", authorizer_type="jwt", config={"discovery_url": discovery_url, "allowed_audience": ["api"], **local}
        )
        assert agent["audiences"] == ["api"]
        again = identity.configure_authorizer(
            "agent", config={"discoveryUrl": discovery_url, "allowedClients": ["web"], **local}
        )
        assert (again["issuer"], again["audiences"], again["clients"]) == (agent["issuer"], [], ["web"])
        with pytest.raises(IdentityClientError) as failed:
            identity.store_credential("agent", "maps", "api_key", {"api_key_arn": "env:OTHER_SECRET"})
        assert failed.value.code == "invalid_request"
        assert vendor.client_secret not in str(failed.value)


def test_an_agent_of_a_server_registers_nothing_there(world: World) -> None:
    client = world.client()
    with pytest.raises(IdentityClientError) as failed:
        client.store_credential("alice", "maps", "api_key", {"api_key_arn": "env:ACME_KEY"})
    assert failed.value.code == "access_denied"
    assert "--toolset admin" in failed.value.remedy


async def test_nor_does_a_coroutine_of_it(world: World) -> None:
    async with IdentityClient(world.server.url, token=world.server.keys["alice"]) as client:
        with pytest.raises(IdentityClientError) as failed:
            await client.store_credential_async("alice", "maps", "api_key", {"api_key_arn": "env:ACME_KEY"})
        assert failed.value.code == "access_denied"
        with pytest.raises(IdentityClientError) as failed:
            await client.configure_authorizer_async("alice", "jwt", {"discovery_url": DISCOVERY})
        assert failed.value.code == "access_denied"
