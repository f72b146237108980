"""How many cached tokens a second does the broker serve by itself, without a transport?

`Broker.get_token` in one process, each call with its audit row durably committed before it returns. The callers share one
event loop, each asks again when it was answered, and each is an agent of its own with a grant of its own. Runs with 1, 16 and
64 callers, on both databases, alternate.

    python benchmarks/in_process.py [--database sqlite] [--callers 64] [--quick] [--profile FILE]
"""

from __future__ import annotations

import argparse
import gc
import time
from contextlib import AsyncExitStack
from dataclasses import asdict, dataclass
from pathlib import Path

import anyio
from kit.databases import DatabaseKind
from kit.figures import Spread, percentile, spread
from kit.sampling import Sampler
from kit.scenario import Scenario, parser, scenario
from kit.show import Chart, Goal, Table
from kit.vaults import NAMES, BenchVault, fill, get_token, opened

from mcp_identity import app
from mcp_identity.app.memory import settle
from mcp_identity.domain.identity import Principal

CALLERS = (1, 16, 64)
GOALS: dict[DatabaseKind, int] = {"sqlite": 8000, "postgresql": 3000}
"""Calls a second with 64 callers."""
JUDGED_AT = 64


@dataclass(frozen=True, slots=True)
class Run:
    """One run; times in milliseconds.

    Attributes:
        database: Its kind.
        callers: At once.
        calls: That were answered.
        rate: Of them a second.
        p50: Of a call.
        p99: Likewise.
        processor_ms: Processor time of this process for a call, all threads.
    """

    database: DatabaseKind
    callers: int
    calls: int
    rate: float
    p50: float
    p99: float
    processor_ms: float


async def run(graph: app.Graph, principals: list[Principal], kind: DatabaseKind, callers: int, seconds: float) -> Run:
    """Let so many callers call for some seconds."""
    taken: list[float] = []
    begun, used = time.perf_counter(), time.process_time()
    until = begun + seconds

    async def caller(principal: Principal) -> None:
        before = time.perf_counter()
        while before < until:
            await get_token(graph, graph.broker.call(principal, "get_token"))
            now = time.perf_counter()
            taken.append(now - before)
            before = now

    async with anyio.create_task_group() as tasks:
        for number in range(callers):
            tasks.start_soon(caller, principals[number % len(principals)])
    wall, used = time.perf_counter() - begun, time.process_time() - used
    return Run(
        database=kind,
        callers=callers,
        calls=len(taken),
        rate=len(taken) / wall,
        p50=percentile(taken, 50) * 1000,
        p99=percentile(taken, 99) * 1000,
        processor_ms=used / len(taken) * 1000,
    )


async def measure(measured: Scenario, options: argparse.Namespace) -> list[Run]:
    """All runs, in turn."""
    found: list[Run] = []
    async with AsyncExitStack() as stack:
        graphs: dict[DatabaseKind, tuple[app.Graph, list[Principal]]] = {}
        for kind in measured.kinds:
            vault = BenchVault(measured.folder / kind / "home", measured.databases.url(kind))
            vault.home.parent.mkdir()
            await fill(vault, max(options.callers))
            graphs[kind] = await stack.enter_async_context(opened(vault))
        gc.collect()
        settle()  # as every server does when it has come up
        sampler = Sampler() if options.profile else None
        for number in range(-1, options.rounds):
            for callers in options.callers:
                for kind, (graph, principals) in graphs.items():
                    seconds = options.seconds if number >= 0 else options.seconds / 4
                    each = await run(graph, principals, kind, callers, seconds)
                    if number >= 0:
                        found.append(each)
                        measured.say(f"{kind} {callers:>2} callers: {each.rate:>6.0f}/s, p99 {each.p99:.2f} ms")
            if number < 0 and sampler:
                sampler.start()
        if sampler:
            options.profile.write_text(sampler.stop())
    return found


def conclude(measured: Scenario, found: list[Run]) -> None:
    """Make the table, the goals and the chart."""
    table = Table(
        "Broker.get_token in process; medians of the runs, with the least and the most",
        ["", "calls /s", "p50 ms", "p99 ms", "CPU ms"],
        [],
    )
    callers = sorted({each.callers for each in found})
    by_kind: dict[str, list[Spread]] = {}
    for kind in measured.kinds:
        for count in callers:
            those = [each for each in found if (each.database, each.callers) == (kind, count)]
            rate = spread(each.rate for each in those)
            by_kind.setdefault(NAMES[kind], []).append(rate)
            where = f"{NAMES[kind]}, {count} {'callers' if count > 1 else 'caller'}"
            cells = [f"{spread(getattr(each, name) for each in those).median:.2f}" for name in ("p50", "p99", "processor_ms")]
            table.rows.append([where, f"{rate.median:,.0f} ({rate.low:,.0f} to {rate.high:,.0f})", *cells])
            if count == JUDGED_AT:
                measured.goals.append(Goal(f"in process, {where}", GOALS[kind], rate.median, unit="/s"))
    measured.tables.append(table)
    measured.data.extend(asdict(each) for each in found)
    measured.charts.append(
        Chart(
            name="in-process",
            title="Cached tokens in process, each with its audit row committed",
            unit="calls a second",
            groups=[f"{count} at once" for count in callers],
            series={name: [rate.median for rate in each] for name, each in by_kind.items()},
            low={name: [rate.low for rate in each] for name, each in by_kind.items()},
            high={name: [rate.high for rate in each] for name, each in by_kind.items()},
            lines={f"goal for {NAMES[kind]} with {JUDGED_AT}": GOALS[kind] for kind in measured.kinds},
        )
    )


def main() -> None:
    """Measure, print, keep."""
    options = parser("Broker.get_token of a cached token, in process.")
    options.add_argument("--callers", type=int, action="append", help=f"at once (default: {CALLERS})")
    options.add_argument("--seconds", type=float, default=2.0, help="of each run (default: 2)")
    options.add_argument("--profile", type=Path, metavar="FILE", help="look at the threads meanwhile and write what was seen")
    given = options.parse_args()
    given.callers = given.callers or list(CALLERS)
    if given.quick:
        given.rounds, given.seconds = 1, 0.2
    with scenario(
        given,
        "in_process",
        "Cached tokens in process",
        __doc__,
        callers=given.callers,
        rounds=given.rounds,
        seconds_of_a_run=given.seconds,
    ) as measured:
        conclude(measured, anyio.run(measure, measured, given))


if __name__ == "__main__":
    main()
