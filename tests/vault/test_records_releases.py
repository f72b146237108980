from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

from mcp_identity.domain.identity import DEFAULT_TENANT
from mcp_identity.vault.records import Records
from mcp_identity.vault.records.releases import KEPT, NewRelease, StoredRelease
from mcp_identity.vault.vault import Vault
from tests.fakes.clock import START, FakeClock
from tests.vault.kit import ALICE, digest

RELEASE = NewRelease(
    DEFAULT_TENANT, digest("handle"), "workload", 3, ALICE.key, "grant", "row-github", 7, START + timedelta(seconds=60)
)


async def find(vault: Vault, name: str = "handle") -> StoredRelease | None:
    return await vault.read(lambda records: records.find_release(digest(name)))


async def consume(vault: Vault, release: StoredRelease) -> bool:
    return await vault.run(lambda records: records.consume_release(release))


async def test_a_handle_comes_back_as_it_was_kept(vault: Vault) -> None:
    await vault.run(lambda records: records.insert_release(RELEASE))
    found = await find(vault)
    assert found is not None
    assert (found.given, found.is_used) == (RELEASE, False)
    assert await find(vault, "another") is None


async def test_a_handle_is_used_once(vault: Vault) -> None:
    await vault.run(lambda records: records.insert_release(RELEASE))
    found = await find(vault)
    assert found is not None
    assert await consume(vault, found)
    assert not await consume(vault, found)
    again = await find(vault)
    assert again is not None
    assert (again.id, again.given, again.is_used) == (found.id, RELEASE, True)
    unknown = replace(found, given=replace(RELEASE, handle_hash=digest("unknown")))
    assert not await consume(vault, unknown)


async def test_handles_are_forgotten_an_hour_after_their_end(vault: Vault, clock: FakeClock) -> None:
    def unit(records: Records) -> None:
        records.insert_release(RELEASE)
        records.insert_release(
            replace(RELEASE, handle_hash=digest("later"), expires_at=RELEASE.expires_at + timedelta(hours=1))
        )

    await vault.run(unit)
    clock.advance(60 + KEPT.total_seconds())
    assert await vault.run(lambda records: records.sweep_releases()) == 0
    clock.advance(1)
    assert await vault.run(lambda records: records.sweep_releases()) == 1
    assert await find(vault) is None
    assert await find(vault, "later") is not None
