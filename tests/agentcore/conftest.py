"""One server for the tests of a module."""

from __future__ import annotations

from collections.abc import AsyncGenerator

import pytest

from tests.agentcore.kit import World, running_world


@pytest.fixture(scope="module")
async def world(tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[World]:
    """A server that the tests of one module share, with limits that do not stand in their way."""
    async with running_world(tmp_path_factory.mktemp("agentcore") / "home") as world:
        yield world
