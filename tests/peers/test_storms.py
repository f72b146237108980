"""When everybody finds one token ended at once, is everybody answered, by one refresh? In several processes, on each store.

On SQLite the processes share a folder; on PostgreSQL each is a replica with a folder of its own and the same key. The
authorization server rotates refresh tokens and ends a family whose spent one is used again, and keeps a ledger.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import AsyncGenerator, Generator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio.to_thread
import pytest

from mcp_identity.broker.answers import TokenReleased
from tests.fakes.postgres import postgres
from tests.peers.product import Product, running_product
from tests.peers.servers import NodeOidcProvider, PeerClient

WORKER = Path(__file__).parent / "storm_worker.py"
LIFE_SECONDS = 300
PROVE = bool(os.environ.get("PROVE"))
CALLERS = (2, 8, 64)
STORMS = {
    "sqlite": [(callers, processes) for processes in (1, 4) for callers in CALLERS] if PROVE else [(8, 4), (64, 2)],
    "postgresql": [(callers, processes) for processes in (1, 2, 4) for callers in CALLERS] if PROVE else [(8, 2), (64, 2)],
}
ROUNDS = 10 if PROVE else 1


@dataclass(frozen=True, slots=True)
class Fleet:
    """Other processes on the vault."""

    workers: list[subprocess.Popen[str]]

    def storm(self, callers: int, processes: int, seconds: int) -> list[dict[str, Any]]:
        """Let so many callers in so many processes ask at once, so many seconds from now; what each process was given."""
        called = self.workers[:processes]
        order = json.dumps({"callers": callers, "seconds": seconds}) + "\n"
        for worker in called:
            assert worker.stdin is not None
            worker.stdin.write(order)
            worker.stdin.flush()
        return [json.loads(_line(worker)) for worker in called]


def _line(worker: subprocess.Popen[str]) -> str:
    assert worker.stdout is not None
    line = worker.stdout.readline()
    assert line, "a process ended"
    return line


@contextmanager
def fleet(home: Path, database_url: str, count: int) -> Generator[Fleet]:
    with ExitStack() as stack:
        workers: list[subprocess.Popen[str]] = []
        for number in range(count):
            own = home
            if database_url:
                own = home.with_name(f"replica-{number}")
                own.mkdir(mode=0o700)
                shutil.copy2(home / "key", own / "key")
            command = [sys.executable, WORKER, own, database_url]
            worker = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            workers.append(stack.enter_context(worker))
            stack.callback(worker.kill)
        for worker in workers:
            assert _line(worker) == "ready\n"
        yield Fleet(workers)


@asynccontextmanager
async def connected_product(
    home: Path, database_url: str, server: NodeOidcProvider
) -> AsyncGenerator[tuple[Product, PeerClient]]:
    async with running_product(home, database_url=database_url) as product:
        client = await product.register(server, access_token_seconds=LIFE_SECONDS)
        await product.connected()
        yield product, client


@pytest.mark.parametrize("store", ["sqlite", "postgresql"])
async def test_everybody_is_answered_by_one_refresh(tmp_path: Path, node_oidc_provider: NodeOidcProvider, store: str) -> None:
    """Covers: F27."""
    home, url = tmp_path / "home", postgres().create_database().url if store == "postgresql" else ""
    storms = [each for each in STORMS[store] for _ in range(ROUNDS)]
    async with connected_product(home, url, node_oidc_provider) as (product, client):
        before = node_oidc_provider.ledger(client)

        def sail() -> list[str]:
            """What was not as it should be, of each storm."""
            wrong: list[str] = []
            with fleet(home, url, max(processes for _, processes in storms)) as ships:
                for number, (callers, processes) in enumerate(storms, 1):
                    # The last storm's token ended a while ago, by the clock of all of them.
                    given = ships.storm(callers, processes, number * (LIFE_SECONDS + 100))
                    refreshes = node_oidc_provider.ledger(client).refreshes - before.refreshes
                    answered = sum(each["answered"] for each in given)
                    tokens = {token for each in given for token in each["tokens"]}
                    if (answered, len(tokens), refreshes) != (callers * processes, 1, number):
                        wrong.append(f"{callers} in {processes}: {answered} answered, {refreshes} refreshes, {given}")
            return wrong

        assert await anyio.to_thread.run_sync(sail) == []
        after = node_oidc_provider.ledger(client)
        assert (after.invalid_grant, after.families_revoked_by_reuse) == (0, 0)
        assert isinstance(await product.get(), TokenReleased)  # by a clock that is far behind: one refresh more, so it lives
        assert node_oidc_provider.ledger(client).refreshes == after.refreshes + 1
