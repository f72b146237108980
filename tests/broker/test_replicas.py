"""Do two replicas on one PostgreSQL behave as one server? What the one has done, the other knows at its next answer."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Generator
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import anyio
import pytest

from mcp_identity import app
from mcp_identity.app.front import PublicFront
from mcp_identity.broker.answers import HandleIssued, TokenReleased
from mcp_identity.domain.access_key import AccessKeyRole
from mcp_identity.domain.consent import Binding
from mcp_identity.domain.credentials import GrantState, Secret
from mcp_identity.domain.identity import Principal, Proof, User, UserKind
from mcp_identity.domain.standing import Outdated, standing
from mcp_identity.inbound.signers import Signers
from tests.broker.kit import Product, raising, running_product
from tests.fakes.authorization_server import FakeAuthorizationServer
from tests.fakes.clock import FakeClock
from tests.fakes.home import put_postgres_vault
from tests.fakes.postgres import Database
from tests.inbound.signing import HOST, sign

ALICE = User("https://idp.example", "alice", UserKind.OIDC, "alice")


@pytest.fixture
def database(tmp_path: Path) -> Generator[Database]:
    made = put_postgres_vault(tmp_path / "home")
    yield made
    made.drop()


@dataclass(frozen=True, slots=True)
class Fleet:
    """Two replicas, one vendor, one clock."""

    one: Product
    two: Product
    database: Database

    def of(self, principal: Principal) -> Fleet:
        return replace(self, one=replace(self.one, principal=principal), two=replace(self.two, principal=principal))


@pytest.fixture
async def fleet(tmp_path: Path, database: Database) -> AsyncGenerator[Fleet]:
    clock = FakeClock()
    server = FakeAuthorizationServer(clock.now)
    front = PublicFront("http://127.0.0.1:8976", binding=Binding.LOCAL)  # the address of the balancer before them

    def replica() -> AbstractAsyncContextManager[Product]:
        return running_product(tmp_path / "home", clock=clock, server=server, front=front, database_url=database.url)

    async with AsyncExitStack() as stack:
        products = [await stack.enter_async_context(replica()) for _ in range(2)]
        one, two = products
        assert one.principal.workload == two.principal.workload
        assert one.principal.user == two.principal.user
        yield Fleet(one, two, database)


async def token_of(product: Product) -> str:
    return (await product.token()).access_token.reveal()


# --- consent ----------------------------------------------------------------------------------------------------------


async def test_a_consent_begun_on_one_replica_is_shown_pressed_and_finished_on_others(fleet: Fleet) -> None:
    one, two = fleet.one, fleet.two
    await one.add()
    consent = await one.link()
    assert (await two.page(consent)).provider == "idp"
    pressed = await two.press(consent)
    await one.come_back(pressed, one.server.person_consents(pressed.url))
    assert await two.status(consent) == ("completed", "")
    assert await token_of(one) == await token_of(two)


async def test_who_waits_on_one_replica_sees_what_the_other_received(fleet: Fleet) -> None:
    one, two = fleet.one, fleet.two
    await one.add()
    consent = await one.link()
    found: list[str] = []

    async def wait() -> None:
        status = await one.broker.get_consent(one.call("get_consent"), consent.session_uri, wait_seconds=50)
        found.append(status.status)

    async with anyio.create_task_group() as group:
        group.start_soon(wait)
        await two.consent(consent)
    assert found == ["completed"]


async def test_an_equal_request_on_the_other_replica_gets_the_open_session(fleet: Fleet) -> None:
    await fleet.one.add()
    assert (await fleet.one.link()).session_uri == (await fleet.two.link()).session_uri


async def test_of_two_equal_callbacks_at_once_one_is_exchanged(fleet: Fleet) -> None:
    one, two = fleet.one, fleet.two
    await one.add()
    pressed = await one.press(await one.link())
    parameters = one.server.person_consents(pressed.url)
    codes: list[str] = []

    async def come_back(product: Product) -> None:
        try:
            await product.come_back(pressed, parameters)
            codes.append("ok")
        except Exception as error:  # noqa: BLE001 - its code is what is asked for
            codes.append(getattr(error, "code", repr(error)))

    async with anyio.create_task_group() as group:
        for product in (one, two):
            group.start_soon(come_back, product)
    assert sorted(codes) == ["consent_not_found", "ok"] or sorted(codes) == ["consent_mismatch", "ok"], codes
    assert len(await one.grants()) == 1


# --- what an operator changes -----------------------------------------------------------------------------------------


async def test_a_provider_that_is_disabled_or_removed_on_one_replica_is_so_on_the_other_at_once(fleet: Fleet) -> None:
    one, two = fleet.one, fleet.two
    await one.add(flows="M2M")
    assert await token_of(two) == await token_of(one)
    epoch = two.vault.configuration_epoch
    await one.update(disabled=True)
    with raising("access_denied"):
        await two.get()
    assert two.vault.configuration_epoch > epoch
    await two.update(disabled=False)
    await one.token()
    await two.broker.directory.remove(two.call("remove_provider"), "idp")
    with raising("unknown_provider"):
        await one.get()


async def test_a_grant_that_is_revoked_on_one_replica_is_gone_on_the_other(fleet: Fleet) -> None:
    one, two = fleet.one, fleet.two
    await one.add()
    await one.connected()
    await two.token()
    await one.broker.revoke_grant(one.call("revoke_grant"), "idp")
    assert (await two.link()).reason.value == "revoked"
    assert await two.state() is GrantState.REVOKED


async def test_a_workload_key_that_is_revoked_on_one_replica_proves_nothing_on_the_other(fleet: Fleet) -> None:
    one, two = fleet.one, fleet.two
    directory = one.broker.directory
    operator = one.broker.call(directory.operator(one.prepared.graph.user), "operate")
    issued = await one.broker.workloads.issue_key(operator, "agent")
    doors = [app.authenticator_of(each.prepared) for each in (one, two)]
    for door in doors:
        assert (await door.authenticate(issued.key, edge="http")).workload.name == "agent"
        assert door.recall(issued.key, edge="http") is not None
    await two.broker.workloads.revoke_key(operator, "agent", issued.key_id)
    with raising("unauthenticated"):
        await doors[1].authenticate(issued.key, edge="http")
    with raising("unauthenticated"):
        await doors[0].authenticate(issued.key, edge="http")


# --- handles ----------------------------------------------------------------------------------------------------------


async def test_a_handle_is_redeemed_on_the_other_replica_and_only_once(fleet: Fleet) -> None:
    asked = fleet.of(replace(fleet.one.principal, user=ALICE, authenticated_by=Proof.JWT, edge="http", verified=True))
    await asked.one.add(flows="M2M", release="handle")
    issued = await asked.one.get()
    assert isinstance(issued, HandleIssued)
    code = asked.of(replace(asked.one.principal, authenticated_by=Proof.WORKLOAD_TOKEN))
    outcomes: list[str] = []

    async def redeem(product: Product, handle: Secret) -> None:
        try:
            released = await product.broker.redeem(product.call("redeem_release"), handle)
        except Exception as error:  # noqa: BLE001 - its code is what is asked for
            outcomes.append(getattr(error, "code", repr(error)))
        else:
            assert isinstance(released, TokenReleased)
            outcomes.append(released.access_token.reveal())

    async with anyio.create_task_group() as group:
        for product in (code.two, code.one, code.two, code.one):
            group.start_soon(redeem, product, issued.handle)
    assert sorted(outcomes) == ["access-token-canary-1", "not_found", "not_found", "not_found"]


# --- at once ----------------------------------------------------------------------------------------------------------


async def test_a_storm_on_both_replicas_asks_the_vendor_once_and_answers_everybody(fleet: Fleet) -> None:
    one, two = fleet.one, fleet.two
    await one.add()
    await one.connected()
    one.clock.advance(3600)
    before = len(one.server.requests)
    tokens: list[str] = []

    async def ask(product: Product) -> None:
        tokens.append(await token_of(product))

    async with anyio.create_task_group() as group:
        for number in range(16):
            group.start_soon(ask, (one, two)[number % 2])
    assert len(tokens) == 16
    assert len(set(tokens)) == 1
    assert len(one.server.requests) == before + 1


async def test_users_workloads_tenants_and_writers_are_registered_once_however_many_come_at_once(fleet: Fleet) -> None:
    names = [f"agent-{number}" for number in range(6)]
    user = fleet.one.principal.user
    assert user is not None

    async def come(product: Product, name: str) -> None:
        found = replace(user, subject=name)
        await product.broker.directory.local_principal(name, found, "stdio")
        await product.vault.run(lambda records: records.append_audit(product.call().event()))
        await product.vault.ensure_tenant(f"tenant-{name}")

    async with anyio.create_task_group() as group:
        for name in names:
            for product in (fleet.one, fleet.two):
                group.start_soon(come, product, name)
    count = "SELECT count(*), count(DISTINCT {}) FROM {} WHERE {} LIKE '%%agent-%%'"
    for column, table in (("name", "workload_identities"), ("subject", "users"), ("id", "tenants")):
        ((rows, distinct),) = fleet.database.execute(count.format(column, table, column).replace("%%", "%"))
        assert (rows, distinct) == (6, 6), table
    ((writers,),) = fleet.database.execute("SELECT count(*) FROM audit_writers")
    assert writers == 2
    for product in (fleet.one, fleet.two):
        await product.vault.run(lambda records: records.list_workloads("tenant-agent-0"))


async def test_an_access_key_that_one_removed_signs_nothing_at_the_other(fleet: Fleet) -> None:
    call = fleet.one.broker.call(fleet.one.broker.directory.operator(fleet.one.prepared.graph.user), "create_access_key")
    issued = await fleet.one.broker.access_keys.create(call, AccessKeyRole.ADMIN)
    request = sign(key_id=issued.key.access_key_id, secret=issued.secret, at=fleet.one.clock.now())
    there = Signers(fleet.two.vault, fleet.two.clock, frozenset({HOST}))
    assert (await there.verify(request)).is_admin
    await fleet.one.broker.access_keys.remove(call, issued.key.access_key_id)
    remembered = there.recall(request)
    if remembered is not None:  # as far as that process has seen, nothing has changed; nothing leaves on that word
        token = standing.set(remembered[1])
        try:
            with pytest.raises(Outdated):
                await fleet.two.vault.run(lambda _records: None)
        finally:
            standing.reset(token)
    with raising("unauthenticated"):
        await there.verify(request)


async def test_a_signed_write_that_reaches_both_has_one_effect(fleet: Fleet) -> None:
    done: list[str] = []
    answers: list[bytes] = []

    async def ask(product: Product, name: str) -> None:
        async def work() -> bytes:
            done.append(name)
            await product.run(lambda _records: None)
            return name.encode()

        answers.append(await product.broker.replays.once("default", bytes(32), work))

    async with anyio.create_task_group() as tasks:
        for number in range(4):
            tasks.start_soon(ask, fleet.one, f"one {number}")
            tasks.start_soon(ask, fleet.two, f"two {number}")
    assert len(done) == 1
    assert answers == [done[0].encode()] * 8
