"""What becomes of a refresh token that the vendor has rotated, when another process comes, or this one is killed?"""

from __future__ import annotations

import signal
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import anyio

from tests.fakes.home import VaultHome
from tests.fakes.mcp_client import McpClient, mcp_client
from tests.fakes.vendor import Vendor

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
