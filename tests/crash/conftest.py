"""Worlds to kill servers in: one process that forks them, for all tests of a worker."""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path

import pytest

from mcp_identity.domain.credentials import GrantState
from tests.crash.ledger import MODES, Ledger, running_ledger
from tests.crash.served import Nursery, nursery
from tests.crash.world import OWN, World, world


@pytest.fixture(scope="session")
def ward() -> Generator[Nursery]:
    """Forks servers."""
    with nursery() as made:
        yield made


@pytest.fixture(scope="session")
def ledger() -> Generator[Ledger]:
    """An authorization server that keeps books."""
    with running_ledger() as made:
        yield made


@pytest.fixture(scope="module")
def one_world(ward: Nursery, ledger: Ledger, tmp_path_factory: pytest.TempPathFactory) -> Generator[World]:
    """A vault in a file, for the tests of one module."""
    with world(tmp_path_factory.mktemp("world") / "world", ward, ledger) as made:
        yield made


@pytest.fixture
def own_world(ward: Nursery, ledger: Ledger, tmp_path: Path) -> Generator[World]:
    """A vault in a file, for one test alone."""
    with world(tmp_path / "world", ward, ledger) as made:
        yield made


@pytest.fixture
def served(one_world: World) -> Generator[World]:
    """The module's vault, served, with a grant of each kind; afterwards nothing of it is broken."""
    world = one_world
    if world.child is None or world.child.has_ended:
        world.start()
    grants = world.look().grants
    for mode in MODES:
        if mode not in grants or grants[mode].state is not GrantState.ACTIVE:
            world.consent(mode)
    world.caller.get_token(OWN)
    yield world
    world.mend()
    assert world.look().problems == ()
