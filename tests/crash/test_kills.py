"""Is anything lost when the server is killed: in the middle of a callback, of a refresh, of its own request?

covers: F01, F02
"""

from __future__ import annotations

import pytest

from tests.crash.kills import Trial, run, short_list
from tests.crash.world import World

pytestmark = pytest.mark.xdist_group("crash-kills")


@pytest.mark.parametrize("trial", short_list(seeds=9), ids=str)
def test_a_kill_loses_nothing(one_world: World, trial: Trial) -> None:
    report = run(one_world, trial)
    assert report.violations == [], report.outcome
