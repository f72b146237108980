"""The tools for operators: the configuration, everybody's grants, and the trail, over MCP.

They exist only where a server was started with `--toolset admin`, and for whom `scopes.administers` says so; to everybody else
they are absent, in the list as in a call. They decide nothing: each calls the verb that the command line calls, for the
principal's own tenant, and the trail names that principal. They take no secret and give none. A key that is shown once is shown
on the server's terminal, never to a model.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mcp_identity.tools import admin_issuers, admin_providers, admin_trail, admin_workloads

if TYPE_CHECKING:
    from mcp_identity.tools.edge import IdentityServer


def add(server: IdentityServer, *, allow_http_loopback: bool) -> None:
    """Add them.

    Args:
        server: Serves them to nobody but operators.
        allow_http_loopback: What is made here may use http on a loopback address, for development.
    """
    admin_workloads.add(server)
    admin_providers.add(server, allow_http_loopback=allow_http_loopback)
    admin_issuers.add(server, allow_http_loopback=allow_http_loopback)
    admin_trail.add(server)
