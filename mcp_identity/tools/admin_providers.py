"""Admin tools for credential providers. A secret comes by reference alone: the server reads it where its operator said."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from mcp.types import CallToolResult

from mcp_identity.domain.errors import InvalidRequest
from mcp_identity.domain.identity import RESOURCE_NAME_RULE, is_resource_name
from mcp_identity.tools import admin_arguments as given
from mcp_identity.tools import hints
from mcp_identity.tools.admin_results import (
    AllProvidersResult,
    EndedItem,
    EndedResult,
    ProviderFacts,
    ProviderResult,
    issuer_names,
    provider_facts,
)
from mcp_identity.tools.admin_texts import DESCRIPTIONS
from mcp_identity.tools.arguments import provider_name
from mcp_identity.tools.results import answer

if TYPE_CHECKING:
    from mcp_identity.broker.broker import Broker
    from mcp_identity.domain.provider import CredentialProvider
    from mcp_identity.tools.edge import IdentityServer


def add(server: IdentityServer, *, allow_http_loopback: bool) -> None:
    """Add them.

    Args:
        server: Serves them to nobody but operators.
        allow_http_loopback: Providers made here may use http on a loopback address.
    """
    _add_looking(server)
    _add_changing(server, allow_http_loopback=allow_http_loopback)


def _add_looking(server: IdentityServer) -> None:
    @server.tool(title="List all providers", description=DESCRIPTIONS["list_all_providers"], annotations=hints.reads())
    async def list_all_providers(  # pyright: ignore[reportUnusedFunction]
        limit: given.Limit = 50,
        page: given.Page = "",
    ) -> Annotated[CallToolResult, AllProvidersResult]:
        broker, call = await server.begin("list_all_providers")
        if page and not is_resource_name(page):
            raise InvalidRequest("page is next_page of the answer before, or empty")
        found = await broker.inventory.providers(call, limit=limit, after=page)
        names = await issuer_names(broker, call.principal.tenant)
        facts = [ProviderFacts.model_validate(await provider_facts(broker, each, names)) for each in found.providers]
        unreadable, following = len(found.corrupt) or None, found.next or None
        return answer(AllProvidersResult(status="ok", providers=facts, unreadable=unreadable, next_page=following))

    @server.tool(title="Show a provider", description=DESCRIPTIONS["get_provider"], annotations=hints.reads())
    async def get_provider(  # pyright: ignore[reportUnusedFunction]
        name: given.ProviderName,
    ) -> Annotated[CallToolResult, ProviderResult]:
        broker, call = await server.begin("get_provider")
        found = await broker.inventory.provider(call, provider_name(name))
        return await _answer(broker, found)


def _add_changing(server: IdentityServer, *, allow_http_loopback: bool) -> None:
    may_be_http = allow_http_loopback

    @server.tool(title="Add a provider", description=DESCRIPTIONS["create_provider"], annotations=hints.makes())
    async def create_provider(  # pyright: ignore[reportUnusedFunction]
        name: given.ProviderName,
        vendor: given.Vendor,
        settings: given.VendorSettings = None,
        client_id: given.ClientId = None,
        client_authentication: given.ClientAuthentication = None,
        secret_reference: given.Secret = None,
        secret_json_key: given.SecretKey = "",
        scopes: given.DefaultScopes = None,
        release: given.Release = None,
        api_hosts: given.ApiHosts = None,
        subject_issuers: given.SubjectIssuers = None,
        allow_http_loopback: given.HttpLoopback = None,
        disabled: given.Disabled = None,
        tags: given.Tags = None,
    ) -> Annotated[CallToolResult, ProviderResult]:
        from mcp_identity.broker.answers import ProviderSpec

        broker, call = await server.begin("create_provider")
        if not is_resource_name(name):
            raise InvalidRequest(RESOURCE_NAME_RULE)
        given.check_http_loopback(allow_http_loopback, allowed=may_be_http)
        spec = ProviderSpec(
            vendor=given.word("vendor", vendor),
            settings=given.settings_of(settings),
            client_id=client_id,
            client_authentication=client_authentication,
            secret_reference=given.secret_reference(secret_reference, secret_json_key),
            scopes=given.several(scopes),
            release=release,
            api_hosts=given.several(api_hosts),
            subject_issuers=given.several(subject_issuers),
            allow_http_loopback=allow_http_loopback,
            disabled=disabled,
            tags=given.tags_of(tags),
        )
        return await _answer(broker, await broker.directory.add(call, name, spec))

    @server.tool(title="Change a provider", description=DESCRIPTIONS["update_provider"], annotations=hints.changes())
    async def update_provider(  # pyright: ignore[reportUnusedFunction]
        name: given.ProviderName,
        settings: given.VendorSettings = None,
        client_id: given.ClientId = None,
        client_authentication: given.ClientAuthentication = None,
        secret_reference: given.Secret = None,
        secret_json_key: given.SecretKey = "",
        scopes: given.DefaultScopes = None,
        release: given.Release = None,
        api_hosts: given.ApiHosts = None,
        subject_issuers: given.SubjectIssuers = None,
        allow_http_loopback: given.HttpLoopback = None,
        disabled: given.Disabled = None,
        tags: given.Tags = None,
    ) -> Annotated[CallToolResult, ProviderResult]:
        from mcp_identity.broker.answers import ProviderSpec

        broker, call = await server.begin("update_provider")
        given.check_http_loopback(allow_http_loopback, allowed=may_be_http)
        spec = ProviderSpec(
            settings=given.settings_of(settings),
            client_id=client_id,
            client_authentication=client_authentication,
            secret_reference=given.secret_reference(secret_reference, secret_json_key),
            scopes=given.several(scopes),
            release=release,
            api_hosts=given.several(api_hosts),
            subject_issuers=given.several(subject_issuers),
            allow_http_loopback=allow_http_loopback,
            disabled=disabled,
            tags=given.tags_of(tags),
        )
        changed, cleared = await broker.directory.update(call, provider_name(name), spec)
        return await _answer(broker, changed, secret_cleared=cleared)

    @server.tool(title="Remove a provider", description=DESCRIPTIONS["delete_provider"], annotations=hints.revokes())
    async def delete_provider(  # pyright: ignore[reportUnusedFunction]
        name: given.ProviderName,
    ) -> Annotated[CallToolResult, EndedResult]:
        broker, call = await server.begin("delete_provider")
        ended = await broker.directory.remove(call, provider_name(name))
        items = [EndedItem(provider=each.provider, flow=each.flow.value, at_vendor=each.at_vendor) for each in ended]
        return answer(EndedResult(status="ok", name=name, revoked=items))


async def _answer(broker: Broker, provider: CredentialProvider, *, secret_cleared: bool | None = None) -> CallToolResult:
    facts = await provider_facts(broker, provider, await issuer_names(broker, provider.tenant))
    return answer(ProviderResult.model_validate({"status": "ok", "secret_cleared": secret_cleared, **facts}))
