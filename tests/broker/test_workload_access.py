"""Does a workload access token go only to a workload that proved itself, and for a user who was proven, too?"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from mcp_identity.broker.answers import WorkloadTokenIssued
from mcp_identity.domain.errors import AuditUnavailable, IdentityError
from mcp_identity.domain.identity import ASSERTED_ISSUER, LOCAL_ISSUER, Principal, Proof, User, UserKind
from mcp_identity.inbound.workload_tokens import WorkloadTokens
from tests.broker.kit import raising
from tests.broker.operators import ALICE, PUBLIC_URL, Operator
from tests.fakes.clock import SystemEntropy

ACTION = "get_workload_access_token"


def opener(operator: Operator) -> WorkloadTokens:
    return WorkloadTokens(operator.vault, operator.clock, SystemEntropy(), PUBLIC_URL)


async def issue(
    operator: Operator, caller: Principal, user: User | None = None, minutes: float | None = None
) -> WorkloadTokenIssued:
    call = operator.broker.call(caller, ACTION)
    ends = None if minutes is None else operator.in_minutes(minutes)
    return await operator.broker.issue_workload_access_token(call, user, ends)


async def test_a_workload_gets_one_for_itself_by_its_key(operator: Operator) -> None:
    workload = await operator.create()
    issued = await issue(operator, operator.caller(workload))
    said = opener(operator).open(issued.token.reveal())
    assert (said.tenant, said.workload_id, said.epoch, said.user) == ("default", workload.id, workload.epoch, None)
    assert said.expires_at == issued.expires_at == operator.in_minutes(15)
    (event,) = await operator.trail(ACTION)
    assert (event.outcome, event.detail["jti"], event.user_key) == ("ok", said.token_id, "")
    assert issued.token.reveal() not in str(event)


async def test_a_service_gets_one_for_itself_by_its_own_token_and_no_longer_than_that_lives(operator: Operator) -> None:
    workload = await operator.create()
    caller = operator.caller(workload, Proof.JWT, expires_at=operator.in_minutes(5), tool_scopes=frozenset({"identity:read"}))
    issued = await issue(operator, caller)
    assert issued.expires_at == operator.in_minutes(5)
    assert opener(operator).open(issued.token.reveal()).tool_scopes == {"identity:read"}


@pytest.mark.parametrize(("minutes", "lives"), [(60, 15), (15, 15), (3, 3)])
async def test_one_for_a_user_lives_no_longer_than_the_users_own_token(
    operator: Operator, minutes: float, lives: float
) -> None:
    workload = await operator.create()
    issued = await issue(operator, operator.caller(workload), ALICE, minutes)
    assert issued.expires_at == operator.in_minutes(lives)
    assert opener(operator).open(issued.token.reveal()).user == ALICE
    (event,) = await operator.trail(ACTION)
    assert (event.user_key, event.user_display, event.detail["user_kind"]) == (ALICE.key, "Alice", "oidc")


@pytest.mark.parametrize(
    ("of_caller", "of_user", "both"),
    [
        (None, None, None),
        (None, {"identity:read"}, {"identity:read"}),
        ({"identity:read"}, None, {"identity:read"}),
        ({"identity:read", "identity:token"}, {"identity:token", "email"}, {"identity:token"}),
        ({"identity:token"}, {"identity:read"}, set[str]()),
    ],
)
async def test_one_for_a_user_may_use_no_tools_that_the_users_own_token_may_not(
    operator: Operator, of_caller: set[str] | None, of_user: set[str] | None, both: set[str] | None
) -> None:
    """covers: A02b. Else whoever holds a narrow token of a user would make a wide one of it."""
    caller = operator.caller(await operator.create(), tool_scopes=None if of_caller is None else frozenset(of_caller))
    scopes = None if of_user is None else frozenset(of_user)
    call = operator.broker.call(caller, ACTION)
    issued = await operator.broker.issue_workload_access_token(call, ALICE, operator.in_minutes(5), scopes)
    assert opener(operator).open(issued.token.reveal()).tool_scopes == both


async def test_one_for_a_token_that_has_ended_is_not_made(operator: Operator) -> None:
    workload = await operator.create()
    with raising("token_expired"):
        await issue(operator, operator.caller(workload), ALICE, 0)


async def test_a_user_is_asserted_only_where_an_operator_lets_the_workload(operator: Operator) -> None:
    """covers: A02b."""
    workload = await operator.create()
    with raising("access_denied") as refused:
        await issue(operator, operator.caller(workload), operator.asserted())
    assert "--may-assert-users" in refused.value.message
    workload = await operator.update(may_assert_users=True)
    issued = await issue(operator, operator.caller(workload), operator.asserted())
    assert opener(operator).open(issued.token.reveal()).user == operator.asserted()
    assert issued.expires_at == operator.in_minutes(15)
    assert await operator.outcomes(ACTION) == ["access_denied", "ok"]


async def test_the_right_to_assert_ends_with_the_update_that_takes_it(operator: Operator) -> None:
    before = await operator.create(may_assert_users=True)
    await operator.update(may_assert_users=False)
    with raising("access_denied"):
        await issue(operator, operator.caller(before), operator.asserted())


@pytest.mark.parametrize(
    ("user", "minutes", "code"),
    [
        (User(f"{ASSERTED_ISSUER}acme", "4711", UserKind.ASSERTED), None, "invalid_request"),
        (User("https://idp.example.com", "4711", UserKind.ASSERTED), None, "invalid_request"),
        (User(f"{ASSERTED_ISSUER}default", "", UserKind.ASSERTED), None, "invalid_request"),
        (User(f"{ASSERTED_ISSUER}default", "a\nb", UserKind.ASSERTED), None, "invalid_request"),
        (User(f"{ASSERTED_ISSUER}default", "a" * 256, UserKind.ASSERTED), None, "invalid_request"),
        (User(f"{LOCAL_ISSUER}vault", "1000", UserKind.LOCAL), 60, "invalid_request"),
        (ALICE, None, "invalid_request"),
    ],
)
async def test_a_user_of_another_kind_or_tenant_is_nobody(
    operator: Operator, user: User, minutes: float | None, code: str
) -> None:
    """covers: A17."""
    workload = await operator.create(may_assert_users=True)
    with raising(code):
        await issue(operator, operator.caller(workload), user, minutes)


@pytest.mark.parametrize(
    ("proof", "changes"),
    [
        (Proof.JWT, {"user": ALICE}),
        (Proof.WORKLOAD_TOKEN, {}),
        (Proof.WORKLOAD_TOKEN, {"user": ALICE}),
        (Proof.STDIO, {"verified": False}),
        (Proof.CLI, {"verified": False}),
        (Proof.LOOPBACK, {"verified": False}),
        (Proof.WORKLOAD_KEY, {"verified": False}),
        (Proof.WORKLOAD_KEY, {"user": ALICE}),
    ],
)
async def test_nobody_else_gets_one(operator: Operator, proof: Proof, changes: dict[str, Any]) -> None:
    """covers: A17, A28."""
    workload = await operator.create(may_assert_users=True)
    for user, minutes in ((None, None), (ALICE, 60), (operator.asserted(), None)):
        with raising("access_denied"):
            await issue(operator, operator.caller(workload, proof, **changes), user, minutes)
    assert await operator.outcomes(ACTION) == ["access_denied"] * 3


async def test_a_workload_that_was_changed_disabled_or_removed_gets_none(operator: Operator) -> None:
    """covers: A17."""
    before = await operator.create()
    after = await operator.update(owner="somebody else")
    with raising("access_denied"):
        await issue(operator, operator.caller(before))
    disabled = await operator.update(disabled=True)
    for workload in (after, disabled):
        with raising("access_denied"):
            await issue(operator, operator.caller(workload))
    await operator.broker.workloads.remove(operator.call(), "agent")
    with raising("access_denied"):
        await issue(operator, operator.caller(disabled))


async def test_without_a_row_in_the_trail_there_is_no_token(operator: Operator) -> None:
    workload = await operator.create()
    call = operator.broker.call(operator.caller(workload), ACTION)
    await operator.vault.run(lambda records: records.connection.exec_driver_sql("DROP TABLE audit_events") and None)
    with pytest.raises(IdentityError) as refused:
        await operator.broker.issue_workload_access_token(call, None, None)
    assert refused.value.code in (AuditUnavailable.code, "vault_unavailable")


async def test_a_workload_of_another_tenant_of_the_same_name_is_another(operator: Operator) -> None:
    mine, theirs = await operator.create(), await operator.of("acme").create()
    with raising("access_denied"):
        await issue(operator, operator.caller(replace(mine, tenant="acme")))
    said = opener(operator).open((await issue(operator, operator.caller(theirs))).token.reveal())
    assert (said.tenant, said.workload_id) == ("acme", theirs.id)
