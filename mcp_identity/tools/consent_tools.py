"""The tools that ask a user, and that tell how far that is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from mcp.server.mcpserver import Context
from mcp.types import CallToolResult, InputRequiredResult

from mcp_identity.domain.errors import InvalidRequest
from mcp_identity.tools import hints, results
from mcp_identity.tools.arguments import (
    Audience,
    CompletionUri,
    CustomState,
    Flow,
    Lifetime,
    Parameters,
    Provider,
    Resource,
    ReturnUrl,
    Scopes,
    SessionUri,
    UserId,
    UserToken,
    WaitSeconds,
    token_request,
)
from mcp_identity.tools.elicitation import Asked, Rounds
from mcp_identity.tools.texts import DESCRIPTIONS
from mcp_identity.tools.users import named_user

if TYPE_CHECKING:
    from mcp_identity.tools.edge import IdentityServer


def add(server: IdentityServer) -> None:
    """Add those that every caller has."""

    @server.tool(title="Start a fresh consent", description=DESCRIPTIONS["start_consent"], annotations=hints.starts())
    async def start_consent(  # pyright: ignore[reportUnusedFunction]
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
    ) -> Annotated[CallToolResult, results.ConsentResult] | InputRequiredResult:
        broker, call = await server.begin("start_consent")
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
                return results.consent_answer(asked.required, results.ConsentResult, asked.user_action)
            return results.consent_ended_answer(asked.status, asked.required.session_uri)
        required = await broker.start_consent(call, request)
        return rounds.ask(required, broker) or results.consent_answer(required, results.ConsentResult)

    @server.tool(title="Where a consent stands", description=DESCRIPTIONS["get_consent"], annotations=hints.reads())
    async def get_consent(  # pyright: ignore[reportUnusedFunction]
        session_uri: SessionUri,
        wait_seconds: WaitSeconds = 0,
    ) -> Annotated[CallToolResult, results.ConsentStatusResult]:
        broker, call = await server.begin("get_consent")
        return results.consent_status_answer(await broker.get_consent(call, session_uri, wait_seconds))


def add_completion(server: IdentityServer) -> None:
    """Add the one with which an application finishes a consent that its own endpoint received."""

    @server.tool(title="Complete a consent", description=DESCRIPTIONS["complete_consent"], annotations=hints.obtains())
    async def complete_consent(  # pyright: ignore[reportUnusedFunction]
        session_uri: CompletionUri,
        user_token: UserToken = "",
        user_id: UserId = "",
    ) -> Annotated[CallToolResult, results.ConsentStatusResult]:
        broker, call = await server.begin("complete_consent")
        named = await named_user(server.verifier, call.principal, user_token, user_id)
        if named is None:
            raise InvalidRequest("say who is signed in: pass user_token, or user_id where this agent may name users by id")
        return results.consent_status_answer(await broker.complete_consent(call, session_uri, named.user))
