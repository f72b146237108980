"""Is a one-time handle worth anything to anybody but the agent's own code, and to that more than once?"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import replace
from pathlib import Path

import anyio
import pytest

from mcp_identity.broker.answers import ApiKeyReleased, HandleIssued, TokenReleased
from mcp_identity.broker.release import handle_hash
from mcp_identity.domain.credentials import Secret
from mcp_identity.domain.errors import IdentityError
from mcp_identity.domain.identity import Principal, Proof, User, UserKind
from tests.broker.kit import Product, raising, running_product
from tests.fakes.authorization_server import FakeAuthorizationServer
from tests.fakes.clock import FakeClock

ALICE = User("https://idp.example", "alice", UserKind.OIDC, "alice")
BOB = User("https://idp.example", "bob", UserKind.OIDC, "bob")


@pytest.fixture
async def remote(tmp_path: Path) -> AsyncGenerator[Product]:
    """The product, asked over HTTP by an agent for Alice; its provider gives handles."""
    clock = FakeClock()
    server = FakeAuthorizationServer(clock.now)
    async with running_product(tmp_path / "home", clock=clock, server=server, default_release="token") as product:
        await product.add(flows="M2M", release="handle")
        principal = replace(product.principal, user=ALICE, authenticated_by=Proof.JWT, edge="http", verified=True)
        yield replace(product, principal=principal)


def code_of(product: Product, user: User | None = ALICE) -> Product:
    """Code of the same agent, with a workload access token."""
    return replace(product, principal=replace(product.principal, user=user, authenticated_by=Proof.WORKLOAD_TOKEN))


async def handle_of(product: Product) -> HandleIssued:
    answer = await product.get()
    assert isinstance(answer, HandleIssued), answer
    return answer


async def redeem(product: Product, handle: Secret) -> TokenReleased | ApiKeyReleased:
    return await product.broker.redeem(product.call("redeem_release"), handle)


async def redeem_token(product: Product, handle: Secret) -> str:
    released = await redeem(product, handle)
    assert isinstance(released, TokenReleased)
    return released.access_token.reveal()


async def alarms(product: Product) -> list[str]:
    return [event.detail["redeemed"] for event in await product.trail() if event.action == "release_intercepted"]


@pytest.mark.parametrize("edge", ["http", "sse"])
async def test_over_the_network_an_agent_gets_a_handle_which_its_code_redeems(remote: Product, edge: str) -> None:
    asked = replace(remote, principal=replace(remote.principal, edge=edge))
    issued = await handle_of(asked)
    assert issued.handle.reveal().startswith("mid_rh_")
    assert len(issued.handle.reveal()) == len("mid_rh_") + 43
    assert (issued.handle_expires_at - remote.clock.now()).total_seconds() == 60
    assert (issued.provider, issued.scopes) == ("idp", ("read",))
    assert await redeem_token(code_of(asked), issued.handle) == "access-token-canary-1"
    assert await remote.outcomes("redeem_release") == ["ok"]
    assert [event.detail.get("released") for event in await remote.trail() if event.action == "get_token"] == ["handle"]


async def test_a_handle_holds_no_copy_and_no_trace_of_itself(remote: Product, tmp_path: Path) -> None:
    issued = await handle_of(remote)
    await redeem(code_of(remote), issued.handle)
    stored = b"".join(path.read_bytes() for path in (tmp_path / "home").iterdir() if path.is_file())
    assert issued.handle.reveal().encode() not in stored
    assert b"access-token-canary" not in stored
    assert issued.handle.reveal() not in str(await remote.trail()) + repr(issued)


async def test_a_second_redemption_gets_nothing_and_raises_an_alarm(remote: Product) -> None:
    issued, code = await handle_of(remote), code_of(remote)
    await redeem(code, issued.handle)
    with raising("not_found"):
        await redeem(code, issued.handle)
    assert await alarms(remote) == ["again"]
    assert await remote.outcomes("redeem_release") == ["ok", "not_found"]


async def test_of_fifty_redemptions_at_once_exactly_one_wins(remote: Product) -> None:
    issued, code = await handle_of(remote), code_of(remote)
    won: list[object] = []
    lost: list[str] = []

    async def try_it() -> None:
        try:
            won.append(await redeem(code, issued.handle))
        except IdentityError as error:
            lost.append(error.code)

    async with anyio.create_task_group() as group:
        for _ in range(50):
            group.start_soon(try_it)
    assert len(won) == 1
    assert lost == ["not_found"] * 49
    assert await alarms(remote) == ["again"] * 49


async def test_nobody_else_redeems_a_handle_and_absent_looks_the_same(remote: Product) -> None:
    """Covers: A03."""
    issued = await handle_of(remote)
    other_workload = await remote.broker.directory.local_principal("other", ALICE, "stdio")
    others: dict[str, Principal] = {
        "another user": replace(remote.principal, user=BOB),
        "no user": replace(remote.principal, user=None),
        "another workload": replace(other_workload, user=ALICE, edge="http"),
        "another kind of user": replace(remote.principal, user=replace(ALICE, issuer="urn:mcp-identity:asserted:default")),
    }
    said: set[str] = set()
    for principal in others.values():
        thief = replace(remote, principal=replace(principal, authenticated_by=Proof.WORKLOAD_TOKEN))
        with raising("not_found") as refused:
            await redeem(thief, issued.handle)
        said.add(refused.value.message)
    for absent in ("mid_rh_" + "A" * 43, "", "x" * 5000, "é"):
        with raising("not_found") as refused:
            await redeem(code_of(remote), Secret(absent))
        said.add(refused.value.message)
    assert len(said) == 1
    assert await alarms(remote) == ["by another workload or user"] * 4
    assert await redeem_token(code_of(remote), issued.handle) == "access-token-canary-1"


@pytest.mark.parametrize("proof", [proof for proof in Proof if proof is not Proof.WORKLOAD_TOKEN])
async def test_only_a_workload_access_token_redeems(remote: Product, proof: Proof) -> None:
    """Covers: A17."""
    issued = await handle_of(remote)
    with raising("access_denied"):
        await redeem(replace(remote, principal=replace(remote.principal, authenticated_by=proof)), issued.handle)
    await redeem(code_of(remote), issued.handle)


async def test_a_handle_ends_after_a_minute(remote: Product) -> None:
    first, second = await handle_of(remote), await handle_of(remote)
    remote.clock.advance(59)
    await redeem(code_of(remote), first.handle)
    remote.clock.advance(1)
    with raising("not_found"):
        await redeem(code_of(remote), second.handle)
    assert await alarms(remote) == []


async def test_old_handles_are_forgotten_and_late_ones_still_raise_an_alarm(remote: Product) -> None:
    issued = await handle_of(remote)
    await redeem(code_of(remote), issued.handle)
    remote.clock.advance(3000)
    with raising("not_found"):
        await redeem(code_of(remote), issued.handle)
    remote.clock.advance(3000)
    await remote.broker.sweep()
    with raising("not_found"):
        await redeem(code_of(remote), issued.handle)
    assert await alarms(remote) == ["again"]
    assert await remote.run(lambda records: records.connection.exec_driver_sql("SELECT count(*) FROM releases").scalar()) == 0


async def test_a_grant_that_was_revoked_or_renewed_is_not_behind_its_old_handle(remote: Product) -> None:
    issued = await handle_of(remote)
    alone = replace(remote, principal=replace(remote.principal, user=None))
    await alone.broker.revoke_grant(alone.call(), "idp")
    with raising("not_found"):
        await redeem(code_of(remote), issued.handle)
    before = await handle_of(remote)
    grant = next(grant for grant in await remote.grants() if grant.tokens is not None)
    tokens = grant.tokens
    assert tokens is not None
    await remote.run(lambda records: records.complete_grant(grant.key, tokens, "client_credentials"))
    with raising("not_found"):
        await redeem(code_of(remote), before.handle)
    assert await alarms(remote) == []


@pytest.mark.parametrize("change", ["never", "disabled", "removed"])
async def test_what_an_operator_changed_meanwhile_counts(remote: Product, change: str) -> None:
    issued = await handle_of(remote)
    match change:
        case "never":
            await remote.update(release="never")
            code = "access_denied"
        case "disabled":
            await remote.update(disabled=True)
            code = "access_denied"
        case _:
            await remote.broker.directory.remove(remote.call(), "idp")
            code = "not_found"
    with raising(code):
        await redeem(code_of(remote), issued.handle)


async def test_a_workload_that_was_changed_redeems_nothing(remote: Product) -> None:
    """Covers: A17."""
    issued = await handle_of(remote)
    later = replace(remote.principal, workload=replace(remote.principal.workload, epoch=2))
    with raising("access_denied"):
        await redeem(code_of(replace(remote, principal=later)), issued.handle)
    disabled = replace(remote.principal, workload=replace(remote.principal.workload, disabled=True))
    with raising("access_denied"):
        await redeem(code_of(replace(remote, principal=disabled)), issued.handle)


async def test_a_row_that_was_edited_releases_nothing(remote: Product) -> None:
    """Covers: A08."""
    issued = await handle_of(remote)
    await remote.sql("UPDATE releases SET expires_at = expires_at + 1")
    with raising("vault_corrupt"):
        await redeem(code_of(remote), issued.handle)
    await remote.sql("UPDATE releases SET expires_at = expires_at - 1")
    await redeem(code_of(remote), issued.handle)
    await remote.sql("UPDATE releases SET state = 'issued'")
    with raising("vault_corrupt"):
        await redeem(code_of(remote), issued.handle)


async def test_without_a_trail_no_handle_is_given_and_none_redeemed(remote: Product) -> None:
    issued = await handle_of(remote)
    await remote.sql("CREATE TRIGGER broken BEFORE INSERT ON audit_events BEGIN SELECT RAISE(ABORT, 'broken'); END")
    with raising("audit_unavailable"):
        await remote.get()
    with raising("audit_unavailable"):
        await redeem(code_of(remote), issued.handle)
    await remote.sql("DROP TRIGGER broken")
    await redeem(code_of(remote), issued.handle)


# API keys


async def test_a_key_has_a_handle_too_which_ends_when_the_key_changes(remote: Product) -> None:
    await remote.add_api_key("key", release="handle")
    first = await remote.broker.get_api_key(remote.call("get_api_key"), "key")
    second = await remote.broker.get_api_key(remote.call("get_api_key"), "key")
    assert isinstance(first, HandleIssued)
    assert isinstance(second, HandleIssued)
    released = await redeem(code_of(remote), first.handle)
    assert isinstance(released, ApiKeyReleased)
    assert released.api_key == Secret("api-key-canary")
    await remote.update("key", secret=Secret("another"))
    with raising("not_found"):
        await redeem(code_of(remote), second.handle)


# Elicited grants


async def test_an_elicited_grant_leaves_by_a_handle_or_not_at_all(remote: Product) -> None:
    await handle_of(remote)
    grant = await remote.grant()
    tokens = grant.tokens
    assert tokens is not None
    await remote.run(lambda records: records.complete_grant(grant.key, tokens, "elicitation"))
    issued, later = await handle_of(remote), await handle_of(remote)
    assert await redeem_token(code_of(remote), issued.handle) == "access-token-canary-1"
    await remote.update(release="token")
    with raising("access_denied"):
        await remote.get()
    with raising("access_denied"):
        await redeem(code_of(remote), later.handle)


async def test_a_server_that_asks_nobody_gives_no_handles(remote: Product) -> None:
    anybody = replace(remote, principal=replace(remote.principal, authenticated_by=Proof.LOOPBACK))
    with raising("access_denied") as refused:
        await anybody.get()
    assert "call_api" in refused.value.message


async def test_handles_that_nobody_redeems_are_forgotten_by_the_sweeper(remote: Product) -> None:
    issued = await handle_of(remote)

    async def is_known() -> bool:
        return bool(await remote.vault.read(lambda records: records.find_release(handle_hash(issued.handle))))

    remote.clock.advance(60 + 3600)
    await remote.broker.sweep()
    assert await is_known()
    remote.clock.advance(1)
    await remote.broker.sweep()
    assert not await is_known()
