"""Can others recognise a workload by its identity token, and is the token of no use anywhere else?"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import KeySet

from mcp_identity.broker.answers import IdentityTokenIssued, ProviderSpec
from mcp_identity.domain.identity import Principal, Proof
from tests.broker.kit import raising
from tests.broker.operators import ALICE, PUBLIC_URL, Operator, running_operator
from tests.fakes.identity_provider import FakeIdentityProvider

PARTNER = "https://partner.example.com"
ACTION = "get_identity_token"
DAY = 24 * 3600


async def issue(operator: Operator, caller: Principal, audience: str = PARTNER, seconds: int = 300) -> IdentityTokenIssued:
    return await operator.broker.issue_identity_token(operator.broker.call(caller, ACTION), audience, seconds)


@pytest.fixture
async def agent(operator: Operator) -> Principal:
    """A workload that may get tokens for the partner, and proved itself by its key."""
    return operator.caller(await operator.create(identity_audiences=(PARTNER,)))


def verified(token: IdentityTokenIssued, jwks: Mapping[str, Any]) -> jwt.Token:
    """What somebody reads who knows the key set alone."""
    return jwt.decode(token.token.reveal(), KeySet.import_key_set({"keys": jwks["keys"]}), algorithms=["ES256"])


async def test_others_verify_it_by_what_is_published(operator: Operator, agent: Principal) -> None:
    issued = await issue(operator, agent)
    metadata = await operator.broker.identity_metadata("default")
    assert metadata["issuer"] == f"{PUBLIC_URL}/identity/default"
    assert metadata["jwks_uri"] == f"{PUBLIC_URL}/identity/default/jwks.json"
    assert not {"authorization_endpoint", "token_endpoint", "registration_endpoint"} & metadata.keys()
    found = verified(issued, await operator.broker.identity_jwks("default"))
    now = int(operator.clock.now().timestamp())
    assert found.header["alg"] == "ES256"
    assert found.claims == {
        "iss": metadata["issuer"],
        "sub": f"workload:{agent.workload.id}",
        "aud": PARTNER,
        "iat": now,
        "nbf": now,
        "exp": now + 300,
        "jti": found.claims["jti"],
        "workload": "agent",
    }
    assert issued.expires_at == operator.in_minutes(5)
    (event,) = await operator.trail(ACTION)
    assert (event.outcome, event.detail["jti"], event.detail["audience"]) == ("ok", found.claims["jti"], PARTNER)


async def test_the_published_keys_say_nothing_of_the_private_ones(operator: Operator, agent: Principal) -> None:
    await issue(operator, agent)
    (key,) = (await operator.broker.identity_jwks("default"))["keys"]
    assert key.keys() == {"kty", "crv", "x", "y", "kid", "use", "alg"}


async def test_the_keys_are_there_before_the_first_token(operator: Operator) -> None:
    with raising("not_found"):
        await operator.broker.identity_jwks("default")
    await operator.create(identity_audiences=(PARTNER,))
    before = await operator.broker.identity_jwks("default")
    workload = await operator.broker.workloads.get("default", "agent")
    assert verified(await issue(operator, operator.caller(workload)), before).claims["aud"] == PARTNER


@pytest.mark.parametrize("tenant", ["acme", "quiet", "", "A", "../default", "a" * 200, "default/x"])
async def test_a_tenant_that_is_not_there_and_one_that_issues_none_look_the_same(operator: Operator, tenant: str) -> None:
    await operator.of("quiet").create()
    await operator.create(identity_audiences=(PARTNER,))
    for ask in (operator.broker.identity_jwks, operator.broker.identity_metadata):
        with raising("not_found") as refused:
            await ask(tenant)
        assert refused.value.message == "there is no issuer of identity tokens here"


async def test_each_tenant_has_keys_of_its_own(operator: Operator, agent: Principal) -> None:
    acme = operator.of("acme")
    other = acme.caller(await acme.create(identity_audiences=(PARTNER,)))
    with pytest.raises((JoseError, ValueError)):
        verified(await issue(operator, agent), await operator.broker.identity_jwks("acme"))
    found = verified(await issue(acme, other), await operator.broker.identity_jwks("acme"))
    assert found.claims["iss"] == f"{PUBLIC_URL}/identity/acme"


@pytest.mark.parametrize("seconds", [60, 900])
async def test_it_lives_as_long_as_was_asked(operator: Operator, agent: Principal, seconds: int) -> None:
    issued = await issue(operator, agent, seconds=seconds)
    assert issued.expires_at == operator.in_minutes(seconds / 60)


@pytest.mark.parametrize("seconds", [59, 901, 0, -300, 10**9])
async def test_other_lifetimes_are_refused(operator: Operator, agent: Principal, seconds: int) -> None:
    with raising("invalid_request"):
        await issue(operator, agent, seconds=seconds)


@pytest.mark.parametrize(
    "audience", ["", f"{PARTNER}/", PARTNER.upper(), "https://other.example.com", PUBLIC_URL, f"{PARTNER} x"]
)
async def test_it_is_for_nobody_but_those_that_an_operator_named(operator: Operator, agent: Principal, audience: str) -> None:
    with raising("access_denied"):
        await issue(operator, agent, audience)
    assert await operator.outcomes(ACTION) == ["access_denied"]


async def test_a_workload_without_audiences_gets_none(operator: Operator) -> None:
    with raising("access_denied") as refused:
        await issue(operator, operator.caller(await operator.create()))
    assert "--identity-audience" in refused.value.message


async def test_an_audience_that_became_one_of_ours_is_refused_from_then_on(operator: Operator, agent: Principal) -> None:
    """covers: A44."""
    await issue(operator, agent)
    await operator.add_issuer(FakeIdentityProvider(), audiences=(PARTNER,))
    with raising("access_denied"):
        await issue(operator, agent)
    await operator.broker.issuers.remove(operator.call(), "corp")
    await issue(operator, agent)
    urls = {"authorization_url": f"{PARTNER}/authorize", "token_url": PARTNER}
    spec = ProviderSpec(vendor="custom", client_id="x", client_authentication="none", settings=urls)
    await operator.broker.directory.add(operator.call(), "as", spec)
    with raising("access_denied"):
        await issue(operator, agent)


@pytest.mark.parametrize(
    ("proof", "changes"),
    [
        (Proof.WORKLOAD_TOKEN, {}),
        (Proof.WORKLOAD_TOKEN, {"user": ALICE}),
        (Proof.JWT, {"user": ALICE}),
        (Proof.STDIO, {"verified": False}),
        (Proof.CLI, {"verified": False}),
        (Proof.LOOPBACK, {"verified": False}),
    ],
)
async def test_who_did_not_prove_to_be_the_workload_itself_gets_none(
    operator: Operator, agent: Principal, proof: Proof, changes: dict[str, Any]
) -> None:
    with raising("access_denied"):
        await issue(operator, operator.caller(agent.workload, proof, **changes))


async def test_a_services_own_token_gets_one(operator: Operator, agent: Principal) -> None:
    await issue(operator, operator.caller(agent.workload, Proof.JWT))


async def test_a_workload_that_was_changed_meanwhile_gets_none(operator: Operator, agent: Principal) -> None:
    await operator.update(disabled=True)
    with raising("access_denied"):
        await issue(operator, agent)


async def test_without_a_public_url_there_are_none(tmp_path: Path) -> None:
    async with running_operator(tmp_path / "home", public_url="") as operator:
        workload = await operator.create(identity_audiences=(PARTNER,))
        with raising("access_denied"):
            await issue(operator, operator.caller(workload))
        with raising("not_found"):
            await operator.broker.identity_jwks("default")


# The keys follow one another


def kid_of(issued: IdentityTokenIssued, jwks: Mapping[str, Any]) -> str:
    return verified(issued, jwks).header["kid"]


async def published(operator: Operator) -> list[str]:
    return [key["kid"] for key in (await operator.broker.identity_jwks("default"))["keys"]]


async def test_a_new_key_is_published_a_day_before_it_signs_and_an_old_one_a_day_longer(
    operator: Operator, agent: Principal
) -> None:
    first = kid_of(await issue(operator, agent), await operator.broker.identity_jwks("default"))
    operator.clock.advance(90 * DAY - 1)
    await issue(operator, agent)
    assert await published(operator) == [first]
    operator.clock.advance(1)
    read_before = await operator.broker.identity_jwks("default")
    assert kid_of(await issue(operator, agent), read_before) == first  # who read the keys just before is not surprised
    (_, second) = await published(operator)
    operator.clock.advance(DAY)
    assert kid_of(await issue(operator, agent), await operator.broker.identity_jwks("default")) == second
    assert await published(operator) == [first, second]
    operator.clock.advance(DAY)
    assert await published(operator) == [second]


async def test_the_private_part_of_a_retired_key_is_overwritten(operator: Operator, agent: Principal) -> None:
    for _ in range(2):
        operator.clock.advance(90 * DAY)
        await issue(operator, agent)
    rows = await operator.vault.read(
        lambda records: records.connection.exec_driver_sql(
            "SELECT version, state, private_key IS NULL FROM signing_keys ORDER BY version"
        ).all()
    )
    assert [tuple(row) for row in rows] == [(1, "retired", 1), (2, "retiring", 0), (3, "active", 0)]
    assert [event.detail["version"] for event in await operator.trail("make_signing_key")] == ["1", "2", "3"]


@pytest.mark.parametrize(
    "edit",
    [
        "UPDATE signing_keys SET public_jwk = '{}'",
        "UPDATE signing_keys SET private_key = x'00'",
        "UPDATE signing_keys SET algorithm = 'HS256'",
        "UPDATE signing_keys SET retires_at = 1, state = 'retiring'",
        "UPDATE signing_keys SET private_key = (SELECT k.private_key FROM signing_keys k WHERE k.tenant_id = 'acme')",
    ],
)
async def test_a_key_that_was_changed_behind_our_back_signs_nothing(operator: Operator, agent: Principal, edit: str) -> None:
    """covers: A08."""
    await operator.of("acme").create(identity_audiences=(PARTNER,))
    await operator.vault.run(lambda records: records.connection.exec_driver_sql(edit) and None)
    with raising("vault_corrupt"):
        await issue(operator, agent)
