"""Admin tools for what has come of it all: everybody's grants, and the audit trail."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from mcp.types import CallToolResult

from mcp_identity.domain.errors import NotFound
from mcp_identity.domain.identity import is_resource_name
from mcp_identity.tools import admin_arguments as given
from mcp_identity.tools import hints
from mcp_identity.tools.admin_results import AllGrantsResult, AuditResult, EndedResult, audit_item, ended_item, grant_item
from mcp_identity.tools.admin_texts import DESCRIPTIONS
from mcp_identity.tools.arguments import provider_name
from mcp_identity.tools.results import answer

if TYPE_CHECKING:
    from mcp_identity.broker.administration import GrantFilter
    from mcp_identity.tools.edge import IdentityServer


def add(server: IdentityServer) -> None:
    """Add them."""

    @server.tool(title="List all grants", description=DESCRIPTIONS["list_all_grants"], annotations=hints.reads())
    async def list_all_grants(  # pyright: ignore[reportUnusedFunction]
        workload: given.WhoseWorkload = "",
        user: given.WhoseUser = "",
        provider: given.WhichProvider = "",
        limit: given.Limit = 100,
        page: given.Page = "",
    ) -> Annotated[CallToolResult, AllGrantsResult]:
        broker, call = await server.begin("list_all_grants")
        which, place = _which(workload, user, provider), given.place_of(page)
        found = await broker.administration.list_grants(call, which, limit=limit, before=place)
        return answer(
            AllGrantsResult(
                status="ok",
                grants=[grant_item(each) for each in found.grants],
                unreadable=found.unreadable or None,
                next_page=given.place_text(found.next_place),
            )
        )

    @server.tool(title="Revoke grants", description=DESCRIPTIONS["revoke_grants"], annotations=hints.revokes())
    async def revoke_grants(  # pyright: ignore[reportUnusedFunction]
        workload: given.WhoseWorkload = "",
        user: given.WhoseUser = "",
        provider: given.WhichProvider = "",
    ) -> Annotated[CallToolResult, EndedResult]:
        broker, call = await server.begin("revoke_grants")
        ended = await broker.administration.revoke_grants(call, _which(workload, user, provider))
        return answer(
            EndedResult(
                status="ok",
                revoked=[ended_item(each) for each in ended.grants],
                open_consents=ended.open_consents,
                unreadable=ended.unreadable or None,
            )
        )

    @server.tool(title="Search the audit trail", description=DESCRIPTIONS["search_audit"], annotations=hints.reads())
    async def search_audit(  # pyright: ignore[reportUnusedFunction]
        who: given.Who = "",
        action: given.Action = "",
        provider: given.WhichProvider = "",
        outcome: given.Outcome = "",
        since: given.Since = "",
        until: given.Until = "",
        limit: given.Limit = 50,
        page: given.Page = "",
    ) -> Annotated[CallToolResult, AuditResult]:
        from mcp_identity.domain.audit import AuditQuery

        broker, call = await server.begin("search_audit")
        query = AuditQuery(
            who=given.visible("who", who),
            action=given.visible("action", action),
            provider=given.visible("provider", provider),
            outcome=given.visible("outcome", outcome),
            since=given.moment_of("since", since),
            until=given.moment_of("until", until),
        )
        events, place = await broker.administration.search_audit(call, query, limit=limit, before=given.place_of(page))
        found = [audit_item(each) for each in events]
        return answer(AuditResult(status="ok", events=found, next_page=given.place_text(place)))


def _which(workload: str, user: str, provider: str) -> GrantFilter:
    """Which grants are meant; what cannot be a name is written down nowhere."""
    from mcp_identity.broker.administration import GrantFilter

    if workload and not is_resource_name(workload):
        raise NotFound("there is no workload of this name; call list_workload_identities for the names")
    return GrantFilter(workload, given.visible("user", user), provider_name(provider) if provider else "")
