"""How long does a person wait for the tools, and how much memory does a server take that has nothing to do?

Ours against a plain `MCPServer` of the same SDK with one tool that does nothing, served in the SDK's own way. Start-up is from
the start of a stdio process to its answer to `tools/list`, on a vault that is there already; the starts alternate. Memory is
looked at when the list was answered, after one tool call, and of an HTTP server that has answered one; each time once it has
stopped to change. RSS is what `ps` shows, USS what would be free without the process, PSS counts shared pages by their share.

    python benchmarks/startup.py [--starts 15] [--quick]
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from statistics import quantiles
from typing import IO, Any

import anyio
import psutil
from kit.databases import DatabaseKind
from kit.figures import spread
from kit.lanes import Call, HttpLane
from kit.scenario import Scenario, parser, scenario
from kit.servers import free_port, running
from kit.show import Chart, Goal, Table
from kit.vaults import NAMES, BenchVault, fill

START_GOAL, MEMORY_GOAL = 1.15, 1.6
"""The most that ours may take, as a multiple of the bare server's."""
STARTS = 15
BARE, OURS = "bare MCPServer", "mcp-identity"
MIB = 2**20
_SETTLED_SECONDS, _SETTLING_SECONDS = 0.6, 8.0
BARE_SERVER = """\
import sys
from mcp.server import MCPServer

server = MCPServer("bare", log_level="ERROR")


@server.tool()
async def whoami() -> str:
    "Do nothing."
    return ""


server.run("streamable-http", port=int(sys.argv[1])) if len(sys.argv) > 1 else server.run()
"""
OPENING: tuple[Mapping[str, Any], ...] = (
    {
        "id": 0,
        "method": "initialize",
        "params": {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "bench", "version": "1"}},
    },
    {"method": "notifications/initialized"},
    {"id": 1, "method": "tools/list"},
)
A_CALL: Mapping[str, Any] = {"id": 2, "method": "tools/call", "params": {"name": "whoami", "arguments": {}}}


@dataclass(frozen=True, slots=True)
class Memory:
    """MiB of one process."""

    rss: float
    uss: float
    pss: float


@dataclass(frozen=True, slots=True)
class Stdio:
    """A server on stdio, seconds after it was started.

    Attributes:
        process: That was started.
        begun: When, by `time.perf_counter`.
    """

    process: subprocess.Popen[bytes]
    begun: float

    def ask(self, *messages: Mapping[str, Any]) -> None:
        """Send messages, and wait for the answer to the last.

        Raises:
            RuntimeError: If the server ends without it.
        """
        lines = [json.dumps({"jsonrpc": "2.0", **message}) + "\n" for message in messages]
        _pipe(self.process.stdin).write("".join(lines).encode())
        _pipe(self.process.stdin).flush()
        if not any(json.loads(line).get("id") == messages[-1]["id"] for line in _pipe(self.process.stdout)):
            raise RuntimeError("the server ended without an answer")


def _pipe(stream: IO[bytes] | None) -> IO[bytes]:
    if stream is None:
        raise RuntimeError("pipes were asked for")
    return stream


def commands(vault: BenchVault, *arguments: str) -> dict[str, tuple[list[str], dict[str, str]]]:
    """How both servers are started: the command and its environment."""
    trust = ["--trust-local-user"] if vault.database_url and "--transport" not in arguments else []
    ours = [sys.executable, "-m", "mcp_identity", "serve", *trust, *arguments]
    bare = [sys.executable, "-c", BARE_SERVER, *arguments[-1:]]
    return {BARE: (bare, dict(os.environ)), OURS: (ours, vault.environment(WORKLOAD=vault.agents[0]))}


@contextmanager
def stdio(command: list[str], environment: Mapping[str, str]) -> Generator[Stdio]:
    """A server on stdio while the block lasts."""
    begun = time.perf_counter()
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=dict(environment), bufsize=0
    ) as process:
        try:
            yield Stdio(process, begun)
        finally:
            process.kill()


def memory(process_id: int) -> Memory:
    """Of a process, once it has not changed for a while."""
    process, least = psutil.Process(process_id), time.monotonic()
    until, seen = least + _SETTLING_SECONDS, process.memory_info().rss
    while time.monotonic() - least < _SETTLED_SECONDS and time.monotonic() < until:
        time.sleep(0.1)
        if abs((now := process.memory_info().rss) - seen) > MIB / 4:
            seen, least = now, time.monotonic()
    found = process.memory_full_info()
    return Memory(found.rss / MIB, found.uss / MIB, getattr(found, "pss", found.uss) / MIB)


def starts(measured: Scenario, vault: BenchVault, count: int) -> None:
    """Start both in turn."""
    taken: dict[str, list[float]] = {BARE: [], OURS: []}
    for number in range(-1, count):
        for name, (command, environment) in commands(vault).items():
            with stdio(command, environment) as server:
                server.ask(*OPENING)
                seconds = time.perf_counter() - server.begun
            if number >= 0:
                taken[name].append(seconds * 1000)
    bare, ours = (spread(each) for each in taken.values())
    measured.say(f"start to tools/list: bare {bare.median:.0f} ms, ours {ours.median:.0f} ms")
    rows = [
        [
            name,
            f"{spread(each).median:.0f}",
            f"{spread(each).low:.0f}",
            f"{quantiles(each, n=10)[-1] if len(each) > 1 else each[0]:.0f}",
        ]
        for name, each in taken.items()
    ]
    measured.tables.append(Table("process start to the answer to tools/list, ms", ["", "median", "least", "p90"], rows))
    measured.goals.append(
        Goal("start to tools/list, of a bare MCPServer's", START_GOAL, ours.median / bare.median, at_least=False, unit=" times")
    )
    measured.data.append({"start_milliseconds": taken})


def stdio_memory(vault: BenchVault) -> dict[str, dict[str, Memory]]:
    """Of both servers on stdio, by moment."""
    found: dict[str, dict[str, Memory]] = {}
    for name, (command, environment) in commands(vault).items():
        with stdio(command, environment) as server:
            server.ask(*OPENING)
            listed = Memory(*(value / MIB for value in _now(server.process.pid)))
            server.ask(A_CALL)
            found[name] = {"listed": listed, "called": memory(server.process.pid)}
    return found


def _now(process_id: int) -> tuple[float, float, float]:
    found = psutil.Process(process_id).memory_full_info()
    return found.rss, found.uss, getattr(found, "pss", found.uss)


def http_memory(vault: BenchVault) -> dict[str, Memory]:
    """Of both servers over HTTP, when each has answered a call."""
    port, found = free_port(), dict[str, Memory]()
    for name, (command, environment) in commands(vault, "--transport", "http", "--port", str(port)).items():
        with running(command, environment, port) as process_id:
            lane = HttpLane(port, vault.keys[0], Call("whoami", {}))
            number = lane.send()
            while number not in lane.receive(0):
                pass
            lane.close()
            found[name] = memory(process_id)
    return found


def memories(measured: Scenario) -> None:
    """On all databases."""
    columns = ["", "bare RSS", "ours RSS", "ratio", "bare PSS", "ours PSS", "ratio", "bare USS", "ours USS", "ratio"]
    table = Table("memory, MiB", columns, [])
    chart: dict[str, list[float]] = {BARE: [], OURS: []}
    groups: list[str] = []

    def note(where: str, bare: Memory, ours: Memory, *, judged: bool) -> None:
        cells = [(getattr(bare, each), getattr(ours, each)) for each in ("rss", "pss", "uss")]
        table.rows.append([where, *(cell for a, b in cells for cell in (f"{a:.0f}", f"{b:.0f}", f"{b / a:.2f}"))])
        measured.data.append({"where": where, "bare": asdict(bare), "ours": asdict(ours)})
        groups.append(where.replace(", ", "\n"))
        for name, each in ((BARE, bare), (OURS, ours)):
            chart[name].append(each.rss)
        if judged:
            goal = Goal(f"idle memory (RSS), {where}", MEMORY_GOAL, ours.rss / bare.rss, at_least=False, unit=" times")
            measured.goals.append(goal)

    for kind in measured.kinds:
        vault = filled(measured, kind)
        on_stdio, over_http = stdio_memory(vault), http_memory(vault)
        if kind == measured.kinds[0]:
            note("stdio, tools listed", on_stdio[BARE]["listed"], on_stdio[OURS]["listed"], judged=False)
        note(f"stdio, one call, {NAMES[kind]}", on_stdio[BARE]["called"], on_stdio[OURS]["called"], judged=True)
        note(f"HTTP, one call, {NAMES[kind]}", over_http[BARE], over_http[OURS], judged=True)
        measured.say(f"{kind}: RSS {on_stdio[OURS]['called'].rss:.0f} MiB on stdio, {over_http[OURS].rss:.0f} MiB over HTTP")
    measured.tables.append(table)
    measured.charts.append(Chart("memory", "Memory of a server that has nothing to do", "RSS, MiB", groups, chart))


def filled(measured: Scenario, kind: DatabaseKind) -> BenchVault:
    """The vault of a kind; made when it is first asked for."""
    vault = BenchVault(measured.folder / kind / "home", measured.databases.url(kind))
    vault.home.parent.mkdir()
    anyio.run(fill, vault, 1)
    return vault


def main() -> None:
    """Measure, print, keep."""
    options: argparse.ArgumentParser = parser("Start-up time and idle memory, as multiples of a bare MCPServer's.")
    options.add_argument("--starts", type=int, default=STARTS, help=f"of each server (default: {STARTS})")
    given = options.parse_args()
    if given.quick:
        given.starts = 1
    with scenario(
        given,
        "startup",
        "Start-up time and idle memory",
        __doc__,
        starts=given.starts,
    ) as measured:
        memories(measured)
        vault = BenchVault(measured.folder / "starts" / "home")
        vault.home.parent.mkdir()
        anyio.run(fill, vault, 1)
        starts(measured, vault, given.starts)


if __name__ == "__main__":
    main()
