"""Every vendor that AgentCore knows by name is here, and an id and a secret are enough to send a user to the right place."""

from __future__ import annotations

from importlib import import_module
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from mcp_identity.domain.credentials import Flow, Secret
from mcp_identity.domain.provider import AuthorizationServer
from mcp_identity.oauth.authorization import authorization_url
from mcp_identity.providers import catalog
from tests.providers.test_catalog import EXAMPLES

AUTHORIZATION = {
    "GoogleOauth2": "https://accounts.google.com/o/oauth2/v2/auth",
    "GithubOauth2": "https://github.com/login/oauth/authorize",
    "SlackOauth2": "https://slack.com/oauth/v2/authorize",
    "SalesforceOauth2": "https://login.salesforce.com/services/oauth2/authorize",
    "MicrosoftOauth2": "https://login.microsoftonline.com/common/oauth2/v2.0/authorize",
    "AtlassianOauth2": "https://auth.atlassian.com/authorize",
    "LinkedinOauth2": "https://www.linkedin.com/oauth/v2/authorization",
    "XOauth2": "https://x.com/i/oauth2/authorize",
    "FacebookOauth2": "https://www.facebook.com/dialog/oauth",
    "YandexOauth2": "https://oauth.yandex.com/authorize",
    "RedditOauth2": "https://www.reddit.com/api/v1/authorize",
    "ZoomOauth2": "https://zoom.us/oauth/authorize",
    "TwitchOauth2": "https://id.twitch.tv/oauth2/authorize",
    "SpotifyOauth2": "https://accounts.spotify.com/authorize",
    "DropboxOauth2": "https://www.dropbox.com/oauth2/authorize",
    "NotionOauth2": "https://api.notion.com/v1/oauth/authorize",
    "HubspotOauth2": "https://app.hubspot.com/oauth/authorize",
}
"""Those that an id and a secret are enough for."""
TENANTS = {
    "OktaOauth2": "https://acme.okta.com/oauth2/default/v1/authorize",
    "OneLoginOauth2": "https://acme.onelogin.com/oidc/2/auth",
    "PingOneOauth2": "https://auth.pingone.com/11111111-2222-3333-4444-555555555555/as/authorize",
    "CyberArkOauth2": "https://abc1234.id.cyberark.cloud/OAuth2/Authorize/__idaptive_cybr_user_oidc",
    "FusionAuthOauth2": "https://acme.fusionauth.io/oauth2/authorize",
    "Auth0Oauth2": "https://acme.eu.auth0.com/authorize",
    "CognitoOauth2": "https://acme.auth.eu-west-1.amazoncognito.com/oauth2/authorize",
    "CustomOauth2": "https://idp.example.com/authorize",
}
"""Those that are somewhere else for every customer."""
MEMBERS = {"issuer": "https://login.example.com", "authorizationEndpoint": "https://login.example.com/authorize?tenant=1",
           "tokenEndpoint": "https://login.example.com/token"}  # fmt: skip


@pytest.fixture(scope="module")
def blocks() -> dict[str, set[str]]:
    """The members of `oauth2ProviderConfigInput` and theirs, as the newest service model has them."""
    botocore: Any = import_module("botocore.session")  # it has no types
    model = botocore.get_session().get_service_model("bedrock-agentcore-control")
    shape = model.shape_for("Oauth2ProviderConfigInput")
    assert set(model.shape_for("CredentialProviderVendorType").enum) == {*AUTHORIZATION, *TENANTS}
    return {name: set(member.members) for name, member in shape.members.items()}


def sent_to(name: str, settings: dict[str, str]) -> tuple[str, dict[str, list[str]]]:
    """Where a provider of this vendor sends the user, and with what."""
    definition = catalog.by_agentcore_vendor(name)
    assert definition is not None
    resolved = catalog.resolve(definition, definition.agentcore_defaults | settings)
    url = authorization_url(
        AuthorizationServer(authorization_url=resolved.endpoints.authorization, token_url=resolved.endpoints.token),
        "the-client",
        resolved.dialect,
        redirect_uri="https://broker.example/oauth2/callback/1",
        scopes=frozenset(definition.default_scopes),
        state="st4te",
        code_verifier=Secret("v" * 43),
    )
    return url.partition("?")[0], parse_qs(urlsplit(url).query)


def test_each_of_the_25_is_a_vendor_of_the_catalogue_and_fills_its_own_block(blocks: dict[str, set[str]]) -> None:
    found = {name: catalog.by_agentcore_vendor(name) for name in (*AUTHORIZATION, *TENANTS)}
    assert len({definition.name for definition in found.values() if definition}) == 25
    for definition in found.values():
        assert definition is not None
        assert definition.agentcore_config in blocks
        members = blocks[definition.agentcore_config]
        if definition.agentcore_config == "includedOauth2ProviderConfig":
            assert set(definition.agentcore_settings) == set(MEMBERS)
        assert {"tenantId"} & members <= set(definition.agentcore_settings)
        assert set(definition.agentcore_settings.values()) <= set(definition.settings)
        assert set(definition.agentcore_defaults) <= set(definition.settings)
    assert {definition.agentcore_config for definition in found.values() if definition} == set(blocks)


def test_a_name_that_agentcore_does_not_have_is_nobodys() -> None:
    for name in ("", "github", "MicrosoftOAuth2", "MadeUpOauth2"):
        assert catalog.by_agentcore_vendor(name) is None


@pytest.mark.parametrize("name", AUTHORIZATION)
def test_an_id_and_a_secret_are_enough_to_send_a_user_to_the_vendor(name: str) -> None:
    url, query = sent_to(name, {})
    assert url == AUTHORIZATION[name]
    assert query["client_id"] == ["the-client"]
    assert query["redirect_uri"] == ["https://broker.example/oauth2/callback/1"]
    assert (query["response_type"], query["state"]) == (["code"], ["st4te"])


@pytest.mark.parametrize("name", TENANTS)
def test_a_tenants_setting_sends_the_user_to_the_tenant(name: str) -> None:
    definition = catalog.by_agentcore_vendor(name)
    assert definition is not None
    url, query = sent_to(name, EXAMPLES[definition.name])
    assert url == TENANTS[name]
    assert query["code_challenge_method"] == ["S256"]


@pytest.mark.parametrize(
    "name", [each.agentcore_vendor for each in catalog.load().values() if each.agentcore_config.startswith("included")]
)
def test_an_isolated_tenants_endpoints_are_the_ones_that_the_caller_named(name: str) -> None:
    definition = catalog.by_agentcore_vendor(name)
    assert definition is not None
    settings = {definition.agentcore_settings[member]: value for member, value in MEMBERS.items()}
    url, query = sent_to(name, settings)
    assert url == "https://login.example.com/authorize"
    assert query["tenant"] == ["1"]
    assert Flow.USER_FEDERATION in catalog.resolve(definition, settings).flows
