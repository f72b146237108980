"""The tags of workloads and providers, by ARN. They are for people: no decision reads one.

The directory and the vault are not things that somebody made, so they bear no tags here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from mcp_identity.agentcore.arns import Kind, read_arn
from mcp_identity.agentcore.errors import NotServed, ServiceError
from mcp_identity.agentcore.operations import control
from mcp_identity.agentcore.shapes import ResourceArn, Shape, TagKey, Tags
from mcp_identity.broker.inventory import TooManyTags
from mcp_identity.domain.errors import NotFound
from mcp_identity.domain.provider import ProviderKind

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from mcp_identity.agentcore.asker import Asker
    from mcp_identity.agentcore.operations import Edge
    from mcp_identity.broker.audit import Call

_PATH = "/tags/{resourceArn}"
_PROVIDERS = {Kind.OAUTH2: ProviderKind.OAUTH2, Kind.API_KEY: ProviderKind.API_KEY}


class Resource(Shape):
    """Something by its ARN."""

    resource_arn: ResourceArn


class Tagging(Resource):
    """Tags to add."""

    tags: Tags


class Untagging(Resource):
    """Tags to take away."""

    tag_keys: Annotated[list[TagKey], Field(max_length=200)]


class Tagged(Shape):
    """The tags of something."""

    tags: dict[str, str]


async def tag(edge: Edge, asker: Asker, given: Tagging) -> None:
    """Add tags; those that are not named stay as they are."""
    await _change(edge, asker.call("tag_resource"), given.resource_arn, given.tags, ())


async def untag(edge: Edge, asker: Asker, given: Untagging) -> None:
    """Take tags away; those that are not there are none."""
    await _change(edge, asker.call("untag_resource"), given.resource_arn, {}, given.tag_keys)


async def list_tags(edge: Edge, asker: Asker, given: Resource) -> Tagged:
    """The tags of something."""
    call = asker.call("list_tags")
    kind, name = _named(given.resource_arn)
    if kind is Kind.WORKLOAD:
        return Tagged(tags=dict((await edge.broker.inventory.workload(call, name)).tags))
    return Tagged(tags=dict((await edge.broker.inventory.provider(call, name, _PROVIDERS[kind])).tags))


async def _change(edge: Edge, call: Call, arn: str, add: Mapping[str, str], remove: Collection[str]) -> None:
    kind, name = _named(arn)
    try:
        if kind is Kind.WORKLOAD:
            await edge.broker.inventory.tag_workload(call, name, add=add, remove=remove)
        else:
            await edge.broker.inventory.tag_provider(call, name, _PROVIDERS[kind], add=add, remove=remove)
    except TooManyTags as error:
        quota = ServiceError("ServiceQuotaExceededException", 402, error.message)
        quota.audited = error.audited
        raise quota from None


def _named(arn: str) -> tuple[Kind, str]:
    """What an ARN names that can bear tags.

    Raises:
        NotFound: If it names nothing of ours.
        NotServed: If it names the directory or the vault.
    """
    found = read_arn(arn)
    if found is None:
        raise NotFound("there is nothing of this ARN here")
    if found[0] in (Kind.DIRECTORY, Kind.VAULT):
        raise NotServed("the directory and the token vault bear no tags here; workload identities and credential providers do")
    return found


OPERATIONS = (
    control("TagResource", "tag_resource", Tagging, tag, path=_PATH, success=204),
    control("UntagResource", "untag_resource", Untagging, untag, path=_PATH, success=204, method="DELETE", query=("tagKeys",)),
    control("ListTagsForResource", "list_tags", Resource, list_tags, path=_PATH, method="GET"),
)
