"""The MCP edge: tools, resources and the prompt, for every protocol version that the SDK serves.

It says what can be asked, and decides nothing; `edge.py` maps what fails. No vault is imported here, so that `tools/list`
is answered before the heavy libraries are loaded. Arguments are the model's and are trusted for nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated

from mcp.types import CallToolResult, ToolAnnotations
from pydantic import Field
from pydantic.json_schema import SkipJsonSchema

from mcp_identity.domain.errors import UnknownProvider, clean_text
from mcp_identity.domain.identity import is_name
from mcp_identity.tools import results
from mcp_identity.tools.caller import StdioCaller
from mcp_identity.tools.edge import IdentityServer
from mcp_identity.tools.texts import CONNECT_ACCOUNT, DESCRIPTIONS

if TYPE_CHECKING:
    from mcp_identity.broker.answers import TokenRequest

Provider = Annotated[str, Field(description="the name of a credential provider, from list_providers")]
Scopes = Annotated[list[str], Field(description="scopes that are needed, one per item; leave empty for the provider's own")]
Flow = Annotated[str, Field(description="M2M or USER_FEDERATION; leave empty where the provider offers only one")]
Resource = Annotated[str, Field(description="RFC 8707 resource: the absolute URI of the API that the token is for")]
Audience = Annotated[str, Field(description="audience, for authorization servers that take one")]
Lifetime = Annotated[
    int | SkipJsonSchema[None],
    Field(description="seconds that the token must still live", ge=0, le=86_400, json_schema_extra=results.without_default),
]
SessionUri = Annotated[str, Field(description="the session_uri of a consent, from get_token or start_consent")]
ReturnUrl = Annotated[str, Field(description="where the browser goes at the end; only URLs registered for this agent")]
CustomState = Annotated[str, Field(description="handed back at the return_url")]
Parameters = Annotated[dict[str, str], Field(description="further authorization parameters that this provider lets agents set")]


def build_server(caller: StdioCaller, *, version: str, listed: Callable[[], None] = lambda: None) -> IdentityServer:
    """Make the server with the tools that agents need.

    Args:
        caller: Who is calling, and the broker behind.
        version: Of the product.
        listed: Told when the list of tools was read.
    """
    server = IdentityServer(caller, version, listed)
    _add_token_tools(server)
    _add_consent_tools(server)
    _add_grant_tools(server)
    _add_resources(server)
    return server


def _add_token_tools(server: IdentityServer) -> None:
    @server.tool(title="List providers", description=DESCRIPTIONS["list_providers"], annotations=_reads())
    async def list_providers() -> Annotated[CallToolResult, results.ProvidersResult]:  # pyright: ignore[reportUnusedFunction]
        broker, call = await server.begin("list_providers")
        return results.answer(results.providers_result(await broker.list_providers(call)))

    @server.tool(title="Get an access token", description=DESCRIPTIONS["get_token"], annotations=_obtains())
    async def get_token(  # pyright: ignore[reportUnusedFunction]
        provider: Provider,
        scopes: Scopes = [],  # noqa: B006 - the schema's default; never changed
        flow: Flow = "",
        resource: Resource = "",
        audience: Audience = "",
        minimum_lifetime_seconds: Lifetime = None,
        session_uri: SessionUri = "",
        return_url: ReturnUrl = "",
        custom_state: CustomState = "",
        custom_parameters: Parameters = {},  # noqa: B006 - likewise
    ) -> Annotated[CallToolResult, results.TokenResult]:
        broker, call = await server.begin("get_token")
        request = _request(
            provider, scopes, flow, resource, audience, minimum_lifetime_seconds, session_uri, return_url, custom_state,
            custom_parameters,
        )  # fmt: skip
        outcome = await broker.get_token(call, request)
        from mcp_identity.broker.answers import ConsentRequired

        if isinstance(outcome, ConsentRequired):
            return results.consent_answer(outcome, results.TokenResult)
        return results.token_answer(outcome)

    @server.tool(title="Get an API key", description=DESCRIPTIONS["get_api_key"], annotations=_obtains())
    async def get_api_key(  # pyright: ignore[reportUnusedFunction]
        provider: Provider,
    ) -> Annotated[CallToolResult, results.ApiKeyResult]:
        broker, call = await server.begin("get_api_key")
        return results.api_key_answer(await broker.get_api_key(call, _name(provider)))


def _add_consent_tools(server: IdentityServer) -> None:
    @server.tool(title="Start a fresh consent", description=DESCRIPTIONS["start_consent"], annotations=_starts())
    async def start_consent(  # pyright: ignore[reportUnusedFunction]
        provider: Provider,
        scopes: Scopes = [],  # noqa: B006 - the schema's default; never changed
        flow: Flow = "",
        resource: Resource = "",
        audience: Audience = "",
        minimum_lifetime_seconds: Lifetime = None,
        session_uri: SessionUri = "",
        return_url: ReturnUrl = "",
        custom_state: CustomState = "",
        custom_parameters: Parameters = {},  # noqa: B006 - likewise
    ) -> Annotated[CallToolResult, results.ConsentResult]:
        broker, call = await server.begin("start_consent")
        request = _request(
            provider, scopes, flow, resource, audience, minimum_lifetime_seconds, session_uri, return_url, custom_state,
            custom_parameters,
        )  # fmt: skip
        return results.consent_answer(await broker.start_consent(call, request), results.ConsentResult)

    @server.tool(title="Where a consent stands", description=DESCRIPTIONS["get_consent"], annotations=_reads())
    async def get_consent(  # pyright: ignore[reportUnusedFunction]
        session_uri: SessionUri,
        wait_seconds: Annotated[int, Field(description="wait up to so long until it ends; 0 to 50", ge=0, le=50)] = 0,
    ) -> Annotated[CallToolResult, results.ConsentStatusResult]:
        broker, call = await server.begin("get_consent")
        return results.consent_status_answer(await broker.get_consent(call, session_uri, wait_seconds))


def _add_grant_tools(server: IdentityServer) -> None:
    @server.tool(title="List grants", description=DESCRIPTIONS["list_grants"], annotations=_reads())
    async def list_grants() -> Annotated[CallToolResult, results.GrantsResult]:  # pyright: ignore[reportUnusedFunction]
        broker, call = await server.begin("list_grants")
        return results.answer(results.grants_result(await broker.list_grants(call)))

    @server.tool(title="Revoke a grant", description=DESCRIPTIONS["revoke_grant"], annotations=_revokes())
    async def revoke_grant(  # pyright: ignore[reportUnusedFunction]
        provider: Provider,
        flow: Annotated[str, Field(description="only grants of this flow; leave empty for every grant at the provider")] = "",
    ) -> Annotated[CallToolResult, results.RevokeResult]:
        broker, call = await server.begin("revoke_grant")
        return results.revoked_answer(provider, await broker.revoke_grant(call, _name(provider), flow))

    @server.tool(title="Who am I", description=DESCRIPTIONS["whoami"], annotations=_reads())
    async def whoami() -> Annotated[CallToolResult, results.WhoamiResult]:  # pyright: ignore[reportUnusedFunction]
        broker, call = await server.begin("whoami")
        await broker.note(call)
        return results.whoami_answer(call.principal, sorted(DESCRIPTIONS))


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
        return results.providers_result(await broker.list_providers(call)).model_dump_json(exclude_none=True)

    @server.resource(
        "identity://grants",
        name="grants",
        title="Grants",
        description="What the user, and the agent's own client, have granted. No secrets.",
        mime_type="application/json",
    )
    async def grants() -> str:  # pyright: ignore[reportUnusedFunction]
        broker, call = await server.begin("list_grants")
        return results.grants_result(await broker.list_grants(call)).model_dump_json(exclude_none=True)

    @server.prompt("connect-account", title="Connect an account", description="Connect the user's account at a provider.")
    def connect_account(  # pyright: ignore[reportUnusedFunction]
        provider: Annotated[str, Field(description="the credential provider's name")],
    ) -> str:
        return CONNECT_ACCOUNT.format(provider=clean_text(provider, 128))


def _request(
    provider: str,
    scopes: list[str],
    flow: str,
    resource: str,
    audience: str,
    minimum_lifetime_seconds: int | None,
    session_uri: str,
    return_url: str,
    custom_state: str,
    custom_parameters: dict[str, str],
) -> TokenRequest:
    from mcp_identity.broker.answers import TokenRequest

    return TokenRequest(
        provider=_name(provider),
        scopes=tuple(scopes),
        flow=flow,
        resource=resource,
        audience=audience,
        minimum_lifetime_seconds=minimum_lifetime_seconds,
        session_uri=session_uri,
        return_url=return_url,
        custom_state=custom_state,
        custom_parameters=tuple(custom_parameters.items()),
    )


def _name(provider: str) -> str:
    """A name that a provider may have; what cannot be one is not repeated to anybody."""
    if not is_name(provider):
        raise UnknownProvider("there is no credential provider of this name; call list_providers for the names")
    return provider


def _reads() -> ToolAnnotations:
    return ToolAnnotations(read_only_hint=True, open_world_hint=False)


def _obtains() -> ToolAnnotations:
    return ToolAnnotations(read_only_hint=False, destructive_hint=False, idempotent_hint=True, open_world_hint=True)


def _starts() -> ToolAnnotations:
    return ToolAnnotations(read_only_hint=False, destructive_hint=False, idempotent_hint=False, open_world_hint=True)


def _revokes() -> ToolAnnotations:
    return ToolAnnotations(read_only_hint=False, destructive_hint=True, idempotent_hint=True, open_world_hint=True)
