"""How is a vault used by several processes at once? Each opens it, says that it is ready, and calls when it is told to.

    python -m kit.fleet    (started by `fleet`; one JSON line in, one out)

On SQLite all processes share one folder; on PostgreSQL each has a folder of its own with the same key, as replicas do.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Generator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO

import anyio
import anyio.to_thread

from kit.servers import BENCHMARKS
from kit.vaults import BenchVault, get_token
from mcp_identity import app
from mcp_identity.domain.errors import IdentityError
from mcp_identity.domain.identity import Principal
from tests.fakes.many_grants import user_of
from tests.fakes.vendor import Vendor


@dataclass(frozen=True, slots=True)
class Order:
    """What each process is to do.

    Attributes:
        agent: Who calls.
        user: The number of the user that it acts for; None for the agent itself.
        callers: At once.
        calls: Of each of them, one after the other.
    """

    agent: str
    user: int | None
    callers: int
    calls: int = 1


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of an order in one process, or in all of them.

    Attributes:
        answered: Calls that ended in a token.
        failed: Codes of those that did not.
        tokens: The different tokens that came.
        milliseconds: Until the last answer; of several processes, the longest.
    """

    answered: int
    failed: list[str]
    tokens: list[str]
    milliseconds: float


class Fleet:
    """Processes that are ready."""

    def __init__(self, processes: list[subprocess.Popen[str]]) -> None:
        """Wait until all are."""
        self._processes = processes
        for process in processes:
            if _pipe(process.stdout).readline().strip() != "ready":
                raise RuntimeError("a process could not open the vault")

    def do(self, order: Order) -> Outcome:
        """Let all processes do the same at once."""
        text = json.dumps(asdict(order)) + "\n"
        for process in self._processes:
            _pipe(process.stdin).write(text)
            _pipe(process.stdin).flush()
        found = [Outcome(**json.loads(_pipe(process.stdout).readline())) for process in self._processes]
        return Outcome(
            answered=sum(each.answered for each in found),
            failed=[code for each in found for code in each.failed],
            tokens=sorted({token for each in found for token in each.tokens}),
            milliseconds=max(each.milliseconds for each in found),
        )


@contextmanager
def fleet(vault: BenchVault, count: int) -> Generator[Fleet]:
    """So many processes on one vault, while the block lasts.

    Args:
        vault: Filled.
        count: How many.
    """
    with ExitStack() as stack:
        processes: list[subprocess.Popen[str]] = []
        for number in range(count):
            own = vault if not vault.database_url else _replica(vault, number)
            command = [sys.executable, "-m", "kit.fleet", str(own.home), own.database_url]
            process = stack.enter_context(
                subprocess.Popen(command, cwd=BENCHMARKS, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            )
            stack.callback(process.kill)
            processes.append(process)
        yield Fleet(processes)


def _replica(vault: BenchVault, number: int) -> BenchVault:
    """Another folder for the same database: it has the key, and nothing else."""
    home = vault.home.with_name(f"replica-{number}")
    if not home.exists():
        home.mkdir(mode=0o700)
        shutil.copy2(vault.home / "key", home / "key")
    return BenchVault(home, vault.database_url)


def _pipe(stream: IO[str] | None) -> IO[str]:
    if stream is None:
        raise RuntimeError("pipes were asked for")
    return stream


async def meanwhile(vendor: Vendor, seconds: float, work: Callable[[], Outcome]) -> Outcome:
    """Do some work on a thread, while an authorization server is so slow that all who need it meet.

    Args:
        vendor: The server; it answers a while after it was first asked.
        seconds: How long a while.
        work: What needs it.
    """
    found: list[Outcome] = []
    hold, vendor.holding = anyio.Event(), anyio.Event()
    vendor.hold = hold

    async def answer_late() -> None:
        await vendor.holding.wait()
        await anyio.sleep(seconds)
        hold.set()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(answer_late)
        found.append(await anyio.to_thread.run_sync(work))
        tasks.cancel_scope.cancel()
    return found[0]


async def _carry_out(graph: app.Graph, order: Order) -> Outcome:
    workload = (await graph.broker.directory.local_principal(order.agent, graph.user, "stdio")).workload
    user = None if order.user is None else user_of(order.user)
    principal = Principal(workload, user, "jwt" if user else "workload_key", verified=True, edge="http")
    tokens: list[str] = []
    failed: list[str] = []

    async def caller() -> None:
        for _ in range(order.calls):
            try:
                released = await get_token(graph, graph.broker.call(principal, "get_token"))
            except IdentityError as error:
                failed.append(error.code)
            except RuntimeError as error:
                failed.append(str(error))
            else:
                tokens.append(released.access_token.reveal())

    begun = time.perf_counter()
    async with anyio.create_task_group() as tasks:
        for _ in range(order.callers):
            tasks.start_soon(caller)
    return Outcome(len(tokens), failed, sorted(set(tokens)), (time.perf_counter() - begun) * 1000)


async def _serve(home: Path, database_url: str) -> None:
    async with app.open(BenchVault(home, database_url).settings()) as graph:
        print("ready", flush=True)
        while line := await anyio.to_thread.run_sync(sys.stdin.readline):
            found = await _carry_out(graph, Order(**json.loads(line)))
            print(json.dumps(asdict(found)), flush=True)


if __name__ == "__main__":
    anyio.run(_serve, Path(sys.argv[1]), sys.argv[2])
