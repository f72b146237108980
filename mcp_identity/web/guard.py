"""Who is turned away at the door, and what does every answer carry?

One ASGI middleware around the pages: Host, peer, Fetch Metadata and Origin before a route runs; security headers and the
last resort for faults after it. Knows no route. Trusts the socket for the peer's address; proxies are not its business.
"""

from __future__ import annotations

import logging
import traceback
from collections.abc import Callable
from typing import TYPE_CHECKING

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import HTMLResponse

from mcp_identity.web import pages, security

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

_log = logging.getLogger(__name__)

CheckPeer = Callable[[str, int, str, int], bool]
"""Whether the program at the other end may be answered.

Of (client host, client port, server host, server port). May block, for some milliseconds.
"""


class Guard:
    """The door."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        allowed_hosts: frozenset[str],
        check_peer: CheckPeer | None = None,
        origins: frozenset[str] = frozenset(),
    ) -> None:
        """Stand before an application.

        Args:
            app: What is behind.
            allowed_hosts: Exact values of the Host header, lower case, with the port where it is not the scheme's own.
            check_peer: Says whether the program at the other end may be answered; None for all.
            origins: Our own origins as browsers name them; empty for the one that a request is sent to.
        """
        self._app = app
        self._origins = origins
        self._allowed_hosts = allowed_hosts
        self._check_peer = check_peer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":  # the lifespan; there is no route for web sockets
            await self._app(scope, receive, send)
            return

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(raw=message.setdefault("headers", []))
                headers.setdefault("content-security-policy", security.content_policy())
                for name, value in security.HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        refusal = await self._refusal(scope)
        if refusal:
            _log.info("a request was refused at the door with %d", refusal)
            await HTMLResponse(pages.problem_page("invalid_request"), refusal)(scope, receive, send_guarded)
            return
        try:
            await self._app(scope, receive, send_guarded)
        except Exception as error:  # noqa: BLE001 - the last resort: the server's own would log the message, and with it a code
            frames = "".join(traceback.format_tb(error.__traceback__))
            _log.error("a page failed with %s at\n%s", type(error).__name__, frames)
            await HTMLResponse(pages.problem_page("internal_error"), 500)(scope, receive, send_guarded)

    async def _refusal(self, scope: Scope) -> int:
        """The status to refuse with, or 0."""
        headers = Headers(scope=scope)
        hosts = headers.getlist("host")
        if len(hosts) != 1 or hosts[0].lower() not in self._allowed_hosts:
            return 421
        method: str = scope["method"]
        if not security.may_fetch(method, headers):
            return 403
        if method == "POST" and not security.is_own_origin(headers, scope["scheme"], self._origins):
            return 403
        return 0 if await self._is_welcome(scope) else 403

    async def _is_welcome(self, scope: Scope) -> bool:
        """Whether the program at the other end may be answered; passes where that cannot be known."""
        client, server = scope.get("client"), scope.get("server")
        if self._check_peer is None or client is None or server is None:
            return True
        from anyio import to_thread

        return await to_thread.run_sync(self._check_peer, client[0], client[1], server[0], server[1])
