"""Which connections the server keeps, and for how long, before it knows what they want."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager

import anyio
import pytest
from anyio.abc import SocketAttribute, SocketStream
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from mcp_identity.web.guard import CheckPeer
from mcp_identity.web.serving import Capacity, claim, serving

SOON = 0.05
REQUEST = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"


async def answering(scope: Scope, receive: Receive, send: Send) -> None:
    """An application that wants all of a request, and answers."""
    while (await receive()).get("more_body"):
        pass
    await PlainTextResponse("ok")(scope, receive, send)


@asynccontextmanager
async def served(
    app: ASGIApp = answering, check_peer: CheckPeer | None = None, seconds: float = SOON, write_seconds: float = 30
) -> AsyncGenerator[int]:
    """The port of a server; the block may take ten seconds."""
    sockets = claim(0)
    assert sockets is not None
    with anyio.fail_after(10):
        async with serving(
            app, sockets, check_peer=check_peer, capacity=Capacity(request_seconds=seconds, write_seconds=write_seconds)
        ):
            yield sockets[0].getsockname()[1]


async def ask(stream: SocketStream) -> None:
    """Get an answer."""
    await stream.send(REQUEST)
    await answer_of(stream)


async def answer_of(stream: SocketStream) -> None:
    """Read one answer, all of it and no more."""
    text = b""
    while not text.endswith(b"\r\n\r\nok"):
        text += await stream.receive()
    assert text.startswith(b"HTTP/1.1 200 ")


async def rest_of(stream: SocketStream, *, trickling: bool = False) -> bytes:
    """What comes until the server hangs up."""
    text = b""

    async def trickle() -> None:
        with contextlib.suppress(anyio.BrokenResourceError, anyio.ClosedResourceError):
            while True:
                await stream.send(b"x")
                await anyio.lowlevel.checkpoint()

    async with anyio.create_task_group() as tasks:
        if trickling:
            tasks.start_soon(trickle)
        with contextlib.suppress(anyio.EndOfStream, anyio.BrokenResourceError):
            while True:
                text += await stream.receive()
        tasks.cancel_scope.cancel()
    return text


@pytest.mark.parametrize(
    "beginning", [b"", b"G", REQUEST[:-2], b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n1"], ids=repr
)
async def test_a_connection_that_brings_no_whole_request_is_closed(beginning: bytes) -> None:
    async with served() as port, await anyio.connect_tcp("127.0.0.1", port) as stream:
        await stream.send(beginning)
        assert await rest_of(stream) == b""


@pytest.mark.parametrize("beginning", [b"G", REQUEST[:-2]], ids=repr)
async def test_so_is_one_that_was_answered_once(beginning: bytes) -> None:
    async with served() as port, await anyio.connect_tcp("127.0.0.1", port) as stream:
        await ask(stream)
        await stream.send(beginning)
        assert await rest_of(stream) == b""


async def test_bytes_that_trickle_in_gain_no_time() -> None:
    async with served() as port, await anyio.connect_tcp("127.0.0.1", port) as stream:
        await stream.send(REQUEST[:-2] + b"X: ")
        assert await rest_of(stream, trickling=True) == b""


async def test_nor_do_they_after_an_answer() -> None:
    async with served() as port, await anyio.connect_tcp("127.0.0.1", port) as stream:
        await ask(stream)
        await stream.send(REQUEST[:-2] + b"X: ")
        assert await rest_of(stream, trickling=True) == b""


async def test_a_peer_that_does_not_read_its_answer_is_hung_up_on() -> None:
    """covers: A56."""
    gone = anyio.Event()

    async def endless(scope: Scope, receive: Receive, send: Send) -> None:
        assert scope
        while (await receive()).get("more_body"):
            pass
        await send({"type": "http.response.start", "status": 200, "headers": []})
        async with anyio.create_task_group() as tasks:

            async def pour() -> None:
                while True:
                    await send({"type": "http.response.body", "body": b"x" * 65_536, "more_body": True})
                    await anyio.lowlevel.checkpoint()

            tasks.start_soon(pour)
            while (await receive())["type"] != "http.disconnect":
                pass
            tasks.cancel_scope.cancel()
        gone.set()

    async with served(endless, write_seconds=SOON) as port, await anyio.connect_tcp("127.0.0.1", port) as stream:
        await stream.send(REQUEST)
        await gone.wait()


async def test_silent_connections_keep_nobody_out_for_longer_than_that() -> None:
    async with served() as port, AsyncExitStack() as silent:
        streams = [await silent.enter_async_context(await anyio.connect_tcp("127.0.0.1", port)) for _ in range(64)]
        assert await rest_of(streams[-1]) == b""
        async with await anyio.connect_tcp("127.0.0.1", port) as stream:
            await ask(stream)


async def test_an_answer_may_take_longer_and_another_request_may_follow() -> None:
    asked, go_on = anyio.Event(), anyio.Event()

    async def slow(scope: Scope, receive: Receive, send: Send) -> None:
        asked.set()
        await go_on.wait()
        await answering(scope, receive, send)

    async with served(slow) as port, await anyio.connect_tcp("127.0.0.1", port) as stream:
        await stream.send(REQUEST)
        await asked.wait()
        async with await anyio.connect_tcp("127.0.0.1", port) as later:
            assert await rest_of(later) == b""  # the time of the first is over, too
        go_on.set()
        await answer_of(stream)
        await ask(stream)
        await stream.send(REQUEST[:-2])
        assert await rest_of(stream) == b""


async def test_a_connection_that_is_refused_is_closed_before_a_word_is_read() -> None:
    seen: list[tuple[str, int, str, int]] = []

    def nobody(*ends: object) -> bool:
        seen.append(ends)  # pyright: ignore[reportArgumentType]
        return False

    async with served(check_peer=nobody, seconds=3600) as port, await anyio.connect_tcp("127.0.0.1", port) as stream:
        host, own_port = stream.extra(SocketAttribute.local_address)  # noqa: S610 - anyio's, not Django's
        await stream.send(REQUEST)
        assert await rest_of(stream) == b""
    assert seen == [(host, own_port, "127.0.0.1", port)]


@pytest.mark.parametrize("turns", range(5))
async def test_refused_connections_keep_nobody_out_in_any_turn_of_the_loop(turns: int) -> None:
    refused: set[int] = set()

    def is_welcome(_client_host: str, client_port: int, _server_host: str, _server_port: int) -> bool:
        return client_port not in refused

    async with served(check_peer=is_welcome, seconds=3600) as port, AsyncExitStack() as held:
        stream = await held.enter_async_context(await anyio.connect_tcp("127.0.0.1", port))
        await ask(stream)
        for _ in range(64):
            client = held.enter_context(socket.create_connection(("127.0.0.1", port)))
            refused.add(client.getsockname()[1])
        for _ in range(turns):
            await anyio.lowlevel.checkpoint()
        await ask(stream)
