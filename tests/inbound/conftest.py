"""A clock that stands still, a provider on it, and the product that knows neither yet."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from tests.fakes.clock import FakeClock
from tests.fakes.identity_provider import FakeIdentityProvider
from tests.inbound.kit import Inbound, running


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def idp(clock: FakeClock) -> FakeIdentityProvider:
    return FakeIdentityProvider("oidc", now=clock.now)


@pytest.fixture
async def inbound(tmp_path: Path, clock: FakeClock) -> AsyncGenerator[Inbound]:
    async with running(tmp_path, clock=clock) as product:
        yield product
