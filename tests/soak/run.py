"""A soak: one server, everybody's calls at once, and what is left of it afterwards."""

from __future__ import annotations

import sqlite3
from collections import Counter
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import anyio

from tests.fakes.home import VaultHome, put_postgres_vault, put_vault
from tests.fakes.postgres import Database
from tests.http.kit import server_process
from tests.soak.mix import LIMITS, WORKLOAD, Agents, Town, Traffic, settle, town
from tests.soak.watch import Watch

ARGUMENTS = ("--transport", "http", "--port", "0", "--insecure-loopback", "--workload", WORKLOAD)
Trail = Counter[tuple[str, str]]
WELL = {"ok", "consent_required"}
MEMORY_MIB, FILES, THREADS = 8.0, 8.0, 2.0
"""What may be more at the end than after the warm-up: caches that still fill, connections of the moment."""


@dataclass(slots=True)
class Soaked:
    """What came of it.

    Attributes:
        traffic: What was called.
        watch: How the server grew.
        trail: The audit rows of these calls, by action and outcome.
        given: What the vendors processed meanwhile, by grant type.
        status: How the server ended when it was told to.
        log: What it said.
    """

    traffic: Traffic
    watch: Watch
    trail: Trail
    given: Counter[str]
    status: int
    log: bytes

    def expected(self) -> dict[str, int]:
        """How many rows the trail must have: one for each call and page, two where a vendor or an API was asked."""
        calls, given = self.traffic.calls, self.given
        pages = dict.fromkeys(("begin_consent", "callback", "complete_consent"), given["authorization_code"])
        asked = {"refresh": given["refresh_token"], "obtain": given["client_credentials"], "call_api": calls["call_api"]}
        return {**calls, **pages, **{action: 2 * count for action, count in asked.items()}}

    def violations(self) -> list[str]:
        """What must not have happened; empty where all was well."""
        watch = self.watch
        rows = Counter[str]()
        for (action, _), count in self.trail.items():
            rows[action] += count
        found = [f"{len(self.traffic.errors)} errors, such as {self.traffic.errors[0]}"] if self.traffic.errors else []
        for action, count in self.expected().items():
            if rows[action] != count:
                found.append(f"{rows[action]} rows of {action}, and {count} are right")
        found += [f"{count} rows of {name} say {said}" for (name, said), count in self.trail.items() if said not in WELL]
        if watch.growth("memory") > MEMORY_MIB:
            found.append(f"memory grew by {watch.growth('memory'):.1f} MiB")
        if watch.growth("files") > FILES:
            found.append(f"file descriptors grew by {watch.growth('files'):.0f}")
        if watch.growth("threads") > THREADS:
            found.append(f"threads grew by {watch.growth('threads'):.0f}")
        if self.status != 0:
            found.append(f"the server ended with {self.status}")
        return found


async def soak(folder: Path, *, postgresql: bool, rate: float, seconds: float, seed: int) -> Soaked:
    """Let a real server work.

    Args:
        folder: For its vault.
        postgresql: Keep the vault on PostgreSQL, and not in SQLite.
        rate: Calls a second.
        seconds: For so long.
        seed: Of the order of calls.
    """
    home = VaultHome(folder / "home")
    database = put_postgres_vault(home.path) if postgresql else None
    if database is None:
        put_vault(home.path)
    url = database.url if database else ""
    async with town() as here:
        await settle(home.settings().model_copy(update={"database_url": url}), here)
        before, given = _trail(home, database), _given(here)
        arguments = (*ARGUMENTS, "--trust-local-user") if postgresql else ARGUMENTS
        settings = {**LIMITS, **({"DATABASE_URL": url} if url else {})}
        async with server_process(home, *arguments, settings=settings) as server:
            assert server.process is not None
            agents, watch = Agents(server.url, here, seed), Watch(server.process.pid)
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(watch.run)
                await agents.work(rate, seconds)
                tasks.cancel_scope.cancel()
            server.process.terminate()
            with anyio.fail_after(15):
                status = await server.process.wait()
                await server.logged.wait()
            trail, received = _trail(home, database) - before, _given(here) - given
            return Soaked(agents.traffic, watch, trail, received, status, bytes(server.log))


def _trail(home: VaultHome, database: Database | None) -> Trail:
    statement = "SELECT action, outcome, count(*) FROM audit_events GROUP BY action, outcome"
    if database is not None:
        return Trail({(action, outcome): count for action, outcome, count in database.execute(statement)})
    with closing(sqlite3.connect(f"file:{home.path / 'vault.db'}?mode=ro", uri=True)) as connection:
        return Trail({(action, outcome): count for action, outcome, count in connection.execute(statement)})


def _given(here: Town) -> Counter[str]:
    return Counter(form["grant_type"] for vendor in here.vendors for form in vendor.received)
