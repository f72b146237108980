"""Do slow connections hurt healthy callers? The latency of a call, alone and beside many connections that never finish.

Our server runs over HTTP. Callers with a workload key call `whoami`, each its next call when the last was answered, first
alone and then while every slow connection sends one byte of a request at a time. The ratio of the 99th percentiles is what
counts, and the milliseconds are this machine's.

    python benchmarks/slow_connections.py [--slow 500] [--seconds 10] [--quick]
"""

from __future__ import annotations

import contextlib
import time
from dataclasses import asdict, dataclass
from typing import Any

import anyio
import httpx2
from kit.figures import percentile
from kit.scenario import Scenario, parser, scenario
from kit.servers import our_server
from kit.show import Chart, Goal, Table
from kit.vaults import BenchVault, fill

GOAL_MILLISECONDS = 250
"""The most that a healthy caller may wait at the 99th percentile, beside 500 slow connections."""
CALLERS = 4
REQUEST = b"POST /mcp HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nX-Slow: "
CALL: dict[str, Any] = {
    "jsonrpc": "2.0",
    "id": 1,
    "method": "tools/call",
    "params": {
        "name": "whoami",
        "arguments": {},
        "_meta": {
            "io.modelcontextprotocol/protocolVersion": "2026-07-28",
            "io.modelcontextprotocol/clientInfo": {"name": "bench", "version": "1"},
            "io.modelcontextprotocol/clientCapabilities": {},
        },
    },
}


@dataclass(frozen=True, slots=True)
class Figures:
    """What healthy callers saw; milliseconds."""

    calls: int
    median: float
    p99: float
    longest: float


async def call_for(port: int, key: str, seconds: float) -> list[float]:
    """Healthy callers at work; the seconds that each call took."""
    taken: list[float] = []
    headers = {
        "Authorization": f"Bearer {key}",
        "Accept": "application/json, text/event-stream",
        "MCP-Protocol-Version": "2026-07-28",
        "Mcp-Method": "tools/call",
        "Mcp-Name": "whoami",
    }
    until = time.perf_counter() + seconds

    async def caller() -> None:
        async with httpx2.AsyncClient(headers=headers, timeout=60, trust_env=False) as client:
            while time.perf_counter() < until:
                begun = time.perf_counter()
                answer = await client.post(f"http://127.0.0.1:{port}/mcp", json=CALL)
                taken.append(time.perf_counter() - begun)
                if not answer.is_success or '"isError":true' in answer.text:
                    raise RuntimeError(f"a call was answered with {answer.status_code}: {answer.text[:200]}")

    async with anyio.create_task_group() as group:
        for _ in range(CALLERS):
            group.start_soon(caller)
    return taken


async def drip(port: int) -> None:
    """One slow connection: a request that never ends, begun again whenever it is cut off."""
    while True:
        with contextlib.suppress(OSError, anyio.BrokenResourceError, anyio.EndOfStream):
            async with await anyio.connect_tcp("127.0.0.1", port) as stream:
                await stream.send(REQUEST)
                while True:
                    await anyio.sleep(1)
                    await stream.send(b"x")
        await anyio.sleep(0.5)


async def measure(port: int, key: str, slow: int, seconds: float) -> dict[str, list[float]]:
    """The callers alone, and beside the slow connections."""
    await call_for(port, key, 1)
    alone = await call_for(port, key, seconds)
    beside: list[float] = []
    async with anyio.create_task_group() as group:
        for _ in range(slow):
            group.start_soon(drip, port)
        await anyio.sleep(2)
        beside += await call_for(port, key, seconds)
        group.cancel_scope.cancel()
    return {"alone": alone, f"beside {slow} slow connections": beside}


def figures(seconds: list[float]) -> Figures:
    """Number, median, 99th percentile and longest."""
    milliseconds = [each * 1000 for each in seconds]
    return Figures(len(milliseconds), percentile(milliseconds, 50), percentile(milliseconds, 99), max(milliseconds))


def conclude(measured: Scenario, taken: dict[str, list[float]]) -> None:
    """Make the table, the goal and the chart."""
    found = {name: figures(each) for name, each in taken.items()}
    rows: list[list[str]] = []
    for name, each in found.items():
        rows.append([name, f"{each.calls:,}", *(f"{cell:.1f}" for cell in (each.median, each.p99, each.longest))])
    measured.tables.append(Table("whoami over HTTP", ["", "calls", "p50 ms", "p99 ms", "longest ms"], rows))
    *_, beside = found.values()
    what = "the 99th percentile of healthy callers beside slow connections"
    measured.goals.append(Goal(what, GOAL_MILLISECONDS, beside.p99, at_least=False, unit=" ms"))
    measured.data.extend({"phase": name, **asdict(each)} for name, each in found.items())
    series = {"p50": [each.median for each in found.values()], "p99": [each.p99 for each in found.values()]}
    title = "Healthy callers of whoami, alone and beside slow connections"
    measured.charts.append(Chart("slow-connections", title, "milliseconds", list(found), series))


def main() -> None:
    """Measure, print, keep."""
    options = parser("The latency of healthy callers beside slow connections, as a ratio.")
    options.add_argument("--slow", type=int, default=500, help="slow connections (default: 500)")
    options.add_argument("--seconds", type=float, default=10, help="of each of the two phases (default: 10)")
    given = options.parse_args()
    if given.quick:
        given.slow, given.seconds = 20, 0.5
    with scenario(
        given,
        "slow_connections",
        "Slow connections",
        __doc__,
        postgresql=False,
        slow_connections=given.slow,
        seconds_of_a_phase=given.seconds,
    ) as measured:
        vault = BenchVault(measured.folder / "home")
        anyio.run(fill, vault, 1)
        with our_server(vault, "http") as server:
            conclude(measured, anyio.run(measure, server.port, vault.keys[0], given.slow, given.seconds))


if __name__ == "__main__":
    main()
