"""The MCP edge: tools, resources and the prompt, for every protocol version that the SDK serves.

It says what can be asked and maps answers and errors; it decides nothing. No vault is imported here, so that `tools/list`
is answered before the heavy libraries are loaded. Arguments are the model's and are trusted for nothing.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from difflib import get_close_matches
from typing import TYPE_CHECKING, Annotated, Any

from mcp import MCPError
from mcp.server import MCPServer
from mcp.server.caching import CacheHint
from mcp.server.mcpserver import Context
from mcp.server.mcpserver.exceptions import ToolError, UnexpectedToolError
from mcp.types import INVALID_PARAMS, CallToolResult, InputRequiredResult, ToolAnnotations
from pydantic import Field, ValidationError

from mcp_identity.domain.errors import IdentityError, InvalidRequest, clean_text
from mcp_identity.tools import results
from mcp_identity.tools.caller import StdioCaller, note_client
from mcp_identity.tools.texts import CONNECT_ACCOUNT, DESCRIPTIONS, INSTRUCTIONS

if TYPE_CHECKING:
    from mcp_identity.broker.answers import TokenRequest
    from mcp_identity.broker.audit import Call
    from mcp_identity.broker.broker import Broker

log = logging.getLogger(__name__)
_correlation: ContextVar[str] = ContextVar("correlation", default="")

Provider = Annotated[str, Field(description="the name of a credential provider, from list_providers")]
Scopes = Annotated[list[str], Field(description="scopes that are needed, one per item; leave empty for the provider's own")]
Flow = Annotated[str, Field(description="M2M or USER_FEDERATION; leave empty where the provider offers only one")]
Resource = Annotated[str, Field(description="RFC 8707 resource: the absolute URI of the API that the token is for")]
Audience = Annotated[str, Field(description="audience, for authorization servers that take one")]
Lifetime = Annotated[int | None, Field(description="seconds that the token must still live", ge=0, le=86_400)]
SessionUri = Annotated[str, Field(description="the session_uri of a consent, from get_token or start_consent")]
ReturnUrl = Annotated[str, Field(description="where the browser goes at the end; only URLs registered for this agent")]
CustomState = Annotated[str, Field(description="handed back at the return_url")]
Parameters = Annotated[dict[str, str], Field(description="further authorization parameters that this provider lets agents set")]


class IdentityServer(MCPServer[Any]):
    """An MCPServer that refuses what it does not know, and maps every failure in one place."""

    def __init__(self, caller: StdioCaller, version: str, handled: Callable[[], None]) -> None:
        """Name the server and its caller; `build_server` adds the tools."""
        super().__init__(
            "mcp-identity",
            title="Identity for agents",
            instructions=INSTRUCTIONS,
            version=version,
            log_level="WARNING",
            cache_hints={"tools/list": CacheHint(60_000, "private"), "prompts/list": CacheHint(60_000, "private")},
            middleware=[note_client, _tell_when_listed(handled)],
        )
        self._caller = caller

    async def begin(self, action: str) -> tuple[Broker, Call]:
        """Begin a call of the verified principal."""
        broker, call = await self._caller.begin(action)
        _correlation.set(call.correlation_id)
        return broker, call

    async def call_tool(
        self, name: str, arguments: dict[str, Any], context: Context[Any, Any] | None = None
    ) -> CallToolResult | InputRequiredResult:
        """Call a tool; whatever fails becomes a tool error in the arm that its output schema has."""
        tool = next((tool for tool in await self.list_tools() if tool.name == name), None)
        if tool is None:
            raise MCPError(INVALID_PARAMS, f"Unknown tool: {clean_text(name, 64)}")
        token = _correlation.set("")
        try:
            known: dict[str, Any] = tool.input_schema.get("properties", {})
            unknown = [argument for argument in arguments if argument not in known]
            if unknown:
                return await self._refused(name, _misspelt(unknown[0], list(known)))
            return await super().call_tool(name, arguments, context)
        except ToolError as error:
            return await self._failed(name, error)
        finally:
            _correlation.reset(token)

    async def _failed(self, name: str, error: ToolError) -> CallToolResult:
        cause = error.__cause__
        if isinstance(cause, IdentityError):
            return results.error_answer(cause, _correlation.get())
        if isinstance(cause, ValidationError) and not isinstance(error, UnexpectedToolError):
            found = cause.errors(include_input=False, include_url=False, include_context=False)
            what = "; ".join(f"{'.'.join(map(str, each['loc'])) or 'arguments'}: {each['type']}" for each in found[:8])
            return await self._refused(name, InvalidRequest(f"the arguments do not fit: {what}"))
        log.error("the tool %s failed unexpectedly (%s)", name, type(cause).__name__)
        return results.error_answer(IdentityError("the server failed; its log knows more"), _correlation.get())

    async def _refused(self, name: str, error: IdentityError) -> CallToolResult:
        """Refuse a call whose arguments do not fit; the trail knows of it too."""
        try:
            broker, call = await self.begin(name)
            await broker.refuse(call, error)
        except IdentityError as failed:
            return results.error_answer(failed, _correlation.get())
        return results.error_answer(error, call.correlation_id)


def _misspelt(argument: str, known: list[str]) -> InvalidRequest:
    near = get_close_matches(argument[:64], known, n=1)
    hint = f"did you mean {near[0]}?" if near else f"its arguments are: {', '.join(known) or 'none'}"
    return InvalidRequest(f"there is no argument {clean_text(argument, 64)!r}; {hint}")


def _tell_when_listed(handled: Callable[[], None]) -> Any:
    async def middleware(ctx: Any, call_next: Callable[[Any], Awaitable[Any]]) -> Any:
        answer = await call_next(ctx)
        if ctx.method == "tools/list":
            handled()
        return answer

    return middleware


def build_server(caller: StdioCaller, *, version: str, handled: Callable[[], None] = lambda: None) -> IdentityServer:
    """Make the server with the tools that agents need.

    Args:
        caller: Who is calling, and the broker behind.
        version: Of the product.
        handled: Told when a list of tools was answered.
    """
    server = IdentityServer(caller, version, handled)
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
        return results.api_key_answer(await broker.get_api_key(call, provider))


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
        wait_seconds: Annotated[int, Field(description="wait up to so long until it ends; 0 to 50")] = 0,
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
        return results.revoked_answer(provider, await broker.revoke_grant(call, provider, flow))

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
        provider=provider,
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


def _reads() -> ToolAnnotations:
    return ToolAnnotations(read_only_hint=True, open_world_hint=False)


def _obtains() -> ToolAnnotations:
    return ToolAnnotations(read_only_hint=False, destructive_hint=False, idempotent_hint=True, open_world_hint=True)


def _starts() -> ToolAnnotations:
    return ToolAnnotations(read_only_hint=False, destructive_hint=False, idempotent_hint=False, open_world_hint=True)


def _revokes() -> ToolAnnotations:
    return ToolAnnotations(read_only_hint=False, destructive_hint=True, idempotent_hint=True, open_world_hint=True)
