"""How fast is a cached `get_token`, beside a tool of the same SDK that does nothing?

Our real server, as people start it, against a plain `MCPServer` with one tool of the same arguments and the same result, which
the SDK serves in its own way. Each of our calls proves who calls by a workload key, and leaves an audit row that is durable
before the answer. One load generator, a process of its own, drives both in turn; the ratio of each pair of runs counts.
Over HTTP the protocol version without sessions is spoken, over SSE and stdio the one with them; the same on both sides.

    python benchmarks/cached_token.py [--transport http] [--database sqlite] [--callers 16] [--quick] [--profile FILE]
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

import anyio
from kit.databases import DatabaseKind
from kit.figures import spread
from kit.load import Plan, Run, runs_of
from kit.machine import JUDGED_FROM
from kit.scenario import Scenario, parser, scenario
from kit.servers import noop_server, our_server
from kit.show import Chart, Goal, Table
from kit.vaults import PROVIDER, SCOPES, BenchVault, audit_rows, fill

TRANSPORTS = ("http", "sse", "stdio")
CALLERS = (1, 16, 64)
NAMES = {"http": "Streamable HTTP", "sse": "SSE", "stdio": "stdio", "sqlite": "SQLite", "postgresql": "PostgreSQL"}
LONE_GOAL = 0.60
GOALS: dict[DatabaseKind, float] = {"sqlite": 0.80, "postgresql": 0.75}
"""The least share of the no-op tool's throughput, with 16 and with 64 callers; with one, where the disk lets us."""
OURS, NOOP = "mcp-identity", "no-op"


def runs(vault: BenchVault, transport: str, options: argparse.Namespace) -> Iterator[Run]:
    """Drive both servers in turn."""
    with ExitStack() as stack:
        targets = [
            stack.enter_context(noop_server(vault, transport)),
            stack.enter_context(our_server(vault, transport, options.profile)),
        ]
        plan = Plan(
            targets=targets,
            tool="get_token",
            arguments={"provider": PROVIDER, "scopes": list(SCOPES)},
            callers=options.callers,
            rounds=options.rounds,
            seconds=options.seconds,
            warm_seconds=options.seconds / 5,
        )
        yield from runs_of(plan)


def judge(measured: Scenario, kind: DatabaseKind, transport: str, callers: int, found: list[Run]) -> list[str]:
    """Note a goal, and make a row of the table."""
    ours, noop = ([run for run in found if run.target == name] for name in (OURS, NOOP))
    ratio = spread(mine.rate / theirs.rate for mine, theirs in zip(ours, noop, strict=True))
    where = (
        f"{NAMES[transport]}, {NAMES[kind]}, {callers} callers"
        if callers > 1
        else f"{NAMES[transport]}, {NAMES[kind]}, one caller"
    )
    commits = measured.disk.sqlite_commits if kind == "sqlite" else measured.disk.postgresql_commits or 0
    fast = commits >= JUDGED_FROM
    measured.goals.append(
        Goal(
            where,
            GOALS[kind] if callers > 1 else LONE_GOAL,
            ratio.median,
            judged=callers > 1 or fast,
            why="" if callers > 1 or fast else f"the disk makes {commits:,.0f} commits a second, fewer than {JUDGED_FROM:,}",
        )
    )

    def middle(which: list[Run], name: str) -> float:
        return spread(getattr(run, name) for run in which).median

    measured.data.append(
        {
            "database": kind,
            "transport": transport,
            "callers": callers,
            "ratio": asdict(ratio),
            "runs": [asdict(run) for run in found],
        }
    )
    return [
        where,
        f"{middle(noop, 'rate'):,.0f}",
        f"{middle(ours, 'rate'):,.0f}",
        f"{ratio.median:.2f} ({ratio.low:.2f} to {ratio.high:.2f})",
        f"{middle(noop, 'p50'):.1f} / {middle(noop, 'p99'):.1f}",
        f"{middle(ours, 'p50'):.1f} / {middle(ours, 'p99'):.1f}",
        f"{middle(noop, 'server_ms'):.2f} / {middle(ours, 'server_ms'):.2f}",
        f"{middle(noop, 'load_share'):.0%} / {middle(ours, 'load_share'):.0%}",
    ]


def measure(measured: Scenario, options: argparse.Namespace) -> None:
    """All databases, transports and numbers of callers."""
    table = Table(
        "a cached get_token beside a no-op tool; medians, with the least and the most of the ratios",
        ["", "no-op /s", "ours /s", "ratio", "no-op ms p50/p99", "ours ms p50/p99", "server CPU ms no-op/ours", "load CPU"],
        [],
    )
    for kind in measured.kinds:
        vault = BenchVault(measured.folder / kind / "home", measured.databases.url(kind))
        vault.home.parent.mkdir()
        anyio.run(fill, vault, max(options.callers))
        before, calls = audit_rows(vault, measured.databases), 0
        for transport in options.transport:
            by_callers: dict[int, list[Run]] = {}
            for run in runs(vault, transport, options):
                by_callers.setdefault(run.callers, []).append(run)
                calls += run.calls + run.warm_calls if run.target == OURS else 0
                measured.say(
                    f"{kind} {transport} {run.callers:>2} callers: {run.target:<12} {run.rate:>6.0f}/s, p99 {run.p99:.1f} ms, "
                    f"server {run.server_share:.0%}, load {run.load_share:.0%}"
                )
            table.rows.extend(judge(measured, kind, transport, *each) for each in by_callers.items())
        written = audit_rows(vault, measured.databases) - before
        measured.goals.append(Goal(f"{NAMES[kind]}: rows of the trail for {calls:,} answered calls", calls, written))
    measured.tables.append(table)
    measured.charts += [_chart(measured, kind) for kind in measured.kinds]


def _chart(measured: Scenario, kind: DatabaseKind) -> Chart:
    found: list[dict[str, Any]] = [each for each in measured.data if each["database"] == kind]

    def rates(name: str) -> list[list[float]]:
        return [[run["rate"] for run in each["runs"] if run["target"] == name] for each in found]

    return Chart(
        name=f"cached-token-{kind}",
        title=f"A cached token with its audit row committed, beside a tool that does nothing ({NAMES[kind]})",
        unit="calls a second",
        groups=[
            f"{NAMES[each['transport']]}\n{each['callers']} at once\nratio {each['ratio']['median']:.2f}" for each in found
        ],
        series={name: [spread(each).median for each in rates(name)] for name in (NOOP, OURS)},
        low={name: [spread(each).low for each in rates(name)] for name in (NOOP, OURS)},
        high={name: [spread(each).high for each in rates(name)] for name in (NOOP, OURS)},
    )


def main() -> None:
    """Measure, print, keep."""
    options = parser("The throughput of a cached get_token, as a share of a no-op tool's.")
    options.add_argument("--transport", choices=TRANSPORTS, action="append", help="only this one (default: all)")
    options.add_argument("--callers", type=int, action="append", help=f"at once (default: {CALLERS})")
    options.add_argument("--seconds", type=float, default=2.0, help="of each run (default: 2)")
    options.add_argument(
        "--profile", type=Path, metavar="FILE", help="look at our server's threads meanwhile and write what was seen"
    )
    given = options.parse_args()
    given.transport = given.transport or list(TRANSPORTS)
    given.callers = given.callers or list(CALLERS)
    if given.quick:
        given.rounds, given.seconds, given.callers = 1, 0.3, [2]
    with scenario(
        given,
        "cached_token",
        "A cached get_token beside a tool that does nothing",
        __doc__,
        callers=given.callers,
        rounds=given.rounds,
        seconds_of_a_run=given.seconds,
    ) as measured:
        measure(measured, given)


if __name__ == "__main__":
    main()
