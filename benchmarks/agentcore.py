"""How many signed requests of AgentCore's clients are answered a second?

A cached `GetResourceOauth2Token`, and `GetWorkloadAccessTokenForJWT`, on our real server as people start it. Each request is
signed with SigV4 by the key of an agent of its own (tokens), or brings the JWT of a user of its own (workload access tokens),
and leaves an audit row that is durable before the answer. One load generator, a process of its own; it signs once for each
caller and run, since reads may repeat.

    python benchmarks/agentcore.py [--database sqlite] [--callers 16] [--quick]
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict, dataclass, field
from typing import Any

import anyio
from kit.databases import DatabaseKind
from kit.figures import spread
from kit.lanes import ask, signed_request
from kit.load import Plan, Run, Target, runs_of
from kit.scenario import Scenario, parser, scenario
from kit.servers import our_server
from kit.show import Chart, Table
from kit.vaults import NAMES, PROVIDER, SCOPES, BenchVault, fill

from mcp_identity import app
from mcp_identity.broker.specifications import IssuerSpec, WorkloadSpec
from mcp_identity.domain.access_key import AccessKeyRole
from tests.fakes.identity_provider import CLIENT, FakeIdentityProvider, Person

CALLERS = (1, 16, 64)
TOKEN, ISSUE = "/identities/oauth2/token", "/identities/GetWorkloadAccessTokenForJWT"
OPERATIONS = {TOKEN: "GetResourceOauth2Token, cached", ISSUE: "GetWorkloadAccessTokenForJWT"}


@dataclass(frozen=True, slots=True)
class Key:
    """The access key of one agent."""

    id: str
    secret: str = field(repr=False)


async def make_keys(vault: BenchVault, idp: FakeIdentityProvider) -> list[Key]:
    """Let users' tokens speak for the first agent, and give each agent a key."""
    async with app.open(vault.settings()) as graph:
        broker, operator = graph.broker, graph.broker.directory.operator(graph.user)
        spec = IssuerSpec(idp.discovery_url, audiences=(idp.audience,), allow_http_loopback=True)
        await broker.issuers.add(broker.call(operator, "create_issuer"), "corp", spec)
        update = broker.call(operator, "update_workload_identity")
        await broker.workloads.update(update, vault.agents[0], WorkloadSpec(issuer="corp", clients=(CLIENT,)))
        create = broker.call(operator, "create_access_key")
        issued = [await broker.access_keys.create(create, AccessKeyRole.WORKLOAD, (name,)) for name in vault.agents]
        return [Key(each.key.access_key_id, each.secret.reveal()) for each in issued]


def lanes(vault: BenchVault, keys: list[Key], port: int, operation: str, idp: FakeIdentityProvider) -> list[str]:
    """What each caller signs with, and sends."""
    if operation == ISSUE:
        users = [idp.access_token(Person(f"user-{number}", f"User {number}"), client=CLIENT) for number in range(len(keys))]
        return [_lane(keys[0], workloadName=vault.agents[0], userToken=token) for token in users]
    path = "/identities/GetWorkloadAccessToken"
    wats = [
        ask(port, signed_request(port, key.id, key.secret, path, {"workloadName": name}))["workloadAccessToken"]
        for key, name in zip(keys, vault.agents, strict=True)
    ]
    return [_lane(key, workloadIdentityToken=wat) for key, wat in zip(keys, wats, strict=True)]


def _lane(key: Key, **members: str) -> str:
    return json.dumps({"id": key.id, "secret": key.secret, "members": members})


def measure(measured: Scenario, options: argparse.Namespace) -> None:
    """All databases, operations and numbers of callers."""
    table = Table(
        "signed requests; medians, with the least and the most of the rates",
        ["", "callers", "calls /s", "ms p50 / p99", "server CPU ms", "server CPU", "load CPU"],
        [],
    )
    for kind in measured.kinds:
        vault = BenchVault(measured.folder / kind / "home", measured.databases.url(kind))
        vault.home.parent.mkdir()
        with FakeIdentityProvider().serving() as idp:
            anyio.run(fill, vault, max(options.callers))
            keys = anyio.run(make_keys, vault, idp)
            with our_server(vault, "http") as server:
                for operation, name in OPERATIONS.items():
                    bearers = lanes(vault, keys, server.port, operation, idp)
                    target = Target(name, "agentcore", server.port, server.process_id, bearers, [], {})
                    _drive(measured, table, kind, operation, target, options)
    measured.tables.append(table)
    measured.charts.append(_chart(measured))


def _drive(
    measured: Scenario, table: Table, kind: DatabaseKind, operation: str, target: Target, options: argparse.Namespace
) -> None:
    asked: dict[str, Any] = {}
    if operation == TOKEN:
        asked = {"resourceCredentialProviderName": PROVIDER, "scopes": list(SCOPES), "oauth2Flow": "M2M"}
    seconds = options.seconds
    by_callers: dict[int, list[Run]] = {}
    for run in runs_of(Plan([target], operation, asked, options.callers, options.rounds, seconds, seconds / 5)):
        by_callers.setdefault(run.callers, []).append(run)
        measured.say(f"{kind} {run.callers:>2} callers: {run.target} {run.rate:.0f}/s, p99 {run.p99:.1f} ms")
    for callers, found in by_callers.items():
        rates = spread(run.rate for run in found)
        middle = {name: spread(getattr(run, name) for run in found).median for name in _SHOWN}
        measured.data.append(
            {
                "database": kind,
                "operation": target.name,
                "callers": callers,
                "rate": asdict(rates),
                "runs": [asdict(run) for run in found],
            }
        )
        table.rows.append(
            [
                f"{target.name}, {NAMES[kind]}",
                str(callers),
                f"{rates.median:,.0f} ({rates.low:,.0f} to {rates.high:,.0f})",
                f"{middle['p50']:.1f} / {middle['p99']:.1f}",
                f"{middle['server_ms']:.2f}",
                f"{middle['server_share']:.0%}",
                f"{middle['load_share']:.0%}",
            ]
        )


_SHOWN = ("p50", "p99", "server_ms", "server_share", "load_share")


def _chart(measured: Scenario) -> Chart:
    groups = list(dict.fromkeys((each["database"], each["callers"]) for each in measured.data))

    def of(name: str, what: str) -> list[float]:
        return [
            float(each["rate"][what])
            for group in groups
            for each in measured.data
            if each["operation"] == name and (each["database"], each["callers"]) == group
        ]

    names = list(OPERATIONS.values())
    return Chart(
        name="agentcore",
        title="Signed requests of the AgentCore edge, each with its audit row committed",
        unit="calls a second",
        groups=[f"{NAMES[kind]}\n{callers} at once" for kind, callers in groups],
        series={name: of(name, "median") for name in names},
        low={name: of(name, "low") for name in names},
        high={name: of(name, "high") for name in names},
    )


def main() -> None:
    """Measure, print, keep."""
    options = parser("The throughput of signed requests: cached tokens, and workload access tokens for users.")
    options.add_argument("--callers", type=int, action="append", help=f"at once (default: {CALLERS})")
    options.add_argument("--seconds", type=float, default=2.0, help="of each run (default: 2)")
    given = options.parse_args()
    given.callers = given.callers or list(CALLERS)
    if given.quick:
        given.rounds, given.seconds, given.callers = 1, 0.3, [2]
    with scenario(
        given,
        "agentcore",
        "Signed requests of AgentCore's clients",
        __doc__,
        callers=given.callers,
        rounds=given.rounds,
        seconds_of_a_run=given.seconds,
    ) as measured:
        measure(measured, given)


if __name__ == "__main__":
    main()
