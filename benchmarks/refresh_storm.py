"""What happens when everybody finds the same token expired at once?

A user's access token has ended, and its refresh token is one that may be used once: the authorization server rotates it and
refuses an old one. 2, 8 and 64 callers in each of 1 and 4 processes ask for that token at the same moment; on PostgreSQL every
process is a replica with a folder of its own, and two of them are tried as well. The server answers after a tenth of a second,
so that all of them meet. Counted are the calls that were answered with the new token, the requests that reached the server,
and whether the vault holds the refresh token that the server will take next.

    python benchmarks/refresh_storm.py [--database postgresql] [--quick]
"""

from __future__ import annotations

import argparse
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from itertools import count

import anyio
import anyio.to_thread
from kit.databases import DatabaseKind
from kit.figures import spread
from kit.fleet import Fleet, Order, Outcome, fleet, meanwhile
from kit.scenario import Scenario, parser, scenario
from kit.show import Chart, Goal, Table
from kit.vaults import NAMES, PROVIDER, SCOPES, BenchVault, provider_spec

from mcp_identity import app
from mcp_identity.domain.credentials import Flow, Grant, GrantKey, GrantState, Secret
from mcp_identity.domain.identity import WorkloadIdentity
from mcp_identity.domain.provider import CredentialProvider
from mcp_identity.vault.records import Records
from tests.fakes.many_grants import insert_grants, tokens, user_of
from tests.fakes.vendor import Vendor, new_secret, running_vendor

CALLERS = (2, 8, 64)
PROCESSES: dict[DatabaseKind, tuple[int, ...]] = {"sqlite": (1, 4), "postgresql": (1, 2, 4)}
AGENT = "agent-0"
ANSWER_SECONDS = 0.1
_users = count()


@dataclass(frozen=True, slots=True)
class Storm:
    """One storm.

    Attributes:
        outcome: What the callers got.
        wanted: How many calls there were.
        refreshes: Requests that the server has seen.
        alive: The vault holds the refresh token that the server takes next.
        milliseconds: Until the last answer.
    """

    outcome: Outcome
    wanted: int
    refreshes: int
    alive: bool
    milliseconds: float

    @property
    def is_calm(self) -> bool:
        """Whether everybody got the one new token."""
        return self.outcome.answered == self.wanted and self.refreshes == 1 and self.alive and len(self.outcome.tokens) == 1


@dataclass(frozen=True, slots=True)
class Weather:
    """A vault, and the server that its tokens come from.

    Attributes:
        vault: For other processes.
        prepared: Open in this one.
        provider: At the server.
        workload: Whose grants they are.
        vendor: The server.
    """

    vault: BenchVault
    prepared: app.Prepared
    provider: CredentialProvider
    workload: WorkloadIdentity
    vendor: Vendor

    async def storm(self, ships: Fleet, callers: int, processes: int) -> Storm:
        """Let everybody ask for one expired token."""
        user, vendor = next(_users), self.vendor
        key = GrantKey(self.workload.tenant, self.workload.id, user_of(user).key, self.provider.id, Flow.USER_FEDERATION)
        vendor.refresh_token = new_secret()
        vendor.received.clear()
        now = self.prepared.clock.now()
        ended = tokens(
            self.provider, now - timedelta(hours=2), timedelta(hours=1), SCOPES, refresh_token=Secret(vendor.refresh_token)
        )
        await anyio.to_thread.run_sync(lambda: insert_grants(self.prepared.vault, [key], ended, now=now - timedelta(hours=2)))
        outcome = await meanwhile(vendor, ANSWER_SECONDS, lambda: ships.do(Order(AGENT, user, callers)))
        refreshes = vendor.count("refresh_token")
        held = await self._held(key)
        return Storm(outcome, callers * processes, refreshes, held == vendor.refresh_token, outcome.milliseconds)

    async def _held(self, key: GrantKey) -> str:
        """The refresh token in the vault; empty where the grant is none that lives."""

        def unit(records: Records) -> Grant | None:
            return records.find_grant(key)

        grant = await self.prepared.vault.run(unit)
        if grant is None or grant.state is not GrantState.ACTIVE or grant.tokens is None or grant.tokens.refresh_token is None:
            return ""
        return grant.tokens.refresh_token.reveal()


@asynccontextmanager
async def weather(measured: Scenario, kind: DatabaseKind) -> AsyncGenerator[Weather]:
    """Make a vault and a server."""
    vault = BenchVault(measured.folder / kind / "home", measured.databases.url(kind))
    vault.home.parent.mkdir()
    prepared = await anyio.to_thread.run_sync(app.prepare, vault.settings())
    async with running_vendor() as vendor, app.running(prepared) as graph:
        operator = graph.broker.directory.operator(graph.user)
        call = graph.broker.call(operator, "create_provider")
        provider = await graph.broker.directory.add(call, PROVIDER, provider_spec(vendor, "USER_FEDERATION"))
        workload = (await graph.broker.directory.local_principal(AGENT, graph.user, "stdio")).workload
        yield Weather(vault, prepared, provider, workload, vendor)


async def measure(measured: Scenario, options: argparse.Namespace) -> None:
    """All databases, numbers of processes, and numbers of callers."""
    columns = ["", "processes", "callers in each", "storms", "answered", "refreshes", "grant alive", "last answer ms"]
    table = Table("an expired token that everybody wants", columns, [])
    waits: dict[str, list[float]] = {}
    for kind in measured.kinds:
        async with weather(measured, kind) as made:
            for processes in options.processes or PROCESSES[kind]:
                all_storms: list[Storm] = []
                with fleet(made.vault, processes) as ships:
                    for callers in options.callers:
                        storms = [await made.storm(ships, callers, processes) for _ in range(options.rounds)]
                        all_storms += storms
                        _note(measured, table, kind, processes, callers, storms)
                        last = spread(each.milliseconds for each in storms).median
                        waits.setdefault(f"{NAMES[kind]}, {processes} proc.", []).append(last)
                calm = sum(storm.is_calm for storm in all_storms)
                what = f"{NAMES[kind]}, {_processes(processes)}: storms in which all got the token of one refresh, grant alive"
                measured.goals.append(Goal(what, len(all_storms), calm))
    measured.tables.append(table)
    measured.charts.append(
        Chart(
            name="refresh-storm",
            title=f"Everybody wants one expired token; its server takes {ANSWER_SECONDS * 1000:.0f} ms",
            unit="milliseconds to the last answer",
            groups=[f"{callers} callers in each process" for callers in options.callers],
            series=waits,
        )
    )


def _processes(number: int) -> str:
    return f"{number} processes" if number > 1 else "1 process"


def _note(measured: Scenario, table: Table, kind: DatabaseKind, processes: int, callers: int, storms: list[Storm]) -> None:
    answered, wanted = sum(each.outcome.answered for each in storms), sum(each.wanted for each in storms)
    refreshes = [each.refreshes for each in storms]
    alive = sum(each.alive for each in storms)
    last = spread(each.milliseconds for each in storms)
    where = f"{NAMES[kind]}, {_processes(processes)}"
    told = f"{min(refreshes)} to {max(refreshes)}" if len(set(refreshes)) > 1 else str(refreshes[0])
    table.rows.append(
        [
            NAMES[kind],
            str(processes),
            str(callers),
            str(len(storms)),
            f"{answered:,} of {wanted:,}",
            told,
            f"{alive} of {len(storms)}",
            f"{last.median:.0f} ({last.low:.0f} to {last.high:.0f})",
        ]
    )
    failed = sorted({code for each in storms for code in each.outcome.failed})
    counted = f"{answered} of {wanted} answered, refreshes {refreshes}, alive {alive}, {last.median:.0f} ms"
    measured.say(f"{where}, {callers} callers in each: {counted} {failed or ''}")
    measured.data.append(
        {
            "database": kind,
            "processes": processes,
            "callers": callers,
            "answered": answered,
            "wanted": wanted,
            "refreshes": refreshes,
            "alive": alive,
            "failed": failed,
            "milliseconds": [each.milliseconds for each in storms],
        }
    )


def main() -> None:
    """Measure, print, keep."""
    options = parser("Everybody asks for one expired token: answered, refreshes, grant alive.")
    options.add_argument("--callers", type=int, action="append", help=f"in each process (default: {CALLERS})")
    options.add_argument("--processes", type=int, action="append", help="default: 1 and 4, on PostgreSQL 2 as well")
    given = options.parse_args()
    given.callers = given.callers or list(CALLERS)
    if given.quick:
        given.rounds, given.callers, given.processes = 1, [8], [2]
    with scenario(
        given,
        "refresh_storm",
        "A refresh storm",
        __doc__,
        callers=given.callers,
        storms_of_each_kind=given.rounds,
    ) as measured:
        anyio.run(measure, measured, given)


if __name__ == "__main__":
    main()
