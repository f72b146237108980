"""Servers to call tools of, as processes, on a vault with providers."""

from __future__ import annotations

from collections.abc import AsyncGenerator

import pytest

from tests.fakes.home import VaultHome
from tests.fakes.mcp_client import McpClient, mcp_client
from tests.fakes.vendor import Vendor, running_vendor


@pytest.fixture(scope="session")
async def vendor() -> AsyncGenerator[Vendor]:
    """A vendor that all tests of this folder share."""
    async with running_vendor() as vendor:
        yield vendor


@pytest.fixture(scope="session")
async def home(vendor: Vendor, tmp_path_factory: pytest.TempPathFactory) -> VaultHome:
    """A vault with providers, and without grants of any agent that a test names itself."""
    home = VaultHome(tmp_path_factory.mktemp("home"))
    await home.add_providers(vendor)
    return home


@pytest.fixture(scope="session")
async def client(home: VaultHome) -> AsyncGenerator[McpClient]:
    """A server with a host."""
    async with mcp_client(home.environment()) as client:
        yield client
