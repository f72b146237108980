"""Does a vault with many grants move as a small one does, and in no more memory?"""

from __future__ import annotations

import os
import tracemalloc
from collections.abc import Callable
from pathlib import Path

from mcp_identity.app import moving
from mcp_identity.domain.identity import DEFAULT_TENANT
from mcp_identity.vault.records import Records
from tests.fakes.clock import START
from tests.fakes.many_grants import insert_grants, tokens, user_grant_keys
from tests.moving.kit import Somewhere, new_database, nobody, without_trail
from tests.vault.kit import provider

PROVE = bool(os.environ.get("PROVE"))
MANY = 100_000 if PROVE else 1_500
MOST_BYTES = 24 * 1024 * 1024


def fits(work: Callable[[], object]) -> None:
    """The work takes little memory, however much it carries; looked at where it carries much."""
    if not PROVE:
        work()
        return
    tracemalloc.start()
    try:
        work()
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < MOST_BYTES, peak


async def test_many_grants_arrive_whole_and_in_little_memory(here: Somewhere, tmp_path: Path) -> None:
    vault = here.open()

    def agent(records: Records) -> str:
        found = records.find_workload(DEFAULT_TENANT, "agent")
        assert found is not None
        made = user_grant_keys(found, "row-github", MANY)
        insert_grants(vault, made, tokens(provider(), START), now=START)
        return found.id

    await vault.read(agent)
    vault.close()
    up, down, archive = here.at(new_database("postgresql", tmp_path)), new_database("sqlite", tmp_path), tmp_path / "archive"
    fits(lambda: moving.copy(here.settings, up.url, nobody))
    fits(lambda: moving.back_up(up.settings, archive, None, nobody))
    restored = here.at(down)
    fits(lambda: moving.restore(restored.settings, archive, moving.Wish(), nobody))
    before, after = without_trail(here.rows()), without_trail(restored.rows())
    assert len(after["grants"]) == MANY + 2
    assert after["grants"] == before["grants"]
