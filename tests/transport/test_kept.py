"""Kept connections: reused by whom, for what, for how long, and what happens when one is dead."""

from __future__ import annotations

from pathlib import Path

import anyio
import pytest

from mcp_identity import transport as module
from mcp_identity.domain.errors import IdentityError, UrlRefused
from mcp_identity.domain.http import HttpRequest, HttpResponse, Method
from mcp_identity.transport import Transport
from tests.fakes.hostile_server import HostileServer, Script, hostile_server
from tests.transport.certificates import Authority

KEEPING = Script(keep_alive=True)


async def _get(
    transport: Transport, server: HostileServer, keep: str = "one", *, method: Method = "GET", **more: str
) -> HttpResponse:
    request = HttpRequest(method, more.get("url") or server.url, {"Authorization": f"Bearer of-{keep}"}, keep=keep)
    return await transport.send(request, allow_http_loopback=True)


async def test_reads_of_one_sender_share_a_connection_and_everything_else_has_its_own() -> None:
    async with hostile_server(KEEPING) as server, Transport() as transport:
        for _ in range(3):
            await _get(transport, server)
        assert server.came_on == [1, 1, 1]
        for method in ("POST", "PUT", "PATCH", "DELETE"):
            await _get(transport, server, method=method)
        await _get(transport, server, keep="")
        assert server.came_on == [1, 1, 1, 2, 3, 4, 5, 6]
        assert [b"Connection: close" in request for request in server.requests] == [False] * 3 + [True] * 5
        await _get(transport, server)
        assert server.came_on[-1] == 1


async def test_nothing_crosses_from_one_sender_to_another() -> None:
    script = Script(keep_alive=True, headers=(("Set-Cookie", "session=of-whoever-came-first"),))
    async with hostile_server(script) as server, Transport() as transport:
        senders = ["provider-a agent alice", "provider-a agent bob", "provider-b agent alice"]
        for _ in range(3):
            for sender in senders:
                await _get(transport, server, sender)
        by_connection: dict[int, set[bytes]] = {}
        for connection, request in zip(server.came_on, server.requests, strict=True):
            assert b"cookie" not in request.lower()
            bearer = next(line for line in request.split(b"\r\n") if line.startswith(b"Authorization"))
            by_connection.setdefault(connection, set()).add(bearer)
        assert len(by_connection) == len(senders)
        assert all(len(bearers) == 1 for bearers in by_connection.values())


async def test_two_requests_at_once_have_two_connections() -> None:
    async with hostile_server(KEEPING) as server, Transport() as transport:
        async with anyio.create_task_group() as group:
            for _ in range(5):
                group.start_soon(_get, transport, server)
        assert sorted(server.came_on) == [1, 2, 3, 4, 5]


async def test_two_names_at_one_address_share_nothing(tmp_path: Path) -> None:
    async def resolver(_host: str, _port: int) -> list[str]:
        return ["127.0.0.1"]

    authority = Authority.create(tmp_path)
    tls = authority.server_context(["one.test", "two.test"])
    async with (
        hostile_server(KEEPING, tls=tls) as server,
        Transport(ssl_context=authority.client_context(), resolver=resolver) as transport,
    ):
        for name in ("one.test", "two.test", "one.test", "two.test"):
            await _get(transport, server, url=f"https://{name}:{server.port}/")
        assert server.came_on == [1, 2, 1, 2]


async def test_the_address_rules_hold_for_every_request_on_a_kept_connection() -> None:
    current = ["127.0.0.1"]

    async def resolver(_host: str, _port: int) -> list[str]:
        return current

    async with hostile_server(KEEPING) as server, Transport(resolver=resolver) as transport:
        url = f"http://idp.example.com:{server.port}/"
        await _get(transport, server, url=url)
        current = ["127.0.0.1", "10.0.0.1"]
        with pytest.raises(UrlRefused):
            await _get(transport, server, url=url)
        current = ["127.0.0.2"]
        with pytest.raises(IdentityError):  # nobody listens there, and the connection to the old address is not used
            await _get(transport, server, url=url)
        assert server.came_on == [1]
        current = ["127.0.0.3", "127.0.0.1"]
        await _get(transport, server, url=url)
        assert server.came_on == [1, 1]


@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_a_read_on_a_connection_that_died_is_tried_once_more_on_a_fresh_one(method: Method) -> None:
    script = Script(keep_alive=True, answers=1, body=b"" if method == "HEAD" else b"{}")
    async with hostile_server(script) as server, Transport() as transport:
        for _ in range(3):
            assert (await _get(transport, server, method=method)).status == 200
        assert server.came_on == [1, 1, 2, 2, 3]


async def test_a_connection_that_the_server_closed_is_not_even_tried() -> None:
    async with hostile_server() as server, Transport() as transport:
        for _ in range(3):
            assert (await _get(transport, server)).status == 200
        assert server.came_on == [1, 2, 3]


@pytest.mark.parametrize(
    "then",
    [
        Script(keep_alive=True, raw=b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf"),
        Script(keep_alive=True, raw=b"SSH-2.0-x\r\n\r\n"),
        Script(keep_alive=True, hang=True),
    ],
    ids=["half an answer", "no HTTP", "silence"],
)
async def test_what_began_to_be_answered_or_took_too_long_is_not_tried_again(then: Script) -> None:
    async with hostile_server(KEEPING) as server, Transport(deadline_seconds=0.3) as transport:
        await _get(transport, server)
        server.script = then
        with pytest.raises(IdentityError):
            await _get(transport, server)
        assert server.came_on == [1, 1]
        server.script = KEEPING
        await _get(transport, server)
        assert server.came_on == [1, 1, 2]


async def test_an_answer_that_was_cut_leaves_nothing_behind_for_the_next() -> None:
    async with hostile_server(Script(keep_alive=True, body=b"x" * 1000)) as server, Transport() as transport:
        request = HttpRequest("GET", server.url, maximum_bytes=10, cut=True, keep="one")
        for _ in range(2):
            assert (await transport.send(request, allow_http_loopback=True)).body == b"x" * 10
        assert server.came_on == [1, 2]


async def test_a_cancelled_request_takes_its_connection_with_it() -> None:
    async with hostile_server(KEEPING) as server, Transport() as transport:
        await _get(transport, server)
        server.script = Script(keep_alive=True, hang=True)
        with anyio.move_on_after(0.1):
            await _get(transport, server)
        server.script = KEEPING
        await _get(transport, server)
        assert server.came_on == [1, 1, 2]


async def test_idle_connections_are_bounded_in_number_and_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAXIMUM_IDLE", 2)
    async with hostile_server(KEEPING) as server, Transport() as transport:
        for sender in ("one", "two", "three", "three", "two", "one"):
            await _get(transport, server, sender)
        assert server.came_on == [1, 2, 3, 3, 2, 4]
        monkeypatch.setattr(module, "IDLE_SECONDS", -1.0)
        await _get(transport, server, "one")
        assert server.came_on[-1] == 5
        monkeypatch.setattr(module, "IDLE_SECONDS", 30.0)
        monkeypatch.setattr(module, "KEPT_SECONDS", -1.0)
        for _ in range(2):
            await _get(transport, server, "four")
        assert server.came_on[-2:] == [6, 7]


async def test_a_hanging_name_server_does_not_keep_other_names_from_being_resolved() -> None:
    asked: list[str] = []
    found = anyio.Event()

    async def resolver(host: str, _port: int) -> list[str]:
        asked.append(host)
        if host == "hanging.test":
            await anyio.sleep_forever()
        return ["127.0.0.1"]

    async def healthy(transport: Transport, server: HostileServer) -> None:
        await _get(transport, server, url=f"http://healthy.test:{server.port}/")
        found.set()

    async with hostile_server() as server, Transport(resolver=resolver) as transport, anyio.create_task_group() as group:
        for _ in range(50):
            group.start_soon(_get, transport, server)
            group.start_soon(lambda: _get(transport, server, url=f"http://hanging.test:{server.port}/"))
        group.start_soon(healthy, transport, server)
        with anyio.fail_after(5):
            await found.wait()
        assert asked.count("hanging.test") == module.LOOKUPS_PER_NAME
        group.cancel_scope.cancel()


async def test_there_is_room_for_an_answer_only_as_far_as_the_sender_says() -> None:
    seen: list[int] = []

    def two_pieces(size: int) -> bool:
        seen.append(size)
        return sum(seen) <= 128 * 1024

    async with hostile_server(Script(huge_body_bytes=1 << 20)) as server, Transport() as transport:
        request = HttpRequest("GET", server.url, cut=True, allowance=two_pieces)
        answer = await transport.send(request, allow_http_loopback=True)
        assert (len(answer.body), answer.is_cut) == (128 * 1024, True)
        seen.clear()
        with pytest.raises(IdentityError) as refused:
            await transport.send(HttpRequest("GET", server.url, allowance=two_pieces), allow_http_loopback=True)
        assert refused.value.code == "upstream_bad_response"
