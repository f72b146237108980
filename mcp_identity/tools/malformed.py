"""What is said of a body that is no message? That it is none; the SDK would repeat it, and with it what may be a secret."""

from __future__ import annotations

from typing import TYPE_CHECKING

from starlette.datastructures import MutableHeaders

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

_BAD_REQUEST = 400
_REPEATS = b'"message":"Validation error'
_INSTEAD = b'{"jsonrpc":"2.0","id":null,"error":{"code":-32600,"message":"the body is not one JSON-RPC message"}}'


class Unrepeated:
    """Streamable HTTP, without the texts that repeat a malformed body."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        held: list[Message] = []

        async def send_unrepeated(message: Message) -> None:
            if message["type"] == "http.response.start" and message["status"] == _BAD_REQUEST:
                held.append(message)  # its length is known only with the body
                return
            if held and _REPEATS in message.get("body", b""):
                MutableHeaders(raw=held[0]["headers"])["content-length"] = str(len(_INSTEAD))
                message = {"type": "http.response.body", "body": _INSTEAD}
            for start in held:
                await send(start)
            held.clear()
            await send(message)

        await self._app(scope, receive, send_unrepeated)
