"""What do the vendors' files say of their APIs, and does it hold together?"""

from __future__ import annotations

import pytest

from mcp_identity.domain.api_call import Reach
from mcp_identity.domain.api_url import parse_api_url, parse_origin
from mcp_identity.domain.errors import InvalidRequest, UrlRefused
from mcp_identity.domain.provider import AuthorizationServer, ProviderKind
from mcp_identity.providers import catalog
from tests.providers.test_catalog import EXAMPLES, VENDORS

MINTING = [
    ("github", "POST", "https://api.github.com/applications/Iv1.x/token"),
    ("github", "POST", "https://api.github.com/app-manifests/code/conversions"),
    ("github", "POST", "https://api.github.com/app/installations/1/access_tokens"),
    ("github", "POST", "https://api.github.com/repos/o/r/actions/runners/registration-token"),
    ("github", "POST", "https://api.github.com/orgs/o/actions/runners/generate-jitconfig"),
    ("github", "POST", "https://api.github.com/user/keys"),
    ("github", "POST", "https://api.github.com/repos/o/r/keys"),
    ("github", "GET", "https://api.github.com/copilot_internal/v2/token"),
    ("google", "POST", "https://www.googleapis.com/oauth2/v4/token"),
    ("google", "GET", "https://www.googleapis.com/oauth2/v3/tokeninfo"),
    ("google", "POST", "https://www.googleapis.com/batch/drive/v3"),
    ("google", "POST", "https://gmail.googleapis.com/batch"),
    ("google", "POST", "https://storage.googleapis.com/storage/v1/projects/p/hmacKeys"),
    ("microsoft", "POST", "https://graph.microsoft.com/v1.0/$batch"),
    ("microsoft", "POST", "https://graph.microsoft.com/beta/%24Batch"),
    ("microsoft", "POST", "https://graph.microsoft.com/v1.0/applications/1/addPassword"),
    ("microsoft", "POST", "https://graph.microsoft.com/v1.0/servicePrincipals/1/addKey"),
    ("microsoft", "POST", "https://graph.microsoft.com/v1.0/users/1/authentication/temporaryAccessPassMethods"),
    ("microsoft", "POST", "https://graph.microsoft.com/v1.0/me/revokeSignInSessions"),
    ("slack", "POST", "https://slack.com/api/oauth.v2.access"),
    ("slack", "POST", "https://slack.com/api/oauth.v2.exchange"),
    ("slack", "GET", "https://slack.com/api/auth.revoke"),
    ("slack", "POST", "https://slack.com/api/tooling.tokens.rotate"),
    ("slack", "POST", "https://slack.com/api/apps.connections.open"),
    ("slack", "POST", "https://slack.com/api/apps.manifest.create"),
]
MORE_MINTING = [
    ("atlassian", "POST", "https://api.atlassian.com/oauth/token"),
    ("auth0", "POST", "https://acme.eu.auth0.com/oauth/token"),
    ("auth0", "POST", "https://acme.eu.auth0.com/api/v2/clients/1/rotate-secret"),
    ("cognito", "POST", "https://acme.auth.eu-west-1.amazoncognito.com/oauth2/token"),
    ("cyberark", "POST", "https://abc1234.id.cyberark.cloud/OAuth2/Token/app"),
    ("dropbox", "POST", "https://api.dropboxapi.com/oauth2/token"),
    ("dropbox", "POST", "https://api.dropboxapi.com/2/auth/token/revoke"),
    ("facebook", "GET", "https://graph.facebook.com/v24.0/oauth/access_token"),
    ("facebook", "GET", "https://graph.facebook.com/debug_token"),
    ("facebook", "POST", "https://graph.facebook.com/v24.0"),
    ("fusionauth", "POST", "https://acme.fusionauth.io/api/jwt/refresh"),
    ("hubspot", "POST", "https://api.hubapi.com/oauth/v3/token"),
    ("linkedin", "POST", "https://api.linkedin.com/oauth/v2/accessToken"),
    ("notion", "POST", "https://api.notion.com/v1/oauth/token"),
    ("okta", "POST", "https://acme.okta.com/api/v1/authn"),
    ("okta", "POST", "https://acme.okta.com/oauth2/default/v1/token"),
    ("onelogin", "POST", "https://acme.onelogin.com/oidc/2/token/introspection"),
    ("pingone", "POST", "https://api.pingone.com/v1/environments/1/applications/2/secret"),
    ("reddit", "POST", "https://oauth.reddit.com/api/v1/access_token"),
    ("twitch", "GET", "https://api.twitch.tv/helix/streams/key"),
    ("x", "POST", "https://api.x.com/2/oauth2/token"),
    ("yandex", "POST", "https://login.yandex.ru/token"),
    ("zoom", "GET", "https://api.zoom.us/v2/users/me/token"),
]
ORDINARY = [
    ("github", "GET", "https://api.github.com/user"),
    ("github", "GET", "https://api.github.com/user/keys"),
    ("github", "POST", "https://api.github.com/repos/o/r/issues"),
    ("github", "POST", "https://api.github.com/graphql"),
    ("google", "GET", "https://www.googleapis.com/oauth2/v3/userinfo"),
    ("google", "GET", "https://gmail.googleapis.com/gmail/v1/users/me/messages"),
    ("microsoft", "GET", "https://graph.microsoft.com/v1.0/me"),
    ("slack", "POST", "https://slack.com/api/chat.postMessage"),
    ("atlassian", "GET", "https://api.atlassian.com/oauth/token/accessible-resources"),
    ("atlassian", "GET", "https://api.atlassian.com/ex/jira/1/rest/api/3/myself"),
    ("auth0", "GET", "https://acme.eu.auth0.com/userinfo"),
    ("cognito", "GET", "https://acme.auth.eu-west-1.amazoncognito.com/oauth2/userInfo"),
    ("dropbox", "POST", "https://content.dropboxapi.com/2/files/upload"),
    ("facebook", "POST", "https://graph.facebook.com/v24.0/me/feed"),
    ("hubspot", "GET", "https://api.hubapi.com/crm/v3/objects/contacts"),
    ("linkedin", "GET", "https://api.linkedin.com/v2/userinfo"),
    ("notion", "POST", "https://api.notion.com/v1/search"),
    ("okta", "GET", "https://acme.okta.com/api/v1/users/me"),
    ("onelogin", "GET", "https://acme.onelogin.com/oidc/2/me"),
    ("pingone", "GET", "https://api.pingone.com/v1/environments/1/users"),
    ("reddit", "GET", "https://oauth.reddit.com/api/v1/me"),
    ("spotify", "GET", "https://api.spotify.com/v1/me"),
    ("twitch", "GET", "https://api.twitch.tv/helix/users"),
    ("x", "GET", "https://api.x.com/2/users/me"),
    ("yandex", "GET", "https://login.yandex.ru/info"),
    ("zoom", "GET", "https://api.zoom.us/v2/users/me"),
]


def reach(vendor: str) -> Reach:
    resolved = catalog.resolve(catalog.get(vendor), EXAMPLES.get(vendor, {}))
    server = AuthorizationServer(token_url=resolved.endpoints.token, revocation_url=resolved.endpoints.revocation)
    return Reach(resolved.api, resolved.api.hosts, server, allow_http_loopback=False)


@pytest.mark.parametrize(("vendor", "method", "url"), [*MINTING, *MORE_MINTING])
def test_what_issues_or_ends_credentials_is_not_called(vendor: str, method: str, url: str) -> None:
    with pytest.raises(UrlRefused):
        reach(vendor).check(method, parse_api_url(url))


@pytest.mark.parametrize(("vendor", "method", "url"), ORDINARY)
def test_what_agents_are_for_is_called(vendor: str, method: str, url: str) -> None:
    reach(vendor).check(method, parse_api_url(url))


@pytest.mark.parametrize("name", VENDORS)
def test_the_facts_of_an_api_fit_together(name: str) -> None:
    definition = catalog.get(name)
    api = catalog.resolve(definition, EXAMPLES.get(name, {})).api
    assert [parse_origin(host) for host in api.hosts] == list(api.hosts)
    assert all(pattern.rpartition(" ")[2].startswith("/") for pattern in api.refused_paths)
    assert {pattern.rpartition(" ")[0] for pattern in api.refused_paths} <= {"", "GET", "POST", "PUT", "PATCH", "DELETE"}
    forbidden = {"authorization", "cookie", "host", "x-http-method-override", "x-forwarded-for"}
    assert not {header.lower() for header in api.request_headers} & forbidden
    assert not {header.lower() for header in api.response_headers} & {"set-cookie", "www-authenticate"}
    assert bool(api.hosts) or definition.generic or definition.dialect.api_host_field
    assert all(suffix.startswith(".") for suffix in definition.dialect.api_host_suffixes)
    assert bool(definition.dialect.api_host_field) == bool(definition.dialect.api_host_suffixes)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, ("header", "Authorization", "Bearer", "")),
        ({"name": "X-Api-Key", "prefix": ""}, ("header", "X-Api-Key", "", "")),
        ({"placement": "query", "name": "key"}, ("query", "key", "Bearer", "")),
        ({"placement": "basic", "username": "api"}, ("basic", "Authorization", "Bearer", "api")),
    ],
)
def test_an_api_key_goes_where_its_settings_say(settings: dict[str, str], expected: tuple[str, ...]) -> None:
    definition = catalog.get("api-key")
    assert definition.kind is ProviderKind.API_KEY
    api = catalog.resolve(definition, settings).api
    assert (api.key_placement, api.key_name, api.key_prefix, api.key_username) == expected


@pytest.mark.parametrize(
    "settings",
    [{"placement": "body"}, {"name": "X: Y"}, {"name": "a\r\nb"}, {"name": ""}, {"prefix": "Bearer x"}, {"username": "a:b"}],
)
def test_a_placement_that_is_none_is_refused(settings: dict[str, str]) -> None:
    with pytest.raises(InvalidRequest):
        catalog.resolve(catalog.get("api-key"), settings)
