"""In whichever order keys are rotated, records rewrapped and tenants erased: is every record read, or gone for good?

And: of a thousand cells that somebody changed or swapped, a thousand are noticed.
"""

from __future__ import annotations

import os
import random
import shutil
import sqlite3
import tempfile
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import anyio
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mcp_identity.domain.audit import AuditEvent
from mcp_identity.domain.credentials import GrantKey
from mcp_identity.domain.errors import Conflict, VaultCorrupt
from mcp_identity.domain.identity import DEFAULT_TENANT
from mcp_identity.vault.records import Records
from mcp_identity.vault.records.registry import PROTECTED
from mcp_identity.vault.vault import Vault, open_vault
from tests.fakes.clock import FakeClock, SystemEntropy
from tests.vault.kit import grant_key, location, provider, token_set
from tests.vault.test_registry import fill, rows_of

PROVE = bool(os.environ.get("PROVE"))
TENANTS = (DEFAULT_TENANT, "acme")
EVENT = AuditEvent(DEFAULT_TENANT, "", "", "", "", verified=True, edge="cli", action="keys")
STEPS = st.lists(
    st.tuples(
        st.sampled_from(
            ("put", "put", "put", "read", "revoke", "rotate", "rewrap", "a page", "remove old", "erase", "restart")
        ),
        st.sampled_from(TENANTS),
        st.integers(0, 3),
    ),
    min_size=5,
    max_size=18,
)


@dataclass(slots=True)
class World:
    """A vault with two tenants, and what should be in it.

    Attributes:
        home: Where it is.
        clock: Its time.
        vault: Open.
        owners: Each tenant's workload.
        expected: The access token of each grant; None for one that was revoked.
        erased: The tenants whose keys are gone.
    """

    home: Path
    clock: FakeClock
    vault: Vault
    owners: dict[str, GrantKey] = field(default_factory=dict[str, GrantKey])
    expected: dict[GrantKey, str | None] = field(default_factory=dict[GrantKey, "str | None"])
    erased: set[str] = field(default_factory=set[str])
    written: int = 0

    async def begin(self) -> None:
        """Give each tenant a workload and a provider."""
        for tenant in TENANTS:
            await self.vault.ensure_tenant(tenant)
            name = f"{tenant}-github"

            def unit(records: Records, tenant: str = tenant, name: str = name) -> GrantKey:
                records.insert_provider(replace(provider(name), tenant=tenant), None)
                workload = records.register_workload(tenant, "agent", "stdio")
                return replace(grant_key(workload), tenant=tenant, provider_row=f"row-{name}")

            self.owners[tenant] = await self.vault.run(unit)

    async def step(self, what: str, tenant: str, number: int) -> None:
        """Take a step; of an erased tenant it must be refused."""
        key = replace(self.owners[tenant], audience=str(number))
        life = self.vault.key_life()
        steps: dict[str, Callable[[], Any]] = {
            "put": lambda: self._put(key),
            "read": self.check,
            "revoke": lambda: self._revoke(key),
            "rotate": lambda: life.rotate(tenant, EVENT),
            "rewrap": lambda: life.rewrap(tenant, EVENT, page=2),
            "a page": lambda: self._page(tenant),
            "remove old": lambda: self._remove_old(tenant),
            "erase": lambda: self._erase(tenant),
            "restart": self._restart,
        }
        if what == "revoke" and self.expected.get(key) is None:
            return
        if tenant in self.erased and what not in ("read", "restart"):
            with pytest.raises((VaultCorrupt, Conflict)):
                await steps[what]()
        else:
            await steps[what]()

    async def check(self) -> None:
        """Every record that should be readable is, with the very value that was written last; the others are gone."""
        for key, expected in self.expected.items():
            if key.tenant in self.erased and expected is not None:  # of a revoked grant nothing is sealed any more
                with pytest.raises(VaultCorrupt):
                    await self.vault.run(lambda records, key=key: records.find_grant(key))
                continue
            found = await self.vault.run(lambda records, key=key: records.find_grant(key))
            assert found is not None
            assert (found.tokens.access_token.reveal() if found.tokens else None) == expected

    async def _put(self, key: GrantKey) -> None:
        self.written += 1
        name = str(self.written)
        await self.vault.run(lambda records: records.complete_grant(key, token_set(name), "consent"))
        self.expected[key] = f"access-{name}"

    async def _revoke(self, key: GrantKey) -> None:
        found = await self.vault.run(lambda records: records.find_grant(key))
        if found is not None:
            await self.vault.run(lambda records: records.revoke_grant_row(found))
            self.expected[key] = None

    async def _page(self, tenant: str) -> None:
        """A rewrap that is stopped after its first page."""

        class Stopped(Exception):
            pass

        def stop(_table: str, rows: int) -> None:
            if rows:
                raise Stopped

        try:
            await self.vault.key_life().rewrap(tenant, EVENT, page=2, advance=stop)
        except Stopped:
            return

    async def _remove_old(self, tenant: str) -> None:
        self.clock.advance(61)
        try:
            await self.vault.key_life().remove_old(tenant, EVENT)
        except Conflict as held:
            if tenant in self.erased or "records are under" not in held.message:
                raise

    async def _erase(self, tenant: str) -> None:
        await self.vault.key_life().erase(tenant, EVENT)
        self.erased.add(tenant)

    async def _restart(self) -> None:
        self.vault.close()
        self.vault = open_vault(location(self.home), self.clock, SystemEntropy())


@pytest.mark.timeout(600)
@settings(
    max_examples=300 if PROVE else 15,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
@given(steps=STEPS)
def test_no_order_of_steps_loses_a_record_or_brings_one_back(made: Path, steps: list[tuple[str, str, int]]) -> None:
    async def run() -> None:
        with tempfile.TemporaryDirectory() as folder:
            home, clock = Path(shutil.copytree(made, Path(folder) / "home")), FakeClock()
            world = World(home, clock, open_vault(location(home), clock, SystemEntropy()))
            try:
                await world.begin()
                for step in steps:
                    await world.step(*step)
                await world.check()
            finally:
                world.vault.close()

    anyio.run(run)


def damaged(chosen: random.Random, value: bytes, others: list[bytes]) -> tuple[str, bytes]:
    """A cell as somebody might leave it who holds the database, and what was done to it."""
    what = chosen.choice(("flipped", "flipped", "cut", "longer", "swapped", "swapped", "emptied", "overwritten"))
    match what:
        case "flipped":
            at = chosen.randrange(len(value))
            return what, value[:at] + bytes([value[at] ^ (1 << chosen.randrange(8))]) + value[at + 1 :]
        case "cut":
            return what, value[: chosen.randrange(len(value))]
        case "longer":
            return what, value + chosen.randbytes(chosen.randrange(1, 40))
        case "swapped":
            return what, chosen.choice([other for other in others if other != value])
        case "emptied":
            return what, b""
        case _:
            return what, chosen.randbytes(len(value))


@pytest.mark.sqlite
async def test_of_a_thousand_changed_or_swapped_cells_a_thousand_are_noticed(vault: Vault, database: Path) -> None:
    await vault.run(fill)

    def more(records: Records) -> None:
        workload = records.find_workload(DEFAULT_TENANT, "agent")
        assert workload is not None
        for number in range(6):
            key = grant_key(workload, audience=f"more-{number}")
            for turn in range(1 + number % 2):  # some have an older value, which is put back in its stead
                records.complete_grant(key, token_set(f"{number}-{turn}"), "consent")

    await vault.run(more)
    chosen, noticed = random.Random(7), Counter[str]()  # noqa: S311 - the same thousand in every run
    rows = await vault.read(lambda records: {name: rows_of(records, each) for name, each in PROTECTED.items()})
    cells = [
        (name, row, column)
        for name, found in rows.items()
        for row in found
        for column in PROTECTED[name].columns
        if row[column] is not None
    ]
    values = [row[column] for _, row, column in cells]
    with closing(sqlite3.connect(database, isolation_level=None)) as file:
        file.execute("PRAGMA synchronous=OFF")
        for number in range(1000):
            name, row, column = cells[number % len(cells)] if number < len(cells) else chosen.choice(cells)
            what, changed = damaged(chosen, row[column], values)
            where = f"UPDATE {name} SET {column} = ? WHERE id = ?"  # noqa: S608 - names of ours
            file.execute(where, (changed, row["id"]))
            noticed[what] += await vault.read(lambda records, name=name: not stand(records, name))
            file.execute(where, (row[column], row["id"]))
    assert noticed.total() == 1000, noticed
    assert await vault.read(lambda records: all(stand(records, name) for name in PROTECTED))


def stand(records: Records, name: str) -> bool:
    """Whether every row of a table stands."""
    try:
        for row in rows_of(records, PROTECTED[name]):
            PROTECTED[name].verify(records.ring, row)
    except VaultCorrupt:
        return False
    return True
