"""Workload identities, as operators manage them over this edge.

Return URLs are replaced as a whole; everything else that can be said of a workload (its authorizer, what it may use) is said
on the command line or with the admin tools, and stays as it is here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mcp_identity.agentcore.answers import Moment
from mcp_identity.agentcore.arns import Kind, arn
from mcp_identity.agentcore.operations import control
from mcp_identity.agentcore.paging import next_token, page_after
from mcp_identity.agentcore.shapes import ReturnUrl, Shape, ShortPage, Tags, WorkloadName
from mcp_identity.agentcore.times import times
from mcp_identity.broker.specifications import WorkloadSpec

if TYPE_CHECKING:
    from mcp_identity.agentcore.asker import Asker
    from mcp_identity.agentcore.operations import Edge
    from mcp_identity.domain.identity import WorkloadIdentity

PAGE = 20
_LIST = "ListWorkloadIdentities"


class Named(Shape):
    """A workload identity by its name."""

    name: WorkloadName


class Update(Named):
    """What a workload identity shall be."""

    allowed_resource_oauth2_return_urls: list[ReturnUrl] | None = None


class Creation(Update):
    """A new workload identity."""

    tags: Tags | None = None


class Created(Shape):
    """A workload identity that was just made."""

    name: str
    workload_identity_arn: str
    allowed_resource_oauth2_return_urls: list[str]


class Shown(Created):
    """A workload identity as it stands."""

    created_time: Moment
    last_updated_time: Moment


class Item(Shape):
    """A workload identity in a listing."""

    name: str
    workload_identity_arn: str


class Listing(Shape):
    """Which page."""

    next_token: str | None = None
    max_results: ShortPage | None = None


class Page(Shape):
    """One page of workload identities."""

    workload_identities: list[Item]
    next_token: str | None = None


async def create(edge: Edge, asker: Asker, given: Creation) -> Created:
    """Register a workload."""
    spec = WorkloadSpec(return_urls=_urls(given), tags=tuple((given.tags or {}).items()))
    workload = await edge.broker.workloads.create(asker.call("create_workload_identity"), given.name, spec)
    return Created(
        name=workload.name,
        workload_identity_arn=arn(Kind.WORKLOAD, asker.region, workload.name),
        allowed_resource_oauth2_return_urls=list(workload.return_urls),
    )


async def get(edge: Edge, asker: Asker, given: Named) -> Shown:
    """Show a workload."""
    return _shown(asker, await edge.broker.inventory.workload(asker.call("get_workload_identity"), given.name))


async def update(edge: Edge, asker: Asker, given: Update) -> Shown:
    """Change a workload."""
    spec = WorkloadSpec(return_urls=_urls(given))
    return _shown(asker, await edge.broker.workloads.update(asker.call("update_workload_identity"), given.name, spec))


async def delete(edge: Edge, asker: Asker, given: Named) -> None:
    """Remove a workload, with its keys and everything that users granted it."""
    await edge.broker.workloads.remove(asker.call("delete_workload_identity"), given.name)


async def list_page(edge: Edge, asker: Asker, given: Listing) -> Page:
    """One page of the workloads."""
    call = asker.call("list_workload_identities")
    after = page_after(_LIST, asker.tenant, given.next_token)
    found = await edge.broker.inventory.workloads(call, limit=given.max_results or PAGE, after=after)
    return Page(
        workload_identities=[
            Item(name=each.name, workload_identity_arn=arn(Kind.WORKLOAD, asker.region, each.name)) for each in found
        ],
        next_token=next_token(_LIST, asker.tenant, found.next),
    )


def _urls(given: Update) -> tuple[str, ...] | None:
    urls = given.allowed_resource_oauth2_return_urls
    return None if urls is None else tuple(urls)


def _shown(asker: Asker, workload: WorkloadIdentity) -> Shown:
    made, changed = times(workload)
    return Shown(
        name=workload.name,
        workload_identity_arn=arn(Kind.WORKLOAD, asker.region, workload.name),
        allowed_resource_oauth2_return_urls=list(workload.return_urls),
        created_time=made,
        last_updated_time=changed,
    )


OPERATIONS = (
    control("CreateWorkloadIdentity", "create_workload_identity", Creation, create, success=201),
    control("GetWorkloadIdentity", "get_workload_identity", Named, get),
    control("UpdateWorkloadIdentity", "update_workload_identity", Update, update),
    control("DeleteWorkloadIdentity", "delete_workload_identity", Named, delete, success=204),
    control(_LIST, "list_workload_identities", Listing, list_page),
)
