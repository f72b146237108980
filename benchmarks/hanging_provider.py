"""Does a provider that hangs delay anybody else?

Two providers in one process: one whose token endpoint takes requests and never answers, and a healthy one. Callers of the
healthy one ask for cached tokens, each again when it was answered, while new agents ask for tokens that have to be obtained.
First alone, and then while 64 callers keep asking for tokens of the provider that hangs, each half a second after its last
refusal. What counts is how much the healthy callers' 99th percentile grows.

    python benchmarks/hanging_provider.py [--database sqlite] [--seconds 12] [--quick]
"""

from __future__ import annotations

import argparse
import time
from collections import Counter
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import anyio
from kit.databases import DatabaseKind
from kit.figures import percentile
from kit.scenario import Scenario, parser, scenario
from kit.show import Chart, Goal, Table
from kit.vaults import NAMES, PROVIDER, SCOPES, TOKEN_SECONDS, BenchVault, get_token, provider_spec

from mcp_identity import app
from mcp_identity.broker.answers import TokenRequest
from mcp_identity.domain.errors import IdentityError
from mcp_identity.domain.identity import Principal
from tests.fakes.vendor import running_vendor

HANGS = "hangs"
HEALTHY_CALLERS, HANGING_CALLERS = 4, 64
GOAL = 2.0
"""The most that the 99th percentile of healthy callers may grow by, as a factor."""
_PAUSE_SECONDS = 0.5
_FRESH_EVERY_SECONDS = 0.05


@dataclass(frozen=True, slots=True)
class Phase:
    """What healthy callers saw for some seconds; milliseconds of each call."""

    cached: list[float]
    fresh: list[float]


@asynccontextmanager
async def running(measured: Scenario, kind: DatabaseKind) -> AsyncGenerator[app.Graph]:
    """A vault with both providers."""
    vault = BenchVault(measured.folder / kind / "home", measured.databases.url(kind))
    vault.home.parent.mkdir()
    async with running_vendor() as healthy, running_vendor() as hanging, app.open(vault.settings()) as graph:
        healthy.expires_in, hanging.hold = TOKEN_SECONDS, anyio.Event()
        operator = graph.broker.directory.operator(graph.user)
        for name, vendor in ((PROVIDER, healthy), (HANGS, hanging)):
            await graph.broker.directory.add(graph.broker.call(operator, "create_provider"), name, provider_spec(vendor))
        yield graph
        hanging.hold.set()  # or the end would wait for what hangs


async def agents(graph: app.Graph, name: str, count: int) -> list[Principal]:
    """So many new agents."""
    return [await graph.broker.directory.local_principal(f"{name}-{number}", graph.user, "stdio") for number in range(count)]


async def healthy_phase(graph: app.Graph, callers: list[Principal], newcomers: list[Principal], seconds: float) -> Phase:
    """Let healthy callers call."""
    phase = Phase([], [])
    until = time.perf_counter() + seconds

    async def timed(principal: Principal, taken: list[float]) -> None:
        begun = time.perf_counter()
        await get_token(graph, graph.broker.call(principal, "get_token"))
        taken.append((time.perf_counter() - begun) * 1000)

    async def caller(principal: Principal) -> None:
        while time.perf_counter() < until:
            await timed(principal, phase.cached)

    async def newcomer() -> None:
        while newcomers and time.perf_counter() < until:
            await timed(newcomers.pop(), phase.fresh)
            await anyio.sleep(_FRESH_EVERY_SECONDS)

    async with anyio.create_task_group() as tasks:
        for principal in callers:
            tasks.start_soon(caller, principal)
        tasks.start_soon(newcomer)
    return phase


async def keep_asking(graph: app.Graph, principal: Principal, after_seconds: float, outcomes: Counter[str]) -> None:
    """Ask for a token of the provider that hangs, again and again, until cancelled."""
    await anyio.sleep(after_seconds)  # not all at once, which would be a storm
    while True:
        try:
            await graph.broker.get_token(graph.broker.call(principal, "get_token"), TokenRequest(HANGS, SCOPES))
        except IdentityError as error:
            outcomes[error.code] += 1
        await anyio.sleep(_PAUSE_SECONDS)


async def measure(measured: Scenario, options: argparse.Namespace) -> None:
    """Both phases, on all databases."""
    columns = ["", "calls", "p50 ms", "p99 ms", "longest ms"]
    table = Table(f"healthy callers, alone and beside {HANGING_CALLERS} callers of a provider that hangs", columns, [])
    chart: dict[str, list[float]] = {"alone": [], "beside a provider that hangs": []}
    groups: list[str] = []
    outcomes = Counter[str]()
    for kind in measured.kinds:
        async with running(measured, kind) as graph:
            callers = await agents(graph, "healthy", HEALTHY_CALLERS)
            newcomers = await agents(graph, "newcomer", int(2 * options.seconds / _FRESH_EVERY_SECONDS) + 2)
            others = await agents(graph, "unlucky", HANGING_CALLERS)
            half = newcomers[: len(newcomers) // 2]
            await healthy_phase(graph, callers, newcomers[-1:], options.seconds / 8)
            alone = await healthy_phase(graph, callers, half, options.seconds)
            measured.say(f"{kind}: alone, p99 of cached {percentile(alone.cached, 99):.1f} ms")
            beside = Phase([], [])
            async with anyio.create_task_group() as tasks:
                for number, principal in enumerate(others):
                    tasks.start_soon(keep_asking, graph, principal, number / HANGING_CALLERS, outcomes)
                beside = await healthy_phase(graph, callers, newcomers[len(newcomers) // 2 :], options.seconds)
                tasks.cancel_scope.cancel()
            measured.say(f"{kind}: beside, p99 of cached {percentile(beside.cached, 99):.1f} ms; {dict(outcomes)}")
        for what in ("cached", "fresh"):
            both: dict[str, list[float]] = dict(zip(chart, (getattr(alone, what), getattr(beside, what)), strict=True))
            groups.append(f"{NAMES[kind]}\n{what}")
            for name, taken in both.items():
                chart[name].append(percentile(taken, 99))
                cells = [percentile(taken, 50), percentile(taken, 99), max(taken)]
                table.rows.append([f"{NAMES[kind]}, {what}, {name}", f"{len(taken):,}", *(f"{cell:.1f}" for cell in cells)])
                measured.data.append({"database": kind, "what": what, "phase": name, "p50": cells[0], "p99": cells[1]})
            ratio = chart["beside a provider that hangs"][-1] / chart["alone"][-1]
            goal = Goal(f"{NAMES[kind]}, {what}: growth of the 99th percentile", GOAL, ratio, at_least=False, unit=" times")
            measured.goals.append(goal)
    measured.data.append({"outcomes_of_the_others": dict(outcomes)})
    measured.tables.append(table)
    title = "Callers of a healthy provider, alone and beside one that hangs"
    measured.charts.append(Chart("hanging-provider", title, "99th percentile, ms", groups, chart))


def main() -> None:
    """Measure, print, keep."""
    options = parser("The latency of a healthy provider's callers beside a provider that hangs, as a ratio.")
    options.add_argument("--seconds", type=float, default=12, help="of each of the two phases (default: 12)")
    given = options.parse_args()
    if given.quick:
        given.seconds = 0.5
    with scenario(
        given,
        "hanging_provider",
        "A provider that hangs",
        __doc__,
        seconds_of_a_phase=given.seconds,
        callers_of_the_one_that_hangs=HANGING_CALLERS,
    ) as measured:
        anyio.run(measure, measured, given)


if __name__ == "__main__":
    main()
