"""The tools that issue: a workload access token for this server, an identity token for others."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from mcp.types import CallToolResult

from mcp_identity.tools import hints, results
from mcp_identity.tools.arguments import IdentityAudience, TokenLifetime, UserId, UserToken
from mcp_identity.tools.texts import DESCRIPTIONS
from mcp_identity.tools.users import named_user

if TYPE_CHECKING:
    from mcp_identity.tools.edge import IdentityServer


def add_workload_tokens(server: IdentityServer) -> None:
    """Add the one for callers that proved which agent they are."""

    @server.tool(
        title="Get a workload access token",
        description=DESCRIPTIONS["get_workload_access_token"],
        annotations=hints.issues(),
    )
    async def get_workload_access_token(  # pyright: ignore[reportUnusedFunction]
        user_token: UserToken = "",
        user_id: UserId = "",
    ) -> Annotated[CallToolResult, results.WorkloadTokenResult]:
        broker, call = await server.begin("get_workload_access_token")
        named = await named_user(server.verifier, call.principal, user_token, user_id)
        if named is None:
            issued = await broker.issue_workload_access_token(call, None, None)
        else:
            issued = await broker.issue_workload_access_token(
                call, named.user, named.expires_at, named.tool_scopes, named.subject_token
            )
        return results.workload_token_answer(issued.token, issued.expires_at)


def add_identity_tokens(server: IdentityServer) -> None:
    """Add the one whose tokens others verify with our published keys."""

    @server.tool(title="Get an identity token", description=DESCRIPTIONS["get_identity_token"], annotations=hints.issues())
    async def get_identity_token(  # pyright: ignore[reportUnusedFunction]
        audience: IdentityAudience,
        lifetime_seconds: TokenLifetime = 300,
    ) -> Annotated[CallToolResult, results.IdentityTokenResult]:
        broker, call = await server.begin("get_identity_token")
        issued = await broker.issue_identity_token(call, audience, lifetime_seconds)
        return results.identity_token_answer(issued.token, audience, issued.expires_at)
