"""One world for all tests of this folder; who attacks somebody leaves it as it was."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Any

import pytest

from tests.fakes.home import free_port
from tests.http.kit import Server, local_options, server_here
from tests.matrix.world import World, new_world


@pytest.fixture(scope="session")
async def world(tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[World]:
    """Two tenants, two agents, two people, on every kind of transport."""
    async with new_world(tmp_path_factory.mktemp("world")) as world:
        yield world


LIMITS: dict[str, Any] = {
    "calls_per_second": 100_000,
    "requests_per_second": 100_000,
    "failed_authentications_per_minute": 100_000,
}


@pytest.fixture(scope="session")
async def server(world: World) -> AsyncGenerator[Server]:
    """A server of that world, with SSE and with limits that do not stand in a test's way."""
    port = free_port()
    public_url = f"http://127.0.0.1:{port}"
    async with server_here(world.home, local_options(port=port), agents=(), public_url=public_url, **LIMITS) as server:
        yield server
