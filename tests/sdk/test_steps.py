"""Does a flow ask for the right things in the right order, and stop when it should? Without a server."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from mcp_identity.sdk.endpoint import Who
from mcp_identity.sdk.errors import ConsentRequiredError, IdentityClientError
from mcp_identity.sdk.steps import (
    Ask,
    Pause,
    Redeem,
    Reply,
    Show,
    api_key_steps,
    checked_workload,
    completion_steps,
    token_steps,
)
from mcp_identity.sdk.tokens import TokenOptions, TokenWish, wish_of
from tests.sdk.kit import ALICE, play, tools

TOKEN = {
    "status": "ok",
    "access_token": "at-1",
    "token_type": "Bearer",
    "scopes": ["read"],
    "expires_at": "2026-11-28T08:00:00+00:00",
    "provider": "notes",
    "flow": "USER_FEDERATION",
    "extra": {"instance_url": "https://eu1.example.com"},
}
LINK = "https://identity.example.com/consent/abc"
REQUIRED = {
    "status": "consent_required",
    "reason": "no_grant",
    "authorization_url": LINK,
    "session_uri": "urn:ietf:params:oauth:request_uri:abc",
    "provider": "notes",
}
DONE = Reply()
NOTES = TokenWish("notes", ("read",))


def refused(code: str, **more: Any) -> dict[str, Any]:
    return {"status": "error", "code": code, "message": "no", "correlation_id": "c0ffee", **more}


def test_a_token_that_is_there_takes_one_call() -> None:
    token, asked = play(token_steps(ALICE, NOTES, None), TOKEN)
    assert asked == [Ask("get_token", ALICE, {"provider": "notes", "scopes": ["read"]})]
    assert (token.access_token, token.scopes, token.extra) == ("at-1", ("read",), {"instance_url": "https://eu1.example.com"})
    assert token.expires_at is not None
    assert token.expires_at.isoformat() == TOKEN["expires_at"]
    assert "at-1" not in repr(token)


def test_who_has_not_agreed_is_shown_the_link_and_waited_for_and_not_polled() -> None:
    replies = (REQUIRED, DONE, Reply({"status": "pending"}, 50), Reply({"status": "completed"}, 7), TOKEN)
    token, asked = play(token_steps(ALICE, NOTES, None), *replies)
    assert tools(asked) == ["get_token", "Show", "get_consent", "get_consent", "get_token"]
    assert asked[1] == Show(LINK, "notes")
    assert asked[2] == Ask("get_consent", ALICE, {"session_uri": REQUIRED["session_uri"], "wait_seconds": 50}, 50)
    last = asked[-1]
    assert isinstance(last, Ask)
    assert last.arguments["session_uri"] == REQUIRED["session_uri"]
    assert token.access_token == "at-1"


def test_force_authentication_asks_anew_where_a_user_is_asked_at_all() -> None:
    forced = TokenWish("notes", force_authentication=True, callback_url="https://app.example.com/done", custom_state="s")
    _, asked = play(token_steps(ALICE, forced, None), REQUIRED, DONE, {"status": "completed"}, TOKEN)
    assert tools(asked) == ["start_consent", "Show", "get_consent", "get_token"]
    assert isinstance(asked[0], Ask)
    assert asked[0].arguments == {"provider": "notes", "return_url": "https://app.example.com/done", "custom_state": "s"}
    by_itself = TokenWish("billing", auth_flow="M2M", force_authentication=True, callback_url="https://app.example.com/done")
    _, asked = play(token_steps(ALICE, by_itself, None), TOKEN)
    assert asked == [Ask("get_token", ALICE, {"provider": "billing", "flow": "M2M"})]


@pytest.mark.parametrize(
    ("status", "code"),
    [
        ({"status": "denied"}, "consent_denied"),
        ({"status": "expired", "reason": "consent_expired"}, "consent_expired"),
        ({"status": "failed", "reason": "different_account"}, "different_account"),
        ({"status": "failed"}, "consent_failed"),
        (refused("consent_not_found"), "consent_not_found"),
    ],
)
def test_a_consent_that_ended_otherwise_is_an_error_at_once(status: dict[str, Any], code: str) -> None:
    with pytest.raises(IdentityClientError) as failed:
        play(token_steps(ALICE, NOTES, None), REQUIRED, DONE, status)
    assert failed.value.code == code


def test_who_will_not_wait_gets_the_link_in_the_error_and_nowhere_else() -> None:
    with pytest.raises(ConsentRequiredError) as required:
        play(token_steps(ALICE, NOTES, 0), REQUIRED)
    assert (required.value.code, required.value.authorization_url) == ("consent_required", LINK)
    assert required.value.session_uri == REQUIRED["session_uri"]
    assert "abc" not in str(required.value) + repr(required.value)


def test_a_wait_has_an_end() -> None:
    replies = (REQUIRED, DONE, Reply({"status": "pending"}, 50), Reply({"status": "pending"}, 10))
    with pytest.raises(ConsentRequiredError) as required:
        play(token_steps(ALICE, NOTES, 60), *replies)
    assert required.value.code == "consent_timed_out"
    assert required.value.retryable


def test_a_wait_asks_for_no_longer_than_it_has() -> None:
    steps = token_steps(ALICE, NOTES, 60)
    _, asked = play(steps, REQUIRED, DONE, Reply({"status": "pending"}, 50.2), {"status": "completed"}, TOKEN)
    waits = [step.arguments["wait_seconds"] for step in asked if isinstance(step, Ask) and step.tool == "get_consent"]
    assert waits == [50, 10]


def test_a_wait_outlives_a_server_that_is_gone_for_a_moment() -> None:
    gone = refused("unreachable", retryable=True)
    busy = refused("rate_limited", retryable=True, retry_after_seconds=3)
    replies = (
        REQUIRED,
        DONE,
        gone,
        DONE,
        busy,
        DONE,
        Reply({"status": "pending"}, 50),
        gone,
        DONE,
        {"status": "completed"},
        TOKEN,
    )
    _, asked = play(token_steps(ALICE, NOTES, None), *replies)
    assert [step.seconds for step in asked if isinstance(step, Pause)] == [0.5, 3, 0.5]


def test_a_wait_does_not_outlive_a_server_that_stays_away() -> None:
    gone = itertools.chain(
        [REQUIRED, DONE], itertools.chain.from_iterable(itertools.repeat((refused("unreachable"), DONE), 20))
    )
    with pytest.raises(IdentityClientError) as failed:
        play(token_steps(ALICE, NOTES, None), *gone)
    assert failed.value.code == "unreachable"


def test_a_server_that_does_not_wait_is_not_asked_in_a_circle() -> None:
    replies = (REQUIRED, DONE, Reply({"status": "pending"}, 0.01), DONE, {"status": "completed"}, TOKEN)
    _, asked = play(token_steps(ALICE, NOTES, None), *replies)
    assert tools(asked) == ["get_token", "Show", "get_consent", "Pause", "get_consent", "get_token"]


def test_a_second_consent_in_one_call_is_left_to_the_caller() -> None:
    with pytest.raises(ConsentRequiredError):
        play(token_steps(ALICE, NOTES, None), REQUIRED, DONE, {"status": "completed"}, REQUIRED)


HANDLE = {"status": "ok", "handle": "mid_rh_1", "provider": "notes", "scopes": ["read"], "missing_scopes": ["write"]}


def test_a_handle_is_redeemed_with_a_token_of_the_workload() -> None:
    issued = {"status": "ok", "workload_access_token": "mid_wat_1"}
    token, asked = play(token_steps(ALICE, NOTES, None), HANDLE, issued, TOKEN)
    assert asked[1] == Ask("get_workload_access_token", ALICE, {})
    assert asked[2] == Redeem("mid_rh_1", Who("mid_wat_1", "mid_wk_alice"))
    assert (token.access_token, token.missing_scopes) == ("at-1", ("write",))
    key, asked = play(api_key_steps(ALICE, "weather"), HANDLE, issued, {"status": "ok", "api_key": "k"})
    assert (key, tools(asked)) == ("k", ["get_api_key", "get_workload_access_token", "Redeem"])


def test_who_acts_for_a_user_redeems_for_that_user() -> None:
    by_token = Who("user.jwt.1", "mid_wk_alice")
    _, asked = play(token_steps(by_token, NOTES, None), HANDLE, {"status": "ok", "workload_access_token": "mid_wat_1"}, TOKEN)
    assert asked[1] == Ask("get_workload_access_token", ALICE, {"user_token": "user.jwt.1"})
    by_workload_token = Who("mid_wat_7", "mid_wk_alice")
    _, asked = play(token_steps(by_workload_token, NOTES, None), HANDLE, TOKEN)
    assert asked[1] == Redeem("mid_rh_1", by_workload_token)


def test_a_user_token_alone_redeems_nothing_and_the_error_says_what_is_missing() -> None:
    with pytest.raises(IdentityClientError) as failed:
        play(token_steps(Who("user.jwt.1"), NOTES, None), HANDLE)
    assert failed.value.code == "access_denied"
    assert "MCP_IDENTITY_WORKLOAD_KEY" in failed.value.remedy


def test_a_named_workload_is_proved_by_the_bearer() -> None:
    named = Who("mid_wk_alice", "mid_wk_alice", "alice")
    play(checked_workload(named), {"status": "ok", "workload": "alice"})
    with pytest.raises(IdentityClientError) as failed:
        play(checked_workload(named), {"status": "ok", "workload": "mallory"})
    assert failed.value.code == "access_denied"


def test_a_consent_is_completed_once() -> None:
    status, asked = play(completion_steps(ALICE, "urn:x", user_id="7"), {"status": "completed"})
    assert (status, asked) == (
        "completed",
        [Ask("complete_consent", ALICE, {"session_uri": "urn:x", "user_id": "7"}, repeatable=False)],
    )
    with pytest.raises(IdentityClientError) as failed:
        play(completion_steps(ALICE, "urn:x", user_id="7"), {"status": "failed", "reason": "consent_mismatch"})
    assert failed.value.code == "consent_mismatch"


def test_an_error_says_what_happened_what_to_do_and_which_call_it_was() -> None:
    with pytest.raises(IdentityClientError) as failed:
        play(token_steps(ALICE, NOTES, None), refused("unknown_provider", retryable=False))
    error = failed.value
    assert (error.code, error.message, error.correlation_id, error.retryable) == ("unknown_provider", "no", "c0ffee", False)
    assert "list_providers" in error.remedy
    assert all(each in str(error) for each in (error.code, error.message, error.correlation_id, error.remedy))


@pytest.mark.parametrize("said", [{"status": "ok"}, {"status": "ok", "access_token": ""}, {"status": "ok", "access_token": 7}])
def test_an_answer_without_a_token_is_none(said: dict[str, Any]) -> None:
    with pytest.raises(IdentityClientError) as failed:
        play(token_steps(ALICE, NOTES, None), said)
    assert failed.value.code == "bad_answer"


def test_what_is_wanted_is_said_in_words_that_there_are() -> None:
    assert wish_of("notes", {"scopes": None, "auth_flow": None, "callback_url": None}) == TokenWish("notes")
    wrong: list[TokenOptions] = [{"scopes": "read write"}, {"scope": ["read"]}]  # type: ignore[typeddict-unknown-key]
    for options in wrong:
        with pytest.raises(IdentityClientError):
            wish_of("notes", options)
