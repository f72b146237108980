"""Where do others find the keys by which they verify a workload's identity token? The documents of one tenant each.

Public, and the same for everybody. Below `/identity/{tenant}/` and nowhere else: at the root, MCP clients would take this
server for their authorization server. A tenant that issues no identity tokens answers as one that is not there.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any, Protocol

from starlette.responses import JSONResponse
from starlette.routing import Route

from mcp_identity.domain.errors import NotFound, StorageError

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

METADATA_PATH, JWKS_PATH = "/identity/{tenant}/.well-known/openid-configuration", "/identity/{tenant}/jwks.json"
_KEPT_SECONDS = 3600
"""How long others may keep what they read; a new key is published much longer before it signs."""


class Documents(Protocol):
    """Knows what is published of a tenant."""

    async def identity_metadata(self, tenant: str) -> Mapping[str, Any]:
        """The discovery document; raises `NotFound` where there is none."""
        ...

    async def identity_jwks(self, tenant: str) -> Mapping[str, Any]:
        """The key set; raises `NotFound` where there is none."""
        ...


def identity_routes(documents: Documents) -> list[Route]:
    """The routes of the documents."""

    def route(path: str, read: Callable[[str], Awaitable[Mapping[str, Any]]]) -> Route:
        async def endpoint(request: Request) -> Response:
            try:
                found = await read(request.path_params["tenant"])
            except NotFound as error:
                return _refusal(error.code, 404)
            except StorageError as error:
                return _refusal(error.code, 503)
            return JSONResponse(dict(found), headers=_headers(f"public, max-age={_KEPT_SECONDS}"))

        return Route(path, endpoint, methods=["GET"])

    return [route(METADATA_PATH, documents.identity_metadata), route(JWKS_PATH, documents.identity_jwks)]


def _refusal(code: str, status: int) -> Response:
    return JSONResponse({"error": code}, status, headers=_headers("no-store"))


def _headers(cache_control: str) -> dict[str, str]:
    return {"cache-control": cache_control, "x-content-type-options": "nosniff"}
