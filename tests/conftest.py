"""Fixtures that every room uses, and how many cases are generated."""

from __future__ import annotations

import os
from collections.abc import Generator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

TESTS = Path(__file__).parent
UNWATCHED = frozenset({"benchmarks", "crash", "examples", "peers", "soak"})
"""Whose processes run what others run, too, and so many of them that measuring their coverage takes minutes."""
_WATCH = "COVERAGE_PROCESS_CONFIG"
"""The variable by which coverage follows into processes."""

settings.register_profile("ci", max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("prove", max_examples=3000, deadline=None, suppress_health_check=list(HealthCheck))
settings.load_profile("prove" if os.environ.get("PROVE") else "ci")


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    """The product speaks anyio; it runs on asyncio."""
    return "asyncio"


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Keep coverage out of the processes of some tests."""
    watch = os.environ.pop(_WATCH, None) if item.path.relative_to(TESTS).parts[0] in UNWATCHED else None
    try:
        return (yield)
    finally:
        if watch is not None:
            os.environ[_WATCH] = watch
