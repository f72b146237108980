"""What becomes of a token that the vendor has given or rotated, when the client hangs up or the server is told to end?

The interruptions that HTTP and SSE know, in the middle of a callback, of a refresh, and of a request of the client's own.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, Literal

import anyio
import anyio.to_thread
import httpx2
import pytest

from tests.fakes.browser import Browser
from tests.fakes.home import VaultHome
from tests.fakes.vendor import Vendor
from tests.http.kit import Server, Transport, ask, http_client, mcp_over, server_process, stateless

Work = Literal["callback", "refresh", "own"]
WORKLOAD = "claude-desktop"
ARGUMENTS = ("--transport", "sse", "--port", "0", "--insecure-loopback", "--workload", WORKLOAD)
PROVIDER: Mapping[Work, str] = {"callback": "notes", "refresh": "notes", "own": "billing"}
GRANT_TYPE: Mapping[Work, str] = {"callback": "authorization_code", "refresh": "refresh_token", "own": "client_credentials"}


async def get_token(http: httpx2.AsyncClient, server: Server, provider: str) -> dict[str, Any]:
    """The structured answer of `get_token`."""
    request = stateless("tools/call", {"name": "get_token", "arguments": {"provider": provider}})
    return (await ask(http, server, request, {})).json()["result"]["structuredContent"]


async def act(
    work: Work, transport: Transport, server: Server, http: httpx2.AsyncClient
) -> Callable[[], Coroutine[Any, Any, object]]:
    """What makes the server ask the vendor, up to the last request."""
    if work == "callback":
        link = (await get_token(http, server, "notes"))["authorization_url"]

        def consent() -> tuple[str, str]:
            with Browser(stop_at=f"{server.url}/oauth2/callback/") as browser:
                page = browser.get(link)
                landed = browser.submit(page.forms[0], page=page).url
                return landed, browser.cookies.header(landed, cross_site=True, method="GET")

        url, cookie = await anyio.to_thread.run_sync(consent)
        return lambda: http.get(url, headers={"cookie": cookie})

    async def call() -> None:
        if transport == "http":
            await get_token(http, server, PROVIDER[work])
            return
        async with mcp_over(server, "sse", "legacy", {}) as client:
            await client.list_tools()  # the client wants the schema of what comes back, and later there is nobody to ask
            await client.call_tool("get_token", {"provider": PROVIDER[work]})

    return call


async def is_there(server: Server, http: httpx2.AsyncClient, vendor: Vendor, work: Work) -> None:
    """The token that the vendor gave is served, and was asked for once."""
    with anyio.fail_after(10):
        while (answer := await get_token(http, server, PROVIDER[work]))["status"] != "ok":
            assert work == "callback", answer  # until the exchange is committed, its session is open
    assert answer["access_token"] in vendor.minted
    assert vendor.count(GRANT_TYPE[work]) == 1


async def ready(home: VaultHome, vendor: Vendor, work: Work) -> None:
    """A vault in which this work is to be done, and a vendor that holds its answer back."""
    if work == "refresh":
        await home.connect(workload=WORKLOAD, hours_ago=2)
    vendor.hold = anyio.Event()


WORKS: tuple[tuple[Work, Transport], ...] = (
    ("callback", "http"), ("refresh", "http"), ("own", "http"), ("refresh", "sse"), ("own", "sse"),
)  # fmt: skip


@pytest.mark.parametrize(("work", "transport"), WORKS)
async def test_a_client_that_hangs_up_costs_nothing(home: VaultHome, vendor: Vendor, work: Work, transport: Transport) -> None:
    """covers: A14, Q13."""
    await ready(home, vendor, work)
    async with server_process(home, *ARGUMENTS) as server, http_client() as http:
        async with http_client() as client, anyio.create_task_group() as tasks:
            tasks.start_soon(await act(work, transport, server, client))
            await vendor.holding.wait()
            tasks.cancel_scope.cancel()
        assert vendor.hold is not None
        vendor.hold.set()
        await is_there(server, http, vendor, work)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize(("work", "transport"), WORKS)
async def test_a_signal_waits_for_it(
    home: VaultHome, vendor: Vendor, work: Work, transport: Transport, number: signal.Signals
) -> None:
    """covers: A14, Q13."""
    await ready(home, vendor, work)
    async with server_process(home, *ARGUMENTS) as server, http_client() as client:
        assert server.process is not None
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(await act(work, transport, server, client))
            await vendor.holding.wait()
            server.process.send_signal(number)
            with anyio.move_on_after(0.3):
                await server.process.wait()
            assert server.process.returncode is None
            assert vendor.hold is not None
            vendor.hold.set()
            with anyio.fail_after(8):
                assert await server.process.wait() == 0
            tasks.cancel_scope.cancel()
    async with server_process(home, *ARGUMENTS) as server, http_client() as http:
        await is_there(server, http, vendor, work)
