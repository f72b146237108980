"""Admin tools for workload identities: which agents there are, which tokens speak for them, and what they may use."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from mcp.types import CallToolResult

from mcp_identity.domain.errors import InvalidRequest, NotFound
from mcp_identity.domain.identity import RESOURCE_NAME_RULE, is_resource_name
from mcp_identity.tools import admin_arguments as given
from mcp_identity.tools import hints
from mcp_identity.tools.admin_results import (
    EndedItem,
    EndedResult,
    WorkloadFacts,
    WorkloadResult,
    WorkloadsResult,
    issuer_names,
    workload_facts,
)
from mcp_identity.tools.admin_texts import DESCRIPTIONS
from mcp_identity.tools.results import answer

if TYPE_CHECKING:
    from mcp_identity.broker.broker import Broker
    from mcp_identity.broker.specifications import WorkloadSpec
    from mcp_identity.domain.identity import WorkloadIdentity
    from mcp_identity.tools.edge import IdentityServer


def add(server: IdentityServer) -> None:
    """Add them."""
    _add_looking(server)
    _add_changing(server)


def _add_looking(server: IdentityServer) -> None:
    @server.tool(
        title="List workload identities", description=DESCRIPTIONS["list_workload_identities"], annotations=hints.reads()
    )
    async def list_workload_identities(  # pyright: ignore[reportUnusedFunction]
        limit: given.Limit = 100,
        page: given.Page = "",
    ) -> Annotated[CallToolResult, WorkloadsResult]:
        broker, call = await server.begin("list_workload_identities")
        found = await broker.inventory.workloads(call, limit=limit, after=_begins(page))
        names = await issuer_names(broker, call.principal.tenant)
        facts = [WorkloadFacts.model_validate(workload_facts(each, names.get(each.authorizer.issuer_id, ""))) for each in found]
        unreadable, following = len(found.corrupt) or None, found.next or None
        return answer(WorkloadsResult(status="ok", workloads=facts, unreadable=unreadable, next_page=following))

    @server.tool(title="Show a workload identity", description=DESCRIPTIONS["get_workload_identity"], annotations=hints.reads())
    async def get_workload_identity(  # pyright: ignore[reportUnusedFunction]
        name: given.WorkloadName,
    ) -> Annotated[CallToolResult, WorkloadResult]:
        broker, call = await server.begin("get_workload_identity")
        return await _answer(broker, await broker.inventory.workload(call, _known(name)))


def _add_changing(server: IdentityServer) -> None:
    @server.tool(
        title="Register a workload identity",
        description=DESCRIPTIONS["create_workload_identity"],
        annotations=hints.makes(asks_others=False),
    )
    async def create_workload_identity(  # pyright: ignore[reportUnusedFunction]
        name: given.WorkloadName,
        issuer: given.AuthorizerIssuer = None,
        audiences: given.AllowedAudiences = None,
        clients: given.AllowedClients = None,
        scopes: given.AllowedScopes = None,
        claims: given.RequiredClaims = None,
        shared_authorizer: given.SharedAuthorizer = None,
        allowed_providers: given.AllowedProviders = None,
        return_urls: given.ReturnUrls = None,
        identity_audiences: given.IdentityAudiences = None,
        may_assert_users: given.MayAssertUsers = None,
        owner: given.Owner = None,
        tags: given.Tags = None,
        disabled: given.Disabled = None,
    ) -> Annotated[CallToolResult, WorkloadResult]:
        broker, call = await server.begin("create_workload_identity")
        spec = _spec(
            issuer, audiences, clients, scopes, claims, shared_authorizer, allowed_providers, return_urls, identity_audiences,
            may_assert_users, owner, tags, disabled,
        )  # fmt: skip
        if not is_resource_name(name):
            raise InvalidRequest(RESOURCE_NAME_RULE)
        return await _answer(broker, await broker.workloads.create(call, name, spec))

    @server.tool(
        title="Change a workload identity",
        description=DESCRIPTIONS["update_workload_identity"],
        annotations=hints.changes(asks_others=False),
    )
    async def update_workload_identity(  # pyright: ignore[reportUnusedFunction]
        name: given.WorkloadName,
        issuer: given.AuthorizerIssuer = None,
        audiences: given.AllowedAudiences = None,
        clients: given.AllowedClients = None,
        scopes: given.AllowedScopes = None,
        claims: given.RequiredClaims = None,
        shared_authorizer: given.SharedAuthorizer = None,
        allowed_providers: given.AllowedProviders = None,
        return_urls: given.ReturnUrls = None,
        identity_audiences: given.IdentityAudiences = None,
        may_assert_users: given.MayAssertUsers = None,
        owner: given.Owner = None,
        tags: given.Tags = None,
        disabled: given.Disabled = None,
    ) -> Annotated[CallToolResult, WorkloadResult]:
        broker, call = await server.begin("update_workload_identity")
        spec = _spec(
            issuer, audiences, clients, scopes, claims, shared_authorizer, allowed_providers, return_urls, identity_audiences,
            may_assert_users, owner, tags, disabled,
        )  # fmt: skip
        return await _answer(broker, await broker.workloads.update(call, _known(name), spec))

    @server.tool(
        title="Remove a workload identity", description=DESCRIPTIONS["delete_workload_identity"], annotations=hints.revokes()
    )
    async def delete_workload_identity(  # pyright: ignore[reportUnusedFunction]
        name: given.WorkloadName,
    ) -> Annotated[CallToolResult, EndedResult]:
        broker, call = await server.begin("delete_workload_identity")
        ended = await broker.workloads.remove(call, _known(name))
        items = [EndedItem(provider=each.provider, flow=each.flow.value, at_vendor=each.at_vendor) for each in ended]
        return answer(EndedResult(status="ok", name=name, revoked=items))


def _spec(
    issuer: str | None,
    audiences: list[str] | None,
    clients: list[str] | None,
    scopes: list[str] | None,
    claims: list[given.RequiredClaim] | None,
    shared_authorizer: bool | None,
    allowed_providers: list[str] | None,
    return_urls: list[str] | None,
    identity_audiences: list[str] | None,
    may_assert_users: bool | None,
    owner: str | None,
    tags: dict[str, str] | None,
    disabled: bool | None,
) -> WorkloadSpec:
    """What was said of a workload; the broker checks it."""
    from mcp_identity.broker.specifications import WorkloadSpec
    from mcp_identity.domain.authorizer import ClaimOperator, ClaimRule

    rules = (
        None if claims is None else [ClaimRule(each.claim, ClaimOperator(each.operator), tuple(each.values)) for each in claims]
    )
    return WorkloadSpec(
        issuer=issuer,
        audiences=given.several(audiences),
        clients=given.several(clients),
        scopes=given.several(scopes),
        claims=None if rules is None else tuple(rules),
        shared_authorizer=shared_authorizer,
        allowed_providers=given.several(allowed_providers),
        return_urls=given.several(return_urls),
        identity_audiences=given.several(identity_audiences),
        may_assert_users=may_assert_users,
        owner=owner,
        tags=given.tags_of(tags),
        disabled=disabled,
    )


def _known(name: str) -> str:
    """A name that a workload may have; what cannot be one is written down nowhere: it may be a secret in the wrong place."""
    if not is_resource_name(name):
        raise NotFound("there is no workload of this name; call list_workload_identities for the names")
    return name


def _begins(page: str) -> str:
    """Where a page of names begins."""
    if page and not is_resource_name(page):
        raise InvalidRequest("page is next_page of the answer before, or empty")
    return page


async def _answer(broker: Broker, workload: WorkloadIdentity) -> CallToolResult:
    issuer = await broker.workloads.issuer_name(workload)
    return answer(WorkloadResult.model_validate({"status": "ok", **workload_facts(workload, issuer)}))
