"""Are two server processes on one PostgreSQL one service: to callers, to an operator, and when one of them is killed?"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from mcp_identity import app
from mcp_identity.broker.answers import ProviderSpec
from tests.fakes.home import VaultHome, put_postgres_vault
from tests.fakes.postgres import Database
from tests.fakes.vendor import Vendor
from tests.http.kit import Server, add_agents, ask, server_process, stateless

HTTP = ("--transport", "http", "--port", "0")


@pytest.fixture
async def shared(tmp_path: Path, vendor: Vendor) -> AsyncGenerator[tuple[VaultHome, Database]]:
    """A vault on PostgreSQL with the fake vendor's providers."""
    database = put_postgres_vault(tmp_path / "home")
    home = VaultHome(tmp_path / "home", database_url=database.url)
    await home.add_providers(vendor)
    yield home, database
    database.drop()


async def get_token(http: httpx2.AsyncClient, server: Server, provider: str = "billing") -> dict[str, Any]:
    body, headers = stateless("tools/call", {"name": "get_token", "arguments": {"provider": provider}})
    answer = await ask(http, server, (body, headers), server.bearer("alice"))
    assert answer.status_code == 200, answer.text
    return answer.json()["result"]["structuredContent"]


async def test_two_processes_are_one_service(shared: tuple[VaultHome, Database], http: httpx2.AsyncClient) -> None:
    home, database = shared
    keys = await add_agents(home, "alice")
    async with server_process(home, *HTTP, keys=keys) as one, server_process(home, *HTTP, keys=keys) as two:
        first = await get_token(http, one)
        assert (await get_token(http, two))["access_token"] == first["access_token"]  # one request upstream for both
        database.terminate_connections()
        assert (await get_token(http, two))["status"] == "ok"
        assert one.process is not None
        one.process.kill()
        assert (await get_token(http, two))["access_token"] == first["access_token"]
        async with app.open(home.settings()) as graph:
            operator = graph.broker.call(graph.broker.directory.operator(graph.user), "update_provider")
            await graph.broker.directory.update(operator, "billing", ProviderSpec(disabled=True))
        assert (await get_token(http, two))["code"] == "access_denied"
    assert database.server.password not in two.log.decode() + one.log.decode()
    writers, rows = database.execute("SELECT count(DISTINCT writer_id), count(*) FROM audit_events WHERE action = 'get_token'")[
        0
    ]
    assert (writers, rows) == (2, 5)
