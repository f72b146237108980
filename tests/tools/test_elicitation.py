"""Who is shown a consent link by their client, and when not? And what is what comes back worth?

covers: A06
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

import anyio
import pytest
from mcp import Client, MCPError, UrlElicitationRequiredError
from mcp.types import (
    CallToolResult,
    ClientCapabilities,
    ElicitationCapability,
    ElicitRequestURLParams,
    ElicitResult,
    FormElicitationCapability,
    InputRequiredResult,
    UrlElicitationCapability,
)

from mcp_identity.domain.consent import SESSION_URI_PREFIX, ConsentState
from mcp_identity.domain.identity import Principal
from mcp_identity.tools.elicitation import Rounds
from tests.tools.kit import PAGE, FakeBroker, FakeCaller, principal, remote_server

Action = Literal["accept", "decline", "cancel"]
NOTES = {"provider": "notes"}


@dataclass(slots=True)
class Host:
    """A client that can show links, and the person in front of it.

    Attributes:
        broker: Where the person's answer arrives.
        action: What the person does with the question.
        state: How the consent ends once the link was opened; None for not yet.
    """

    broker: FakeBroker
    action: Action = "accept"
    state: ConsentState | None = ConsentState.COMPLETED
    shown: list[ElicitRequestURLParams] = field(default_factory=list[ElicitRequestURLParams])
    told: list[str] = field(default_factory=list[str])
    told_once: anyio.Event = field(default_factory=anyio.Event)

    async def elicit(self, context: Any, params: Any) -> ElicitResult:  # noqa: ARG002 - the SDK's names
        assert isinstance(params, ElicitRequestURLParams)
        self.shown.append(params)
        if self.action == "accept" and self.state is not None:
            self.broker.finish(params.url, self.state)
        return ElicitResult(action=self.action)

    async def hear(self, message: Any) -> None:
        if type(message).__name__ == "ElicitCompleteNotification":
            self.told.append(message.params.elicitation_id)
            self.told_once.set()


def client_of(host: Host, *, mode: Any = "auto", caller: FakeCaller | None = None) -> Client:
    server = remote_server(caller or FakeCaller(host.broker))
    return Client(server, mode=mode, elicitation_callback=host.elicit, message_handler=host.hear)


async def call(client: Client, tool: str = "get_token", **arguments: Any) -> dict[str, Any]:
    answer = await client.call_tool(tool, {**NOTES, **arguments})
    assert answer.structured_content is not None
    return answer.structured_content


async def test_a_client_that_can_shows_the_link_and_the_same_call_goes_on() -> None:
    host = Host(FakeBroker())
    async with client_of(host) as client:
        answer = await call(client)
    assert answer["status"] == "ok"
    (shown,) = host.shown
    assert shown.url.startswith(PAGE)
    assert shown.elicitation_id is None
    assert "alice" not in shown.message
    assert host.broker.actions == ["get_token", "get_consent", "get_token"]
    assert [request.elicits for request in host.broker.requests] == [True, True]
    assert host.broker.requests[1].session_uri == SESSION_URI_PREFIX + shown.url.removeprefix(PAGE)


async def test_a_slow_user_is_waited_for_in_rounds_without_a_new_question() -> None:
    broker = FakeBroker(quiet_rounds=3)
    host = Host(broker, state=None)

    async def finish() -> None:
        while broker.quiet_rounds:
            await anyio.lowlevel.checkpoint()
        broker.finish(host.shown[0].url)

    async with client_of(host) as client, anyio.create_task_group() as group:
        group.start_soon(finish)
        assert (await call(client))["status"] == "ok"
    assert len(host.shown) == 1
    assert broker.actions == ["get_token", *["get_consent"] * 4, "get_token"]


@pytest.mark.parametrize(("action", "word"), [("decline", "declined"), ("cancel", "cancelled")])
@pytest.mark.parametrize("tool", ["get_token", "start_consent"])
async def test_who_does_not_open_the_link_has_refused_nothing_yet(tool: str, action: Action, word: str) -> None:
    host = Host(FakeBroker(), action=action)
    async with client_of(host) as client:
        answer = await call(client, tool)
    assert (answer["status"], answer["user_action"]) == ("consent_required", word)
    assert answer["authorization_url"] == host.shown[0].url
    assert host.broker.sessions[answer["session_uri"]].state is ConsentState.PENDING
    assert len(host.shown) == 1


async def test_a_user_who_says_no_on_the_page_is_told_of_by_its_code() -> None:
    host = Host(FakeBroker(), state=ConsentState.DENIED)
    async with client_of(host) as client:
        assert (await call(client))["code"] == "consent_denied"
        started = await call(client, "start_consent")
    assert (started["status"], started["reason"]) == ("denied", "consent_denied")


async def test_who_said_no_is_not_asked_again_by_the_same_call() -> None:
    host = Host(FakeBroker(), state=ConsentState.DENIED)
    async with client_of(host) as client:
        assert (await call(client, "call_api", path="/"))["code"] == "consent_denied"
    assert host.broker.actions == ["call_api", "get_consent"]


async def test_one_call_asks_once_whatever_comes_of_it() -> None:
    host = Host(FakeBroker())
    async with client_of(host) as client:
        answer = await call(client, "call_api", path="/")
    assert (answer["status"], len(host.shown)) == ("consent_required", 1)
    assert answer["authorization_url"] != host.shown[0].url


async def test_start_consent_says_how_it_ended() -> None:
    host = Host(FakeBroker())
    async with client_of(host) as client:
        answer = await call(client, "start_consent")
    assert answer["status"] == "completed"
    assert answer["session_uri"] in host.broker.sessions
    assert host.broker.actions == ["start_consent", "get_consent"]


@pytest.mark.parametrize("mode", ["auto", "legacy"])
async def test_where_the_token_may_leave_nothing_is_elicited(mode: str) -> None:
    host = Host(FakeBroker(keeps=False))
    async with client_of(host, mode=mode) as client:
        answer = await call(client)
    assert answer["status"] == "consent_required"
    assert "user_action" not in answer
    assert host.shown == []


@pytest.mark.parametrize("mode", ["auto", "legacy"])
async def test_a_client_that_cannot_gets_the_structured_answer(mode: Any) -> None:
    broker = FakeBroker()
    async with Client(remote_server(FakeCaller(broker)), mode=mode) as client:
        answer = await call(client)
    assert answer["status"] == "consent_required"
    assert broker.requests[0].elicits is False


@dataclass(frozen=True, slots=True)
class Context:
    """What the SDK knows of a request."""

    protocol_version: str | None
    client_capabilities: ClientCapabilities | None
    request_state: str | None = None
    input_responses: Any = None


FORM = ClientCapabilities(elicitation=ElicitationCapability(form=FormElicitationCapability()))
BARE = ClientCapabilities(elicitation=ElicitationCapability())
URL = ClientCapabilities(elicitation=ElicitationCapability(url=UrlElicitationCapability()))


@pytest.mark.parametrize(
    ("version", "capabilities", "offered"),
    [
        ("2026-07-28", URL, True),
        ("2025-11-25", URL, True),
        ("2025-06-18", URL, False),
        ("2024-11-05", URL, False),
        ("2031-01-01", URL, False),
        (None, URL, False),
        ("2026-07-28", FORM, False),
        ("2025-11-25", FORM, False),
        ("2026-07-28", BARE, False),
        ("2025-11-25", BARE, False),
        ("2026-07-28", ClientCapabilities(), False),
        ("2025-11-25", None, False),
    ],
)
def test_only_what_a_client_declares_is_offered(version: str, capabilities: ClientCapabilities, offered: bool) -> None:
    context: Any = Context(version, capabilities)
    assert Rounds(context).offered is offered


@pytest.mark.parametrize("state", [ConsentState.COMPLETED, ConsentState.DENIED])
async def test_in_2025_an_error_names_the_link_and_a_notification_its_end(state: ConsentState) -> None:
    host = Host(FakeBroker())
    async with client_of(host, mode="legacy") as client:
        with pytest.raises(MCPError) as raised:
            await client.call_tool("get_token", NOTES)
        assert raised.value.error.code == -32042
        (elicitation,) = UrlElicitationRequiredError.from_error(raised.value.error).elicitations
        assert elicitation.url.startswith(PAGE)
        assert elicitation.elicitation_id in host.broker.sessions
        assert host.shown == []
        host.broker.finish(elicitation.url, state)
        with anyio.fail_after(5):
            await host.told_once.wait()
        assert host.told == [elicitation.elicitation_id]
        again = await call(client, session_uri=elicitation.elicitation_id)
        assert again["status"] == ("ok" if state is ConsentState.COMPLETED else "error")


async def test_a_client_that_left_is_not_told_and_hurts_nobody() -> None:
    host = Host(FakeBroker())
    async with client_of(host, mode="legacy") as client:
        with pytest.raises(MCPError):
            await client.call_tool("get_token", NOTES)
    host.broker.finish(link_of(host.broker))
    assert host.told == []


async def first_round(client: Client, arguments: dict[str, Any] = NOTES) -> InputRequiredResult:
    first = await client.session.call_tool("get_token", arguments, allow_input_required=True)
    assert isinstance(first, InputRequiredResult)
    assert first.request_state
    return first


def link_of(broker: FakeBroker) -> str:
    """The link of the one consent that was asked for."""
    (session_uri,) = broker.sessions
    return PAGE + session_uri.removeprefix(SESSION_URI_PREFIX)


ACCEPTED: Any = {"consent": ElicitResult(action="accept")}


async def second_round(
    client: Client, state: str | None, tool: str = "get_token", arguments: dict[str, Any] = NOTES
) -> CallToolResult | InputRequiredResult:
    return await client.session.call_tool(
        tool, arguments, input_responses=ACCEPTED, request_state=state, allow_input_required=True
    )


async def test_what_comes_back_is_sealed_and_says_nothing() -> None:
    host = Host(FakeBroker())
    async with client_of(host) as client:
        first = await first_round(client)
    assert first.request_state is not None
    assert "consent" not in first.request_state
    assert next(iter(host.broker.sessions)).removeprefix(SESSION_URI_PREFIX) not in first.request_state


@dataclass(frozen=True, slots=True)
class Misuse:
    """A second round that is not the first one's own."""

    principal: Principal = field(default_factory=principal)
    tool: str = "get_token"
    arguments: dict[str, Any] = field(default_factory=lambda: NOTES)
    change: Callable[[str], str] = str


def _flip(state: str) -> str:
    middle = len(state) // 2
    return state[:middle] + ("A" if state[middle] != "A" else "B") + state[middle + 1 :]


MISUSES = {
    "another user": Misuse(principal=principal(user_name="mallory")),
    "another agent": Misuse(principal=principal("other-agent")),
    "another tenant": Misuse(principal=principal(tenant="other")),
    "no user": Misuse(principal=principal(user_name="")),
    "another tool": Misuse(tool="start_consent"),
    "other arguments": Misuse(arguments={"provider": "billing"}),
    "tampered": Misuse(change=_flip),
    "cut": Misuse(change=lambda state: state[:-8]),
    "plain": Misuse(change=lambda _: '{"session_uri": "urn:ietf:params:oauth:request_uri:x"}'),
    "empty": Misuse(change=lambda _: ""),
}


@pytest.mark.parametrize("misuse", MISUSES.values(), ids=MISUSES)
async def test_state_that_is_not_this_calls_own_is_refused_alike_and_written_down(misuse: Misuse) -> None:
    """It proves nothing of who sends it. Covers: A06."""
    host = Host(FakeBroker())
    caller = FakeCaller(host.broker)
    async with client_of(host, caller=caller) as client:
        first = await first_round(client)
        host.broker.finish(link_of(host.broker))
        seen = len(host.broker.actions)
        caller.principal = misuse.principal
        assert first.request_state is not None
        with pytest.raises(MCPError) as raised:
            await second_round(client, misuse.change(first.request_state), misuse.tool, misuse.arguments)
    assert (raised.value.error.code, raised.value.error.message) == (-32602, "Invalid or expired requestState")
    assert len(host.broker.actions) == seen
    assert host.broker.refused == ["resume: invalid_request"]


async def test_state_of_another_vault_is_refused() -> None:
    host, other = Host(FakeBroker()), Host(FakeBroker(state_key=b"o" * 32))
    async with client_of(host) as client:
        first = await first_round(client)
    async with client_of(other) as client:
        with pytest.raises(MCPError) as raised:
            await second_round(client, first.request_state)
    assert raised.value.error.message == "Invalid or expired requestState"


async def test_another_replica_and_the_next_process_go_on() -> None:
    host = Host(FakeBroker())
    async with client_of(host) as client:
        first = await first_round(client)
    host.broker.finish(link_of(host.broker))
    async with client_of(host) as client:
        answer = await second_round(client, first.request_state)
    assert isinstance(answer, CallToolResult)
    assert answer.structured_content is not None
    assert answer.structured_content["status"] == "ok"


async def test_state_of_a_session_that_became_another_principals_gives_nothing() -> None:
    """The seal binds the principal; were it to fail, the session's own owner decides all the same."""
    host = Host(FakeBroker())
    async with client_of(host) as client:
        first = await first_round(client)
        next(iter(host.broker.sessions.values())).owner = principal(user_name="mallory")
        answer = await second_round(client, first.request_state)
    assert isinstance(answer, CallToolResult)
    assert answer.structured_content is not None
    assert answer.structured_content["code"] == "consent_not_found"
