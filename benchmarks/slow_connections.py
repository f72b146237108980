"""Do slow connections hurt healthy callers? The latency of a call, alone and beside many connections that never finish.

Our server runs over HTTP. Callers with a workload key call `whoami`, each its next call when the last was answered, first
alone and then while every slow connection sends one byte of a request at a time. The ratio of the 99th percentiles is what
counts, and the milliseconds are this machine's.

    python benchmarks/slow_connections.py [--slow 500] [--seconds 10] [--json FILE]
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import anyio
import httpx2

GOAL_MILLISECONDS = 250
"""The most that a healthy caller may wait at the 99th percentile, beside 500 slow connections."""
CALLERS = 4
START_SECONDS = 30
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


def free_port() -> int:
    """A port of this machine that nobody uses now."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


@contextlib.contextmanager
def serving(home: str) -> Generator[tuple[int, str]]:
    """Run our server over HTTP with one workload; its port, and the workload's key."""
    port = free_port()
    environment = os.environ | {"MCP_IDENTITY_HOME": home, "MCP_IDENTITY_CALLS_PER_SECOND": "100000"}
    ours = [sys.executable, "-m", "mcp_identity"]
    created = subprocess.run(
        [*ours, "workloads", "create", "bench", "--issue-key"], env=environment, check=True, capture_output=True, text=True
    )
    key = next(word for word in created.stdout.split() if word.startswith("mid_wk_"))
    with subprocess.Popen([*ours, "serve", "--transport", "http", "--port", str(port)], env=environment) as server:
        try:
            with httpx2.Client(trust_env=False) as client:
                for _ in range(START_SECONDS * 10):
                    with contextlib.suppress(httpx2.HTTPError):
                        if client.get(f"http://127.0.0.1:{port}/readyz").is_success:
                            break
                    time.sleep(0.1)
            yield port, key
        finally:
            server.send_signal(signal.SIGTERM)


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
    return Figures(len(milliseconds), median(milliseconds), quantiles(milliseconds, n=100)[-1], max(milliseconds))


def main() -> None:
    """Measure, print a table, and write the figures down if asked."""
    parser = argparse.ArgumentParser(description="The latency of healthy callers beside slow connections, as a ratio.")
    parser.add_argument("--slow", type=int, default=500, help="slow connections (default: 500)")
    parser.add_argument("--seconds", type=float, default=10, help="of each of the two phases (default: 10)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures here")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as home, serving(home) as (port, key):
        found = {name: figures(taken) for name, taken in anyio.run(measure, port, key, options.slow, options.seconds).items()}
    alone, beside = found.values()
    print(f"{'whoami over HTTP, ms':<34}{'calls':>8}{'median':>8}{'p99':>8}{'longest':>9}")
    for name, each in found.items():
        print(f"{name:<34}{each.calls:>8}{each.median:>8.1f}{each.p99:>8.1f}{each.longest:>9.1f}")
    ratio = beside.p99 / alone.p99
    print(f"ratio {ratio:.2f} of the 99th percentiles; the goal is a 99th percentile below {GOAL_MILLISECONDS} ms")
    if options.json:
        report = {"ratio": ratio, "goal_milliseconds": GOAL_MILLISECONDS, "slow": options.slow}
        options.json.write_text(json.dumps(report | {name: asdict(each) for name, each in found.items()}, indent=2) + "\n")


if __name__ == "__main__":
    main()
