"""Can the SDK's own client, in both protocol eras, work over both transports?"""

from __future__ import annotations

import httpx2
import pytest
from mcp import MCPError

from mcp_identity.tools.scopes import TOOL_SCOPES
from tests.fakes.home import VaultHome
from tests.http.kit import Mode, Server, Transport, local_options, mcp_over, server_here

TRANSPORTS: tuple[Transport, ...] = ("http", "sse")
MODES: tuple[Mode, ...] = ("auto", "legacy")


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_an_agent_with_a_workload_key_is_who_its_key_says(server: Server, transport: Transport, mode: Mode) -> None:
    async with mcp_over(server, transport, mode, server.bearer("alice")) as client:
        answer = (await client.call_tool("whoami", {})).structured_content
    assert answer is not None
    assert (answer["tenant"], answer["workload"], answer["verified"]) == ("default", "alice", True)
    assert answer["authenticated_by"] == "workload_key"
    assert "user_subject" not in answer
    event = [each for each in server.home.trail() if each["action"] == "whoami"][-1]
    assert (event["workload"], event["edge"], event["action"], event["verified"]) == ("alice", transport, "whoami", 1)
    assert event["detail"]["authenticated_by"] == "workload_key"
    assert event["detail"]["credential"]
    assert server.keys["alice"] not in str(event)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_everybody_is_shown_the_same_tools(server: Server, transport: Transport, mode: Mode) -> None:
    lists: list[list[str]] = []
    for agent in ("alice", "mallory"):
        async with mcp_over(server, transport, mode, server.bearer(agent)) as client:
            lists.append([tool.name for tool in (await client.list_tools()).tools])
    assert lists[0] == lists[1]
    assert set(lists[0]) <= TOOL_SCOPES.keys()


async def test_streamable_http_alone_serves_no_sse(empty_home: VaultHome, http: httpx2.AsyncClient) -> None:
    async with server_here(empty_home, local_options("http")) as server:
        async with mcp_over(server, "http", "auto", server.bearer("alice")) as client:
            assert (await client.call_tool("whoami", {})).structured_content
        for path in ("/sse", "/messages/", "/.well-known/oauth-protected-resource/sse"):
            assert (await http.get(server.url + path, headers=server.bearer("alice"))).status_code == 404


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_an_unknown_tool_is_unknown(server: Server, transport: Transport) -> None:
    async with mcp_over(server, transport, "auto", server.bearer("alice")) as client:
        with pytest.raises(MCPError, match="Unknown tool"):
            await client.call_tool("get_root", {})
