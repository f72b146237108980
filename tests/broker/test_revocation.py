# pyright: reportPrivateUsage=false
"""Is a revoked grant ended here, at once, whatever the vendor does; and at the vendor, if it can be?"""

from __future__ import annotations

from dataclasses import replace

import anyio
import pytest

from mcp_identity.broker.answers import Revoked
from mcp_identity.domain.credentials import Flow, GrantState, Reason
from mcp_identity.domain.identity import Proof, User, UserKind
from tests.broker.kit import Product, raising
from tests.broker.test_exchange import until
from tests.fakes.authorization_server import respond_json


async def revoke(product: Product, flow: str = "", *, provider: str = "idp") -> list[Revoked]:
    return list(await product.broker.revoke_grant(product.call("revoke_grant"), provider, flow))


async def test_the_refresh_token_is_given_back_before_the_access_token(idp: Product) -> None:
    await idp.connected()
    assert await revoke(idp) == [Revoked("idp", Flow.USER_FEDERATION, "revoked")]
    assert idp.server.revocations == [("refresh_token", "refresh-token-canary-1"), ("access_token", "access-token-canary-1")]
    assert (await idp.link()).reason is Reason.REVOKED
    grant = await idp.grant()
    assert (grant.state, grant.tokens) == (GrantState.REVOKED, None)


async def test_the_grant_ends_here_before_the_vendor_is_told(idp: Product) -> None:
    await idp.connected()
    idp.server.hold = anyio.Event()
    async with anyio.create_task_group() as group:
        group.start_soon(revoke, idp)
        await until(idp.server.holding)
        assert (await idp.link()).reason is Reason.REVOKED
        idp.server.hold.set()


async def test_the_grant_ends_here_also_where_the_vendor_cannot_be_reached(idp: Product) -> None:
    await idp.connected()
    idp.server.refuses_connections = True
    assert [revoked.at_vendor for revoked in await revoke(idp)] == ["failed"]
    assert (await idp.link()).reason is Reason.REVOKED


async def test_a_refresh_token_that_the_vendor_keeps_does_not_spare_the_access_token(idp: Product) -> None:
    await idp.connected()
    idp.server.revocation_answer = respond_json({}, 503)
    assert [revoked.at_vendor for revoked in await revoke(idp)] == ["failed"]
    assert [hint for hint, _ in idp.server.revocations] == ["refresh_token", "access_token"]


async def test_a_vendor_without_a_way_is_named(product: Product) -> None:
    await product.add(
        settings={"authorization_url": "https://idp.example.com/authorize", "token_url": "https://idp.example.com/token"}
    )
    await product.connected()
    assert [revoked.at_vendor for revoked in await revoke(product)] == ["unsupported"]


async def test_a_caller_that_goes_away_does_not_spare_the_vendor(idp: Product) -> None:
    await idp.connected()
    idp.server.hold = anyio.Event()
    async with anyio.create_task_group() as group:
        group.start_soon(revoke, idp)
        await until(idp.server.holding)
        group.cancel_scope.cancel()
    idp.server.hold.set()
    with anyio.fail_after(10):
        while len(idp.server.revocations) < 2:
            await anyio.lowlevel.checkpoint()
    assert not idp.server.is_active("access-token-canary-1")


async def test_a_secret_that_cannot_be_read_does_not_stop_a_revocation(idp: Product) -> None:
    await idp.connected()
    provider = await idp.broker.directory.get("default", "idp")
    moved = idp.broker.directory
    await idp.run(lambda records: _swap_secret(records, provider.id))
    assert await moved.get("default", "idp") == provider
    assert [revoked.at_vendor for revoked in await revoke(idp)] == ["failed"]
    assert (await idp.link()).reason is Reason.REVOKED
    await moved.remove(idp.call(), "idp")
    with raising("unknown_provider"):
        await idp.get()


def _swap_secret(records: object, row: str) -> None:
    """Put another provider's sealed secret there, with a row MAC that holds."""
    from sqlalchemy import update

    from mcp_identity.vault.records import Records
    from mcp_identity.vault.records.base import table
    from mcp_identity.vault.records.providers import _COVERED

    assert isinstance(records, Records)
    providers = table("credential_providers")
    values = dict(records.connection.execute(providers.select().where(providers.c.id == row)).mappings().one())
    values["secret"] = values["secret"][:-1] + bytes([values["secret"][-1] ^ 1])
    covered = tuple(values[column] for column in _COVERED[1])
    values["mac"] = records._mac("default", "credential_providers", 1, covered)
    records.connection.execute(update(providers).where(providers.c.id == row).values(values))
    records.raise_epoch()


# A refresh that is under way


async def test_a_refresh_that_comes_late_is_dropped_and_given_back(idp: Product) -> None:
    await idp.connected()
    idp.clock.advance(3600)
    idp.server.hold = anyio.Event()
    async with anyio.create_task_group() as group:
        group.start_soon(_get_quietly, idp)
        await until(idp.server.holding)
        hold, idp.server.hold = idp.server.hold, None
        await revoke(idp)
        hold.set()
    assert await idp.state() is GrantState.REVOKED
    assert idp.server.revocations[-2:] == [
        ("refresh_token", "refresh-token-canary-2"),
        ("access_token", "access-token-canary-2"),
    ]
    assert (await idp.link()).reason is Reason.REVOKED
    dropped = [event.detail.get("dropped") for event in await idp.trail() if event.action == "refresh"]
    assert dropped == [None, "the grant was revoked"]


async def _get_quietly(product: Product) -> None:
    await product.get()


async def test_no_token_leaves_after_a_revocation_has_returned(idp: Product) -> None:
    for _ in range(20):
        await idp.consent(await idp.start())
        idp.clock.advance(3600)
        async with anyio.create_task_group() as group:
            group.start_soon(_get_quietly, idp)
            await revoke(idp)
            assert (await idp.link()).reason is Reason.REVOKED
        assert (await idp.link()).reason is Reason.REVOKED
    assert not any(idp.server.is_active(token) for family in idp.server.families for token in family.access_tokens)


# What is revoked


async def test_without_a_flow_every_grant_of_the_principal_there_ends(product: Product) -> None:
    await product.add(flows="both")
    await product.token(flow="M2M")
    await product.token("other", flow="M2M")
    await product.connected(flow="USER_FEDERATION")
    assert sorted(revoked.flow for revoked in await revoke(product)) == [Flow.M2M, Flow.M2M, Flow.USER_FEDERATION]


async def test_with_a_flow_only_its_grants_end(product: Product) -> None:
    await product.add(flows="both")
    await product.token(flow="M2M")
    await product.connected(flow="USER_FEDERATION")
    assert [revoked.flow for revoked in await revoke(product, "M2M")] == [Flow.M2M]
    assert not (await product.token(flow="USER_FEDERATION")).refreshed
    with raising("not_found"):
        await revoke(product, "M2M")


@pytest.mark.parametrize("proof", [Proof.JWT, Proof.WORKLOAD_TOKEN])
async def test_a_user_of_a_server_with_many_ends_no_grant_of_the_agent_itself(product: Product, proof: Proof) -> None:
    """It serves all the agent's users; the agent alone ends it."""
    await product.add(flows="both")
    await product.token(flow="M2M")
    alice = User("https://idp.example", "alice", UserKind.OIDC)
    remote = replace(product.principal, user=alice, authenticated_by=proof, edge="http", verified=True)
    for flow in ("", "M2M"):
        with raising("not_found"):
            await revoke(replace(product, principal=remote), flow)
    assert (await product.grant()).state is GrantState.ACTIVE
    alone = replace(remote, user=None, authenticated_by=Proof.WORKLOAD_KEY)
    assert [revoked.flow for revoked in await revoke(replace(product, principal=alone))] == [Flow.M2M]


async def test_an_open_link_ends_with_the_grant(idp: Product) -> None:
    await idp.connected()
    consent = await idp.start()
    await revoke(idp)
    assert await idp.status(consent) == ("failed", "conflict")
    with raising("consent_not_found"):
        await idp.press(consent)


async def test_an_open_link_can_be_all_there_is_to_revoke(idp: Product) -> None:
    consent = await idp.link()
    assert await revoke(idp) == []
    assert await idp.status(consent) == ("failed", "conflict")


@pytest.mark.parametrize(
    ("provider", "flow", "code"),
    [
        ("idp", "", "not_found"),
        ("absent", "", "unknown_provider"),
        ("idp", "x", "invalid_request"),
        ("é", "", "unknown_provider"),
    ],
)
async def test_nothing_to_revoke_is_said_so(idp: Product, provider: str, flow: str, code: str) -> None:
    with raising(code):
        await revoke(idp, flow, provider=provider)
    assert await idp.outcomes("revoke_grant") == [code]


async def test_a_grant_that_was_changed_outside_the_product_is_cleared_by_a_revocation(idp: Product) -> None:
    await idp.connected()
    await idp.sql("UPDATE grants SET granted_scopes = 'read admin'")
    with raising("vault_corrupt"):
        await idp.get()
    assert await idp.broker.revoke_grant(idp.call(), "idp") == ()
    assert (await idp.connected()).scopes == ("read",)
