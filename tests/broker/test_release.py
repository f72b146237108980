"""How may a secret leave?"""

from __future__ import annotations

from pathlib import Path

import pytest

from mcp_identity.broker.answers import ApiKeyReleased, ProviderSpec
from mcp_identity.domain.credentials import Secret
from tests.broker.kit import Product, raising, running_product


@pytest.mark.parametrize("flows", ["M2M", "USER_FEDERATION"])
@pytest.mark.parametrize("release", ["never", "handle"])
async def test_a_credential_that_stays_here_is_not_released(product: Product, flows: str, release: str) -> None:
    await product.add(flows=flows, release=release)
    if flows == "USER_FEDERATION":
        await product.consent(await product.start())
    with raising("access_denied") as refused:
        await product.get()
    assert "call_api" in refused.value.message
    assert release in refused.value.message
    assert (await product.outcomes("get_token"))[-1] == "access_denied"


async def test_nobody_is_asked_for_what_could_not_leave_anyway(product: Product) -> None:
    await product.add(flows="USER_FEDERATION", release="never")
    with raising("access_denied"):
        await product.get()
    assert await product.grants() == []
    assert product.server.requests == []


async def test_the_command_line_gets_no_handle_either(product: Product) -> None:
    from dataclasses import replace

    await product.add(flows="M2M", release="handle")
    at_the_terminal = replace(product, principal=replace(product.principal, authenticated_by="cli"))
    with raising("access_denied") as refused:
        await at_the_terminal.get()
    assert "command line" in refused.value.message


@pytest.mark.parametrize("expires_in", [None, 86_401])
async def test_a_token_without_an_end_within_a_day_leaves_only_where_an_operator_said_so(
    m2m: Product, expires_in: int | None
) -> None:
    m2m.server.expires_in = expires_in
    with raising("provider_misconfigured") as refused:
        await m2m.get()
    assert "--release" in refused.value.message
    await m2m.update(release="token")
    assert (await m2m.token()).access_token.reveal().startswith("access-token-canary")


async def test_a_token_of_a_day_leaves(m2m: Product) -> None:
    m2m.server.expires_in = 86_400
    assert (await m2m.token()).expires_at is not None


async def test_the_default_holds_where_a_provider_says_nothing(tmp_path: Path) -> None:
    async with running_product(tmp_path / "home", default_release="never") as product:
        await product.add(flows="M2M")
        with raising("access_denied"):
            await product.get()
        await product.update(release="token")
        assert (await product.token()).scopes == ("read",)


async def test_a_grant_obtained_by_elicitation_is_never_handed_out(product: Product) -> None:
    await product.add(release="token")
    await product.connected()
    grant = await product.grant()
    tokens = grant.tokens
    assert tokens is not None
    await product.run(lambda records: records.complete_grant(grant.key, tokens, "elicitation"))
    with raising("access_denied"):
        await product.get()
    product.clock.advance(3600)
    with raising("access_denied"):
        await product.get()


# API keys


async def test_an_api_key_is_released_as_its_operator_said(product: Product) -> None:
    await product.add_api_key("open", release="token")
    released = await product.broker.get_api_key(product.call("get_api_key"), "open")
    assert isinstance(released, ApiKeyReleased)
    assert released.api_key == Secret("api-key-canary")
    for release in ("never", "handle"):
        await product.add_api_key(release, release=release)
        with raising("access_denied"):
            await product.broker.get_api_key(product.call("get_api_key"), release)


async def test_an_api_key_without_a_release_mode_is_not_even_added(product: Product) -> None:
    spec = ProviderSpec(vendor="api-key", secret=Secret("x"))
    with raising("invalid_request"):
        await product.broker.directory.add(product.call(), "key", spec)


@pytest.mark.parametrize(
    ("name", "code"),
    [("absent", "unknown_provider"), ("idp", "unsupported_flow"), ("é", "unknown_provider"), ("i\0dp", "unknown_provider")],
)
async def test_what_is_no_api_key_is_refused(idp: Product, name: str, code: str) -> None:
    with raising(code):
        await idp.broker.get_api_key(idp.call("get_api_key"), name)
    assert await idp.outcomes("get_api_key") == [code]


async def test_what_cannot_be_a_name_is_unknown_to_every_verb(idp: Product) -> None:
    """A database that cannot even be asked for it must not make a fault of it."""
    for name in ("i\0dp", "x" * 129, ""):
        with raising("unknown_provider"):
            await idp.get(provider=name)
        with raising("unknown_provider"):
            await idp.broker.revoke_grant(idp.call("revoke_grant"), name)
    assert await idp.outcomes("revoke_grant") == ["unknown_provider"] * 3


async def test_a_disabled_api_key_is_refused(product: Product) -> None:
    await product.add_api_key()
    await product.update("key", disabled=True)
    with raising("access_denied"):
        await product.broker.get_api_key(product.call("get_api_key"), "key")


async def test_a_key_that_stays_here_can_still_be_used(product: Product) -> None:
    spec = ProviderSpec(vendor="api-key", secret=Secret("x"), release="never", api_hosts=("https://api.example.com",))
    provider = await product.broker.directory.add(product.call(), "key", spec)
    assert provider.api_hosts == ("https://api.example.com",)
    assert not any("call_api" in note for note in product.broker.directory.notes(provider))
    await product.add_api_key("other", release="never")
    other = await product.broker.directory.get("default", "other")
    assert any("--api-host" in note for note in product.broker.directory.notes(other))
