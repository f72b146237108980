"""Has a signed write one effect, however often and however close together it is sent, and whatever ends in between?"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import timedelta
from hashlib import sha256
from pathlib import Path

import anyio
import pytest

from mcp_identity.broker.replays import KEPT, LATEST_SECONDS, PATIENCE_SECONDS, PURPOSE, Replays
from mcp_identity.domain.errors import Conflict, InvalidRequest, VaultCorrupt
from mcp_identity.vault.records import Records
from tests.broker.kit import Product, raising

ONE, OTHER = sha256(b"one").digest(), sha256(b"other").digest()
Work = Callable[[], Awaitable[bytes]]


class Counting:
    """A piece of work that says how often it was done.

    Attributes:
        times: So often.
        error: Raised in place of an answer.
        gate: It waits for this, if there is one.
    """

    def __init__(self, *, error: Exception | None = None, gate: anyio.Event | None = None) -> None:
        self.times = 0
        self.error = error
        self.gate = gate
        self.begun = anyio.Event()

    async def __call__(self) -> bytes:
        self.times += 1
        self.begun.set()
        if self.gate is not None:
            await self.gate.wait()
        if self.error is not None:
            raise self.error
        return b"outcome %d" % self.times


@pytest.fixture
def replays(product: Product) -> Replays:
    return product.broker.replays


def elsewhere(product: Product) -> Replays:
    """Another process of the same vault, as far as what it remembers goes."""
    return Replays(product.broker._services)  # pyright: ignore[reportPrivateUsage]


async def test_the_second_one_gets_the_first_outcome(product: Product, replays: Replays) -> None:
    """covers: A62."""
    work = Counting()
    assert await replays.once("default", ONE, work) == b"outcome 1"
    assert await replays.once("default", ONE, work) == b"outcome 1"
    assert await elsewhere(product).once("default", ONE, work) == b"outcome 1"
    assert work.times == 1
    assert await replays.once("default", OTHER, work) == b"outcome 2"


async def test_another_call_that_was_signed_alike_is_told_to_be_signed_anew(product: Product, replays: Replays) -> None:
    """Two calls of one client within a second; much later, it can only be the same request once more."""
    work = Counting()
    assert await replays.once("default", ONE, work, call_name=b"call 1") == b"outcome 1"
    assert await replays.once("default", ONE, work, call_name=b"call 1") == b"outcome 1"
    product.clock.advance(0.99)
    with raising("rate_limited") as caught:
        await replays.once("default", ONE, work, call_name=b"call 2")
    assert (caught.value.retryable, work.times) == (True, 1)
    product.clock.advance(LATEST_SECONDS)
    assert await replays.once("default", ONE, work, call_name=b"call 2") == b"outcome 1"
    assert work.times == 1


async def test_of_two_at_once_one_has_an_effect_and_both_get_its_outcome(product: Product, replays: Replays) -> None:
    gate, answers = anyio.Event(), list[bytes]()
    work = Counting(gate=gate)

    async def ask(where: Replays) -> None:
        answers.append(await where.once("default", ONE, work))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(ask, replays)
        await work.begun.wait()
        for _ in range(3):
            tasks.start_soon(ask, replays)
            tasks.start_soon(ask, elsewhere(product))
        await anyio.lowlevel.checkpoint()
        gate.set()
    assert answers == [b"outcome 1"] * 7
    assert work.times == 1


async def test_a_caller_who_goes_away_ends_neither_the_work_nor_what_is_kept_of_it(replays: Replays) -> None:
    gate = anyio.Event()
    work = Counting(gate=gate)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(replays.once, "default", ONE, work)
        await work.begun.wait()
        tasks.cancel_scope.cancel()
    gate.set()
    assert await replays.once("default", ONE, work) == b"outcome 1"
    assert work.times == 1


async def test_what_was_cut_off_by_the_end_of_a_process_is_not_done_again(product: Product, replays: Replays) -> None:
    await product.run(lambda records: _mark(records, product.clock.now() + KEPT))
    product.clock.advance(PATIENCE_SECONDS + 1)
    work = Counting()
    with raising("conflict") as caught:
        await replays.once("default", ONE, work)
    assert not caught.value.retryable
    assert work.times == 0


def _mark(records: Records, expires_at: object) -> None:
    from datetime import datetime

    assert isinstance(expires_at, datetime)
    records.insert_replay_mark("default", PURPOSE, ONE, expires_at=expires_at)


async def test_a_first_one_that_was_refused_may_come_again(replays: Replays) -> None:
    work = Counting(error=InvalidRequest("no"))
    with raising("invalid_request"):
        await replays.once("default", ONE, work)
    work.error = None
    assert await replays.once("default", ONE, work) == b"outcome 2"


async def test_who_waits_for_one_that_comes_to_nothing_is_told_to_ask_again(product: Product, replays: Replays) -> None:
    gate, codes = anyio.Event(), list[str]()
    work = Counting(error=InvalidRequest("no"), gate=gate)

    async def ask() -> None:
        try:
            await replays.once("default", ONE, work)
        except (Conflict, InvalidRequest) as error:
            codes.append(error.code)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(ask)
        await work.begun.wait()
        tasks.start_soon(ask)
        await product.run(lambda _records: None)
        gate.set()
    assert sorted(codes) == ["conflict", "invalid_request"]


async def test_after_an_unforeseen_end_nothing_is_done_again(product: Product, replays: Replays) -> None:
    work = Counting(error=ZeroDivisionError("a bug"))
    with pytest.raises(ZeroDivisionError):
        await replays.once("default", ONE, work)
    product.clock.advance(PATIENCE_SECONDS + 1)
    with raising("conflict"):
        await replays.once("default", ONE, work)
    assert work.times == 1


async def test_a_signature_is_known_for_longer_than_it_is_good(product: Product, replays: Replays) -> None:
    work = Counting()
    await replays.once("default", ONE, work)
    product.clock.advance(timedelta(minutes=10).total_seconds())
    assert await replays.once("default", ONE, work) == b"outcome 1"
    product.clock.advance(61)
    assert await replays.once("default", ONE, work) == b"outcome 2"


async def test_what_cannot_come_again_is_swept(product: Product, replays: Replays) -> None:
    await replays.once("default", ONE, Counting())
    await product.broker.sweep()
    assert await product.run(_count) == 1
    product.clock.advance(KEPT.total_seconds() + 1)
    await product.broker.sweep()
    assert await product.run(_count) == 0
    assert await replays.sweep() == 0


def _count(records: Records) -> int:
    return int(records.connection.exec_driver_sql("SELECT count(*) FROM replay_marks").scalar_one())


async def test_an_outcome_that_was_changed_or_moved_is_not_told(product: Product, replays: Replays) -> None:
    await replays.once("default", ONE, Counting())
    await replays.once("default", OTHER, Counting())
    await product.sql("UPDATE replay_marks SET outcome = (SELECT b.outcome FROM replay_marks b WHERE b.id <> replay_marks.id)")
    with pytest.raises(VaultCorrupt):
        await replays.once("default", ONE, Counting())
    await product.vault.ensure_tenant("acme")
    await product.sql("UPDATE replay_marks SET tenant_id = 'acme'")
    with pytest.raises(VaultCorrupt):
        await replays.once("default", ONE, Counting())


async def test_a_server_that_is_ending_begins_nothing(tmp_path: Path) -> None:
    from tests.broker.kit import running_product

    async with running_product(tmp_path / "home") as product:
        replays, work = product.broker.replays, Counting()
        tasks = product.prepared.tasks
        group, tasks._group = tasks._group, None  # pyright: ignore[reportPrivateUsage]
        with raising("vault_unavailable"):
            await replays.once("default", ONE, work)
        tasks._group = group  # pyright: ignore[reportPrivateUsage]
        assert await replays.once("default", ONE, work) == b"outcome 1"
