"""Fixtures of the broker's tests."""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from tests.broker.kit import Product, running_product
from tests.broker.operators import Operator, running_operator
from tests.fakes.home import put_postgres_vault

STORES = ("sqlite", "postgresql")
_MORE = {"test_callback", "test_tokens", "test_consents", "test_replays"} if os.environ.get("PROVE") else set[str]()
ON_BOTH = frozenset({"test_administration", "test_refresh", "test_release", *_MORE})
"""What is run on both databases: where replicas meet, and what leaves; with `PROVE=1` more of it."""


def pytest_configure(config: pytest.Config) -> None:
    """Know the mark."""
    config.addinivalue_line("markers", "sqlite: about SQLite's files; runs on no other database")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run on both databases what is to be run on both."""
    is_chosen = metafunc.definition.path.stem in ON_BOTH
    if "product" in metafunc.fixturenames and is_chosen and metafunc.definition.get_closest_marker("sqlite") is None:
        metafunc.parametrize("store", STORES, indirect=True)


@pytest.fixture
def store(request: pytest.FixtureRequest) -> str:
    """Which database this test runs on."""
    return getattr(request, "param", STORES[0])


@pytest.fixture
async def product(store: str, tmp_path: Path) -> AsyncGenerator[Product]:
    """The product, with nothing in it."""
    home = tmp_path / "home"
    if store == STORES[0]:
        async with running_product(home) as one:
            yield one
        return
    database = put_postgres_vault(home)
    async with running_product(home, database_url=database.url) as one:
        yield one
    database.drop()


@pytest.fixture
async def idp(product: Product) -> Product:
    """The product with a provider for user consents, `idp`."""
    await product.add()
    return product


@pytest.fixture
async def m2m(product: Product) -> Product:
    """The product with a provider for client credentials, `idp`."""
    await product.add(flows="M2M")
    return product


@pytest.fixture
async def operator(tmp_path: Path) -> AsyncGenerator[Operator]:
    """An operator of a server with a public URL, and nothing in it."""
    async with running_operator(tmp_path / "home") as one:
        yield one
