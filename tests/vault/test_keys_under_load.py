"""Are records rewrapped while everybody reads, refreshes and writes, without one failed read?

20,000 records in the normal run (4,000 on PostgreSQL), 100,000 with PROVE=1; the rate is printed.
"""

from __future__ import annotations

import os
import random
import time
from collections import Counter
from dataclasses import dataclass, field
from datetime import timedelta

import anyio
import anyio.to_thread
import pytest

from mcp_identity.domain.audit import AuditEvent
from mcp_identity.domain.credentials import GrantKey, GrantState
from mcp_identity.domain.identity import DEFAULT_TENANT
from mcp_identity.vault.records import Records
from mcp_identity.vault.records.grants import Lease
from mcp_identity.vault.rewrap import Rewrapped
from mcp_identity.vault.vault import Vault
from tests.fakes.clock import START
from tests.fakes.many_grants import insert_grants, tokens, user_grant_keys
from tests.vault.kit import Seeded, provider

COUNTS = {"sqlite": 100_000, "postgresql": 100_000} if os.environ.get("PROVE") else {"sqlite": 20_000, "postgresql": 4_000}
EVENT = AuditEvent(DEFAULT_TENANT, "", "", "", "", verified=True, edge="cli", action="rewrap_records")


@dataclass(slots=True)
class Load:
    """What callers do while keys change, and what became of it.

    Attributes:
        vault: The replica that they use.
        keys: The grants that there are.
        done: How often each thing was done.
        revoked: Grants that were revoked meanwhile.
        is_over: The rewrap has ended.
    """

    vault: Vault
    keys: list[GrantKey]
    done: Counter[str] = field(default_factory=Counter[str])
    revoked: set[GrantKey] = field(default_factory=set[GrantKey])
    is_over: bool = False

    async def run(self, number: int) -> None:
        """Read, refresh, replace and revoke grants at random, until it is over; whatever fails, fails the test."""
        chosen = random.Random(number)  # noqa: S311 - which grant is no secret
        mine = self.keys[number::4]  # each caller has its own, so that it knows what to expect
        while not self.is_over:
            key = chosen.choice(mine)
            what = chosen.choices(("read", "look", "refresh", "consent", "revoke"), (40, 20, 20, 15, 5))[0]
            await getattr(self, f"_{what}")(key)
            self.done[what] += 1

    async def _read(self, key: GrantKey) -> None:
        self._check(key, await self.vault.run(lambda records: records.find_grant(key)))

    async def _look(self, key: GrantKey) -> None:
        self._check(key, await self.vault.read(lambda records: records.find_grant(key)))

    def _check(self, key: GrantKey, found: object) -> None:
        state = getattr(found, "state", None)
        assert state is (GrantState.REVOKED if key in self.revoked else GrantState.ACTIVE)

    async def _refresh(self, key: GrantKey) -> None:
        def begin(records: Records) -> Lease | None:
            grant = records.find_grant(key)
            assert grant is not None
            return records.take_lease(grant, self.vault.process_id, intent=True)

        lease = await self.vault.run(begin)
        if lease is None:
            assert key in self.revoked
            return
        fresh = tokens(provider(), START + timedelta(hours=1))
        assert await self.vault.run(lambda records: records.put_tokens(lease, fresh, "refresh")) is not None

    async def _consent(self, key: GrantKey) -> None:
        await self.vault.run(lambda records: records.complete_grant(key, tokens(provider(), START), "consent"))
        self.revoked.discard(key)

    async def _revoke(self, key: GrantKey) -> None:
        def unit(records: Records) -> None:
            grant = records.find_grant(key)
            assert grant is not None
            records.revoke_grant_row(grant)

        await self.vault.run(unit)
        self.revoked.add(key)


@pytest.mark.timeout(600)
async def test_records_are_rewrapped_under_load_and_no_read_fails(
    vault: Vault, store: str, seeded: Seeded, capsys: pytest.CaptureFixture[str]
) -> None:
    count = COUNTS[store]
    keys = list(user_grant_keys(seeded.agent, "row-github", count))
    await anyio.to_thread.run_sync(lambda: insert_grants(vault, keys, tokens(provider(), START), now=START))
    load, life = Load(vault, keys), vault.key_life()
    await life.rotate(DEFAULT_TENANT, EVENT)
    done, began = Rewrapped(), time.monotonic()
    seconds = 0.0
    async with anyio.create_task_group() as group:
        for number in range(4):
            group.start_soon(load.run, number)
        began = time.monotonic()
        done = await life.rewrap(DEFAULT_TENANT, EVENT, page=200)
        seconds = time.monotonic() - began
        load.is_over = True
    assert (done.unreadable, done.left) == ({}, 0)
    assert done.moved + sum(load.done[what] for what in ("refresh", "consent", "revoke")) >= count
    status = (await life.status(DEFAULT_TENANT)).tenants[DEFAULT_TENANT]
    assert status[0].records == 0
    assert all(load.done[what] for what in ("read", "refresh", "consent"))
    for key in keys[:: count // 2000]:
        found = await vault.read(lambda records, key=key: records.find_grant(key))
        assert found is not None
    with capsys.disabled():
        print(  # noqa: T201 - the figure is wanted
            f"\n{done.moved:,} records rewrapped in {seconds:.1f} s ({done.moved / seconds:,.0f}/s) under {dict(load.done)}"
        )
