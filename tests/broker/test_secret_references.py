"""What becomes of a secret that was only named? It is read once, sealed like any other, and where it was stays to be seen."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import pytest

from mcp_identity.broker.answers import ProviderSpec
from mcp_identity.domain.credentials import Secret, SecretReference
from tests.broker.kit import Product, raising, running_product
from tests.fakes.authorization_server import CLIENT_SECRET

NAMED = SecretReference("env:ACME_CLIENT_SECRET")


@pytest.fixture
async def named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncGenerator[Product]:
    """A product with the provider `idp`, whose secret was named."""
    monkeypatch.setenv("ACME_CLIENT_SECRET", CLIENT_SECRET)
    async with running_product(tmp_path / "home", secret_sources=("default=env:ACME_",)) as product:
        await product.add(secret=None, secret_reference=NAMED, flows="M2M")
        yield product


async def test_it_is_read_once_and_used_like_any_other(named: Product, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ACME_CLIENT_SECRET")
    await named.token("read", flow="M2M")
    assert (await named.broker.directory.get("default", "idp")).secret_reference == NAMED


async def test_where_it_was_read_outlives_the_process_and_no_setting_is_made_of_it(tmp_path: Path, named: Product) -> None:
    found = (await named.broker.directory.list("default")).providers[0]
    assert found.secret_reference == NAMED
    assert set(found.settings) == {"flows", "token_url", "authorization_url", "revocation_url"} & set(found.settings)
    async with running_product(tmp_path / "home", server=named.server) as again:
        assert (await again.broker.directory.get("default", "idp")).secret_reference == NAMED
        await again.token("read", flow="M2M")


async def test_a_changed_secret_is_read_when_it_is_named_again(named: Product, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACME_CLIENT_SECRET", "another")
    kept, _ = await named.update(scopes=("read",))
    assert kept.secret_reference == NAMED
    await named.token("read", flow="M2M")
    await named.update(secret_reference=SecretReference("env:ACME_CLIENT_SECRET", ""))
    with raising("provider_misconfigured"):
        await named.token("other", flow="M2M")
    assert [event.detail.get("secret") for event in await named.trail() if event.action == "update_provider"] == [
        "kept",
        "changed",
    ]


async def test_a_secret_that_is_given_otherwise_is_named_no_more(named: Product) -> None:
    after, _ = await named.update(secret=Secret(CLIENT_SECRET))
    assert after.secret_reference is None
    assert (await named.broker.directory.get("default", "idp")).secret_reference is None
    await named.token("read", flow="M2M")


@pytest.mark.parametrize(
    "change",
    [
        {"secret": Secret("x"), "secret_reference": NAMED},
        {"secret_reference": SecretReference("env:ACME_NONE")},
        {"secret_reference": SecretReference("env:PATH")},
        {"secret_reference": SecretReference("env:ACME_CLIENT_SECRET", "key")},
        {"secret_reference": NAMED, "client_authentication": "none"},
    ],
)
async def test_what_cannot_be_read_changes_nothing_and_is_written_down(named: Product, change: dict[str, Any]) -> None:
    before = await named.broker.directory.get("default", "idp")
    with raising("invalid_request"):
        await named.update(**change)
    with raising("invalid_request"):
        await named.broker.directory.add(named.call("add_provider"), "new", ProviderSpec("custom", client_id="c", **change))
    assert await named.broker.directory.get("default", "idp") == before
    assert [event.outcome for event in (await named.trail())[-3:-1]].count("invalid_request") >= 1
    assert not any("ACME" in str(event) for event in await named.trail())


async def test_who_edits_where_it_was_read_gets_an_error(named: Product) -> None:
    await named.sql("UPDATE credential_providers SET settings = replace(settings, 'ACME_CLIENT', 'ACME_OTHER')")
    await named.sql("UPDATE vault_state SET configuration_epoch = configuration_epoch + 1")
    with raising("vault_corrupt"):
        await named.broker.directory.get("default", "idp")
