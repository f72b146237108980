"""How much may one caller, or one address, ask for, and does anybody else notice?"""

from __future__ import annotations

from contextlib import ExitStack
from statistics import median

import anyio
import httpx2
import pytest

from mcp_identity.tools.limits import MOST_COUNTED, Buckets, Room, Sessions
from tests.fakes.clock import FakeClock
from tests.fakes.home import VaultHome
from tests.fakes.vendor import Vendor
from tests.http.kit import ACCEPT, Server, ask, http_client, initialize, mcp_over, open_session, server_here, whoami


async def test_one_principal_calls_so_often_and_others_do_not_notice(empty_home: VaultHome) -> None:
    """covers: A45."""
    async with server_here(empty_home, calls_per_second=1) as server, http_client() as http:
        codes: list[str] = []

        async def call() -> None:
            answer = (await ask(http, server, whoami(), server.bearer("alice"))).json()["result"]["structuredContent"]
            codes.append(answer.get("code", "ok"))
            if answer["status"] == "error":
                assert answer["retry_after_seconds"] == 1
                assert answer["retryable"] is True

        async with anyio.create_task_group() as tasks:
            for _ in range(12):
                tasks.start_soon(call)
        assert "ok" in codes
        assert "rate_limited" in codes
        other = (await ask(http, server, whoami(), server.bearer("mallory"))).json()["result"]["structuredContent"]
        assert other["status"] == "ok"
    limited = [event for event in empty_home.trail() if event["outcome"] == "rate_limited"]
    assert sum(int(event["detail"]["count"]) for event in limited) == codes.count("rate_limited")
    assert len(limited) <= 2  # however often it was refused
    assert {event["workload"] for event in limited} == {"alice"}


async def test_one_principal_sends_so_many_requests(empty_home: VaultHome) -> None:
    async with server_here(empty_home, requests_per_second=1) as server, http_client() as http:
        answers: list[httpx2.Response] = []

        async def send() -> None:
            answers.append(await ask(http, server, whoami(), server.bearer("alice")))

        async with anyio.create_task_group() as tasks:
            for _ in range(8):
                tasks.start_soon(send)
        assert any(answer.status_code == 200 for answer in answers)
        refused = next(answer for answer in answers if answer.status_code == 429)
        assert refused.json()["error"] == "rate_limited"
        assert refused.headers["retry-after"] == "1"
        assert (await ask(http, server, whoami(), server.bearer("mallory"))).status_code == 200


async def test_who_guesses_bearers_is_stopped_and_known_callers_at_the_same_address_are_not(empty_home: VaultHome) -> None:
    async with server_here(empty_home, failed_authentications_per_minute=5) as server, http_client() as http:
        assert (await ask(http, server, whoami(), server.bearer("alice"))).status_code == 200
        statuses = [
            (await ask(http, server, whoami(), {"authorization": f"Bearer mid_wk_{number:043d}"})).status_code
            for number in range(9)
        ]
        assert statuses == [401] * 5 + [429] * 4
        assert (await ask(http, server, whoami(), server.bearer("alice"))).status_code == 200
        stranger = await ask(http, server, whoami(), server.bearer("mallory"))
        assert stranger.status_code == 429
        assert int(stranger.headers["retry-after"]) > 1
        assert (await ask(http, server, whoami(), {})).status_code == 401
    found = {
        event["outcome"]: int(event["detail"]["count"]) for event in empty_home.trail() if event["action"] == "authenticate"
    }
    assert found == {"unauthenticated": 5, "rate_limited": 5}


async def test_sessions_of_one_caller_are_bounded(empty_home: VaultHome) -> None:
    """covers: A45."""
    async with server_here(empty_home, sessions_per_principal=2) as server, http_client() as http:
        alice = server.bearer("alice")
        first = await open_session(http, server, alice)
        await open_session(http, server, alice)
        refused = await http.post(f"{server.url}/mcp", json=initialize(), headers={**ACCEPT, **alice})
        assert refused.status_code == 429
        await open_session(http, server, server.bearer("mallory"))
        assert (await http.delete(f"{server.url}/mcp", headers={**ACCEPT, **alice, "mcp-session-id": first})).status_code == 200
        await open_session(http, server, alice)


async def test_sessions_of_everybody_are_bounded_and_stateless_clients_need_none(empty_home: VaultHome) -> None:
    async with server_here(empty_home, sessions=1) as server, http_client() as http:
        await open_session(http, server, server.bearer("alice"))
        refused = await http.post(f"{server.url}/mcp", json=initialize(), headers={**ACCEPT, **server.bearer("mallory")})
        assert refused.status_code == 503
        async with mcp_over(server, "http", "auto", server.bearer("mallory")) as client:
            assert (await client.call_tool("whoami", {})).structured_content


@pytest.mark.parametrize("path", ["/mcp", "/messages/?session_id=" + "0" * 32])
async def test_a_body_beyond_the_limit_is_refused(server: Server, http: httpx2.AsyncClient, path: str) -> None:
    """Said to be, or found to be; before it is parsed."""
    headers = {**ACCEPT, **server.bearer("alice")}
    body = b" " * (1024 * 1024 + 1)

    async def chunks() -> object:
        for _ in range(17):
            yield b" " * 65_536

    for content in (body, chunks()):
        answer = await http.post(server.url + path, content=content, headers=headers)  # type: ignore[arg-type]
        assert answer.status_code == 413
    assert (await http.post(server.url + path, content=body, headers=ACCEPT)).status_code == 401


async def test_a_header_beyond_the_limit_is_refused(server: Server, http: httpx2.AsyncClient) -> None:
    """covers: A56."""
    for length in (17_000, 200_000):
        try:
            answer = await http.get(f"{server.url}/healthz", headers={"x-long": "a" * length})
        except httpx2.HTTPError:
            continue  # cut off while it was still being sent
        assert answer.status_code in (400, 431)
    assert (await http.get(f"{server.url}/healthz", headers={"x-long": "a" * 15_000})).status_code == 200


async def timed(http: httpx2.AsyncClient, server: Server) -> list[float]:
    """How long some calls take, one after the other."""
    took: list[float] = []
    for _ in range(30):
        began = anyio.current_time()
        assert (await ask(http, server, whoami(), server.bearer("alice"))).status_code == 200
        took.append(anyio.current_time() - began)
    return took


async def test_slow_connections_harm_nobody_and_are_closed(empty_home: VaultHome) -> None:
    """Five hundred that never finish their header, and callers beside them.

    covers: A56
    """
    async with server_here(empty_home, request_seconds=3) as server, http_client() as http:
        port = int(server.url.rpartition(":")[2])
        alone = await timed(http, server)
        slow = [await anyio.connect_tcp("127.0.0.1", port) for _ in range(500)]
        for stream in slow:
            await stream.send(b"POST /mcp HTTP/1.1\r\nHost: x\r\nX-")
        beside = await timed(http, server)
        assert median(beside) < 3 * median(alone) + 0.1
        with anyio.fail_after(10):
            for stream in slow:
                with pytest.raises((anyio.EndOfStream, anyio.BrokenResourceError)):
                    await stream.receive()
                await stream.aclose()


async def test_more_connections_than_there_is_room_for_are_refused(empty_home: VaultHome) -> None:
    async with server_here(empty_home, connections=3, request_seconds=60) as server:
        port = int(server.url.rpartition(":")[2])
        held = [await anyio.connect_tcp("127.0.0.1", port) for _ in range(3)]
        async with http_client() as http:
            assert (await http.get(f"{server.url}/healthz")).status_code == 503
        for stream in held:
            await stream.aclose()


def test_a_bucket_fills_with_time_and_no_further() -> None:
    clock = FakeClock()
    buckets = Buckets(clock, 2)
    assert [buckets.take("a") == 0 for _ in range(3)] == [True, True, False]
    assert buckets.take("b") == 0
    assert 0 < buckets.take("a") <= 0.5
    clock.advance(0.5)
    assert buckets.take("a") == 0
    assert buckets.take("a") > 0
    clock.advance(3600)
    assert [buckets.take("a") == 0 for _ in range(3)] == [True, True, False]


def test_the_tables_do_not_grow_with_the_keys() -> None:
    buckets = Buckets(FakeClock(), 1)
    for number in range(20_000):
        buckets.take(number)
    assert len(vars(buckets)["_levels"]) == 10_000


def test_room_is_given_back() -> None:
    room = Room(2, 1)
    with room.hold("a", 1) as first, room.hold("a", 1) as second, room.hold("b", 2) as third, room.hold("c", 3) as fourth:
        assert (first, second, third, fourth) == (True, False, True, False)
    with room.hold("a", 1) as again:
        assert again
    assert not vars(room)["_inside"]


def test_a_workload_with_many_users_leaves_a_part_of_the_room_to_others() -> None:
    """covers: A45."""
    room = Room(8, 1)
    with ExitStack() as stack:
        assert [stack.enter_context(room.hold(number, "busy")) for number in range(8)] == [True] * 7 + [False]
        with room.hold("somebody", "quiet") as other:
            assert other


def test_sessions_that_rest_too_long_do_not_count() -> None:
    clock = FakeClock()
    sessions = Sessions(clock, 1, 60)
    sessions.note("a", "one")
    assert not sessions.has_room("a")
    clock.advance(61)
    assert sessions.has_room("a")
    assert not vars(sessions)["_used"]


def test_callers_that_never_come_again_fill_no_memory() -> None:
    sessions = Sessions(FakeClock(), 1, 60)
    for number in range(MOST_COUNTED):
        sessions.note(number, "one")
    sessions.note(0, "one")
    sessions.note("last", "one")
    assert len(vars(sessions)["_used"]) == MOST_COUNTED
    assert not sessions.has_room(0)
    assert sessions.has_room(1)  # of all of them, it was used longest ago


async def test_who_guesses_handles_is_stopped_though_its_own_bearer_is_good(empty_home: VaultHome) -> None:
    async with server_here(empty_home, failed_authentications_per_minute=3) as server, http_client() as http:
        statuses = [
            (
                await http.post(
                    f"{server.url}/v1/releases", json={"handle": f"mid_rel_{number:043d}"}, headers=server.bearer("alice")
                )
            ).status_code
            for number in range(6)
        ]
        assert statuses[3:] == [429] * 3
        assert not {200, 429} & set(statuses[:3])
        assert (await ask(http, server, whoami(), server.bearer("alice"))).status_code == 200
        for headers in ({}, {"authorization": "Bearer x"}):
            assert (await http.post(f"{server.url}/v1/releases", json={}, headers=headers)).status_code == 401


async def test_one_address_does_not_take_all_connections(empty_home: VaultHome) -> None:
    async with server_here(empty_home, connections_per_address=3, request_seconds=60) as server:
        port = int(server.url.rpartition(":")[2])
        held = [await anyio.connect_tcp("127.0.0.1", port) for _ in range(3)]
        async with http_client() as http:
            with pytest.raises(httpx2.HTTPError):
                await http.get(f"{server.url}/healthz")
            for stream in held:
                await stream.aclose()
            with anyio.fail_after(5):
                while True:
                    try:
                        assert (await http.get(f"{server.url}/healthz")).status_code == 200
                        break
                    except httpx2.HTTPError:
                        await anyio.lowlevel.checkpoint()


async def test_a_proxy_has_room_for_its_clients(empty_home: VaultHome) -> None:
    proxies = ("127.0.0.1",)
    async with (
        server_here(empty_home, connections_per_address=1, trusted_proxies=proxies) as server,
        http_client() as http,
    ):
        port = int(server.url.rpartition(":")[2])
        held = [await anyio.connect_tcp("127.0.0.1", port) for _ in range(3)]
        assert (await http.get(f"{server.url}/healthz")).status_code == 200
        for stream in held:
            await stream.aclose()


async def test_calls_over_a_stream_are_bounded_as_requests_are(home: VaultHome, vendor: Vendor) -> None:
    """There a request has long been answered while its call still runs."""
    vendor.hold = anyio.Event()
    async with (
        server_here(home, concurrent_requests_per_principal=2) as server,
        mcp_over(server, "sse", "legacy", server.bearer("alice")) as client,
        mcp_over(server, "sse", "legacy", server.bearer("mallory")) as other,
    ):
        await client.list_tools()  # the client wants the schema of what comes back
        codes: list[str] = []
        refused = anyio.Event()

        async def call() -> None:
            answer = (await client.call_tool("get_token", {"provider": "billing"})).structured_content
            assert answer is not None
            codes.append(answer.get("code", answer["status"]))
            if answer["status"] == "error":
                assert (answer["retryable"], answer["retry_after_seconds"]) == (True, 1)
            if len(codes) == 3:
                refused.set()

        async with anyio.create_task_group() as tasks:
            for _ in range(5):
                tasks.start_soon(call)
            with anyio.fail_after(5):
                await refused.wait()
            assert (await other.call_tool("whoami", {})).structured_content
            vendor.hold.set()
    assert sorted(codes) == ["ok"] * 2 + ["rate_limited"] * 3
