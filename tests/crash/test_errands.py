"""Can a command that was killed be run again: one that rotates keys, seals anew, upgrades, copies, backs up?

covers: F03, F04
"""

from __future__ import annotations

import pytest

from tests.crash.errands import ERRANDS, run
from tests.crash.world import World

pytestmark = pytest.mark.xdist_group("crash-kills")
KILLS = (
    ("rotate", "commit.before", 1),
    ("rewrap", "commit.before", 2),
    ("rewrap", "commit.after", 2),
    ("migrate", "commit.before", 1),
    ("migrate", "commit.after", 1),
    ("copy", "commit.after", 4),
    ("backup", "file.synced", 1),
    ("backup", "file.named", 1),
)
"""More of them, each at every COMMIT: `python -m tests.crash.prove`."""


@pytest.mark.parametrize(("name", "point", "passes"), KILLS)
def test_a_command_that_was_killed_ends_what_it_began(one_world: World, name: str, point: str, passes: int) -> None:
    report = run(one_world, ERRANDS[name], point, passes)
    assert report is not None, "the command has no such step any more"
    assert report.violations == []
