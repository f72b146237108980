"""What the port gives away, on the wire and in the logs, when uvicorn is behind it."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

import anyio
import httpx2
import pytest
from starlette.responses import JSONResponse
from starlette.types import Receive, Scope, Send

from mcp_identity.web.serving import claim, serving

if TYPE_CHECKING:
    from tests.web.conftest import FakeDesk, Processes, SocketOfUser

SESSION = "0123456789abcdefghijklmnopqrstuvwxyzABCDE-_"


@pytest.mark.parametrize("failing", [False, True])
async def test_nothing_of_a_query_is_logged_or_printed_at_any_level(
    processes: Processes,
    desk: FakeDesk,
    failing: bool,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    if failing:
        desk.callback_error = ValueError("canary-message")
    for name in ("", "mcp_identity", "uvicorn", "uvicorn.error", "uvicorn.access", "uvicorn.asgi"):
        caplog.set_level(1, name)
    async with processes.start(desk) as (listener, _):
        await listener.ensure_open()
        url = f"http://127.0.0.1:{listener.port}/oauth2/callback/p1?code=canary-code&state=canary-state"
        reader, writer = await _raw(listener.port, f"GET {url.partition(str(listener.port))[2]}", cookie="canary-cookie")
        assert f" {500 if failing else 303} " in reader
        assert "canary" not in writer
    assert len(desk.callbacks) == 1
    assert "canary" not in caplog.text
    assert "canary" not in "".join(capfd.readouterr())
    assert not failing or "ValueError" in caplog.text


async def _raw(port: int, request_line: str, cookie: str) -> tuple[str, str]:
    """Speak HTTP by hand, so that no client's own log is in the way; the status line, and all of the answer."""
    async with await anyio.connect_tcp("127.0.0.1", port) as stream:
        head = (
            f"{request_line} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nCookie: mid_consent_x={cookie}\r\nConnection: close\r\n\r\n"
        )
        await stream.send(head.encode())
        answer = b""
        while True:
            try:
                answer += await stream.receive()
            except anyio.EndOfStream:
                break
    text = answer.decode()
    return text.partition("\r\n")[0], text


async def test_answers_name_no_server_software(processes: Processes, desk: FakeDesk) -> None:
    async with processes.start(desk) as (listener, _):
        await listener.ensure_open()
        _, answer = await _raw(listener.port, "GET /healthz", cookie="x")
    assert "\r\nserver:" not in answer.lower()


async def test_the_peer_is_the_sockets_whatever_a_header_says() -> None:
    async def echo(scope: Scope, receive: Receive, send: Send) -> None:
        await JSONResponse([scope["client"][0], scope["scheme"]])(scope, receive, send)

    sockets = claim(0)
    assert sockets is not None
    async with serving(echo, sockets), httpx2.AsyncClient(trust_env=False) as client:
        headers = {"x-forwarded-for": "192.0.2.1", "x-forwarded-proto": "https", "forwarded": "for=192.0.2.1"}
        answer = await client.get(f"http://127.0.0.1:{sockets[0].getsockname()[1]}/", headers=headers)
    assert answer.json() == ["127.0.0.1", "http"]


async def test_an_endless_header_is_cut_off(processes: Processes, desk: FakeDesk) -> None:
    async with processes.start(desk) as (listener, _):
        await listener.ensure_open()
        async with await anyio.connect_tcp("127.0.0.1", listener.port) as stream:
            await stream.send(b"GET /healthz HTTP/1.1\r\nX: " + b"x" * 100_000)
            assert (await stream.receive()).startswith(b"HTTP/1.1 400 ")


@pytest.mark.parametrize(("uid", "answer"), [(0, b"HTTP/1.1 200 "), (65533, b""), (65534, b"")])
async def test_a_program_of_another_user_gets_nothing(
    processes: Processes, desk: FakeDesk, socket_of_user: SocketOfUser, uid: int, answer: bytes
) -> None:
    async with processes.start(desk) as (listener, _):
        await listener.ensure_open()
        client = socket_of_user(uid)
        client.connect(("127.0.0.1", listener.port))
        client.sendall(f"GET /consent/{SESSION} HTTP/1.1\r\nHost: 127.0.0.1:{listener.port}\r\n\r\n".encode())
        client.settimeout(10)
        assert await anyio.to_thread.run_sync(said, client) == answer


async def test_connections_of_another_user_keep_nobody_out(
    processes: Processes, desk: FakeDesk, socket_of_user: SocketOfUser
) -> None:
    async with processes.start(desk) as (listener, _), httpx2.AsyncClient(trust_env=False, timeout=30) as browser:
        await listener.ensure_open()
        for _ in range(64):
            socket_of_user(65533).connect(("127.0.0.1", listener.port))
        assert (await browser.get(f"http://127.0.0.1:{listener.port}/consent/{SESSION}")).status_code == 200


def said(client: socket.socket) -> bytes:
    """The beginning of an answer; nothing where the server hung up."""
    try:
        return client.recv(13)
    except ConnectionResetError:
        return b""


def test_small_answers_leave_at_once() -> None:
    """The event loop switches Nagle's algorithm off for sockets that say that they are TCP, and only for those."""
    sockets = claim(0)
    assert sockets is not None
    try:
        assert {each.proto for each in sockets} == {socket.IPPROTO_TCP}
    finally:
        for each in sockets:
            each.close()
