"""What does a model read before it calls anything? Enough, and always the same."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from typing import Any, cast

from mcp_identity.tools.caller import Local, StdioCaller
from mcp_identity.tools.scopes import ADMIN, SCOPE_OF, TOOL_SCOPES, scope_of
from mcp_identity.tools.server import build_server
from mcp_identity.tools.texts import CONNECT_ACCOUNT, INSTRUCTIONS

PINNED = "2acb50993a8eaefdd5f250cdbbdcb54fd80dc0c68495fa26d12df010c4e739af"
"""SHA-256 of every word that models read. Who changes one changes this line too, so that a review sees it."""


async def _no_vault() -> Local:
    raise AssertionError("a list needs no vault")


async def _tools(*, remote: bool = True, issues_identity_tokens: bool = True, admin: bool = True) -> list[dict[str, Any]]:
    caller = StdioCaller(_no_vault)
    server = build_server(caller, version="0", remote=remote, issues_identity_tokens=issues_identity_tokens, admin=admin)
    return [tool.model_dump(mode="json", by_alias=True, exclude_none=True) for tool in await server.list_tools()]


def _schemas_in(schema: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """A schema and all that stand in it; lists hold none, since unions are what the test forbids."""
    yield schema
    for each in schema.values():
        if isinstance(each, dict):
            yield from _schemas_in(cast("dict[str, Any]", each))


async def test_no_tool_takes_an_argument_out_of_a_header() -> None:
    """The server says so to the SDK, which then looks for none."""
    for tool in await _tools():
        assert not any("x-mcp-header" in schema for schema in _schemas_in(tool["inputSchema"])), tool["name"]


async def test_every_tool_says_what_it_is() -> None:
    for tool in await _tools():
        assert tool["title"], tool["name"]
        assert len(tool["description"]) > 60, tool["name"]
        assert {"readOnlyHint", "openWorldHint"} <= tool["annotations"].keys(), tool["name"]
        for name, argument in tool["inputSchema"]["properties"].items():
            assert argument.get("description"), f"{tool['name']}.{name}"
        for name, field in tool["outputSchema"]["properties"].items():
            assert field.get("description"), f"{tool['name']} → {name}"


async def test_tools_that_need_a_proven_caller_exist_only_where_callers_prove_themselves() -> None:
    everywhere = {tool["name"] for tool in await _tools(remote=False)}
    remote = {tool["name"] for tool in await _tools(issues_identity_tokens=False)}
    assert remote - everywhere == {"complete_consent", "get_workload_access_token"}
    assert {tool["name"] for tool in await _tools()} - remote == {"get_identity_token"}


async def test_every_tool_resource_and_prompt_has_a_scope() -> None:
    agents = {tool["name"] for tool in await _tools(admin=False)}
    assert agents == TOOL_SCOPES.keys()
    assert {scope_of(tool["name"]) for tool in await _tools() if tool["name"] not in agents} == {ADMIN}
    server = build_server(StdioCaller(_no_vault), version="0")
    others = {str(each.uri) for each in await server.list_resources()} | {each.name for each in await server.list_prompts()}
    assert SCOPE_OF.keys() - TOOL_SCOPES.keys() == others
    assert scope_of("forgotten") == ADMIN


async def test_only_revoking_and_calling_are_called_destructive_and_only_looking_read_only() -> None:
    tools = {tool["name"]: tool["annotations"] for tool in await _tools(admin=False)}
    assert {name for name, hints in tools.items() if hints.get("destructiveHint")} == {"call_api", "revoke_grant"}
    assert {name for name, hints in tools.items() if hints["readOnlyHint"]} == {
        "get_consent",
        "list_grants",
        "list_providers",
        "whoami",
    }


async def test_what_operators_do_is_called_what_it_is() -> None:
    agents = {tool["name"] for tool in await _tools(admin=False)}
    tools = {tool["name"]: tool["annotations"] for tool in await _tools() if tool["name"] not in agents}
    for name, hints in tools.items():
        assert hints["readOnlyHint"] is name.startswith(("list_", "get_", "search_")), name
        assert hints.get("destructiveHint", False) is name.startswith(("update_", "delete_", "revoke_")), name
    asking = {name for name, hints in tools.items() if hints["openWorldHint"]}
    assert asking == {
        "create_provider", "update_provider", "delete_provider", "create_issuer", "delete_workload_identity", "revoke_grants",
    }  # fmt: skip


async def test_schemas_are_flat_objects_without_unions() -> None:
    for tool in await _tools():
        for schema in (tool["inputSchema"], tool["outputSchema"]):
            assert schema["type"] == "object", tool["name"]
            assert not any({"anyOf", "oneOf", "allOf"} & part.keys() for part in _schemas_in(schema)), tool["name"]


async def test_every_output_schema_has_the_error_arm() -> None:
    for tool in await _tools():
        fields = tool["outputSchema"]["properties"].keys()
        assert {"status", "code", "message", "retryable", "retry_after_seconds", "correlation_id"} <= fields
        assert tool["outputSchema"]["required"] == ["status"]


async def test_arguments_that_are_bearers_are_marked_and_have_no_constraint_that_could_repeat_them() -> None:
    found = 0
    for tool in await _tools():
        bearer = tool["inputSchema"]["properties"].get("user_token")
        if bearer is not None:
            found += 1
            assert (bearer["type"], bearer["format"], bearer["writeOnly"]) == ("string", "password", True)
            assert not {"minLength", "maxLength", "pattern", "enum", "const"} & bearer.keys()
    assert found == 2


async def test_no_tool_has_a_field_for_what_must_stay() -> None:
    for tool in await _tools():
        names = {name for part in _schemas_in(tool["outputSchema"]) for name in part.get("properties", {})}
        assert not names & {"refresh_token", "client_secret", "authorization_code", "code_verifier"}, tool["name"]


async def test_what_models_read_is_pinned() -> None:
    assert await _tools() == await _tools()
    words = [(tool["name"], tool["title"], tool["description"], [*_described(tool["inputSchema"])]) for tool in await _tools()]
    pinned = json.dumps([INSTRUCTIONS, CONNECT_ACCOUNT, words]).encode()
    assert hashlib.sha256(pinned).hexdigest() == PINNED


def _described(schema: dict[str, Any]) -> Iterator[tuple[str, str]]:
    for name, argument in schema["properties"].items():
        yield name, argument["description"]
