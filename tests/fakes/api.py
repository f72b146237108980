"""An authorization server with an API beside it: in this process, or over a real transport to somewhere on this machine."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from urllib.parse import urlsplit

import anyio

from mcp_identity.domain.errors import IdentityError
from mcp_identity.domain.http import HttpRequest, HttpResponse
from mcp_identity.transport import Transport
from tests.fakes.authorization_server import ISSUER, FakeAuthorizationServer

API = "https://api.example.com"


def ok(request: HttpRequest) -> HttpResponse:
    """The API is content."""
    del request
    return HttpResponse(200, {"content-type": "application/json"}, b'{"ok":true}')


class VendorWithApi(FakeAuthorizationServer):
    """The transport of a product that knows one authorization server, and sends everything else to an API.

    Attributes:
        respond_api: What the API answers.
        failure: Raised instead.
        wire: Requests to the API go over this transport instead.
        api_requests: What arrived at the API.
    """

    def __init__(self, now: Callable[[], datetime]) -> None:
        super().__init__(now)
        self.respond_api: Callable[[HttpRequest], HttpResponse] = ok
        self.failure: IdentityError | None = None
        self.wire: Transport | None = None
        self.api_requests: list[HttpRequest] = []

    async def send(self, request: HttpRequest, *, allow_http_loopback: bool = False) -> HttpResponse:
        """Tell the two apart by their host."""
        if request.url.startswith(f"{ISSUER}/") and urlsplit(request.url).path in ("/token", "/revoke", "/jwks"):
            return await super().send(request, allow_http_loopback=allow_http_loopback)
        self.api_requests.append(request)
        if self.wire is not None:
            return await self.wire.send(request, allow_http_loopback=allow_http_loopback)
        await anyio.lowlevel.checkpoint()
        if self.failure is not None:
            raise self.failure
        return self.respond_api(request)

    @property
    def bearers(self) -> list[str]:
        """The credentials that reached the API, in order."""
        return [request.headers.get("Authorization", "") for request in self.api_requests]
