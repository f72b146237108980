"""One world for all tests of this folder; who attacks somebody leaves it as it was."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from itertools import product
from typing import Any

import pytest

from tests.fakes.home import free_port
from tests.http.kit import Server, local_options, mcp_over, server_here
from tests.matrix.world import AGENTS, TENANTS, World, new_world


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
        await give_workload_tokens(world, server)
        yield server


async def give_workload_tokens(world: World, server: Server) -> None:
    """Everybody's agent gets a workload access token for its user: one more thing that others must not have any use of."""
    assert server.serving is not None
    graph = server.serving.prepared.graph
    for tenant, agent in product(TENANTS, AGENTS):
        operator = graph.broker.directory.operator(graph.user, tenant)
        issued = await graph.broker.workloads.issue_key(graph.broker.call(operator, "issue_workload_key"), agent)
        bearer = {"authorization": f"Bearer {issued.key.reveal()}"}
        async with mcp_over(server, "http", "auto", bearer) as client:
            for identity in world.identities:
                if (identity.tenant, identity.agent, identity.local) == (tenant, agent, False):
                    arguments = {"user_token": world.bearer(identity)}
                    answer = (await client.call_tool("get_workload_access_token", arguments)).structured_content
                    assert answer is not None
                    token = answer["workload_access_token"]
                    identity.known["workload access token"] = token
                    identity.canaries.add(token)
