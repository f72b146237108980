"""Whom does a signature prove: which key, for which workloads, and for how long after something changed?"""

from __future__ import annotations

from datetime import timedelta

import pytest

from mcp_identity.broker.access_keys import AccessKeyIssued
from mcp_identity.broker.specifications import WorkloadSpec
from mcp_identity.domain.access_key import AccessKeyRole, Signer
from mcp_identity.domain.credentials import Secret
from mcp_identity.domain.errors import Unauthenticated, VaultCorrupt
from mcp_identity.domain.identity import WorkloadIdentity
from mcp_identity.domain.standing import Outdated, standing
from mcp_identity.inbound.signers import Signers
from mcp_identity.inbound.sigv4 import REFUSED, Reason, SignatureRefused, SignedRequest
from mcp_identity.vault.records import Records
from tests.broker.operators import Operator, running_operator
from tests.inbound.signing import HOST, KEY_ID, SECRET, sent_by_clients, sign, time_of
from tests.inbound.test_sigv4 import CHANGES

ADMIN, WORKLOAD = AccessKeyRole.ADMIN, AccessKeyRole.WORKLOAD


@pytest.fixture
async def operator(tmp_path_factory: pytest.TempPathFactory):  # noqa: ANN201 - a generator of an operator
    async with running_operator(tmp_path_factory.mktemp("home")) as one:
        yield one


@pytest.fixture
def signers(operator: Operator) -> Signers:
    return Signers(operator.vault, operator.clock, frozenset({HOST}))


async def make(operator: Operator, *workloads: str, role: AccessKeyRole | None = None) -> AccessKeyIssued:
    call = operator.call("create_access_key")
    return await operator.broker.access_keys.create(call, role or (WORKLOAD if workloads else ADMIN), workloads)


def signed(issued: AccessKeyIssued, operator: Operator, **given: object) -> SignedRequest:
    return sign(key_id=issued.key.access_key_id, secret=issued.secret, at=operator.clock.now(), **given)  # type: ignore[arg-type]


async def refused(signers: Signers, request: SignedRequest) -> Reason:
    with pytest.raises(SignatureRefused) as caught:
        await signers.verify(request)
    assert (caught.value.code, caught.value.message) == ("unauthenticated", REFUSED)
    assert isinstance(caught.value, Unauthenticated)
    return caught.value.reason


async def test_an_admins_key_stands_for_every_workload_of_its_tenant(operator: Operator, signers: Signers) -> None:
    agent = await operator.create("agent")
    issued = await make(operator)
    signer = await signers.verify(signed(issued, operator))
    assert signer == Signer(
        "default", issued.key.id, issued.key.access_key_id, ADMIN, frozenset(), False, "eu-central-1", signer.signature_hash
    )
    assert signer.may_act_for(agent)
    assert not signer.may_act_for(WorkloadIdentity(agent.id, "acme", "agent"))
    assert not signer.may_act_for(WorkloadIdentity(agent.id, "default", "agent", disabled=True))


async def test_a_workloads_key_stands_for_those_that_were_named(operator: Operator, signers: Signers) -> None:
    one, two, other = [await operator.create(name) for name in ("one", "two", "other")]
    signer = await signers.verify(signed(await make(operator, "one", "two"), operator))
    assert (signer.is_admin, signer.workload_ids) == (False, {one.id, two.id})
    assert [signer.may_act_for(each) for each in (one, two, other)] == [True, True, False]


async def test_what_a_key_stands_for_ends_with_the_workload(operator: Operator, signers: Signers) -> None:
    one, two = await operator.create("one"), await operator.create("two")
    both, alone = await make(operator, "one", "two"), await make(operator, "two")
    await operator.update("one", disabled=True)
    assert (await signers.verify(signed(both, operator))).workload_ids == {two.id}
    await operator.update("two", disabled=True)
    assert await refused(signers, signed(alone, operator)) is Reason.WORKLOAD
    await operator.update("two", disabled=False)
    assert (await signers.verify(signed(alone, operator))).workload_ids == {two.id}
    await operator.broker.workloads.remove(operator.call("delete_workload_identity"), "two")
    assert await refused(signers, signed(alone, operator)) is Reason.KEY
    assert await refused(signers, signed(both, operator)) is Reason.WORKLOAD
    again = await operator.broker.workloads.create(operator.call(), "two", WorkloadSpec())
    assert await refused(signers, signed(both, operator)) is Reason.WORKLOAD
    assert again.id != two.id
    assert one.id != two.id


async def test_a_removed_key_is_worth_nothing_at_once_in_every_process(operator: Operator, signers: Signers) -> None:
    issued, elsewhere = await make(operator), Signers(operator.vault, operator.clock, frozenset({HOST}))
    request = signed(issued, operator)
    await signers.verify(request)
    await elsewhere.verify(request)
    await operator.broker.access_keys.remove(operator.call("delete_access_key"), issued.key.access_key_id)
    assert signers.recall(request) is None
    assert elsewhere.recall(request) is None
    assert await refused(elsewhere, request) is Reason.KEY


async def test_who_is_remembered_is_confirmed_by_the_first_unit(operator: Operator, signers: Signers) -> None:
    issued = await make(operator)
    request = signed(issued, operator)
    assert signers.recall(request) is None
    verified = await signers.verify(request)
    found = signers.recall(request)
    assert found is not None
    signer, remembered = found
    assert (signer, remembered.is_confirmed) == (verified, False)
    token = standing.set(remembered)
    try:
        await operator.vault.run(lambda _records: None)
        assert remembered.is_confirmed
        other = signers.recall(request)
        assert other is not None
        await operator.create("agent", disabled=True)
        await operator.update("agent", disabled=False)  # moves the configuration epoch
        standing.set(other[1])
        with pytest.raises(Outdated):
            await operator.vault.run(lambda _records: None)
    finally:
        standing.reset(token)


async def test_nothing_is_remembered_for_more_than_a_minute_or_for_another_signature(
    operator: Operator, signers: Signers
) -> None:
    issued = await make(operator)
    request = signed(issued, operator)
    await signers.verify(request)
    changed = SignedRequest(request.method, request.raw_path, request.raw_query, request.headers, b"{}")
    assert signers.recall(changed) is None
    assert await refused(signers, changed) is Reason.SIGNATURE
    operator.clock.advance(61)
    await operator.vault.run(lambda _records: None)
    assert signers.recall(request) is None


async def test_no_tampered_request_is_believed_of_a_key_that_there_is(operator: Operator, signers: Signers) -> None:
    """covers: A61."""
    issued = await make(operator)
    good = signed(issued, operator)
    await signers.verify(good)
    for name, (change, _) in CHANGES.items():
        try:
            changed = change(good)
        except AssertionError:
            continue  # names the pure tests' own key
        with pytest.raises(SignatureRefused):
            await signers.verify(changed)
        try:
            found = signers.recall(changed)
        except SignatureRefused:
            continue
        assert found is None, name


async def test_a_key_that_is_not_there_is_refused_as_a_wrong_signature_is(operator: Operator, signers: Signers) -> None:
    issued, other = await make(operator), await make(operator)
    for key_id in ("MID" + "Z" * 17, "AKIAIOSFODNN7EXAMPLE"):
        assert await refused(signers, sign(key_id=key_id, secret=issued.secret, at=operator.clock.now())) is Reason.KEY
    borrowed = sign(key_id=other.key.access_key_id, secret=issued.secret, at=operator.clock.now())
    assert await refused(signers, borrowed) is Reason.SIGNATURE


async def test_every_key_has_its_own_signatures(operator: Operator, signers: Signers) -> None:
    one, other = await make(operator), await make(operator)
    hashes = [(await signers.verify(signed(each, operator))).signature_hash for each in (one, one, other)]
    assert hashes[0] == hashes[1] != hashes[2]


async def test_the_last_use_is_known_to_the_minute_and_not_written_with_each_call(operator: Operator, signers: Signers) -> None:
    issued = await make(operator)

    async def last_use() -> object:
        (key,) = (await operator.broker.access_keys.list("default")).keys
        return key.last_used_at

    assert await last_use() is None
    await signers.verify(signed(issued, operator))
    first = operator.clock.now()
    assert await last_use() == first
    operator.clock.advance(30)
    await signers.verify(signed(issued, operator))
    assert await last_use() == first
    operator.clock.advance(31)
    await signers.verify(signed(issued, operator))
    assert await last_use() == first + timedelta(seconds=61)
    with pytest.raises(SignatureRefused):
        await signers.verify(sign(key_id=issued.key.access_key_id, at=operator.clock.now() + timedelta(hours=1)))
    assert await last_use() == first + timedelta(seconds=61)


async def test_a_key_of_another_tenant_is_of_that_tenant(operator: Operator, signers: Signers) -> None:
    acme = operator.of("acme")
    agent = await operator.create("agent")
    issued = await make(acme)
    signer = await signers.verify(signed(issued, operator))
    assert signer.tenant == "acme"
    assert not signer.may_act_for(agent)


async def test_a_row_that_was_changed_signs_nothing(operator: Operator, signers: Signers) -> None:
    issued = await make(operator)
    await operator.vault.ensure_tenant("acme")
    for column, value in (("role", "'workload'"), ("may_assert_users", "1"), ("tenant_id", "'acme'"), ("secret", "NULL")):
        before = await _cell(operator, column)
        await _edit(operator, f"UPDATE access_keys SET {column} = {value}")  # noqa: S608 - names of ours
        with pytest.raises(VaultCorrupt):
            await signers.verify(signed(issued, operator))
        await operator.vault.run(
            lambda r, c=column, b=before: r.connection.exec_driver_sql(f"UPDATE access_keys SET {c} = ?", (b,)) and None  # noqa: S608
        )
    await signers.verify(signed(issued, operator))


async def _edit(operator: Operator, statement: str) -> None:
    await operator.vault.run(lambda records: records.connection.exec_driver_sql(statement) and None)


async def _cell(operator: Operator, column: str) -> object:
    statement = f"SELECT {column} FROM access_keys"  # noqa: S608 - a column of ours
    return await operator.vault.read(lambda records: records.connection.exec_driver_sql(statement).scalar())


async def test_the_stock_clients_operations_are_believed_by_the_vault(operator: Operator, signers: Signers) -> None:
    await operator.vault.run(_insert_stock_key)
    for name, request in sent_by_clients():
        operator.clock.wall = time_of(request)
        assert (await signers.verify(request)).is_admin, name


def _insert_stock_key(records: Records) -> None:
    records.insert_access_key("default", KEY_ID, Secret(SECRET), role=ADMIN)
