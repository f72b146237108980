"""Fixtures that every room uses, and how many cases are generated."""

from __future__ import annotations

import os

import pytest
from hypothesis import HealthCheck, settings

settings.register_profile("ci", max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("prove", max_examples=3000, deadline=None, suppress_health_check=list(HealthCheck))
settings.load_profile("prove" if os.environ.get("PROVE") else "ci")


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    """The product speaks anyio; it runs on asyncio."""
    return "asyncio"
