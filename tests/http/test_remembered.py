"""Is somebody whom the server remembers served at once, and never after another process ended their credential?"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import anyio
import httpx2
import pytest

from mcp_identity import app
from mcp_identity.broker.audit import Call
from mcp_identity.broker.workloads import WorkloadSpec
from mcp_identity.domain.credentials import Secret
from mcp_identity.domain.standing import Outdated, Standing, standing
from tests.fakes.home import VaultHome
from tests.http.kit import Server, ask, server_here, stateless, whoami


@asynccontextmanager
async def neighbour(home: VaultHome) -> AsyncGenerator[tuple[app.Graph, Call]]:
    """Another process's view of the vault, and an operator's call there."""
    async with app.open(home.settings()) as graph:
        yield graph, graph.broker.call(graph.broker.directory.operator(graph.user), "update_workload_identity")


async def looked(server: Server) -> None:
    """The server has just read which configuration holds."""
    assert server.serving is not None
    await server.serving.prepared.graph.broker.confirm()


async def key_of(graph: app.Graph, operator: Call, agent: str) -> tuple[str, dict[str, str]]:
    issued = await graph.broker.workloads.issue_key(operator, agent)
    return issued.key_id, {"authorization": f"Bearer {issued.key.reveal()}"}


@pytest.mark.parametrize("tool", ["whoami", "list_credential_providers", "get_api_key", "no_such_tool"])
async def test_a_key_that_another_process_revoked_gets_nothing_more(
    empty_home: VaultHome, http: httpx2.AsyncClient, tool: str
) -> None:
    """The unit that would serve it finds that out.

    covers: A06
    """
    asked = stateless("tools/call", {"name": tool, "arguments": {"provider": "weather"} if tool == "get_api_key" else {}})
    async with server_here(empty_home) as server, neighbour(empty_home) as (graph, operator):
        key_id, bearer = await key_of(graph, operator, "alice")
        assert (await ask(http, server, whoami(), bearer)).status_code == 200
        await looked(server)
        await graph.broker.workloads.revoke_key(operator, "alice", key_id)
        answer = await ask(http, server, asked, bearer)
        assert "unauthenticated" in answer.text
        assert '"alice"' not in answer.text
        assert (await ask(http, server, asked, bearer)).status_code == 401


async def test_a_list_is_not_shown_to_a_key_that_another_process_revoked(
    empty_home: VaultHome, http: httpx2.AsyncClient
) -> None:
    async with server_here(empty_home) as server, neighbour(empty_home) as (graph, operator):
        key_id, bearer = await key_of(graph, operator, "alice")
        assert (await ask(http, server, whoami(), bearer)).status_code == 200
        await looked(server)
        await graph.broker.workloads.revoke_key(operator, "alice", key_id)
        answer = await ask(http, server, stateless("tools/list"), bearer)
        assert "unauthenticated" in answer.text
        assert "get_token" not in answer.text


async def test_what_another_process_configured_is_noticed_without_a_word(
    empty_home: VaultHome, http: httpx2.AsyncClient
) -> None:
    async with server_here(empty_home) as server, neighbour(empty_home) as (graph, operator):
        bearer = server.bearer("alice")
        assert (await ask(http, server, whoami(), bearer)).status_code == 200
        await looked(server)
        await graph.broker.workloads.update(operator, "mallory", WorkloadSpec(disabled=True))
        answer = await ask(http, server, whoami(), bearer)
        assert answer.json()["result"]["structuredContent"]["workload"] == "alice"
        refused = await ask(http, server, whoami(), server.bearer("mallory"))
        assert refused.status_code == 401


async def test_a_remembered_bearer_is_one_that_was_proven_lately_under_this_configuration(empty_home: VaultHome) -> None:
    async with server_here(empty_home) as server:
        assert server.serving is not None
        prepared = server.serving.prepared
        authenticator = app.authenticator_of(prepared)
        bearer = Secret(server.keys["alice"])
        assert authenticator.recall(bearer, edge="http") is None
        proven = await authenticator.authenticate(bearer, edge="http")
        known = authenticator.recall(bearer, edge="http")
        assert known is not None
        assert known[0] == proven
        assert not known[1].is_confirmed
        assert authenticator.recall(bearer, edge="sse") is None
        assert authenticator.recall(bearer, edge="http", workload_hint="another") is None
        operator = prepared.graph.broker.call(prepared.graph.broker.directory.operator(prepared.graph.user), "update")
        await prepared.graph.broker.workloads.update(operator, "mallory", WorkloadSpec(disabled=True))
        assert authenticator.recall(bearer, edge="http") is None


async def test_nothing_is_run_for_whom_an_older_configuration_proved(empty_home: VaultHome) -> None:
    async with server_here(empty_home) as server:
        assert server.serving is not None
        writer = server.serving.prepared.vault
        ran: list[str] = []
        standing_of_another_time = Standing(epoch=writer.configuration_epoch + 1)
        token = standing.set(standing_of_another_time)
        try:
            with pytest.raises(Outdated):
                await writer.run(lambda _records: ran.append("ran"))
        finally:
            standing.reset(token)
        assert ran == []
        assert not standing_of_another_time.is_confirmed


async def test_a_change_in_the_very_same_transaction_counts_for_whom_was_remembered_before_it(empty_home: VaultHome) -> None:
    async with server_here(empty_home) as server:
        assert server.serving is not None
        vault = server.serving.prepared.vault
        ran: list[str] = []
        refused: list[Exception] = []

        async def change() -> None:
            await vault.run(lambda records: records.raise_epoch())

        async def go_on() -> None:
            token = standing.set(Standing(vault.configuration_epoch))
            try:
                await vault.run(lambda _records: ran.append("ran"))
            except Outdated as error:
                refused.append(error)
            finally:
                standing.reset(token)

        await vault.run(lambda _records: None)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(change)
            tasks.start_soon(go_on)
        assert ran == []
        assert len(refused) == 1
