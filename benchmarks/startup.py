"""How long does a person wait for the tools? Process start to the first `tools/list` answer, ours against a bare server.

The bare server is an `MCPServer` of the same SDK with one tool that does nothing. Runs alternate, so that whatever else the
machine does hits both alike; the ratio of the medians is what counts, and the milliseconds are this machine's.

    python benchmarks/startup.py [--runs 15] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median, quantiles

GOAL = 1.15
"""The most that our start may take, as a multiple of the bare server's."""
LEAST_RUNS = 7

BARE = """\
from mcp.server import MCPServer

server = MCPServer("bare", log_level="ERROR")


@server.tool()
async def noop() -> str:
    "Do nothing."
    return ""


server.run()
"""
SERVERS = {
    "bare MCPServer": [sys.executable, "-c", BARE],
    "mcp-identity serve": [sys.executable, "-m", "mcp_identity", "serve"],
}
OPENING = (
    {
        "jsonrpc": "2.0",
        "id": 0,
        "method": "initialize",
        "params": {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "bench", "version": "1"}},
    },
    {"jsonrpc": "2.0", "method": "notifications/initialized"},
    {"jsonrpc": "2.0", "id": 1, "method": "tools/list"},
)


@dataclass(frozen=True, slots=True)
class Figures:
    """What was measured of one server; milliseconds."""

    median: float
    min: float
    p90: float


def start_once(command: list[str], environment: dict[str, str]) -> float:
    """Seconds from the start of a process to its answer to `tools/list`."""
    begun = time.perf_counter()
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment
    ) as process:
        if process.stdin is None or process.stdout is None:
            raise RuntimeError("pipes were asked for")
        process.stdin.write("".join(json.dumps(message) + "\n" for message in OPENING).encode())
        process.stdin.flush()
        listed = any(json.loads(line).get("id") == 1 for line in process.stdout)
        taken = time.perf_counter() - begun
        process.kill()
    if not listed:
        raise RuntimeError(f"{command[-1]!r} ended without an answer")
    return taken


def measure(runs: int) -> dict[str, list[float]]:
    """The times of both servers, in alternation, after one start each that fills the caches."""
    times: dict[str, list[float]] = {name: [] for name in SERVERS}
    with tempfile.TemporaryDirectory() as home:
        # A vault that is there already: what a person starts every day, not the very first start.
        environment = os.environ | {"MCP_IDENTITY_HOME": home}
        subprocess.run([sys.executable, "-m", "mcp_identity", "init"], env=environment, check=True, stdout=subprocess.DEVNULL)
        for command in SERVERS.values():
            start_once(command, environment)
        for _ in range(runs):
            for name, command in SERVERS.items():
                times[name].append(start_once(command, environment))
    return times


def figures(seconds: list[float]) -> Figures:
    """Median, least and 90th percentile."""
    milliseconds = [each * 1000 for each in seconds]
    return Figures(median(milliseconds), min(milliseconds), quantiles(milliseconds, n=10)[-1])


def main() -> None:
    """Measure, print a table, and write the figures down if asked."""
    parser = argparse.ArgumentParser(description="Process start to the first tools/list answer, as a ratio.")
    parser.add_argument("--runs", type=int, default=15, help=f"starts of each server, at least {LEAST_RUNS} (default: 15)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures here")
    options = parser.parse_args()
    if options.runs < LEAST_RUNS:
        parser.error(f"--runs is at least {LEAST_RUNS}")
    found = {name: figures(times) for name, times in measure(options.runs).items()}
    bare, ours = found.values()
    ratio = ours.median / bare.median
    print(f"{'process start to tools/list, ms':<34}{'median':>8}{'min':>8}{'p90':>8}")
    for name, each in found.items():
        print(f"{name:<34}{each.median:>8.0f}{each.min:>8.0f}{each.p90:>8.0f}")
    print(f"ratio {ratio:.2f} of the medians, {ours.min / bare.min:.2f} of the minima; the goal is at most {GOAL}")
    if options.json:
        report = {"ratio": ratio, "ratio_of_minima": ours.min / bare.min, "goal": GOAL, "runs": options.runs}
        options.json.write_text(json.dumps(report | {name: asdict(each) for name, each in found.items()}, indent=2) + "\n")


if __name__ == "__main__":
    main()
