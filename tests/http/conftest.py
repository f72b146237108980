"""Servers over HTTP, on vaults of their own."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from pathlib import Path

import httpx2
import pytest

from tests.fakes.home import VaultHome
from tests.fakes.vendor import Vendor, running_vendor
from tests.http.kit import Server, http_client, server_here


@pytest.fixture(scope="session")
async def server(tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[Server]:
    """A server that the tests of this folder share; with limits that do not stand in their way."""
    home = VaultHome(tmp_path_factory.mktemp("home"))
    async with server_here(home, failed_authentications_per_minute=100_000, sessions_per_principal=10_000) as server:
        yield server


@pytest.fixture
async def http() -> AsyncGenerator[httpx2.AsyncClient]:
    """A client without a will of its own."""
    async with http_client() as client:
        yield client


@pytest.fixture
def empty_home(tmp_path: Path) -> VaultHome:
    """A folder without a vault."""
    return VaultHome(tmp_path)


@pytest.fixture
async def vendor() -> AsyncGenerator[Vendor]:
    """A vendor of this test's own, so that its knobs are."""
    async with running_vendor() as vendor:
        yield vendor


@pytest.fixture
async def home(vendor: Vendor, tmp_path: Path) -> VaultHome:
    """A vault with providers."""
    home = VaultHome(tmp_path)
    await home.add_providers(vendor)
    return home
