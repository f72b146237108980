"""Whom a bearer proves: the agent that its authorizer says, the user that its issuer says, and nobody where that is not clear.

covers: A03, A05, A46
"""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import text

from mcp_identity.domain.authorizer import Authorizer, ClaimOperator, ClaimRule
from mcp_identity.domain.credentials import Secret
from mcp_identity.domain.errors import CallerError, IdentityError, TokenExpired, Unauthenticated, VaultCorrupt
from mcp_identity.domain.identity import DEFAULT_TENANT, Principal, Proof, User, UserKind, WorkloadIdentity
from mcp_identity.domain.workload_key import new_workload_key, workload_key_digest
from mcp_identity.inbound.jwt import UNAUTHENTICATED
from tests.fakes.clock import FakeClock, SystemEntropy
from tests.fakes.identity_provider import ALICE, BOB, CLIENT, PRESETS, FakeIdentityProvider, FakeIdentityTransport, Preset
from tests.inbound import corpus
from tests.inbound.forging import encoded, header_of
from tests.inbound.kit import Inbound


async def refused(inbound: Inbound, bearer: str, *, hint: str = "") -> None:
    with pytest.raises(Unauthenticated) as caught:
        await inbound.authenticate(bearer, hint=hint)
    assert caught.value.message == UNAUTHENTICATED


async def new_key(inbound: Inbound, workload: WorkloadIdentity, **given: Any) -> tuple[str, str]:
    """A key of a workload, and the id of its row."""
    key = new_workload_key(SystemEntropy())
    digest = workload_key_digest(key)
    assert digest is not None
    stored = await inbound.vault.run(lambda records: records.insert_workload_key(workload.tenant, workload.id, digest, **given))
    return key.reveal(), stored.id


# --- JWTs -------------------------------------------------------------------------------------------------------------


async def test_a_users_token_proves_the_agent_and_the_user(inbound: Inbound, idp: FakeIdentityProvider) -> None:
    workload = await inbound.add_workload(issuer=await inbound.add_issuer(idp))
    principal = await inbound.authenticate(idp.access_token(claims={"jti": "j-1"}))
    assert principal == Principal(
        workload=workload,
        user=User(idp.issuer, "alice", UserKind.OIDC, "Alice Example"),
        authenticated_by=Proof.JWT,
        verified=True,
        edge="http",
        credential_id="j-1",
        expires_at=principal.expires_at,
    )
    assert principal.expires_at == inbound.clock.now() + timedelta(hours=1)
    alone = await inbound.authenticate(idp.service_token())
    assert (alone.workload, alone.user) == (workload, None)


@pytest.mark.parametrize("preset", PRESETS)
async def test_every_presets_tokens_come_in(preset: Preset, inbound: Inbound, clock: FakeClock) -> None:
    idp = FakeIdentityProvider(preset, now=clock.now)
    await inbound.add_workload(issuer=await inbound.add_issuer(idp))
    principal = await inbound.authenticate(idp.access_token())
    assert principal.user is not None
    assert idp.jwks_fetches == 1


async def test_the_corpus_holds_in_the_running_product(inbound: Inbound, idp: FakeIdentityProvider) -> None:
    """covers: A05, A05b."""
    good, bad, expired = corpus.good_tokens(idp), corpus.bad_tokens(idp), corpus.expired_tokens(idp)
    issuer = await inbound.add_issuer(idp)
    authorizer = Authorizer(issuer.id, audiences=frozenset({idp.audience}))
    await inbound.add_workload(issuer=issuer, authorizer=authorizer)
    for name, token in good:
        assert (await inbound.authenticate(token)).workload.name == "agent", name
    for name, token in bad:
        with pytest.raises(Unauthenticated) as caught:
            await inbound.authenticate(token)
        assert caught.value.message == UNAUTHENTICATED, name
    for name, token in expired:
        with pytest.raises(TokenExpired):
            assert await inbound.authenticate(token), name
    assert idp.jwks_fetches == 1


async def test_an_issuer_that_nobody_added_is_never_asked(
    inbound: Inbound, idp: FakeIdentityProvider, clock: FakeClock
) -> None:
    """covers: A23."""
    stranger = FakeIdentityProvider("auth0", now=clock.now)
    assert isinstance(inbound.transport, FakeIdentityTransport)
    inbound.transport.know(stranger)
    await refused(inbound, stranger.access_token())
    await inbound.add_workload(issuer=await inbound.add_issuer(idp))
    await refused(inbound, stranger.access_token())
    assert stranger.requests == []


async def test_ten_thousand_random_key_ids_make_the_product_fetch_twice_a_minute(
    inbound: Inbound, idp: FakeIdentityProvider
) -> None:
    """covers: A23."""
    await inbound.add_workload(issuer=await inbound.add_issuer(idp))
    good = idp.access_token(lifetime_seconds=86400)
    header, rest = header_of(good), good.partition(".")[2]
    for number in range(10_000):
        head = encoded(json.dumps(header | {"kid": f"random-{number}"}).encode())
        await refused(inbound, f"{head}.{rest}")
        inbound.clock.advance(60 / 10_000)
    assert idp.jwks_fetches == 2
    assert (await inbound.authenticate(good)).user_key


async def test_while_the_provider_is_down_its_tokens_still_come_in(inbound: Inbound, idp: FakeIdentityProvider) -> None:
    """covers: A23."""
    await inbound.add_workload(issuer=await inbound.add_issuer(idp))
    await inbound.authenticate(idp.access_token())
    idp.knobs.down = True
    inbound.clock.advance(20 * 3600)
    assert (await inbound.authenticate(idp.access_token())).user_key
    await refused(inbound, idp.access_token(header={"kid": "another"}))


async def test_a_removed_issuer_vouches_for_nobody_from_then_on(inbound: Inbound, idp: FakeIdentityProvider) -> None:
    issuer = await inbound.add_issuer(idp)
    await inbound.add_workload(issuer=issuer)
    await inbound.authenticate(idp.access_token())
    await inbound.vault.run(lambda records: records.delete_issuer(issuer))
    await refused(inbound, idp.access_token())
    again = await inbound.add_issuer(idp)
    assert (await inbound.authenticate(idp.access_token())).user_key
    await inbound.vault.run(lambda records: records.delete_issuer(again))
    await inbound.add_issuer(idp, audiences=frozenset({"https://other.example.com"}))
    await refused(inbound, idp.access_token())


async def test_an_issuer_whose_row_was_edited_vouches_for_nobody(inbound: Inbound, idp: FakeIdentityProvider) -> None:
    await inbound.add_workload(issuer=await inbound.add_issuer(idp, audiences=frozenset({"https://other.example.com"})))
    await refused(inbound, idp.access_token())

    def edit(records: Any) -> None:
        records.connection.execute(text("UPDATE issuers SET audiences = :new"), {"new": f'["{idp.audience}"]'})
        records.raise_epoch()

    await inbound.vault.run(edit)
    await refused(inbound, idp.access_token())


async def test_a_disabled_workload_is_nobody_at_once(inbound: Inbound, idp: FakeIdentityProvider) -> None:
    workload = await inbound.add_workload(issuer=await inbound.add_issuer(idp))
    await inbound.authenticate(idp.access_token())
    disabled = await inbound.vault.run(lambda records: records.update_workload(replace(workload, disabled=True)))
    await refused(inbound, idp.access_token())
    await inbound.vault.run(lambda records: records.update_workload(replace(disabled, disabled=False)))
    assert (await inbound.authenticate(idp.access_token())).workload.epoch == 3


async def test_a_user_whose_credentials_were_ended_needs_a_newer_token(inbound: Inbound, idp: FakeIdentityProvider) -> None:
    await inbound.add_workload(issuer=await inbound.add_issuer(idp))
    old, others = idp.access_token(), idp.access_token(BOB)
    user = (await inbound.authenticate(old)).user
    assert user is not None
    await inbound.vault.run(lambda records: records.end_user_credentials(DEFAULT_TENANT, user))
    await refused(inbound, old)
    assert (await inbound.authenticate(others)).user_key.endswith(" bob")
    inbound.clock.advance(1)
    assert (await inbound.authenticate(idp.access_token())).user == user


async def test_a_user_is_registered_at_first_sight_and_once(inbound: Inbound, idp: FakeIdentityProvider) -> None:
    await inbound.add_workload(issuer=await inbound.add_issuer(idp))
    for person in (ALICE, BOB, ALICE):
        await inbound.authenticate(idp.access_token(person, claims={"name": f"{person.name} renamed"}))
    await refused(inbound, idp.access_token(claims={"sub": "stranger", "aud": "other"}))
    found = await inbound.vault.read(
        lambda records: records.connection.execute(text("SELECT subject FROM users ORDER BY subject")).scalars().all()
    )
    assert found == ["alice", "bob"]


async def test_tool_scopes_are_those_of_the_token_where_the_issuer_asks_for_them(
    inbound: Inbound, idp: FakeIdentityProvider
) -> None:
    await inbound.add_workload(issuer=await inbound.add_issuer(idp, require_tool_scopes=True))
    assert (await inbound.authenticate(idp.access_token(scopes="identity:read x"))).tool_scopes == {"identity:read", "x"}
    assert (await inbound.authenticate(idp.access_token())).tool_scopes == frozenset()


# --- which workload ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rule", "claims", "accepted"),
    [
        ({"clients": frozenset({"other"})}, {"client_id": "other"}, True),
        ({"clients": frozenset({"other"})}, {}, False),
        ({"clients": frozenset({CLIENT}), "scopes": frozenset({"run"})}, {"scope": "run walk"}, True),
        ({"clients": frozenset({CLIENT}), "scopes": frozenset({"run"})}, {"scope": "walk"}, False),
        ({"scopes": frozenset({"run"})}, {"scope": "run"}, False),
        ({}, {}, False),
        ({"audiences": frozenset({"second"})}, {"aud": ["https://identity.example.com/mcp", "second"]}, True),
        ({"audiences": frozenset({"second"})}, {}, False),
        ({"claims": (ClaimRule("team", ClaimOperator.EQUALS, ("blue",)),)}, {"team": "blue"}, True),
        ({"claims": (ClaimRule("team", ClaimOperator.EQUALS, ("blue",)),)}, {"team": ["blue"]}, False),
        ({"claims": (ClaimRule("team", ClaimOperator.EQUALS, ("blue",)),)}, {}, False),
        ({"claims": (ClaimRule("groups", ClaimOperator.CONTAINS, ("a", "b")),)}, {"groups": ["b", "a", "c"]}, True),
        ({"claims": (ClaimRule("groups", ClaimOperator.CONTAINS, ("a", "b")),)}, {"groups": ["a"]}, False),
        ({"claims": (ClaimRule("groups", ClaimOperator.CONTAINS_ANY, ("a", "b")),)}, {"groups": "x b"}, True),
        ({"claims": (ClaimRule("groups", ClaimOperator.CONTAINS_ANY, ("a", "b")),)}, {"groups": {"a": 1}}, False),
    ],
)
async def test_all_that_an_authorizer_names_must_hold(
    rule: dict[str, Any],
    claims: dict[str, Any],
    accepted: bool,
    inbound: Inbound,
    idp: FakeIdentityProvider,
) -> None:
    issuer = await inbound.add_issuer(idp)
    await inbound.add_workload(authorizer=Authorizer(issuer.id, **rule))
    if accepted:
        assert (await inbound.authenticate(idp.access_token(claims=claims))).workload.name == "agent"
    else:
        await refused(inbound, idp.access_token(claims=claims))


async def test_a_token_speaks_for_the_agent_of_its_client_whatever_the_caller_wants(
    inbound: Inbound, idp: FakeIdentityProvider
) -> None:
    """covers: A03."""
    issuer = await inbound.add_issuer(idp)
    for name in ("one", "two"):
        await inbound.add_workload(name, authorizer=Authorizer(issuer.id, clients=frozenset({f"client-{name}"})))
    for name in ("one", "two"):
        for hint in ("", "one", "two", "three"):
            principal = await inbound.authenticate(idp.access_token(client=f"client-{name}"), hint=hint)
            assert principal.workload.name == name
    await refused(inbound, idp.access_token(client="client-three"), hint="one")


async def test_two_agents_that_both_accept_are_nobody_unless_they_share_their_tokens(
    inbound: Inbound, idp: FakeIdentityProvider
) -> None:
    issuer = await inbound.add_issuer(idp)
    one = await inbound.add_workload("one", issuer)
    two = await inbound.add_workload("two", issuer, shared_authorizer=True)
    for hint in ("", "one", "two"):
        await refused(inbound, idp.access_token(), hint=hint)
    await inbound.vault.run(lambda records: records.update_workload(replace(one, shared_authorizer=True)))
    for hint in ("", "three", "ONE", "one "):
        await refused(inbound, idp.access_token(), hint=hint)
    for hint in ("one", "two"):
        assert (await inbound.authenticate(idp.access_token(), hint=hint)).workload.name == hint
    await inbound.vault.run(lambda records: records.update_workload(replace(two, disabled=True)))
    await refused(inbound, idp.access_token(), hint="two")
    await refused(inbound, idp.access_token())


async def test_tenants_of_one_provider_are_told_apart_and_never_cross(inbound: Inbound, clock: FakeClock) -> None:
    """covers: A03."""
    idp = FakeIdentityProvider("auth0", now=clock.now)
    for tenant in ("blue", "green"):
        issuer = await inbound.add_issuer(idp, tenant=tenant, discriminator_values=frozenset({f"org_{tenant}"}))
        await inbound.add_workload("agent", issuer, tenant=tenant)
    seen = set[tuple[str, str]]()
    for tenant in ("blue", "green"):
        principal = await inbound.authenticate(idp.access_token(claims={"org_id": f"org_{tenant}"}))
        seen.add((principal.tenant, principal.workload.id))
        assert principal.tenant == tenant
    assert len(seen) == 2
    for value in (None, "org_red", ["org_blue", "org_green"]):
        await refused(inbound, idp.access_token(claims={"org_id": value}))


async def test_many_tenants_are_no_hindrance(inbound: Inbound, clock: FakeClock) -> None:
    idp = FakeIdentityProvider("auth0", now=clock.now)
    for number in range(8):
        tenant = f"tenant-{number}"
        issuer = await inbound.add_issuer(idp, tenant=tenant, discriminator_values=frozenset({f"org_{number}"}))
        await inbound.add_workload("agent", issuer, tenant=tenant)
    inbound.clock.advance(1000)  # every tenant's keys have to be unwrapped anew
    for number in range(8):
        principal = await inbound.authenticate(idp.access_token(claims={"org_id": f"org_{number}"}))
        assert principal.tenant == f"tenant-{number}"


# --- second bearers ---------------------------------------------------------------------------------------------------


async def test_a_users_own_token_names_the_user_to_the_agent_that_it_speaks_for(
    inbound: Inbound, idp: FakeIdentityProvider
) -> None:
    issuer = await inbound.add_issuer(idp)
    workload = await inbound.add_workload(issuer=issuer)
    caller = Principal(workload, None, Proof.WORKLOAD_KEY, verified=True)
    found = await inbound.authenticator.verify_user_token(caller, Secret(idp.access_token(BOB, lifetime_seconds=60)))
    assert (found.user.subject, found.issuer_id) == ("bob", issuer.id)
    assert found.expires_at == inbound.clock.now() + timedelta(minutes=1)
    assert found.tool_scopes is None


async def test_a_second_bearer_brings_its_tool_scopes_where_they_are_asked(inbound: Inbound, clock: FakeClock) -> None:
    idp = FakeIdentityProvider(now=clock.now)
    issuer = await inbound.add_issuer(idp, require_tool_scopes=True)
    caller = Principal(await inbound.add_workload(issuer=issuer), None, Proof.WORKLOAD_KEY, verified=True)
    token = Secret(idp.access_token(claims={"scope": "identity:read email"}))
    assert (await inbound.authenticator.verify_user_token(caller, token)).tool_scopes == {"identity:read", "email"}


async def test_a_second_bearer_that_is_not_for_the_calling_agent_names_nobody(inbound: Inbound, clock: FakeClock) -> None:
    idp = FakeIdentityProvider("auth0", now=clock.now)
    blue = await inbound.add_issuer(idp, tenant="blue", discriminator_values=frozenset({"org_blue"}))
    green = await inbound.add_issuer(idp, tenant="green", discriminator_values=frozenset({"org_green"}))
    agent = await inbound.add_workload("agent", blue, tenant="blue")
    await inbound.add_workload("agent", green, tenant="green")
    other = await inbound.add_workload("other", tenant="blue", authorizer=Authorizer(blue.id, clients=frozenset({"other"})))
    keyed = await inbound.add_workload("keyed", tenant="blue")
    key, _ = await new_key(inbound, agent)
    of_blue = idp.access_token(claims={"org_id": "org_blue"})
    cases = {
        "another agent's": (other, of_blue),
        "an agent's without authorizer": (keyed, of_blue),
        "another tenant's": (agent, idp.access_token(claims={"org_id": "org_green"})),
        "a service's": (agent, idp.service_token(claims={"org_id": "org_blue"})),
        "an ID token": (agent, idp.id_token(claims={"org_id": "org_blue"})),
        "a workload key": (agent, key),
        "nothing": (agent, ""),
        "a disabled agent's": (replace(agent, id="gone"), of_blue),
    }
    for name, (workload, token) in cases.items():
        caller = Principal(workload, None, Proof.WORKLOAD_KEY, verified=True)
        with pytest.raises(Unauthenticated) as caught:
            await inbound.authenticator.verify_user_token(caller, Secret(token))
        assert caught.value.message == UNAUTHENTICATED, name
    caller = Principal(agent, None, Proof.WORKLOAD_KEY, verified=True)
    assert (await inbound.authenticator.verify_user_token(caller, Secret(of_blue))).user.subject == "auth0|alice"
    expired = idp.access_token(claims={"org_id": "org_blue"}, lifetime_seconds=-1)
    with pytest.raises(TokenExpired):
        await inbound.authenticator.verify_user_token(caller, Secret(expired))


# --- workload keys ----------------------------------------------------------------------------------------------------


async def test_a_workload_key_proves_the_workload_alone(inbound: Inbound) -> None:
    workload = await inbound.add_workload()
    key, row = await new_key(inbound, workload)
    principal = await inbound.authenticate(key, hint="another")
    assert principal == Principal(workload, None, Proof.WORKLOAD_KEY, verified=True, edge="http", credential_id=row)


async def test_a_key_that_is_revoked_at_its_end_or_unknown_is_refused_alike(inbound: Inbound) -> None:
    """covers: A46."""
    workload = await inbound.add_workload()
    key, row = await new_key(inbound, workload)
    short, _ = await new_key(inbound, workload, expires_at=inbound.clock.now() + timedelta(minutes=1))
    assert (await inbound.authenticate(short)).expires_at == inbound.clock.now() + timedelta(minutes=1)
    inbound.clock.advance(60)
    await refused(inbound, short)
    await inbound.vault.run(lambda records: records.revoke_workload_key(DEFAULT_TENANT, workload.id, row))
    await refused(inbound, key)
    await refused(inbound, new_workload_key(SystemEntropy()).reveal())
    good, _ = await new_key(inbound, workload)
    for wrong in (
        good[:-1],
        good + "x",
        good.upper(),
        good[:-1] + "=",
        f" {good}",
        f"{good}\n",
        "mid_wk_",
        "mid_wk_" + "é" * 43,
    ):
        await refused(inbound, wrong)
    await inbound.vault.run(lambda records: records.update_workload(replace(workload, disabled=True)))
    await refused(inbound, good)


async def test_a_key_row_that_was_edited_is_corrupt_and_opens_nothing(inbound: Inbound) -> None:
    workload = await inbound.add_workload("one")
    other = await inbound.add_workload("two")
    key, _ = await new_key(inbound, workload)
    await inbound.vault.run(
        lambda records: records.connection.execute(text("UPDATE workload_keys SET workload_id = :id"), {"id": other.id})
    )
    with pytest.raises(VaultCorrupt):
        await inbound.authenticate(key)


async def test_refusals_cost_the_writer_nothing_that_it_has_decoded(inbound: Inbound, idp: FakeIdentityProvider) -> None:
    """A refusal by exception would empty the caches of everybody."""
    await inbound.add_workload(issuer=await inbound.add_issuer(idp))
    await inbound.authenticate(idp.access_token())
    before = await inbound.vault.run(lambda records: records.all_issuers())
    for bearer in (new_workload_key(SystemEntropy()).reveal(), idp.access_token(client="another"), "mid_wat_x", "junk"):
        await refused(inbound, bearer)
    assert await inbound.vault.run(lambda records: records.all_issuers()) is before


@pytest.mark.parametrize("bearer", ["", " ", "mid_", "mid_wk", "mid_wat", "MID_WK_" + "a" * 43, "\ud800", "\0", "a.b.c", "é"])
async def test_anything_else_is_refused(bearer: str, inbound: Inbound) -> None:
    """covers: A47."""
    await refused(inbound, bearer)


async def test_no_error_repeats_a_bearer(inbound: Inbound, idp: FakeIdentityProvider) -> None:
    await inbound.add_workload(issuer=await inbound.add_issuer(idp))
    bearers = [
        idp.access_token(audience="x"),
        idp.access_token(lifetime_seconds=-5),
        "mid_wk_" + "q" * 43,
        "mid_wat_" + "q" * 200,
    ]
    for bearer in bearers:
        with pytest.raises(CallerError) as caught:
            await inbound.authenticate(bearer)
        error: IdentityError | None = caught.value
        assert bearer[:40] not in f"{error!r} {error} {error.__cause__!r} {error.__context__!r}"
