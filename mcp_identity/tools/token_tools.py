"""The tools that give credentials: an access token, or an API key."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any

from mcp.server.mcpserver import Context
from mcp.types import CallToolResult, InputRequiredResult

from mcp_identity.tools import hints, results
from mcp_identity.tools.arguments import (
    Audience,
    CustomState,
    Flow,
    Lifetime,
    Parameters,
    Provider,
    Resource,
    ReturnUrl,
    Scopes,
    SessionUri,
    provider_name,
    token_request,
)
from mcp_identity.tools.elicitation import Asked, Rounds
from mcp_identity.tools.texts import DESCRIPTIONS

if TYPE_CHECKING:
    from mcp_identity.tools.edge import IdentityServer


def add(server: IdentityServer) -> None:
    """Add them."""

    @server.tool(title="Get an access token", description=DESCRIPTIONS["get_token"], annotations=hints.obtains())
    async def get_token(  # pyright: ignore[reportUnusedFunction]
        context: Context[Any, Any],
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
    ) -> Annotated[CallToolResult, results.TokenResult] | InputRequiredResult:
        broker, call = await server.begin("get_token")
        rounds = Rounds(context)
        request = token_request(
            provider, scopes, flow, resource, audience, minimum_lifetime_seconds, session_uri, return_url, custom_state,
            custom_parameters, elicits=rounds.offered,
        )  # fmt: skip
        asked = await rounds.resume(broker, call)
        if isinstance(asked, InputRequiredResult):
            return asked
        if isinstance(asked, Asked):
            if asked.user_action:
                return results.consent_answer(asked.required, results.TokenResult, asked.user_action)
            request = replace(request, session_uri=asked.required.session_uri)
        outcome = await broker.get_token(call, request)
        from mcp_identity.broker.answers import ConsentRequired

        if isinstance(outcome, ConsentRequired):
            return rounds.ask(outcome, broker) or results.consent_answer(outcome, results.TokenResult)
        return results.token_answer(outcome)

    @server.tool(title="Get an API key", description=DESCRIPTIONS["get_api_key"], annotations=hints.obtains())
    async def get_api_key(  # pyright: ignore[reportUnusedFunction]
        provider: Provider,
    ) -> Annotated[CallToolResult, results.ApiKeyResult]:
        broker, call = await server.begin("get_api_key")
        return results.api_key_answer(await broker.get_api_key(call, provider_name(provider)))
