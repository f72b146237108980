"""Does a cached token take longer where there are a million of them?

Vaults with 1 thousand, 100 thousand and 1 million grants of as many users stand side by side on each database. One caller asks
each of them in turn, call by call, for the token of a user drawn at random: cold is the first time that the process touches
that grant, warm the second. The ratio of the medians, the largest vault to the smallest, counts. The grants were written by
the product's own sealing, in bulk; afterwards the database was told to update its statistics, as it does by itself in time.

    python benchmarks/many_grants.py [--database sqlite] [--sizes 1000 1000000] [--quick]
"""

from __future__ import annotations

import argparse
import random
import sqlite3
import time
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager, closing
from dataclasses import dataclass

import anyio
import anyio.to_thread
from kit.databases import DatabaseKind
from kit.figures import percentile
from kit.scenario import SEED, Scenario, parser, scenario
from kit.show import Chart, Goal, Table
from kit.vaults import NAMES, PROVIDER, SCOPES, BenchVault, get_token, provider_spec

from mcp_identity import app
from mcp_identity.domain.identity import Principal, WorkloadIdentity
from tests.fakes.many_grants import insert_grants, tokens, user_grant_keys, user_of
from tests.fakes.vendor import Vendor

SIZES = (1_000, 100_000, 1_000_000)
TOUCHED = 150
"""Grants of each vault that a round touches; five rounds touch fewer than the smallest vault has."""
GOAL = 1.25
WARMTH = ("cold", "warm")


@dataclass(frozen=True, slots=True)
class Full:
    """A vault with many grants, open in this process.

    Attributes:
        kind: Of its database.
        size: How many grants it has.
        graph: Its broker.
        workload: Whose grants they are.
        users: Numbers of users nobody has asked for yet, at random.
        fill_rate: Grants that were written a second.
        bytes_each: On disk, for a grant, with its indexes.
    """

    kind: DatabaseKind
    size: int
    graph: app.Graph
    workload: WorkloadIdentity
    users: list[int]
    fill_rate: float
    bytes_each: float

    def principal(self, user: int) -> Principal:
        """The agent on behalf of a user."""
        return Principal(self.workload, user_of(user), "jwt", verified=True, edge="http")


@asynccontextmanager
async def full(measured: Scenario, kind: DatabaseKind, size: int) -> AsyncGenerator[Full]:
    """Make a vault with so many grants, and keep it open while the block lasts."""
    vault = BenchVault(measured.folder / f"{kind}-{size}" / "home", measured.databases.url(kind))
    vault.home.parent.mkdir()
    prepared = await anyio.to_thread.run_sync(app.prepare, vault.settings())
    async with app.running(prepared) as graph:
        broker, operator = graph.broker, graph.broker.directory.operator(graph.user)
        nobody = Vendor(port=1)
        spec = provider_spec(nobody, "USER_FEDERATION")
        provider = await broker.directory.add(broker.call(operator, "create_provider"), PROVIDER, spec)
        workload = (await broker.directory.local_principal("agent-0", graph.user, "stdio")).workload
        now, keys = prepared.clock.now(), user_grant_keys(workload, provider.id, size)
        given, done = tokens(provider, now, scopes=SCOPES), 0

        def advance(count: int) -> None:
            nonlocal done
            done += count
            if done % 100_000 == 0:
                measured.say(f"{kind}: wrote {done:,} of {size:,} grants")

        empty = await anyio.to_thread.run_sync(settle, measured, vault)
        begun = time.perf_counter()
        await anyio.to_thread.run_sync(lambda: insert_grants(prepared.vault, keys, given, now=now, advance=advance))
        taken = time.perf_counter() - begun
        stored = await anyio.to_thread.run_sync(settle, measured, vault)
        users = random.Random(SEED).sample(range(size), min(size, 20 * TOUCHED))  # noqa: S311 - which to touch is no secret
        yield Full(kind, size, graph, workload, users, size / taken, (stored - empty) / size)


def settle(measured: Scenario, vault: BenchVault) -> int:
    """Let the database do now what it would do soon; how many bytes it takes on disk."""
    if not vault.database_url:
        with closing(sqlite3.connect(vault.home / "vault.db")) as connection:
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        return (vault.home / "vault.db").stat().st_size
    name = vault.database_url.rpartition("/")[2]
    if measured.databases.server is None:
        raise RuntimeError("a PostgreSQL vault without a server")
    with measured.databases.server.connect(name) as connection:
        connection.execute("VACUUM ANALYZE")
        connection.execute("CHECKPOINT")
        found = connection.execute("SELECT pg_database_size(current_database())").fetchone()
    return int(found[0]) if found else 0


async def touch(vaults: list[Full], users: dict[int, list[int]]) -> dict[int, list[float]]:
    """Ask all vaults in turn for the tokens of some users each; milliseconds of each call, by size."""
    taken: dict[int, list[float]] = {vault.size: [] for vault in vaults}
    for number in range(min(len(each) for each in users.values())):
        for vault in vaults:
            call = vault.graph.broker.call(vault.principal(users[vault.size][number]), "get_token")
            begun = time.perf_counter()
            await get_token(vault.graph, call)
            taken[vault.size].append((time.perf_counter() - begun) * 1000)
    return taken


async def measure(measured: Scenario, options: argparse.Namespace) -> None:
    """All databases, one after the other; the vaults of each in turn."""
    columns = ["", "grants", "p50 ms", "p99 ms", "of the smallest", "written /s", "bytes a grant"]
    table = Table("a cached get_token by one caller, of a user drawn at random", columns, [])
    medians: dict[str, list[float]] = {}
    for kind in measured.kinds:
        async with AsyncExitStack() as stack:
            vaults = [await stack.enter_async_context(full(measured, kind, size)) for size in options.sizes]
            taken: dict[str, dict[int, list[float]]] = {each: {size: [] for size in options.sizes} for each in WARMTH}
            await touch(vaults, {vault.size: [vault.users.pop() for _ in range(options.touched // 5)] for vault in vaults})
            for number in range(options.rounds):
                users = {vault.size: [vault.users.pop() for _ in range(options.touched)] for vault in vaults}
                for warmth in WARMTH:
                    for size, found in (await touch(vaults, users)).items():
                        taken[warmth][size] += found
                        measured.say(f"{kind} run {number + 1} {warmth}: {size:>9,} grants, p50 {percentile(found, 50):.2f} ms")
        for warmth, by_size in taken.items():
            smallest, *_, largest = [percentile(found, 50) for found in by_size.values()]
            what = f"{NAMES[kind]}, {warmth}: {max(options.sizes):,} grants to {min(options.sizes):,}"
            measured.goals.append(Goal(what, GOAL, largest / smallest, at_least=False, unit=" times"))
            medians[f"{NAMES[kind]}, {warmth}"] = [percentile(found, 50) for found in by_size.values()]
            for vault in vaults:
                found = by_size[vault.size]
                p50, p99 = percentile(found, 50), percentile(found, 99)
                row = [
                    f"{p50:.2f}",
                    f"{p99:.2f}",
                    f"{p50 / smallest:.2f}",
                    f"{vault.fill_rate:,.0f}",
                    f"{vault.bytes_each:,.0f}",
                ]
                table.rows.append([f"{NAMES[kind]}, {warmth}", f"{vault.size:,}", *row])
                measured.data.append({"database": kind, "grants": vault.size, "warmth": warmth, "p50": p50, "p99": p99})
    measured.tables.append(table)
    measured.charts.append(
        Chart(
            name="many-grants",
            title="A cached token, by how many grants the vault holds",
            unit="median milliseconds of a call",
            groups=[f"{size:,} grants" for size in options.sizes],
            series=medians,
        )
    )


def main() -> None:
    """Measure, print, keep."""
    options = parser("The latency of a cached get_token, by the number of grants.")
    options.add_argument("--sizes", type=int, nargs="+", default=list(SIZES), help=f"grants (default: {SIZES})")
    given = options.parse_args()
    given.touched = TOUCHED
    if given.quick:
        given.sizes, given.rounds, given.touched = [100, 1000], 1, 20
    with scenario(
        given,
        "many_grants",
        "Latency by the number of grants",
        __doc__,
        grants=given.sizes,
        rounds=given.rounds,
        calls_of_a_round=given.touched,
        seed=SEED,
    ) as measured:
        anyio.run(measure, measured, given)


if __name__ == "__main__":
    main()
