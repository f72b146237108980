"""Are grants that were written in bulk what the product reads?"""

from __future__ import annotations

from dataclasses import replace

import anyio.to_thread

from mcp_identity.domain.credentials import GrantState
from mcp_identity.vault.records import Records
from mcp_identity.vault.vault import Vault
from tests.fakes.clock import START
from tests.fakes.many_grants import insert_grants, tokens, user_grant_keys, user_of
from tests.vault.kit import Seeded, provider


async def test_a_grant_written_in_bulk_is_read_as_any_other(vault: Vault, seeded: Seeded) -> None:
    keys = list(user_grant_keys(seeded.agent, "row-github", 12))
    given = tokens(provider(), START)
    assert await anyio.to_thread.run_sync(lambda: insert_grants(vault, keys, given, now=START)) == 12

    def unit(records: Records) -> None:
        for key in keys:
            found = records.find_grant(key)
            assert found is not None
            assert (found.tokens, found.state, found.generation) == (given, GrantState.ACTIVE, 1)
        listed = records.list_grants(seeded.agent.tenant, seeded.agent.id, (user_of(3).key,))
        assert (len(listed.grants), listed.corrupt) == (1, ())

    await vault.read(unit)


async def test_each_may_have_tokens_of_its_own_and_is_written_over_like_any_other(vault: Vault, seeded: Seeded) -> None:
    keys = list(user_grant_keys(seeded.agent, "row-github", 2))
    given = tokens(provider(), START)

    def write() -> None:
        insert_grants(vault, keys, lambda key: replace(given, account_id=key.user), now=START)

    await anyio.to_thread.run_sync(write)
    found = await vault.run(lambda records: records.complete_grant(keys[1], given, "consent"))
    assert found.generation == 2
    first = await vault.read(lambda records: records.find_grant(keys[0]))
    assert first is not None
    assert first.tokens is not None
    assert first.tokens.account_id == keys[0].user
