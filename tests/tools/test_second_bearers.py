"""Whom does an agent name with a second credential, and what becomes of that credential?

covers: A02, A02b, A17
"""

from __future__ import annotations

import json
import logging
from collections.abc import AsyncGenerator
from dataclasses import replace
from typing import Any

import pytest
from mcp import Client, MCPError

from mcp_identity.domain.identity import UserKind
from mcp_identity.tools.server import build_server
from tests.fakes.vendor import new_secret
from tests.tools.kit import FakeBroker, FakeCaller, FakeVerifier, principal, remote_server, user

TOKEN = new_secret()
COMPLETION = "urn:ietf:params:oauth:request_uri:completion"
TOOLS: dict[str, dict[str, Any]] = {"complete_consent": {"session_uri": COMPLETION}, "get_workload_access_token": {}}


@pytest.fixture
def caller() -> FakeCaller:
    """An agent without a user, which has a token of bob's that its own authorizer accepts."""
    verifier = FakeVerifier({TOKEN: ("agent", user("bob"))})
    return FakeCaller(FakeBroker(), principal(user_name=""), verifier)


@pytest.fixture
async def client(caller: FakeCaller) -> AsyncGenerator[Client]:
    """A client of a server with every tool."""
    async with Client(remote_server(caller)) as client:
        yield client


async def call(client: Client, tool: str, **arguments: Any) -> dict[str, Any]:
    answer = await client.call_tool(tool, {**TOOLS.get(tool, {}), **arguments})
    assert answer.structured_content is not None
    return answer.structured_content


def named(caller: FakeCaller) -> list[Any]:
    """The users for whom the broker did something."""
    return [*caller.broker.completed_for, *(user for user, _, _ in caller.broker.issued_for)]


@pytest.mark.parametrize("tool", TOOLS)
async def test_a_users_own_token_names_that_user(tool: str, client: Client, caller: FakeCaller) -> None:
    answer = await call(client, tool, user_token=TOKEN)
    assert answer["status"] in ("ok", "completed")
    assert named(caller) == [user("bob")]


async def test_a_workload_access_token_knows_when_the_users_proof_ends_and_what_it_may_do(
    client: Client, caller: FakeCaller
) -> None:
    caller.verifier.scopes = frozenset({"identity:read"})
    answer = await call(client, "get_workload_access_token", user_token=TOKEN)
    assert answer["workload_access_token"] == caller.broker.token.reveal()
    assert caller.broker.issued_for == [(user("bob"), caller.verifier.ends, {"identity:read"})]
    (kept,) = caller.broker.kept  # the token itself goes along, for the broker to keep or not
    assert kept is not None
    assert kept.expires_at == caller.verifier.ends


async def test_without_a_user_it_is_for_the_agent_alone(client: Client, caller: FakeCaller) -> None:
    assert (await call(client, "get_workload_access_token"))["status"] == "ok"
    assert caller.broker.issued_for == [(None, None, None)]
    assert caller.broker.kept == [None]


@pytest.mark.parametrize("tool", TOOLS)
async def test_a_token_that_the_agents_own_authorizer_does_not_accept_names_nobody(
    tool: str, client: Client, caller: FakeCaller
) -> None:
    caller.principal = principal("other-agent", user_name="")
    for token in (TOKEN, new_secret(), "x", " ", "\0", "mid_wat_x"):
        answer = await call(client, tool, user_token=token)
        assert answer["code"] == "unauthenticated"
    assert named(caller) == []


@pytest.mark.parametrize("tool", TOOLS)
async def test_an_id_counts_only_where_an_operator_said_so(tool: str, client: Client, caller: FakeCaller) -> None:
    """covers: A02b."""
    assert (await call(client, tool, user_id="bob"))["code"] == "access_denied"
    assert named(caller) == []
    caller.principal = principal(user_name="", may_assert_users=True)
    assert (await call(client, tool, user_id="bob"))["status"] in ("ok", "completed")
    (asserted,) = named(caller)
    assert asserted.kind is UserKind.ASSERTED
    assert asserted.key == "urn:mcp-identity:asserted:default bob"
    assert asserted.key != user("bob").key


NO_IDS = ["b b", "bob ", "a\nb", "a\tb", "a\0b", "\u202ebob", "bo\u200bb", "\u00a0", "x" * 256]


@pytest.mark.parametrize("tool", TOOLS)
@pytest.mark.parametrize("user_id", NO_IDS)
async def test_an_id_that_is_none_is_refused_and_not_repeated(
    tool: str, user_id: str, client: Client, caller: FakeCaller
) -> None:
    caller.principal = principal(user_name="", may_assert_users=True)
    answer = await call(client, tool, user_id=user_id)
    assert answer["code"] == "invalid_request"
    assert user_id.strip() not in answer["message"] or not user_id.strip()
    assert named(caller) == []


@pytest.mark.parametrize("tool", TOOLS)
async def test_two_names_are_none(tool: str, client: Client, caller: FakeCaller) -> None:
    caller.principal = principal(user_name="", may_assert_users=True)
    assert (await call(client, tool, user_token=TOKEN, user_id="bob"))["code"] == "invalid_request"
    assert named(caller) == []


async def test_a_consent_is_completed_only_for_somebody(client: Client, caller: FakeCaller) -> None:
    assert (await call(client, "complete_consent"))["code"] == "invalid_request"
    assert named(caller) == []


async def test_where_no_issuer_is_a_token_cannot_be_verified(client: Client, caller: FakeCaller) -> None:
    caller.verifier = None
    answer = await call(client, "complete_consent", user_token=TOKEN)
    assert answer["code"] == "invalid_request"
    assert "issuer" in answer["message"]


SHAPES: dict[str, Any] = {
    "a list": [TOKEN],
    "an object": {TOKEN: TOKEN},
    "a number": int(TOKEN, 16),
    "a list of lists": [[TOKEN]],
}


@pytest.mark.parametrize("tool", TOOLS)
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
async def test_a_bearer_of_the_wrong_shape_is_not_repeated(
    tool: str, shape: Any, client: Client, caller: FakeCaller, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    answer = await call(client, tool, user_token=shape)
    assert answer["code"] == "invalid_request"
    for text in (json.dumps(answer), caplog.text, str(caller.broker.refused)):
        assert TOKEN not in text
        assert str(int(TOKEN, 16)) not in text


@pytest.mark.parametrize("tool", TOOLS)
async def test_a_bearer_that_fails_is_in_no_answer_log_or_trail(
    tool: str, client: Client, caller: FakeCaller, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    caller.principal = principal("other-agent", user_name="")
    secret = new_secret()
    for arguments in ({"user_token": secret}, {"user_token": secret, "user_id": "bob"}, {"user_tokn": secret}):
        answer = await call(client, tool, **arguments)
        assert answer["status"] == "error"
        assert secret not in json.dumps(answer)
    assert secret not in str(caller.broker)
    # The SDK's client and its in-memory dispatcher log what they send; ours may not.
    assert not [record for record in caplog.records if secret in record.getMessage() and "client" not in record.name]


async def test_an_identity_token_is_asked_for_as_it_was_said(client: Client, caller: FakeCaller) -> None:
    answer = await call(client, "get_identity_token", audience="https://api.example")
    assert answer["identity_token"] == caller.broker.token.reveal()
    assert (answer["audience"], caller.broker.identity_tokens) == ("https://api.example", [("https://api.example", 300)])
    for seconds in (59, 901, -1):
        refused = await call(client, "get_identity_token", audience="https://api.example", lifetime_seconds=seconds)
        assert refused["code"] == "invalid_request"


@pytest.mark.parametrize("tool", [*TOOLS, "get_identity_token"])
async def test_where_nobody_proves_who_they_are_these_tools_do_not_exist(tool: str, caller: FakeCaller) -> None:
    """covers: A02."""
    async with Client(build_server(caller, version="0")) as client:
        assert tool not in {each.name for each in (await client.list_tools()).tools}
        assert tool not in (await call(client, "whoami"))["may"]
        with pytest.raises(MCPError) as raised:
            await client.call_tool(tool, {"user_token": TOKEN})
        assert raised.value.error.code == -32602
        with pytest.raises(MCPError) as absent:
            await client.call_tool("no_such_tool", {"user_token": TOKEN})
    assert raised.value.error.message.replace(tool, "X") == absent.value.error.message.replace("no_such_tool", "X")


async def test_whoami_says_what_the_token_of_the_caller_allows(client: Client, caller: FakeCaller) -> None:
    everything = (await call(client, "whoami"))["may"]
    assert {"get_token", "complete_consent", "whoami"} <= {*everything}
    caller.principal = replace(caller.principal, tool_scopes=frozenset({"identity:read"}))
    answer = await call(client, "whoami")
    assert answer["may"] == ["get_consent", "list_grants", "list_providers", "whoami"]
    assert (answer["workload"], answer["verified"], answer["authenticated_by"]) == ("agent", True, "jwt")
    assert "user_subject" not in answer
    assert (await call(client, "get_token", provider="notes"))["code"] == "insufficient_scope"
    assert caller.broker.requests == []
    caller.principal = replace(caller.principal, tool_scopes=frozenset())
    assert (await call(client, "whoami"))["code"] == "insufficient_scope"
