"""Who asked for what, and how did it end? One line a request, and none of what must not be in a log.

Method, the name of the route, status, time and address. No query, no header, and no path but that of the route: a path may
hold what a session is known by. What fails below ends here, so that nobody else logs it with its message.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import anyio

from mcp_identity.tools import challenges

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from mcp_identity.domain.clock import Clock

_log = logging.getLogger("mcp_identity.access")
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


class AccessLog:
    """Writes the lines."""

    def __init__(self, app: ASGIApp, clock: Clock) -> None:
        self._app = app
        self._clock = clock

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request, and write down that it was."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began, status = self._clock.monotonic(), 0

        async def send_noting(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, send_noting)
        except anyio.get_cancelled_exc_class():  # by the server alone, whose time is over; it wants to hear no more of it
            if not status:
                with anyio.CancelScope(shield=True):
                    await challenges.say(challenges.ending(), send_noting)
        except Exception as error:  # noqa: BLE001 - the last resort: the server's own would log the message
            _log.error("%s failed", _route(scope), exc_info=error)
            if not status:
                await challenges.say(challenges.failed(), send_noting)
        finally:
            if _log.isEnabledFor(logging.INFO):
                client = scope.get("client")
                _log.info(
                    "%s %s %d in %d ms from %s",
                    scope["method"] if scope["method"] in _METHODS else "?",
                    _route(scope),
                    status,
                    (self._clock.monotonic() - began) * 1000,
                    client[0] if client else "?",
                )


def _route(scope: Scope) -> str:
    """The route as it was written, which holds nothing of the request."""
    return str(getattr(scope.get("route"), "path", "(none)"))
