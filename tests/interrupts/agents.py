"""How does an agent's host, or a person's browser, go away in the middle of something? On each edge in every way it knows.

Bytes are written without an SDK in between: a library would tidy up behind itself, and a host that vanishes does not.
"""

from __future__ import annotations

import json
import re
import socket
import struct
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from itertools import count
from typing import Any, Literal, Protocol
from urllib.parse import urlsplit

import anyio
import anyio.to_thread
import httpx2
from anyio.abc import SocketAttribute, SocketStream, TaskGroup

from tests.fakes.browser import Browser
from tests.fakes.mcp_client import Json, McpClient, ProtocolError
from tests.http.kit import ACCEPT, LEGACY_VERSION, initialize, stateless

Departure = Literal["cancel", "end", "vanish"]
RESET = (socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
"""A connection with this is reset when it is closed: nothing that was on its way is taken any more."""
PATIENCE_SECONDS = 20


class Agent(Protocol):
    """One agent's connection."""

    async def begin(self, tool: str, arguments: Json) -> int:
        """Call a tool and do not wait; the call's id."""
        ...

    async def go(self, how: Departure) -> None:
        """Cancel every call, end the stream of requests in order, or vanish."""
        ...

    async def answer(self, call: int) -> Json:
        """The structured answer of a call."""
        ...


@dataclass(slots=True)
class StdioAgent:
    """A host with pipes."""

    client: McpClient
    _begun: list[int] = field(default_factory=list[int])

    async def begin(self, tool: str, arguments: Json) -> int:
        """Write the request."""
        self._begun.append(await self.client.begin("tools/call", name=tool, arguments=arguments))
        return self._begun[-1]

    async def go(self, how: Departure) -> None:
        """`notifications/cancelled`; the end of the input; every pipe closed, as when the host was killed."""
        if how == "cancel":
            for call in self._begun:
                await self.client.notify("notifications/cancelled", requestId=call, reason="changed my mind")
            await self.client.request("ping")
            return
        if how == "vanish":
            assert self.client.process.stdout is not None
            assert self.client.process.stderr is not None
            await self.client.process.stdout.aclose()
            await self.client.process.stderr.aclose()
        await self.client.close_input()

    async def answer(self, call: int) -> Json:
        """Wait for it."""
        return (await self.client.answer(call))["structuredContent"]


@dataclass(slots=True)
class NetworkAgent:
    """An agent with connections; what came back to each call, by its id.

    Attributes:
        url: The server's origin.
        http: Its connections.
        tasks: Where requests wait for their answers.
        headers: Of every request; those of a session, where there is one.
    """

    url: str
    http: httpx2.AsyncClient
    tasks: TaskGroup
    headers: dict[str, str] = field(default_factory=lambda: dict(ACCEPT))
    _begun: list[int] = field(default_factory=list[int])
    _answers: dict[int, Json] = field(default_factory=dict[int, Json])
    _arrived: anyio.Event = field(default_factory=anyio.Event)
    _waiting: list[anyio.CancelScope] = field(default_factory=list[anyio.CancelScope])
    _ids: Any = field(default_factory=lambda: count(10))

    async def answer(self, call: int) -> Json:
        """Wait for it.

        Raises:
            ProtocolError: If it is an error.
        """
        with anyio.fail_after(PATIENCE_SECONDS):
            while call not in self._answers:
                await self._arrived.wait()
        answer = self._answers[call]
        if "error" in answer:
            raise ProtocolError(answer["error"])
        return answer["result"]["structuredContent"]

    def next_call(self) -> int:
        """An id for another call."""
        self._begun.append(next(self._ids))
        return self._begun[-1]

    def take(self, text: str) -> None:
        """Keep the answers that stand in a stream of events."""
        for line in text.splitlines():
            if line.startswith("data: {"):
                message = json.loads(line.removeprefix("data: "))
                self._answers[message.get("id", 0)] = message
        arrived, self._arrived = self._arrived, anyio.Event()
        arrived.set()

    async def post(self, path: str, body: Json) -> httpx2.Response:
        """Send a message."""
        return await self.http.post(f"{self.url}{path}", json=body, headers=self.headers)

    def wait_in_background(self, body: Json, headers: dict[str, str] | None = None) -> None:
        """Send a request over `/mcp` and keep what comes back, if anything does."""

        async def request() -> None:
            with anyio.CancelScope() as scope, suppress(httpx2.HTTPError):
                self._waiting.append(scope)
                got = await self.http.post(f"{self.url}/mcp", json=body, headers=headers or self.headers)
                self.take(got.text if got.text.startswith(("event:", "data:", "id:", ":")) else f"data: {got.text}")

        self.tasks.start_soon(request)

    def give_up(self) -> None:
        """Close the requests that wait."""
        for scope in self._waiting:
            scope.cancel()

    async def hang_up(self) -> None:
        """Close every connection."""
        self.give_up()
        await self.http.aclose()

    def cancellations(self) -> list[Json]:
        """A notification for each call that was begun."""
        return [
            {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": call, "reason": "changed my mind"}}
            for call in self._begun
        ]


@dataclass(slots=True)
class HttpAgent(NetworkAgent):
    """Streamable HTTP: in a session of an older protocol version, or with requests that stand alone."""

    in_session: bool = True

    async def open(self) -> None:
        """Open the session."""
        if not self.in_session:
            return
        answer = await self.post("/mcp", initialize())
        self.headers |= {"mcp-session-id": answer.headers["mcp-session-id"], "mcp-protocol-version": LEGACY_VERSION}
        await self.post("/mcp", {"jsonrpc": "2.0", "method": "notifications/initialized"})

    async def begin(self, tool: str, arguments: Json) -> int:
        """Send the request; its answer comes on the same connection."""
        call, params = self.next_call(), {"name": tool, "arguments": arguments}
        if self.in_session:
            self.wait_in_background({"jsonrpc": "2.0", "id": call, "method": "tools/call", "params": params})
        else:
            self.wait_in_background(*stateless("tools/call", params, call))
        return call

    async def go(self, how: Departure) -> None:
        """`notifications/cancelled`, and the requests closed; the session deleted; every connection reset."""
        if how == "cancel":
            for message in self.cancellations():
                await self.post("/mcp", message)
            self.give_up()
        elif how == "end":
            assert (await self.http.delete(f"{self.url}/mcp", headers=self.headers)).status_code == 200
        else:
            await self.hang_up()


@dataclass(slots=True)
class SseAgent(NetworkAgent):
    """SSE: requests are posted, and answers come on a stream."""

    _path: str = ""
    _listening: anyio.CancelScope = field(default_factory=anyio.CancelScope)

    async def open(self) -> None:
        """Open the stream, and shake hands."""
        self.tasks.start_soon(self._listen)
        with anyio.fail_after(PATIENCE_SECONDS):
            while not self._path:
                await self._arrived.wait()
        await self.post(self._path, initialize())
        await self.post(self._path, {"jsonrpc": "2.0", "method": "notifications/initialized"})

    async def _listen(self) -> None:
        with self._listening, suppress(httpx2.HTTPError):
            async with self.http.stream("GET", f"{self.url}/sse", headers={"accept": "text/event-stream"}) as stream:
                async for line in stream.aiter_lines():
                    if found := re.match(r"data: (/messages/\S+)", line):
                        self._path = found[1]
                    self.take(line)

    async def begin(self, tool: str, arguments: Json) -> int:
        """Post the request."""
        call, params = self.next_call(), {"name": tool, "arguments": arguments}
        await self.post(self._path, {"jsonrpc": "2.0", "id": call, "method": "tools/call", "params": params})
        return call

    async def go(self, how: Departure) -> None:
        """`notifications/cancelled`; the stream closed; every connection reset."""
        if how == "cancel":
            for message in self.cancellations():
                await self.post(self._path, message)
            return
        self._listening.cancel()
        if how == "vanish":
            await self.hang_up()


@asynccontextmanager
async def network_agent(
    url: str, edge: str, *, alone: bool = False, resets: bool = False
) -> AsyncGenerator[HttpAgent | SseAgent]:
    """An agent of a server while the block lasts.

    Args:
        url: The server's origin.
        edge: ``http`` or ``sse``.
        alone: Over HTTP, every request stands alone.
        resets: A connection that is closed is reset.
    """
    transport = httpx2.AsyncHTTPTransport(socket_options=[RESET] if resets else None)
    async with AsyncExitStack() as stack:
        http = await stack.enter_async_context(httpx2.AsyncClient(transport=transport, timeout=PATIENCE_SECONDS))
        tasks = await stack.enter_async_context(anyio.create_task_group())
        agent = SseAgent(url, http, tasks) if edge == "sse" else HttpAgent(url, http, tasks, in_session=not alone)
        with anyio.fail_after(PATIENCE_SECONDS):
            await agent.open()
        yield agent
        tasks.cancel_scope.cancel()


@dataclass(slots=True)
class Visit:
    """A browser that was sent back by the vendor and waits for the page."""

    stream: SocketStream

    async def go(self, how: Departure) -> None:
        """Close the connection; end what is sent, and still listen; or reset it."""
        if how == "end":
            await self.stream.send_eof()
            return
        if how == "vanish":
            self.stream.extra(SocketAttribute.raw_socket).setsockopt(*RESET)  # noqa: S610 - anyio's, not Django's
        await self.stream.aclose()

    async def status(self) -> int:
        """The status of the page, or 0 when there was none."""
        got = b""
        with anyio.fail_after(PATIENCE_SECONDS), suppress(anyio.EndOfStream, anyio.BrokenResourceError):
            while b"\r\n" not in got:
                got += await self.stream.receive()
        return int(got.split()[1]) if got else 0


async def back_from_vendor(link: str) -> Visit:
    """A person opens the link and agrees at the vendor; their browser is on its way back."""

    def walk() -> tuple[str, str]:
        with Browser(stop_at=f"http://{urlsplit(link).netloc}/oauth2/callback/") as browser:
            page = browser.get(link)
            landed = browser.submit(page.forms[0], page=page).url
            return landed, browser.cookies.header(landed, cross_site=True, method="GET")

    url, cookie = await anyio.to_thread.run_sync(walk)
    parts = urlsplit(url)
    stream = await anyio.connect_tcp(parts.hostname or "", parts.port or 80)
    head = f"GET {parts.path}?{parts.query} HTTP/1.1\r\nHost: {parts.netloc}\r\nCookie: {cookie}\r\n\r\n"
    await stream.send(head.encode())
    return Visit(stream)
