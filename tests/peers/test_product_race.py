"""Is one rotating refresh token safe with many processes, and with one that dies at the worst moment?"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import pytest

from mcp_identity.broker.answers import TokenReleased
from mcp_identity.domain.credentials import GrantState, Reason
from tests.peers.product import Product, running_product
from tests.peers.servers import NodeOidcProvider, PeerClient

WORKER = Path(__file__).parent / "worker.py"
PROCESSES, EXPIRIES = (8, 20) if os.environ.get("PROVE") else (5, 6)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


@pytest.fixture
async def product(home: Path) -> AsyncGenerator[Product]:
    async with running_product(home) as one:
        yield one


class Worker:
    """Another process on the vault."""

    def __init__(self, home: Path, *options: str) -> None:
        command = [sys.executable, WORKER, home, *options]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        self._output = self._process.stdout

    def wait_until_ready(self) -> None:
        assert self._output.readline() == "ready\n"

    def begin(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()

    def result(self) -> dict[str, Any]:
        """What it printed in the end; nothing if it died."""
        text = self._output.read()
        self._process.wait(10)
        self._output.close()
        return json.loads(text) if text else {}

    @property
    def exit_status(self) -> int | None:
        return self._process.returncode


def _race(home: Path, tokens: int) -> list[dict[str, Any]]:
    workers = [Worker(home, "--tokens", str(tokens)) for _ in range(PROCESSES)]
    for worker in workers:
        worker.wait_until_ready()
    for worker in workers:
        worker.begin()
    return [worker.result() for worker in workers]


@pytest.fixture
async def client(product: Product, node_oidc_provider: NodeOidcProvider) -> PeerClient:
    """A client whose access tokens live for a second, with a grant."""
    client = await product.register(node_oidc_provider, access_token_seconds=1)
    await product.connected()
    return client


async def test_many_processes_refresh_once_for_each_expiry(
    product: Product, home: Path, node_oidc_provider: NodeOidcProvider, client: PeerClient
) -> None:
    results = await anyio.to_thread.run_sync(_race, home, EXPIRIES + 1)
    ledger = node_oidc_provider.ledger(client)
    distinct = {fingerprint for result in results for fingerprint in result["seen"]}
    assert [result["errors"] for result in results] == [[]] * PROCESSES
    assert all(len(result["seen"]) == EXPIRIES + 1 for result in results)
    assert ledger.invalid_grant == 0
    assert ledger.families_revoked_by_reuse == 0
    assert ledger.refreshes >= EXPIRIES
    # The first token of all may have ended before anybody looked at it.
    assert ledger.refreshes - len(distinct) in (-1, 0)
    assert isinstance(await product.get(), TokenReleased)


async def until_stale(released: TokenReleased) -> None:
    assert released.expires_at is not None
    await anyio.sleep(max(0.0, released.expires_at.timestamp() - time.time()) + 0.01)


def _killed(home: Path, moment: str) -> int | None:
    worker = Worker(home, "--die", moment)
    worker.wait_until_ready()
    worker.begin()
    assert worker.result() == {}
    return worker.exit_status


async def test_a_process_that_dies_before_it_asks_costs_nothing(
    product: Product, home: Path, node_oidc_provider: NodeOidcProvider, client: PeerClient
) -> None:
    await until_stale(await product.token())
    before = node_oidc_provider.ledger(client).refreshes
    assert await anyio.to_thread.run_sync(_killed, home, "before-request") == 9
    began = time.monotonic()
    assert (await product.token()).refreshed
    assert time.monotonic() - began < 5  # the lease of the dead would run for fifteen seconds
    ledger = node_oidc_provider.ledger(client)
    assert (ledger.refreshes - before, ledger.invalid_grant) == (1, 0)


async def test_a_process_that_dies_with_the_answer_in_its_hands_leaves_a_loss_with_a_name(
    product: Product, home: Path, node_oidc_provider: NodeOidcProvider, client: PeerClient
) -> None:
    await until_stale(await product.token())
    assert await anyio.to_thread.run_sync(_killed, home, "after-answer") == 9
    began = time.monotonic()
    consent = await product.link()
    assert time.monotonic() - began < 5
    assert consent.reason is Reason.LOST_IN_FLIGHT
    assert node_oidc_provider.ledger(client).invalid_grant == 1
    (grant,) = (await product.broker.list_grants(product.broker.call(product.principal, "list_grants"))).grants
    assert (grant.state, grant.reason) == (GrantState.NEEDS_CONSENT, Reason.LOST_IN_FLIGHT)
    await product.person_opens(consent.authorization_url)
    assert isinstance(await product.get(), TokenReleased)
