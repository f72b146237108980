"""Does every tool answer alike, and as its schema says, in every protocol version that the SDK serves?"""

from __future__ import annotations

import sys
from collections.abc import AsyncGenerator
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from mcp import Client, StdioServerParameters
from mcp.types import Implementation

from tests.fakes.home import VaultHome, person_consents
from tests.fakes.mcp_client import STATELESS_VERSION, VERSIONS, Json, McpClient, ProtocolError, mcp_client
from tests.fakes.vendor import Vendor

TOOLS = {
    "call_api",
    "get_api_key",
    "get_consent",
    "get_token",
    "list_grants",
    "list_providers",
    "revoke_grant",
    "start_consent",
    "whoami",
}
REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "call_api": ({"provider": "sealed", "url": "https://api.example.com/"}, "url_refused"),
    "get_api_key": ({"provider": "billing"}, "unsupported_flow"),
    "get_consent": ({"session_uri": "urn:ietf:params:oauth:request_uri:nobody"}, "consent_not_found"),
    "get_token": ({"provider": "weather"}, "unsupported_flow"),
    "list_grants": ({"of": "everybody"}, "invalid_request"),
    "list_providers": ({"of": "everybody"}, "invalid_request"),
    "revoke_grant": ({"provider": "absent"}, "unknown_provider"),
    "start_consent": ({"provider": "billing"}, "unsupported_flow"),
    "whoami": ({"as": "root"}, "invalid_request"),
}

UNKNOWN: tuple[tuple[str, dict[str, Any], str], ...] = (
    ("tools/call", {"name": "get_tokn\u202e\n", "arguments": {}}, "Unknown tool: get_tokn"),
    ("prompts/get", {"name": "connect-acount"}, "not_found: there is no such prompt"),
    ("prompts/get", {"name": "connect-account"}, "invalid_request: the argument provider is missing"),
    ("prompts/get", {"name": "connect-account", "arguments": {"providr": "x"}}, "did you mean provider?"),
    ("resources/read", {"uri": "identity://grant"}, "not_found: there is no such resource"),
)


class Checked:
    """A client whose every tool answer is held against the tool's output schema."""

    def __init__(self, client: McpClient, tools: list[Json]) -> None:
        self.client = client
        self.schemas: dict[str, Json] = {tool["name"]: tool["outputSchema"] for tool in tools if "outputSchema" in tool}

    async def call(self, tool: str, **arguments: Any) -> Json:
        answer = await self.client.call(tool, **arguments)
        if self.schemas:  # older versions had none
            Draft202012Validator(self.schemas[tool]).validate(answer)  # pyright: ignore[reportUnknownMemberType] - untyped
        return answer


@pytest.fixture(scope="module", params=VERSIONS)
async def client(request: pytest.FixtureRequest, home: VaultHome) -> AsyncGenerator[McpClient]:
    async with mcp_client(home.environment(), version=request.param, name=f"Host {request.param}") as client:
        yield client


async def test_every_tool_answers_as_its_schema_says(client: McpClient, home: VaultHome, vendor: Vendor) -> None:
    tools = (await client.request("tools/list"))["tools"]
    assert {tool["name"] for tool in tools} == TOOLS
    checked = Checked(client, tools)

    assert (await checked.call("whoami"))["workload"] == f"host-{client.version}"
    providers = {each["name"]: each for each in (await checked.call("list_providers"))["providers"]}
    assert providers.keys() == {"notes", "billing", "weather", "sealed"}
    assert (await checked.call("list_grants"))["grants"] == []
    assert (await checked.call("get_api_key", provider="weather"))["api_key"] == home.api_key
    machine = await checked.call("get_token", provider="billing")
    assert (machine["status"], machine["flow"]) == ("ok", "M2M")
    assert machine["access_token"] in vendor.minted

    required = await checked.call("get_token", provider="notes")
    assert (required["status"], required["reason"]) == ("consent_required", "no_grant")
    forced = await checked.call("start_consent", provider="notes")
    assert forced["session_uri"] != required["session_uri"]
    assert (await checked.call("get_consent", session_uri=forced["session_uri"]))["status"] == "pending"
    await person_consents(forced["authorization_url"])
    assert (await checked.call("get_consent", session_uri=forced["session_uri"], wait_seconds=5))["status"] == "completed"
    assert (await checked.call("get_token", provider="notes"))["access_token"] in vendor.minted

    assert {grant["provider"] for grant in (await checked.call("list_grants"))["grants"]} == {"notes", "billing"}
    assert [each["at_vendor"] for each in (await checked.call("revoke_grant", provider="notes"))["revoked"]] == ["revoked"]

    for tool, (arguments, code) in REFUSED.items():
        refused = await checked.call(tool, **arguments)
        assert (refused["status"], refused["code"]) == ("error", code), tool
        assert any(event["correlation_id"] == refused["correlation_id"] for event in home.trail()), tool


async def test_resources_and_the_prompt_are_served(client: McpClient) -> None:
    listed = (await client.request("resources/list"))["resources"]
    assert {each["uri"] for each in listed} == {"identity://providers", "identity://grants"}
    assert all(each["description"] and each["mimeType"] == "application/json" for each in listed)
    for uri in ("identity://providers", "identity://grants"):
        (content,) = (await client.request("resources/read", uri=uri))["contents"]
        assert content["mimeType"] == "application/json"
        assert '"status":"ok"' in content["text"]
    (prompt,) = (await client.request("prompts/list"))["prompts"]
    assert (prompt["name"], [each["name"] for each in prompt["arguments"]]) == ("connect-account", ["provider"])
    rendered = await client.request("prompts/get", name="connect-account", arguments={"provider": "notes"})
    assert "notes" in rendered["messages"][0]["content"]["text"]


@pytest.mark.parametrize(("mode", "version"), [("auto", STATELESS_VERSION), ("legacy", "2025-11-25")])
async def test_the_official_client_is_served(mode: Any, version: str, home: VaultHome) -> None:
    server = StdioServerParameters(command=sys.executable, args=["-m", "mcp_identity", "serve"], env=home.environment())
    async with Client(server, mode=mode, client_info=Implementation(name="Official", version="1")) as client:
        assert client.protocol_version == version
        assert {tool.name for tool in (await client.list_tools()).tools} == TOOLS
        answer = await client.call_tool("whoami", {})
        assert answer.structured_content is not None
        assert answer.structured_content["workload"] == "official"
        refused = await client.call_tool("get_token", {"provider": "absent"})
        assert refused.is_error
        assert refused.structured_content is not None
        assert refused.structured_content["code"] == "unknown_provider"
        assert (await client.read_resource("identity://grants")).contents
        assert (await client.get_prompt("connect-account", {"provider": "notes"})).messages


async def test_the_list_of_tools_never_changes(client: McpClient) -> None:
    before = await client.request("tools/list")
    await client.call("get_token", provider="billing")
    assert await client.request("tools/list") == before


async def test_what_is_unknown_is_a_protocol_error_in_plain_words(client: McpClient) -> None:
    for method, params, words in UNKNOWN:
        with pytest.raises(ProtocolError) as raised:
            await client.request(method, **params)
        assert raised.value.code == -32602
        assert words in raised.value.message
        assert raised.value.message.isprintable()
