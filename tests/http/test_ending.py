"""How does a server end? It takes nothing new, lets what is under way end, loses nothing, and says 0."""

from __future__ import annotations

import signal

import anyio
import httpx2
import pytest

from tests.fakes.home import VaultHome
from tests.fakes.vendor import Vendor
from tests.http.kit import (
    ACCEPT,
    LEGACY_VERSION,
    Server,
    add_agents,
    ask,
    http_client,
    mcp_over,
    open_session,
    server_here,
    server_process,
    stateless,
    whoami,
)

GETS_TOKEN = stateless("tools/call", {"name": "get_token", "arguments": {"provider": "billing"}})
ARGUMENTS = ("--transport", "sse", "--port", "0")


async def ended(server: Server, seconds: float = 8) -> int:
    """The exit status."""
    assert server.process is not None
    with anyio.fail_after(seconds):
        return await server.process.wait()


def end(server: Server, number: signal.Signals = signal.SIGTERM) -> None:
    """Send a signal."""
    assert server.process is not None
    server.process.send_signal(number)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_ends_an_idle_server_at_once(number: signal.Signals, empty_home: VaultHome) -> None:
    keys = await add_agents(empty_home, "alice")
    async with server_process(empty_home, *ARGUMENTS, keys=keys) as server, http_client() as http:
        assert (await ask(http, server, whoami(), server.bearer("alice"))).status_code == 200
        end(server, number)
        assert await ended(server, 4) == 0
    assert server.log.count(b"\n") == 2  # where it serves, and nothing else


async def test_open_streams_do_not_hold_it_up(empty_home: VaultHome) -> None:
    keys = await add_agents(empty_home, "alice")
    async with server_process(empty_home, *ARGUMENTS, keys=keys) as server, http_client() as http:
        alice = server.bearer("alice")
        session = {"mcp-session-id": await open_session(http, server, alice), "mcp-protocol-version": LEGACY_VERSION}
        async with (
            http.stream("GET", f"{server.url}/sse", headers=alice) as sse,
            http.stream("GET", f"{server.url}/mcp", headers={**alice, **session, "accept": "text/event-stream"}) as events,
        ):
            assert (sse.status_code, events.status_code) == (200, 200)
            end(server)
            async for _ in events.aiter_bytes():
                pass
            async for _ in sse.aiter_bytes():
                pass
            assert await ended(server, 4) == 0
    assert server.log.count(b"\n") == 2


async def test_a_call_under_way_gets_its_answer(home: VaultHome, vendor: Vendor) -> None:
    """covers: A14, Q13."""
    keys = await add_agents(home, "alice")
    vendor.hold = anyio.Event()
    answers: list[httpx2.Response] = []
    async with server_process(home, *ARGUMENTS, keys=keys) as server, http_client() as http:

        async def call() -> None:
            answers.append(await ask(http, server, GETS_TOKEN, server.bearer("alice")))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(call)
            await vendor.holding.wait()
            end(server)
            while True:  # the port is closed before the answer is there
                try:
                    await ask(http, server, whoami(), server.bearer("alice"))
                except httpx2.HTTPError:
                    break
            vendor.hold.set()
        assert await ended(server) == 0
    structured = answers[0].json()["result"]["structuredContent"]
    assert structured["access_token"] == vendor.minted[-1]


async def test_an_answer_of_sse_still_goes_out_on_the_stream_that_ends(home: VaultHome, vendor: Vendor) -> None:
    vendor.hold = anyio.Event()
    async with server_here(home) as server:
        assert server.serving is not None
        async with mcp_over(server, "sse", "legacy", server.bearer("alice")) as client:
            await client.list_tools()  # the client wants the schema of what comes back
            found: list[str] = []

            async def call() -> None:
                answer = await client.call_tool("get_token", {"provider": "billing"})
                assert answer.structured_content is not None
                found.append(answer.structured_content["access_token"])

            async with anyio.create_task_group() as tasks:
                tasks.start_soon(call)
                await vendor.holding.wait()
                server.serving.ending.begin()
                vendor.hold.set()
            assert found == [vendor.minted[-1]]


async def test_while_it_ends_it_is_not_ready_and_takes_nothing_new(home: VaultHome, vendor: Vendor) -> None:
    async with server_here(home) as server, http_client() as http:
        assert server.serving is not None
        assert (await http.get(f"{server.url}/readyz")).status_code == 200
        server.serving.ending.begin()
        assert (await http.get(f"{server.url}/readyz")).status_code == 503
        assert (await http.get(f"{server.url}/healthz")).status_code == 200
        assert (await ask(http, server, whoami(), server.bearer("alice"))).status_code == 503
    assert vendor.received == []


async def test_beyond_the_grace_it_ends_all_the_same(home: VaultHome, vendor: Vendor) -> None:
    vendor.hold = anyio.Event()
    answers: list[httpx2.Response] = []
    async with http_client() as http, anyio.create_task_group() as tasks:
        async with server_here(home, grace_seconds=1) as server:

            async def call() -> None:
                answers.append(await ask(http, server, GETS_TOKEN, server.bearer("alice")))

            tasks.start_soon(call)
            await vendor.holding.wait()
            began = anyio.current_time()
        assert 0.9 < anyio.current_time() - began < 3
    assert [answer.status_code for answer in answers] == [503]


async def test_a_second_signal_ends_it_at_once(home: VaultHome, vendor: Vendor) -> None:
    keys = await add_agents(home, "alice")
    vendor.hold = anyio.Event()
    async with (
        server_process(home, *ARGUMENTS, keys=keys) as server,
        http_client() as http,
        anyio.create_task_group() as tasks,
    ):

        async def call() -> None:
            with pytest.raises(httpx2.HTTPError):
                await ask(http, server, GETS_TOKEN, server.bearer("alice"))

        tasks.start_soon(call)
        await vendor.holding.wait()
        end(server)
        assert server.process is not None
        with anyio.move_on_after(0.5):
            await server.process.wait()
        assert server.process.returncode is None
        end(server)
        assert await ended(server, 3) == 128 + signal.SIGTERM


async def test_what_was_refused_is_written_down_at_the_end(empty_home: VaultHome) -> None:
    async with server_here(empty_home) as server, http_client() as http:
        for _ in range(7):
            answer = await http.post(f"{server.url}/mcp", json={}, headers={**ACCEPT, "authorization": "Bearer secret-canary"})
            assert answer.status_code == 401
    found = [event for event in empty_home.trail() if event["action"] == "authenticate"]
    assert sum(int(event["detail"]["count"]) for event in found) == 7
    assert len(found) <= 2
    assert {(event["outcome"], event["detail"]["source"], event["edge"]) for event in found} == {
        ("unauthenticated", "127.0.0.1", "http")
    }
    assert "canary" not in str(empty_home.trail())
