"""The MCP edge: tools, resources and the prompt, for every protocol version that the SDK serves.

It says what can be asked, and decides nothing; `edge.py` maps what fails. No vault is imported here, so that `tools/list`
is answered before the heavy libraries are loaded. Arguments are the model's and are trusted for nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

from mcp.types import CallToolResult

from mcp_identity.domain.errors import clean_text
from mcp_identity.tools import call_api, consent_tools, hints, listings, results, token_tools, workload_tools
from mcp_identity.tools.arguments import GrantFlow, PromptProvider, Provider, provider_name
from mcp_identity.tools.caller import Caller
from mcp_identity.tools.edge import IdentityServer
from mcp_identity.tools.scopes import is_of_use
from mcp_identity.tools.texts import CONNECT_ACCOUNT, DESCRIPTIONS


def build_server(
    caller: Caller,
    *,
    version: str,
    listed: Callable[[], None] | None = None,
    remote: bool = False,
    issues_identity_tokens: bool = False,
    admin: bool = False,
    allow_http_loopback: bool = False,
) -> IdentityServer:
    """Make the server with the tools that agents need, and those of operators where it is to have them.

    Args:
        caller: Who is calling, and the broker behind.
        version: Of the product.
        listed: Told when the list of tools was read.
        remote: Callers prove who they are, so there are tools that need such a proof; elsewhere they do not exist.
        issues_identity_tokens: Others can fetch the keys that verify our identity tokens.
        admin: There are tools for operators; nobody else sees them.
        allow_http_loopback: What those make may use http on a loopback address.
    """
    server = IdentityServer(caller, version, listed)
    _add_looking_tools(server)
    token_tools.add(server)
    consent_tools.add(server)
    call_api.add(server)
    if remote:
        consent_tools.add_completion(server)
        workload_tools.add_workload_tokens(server)
    if remote and issues_identity_tokens:
        workload_tools.add_identity_tokens(server)
    if admin:
        from mcp_identity.tools import admin as admin_tools  # few servers have them, and start-up is on the person's clock

        admin_tools.add(server, allow_http_loopback=allow_http_loopback)
    _add_resources(server)
    return server


def _add_looking_tools(server: IdentityServer) -> None:
    @server.tool(title="List providers", description=DESCRIPTIONS["list_providers"], annotations=hints.reads())
    async def list_providers() -> Annotated[CallToolResult, listings.ProvidersResult]:  # pyright: ignore[reportUnusedFunction]
        broker, call = await server.begin("list_providers")
        return results.answer(listings.providers_result(await broker.list_providers(call)))

    @server.tool(title="List grants", description=DESCRIPTIONS["list_grants"], annotations=hints.reads())
    async def list_grants() -> Annotated[CallToolResult, listings.GrantsResult]:  # pyright: ignore[reportUnusedFunction]
        broker, call = await server.begin("list_grants")
        return results.answer(listings.grants_result(await broker.list_grants(call)))

    @server.tool(title="Revoke a grant", description=DESCRIPTIONS["revoke_grant"], annotations=hints.revokes())
    async def revoke_grant(  # pyright: ignore[reportUnusedFunction]
        provider: Provider,
        flow: GrantFlow = "",
    ) -> Annotated[CallToolResult, listings.RevokeResult]:
        broker, call = await server.begin("revoke_grant")
        return listings.revoked_answer(provider, await broker.revoke_grant(call, provider_name(provider), flow))

    @server.tool(title="Who am I", description=DESCRIPTIONS["whoami"], annotations=hints.reads())
    async def whoami() -> Annotated[CallToolResult, listings.WhoamiResult]:  # pyright: ignore[reportUnusedFunction]
        broker, call = await server.begin("whoami")
        await broker.note(call)
        may = [tool.name for tool in await server.list_tools() if is_of_use(call.principal, tool.name)]
        return listings.whoami_answer(call.principal, sorted(may))


def _add_resources(server: IdentityServer) -> None:
    @server.resource(
        "identity://providers",
        name="providers",
        title="Credential providers",
        description="The credential providers that this agent may use, and what is granted already. No secrets.",
        mime_type="application/json",
    )
    async def providers() -> str:  # pyright: ignore[reportUnusedFunction]
        broker, call = await server.begin("list_providers")
        return listings.providers_result(await broker.list_providers(call)).model_dump_json(exclude_none=True)

    @server.resource(
        "identity://grants",
        name="grants",
        title="Grants",
        description="What the user, and the agent's own client, have granted. No secrets.",
        mime_type="application/json",
    )
    async def grants() -> str:  # pyright: ignore[reportUnusedFunction]
        broker, call = await server.begin("list_grants")
        return listings.grants_result(await broker.list_grants(call)).model_dump_json(exclude_none=True)

    @server.prompt("connect-account", title="Connect an account", description="Connect the user's account at a provider.")
    def connect_account(provider: PromptProvider) -> str:  # pyright: ignore[reportUnusedFunction]
        return CONNECT_ACCOUNT.format(provider=clean_text(provider, 128))
