from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcp_identity.domain.audit import AuditEvent
from mcp_identity.domain.clock import random_token
from mcp_identity.domain.consent import (
    FINAL_STATES,
    OPEN_STATES,
    SESSION_URI_PREFIX,
    ConsentSession,
    ConsentState,
    may_become,
    session_id_of,
)
from mcp_identity.domain.identity import (
    UNKNOWN_CLIENT,
    Principal,
    User,
    UserKind,
    WorkloadIdentity,
    is_name,
    is_resource_name,
    slug,
)
from tests.fakes.clock import SeededEntropy

ALICE = User("https://idp.example", "alice", UserKind.OIDC)
AGENT = WorkloadIdentity("id", "tenant", "agent")


@pytest.mark.parametrize("name", ["a", "Billing-Agent", "_a", "hosted_agent_7f8a9b2c-MyAgent", "x" * 255])
def test_agents_and_providers_may_have_names_with_capitals(name: str) -> None:
    assert is_resource_name(name)


@pytest.mark.parametrize("name", ["", "x" * 256, ".a", "-a", "a b", "a/b", "g\u0456thub", "a\n"])
def test_what_could_be_taken_for_something_else_is_no_name_of_theirs(name: str) -> None:
    assert not is_resource_name(name)


@pytest.mark.parametrize("name", ["a", "0", "github", "claude-desktop", "a.b_c-d", "x" * 128])
def test_lower_case_ascii_is_a_name(name: str) -> None:
    assert is_name(name)


@pytest.mark.parametrize(
    "name",
    [
        "",
        "GitHub",
        "github\n",
        "github ",
        " github",
        "g\u0456thub",
        "\uff47ithub",
        "git\u200bhub",
        "a\x00",
        "..",
        ".a",
        "-a",
        "_a",
        "a/b",
        "a\\b",
        "a b",
        "x" * 129,
        "gïthub",
        "a\u0301",
        "github\r\n",
        "a%2e",
        "\ufb01",
    ],
)
def test_what_looks_like_a_name_and_is_none_is_refused(name: str) -> None:
    assert not is_name(name)


@given(st.text(max_size=300))
def test_every_clients_name_gives_a_name_and_a_name_of_it_the_same(text: str) -> None:
    name = slug(text)
    assert is_name(name)
    assert len(name) <= 64
    assert slug(name) == name


@pytest.mark.parametrize(
    ("client", "name"),
    [
        ("Claude Desktop", "claude-desktop"),
        ("claude-ai", "claude-ai"),
        ("Visual Studio Code", "visual-studio-code"),
        ("  Cursor!! (beta) ", "cursor-beta"),
        ("Éditeur", "editeur"),
        ("../../etc/passwd", "etc-passwd"),
        ("a\nb\x1b[31m", "a-b-31m"),
        ("x" * 63 + "-yz", "x" * 63),
        ("", UNKNOWN_CLIENT),
        ("日本語", UNKNOWN_CLIENT),
        ("---", UNKNOWN_CLIENT),
    ],
)
def test_a_clients_name_becomes_what_people_would_call_it(client: str, name: str) -> None:
    assert slug(client) == name


def test_users_of_two_issuers_are_two_users() -> None:
    other = User("https://idp.example.evil", "alice", UserKind.OIDC)
    assert ALICE.key != other.key
    assert ALICE.key == "https://idp.example alice"


@given(st.text(max_size=8), st.text(max_size=8), st.sampled_from(["https://a", "https://b", "urn:c"]))
def test_two_users_of_an_issuer_share_a_key_only_if_they_are_one(one: str, two: str, issuer: str) -> None:
    first, second = (User(issuer, subject, UserKind.OIDC) for subject in (one, two))
    assert (first.key == second.key) == (one == two)


def test_a_principal_is_of_its_workloads_tenant_and_its_user_may_be_absent() -> None:
    assert Principal(AGENT, ALICE, "stdio", verified=False).user_key == ALICE.key
    alone = Principal(AGENT, None, "cli", verified=True)
    assert (alone.tenant, alone.user_key) == ("tenant", "")


# --- consents ---------------------------------------------------------------------------------------------------------


def test_the_states_are_open_or_final_and_nothing_leads_out_of_a_final_one() -> None:
    assert set(ConsentState) == FINAL_STATES | OPEN_STATES
    assert not FINAL_STATES & OPEN_STATES
    for final in FINAL_STATES:
        assert not any(may_become(final, following) for following in ConsentState)
    for state in OPEN_STATES:
        for end in (ConsentState.DENIED, ConsentState.FAILED, ConsentState.EXPIRED):
            assert may_become(state, end)


def test_only_an_exchange_completes_and_nothing_goes_back() -> None:
    order = [ConsentState.PENDING, ConsentState.STARTED, ConsentState.RECEIVED, ConsentState.EXCHANGING, ConsentState.COMPLETED]
    for at, state in enumerate(order):
        steps = {following for following in order if may_become(state, following)}
        expected = set(order[at + 1 : at + 2])
        assert steps == (expected | {state} if state is ConsentState.STARTED else expected)


@given(st.integers())
def test_a_session_uri_gives_back_its_id(seed: int) -> None:
    identifier = random_token(SeededEntropy(seed))
    assert session_id_of(SESSION_URI_PREFIX + identifier) == identifier


@pytest.mark.parametrize(
    "uri",
    ["", "x" * 43, SESSION_URI_PREFIX, SESSION_URI_PREFIX + "x" * 42, SESSION_URI_PREFIX + "x" * 44, SESSION_URI_PREFIX.upper()]
    + [SESSION_URI_PREFIX + "x" * 42 + end for end in ("\n", "é", "/", ".", " ", "%", "\u0660")]
    + [f" {SESSION_URI_PREFIX}{'x' * 43}"],
)
def test_what_is_no_session_uri_of_ours_gives_none(uri: str) -> None:
    assert session_id_of(uri) is None


def test_a_session_names_its_uri() -> None:
    session = ConsentSession.__new__(ConsentSession)
    object.__setattr__(session, "id", "x")
    assert session.session_uri == f"{SESSION_URI_PREFIX}x"


# --- the rest ---------------------------------------------------------------------------------------------------------


def test_a_random_token_is_256_bits_that_a_url_can_hold() -> None:
    token = random_token(SeededEntropy())
    assert len(token) == 43
    assert set(token) <= set("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_")
    assert len(random_token(SeededEntropy(), 16)) == 22


def test_an_event_that_ends_keeps_what_it_knew() -> None:
    event = AuditEvent("t", "w", "id", "u", "U", verified=True, edge="cli", action="get_token", detail={"a": "1", "b": "2"})
    ended = event.ending("not_found", b="3", c="4")
    assert (ended.outcome, ended.detail) == ("not_found", {"a": "1", "b": "3", "c": "4"})
    assert event.outcome == "ok"
