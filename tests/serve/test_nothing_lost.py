"""What becomes of a refresh token that the vendor has rotated, when the process is ended before the answer comes?"""

from __future__ import annotations

import signal
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import anyio
import pytest

from tests.fakes.home import VaultHome
from tests.fakes.mcp_client import McpClient, ProtocolError, mcp_client
from tests.fakes.vendor import Vendor

PATIENCE_SECONDS = 4
"""A host waits two seconds after it has closed our input, and two more after SIGTERM; then it kills."""
NOTES = {"name": "get_token", "arguments": {"provider": "notes"}}


@asynccontextmanager
async def in_mid_refresh(home: VaultHome, vendor: Vendor) -> AsyncGenerator[tuple[McpClient, int]]:
    """A server whose refresh has rotated the token at the vendor, which still holds its answer; and the request's id."""
    await home.connect(hours_ago=2)
    vendor.hold = anyio.Event()
    async with mcp_client(home.environment()) as client:
        request = await client.begin("tools/call", **NOTES)
        with anyio.fail_after(10):
            await vendor.holding.wait()
        assert vendor.count("refresh_token") == 1
        yield client, request


def let_go(vendor: Vendor) -> None:
    """Let the vendor's answer go."""
    assert vendor.hold is not None
    vendor.hold.set()


async def test_the_end_of_the_input_waits_for_it(home: VaultHome, vendor: Vendor) -> None:
    async with in_mid_refresh(home, vendor) as (client, request):
        await client.close_input()
        with pytest.raises(ProtocolError, match="Connection closed"):
            await client.answer(request)
        assert not await client.ends_within(0.3)
        let_go(vendor)
        assert await client.wait(PATIENCE_SECONDS - 0.3) == 0
    assert await home.tokens() == (vendor.minted[-2], vendor.refresh_token)


async def test_a_signal_waits_for_it(home: VaultHome, vendor: Vendor) -> None:
    async with in_mid_refresh(home, vendor) as (client, _):
        client.terminate()
        assert not await client.ends_within(0.3)
        let_go(vendor)
        assert await client.wait() == 0
    assert await home.tokens() == (vendor.minted[-2], vendor.refresh_token)


async def test_a_cancelled_call_does_not_cancel_it(home: VaultHome, vendor: Vendor) -> None:
    async with in_mid_refresh(home, vendor) as (client, request):
        await client.notify("notifications/cancelled", requestId=request, reason="changed my mind")
        await client.request("ping")
        let_go(vendor)
        answer = await client.call("get_token", provider="notes")
        assert answer["access_token"] == vendor.minted[-2]
        assert not client.was_answered(request)
        assert vendor.count("refresh_token") == 1
    assert await home.tokens() == (vendor.minted[-2], vendor.refresh_token)


async def test_beyond_the_grace_the_process_ends_and_the_loss_is_named(home: VaultHome, vendor: Vendor) -> None:
    async with in_mid_refresh(home, vendor) as (client, _):
        await client.close_input()
        assert await client.wait(8) == 0
    let_go(vendor)
    async with mcp_client(home.environment()) as client:
        answer = await client.call("get_token", provider="notes")
    assert (answer["status"], answer["reason"]) == ("consent_required", "lost_in_flight")


async def test_a_killed_process_leaves_nothing_that_the_next_one_waits_for(home: VaultHome, vendor: Vendor) -> None:
    async with in_mid_refresh(home, vendor) as (client, _):
        client.terminate(signal.SIGKILL)
        assert await client.wait() == -signal.SIGKILL
    let_go(vendor)
    async with mcp_client(home.environment()) as client:
        with anyio.fail_after(10):  # a lease of a living owner would be watched for longer
            answer = await client.call("get_token", provider="notes")
    assert answer["status"] == "consent_required"


async def test_two_processes_refresh_once(home: VaultHome, vendor: Vendor) -> None:
    async with in_mid_refresh(home, vendor) as (first, request), mcp_client(home.environment()) as second:
        waiting = await second.begin("tools/call", **NOTES)
        await second.call("whoami")
        let_go(vendor)
        answers = [await first.answer(request), await second.answer(waiting)]
    assert {answer["structuredContent"]["access_token"] for answer in answers} == {vendor.minted[-2]}
    assert vendor.count("refresh_token") == 1
