"""Where is what at this edge? One table of all operations, and the routes that lead to them.

Whoever adds an operation adds it to the table of its own room; whoever adds a room adds it here.
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

from starlette.routing import Route

from mcp_identity.agentcore import api_keys, data_plane, oauth_providers, tags, unserved, vaults, workloads
from mcp_identity.agentcore.entry import Entry, UnknownOperation
from mcp_identity.agentcore.known import KnownWorkloads

if TYPE_CHECKING:
    from mcp_identity.agentcore.gate import Gate
    from mcp_identity.agentcore.operations import Edge, Operation
    from mcp_identity.domain.clock import Entropy

OPERATIONS: tuple[Operation, ...] = (
    *data_plane.OPERATIONS,
    *workloads.OPERATIONS,
    *oauth_providers.OPERATIONS,
    *api_keys.OPERATIONS,
    *vaults.OPERATIONS,
    *tags.OPERATIONS,
    *unserved.OPERATIONS,
)
PREFIX = "/identities/"
_ROOTS = (PREFIX, "/tags/", "/resourcepolicy/")


def agentcore_routes(edge: Edge, gate: Gate, entropy: Entropy, *, body_bytes: int) -> list[Route]:
    """The routes of both planes, for an application that has others beside.

    Args:
        edge: What operations work with.
        gate: Lets requests in.
        entropy: For the ids of requests.
        body_bytes: The most of a body.
    """
    by_path: defaultdict[str, dict[str, Operation]] = defaultdict(dict)
    for operation in OPERATIONS:
        by_path[operation.path][operation.method] = operation
    workloads = KnownWorkloads(edge.broker.workloads)
    routes = [
        Route(path.replace("}", ":path}"), Entry(edge, gate, operations, workloads, entropy, body_bytes=body_bytes))
        for path, operations in by_path.items()
    ]
    elsewhere = UnknownOperation(entropy)
    return [*routes, *(Route(f"{root}{{rest:path}}", elsewhere) for root in _ROOTS)]
