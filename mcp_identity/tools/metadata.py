"""Where does a client learn which authorization server to ask for a token? Protected resource metadata, RFC 9728.

Public, and the same for everybody: identifiers of issuers, of all tenants together, and the scopes of the tools. Everything
in it comes from the configuration, nothing from the request.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from starlette.responses import JSONResponse
from starlette.routing import Route

from mcp_identity.domain.errors import StorageError
from mcp_identity.tools import challenges
from mcp_identity.tools.scopes import READ, TOKEN

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

WELL_KNOWN = "/.well-known/oauth-protected-resource"
SCOPES = (READ, TOKEN)
"""What agents may need; `identity:admin` is never suggested to anybody."""


def metadata_url(base_url: str, resource: str) -> str:
    """Where the metadata of a resource is (RFC 9728 §3.1).

    Args:
        base_url: Scheme, host and port of this server.
        resource: The path of the resource, e.g. ``/mcp``.
    """
    return f"{base_url}{WELL_KNOWN}{resource}"


def metadata_routes(
    base_url: str, resources: tuple[str, ...], issuers: Callable[[], Awaitable[tuple[str, ...]]]
) -> list[Route]:
    """The routes of the metadata: of each resource, and of the server as a whole.

    Args:
        base_url: Scheme, host and port of this server.
        resources: The paths of the resources.
        issuers: The identifiers of the issuers whose tokens are believed.
    """

    def endpoint(resource: str) -> Callable[[Request], Awaitable[Response]]:
        async def metadata(_request: Request) -> Response:
            try:
                servers = await issuers()
            except StorageError as error:
                return challenges.storage(error)
            said: dict[str, object] = {
                "resource": base_url + resource,
                "bearer_methods_supported": ["header"],
                "scopes_supported": list(SCOPES),
                "resource_name": "mcp-identity",
            }
            if servers:
                said["authorization_servers"] = list(servers)
            return JSONResponse(said, headers={"cache-control": "public, max-age=60"})

        return metadata

    return [Route(WELL_KNOWN + resource, endpoint(resource), methods=["GET"]) for resource in ("", *resources)]
