"""What do those cost who wait for another process's refresh?"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import anyio
import pytest

from mcp_identity.broker import refresh
from mcp_identity.vault.vault import Vault
from tests.broker.kit import Product, raising, running_product


@dataclass(slots=True)
class Two:
    """Two processes on one vault."""

    winner: Product
    loser: Product


@pytest.fixture
async def two(tmp_path: Path) -> AsyncGenerator[Two]:
    home = tmp_path / "home"
    async with running_product(home) as winner, running_product(home, clock=winner.clock, server=winner.server) as loser:
        await winner.add()
        await winner.connected()
        await loser.token()
        winner.clock.advance(3600)
        yield Two(winner, loser)


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often a vault is asked, by process and way."""
    count = Counter[str]()

    def counting(way: str) -> Any:
        original = getattr(Vault, way)

        async def ask(vault: Vault, *arguments: Any) -> Any:
            count[f"{vault.process_id} {way}"] += 1
            return await original(vault, *arguments)

        return ask

    for way in ("run", "read"):
        monkeypatch.setattr(Vault, way, counting(way))
    return count


async def reads(counted: Counter[str], product: Product, least: int) -> None:
    with anyio.fail_after(10):
        while counted[f"{product.vault.process_id} read"] < least:
            await anyio.lowlevel.checkpoint()


async def test_losers_look_beside_the_writer_and_each_is_answered(two: Two, counted: Counter[str]) -> None:
    server, tokens = two.winner.server, set[str]()
    server.hold = anyio.Event()

    async def get(product: Product) -> None:
        tokens.add((await product.token()).access_token.reveal())

    async with anyio.create_task_group() as group:
        group.start_soon(get, two.winner)
        with anyio.fail_after(10):
            await server.holding.wait()
        for _ in range(500):
            group.start_soon(get, two.loser)
        await reads(counted, two.loser, 3)
        hold, server.hold = server.hold, None
        hold.set()
    assert len(tokens) == 1
    assert server.count("refresh_token") == 1
    # For each caller: the token was stale, and then fresh. For all of them together: the lease was held, and then not needed.
    assert counted[f"{two.loser.vault.process_id} run"] <= 2 * 500 + 2


async def test_a_loser_looks_at_most_forty_times_a_second_and_at_least_four(two: Two, monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []
    sleep = anyio.sleep

    async def noted(seconds: float) -> None:
        pauses.append(seconds)
        await sleep(0)

    server = two.winner.server
    server.hold = anyio.Event()
    async with anyio.create_task_group() as group:
        group.start_soon(two.winner.token)
        with anyio.fail_after(10):
            await server.holding.wait()
        # In this module alone: whoever else sleeps in this process has pauses of their own.
        monkeypatch.setattr(refresh, "anyio", SimpleNamespace(**{**vars(anyio), "sleep": noted}))
        group.start_soon(two.loser.token)
        with anyio.fail_after(10):
            while len(pauses) < 40:
                await anyio.lowlevel.checkpoint()
        monkeypatch.undo()
        hold, server.hold = server.hold, None
        hold.set()
    assert min(pauses) >= 0.025
    assert max(pauses) <= 0.25
    assert len(set(pauses)) > 20
    assert max(pauses[:2]) < 0.06  # a refresh is usually short


async def test_a_loser_gives_up_in_the_end_and_says_when_to_come_back(two: Two, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(refresh, "GIVE_UP_SECONDS", 0.0)
    server = two.winner.server
    server.hold = anyio.Event()
    async with anyio.create_task_group() as group:
        group.start_soon(two.winner.token)
        with anyio.fail_after(10):
            await server.holding.wait()
        with raising("upstream_unavailable") as told:
            await two.loser.get()
        assert told.value.retry_after_seconds == 5
        hold, server.hold = server.hold, None
        hold.set()
