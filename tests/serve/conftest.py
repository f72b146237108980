"""A vault with providers, for one test, and the vendor that they lead to."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Generator
from pathlib import Path

import pytest

from tests.fakes.forge import anew
from tests.fakes.home import VaultHome
from tests.fakes.mcp_client import McpClient, mcp_client
from tests.fakes.vendor import Vendor, running_vendor


@pytest.fixture(autouse=True)
def started_anew() -> Generator[None]:
    """How a process starts is what is tested here."""
    with anew():
        yield


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


@pytest.fixture
def empty_home(tmp_path: Path) -> VaultHome:
    """A folder without a vault."""
    return VaultHome(tmp_path)


@pytest.fixture
async def client(home: VaultHome) -> AsyncGenerator[McpClient]:
    """A server with a host."""
    async with mcp_client(home.environment()) as client:
        yield client
