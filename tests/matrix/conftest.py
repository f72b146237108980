"""One world for all tests of this folder; who attacks somebody leaves it as it was."""

from __future__ import annotations

from collections.abc import AsyncGenerator

import pytest

from tests.matrix.world import World, new_world


@pytest.fixture(scope="session")
async def world(tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[World]:
    """Two tenants, two agents, two people, on every kind of transport."""
    async with new_world(tmp_path_factory.mktemp("world")) as world:
        yield world
