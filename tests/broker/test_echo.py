"""What becomes of a secret that the vendor repeats as its error? Nobody hears it: no agent, no trail, no operator."""

from __future__ import annotations

import pytest

from mcp_identity.domain.errors import IdentityError
from tests.broker.kit import Product
from tests.fakes.authorization_server import CLIENT_SECRET, respond_json


async def _said(product: Product, error: IdentityError) -> str:
    return f"{error.message} {vars(error)} {[event.detail for event in await product.trail()]}"


async def _failure(product: Product) -> IdentityError:
    with pytest.raises(IdentityError) as caught:
        await product.get()
    return caught.value


@pytest.mark.parametrize("status", [200, 400, 401])
async def test_a_client_secret_that_comes_back_is_not_repeated(m2m: Product, status: int) -> None:
    m2m.server.answer = respond_json({"error": CLIENT_SECRET, "error_description": f"bad {CLIENT_SECRET}"}, status)
    error = await _failure(m2m)
    assert error.code == "upstream_rejected"
    assert CLIENT_SECRET not in await _said(m2m, error)


async def test_a_refresh_token_that_comes_back_is_not_repeated(idp: Product) -> None:
    await idp.connected()
    idp.clock.advance(3601)
    idp.server.answer = respond_json({"error": "refresh-token-canary-1"}, 400)
    assert "refresh-token-canary-1" not in await _said(idp, await _failure(idp))


async def test_a_code_that_comes_back_is_not_repeated(idp: Product) -> None:
    consent = await idp.link()
    pressed = await idp.press(consent)
    parameters = idp.server.person_consents(pressed.url)
    long_code = "authorization-code-canary"
    idp.server.answer = respond_json({"error": long_code}, 400)
    await idp.come_back(pressed, [("code", long_code), *parameters[1:]])
    assert await idp.status(consent) == ("failed", "upstream_rejected")
    assert long_code not in str([event.detail for event in await idp.trail()])


async def test_the_checks_of_a_provider_do_not_repeat_its_secret(m2m: Product) -> None:
    m2m.server.answer = respond_json({"error": CLIENT_SECRET}, 401)
    checks = await m2m.broker.directory.test(m2m.call(), "idp")
    assert CLIENT_SECRET not in str(checks)
    assert not all(check.passed for check in checks)


async def test_a_word_of_the_vendors_own_is_told_verbatim(m2m: Product) -> None:
    m2m.server.answer = respond_json({"error": "unauthorized_client"}, 400)
    assert "unauthorized_client" in (await _failure(m2m)).message
