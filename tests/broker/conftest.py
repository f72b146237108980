"""Fixtures of the broker's tests."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from tests.broker.kit import Product, running_product
from tests.broker.operators import Operator, running_operator


@pytest.fixture
async def product(tmp_path: Path) -> AsyncGenerator[Product]:
    """The product, with nothing in it."""
    async with running_product(tmp_path / "home") as one:
        yield one


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
