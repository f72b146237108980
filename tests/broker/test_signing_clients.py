"""Does a client that signs who it is (private_key_jwt) get what a client with a secret gets, and does its key stay here?"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from joserfc.jwk import ECKey, RSAKey

from mcp_identity.domain.credentials import Secret
from mcp_identity.domain.provider import ClientAuthentication
from tests.broker.exchanging import World, running_world
from tests.broker.kit import raising
from tests.fakes.exchange_server import CLIENT_SECRET, Exchanged
from tests.fakes.identity_provider import ALICE

RSA, EC = rsa.generate_private_key(65537, 2048), ec.generate_private_key(ec.SECP256R1())


def pem(key: RSAPrivateKey | EllipticCurvePrivateKey) -> Secret:
    return Secret(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode())


@pytest.fixture
async def world(tmp_path: Path) -> AsyncGenerator[World]:
    async with running_world(tmp_path / "home") as one:
        one.server.knobs.client_method = "private_key_jwt"
        one.server.knobs.key = RSAKey(RSA.public_key(), None)
        yield one


async def add(world: World, key: RSAPrivateKey | EllipticCurvePrivateKey = RSA, **settings: str) -> None:
    await world.add(client_authentication="private_key_jwt", secret=pem(key), settings={"flows": "M2M", **settings})


async def test_the_clients_own_token_an_exchange_and_a_revocation_are_signed_for(world: World) -> None:
    await add(world)
    own = world.operator.caller(world.workload)
    mine = await world.token(own)
    assert world.server.issued[mine.access_token.reveal()] == Exchanged("", ("read",))
    caller = await world.caller(world.jwt())
    hers = await world.token(caller, flow="ON_BEHALF_OF_TOKEN_EXCHANGE")
    assert world.server.issued[hers.access_token.reveal()].subject == ALICE.subject
    broker = world.operator.broker
    await broker.revoke_grant(broker.call(caller, "revoke_grant"), "downstream")
    assert world.server.revoked == [hers.access_token.reveal()]


@pytest.mark.parametrize(
    ("key", "settings", "audience"),
    [
        (RSA, {"assertion_algorithm": "PS256"}, None),
        (EC, {}, None),
        (EC, {"assertion_audience": "https://exchange.example.com", "assertion_key_id": "one"}, "https://exchange.example.com"),
    ],
)
async def test_every_kind_of_key_and_audience(
    world: World, key: RSAPrivateKey | EllipticCurvePrivateKey, settings: dict[str, str], audience: str | None
) -> None:
    world.server.knobs.key = RSAKey(RSA.public_key(), None) if key is RSA else ECKey(EC.public_key(), None)
    world.server.knobs.audience = audience
    await add(world, key, **settings)
    assert await world.token(world.operator.caller(world.workload))


async def test_an_assertion_is_made_for_each_request_at_its_time(world: World) -> None:
    """The server takes no id twice, and none that is older than a minute."""
    await add(world)
    caller = world.operator.caller(world.workload)
    for _ in range(3):
        await world.token(caller)
        world.operator.clock.advance(700)
    assert len({form["client_assertion"] for form in world.server.forms}) == 3


async def test_a_key_that_is_none_is_refused_at_once(world: World) -> None:
    for secret in (Secret(CLIENT_SECRET), pem(ec.generate_private_key(ec.SECP521R1()))):
        with raising("invalid_request") as refused:
            await world.add(client_authentication="private_key_jwt", secret=secret)
        assert "PEM" in refused.value.message
    with raising("invalid_request"):
        await world.add(client_authentication="private_key_jwt", secret=pem(EC), settings={"assertion_algorithm": "RS256"})
    assert world.server.forms == []


@pytest.mark.parametrize("other", ["basic", "post"])
async def test_a_key_is_never_sent_as_a_secret_nor_a_secret_taken_for_a_key(world: World, other: str) -> None:
    """covers: A10. Another way to authenticate needs another secret, or a key would go to the server in clear."""
    await add(world)
    with raising("invalid_request"):
        await world.update(client_authentication=other)
    changed = await world.update(client_authentication=other, secret=Secret(CLIENT_SECRET))
    assert changed.client_authentication is ClientAuthentication(other)
    world.server.knobs.client_method = "basic" if other == "basic" else "post"
    assert await world.token(world.operator.caller(world.workload))
    with raising("invalid_request"):
        await world.update(client_authentication="private_key_jwt")
    with raising("invalid_request"):
        await world.update(client_authentication="private_key_jwt", secret=Secret("another"))
    await world.update(client_authentication="private_key_jwt", secret=pem(RSA))
    key = pem(RSA).reveal()
    assert all(key not in value and key.splitlines()[1] not in value for form in world.server.forms for value in form.values())


async def test_a_key_that_the_server_does_not_know_is_the_operators_to_mend(world: World) -> None:
    await add(world, rsa.generate_private_key(65537, 2048))
    with raising("provider_misconfigured"):
        await world.get(world.operator.caller(world.workload))
    checks = await world.operator.broker.directory.test(world.operator.call("test_provider"), "downstream")
    assert {each.name: each.passed for each in checks} == {"secret": True, "client credentials": False, "exchange": False}
