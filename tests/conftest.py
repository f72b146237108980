"""Fixtures that every room uses."""

from __future__ import annotations

import pytest


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    """The product speaks anyio; it runs on asyncio."""
    return "asyncio"
