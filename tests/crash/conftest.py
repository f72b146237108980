"""Worlds to kill servers in: one process that forks them, for all tests of a worker."""

from __future__ import annotations

from collections.abc import Generator

import pytest

from tests.crash.ledger import Ledger, running_ledger
from tests.crash.served import Nursery, nursery


@pytest.fixture(scope="session")
def ward() -> Generator[Nursery]:
    """Forks servers."""
    with nursery() as made:
        yield made


@pytest.fixture(scope="module")
def ledger() -> Generator[Ledger]:
    """An authorization server that keeps books."""
    with running_ledger() as made:
        yield made
