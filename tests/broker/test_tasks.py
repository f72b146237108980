# pyright: reportPrivateUsage=false
"""Does owned work outlive its request, and does a shutdown wait for it, but not for ever?"""

from __future__ import annotations

import time
from pathlib import Path

import anyio
import pytest
from anyio.abc import TaskGroup

from mcp_identity import app
from mcp_identity.broker.tasks import OwnedTasks
from mcp_identity.domain.credentials import Reason, Secret
from mcp_identity.domain.errors import IdentityError, UnknownProvider, UpstreamRejected
from mcp_identity.settings import Settings
from tests.broker.kit import Product, raising, running_product
from tests.broker.test_exchange import until
from tests.fakes.authorization_server import FakeAuthorizationServer
from tests.fakes.clock import FakeClock


class Work:
    """Work that goes on when it is told to."""

    def __init__(self, error: Exception | None = None) -> None:
        self.begun, self.go, self.finished = anyio.Event(), anyio.Event(), anyio.Event()
        self._error = error

    async def __call__(self) -> str:
        self.begun.set()
        await self.go.wait()
        if self._error is not None:
            raise self._error
        self.finished.set()
        return "done"


async def test_work_gives_its_result_to_everybody_who_waits() -> None:
    tasks, work = OwnedTasks(), Work()
    results: list[str] = []
    async with tasks.running(lambda: 1):
        owned = tasks.start(work)

        async def wait() -> None:
            results.append(await owned.wait())

        async with anyio.create_task_group() as group:
            for _ in range(3):
                group.start_soon(wait)
            work.go.set()
    assert results == ["done"] * 3


async def test_a_cancelled_waiter_cancels_nothing() -> None:
    tasks, work = OwnedTasks(), Work()
    async with tasks.running(lambda: 1):
        async with anyio.create_task_group() as group:
            group.start_soon(tasks.run, work)
            await until(work.begun)
            group.cancel_scope.cancel()
        work.go.set()
        await until(work.finished)


async def test_every_waiter_gets_the_error_as_its_own() -> None:
    tasks = OwnedTasks()
    work = Work(UpstreamRejected("no", error="invalid_client", description="who?", retry_after_seconds=7))
    work.go.set()
    caught: list[UpstreamRejected] = []
    async with tasks.running(lambda: 1):
        owned = tasks.start(work)
        for _ in range(2):
            with pytest.raises(UpstreamRejected) as refused:
                await owned.wait()
            caught.append(refused.value)
    assert caught[0] is not caught[1]
    assert {(each.message, each.error, each.description, each.retry_after_seconds) for each in caught} == {
        ("no", "invalid_client", "who?", 7)
    }


async def test_an_error_that_nobody_designed_comes_through_too() -> None:
    tasks, work = OwnedTasks(), Work(ValueError("x"))
    work.go.set()
    async with tasks.running(lambda: 1):
        with pytest.raises(ValueError, match="x"):
            await tasks.run(work)
        assert await tasks.run(_quick) == 1


async def _quick() -> int:
    return 1


async def test_a_shutdown_waits_for_what_is_under_way() -> None:
    tasks, work = OwnedTasks(), Work()

    async def later() -> None:
        await until(work.begun)
        work.go.set()

    async with anyio.create_task_group() as group, tasks.running(lambda: 10):
        tasks.start(work)
        group.start_soon(later)
    assert work.finished.is_set()


async def test_a_shutdown_does_not_wait_longer_than_it_may() -> None:
    tasks, work = OwnedTasks(), Work()
    began = time.monotonic()
    async with tasks.running(lambda: 0.05):
        owned = tasks.start(work)
        await until(work.begun)
    assert time.monotonic() - began < 5
    assert not work.finished.is_set()
    with raising("vault_unavailable"):
        await owned.wait()


async def test_a_cancelled_server_still_waits_for_what_is_under_way() -> None:
    tasks, work = OwnedTasks(), Work()

    async def serve() -> None:
        async with tasks.running(lambda: 10):
            tasks.start(work)
            await anyio.sleep_forever()

    async with anyio.create_task_group() as group:
        group.start_soon(serve)
        await until(work.begun)
        group.cancel_scope.cancel()
        work.go.set()
    assert work.finished.is_set()


async def test_nothing_begins_once_the_server_ends() -> None:
    tasks = OwnedTasks()
    for _ in range(2):
        with raising("vault_unavailable"):
            tasks.start(_quick)
        async with tasks.running(lambda: 0):
            pass


# The whole product


async def test_a_refresh_under_way_is_stored_before_the_vault_closes(tmp_path: Path) -> None:
    clock = FakeClock()
    async with anyio.create_task_group() as group, running_product(tmp_path / "home", clock=clock) as product:
        await refreshing(product, group)
        assert product.server.hold is not None
        group.start_soon(_set_when_ending, product, product.server.hold)
    async with running_product(tmp_path / "home", clock=clock) as again:
        tokens = (await again.grant()).tokens
        assert tokens is not None
        assert tokens.refresh_token == Secret("refresh-token-canary-2")


async def refreshing(product: Product, group: TaskGroup) -> None:
    """A refresh is under way whose answer is held back."""
    await product.add()
    await product.connected()
    product.clock.advance(3600)
    product.server.hold = anyio.Event()
    group.start_soon(_quietly, product)
    await until(product.server.holding)


async def _quietly(product: Product) -> None:
    try:
        await product.get()
    except IdentityError:
        return


async def _set_when_ending(product: Product, hold: anyio.Event) -> None:
    """Let the vendor answer once the product takes no new work."""
    with anyio.fail_after(10):
        while product.prepared.tasks._group is not None:
            await anyio.lowlevel.checkpoint()
    hold.set()


async def test_a_refresh_that_outlives_the_grace_is_named_afterwards(tmp_path: Path) -> None:
    clock = FakeClock()
    server = FakeAuthorizationServer(clock.now)
    async with (
        anyio.create_task_group() as group,
        running_product(tmp_path / "home", grace_seconds=0.05, clock=clock, server=server) as product,
    ):
        await refreshing(product, group)
    server.hold = None
    async with running_product(tmp_path / "home", clock=clock, server=server) as again:
        assert (await again.link()).reason is Reason.LOST_IN_FLIGHT


async def test_an_error_inside_the_running_product_comes_out_as_it_is(tmp_path: Path) -> None:
    with pytest.raises(UnknownProvider):
        async with app.open(Settings(home=tmp_path / "home")):
            raise UnknownProvider("x")
