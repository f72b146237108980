"""Can an operator make and end the keys that sign requests, in one tenant and no other, and does the trail know?"""

from __future__ import annotations

import pytest

from mcp_identity.domain.access_key import AccessKeyRole, is_access_key_id
from tests.broker.kit import raising
from tests.broker.operators import Operator

ADMIN, WORKLOAD = AccessKeyRole.ADMIN, AccessKeyRole.WORKLOAD


async def create(operator: Operator, role: AccessKeyRole, *workloads: str, may_assert_users: bool = False):  # noqa: ANN201
    call = operator.call("create_access_key")
    return await operator.broker.access_keys.create(call, role, workloads, may_assert_users=may_assert_users)


async def test_a_key_is_named_as_clients_expect_and_its_secret_is_shown_once(operator: Operator) -> None:
    await operator.create("agent")
    issued = await create(operator, WORKLOAD, "agent", "agent", may_assert_users=True)
    assert is_access_key_id(issued.key.access_key_id)
    assert (len(issued.key.access_key_id), issued.workloads) == (20, ("agent",))
    assert len(issued.secret.reveal()) >= 40
    assert issued.secret.reveal() not in repr(issued)
    found = await operator.broker.access_keys.list("default")
    assert found.keys == (issued.key,)
    assert found.workloads_of(issued.key) == ("agent",)
    assert found.keys[0].may_assert_users
    other = await create(operator, ADMIN)
    assert other.key.access_key_id != issued.key.access_key_id
    assert other.secret != issued.secret


@pytest.mark.parametrize(
    ("role", "workloads", "code"),
    [
        (ADMIN, ("agent",), "invalid_request"),
        (WORKLOAD, (), "invalid_request"),
        (WORKLOAD, ("nobody",), "not_found"),
        (WORKLOAD, ("a b",), "not_found"),
        (WORKLOAD, tuple(f"w{n}" for n in range(101)), "invalid_request"),
    ],
)
async def test_a_role_without_its_workloads_makes_no_key_and_the_trail_has_it(
    operator: Operator, role: AccessKeyRole, workloads: tuple[str, ...], code: str
) -> None:
    with raising(code):
        await create(operator, role, *workloads)
    assert (await operator.broker.access_keys.list("default")).keys == ()
    assert await operator.outcomes("create_access_key") == [code]


async def test_what_is_refused_makes_no_tenant_and_what_is_made_does(operator: Operator) -> None:
    acme = operator.of("acme")
    with raising("not_found"):
        await create(acme, WORKLOAD, "agent")
    assert "acme" not in await operator.vault.read(lambda records: records.list_tenants())
    issued = await create(acme, ADMIN)
    assert issued.key.tenant == "acme"
    assert (await operator.broker.access_keys.list("default")).keys == ()


async def test_a_key_of_one_tenant_is_not_there_in_another(operator: Operator) -> None:
    acme = operator.of("acme")
    issued = await create(acme, ADMIN)
    with raising("not_found"):
        await operator.broker.access_keys.remove(operator.call("delete_access_key"), issued.key.access_key_id)
    await operator.create("agent")
    with raising("not_found"):
        await create(acme, WORKLOAD, "agent")
    await acme.broker.access_keys.remove(acme.call("delete_access_key"), issued.key.access_key_id)
    assert (await operator.broker.access_keys.list("acme")).keys == ()
    for name in ("", "x", issued.key.access_key_id, "MID' OR 1=1"):
        with raising("not_found"):
            await acme.broker.access_keys.remove(acme.call("delete_access_key"), name)


async def test_the_trail_names_key_role_and_workloads_and_never_the_secret(operator: Operator) -> None:
    await operator.create("agent")
    issued = await create(operator, WORKLOAD, "agent")
    await operator.broker.access_keys.remove(operator.call("delete_access_key"), issued.key.access_key_id)
    (made,) = await operator.trail("create_access_key")
    (ended,) = await operator.trail("delete_access_key")
    assert made.outcome == ended.outcome == "ok"
    assert made.detail["access_key"] == ended.detail["access_key"] == issued.key.access_key_id
    assert (made.detail["role"], made.detail["workloads"], made.detail["key"]) == ("workload", "agent", issued.key.id)
    assert issued.secret.reveal() not in repr((made, ended))


async def test_with_a_workload_go_the_keys_that_stand_for_it_alone(operator: Operator) -> None:
    await operator.create("one")
    await operator.create("two")
    both, alone, admin = [
        await create(operator, WORKLOAD, "one", "two"), await create(operator, WORKLOAD, "one"), await create(operator, ADMIN)
    ]  # fmt: skip
    await operator.broker.workloads.remove(operator.call("delete_workload_identity"), "one")
    found = await operator.broker.access_keys.list("default")
    assert {key.access_key_id for key in found.keys} == {both.key.access_key_id, admin.key.access_key_id}
    assert alone.key not in found.keys
    assert found.workloads_of(both.key) == ("two",)
    (event,) = await operator.trail("delete_workload_identity")
    assert event.detail["access_keys"] == "1"


async def test_a_secret_stands_in_no_row_as_itself(operator: Operator) -> None:
    issued = await create(operator, ADMIN)
    secret = issued.secret.reveal().encode()
    rows = await operator.vault.read(lambda r: r.connection.exec_driver_sql("SELECT * FROM access_keys").all())
    assert rows
    assert not any(
        isinstance(cell, bytes | str) and secret in (cell if isinstance(cell, bytes) else cell.encode())
        for row in rows
        for cell in row
    )


async def test_callers_are_possible_with_an_access_key_alone(operator: Operator) -> None:
    assert not await operator.broker.callers.are_possible()
    await create(operator, ADMIN)
    assert await operator.broker.callers.are_possible()
