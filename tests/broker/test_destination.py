"""Where may a refresh token go? Only to the endpoints that gave it, whoever changes the provider, and however."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from mcp_identity.domain.credentials import Reason, Secret
from tests.broker.kit import BY_URLS, Product

ELSEWHERE = "https://elsewhere.example.net"
MOVES = [
    {"settings": {**BY_URLS, "token_url": f"{ELSEWHERE}/token"}},
    {"settings": {**BY_URLS, "revocation_url": f"{ELSEWHERE}/revoke"}},
    {"client_id": "another-client"},
]


def _refresh_tokens_sent(product: Product) -> list[str]:
    tokens = [request.form.get("refresh_token", "") for request in product.server.requests]
    tokens += [request.form["token"] for request in product.server.requests if request.path == "/revoke"]
    return [token for token in tokens if "refresh-token" in token]


@pytest.mark.parametrize("move", MOVES)
async def test_a_refresh_token_does_not_follow_a_provider_that_moved(idp: Product, move: dict[str, Any]) -> None:
    await idp.connected()
    await idp.update(secret=Secret("a new secret"), **move)
    idp.clock.advance(3601)
    assert (await idp.link()).reason is Reason.EXPIRED
    assert _refresh_tokens_sent(idp) == []


@pytest.mark.parametrize("move", MOVES)
async def test_a_revocation_does_not_hand_tokens_to_where_the_provider_moved(idp: Product, move: dict[str, Any]) -> None:
    await idp.connected()
    await idp.update(secret=Secret("a new secret"), **move)
    (revoked,) = await idp.broker.revoke_grant(idp.call(), "idp")
    assert revoked.at_vendor == "failed"
    assert _refresh_tokens_sent(idp) == []


async def test_a_change_that_moves_nothing_keeps_the_grant(idp: Product) -> None:
    await idp.connected()
    await idp.update(scopes=("read", "write"), release="token")
    idp.clock.advance(3601)
    assert (await idp.token("read")).refreshed


async def test_an_older_row_put_back_gets_no_newer_refresh_token(product: Product, tmp_path: Path) -> None:
    await product.add(settings={**BY_URLS, "token_url": f"{ELSEWHERE}/token"})
    with closing(sqlite3.connect(tmp_path / "home" / "vault.db")) as database:
        before = database.execute(
            "SELECT token_url, settings, secret, secret_generation, secret_updated_at, epoch, updated_at, mac "
            "FROM credential_providers"
        ).fetchone()
    await product.update(secret=Secret("the-client-secret-canary"), settings=BY_URLS)
    await product.connected()
    with closing(sqlite3.connect(tmp_path / "home" / "vault.db")) as database:
        database.execute(
            "UPDATE credential_providers SET token_url=?, settings=?, secret=?, secret_generation=?, secret_updated_at=?, "
            "epoch=?, updated_at=?, mac=?",
            before,
        )
        database.execute("UPDATE vault_state SET configuration_epoch = configuration_epoch + 1")
        database.commit()
    product.clock.advance(3601)
    assert (await product.link()).reason is Reason.EXPIRED
    assert _refresh_tokens_sent(product) == []
