"""What do a client and this edge say to one another? Every operation that is served, each with what it needs."""

from __future__ import annotations

from typing import Any

from tests.agentcore.kit import RETURN_URL, World
from tests.agentcore.model import ARN
from tests.fakes.identity_provider import ALICE

Said = tuple[str, dict[str, Any]]
"""An operation, and the members of its request."""
METADATA = {
    "issuer": "https://as.example.com",
    "authorizationEndpoint": "https://as.example.com/authorize",
    "tokenEndpoint": "https://as.example.com/token",
}


async def conversation(world: World) -> list[Said]:
    """The requests, in an order in which each finds what it needs; no two are alike, since equal signatures are one request.

    Those of the data plane are for the key ``trusted``, the others for ``admin``.
    """
    wat = await world.wat(ALICE)
    link = (await world.token(wat, forceAuthentication=True)).json
    back = await world.browse(link["authorizationUrl"])
    github = {"githubOauth2ProviderConfig": {"clientId": "id", "clientSecret": "made-up"}}
    discovery = {"authorizationServerMetadata": METADATA}
    custom = {"customOauth2ProviderConfig": {"oauthDiscovery": discovery, "clientId": "id", "clientSecret": "made-up"}}
    asking = {"workloadIdentityToken": wat, "resourceCredentialProviderName": "notes", "scopes": ["read"]}
    federated = {**asking, "oauth2Flow": "USER_FEDERATION", "resourceOauth2ReturnUrl": RETURN_URL}
    identifier = {"userToken": world.user_token(ALICE)}
    alone = {**asking, "resourceCredentialProviderName": "billing", "oauth2Flow": "M2M"}
    vault = {"tokenVaultId": "default"}
    tagged = {"resourceArn": ARN.replace("weather", "keyed")}
    return [
        ("GetWorkloadAccessToken", {"workloadName": "agent"}),
        ("GetWorkloadAccessTokenForJWT", {"workloadName": "agent", "userToken": world.user_token(ALICE)}),
        ("GetWorkloadAccessTokenForUserId", {"workloadName": "agent", "userId": "alice"}),
        ("GetResourceOauth2Token", {**federated, "sessionUri": link["sessionUri"]}),
        ("CompleteResourceTokenAuth", {"sessionUri": back["session_id"], "userIdentifier": identifier}),
        ("GetResourceOauth2Token", {**federated, "sessionUri": link["sessionUri"]}),
        ("GetResourceOauth2Token", alone),
        ("GetResourceApiKey", {"workloadIdentityToken": wat, "resourceCredentialProviderName": "weather"}),
        ("CreateWorkloadIdentity", {"name": "made-here", "allowedResourceOauth2ReturnUrls": [RETURN_URL], "tags": {"a": "b"}}),
        ("GetWorkloadIdentity", {"name": "made-here"}),
        ("UpdateWorkloadIdentity", {"name": "made-here", "allowedResourceOauth2ReturnUrls": []}),
        ("ListWorkloadIdentities", {"maxResults": 1}),
        ("DeleteWorkloadIdentity", {"name": "made-here"}),
        *_of_provider("github-here", "GithubOauth2", github),
        *_of_provider("custom-here", "CustomOauth2", custom),
        ("CreateApiKeyCredentialProvider", {"name": "keyed", "apiKey": "sk-made-up", "tags": {"a": "b"}}),
        ("GetApiKeyCredentialProvider", {"name": "keyed"}),
        ("UpdateApiKeyCredentialProvider", {"name": "keyed", "apiKey": "sk-another"}),
        ("ListApiKeyCredentialProviders", {"maxResults": 1}),
        ("TagResource", {**tagged, "tags": {"c": "d e"}}),
        ("ListTagsForResource", tagged),
        ("UntagResource", {**tagged, "tagKeys": ["c", "no such"]}),
        ("DeleteApiKeyCredentialProvider", {"name": "keyed"}),
        ("GetTokenVault", vault),
        ("SetTokenVaultCMK", {**vault, "kmsConfiguration": {"keyType": "ServiceManagedKey"}}),
    ]


def _of_provider(name: str, vendor: str, config: dict[str, Any]) -> list[Said]:
    whole = {"name": name, "credentialProviderVendor": vendor, "oauth2ProviderConfigInput": config}
    return [
        ("CreateOauth2CredentialProvider", {**whole, "tags": {"a": "b"}}),
        ("GetOauth2CredentialProvider", {"name": name}),
        ("UpdateOauth2CredentialProvider", whole),
        ("ListOauth2CredentialProviders", {"maxResults": len(name)}),
        ("DeleteOauth2CredentialProvider", {"name": name}),
    ]
