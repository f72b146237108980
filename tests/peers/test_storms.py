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
from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio.to_thread
import pytest

from mcp_identity.broker.answers import TokenReleased
from mcp_identity.domain.credentials import Secret
from tests.fakes.postgres import postgres
from tests.peers.product import Product, running_product
from tests.peers.servers import NodeOidcProvider, PeerClient

WORKER = Path(__file__).parent / "storm_worker.py"
LIFE_SECONDS = 300
PROVE = bool(os.environ.get("PROVE"))
CALLERS = (2, 8, 64)
STORMS = {
    "sqlite": [(callers, processes) for processes in (1, 4) for callers in CALLERS] if PROVE else [(8, 4), (64, 1)],
    "postgresql": [(callers, processes) for processes in (1, 2, 4) for callers in CALLERS] if PROVE else [(8, 2), (64, 2)],
}
ROUNDS = 10 if PROVE else 1
TRIALS = [(2, 16)] * 200 if PROVE else []


@dataclass(frozen=True, slots=True)
class Fleet:
    """Other processes on the vault."""

    workers: list[subprocess.Popen[str]]

    def storm(
        self, callers: int, processes: int, *, seconds: int = 0, provider: str = "peer", agent: str = "agent"
    ) -> list[dict[str, Any]]:
        """Let so many callers in so many processes ask at once, so many seconds from now; what each process was given."""
        called = self.workers[:processes]
        order = json.dumps({"agent": agent, "provider": provider, "callers": callers, "seconds": seconds}) + "\n"
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


def database(store: str) -> str:
    """The URL of a new database; empty for SQLite, which is a file in the vault's folder."""
    return postgres().create_database().url if store == "postgresql" else ""


async def add_machine(product: Product, server: NodeOidcProvider) -> PeerClient:
    """A provider `machine` for the client's own tokens."""
    client = await anyio.to_thread.run_sync(lambda: server.register(grant_types=("client_credentials",), scope="read"))
    secret = Secret(client.client_secret)
    await product.add(
        server, name="machine", client_id=client.client_id, secret=secret, scopes=("read",), settings={"flows": "M2M"}
    )
    return client


@dataclass(frozen=True, slots=True)
class Sea:
    """Where storms are: an authorization server, and its clients for users and for itself."""

    server: NodeOidcProvider
    user: PeerClient
    machine: PeerClient

    def refresh(self, ships: Fleet, storms: list[tuple[int, int]]) -> Generator[str]:
        """Let every storm pass over one grant; what was not as it should be."""
        before = self.server.ledger(self.user).refreshes
        for number, (callers, processes) in enumerate(storms, 1):
            # The last storm's token ended a while ago, by the clock of all of them.
            given = ships.storm(callers, processes, seconds=number * (LIFE_SECONDS + 100))
            refreshes = self.server.ledger(self.user).refreshes - before
            answered = sum(each["answered"] for each in given)
            tokens = {token for each in given for token in each["tokens"]}
            if (answered, len(tokens), refreshes) != (callers * processes, 1, number):
                yield f"{callers} in {processes}: {answered} answered, {refreshes} refreshes, {given}"

    def first_tokens(self, ships: Fleet, agents: int) -> Generator[str]:
        """Let all processes ask for the first token of an agent: there is no row yet, and each may be the one that makes it."""
        for number in range(1, agents + 1):
            given = ships.storm(8, len(ships.workers), provider="machine", agent=f"agent-{number}")
            asked = self.server.ledger(self.machine).client_credentials
            answered = sum(each["answered"] for each in given)
            if (answered, asked) != (8 * len(ships.workers), number):
                yield f"{number}: {answered} answered, {asked} requests, {given}"


@pytest.mark.parametrize("store", STORMS)
async def test_everybody_is_answered_by_one_request(tmp_path: Path, node_oidc_provider: NodeOidcProvider, store: str) -> None:
    """With PROVE set also by sixteen processes, two hundred times."""
    home, url, server = tmp_path / "home", database(store), node_oidc_provider
    storms = [each for each in STORMS[store] for _ in range(ROUNDS)] + TRIALS
    async with running_product(home, database_url=url) as product:
        user = await product.register(server, access_token_seconds=LIFE_SECONDS)
        await product.connected()
        sea = Sea(server, user, await add_machine(product, server))

        def sail() -> list[str]:
            with fleet(home, url, max(processes for _, processes in storms)) as ships:
                return [*sea.refresh(ships, storms), *sea.first_tokens(ships, 5 * ROUNDS)]

        assert await anyio.to_thread.run_sync(sail) == []
        after = server.ledger(user)
        assert (after.invalid_grant, after.families_revoked_by_reuse) == (0, 0)
        assert isinstance(await product.get(), TokenReleased)  # by a clock that is far behind: one refresh more, so it lives
        assert server.ledger(user).refreshes == after.refreshes + 1
