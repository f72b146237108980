"""API key credential providers, as operators manage them over this edge.

A key is kept here, or read from a place that an operator of this server listed; either way it leaves to agent code alone, as a
handle over MCP. Where the key goes in a request, for `call_api`, is said on the command line or with the admin tools.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mcp_identity.agentcore.arns import Kind, arn
from mcp_identity.agentcore.errors import Fields
from mcp_identity.agentcore.given_secrets import GivenSecret, Names, given_secret, told_secret
from mcp_identity.agentcore.operations import control
from mcp_identity.agentcore.paging import next_token, page_after
from mcp_identity.agentcore.shapes_providers import (
    ApiKeyCreated,
    ApiKeyCreation,
    ApiKeyItem,
    ApiKeyListing,
    ApiKeyPage,
    ApiKeyShown,
    ApiKeyUpdate,
    NamedProvider,
)
from mcp_identity.agentcore.times import times
from mcp_identity.broker.answers import ProviderSpec
from mcp_identity.domain.provider import ProviderKind, Release

if TYPE_CHECKING:
    from mcp_identity.agentcore.asker import Asker
    from mcp_identity.agentcore.operations import Edge
    from mcp_identity.domain.provider import CredentialProvider

PAGE = 100
KIND = ProviderKind.API_KEY
_LIST = "ListApiKeyCredentialProviders"
_NAMES = Names("apiKey", "apiKeySecretConfig", "apiKeySecretSource")


async def create(edge: Edge, asker: Asker, given: ApiKeyCreation) -> ApiKeyCreated:
    """Add a key."""
    call = asker.call("create_provider")
    secret = _secret(given)
    if not secret.is_there:
        raise Fields((_NAMES.value, "is required; one that stands in for it can be replaced later"))
    spec = ProviderSpec(
        vendor=KIND.value,
        secret=secret.value,
        secret_reference=secret.reference,
        release=Release.HANDLE.value,
        tags=tuple((given.tags or {}).items()),
    )
    provider = await edge.broker.directory.add(call, given.name, spec)
    return ApiKeyCreated(**_members(asker, provider))


async def get(edge: Edge, asker: Asker, given: NamedProvider) -> ApiKeyShown:
    """Show a provider; its key is not shown."""
    return _shown(asker, await edge.broker.inventory.provider(asker.call("get_provider"), given.name, KIND))


async def update(edge: Edge, asker: Asker, given: ApiKeyUpdate) -> ApiKeyShown:
    """Replace a key; where none is given, the one before stays."""
    call = asker.call("update_provider")
    secret = _secret(given)
    spec = ProviderSpec(secret=secret.value, secret_reference=secret.reference)
    provider, _ = await edge.broker.directory.update(call, given.name, spec, KIND)
    return _shown(asker, provider)


async def delete(edge: Edge, asker: Asker, given: NamedProvider) -> None:
    """Remove a provider with its key."""
    await edge.broker.directory.remove(asker.call("delete_provider"), given.name, KIND)


async def list_page(edge: Edge, asker: Asker, given: ApiKeyListing) -> ApiKeyPage:
    """One page of the providers."""
    call = asker.call("list_providers")
    after = page_after(_LIST, asker.tenant, given.next_token)
    found = await edge.broker.inventory.providers(call, KIND, limit=given.max_results or PAGE, after=after)
    return ApiKeyPage(
        credential_providers=[
            ApiKeyItem(
                name=each.name,
                credential_provider_arn=arn(Kind.API_KEY, asker.region, each.name),
                created_time=times(each)[0],
                last_updated_time=times(each)[1],
            )
            for each in found.providers
        ],
        next_token=next_token(_LIST, asker.tenant, found.next),
    )


def _secret(given: ApiKeyUpdate) -> GivenSecret:
    return given_secret(_NAMES, given.api_key, given.api_key_secret_config, given.api_key_secret_source)


def _shown(asker: Asker, provider: CredentialProvider) -> ApiKeyShown:
    made, changed = times(provider)
    return ApiKeyShown(**_members(asker, provider), created_time=made, last_updated_time=changed)


def _members(asker: Asker, provider: CredentialProvider) -> dict[str, Any]:
    secret = told_secret(Kind.API_KEY, asker.region, provider)
    return {
        "name": provider.name,
        "credential_provider_arn": arn(Kind.API_KEY, asker.region, provider.name),
        "api_key_secret_arn": secret.arn,
        "api_key_secret_json_key": secret.json_key,
        "api_key_secret_source": secret.source,
    }


OPERATIONS = (
    control("CreateApiKeyCredentialProvider", "create_provider", ApiKeyCreation, create, success=201),
    control("GetApiKeyCredentialProvider", "get_provider", NamedProvider, get),
    control("UpdateApiKeyCredentialProvider", "update_provider", ApiKeyUpdate, update),
    control("DeleteApiKeyCredentialProvider", "delete_provider", NamedProvider, delete, success=204),
    control(_LIST, "list_providers", ApiKeyListing, list_page),
)
