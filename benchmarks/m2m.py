"""How often is the authorization server asked, while agents call a thousand times?

Client credentials with a token that lives for six hours, and nothing in the vault yet. 16 callers make 1,000 calls, in one
process and in several at once, which all find no token at first. Counted are the token requests that reached the server.

    python benchmarks/m2m.py [--database postgresql] [--quick]
"""

from __future__ import annotations

import argparse

import anyio
from kit.databases import DatabaseKind
from kit.fleet import Order, fleet, meanwhile
from kit.scenario import Scenario, parser, scenario
from kit.show import Goal, Table
from kit.vaults import NAMES, PROVIDER, TOKEN_SECONDS, BenchVault, provider_spec

from mcp_identity import app
from tests.fakes.vendor import running_vendor

CALLERS = 16
PROCESSES = (1, 4)
_ANSWER_SECONDS = 0.05


async def measure(measured: Scenario, options: argparse.Namespace) -> None:
    """All databases and numbers of processes."""
    table = Table(
        "client credentials, a fresh vault each time", ["", "processes", "calls", "answered", "upstream", "calls /s"], []
    )
    for kind in measured.kinds:
        for processes in options.processes:
            table.rows.append(await one(measured, kind, processes, options.calls))
    measured.tables.append(table)


async def one(measured: Scenario, kind: DatabaseKind, processes: int, calls: int) -> list[str]:
    """Call so often; a row of the table."""
    vault = BenchVault(measured.folder / f"{kind}-{processes}" / "home", measured.databases.url(kind))
    vault.home.parent.mkdir()
    async with running_vendor() as vendor:
        vendor.expires_in = TOKEN_SECONDS
        async with app.open(vault.settings()) as graph:
            operator = graph.broker.directory.operator(graph.user)
            await graph.broker.directory.add(graph.broker.call(operator, "create_provider"), PROVIDER, provider_spec(vendor))
            await graph.broker.directory.local_principal("agent-0", graph.user, "stdio")
        order = Order("agent-0", None, CALLERS, calls // (CALLERS * processes))
        with fleet(vault, processes) as ships:
            found = await meanwhile(vendor, _ANSWER_SECONDS, lambda: ships.do(order))
        upstream = vendor.count("client_credentials")
    made = order.callers * order.calls * processes
    rate = found.answered / found.milliseconds * 1000
    where = f"{NAMES[kind]}, {processes} {'processes' if processes > 1 else 'process'}"
    measured.say(f"{where}: {found.answered} of {made} answered, {upstream} upstream {sorted(set(found.failed)) or ''}")
    measured.goals.append(Goal(f"{where}: token requests in {made:,} calls", 1, upstream, at_least=False))
    measured.data.append(
        {
            "database": kind,
            "processes": processes,
            "calls": made,
            "answered": found.answered,
            "upstream": upstream,
            "rate": rate,
        }
    )
    return [NAMES[kind], str(processes), f"{made:,}", f"{found.answered:,}", str(upstream), f"{rate:,.0f}"]


def main() -> None:
    """Measure, print, keep."""
    options = parser("Token requests that reach the authorization server, per 1,000 calls.")
    options.add_argument("--calls", type=int, default=1024, help="of all callers together (default: 1024)")
    options.add_argument("--processes", type=int, action="append", help=f"at once (default: {PROCESSES})")
    given = options.parse_args()
    given.processes = given.processes or list(PROCESSES)
    if given.quick:
        given.calls, given.processes = 64, [2]
    with scenario(
        given,
        "m2m",
        "M2M tokens: requests that reach the authorization server",
        __doc__,
        callers=CALLERS,
        calls=given.calls,
    ) as measured:
        anyio.run(measure, measured, given)


if __name__ == "__main__":
    main()
