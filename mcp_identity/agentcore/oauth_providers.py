"""OAuth2 credential providers, as operators manage them over this edge.

A request names a vendor and gives its block; both are what the vendor's own file says, so nothing here knows any vendor. What
can be said of a provider in no block (its scopes, its API hosts, how its tokens may leave over MCP) is said on the command line
or with the admin tools and stays as it is. What is created here may leave to agent code alone, as a handle over MCP.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mcp_identity.agentcore.arns import Kind, arn
from mcp_identity.agentcore.custom_provider import (
    custom_authentication,
    custom_output,
    custom_settings,
    discovery_of,
    forgotten_settings,
)
from mcp_identity.agentcore.errors import Fields
from mcp_identity.agentcore.given_secrets import GivenSecret, Names, given_secret, told_secret
from mcp_identity.agentcore.operations import control
from mcp_identity.agentcore.paging import next_token, page_after
from mcp_identity.agentcore.shapes_providers import (
    ClientConfig,
    ConfigOutput,
    CustomConfig,
    NamedProvider,
    OAuthProviderCreated,
    OAuthProviderCreation,
    OAuthProviderItem,
    OAuthProviderListing,
    OAuthProviderPage,
    OAuthProviderShown,
    OAuthProviderUpdate,
)
from mcp_identity.agentcore.times import times
from mcp_identity.broker.answers import ProviderSpec
from mcp_identity.broker.catalogue import find_agentcore_vendor, get_definition
from mcp_identity.broker.directory import EVERY_ISSUER
from mcp_identity.domain.credentials import Flow
from mcp_identity.domain.provider import ProviderKind, Release

if TYPE_CHECKING:
    from mcp_identity.agentcore.asker import Asker
    from mcp_identity.agentcore.operations import Edge
    from mcp_identity.domain.provider import CredentialProvider, ProviderDefinition

PAGE = 20
KIND = ProviderKind.OAUTH2
_LIST = "ListOauth2CredentialProviders"
_CUSTOM, _CUSTOM_CONFIG = "CustomOauth2", "customOauth2ProviderConfig"
"""What a provider is called whose vendor has no name in the service model."""
_VENDOR, _INPUT = "credentialProviderVendor", "oauth2ProviderConfigInput"


async def create(edge: Edge, asker: Asker, given: OAuthProviderCreation) -> OAuthProviderCreated:
    """Add a provider."""
    call = asker.call("create_provider")
    definition, name, block = _described(given)
    secret = _secret(name, block)
    if not block.client_id:
        raise Fields((f"{_INPUT}.{name}.clientId", "is required; one that stands in for it can be replaced later"))
    if not secret.is_there:
        raise Fields((f"{_INPUT}.{name}.clientSecret", "is required; one that stands in for it can be replaced later"))
    spec = ProviderSpec(
        vendor=definition.name,
        settings=_settings(definition, name, block),
        client_id=block.client_id,
        client_authentication=_authentication(name, block),
        secret=secret.value,
        secret_reference=secret.reference,
        subject_issuers=_subject_issuers(definition, block),
        release=Release.HANDLE.value,
        allow_http_loopback=edge.allow_http_loopback,
        tags=tuple((given.tags or {}).items()),
    )
    return _created(edge, asker, await edge.broker.directory.add(call, given.name, spec))


async def get(edge: Edge, asker: Asker, given: NamedProvider) -> OAuthProviderShown:
    """Show a provider."""
    return _shown(edge, asker, await edge.broker.inventory.provider(asker.call("get_provider"), given.name, KIND))


async def update(edge: Edge, asker: Asker, given: OAuthProviderUpdate) -> OAuthProviderShown:
    """Replace what a block says of a provider.

    The secret stays where none is given; where the provider now has other endpoints, one is needed, since the old one is not
    sent elsewhere than it was given for.
    """
    call = asker.call("update_provider")
    definition, name, block = _described(given)
    secret = _secret(name, block)
    if not block.client_id:
        raise Fields((f"{_INPUT}.{name}.clientId", "is required"))
    settings = _replaced(definition, _settings(definition, name, block))
    before = await edge.broker.directory.find(asker.tenant, given.name)
    if before is not None and isinstance(block, CustomConfig):
        settings |= forgotten_settings(before, block)
    spec = ProviderSpec(
        vendor=definition.name,
        settings=settings,
        client_id=block.client_id,
        client_authentication=_authentication(name, block),
        secret=secret.value,
        secret_reference=secret.reference,
        subject_issuers=_subject_issuers(definition, block),
    )
    provider, _ = await edge.broker.directory.update(call, given.name, spec, KIND)
    return _shown(edge, asker, provider)


async def delete(edge: Edge, asker: Asker, given: NamedProvider) -> None:
    """Remove a provider with its secret and every grant at it; the grants are revoked at the vendor."""
    await edge.broker.directory.remove(asker.call("delete_provider"), given.name, KIND)


async def list_page(edge: Edge, asker: Asker, given: OAuthProviderListing) -> OAuthProviderPage:
    """One page of the providers."""
    call = asker.call("list_providers")
    after = page_after(_LIST, asker.tenant, given.next_token)
    found = await edge.broker.inventory.providers(call, KIND, limit=given.max_results or PAGE, after=after)
    return OAuthProviderPage(
        credential_providers=[
            OAuthProviderItem(
                name=each.name,
                credential_provider_vendor=_vendor(each),
                credential_provider_arn=arn(Kind.OAUTH2, asker.region, each.name),
                created_time=times(each)[0],
                last_updated_time=times(each)[1],
            )
            for each in found.providers
        ],
        next_token=next_token(_LIST, asker.tenant, found.next),
    )


def _described(given: OAuthProviderUpdate) -> tuple[ProviderDefinition, str, ClientConfig]:
    """The vendor, and its block with the name of it.

    Raises:
        Fields: If there is no such vendor, or the block is another one's.
    """
    definition = find_agentcore_vendor(given.credential_provider_vendor)
    if definition is None:
        raise Fields((_VENDOR, "is none of the vendors of the service model"))
    name, block = given.oauth2_provider_config_input.given()
    if name != definition.agentcore_config:
        raise Fields((_INPUT, f"{definition.agentcore_vendor} is described by {definition.agentcore_config}"))
    return definition, name, block


def _secret(name: str, block: ClientConfig) -> GivenSecret:
    prefix = f"{_INPUT}.{name}.clientSecret"
    names = Names(prefix, f"{prefix}Config", f"{prefix}Source")
    return given_secret(names, block.client_secret, block.client_secret_config, block.client_secret_source)


def _authentication(name: str, block: ClientConfig) -> str | None:
    return custom_authentication(f"{_INPUT}.{name}", block) if isinstance(block, CustomConfig) else None


def _settings(definition: ProviderDefinition, name: str, block: ClientConfig) -> dict[str, str]:
    """What a block sets of what the vendor's file leaves open.

    Raises:
        Fields: If this vendor has no such thing.
    """
    if isinstance(block, CustomConfig):
        return custom_settings(f"{_INPUT}.{name}", block)
    common = ClientConfig.model_fields.keys()
    said = {
        str(field.alias): str(getattr(block, member))
        for member, field in type(block).model_fields.items()
        if member not in common and getattr(block, member)
    }
    for member in said:
        if member not in definition.agentcore_settings:
            raise Fields(
                (f"{_INPUT}.{name}.{member}", f"{definition.agentcore_vendor} has no authorization server of one's own")
            )
    settings = {
        **definition.agentcore_defaults,
        **{definition.agentcore_settings[member]: value for member, value in said.items()},
    }
    if not said and any(each.default is None and field not in settings for field, each in definition.settings.items()):
        raise Fields(
            (
                f"{_INPUT}.{name}.issuer",
                f"{definition.title} is at each customer's own address: give it, or authorizationEndpoint and tokenEndpoint",
            )
        )
    return settings


def _replaced(definition: ProviderDefinition, settings: dict[str, str]) -> dict[str, str]:
    """What is set, and all else that a block can set as if it never had been."""
    defaults = {field: definition.settings[field].default for field in definition.agentcore_settings.values()}
    return {**{field: default for field, default in defaults.items() if default is not None}, **settings}


def _subject_issuers(definition: ProviderDefinition, block: ClientConfig) -> tuple[str, ...] | None:
    """Whose users' tokens may be exchanged: where anybody's may, those of every issuer that the tenant trusts now.

    A list that is there already stays: an operator may have narrowed it, which no block can say.
    """
    if isinstance(block, CustomConfig):
        return EVERY_ISSUER if block.on_behalf_of_token_exchange_config is not None else ()
    return EVERY_ISSUER if Flow.ON_BEHALF_OF_TOKEN_EXCHANGE in definition.flows else None


def _vendor(provider: CredentialProvider) -> str:
    return get_definition(provider.vendor).agentcore_vendor or _CUSTOM


def _created(edge: Edge, asker: Asker, provider: CredentialProvider) -> OAuthProviderCreated:
    return OAuthProviderCreated(**_members(edge, asker, provider))


def _shown(edge: Edge, asker: Asker, provider: CredentialProvider) -> OAuthProviderShown:
    made, changed = times(provider)
    return OAuthProviderShown(
        **_members(edge, asker, provider),
        credential_provider_vendor=_vendor(provider),
        created_time=made,
        last_updated_time=changed,
    )


def _members(edge: Edge, asker: Asker, provider: CredentialProvider) -> dict[str, Any]:
    secret = told_secret(Kind.OAUTH2, asker.region, provider)
    return {
        "name": provider.name,
        "credential_provider_arn": arn(Kind.OAUTH2, asker.region, provider.name),
        "client_secret_arn": secret.arn,
        "client_secret_json_key": secret.json_key,
        "client_secret_source": secret.source,
        "callback_url": edge.broker.directory.redirect_uri(provider),
        "oauth2_provider_config_output": _output(provider),
    }


def _output(provider: CredentialProvider) -> dict[str, ConfigOutput]:
    name = get_definition(provider.vendor).agentcore_config or _CUSTOM_CONFIG
    if name == _CUSTOM_CONFIG:
        return {name: custom_output(provider)}
    return {name: ConfigOutput(oauth_discovery=discovery_of(provider), client_id=provider.client_id or None)}


OPERATIONS = (
    control("CreateOauth2CredentialProvider", "create_provider", OAuthProviderCreation, create, success=201),
    control("GetOauth2CredentialProvider", "get_provider", NamedProvider, get),
    control("UpdateOauth2CredentialProvider", "update_provider", OAuthProviderUpdate, update),
    control("DeleteOauth2CredentialProvider", "delete_provider", NamedProvider, delete, success=204),
    control(_LIST, "list_providers", OAuthProviderListing, list_page),
)
