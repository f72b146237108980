"""When does an open event stream end? With the credential that opened it, or with the server; never later.

A stream outlives the request's check by hours, so its credential is looked at again, and when it ends the stream is ended as
if the client had gone: the SDK lets go of its session, and the answer is finished properly. Trusts the SDK to obey
`http.disconnect`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

import anyio

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

_LETS_GO_SECONDS = 5.0


class Streams:
    """The open streams of one process; all of them can be ended."""

    def __init__(self) -> None:
        """None is open."""
        self._open: set[Stream] = set()

    async def serve(
        self, app: ASGIApp, scope: Scope, receive: Receive, send: Send, expire: Callable[[], Awaitable[None]]
    ) -> None:
        """Serve a stream until the client, the credential or the server ends it.

        Args:
            app: What streams.
            scope: Of the request.
            receive: Likewise.
            send: Likewise.
            expire: Returns when the credential has ended.
        """
        stream = Stream(receive, send)
        self._open.add(stream)
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(stream.end_after, expire)
                await stream.run(app, scope)
                tasks.cancel_scope.cancel()
        finally:
            self._open.discard(stream)

    def end(self) -> None:
        """End every stream that is open."""
        for stream in self._open:
            stream.ended.set()


class Stream:
    """One open stream.

    Attributes:
        ended: Set to end it.
    """

    def __init__(self, receive: Receive, send: Send) -> None:
        self.ended = anyio.Event()
        self._receive = receive
        self._send = send
        self._started = False
        self._complete = False

    async def end_after(self, expire: Callable[[], Awaitable[None]]) -> None:
        """End it when `expire` returns."""
        await expire()
        self.ended.set()

    async def run(self, app: ASGIApp, scope: Scope) -> None:
        """Serve it, and finish what the application leaves unfinished."""
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._insist, tasks.cancel_scope)
            await app(scope, self._receive_until_ended, self._send_until_ended)
            tasks.cancel_scope.cancel()
        if self.ended.is_set() and self._started and not self._complete:
            await self._send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _insist(self, scope: anyio.CancelScope) -> None:
        """Cancel an application that does not listen for the end."""
        await self.ended.wait()
        await anyio.sleep(_LETS_GO_SECONDS)
        scope.cancel()

    async def _receive_until_ended(self) -> Message:
        message: Message = {"type": "http.disconnect"}

        async def listen() -> None:
            nonlocal message
            message = await self._receive()
            tasks.cancel_scope.cancel()

        async with anyio.create_task_group() as tasks:
            if not self.ended.is_set():
                tasks.start_soon(listen)
            await self.ended.wait()
            tasks.cancel_scope.cancel()
        return message

    async def _send_until_ended(self, message: Message) -> None:
        if self.ended.is_set():
            return  # the application takes the client for gone; what it says to nobody would break the answer
        self._started = self._started or message["type"] == "http.response.start"
        self._complete = message["type"] == "http.response.body" and not message.get("more_body", False)
        await self._send(message)
