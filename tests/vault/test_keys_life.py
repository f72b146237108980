"""Rotating, moving and erasing keys: what stays readable, and what does not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import anyio
import pytest

from mcp_identity.domain.audit import AuditEvent
from mcp_identity.domain.credentials import Grant, GrantKey
from mcp_identity.domain.errors import Conflict, NotFound, VaultCorrupt
from mcp_identity.domain.identity import DEFAULT_TENANT
from mcp_identity.vault.keys import VAULT
from mcp_identity.vault.vault import Vault
from tests.fakes.clock import FakeClock
from tests.vault.kit import Seeded, behind_its_back, grant_key, provider, seed, token_set
from tests.vault.test_records_authority import issuer

Opener = Callable[[], Vault]


def event(action: str = "rotate_key") -> AuditEvent:
    return AuditEvent(DEFAULT_TENANT, "", "", "", "", verified=True, edge="cli", action=action)


async def put(vault: Vault, seeded: Seeded, name: str) -> GrantKey:
    key = grant_key(seeded.agent, audience=name)
    await vault.run(lambda records: records.complete_grant(key, token_set(name), "consent"))
    return key


async def read(vault: Vault, key: GrantKey) -> str:
    found = await vault.run(lambda records: records.find_grant(key))
    assert found is not None
    assert found.tokens is not None
    return found.tokens.access_token.reveal()


async def under(vault: Vault) -> dict[int, int]:
    """How many rows of the default tenant are under each version of its key."""
    status = await vault.key_life().status(DEFAULT_TENANT)
    return {version.version: version.records for version in status.tenants[DEFAULT_TENANT]}


async def actions(vault: Vault) -> list[tuple[str, str]]:
    found = await vault.read(lambda records: records.list_audit(DEFAULT_TENANT, limit=100))
    return [(each.action, each.outcome) for _, each in found]


async def test_after_a_rotation_the_old_is_readable_and_the_new_is_under_the_new_version(vault: Vault, seeded: Seeded) -> None:
    before = await put(vault, seeded, "before")
    rows = (await under(vault))[1]
    assert await vault.key_life().rotate(DEFAULT_TENANT, event()) == 2
    after = await put(vault, seeded, "after")
    assert (await read(vault, before), await read(vault, after)) == ("access-before", "access-after")
    assert await under(vault) == {1: rows, 2: 1}
    status = await vault.key_life().status()
    assert [each.state for each in status.tenants[DEFAULT_TENANT]] == ["retired", "active"]
    assert [each.state for each in status.vault] == ["active"]
    assert ("rotate_key", "ok") in await actions(vault)


async def test_every_replica_follows_a_rotation_at_once(opener: Opener) -> None:
    one, other = opener(), opener()
    seeded = await one.run(seed)
    key = await put(other, seeded, "before")
    await one.key_life().rotate(DEFAULT_TENANT, event())
    await put(other, seeded, "after")
    assert (await under(other))[2] == 1
    assert await read(other, key) == "access-before"


async def test_a_rewrap_moves_everything_and_changes_no_generation(vault: Vault, seeded: Seeded) -> None:
    keys = [await put(vault, seeded, str(number)) for number in range(7)]
    generations = [(await grant(vault, key)).generation for key in keys]
    await vault.key_life().rotate(DEFAULT_TENANT, event())
    total = sum((await under(vault)).values())
    seen: list[int] = []
    done = await vault.key_life().rewrap(
        DEFAULT_TENANT, event("rewrap_records"), page=3, advance=lambda _, rows: seen.append(rows)
    )
    assert (done.moved, done.unreadable, done.left) == (total, {}, 0)
    assert sum(seen) == total
    assert await under(vault) == {1: 0, 2: total}
    assert [await read(vault, key) for key in keys] == [f"access-{number}" for number in range(7)]
    assert [(await grant(vault, key)).generation for key in keys] == generations
    found = await vault.read(lambda records: records.find_provider(DEFAULT_TENANT, "github"))
    assert found == provider()
    secret = await vault.read(lambda records: records.open_provider_secret(provider()))
    assert secret is not None
    assert secret.reveal() == "client-secret-github"
    again = await vault.key_life().rewrap(DEFAULT_TENANT, event("rewrap_records"), page=3)
    assert again.moved == 0
    assert [outcome for action, outcome in await actions(vault) if action == "rewrap_records"] == ["begun", "ok"] * 2


async def grant(vault: Vault, key: GrantKey) -> Grant:
    found = await vault.run(lambda records: records.find_grant(key))
    assert found is not None
    return found


async def test_a_row_that_does_not_stand_is_left_and_counted(vault: Vault, seeded: Seeded, database: Path) -> None:
    good, bad = await put(vault, seeded, "good"), await put(vault, seeded, "bad")
    behind_its_back(database, "UPDATE grants SET scope_key = 'x' WHERE audience = 'bad'")
    await vault.key_life().rotate(DEFAULT_TENANT, event())
    done = await vault.key_life().rewrap(DEFAULT_TENANT, event("rewrap_records"), page=200)
    assert (done.unreadable, done.left) == ({"grants": 1}, 0)
    assert await read(vault, good) == "access-good"
    with pytest.raises(VaultCorrupt) as caught:
        await read(vault, bad)
    assert caught.value.code == "vault_corrupt"
    with pytest.raises(Conflict):  # it may still be mended by hand, with the key that it is under
        await remove_old(vault)


async def remove_old(vault: Vault) -> int:
    return await vault.key_life().remove_old(DEFAULT_TENANT, event("remove_old_keys"))


async def test_old_versions_are_erased_once_nothing_is_under_them(vault: Vault, seeded: Seeded, clock: FakeClock) -> None:
    key = await put(vault, seeded, "1")
    assert await remove_old(vault) == 0
    await vault.key_life().rotate(DEFAULT_TENANT, event())
    with pytest.raises(Conflict) as early:
        await remove_old(vault)
    assert "not a minute old" in early.value.message
    clock.advance(61)
    with pytest.raises(Conflict) as held:
        await remove_old(vault)
    assert "under older versions" in held.value.message
    await vault.key_life().rewrap(DEFAULT_TENANT, event("rewrap_records"), page=100)
    assert await remove_old(vault) == 1
    assert await read(vault, key) == "access-1"
    status = await vault.key_life().status(DEFAULT_TENANT)
    assert [each.state for each in status.tenants[DEFAULT_TENANT]] == ["erased", "active"]
    assert await vault.key_life().rotate(DEFAULT_TENANT, event()) == 3
    assert await read(vault, key) == "access-1"


async def test_an_erased_tenant_is_unreadable_everywhere_at_once_and_others_are_not(opener: Opener) -> None:
    one, other = opener(), opener()
    seeded = await one.run(seed)
    key = await put(one, seeded, "1")
    await one.ensure_tenant("acme")
    assert await read(other, key) == "access-1"
    assert await other.read(lambda records: records.has_tenant("acme"))
    assert await one.key_life().erase(DEFAULT_TENANT, event("erase_key")) == 1
    for vault in (one, other, opener()):
        for run in (vault.run, vault.read):
            with pytest.raises(VaultCorrupt) as caught:
                await run(lambda records: records.find_grant(key))
            assert caught.value.code == "vault_corrupt"
            assert "was erased" in caught.value.message
            assert await run(lambda records: records.has_tenant("acme"))
    trail = [entry for entry in await actions(other) if entry[0] == "erase_key"]
    assert trail == [("erase_key", "begun"), ("erase_key", "ok")]
    for step in (one.key_life().erase, one.key_life().rotate):
        with pytest.raises(Conflict) as gone:
            await step(DEFAULT_TENANT, event())
        assert gone.value.code == "conflict"


async def test_an_erased_key_is_in_no_file_any_more(vault: Vault, seeded: Seeded, home: Path) -> None:
    await put(vault, seeded, "1")
    (wrapped,) = await vault.read(lambda r: [each.key.wrapped for each in r.list_keys(DEFAULT_TENANT)])
    await vault.key_life().erase(DEFAULT_TENANT, event("erase_key"))
    for path in filter(Path.is_file, home.rglob("*")):  # noqa: ASYNC240 - nothing else runs here
        assert wrapped not in path.read_bytes(), path


async def test_there_is_no_such_tenant_and_the_vaults_own_key_is_none(vault: Vault) -> None:
    for tenant in ("nobody", VAULT):
        for step in (vault.key_life().rotate, vault.key_life().erase, vault.key_life().remove_old):
            with pytest.raises(NotFound) as caught:
                await step(tenant, event())
            assert caught.value.code == "not_found"


async def test_a_listing_of_issuers_leaves_an_erased_tenant_out(vault: Vault) -> None:
    await vault.ensure_tenant("acme")
    await vault.run(lambda records: records.insert_issuer(replace(issuer(), tenant="acme"), None))
    await vault.run(lambda records: records.insert_issuer(issuer("other"), None))
    assert len(await vault.run(lambda records: records.all_issuers())) == 2
    await vault.key_life().erase("acme", event("erase_key"))
    assert [each.name for each in await vault.run(lambda records: records.all_issuers())] == ["other"]


async def test_rotations_at_the_same_time_each_make_a_version(opener: Opener) -> None:
    one, other = opener(), opener()
    made: list[int] = []

    async def turn(vault: Vault) -> None:
        made.append(await vault.key_life().rotate(DEFAULT_TENANT, event()))

    async with anyio.create_task_group() as group:
        for vault in (one, other):
            group.start_soon(turn, vault)
    assert sorted(made) == [2, 3]
