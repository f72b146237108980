"""How fast do records come under a new key, and does anybody notice?

A tenant's key is rotated, and every grant is sealed anew under it: `keys rotate` and `keys rewrap`, in one process with the
callers. Runs alternate: with nobody else there, and with 8 callers who keep asking for cached tokens of users drawn at random,
each call with its audit row. At last 100,000 grants are brought under a new key while the callers go on. Counted are records a
second, calls that failed, and records that were left behind.

    python benchmarks/rewrap.py [--database sqlite] [--records 100000] [--quick]
"""

from __future__ import annotations

import argparse
import random
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import anyio
import anyio.to_thread
from kit.databases import DatabaseKind
from kit.figures import percentile, spread
from kit.scenario import SEED, Scenario, parser, scenario
from kit.show import Chart, Goal, Table
from kit.vaults import NAMES, PROVIDER, SCOPES, BenchVault, get_token, provider_spec

from mcp_identity import app
from mcp_identity.app.keys import PAGE, KeyDesk
from mcp_identity.domain.errors import IdentityError
from mcp_identity.domain.identity import DEFAULT_TENANT, Principal, WorkloadIdentity
from mcp_identity.vault.rewrap import Rewrapped
from tests.fakes.many_grants import insert_grants, tokens, user_grant_keys, user_of
from tests.fakes.vendor import Vendor

RECORDS, AT_LAST = 5_000, 100_000
CALLERS = 8
ALONE, BESIDE = "alone", f"beside {CALLERS} callers"


@dataclass(frozen=True, slots=True)
class Keys:
    """A vault with grants.

    Attributes:
        graph: Serves callers.
        desk: Rotates and rewraps.
        workload: Whose grants they are.
        records: How many.
    """

    graph: app.Graph
    desk: KeyDesk
    workload: WorkloadIdentity
    records: int


@dataclass(slots=True)
class Calls:
    """What callers saw meanwhile; milliseconds, and the codes of calls that failed."""

    taken: list[float] = field(default_factory=list[float])
    failed: list[str] = field(default_factory=list[str])


@dataclass(frozen=True, slots=True)
class Run:
    """One rotation.

    Attributes:
        rate: Records a second.
        done: What became of them.
        calls: Of the callers meanwhile.
    """

    rate: float
    done: Rewrapped
    calls: Calls


@asynccontextmanager
async def keys(measured: Scenario, kind: DatabaseKind, records: int) -> AsyncGenerator[Keys]:
    """A vault with so many grants."""
    vault = BenchVault(measured.folder / f"{kind}-{records}" / "home", measured.databases.url(kind))
    vault.home.parent.mkdir()
    prepared = await anyio.to_thread.run_sync(app.prepare, vault.settings())
    async with app.running(prepared) as graph:
        call = graph.broker.call(graph.broker.directory.operator(graph.user), "create_provider")
        provider = await graph.broker.directory.add(call, PROVIDER, provider_spec(Vendor(port=1), "USER_FEDERATION"))
        workload = (await graph.broker.directory.local_principal("agent-0", graph.user, "stdio")).workload
        now, wanted = prepared.clock.now(), user_grant_keys(workload, provider.id, records)
        given = tokens(provider, now, scopes=SCOPES)
        await anyio.to_thread.run_sync(lambda: insert_grants(prepared.vault, wanted, given, now=now))
        yield Keys(graph, KeyDesk(graph, prepared.vault), workload, records)


async def keep_calling(made: Keys, calls: Calls, seed: int) -> None:
    """Ask for tokens of users drawn at random, until cancelled."""
    draw = random.Random(seed)  # noqa: S311 - whom to ask for is no secret
    while True:
        principal = Principal(made.workload, user_of(draw.randrange(made.records)), "jwt", verified=True, edge="http")
        begun = time.perf_counter()
        try:
            await get_token(made.graph, made.graph.broker.call(principal, "get_token"))
        except IdentityError as error:
            calls.failed.append(error.code)
        except RuntimeError as error:
            calls.failed.append(str(error))
        else:
            calls.taken.append((time.perf_counter() - begun) * 1000)


async def rotate(made: Keys, callers: int) -> Run:
    """Rotate the tenant's key, and bring all records under it."""
    calls = Calls()
    await made.desk.rotate(DEFAULT_TENANT)
    taken = 0.0
    done = Rewrapped()
    async with anyio.create_task_group() as tasks:
        for number in range(callers):
            tasks.start_soon(keep_calling, made, calls, SEED + number)
        begun = time.perf_counter()
        done = await made.desk.rewrap(DEFAULT_TENANT, PAGE, lambda _table, _rows: None)
        taken = time.perf_counter() - begun
        tasks.cancel_scope.cancel()
    return Run(done.moved / taken, done, calls)


async def measure(measured: Scenario, options: argparse.Namespace) -> None:
    """All databases."""
    columns = ["", "grants", "runs", "records /s", "left behind", "calls meanwhile", "failed", "p50 ms", "p99 ms"]
    table = Table(f"every record comes under a new key, {PAGE} to a transaction", columns, [])
    chart: dict[str, list[float]] = {ALONE: [], BESIDE: []}
    for kind in measured.kinds:
        async with keys(measured, kind, options.sample) as made:
            runs: dict[str, list[Run]] = {ALONE: [], BESIDE: []}
            for number in range(options.rounds):
                for name, callers in ((ALONE, 0), (BESIDE, CALLERS)):
                    runs[name].append(await rotate(made, callers))
                    measured.say(f"{kind} run {number + 1} {name}: {runs[name][-1].rate:,.0f} records/s")
            for name, found in runs.items():
                note(measured, table, f"{NAMES[kind]}, {name}", made.records, found)
                chart[name].append(spread(each.rate for each in found).median)
        async with keys(measured, kind, options.records) as made:
            last = await rotate(made, CALLERS)
            measured.say(
                f"{kind}: {made.records:,} grants {BESIDE}: {last.rate:,.0f} records/s, {len(last.calls.failed)} failed"
            )
            note(measured, table, f"{NAMES[kind]}, {BESIDE}", made.records, [last])
            what = f"{NAMES[kind]}: calls that failed while {made.records:,} records came under a new key"
            measured.goals.append(Goal(what, 0, len(last.calls.failed), at_least=False))
            left = last.done.left + sum(last.done.unreadable.values())
            measured.goals.append(Goal(f"{NAMES[kind]}: records left behind", 0, left, at_least=False))
    measured.tables.append(table)
    groups = [NAMES[kind] for kind in measured.kinds]
    measured.charts.append(Chart("rewrap", "Records that come under a new key", "records a second", groups, chart))


def note(measured: Scenario, table: Table, where: str, records: int, runs: list[Run]) -> None:
    """Make a row of the table."""
    rate = spread(each.rate for each in runs)
    taken = [each for run in runs for each in run.calls.taken]
    failed = [code for run in runs for code in run.calls.failed]
    left = sum(run.done.left + sum(run.done.unreadable.values()) for run in runs)
    waited = [f"{percentile(taken, percent):.1f}" if taken else "" for percent in (50, 99)]
    rates = f"{rate.median:,.0f} ({rate.low:,.0f} to {rate.high:,.0f})" if len(runs) > 1 else f"{rate.median:,.0f}"
    table.rows.append([where, f"{records:,}", str(len(runs)), rates, str(left), f"{len(taken):,}", str(len(failed)), *waited])
    measured.data.append(
        {
            "where": where,
            "grants": records,
            "rates": [each.rate for each in runs],
            "left": left,
            "calls": len(taken),
            "failed": sorted(set(failed)),
        }
    )


def main() -> None:
    """Measure, print, keep."""
    options = parser("The rate at which records come under a new key, and what callers see of it.")
    options.add_argument("--records", type=int, default=AT_LAST, help=f"of the last run (default: {AT_LAST:,})")
    options.add_argument("--sample", type=int, default=RECORDS, help=f"of each of the alternating runs (default: {RECORDS:,})")
    given = options.parse_args()
    if given.quick:
        given.records, given.sample, given.rounds = 400, 200, 1
    with scenario(
        given,
        "rewrap",
        "Bringing records under a new key",
        __doc__,
        records=given.records,
        records_of_a_run=given.sample,
        rounds=given.rounds,
        callers=CALLERS,
        seed=SEED,
    ) as measured:
        anyio.run(measure, measured, given)


if __name__ == "__main__":
    main()
