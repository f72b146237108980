"""As whom does a tool act? As the process says that serves it, whatever a call says."""

from __future__ import annotations

import os
import sys
from collections.abc import AsyncGenerator
from contextlib import suppress
from itertools import product
from typing import Any

import pytest

from mcp_identity import app
from mcp_identity.broker.specifications import WorkloadSpec
from tests.fakes.home import VaultHome, person_consents
from tests.fakes.mcp_client import STATELESS_VERSION, Json, McpClient, ProtocolError, mcp_client

OTHER_NAMES = ("victim", "default/victim", "0", "1000", "root", "operator", "urn:mcp-identity:local:x 0", "alice@example.com")


async def test_the_environment_names_the_workload(home: VaultHome) -> None:
    async with mcp_client(home.environment(WORKLOAD="configured"), name="Claude Desktop") as client:
        whoami = await client.call("whoami")
    assert whoami["workload"] == "configured"
    assert (whoami["tenant"], whoami["verified"], whoami["authenticated_by"]) == ("default", False, "stdio")
    assert whoami["user_subject"] == str(os.getuid())


async def test_an_argument_of_the_command_line_wins_over_the_environment(home: VaultHome) -> None:
    command = (sys.executable, "-m", "mcp_identity", "serve", "--workload", "told")
    async with mcp_client(home.environment(WORKLOAD="configured"), command=command) as client:
        assert (await client.call("whoami"))["workload"] == "told"


@pytest.mark.parametrize(
    ("version", "name", "workload"),
    [
        ("2025-11-25", "Клод", "unknown-client"),
        (STATELESS_VERSION, None, "unknown-client"),
    ],
)
async def test_else_the_client_names_it(version: str, name: str | None, workload: str, home: VaultHome) -> None:
    async with mcp_client(home.environment(), version=version, name=name) as client:
        assert (await client.call("whoami"))["workload"] == workload


async def test_the_first_request_fixes_it(home: VaultHome) -> None:
    async with mcp_client(home.environment(), version=STATELESS_VERSION, name="first") as client:
        await client.request("tools/list")
        client.name = "second"
        assert (await client.call("whoami"))["workload"] == "first"
        client.name = "third"
        assert (await client.call("whoami"))["workload"] == "first"
        client.name = None
        assert (await client.call("whoami"))["workload"] == "first"


async def test_what_an_operator_changes_is_read_again(home: VaultHome) -> None:
    """The first call after it may come too early; it says that it can be repeated."""

    async def update(**spec: Any) -> None:
        async with app.open(home.settings()) as graph:
            call = graph.broker.call(graph.broker.directory.operator(graph.user), "update_workload_identity")
            await graph.broker.workloads.update(call, "changed", WorkloadSpec(**spec))

    async with mcp_client(home.environment(WORKLOAD="changed")) as client:
        assert len((await client.call("list_providers"))["providers"]) > 1
        await update(allowed_providers=("billing",))
        early = await client.call("list_providers")
        assert (early["code"], early["retryable"]) == ("access_denied", True)
        assert [each["name"] for each in (await client.call("list_providers"))["providers"]] == ["billing"]
        await update(disabled=True)
        for _ in range(2):
            late = await client.call("list_providers")
            assert (late["code"], late["retryable"]) == ("access_denied", False)
        await update(disabled=False)
        assert [each["name"] for each in (await client.call("list_providers"))["providers"]] == ["billing"]


async def test_a_workload_that_is_no_name_ends_the_process(home: VaultHome) -> None:
    async with mcp_client(home.environment(WORKLOAD="No Name!"), opened=False) as client:
        await client.begin("tools/list")
        assert await client.wait() == 78
    assert b"configuration_error" in client.log


@pytest.fixture(scope="module")
async def victim(home: VaultHome) -> AsyncGenerator[McpClient]:
    """Another agent of the same person, which has a grant that nobody else may use."""
    async with mcp_client(home.environment(WORKLOAD="victim")) as client:
        required = await client.call("get_token", provider="notes")
        await person_consents(required["authorization_url"])
        assert (await client.call("get_token", provider="notes"))["status"] == "ok"
        yield client


def _string_arguments(tool: Json) -> list[str]:
    return [name for name, schema in tool["inputSchema"]["properties"].items() if schema["type"] == "string"]


async def test_no_argument_changes_the_principal(victim: McpClient, client: McpClient, home: VaultHome) -> None:
    own = await victim.call("list_grants")
    tokens = {(await victim.call("get_token", provider="notes"))["access_token"]}
    started = await victim.call("start_consent", provider="notes")
    names = (*OTHER_NAMES, started["session_uri"], (await victim.call("whoami"))["user_issuer"])
    tools = (await client.request("tools/list"))["tools"]
    seen = len(home.trail())
    for tool in tools:
        required: dict[str, Any] = dict.fromkeys(tool["inputSchema"].get("required", ()), "notes")
        for argument, name in product(_string_arguments(tool), names):
            answer = await client.call(tool["name"], **{**required, argument: name})
            assert not tokens & {answer.get("access_token")}, (tool["name"], argument, name)
            assert answer.get("session_uri") != started["session_uri"], (tool["name"], argument, name)
    assert (await client.call("whoami"))["workload"] == "claude-desktop"
    assert {event["workload"] for event in home.trail()[seen:]} == {"claude-desktop"}
    assert len({event["user_key"] for event in home.trail()[seen:]}) == 1
    assert await victim.call("list_grants") == own
    assert (await victim.call("get_consent", session_uri=started["session_uri"]))["status"] == "pending"


@pytest.mark.parametrize("meta", ["user", "workload", "tenant", "principal", "io.modelcontextprotocol/user"])
async def test_no_metadata_changes_the_principal_either(meta: str, client: McpClient) -> None:
    result = await client.request("tools/call", name="whoami", arguments={}, _meta={meta: "victim"})
    assert result["structuredContent"]["workload"] == "claude-desktop"


async def test_the_handshake_may_not_be_repeated_under_another_name(client: McpClient) -> None:
    info = {"name": "victim", "version": "1"}
    with suppress(ProtocolError):
        await client.request("initialize", protocolVersion=client.version, capabilities={}, clientInfo=info)
    assert (await client.call("whoami"))["workload"] == "claude-desktop"
