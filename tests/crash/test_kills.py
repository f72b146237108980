"""Is anything lost when the server is killed: in the middle of a callback, of a refresh, of its own request?

covers: F01, F02
"""

from __future__ import annotations

from collections.abc import Generator

import pytest

from tests.crash.kills import Trial, run, short_list
from tests.crash.ledger import Ledger
from tests.crash.served import Nursery
from tests.crash.world import World, world

pytestmark = pytest.mark.xdist_group("crash")


@pytest.fixture(scope="module")
def sqlite_world(ward: Nursery, ledger: Ledger, tmp_path_factory: pytest.TempPathFactory) -> Generator[World]:
    """A vault in a file."""
    with world(tmp_path_factory.mktemp("world") / "world", ward, ledger) as made:
        yield made


@pytest.mark.parametrize("trial", short_list(seeds=9), ids=str)
def test_a_kill_loses_nothing(sqlite_world: World, trial: Trial) -> None:
    report = run(sqlite_world, trial)
    assert report.violations == [], report.outcome
