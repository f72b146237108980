"""Does a kill find a mistake that it is there to find? With PROVE set, for it takes as long as it is sure."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.crash.kills import Trial, run
from tests.crash.ledger import Ledger
from tests.crash.mutants import MUTANTS
from tests.crash.served import Nursery
from tests.crash.world import world

pytestmark = [
    pytest.mark.xdist_group("crash-kills"),
    pytest.mark.skipif(not os.environ.get("PROVE"), reason="proves the harness, not the product"),
]
FOUND_BY: dict[str, tuple[Trial, str]] = {
    "no_intent": (Trial("refresh", "processed", "strict"), "lost in silence"),
    "answer_before_commit": (Trial("refresh", "serve.commit.before", "strict"), "the point was not passed"),
    "state_not_consumed": (Trial("callback", "processed", "grace"), "was brought 2 times"),
    "never_swept": (Trial("callback", "before_post", "fixed"), "I4"),
    "the_dead_keep_their_leases": (Trial("refresh", "before_post", "strict"), "I5"),
    "not_stored": (Trial("refresh", "obtained", "strict"), "is not where it seems"),
    "old_grant_goes_first": (Trial("callback", "read", "strict"), "the grant was changed"),
    "head_stays": (Trial("m2m", "obtained", "own"), "heads"),
}


def test_every_mistake_has_a_kill() -> None:
    assert FOUND_BY.keys() == MUTANTS.keys()


@pytest.mark.parametrize("mutant", FOUND_BY)
def test_the_mistake_is_found(ward: Nursery, ledger: Ledger, tmp_path: Path, mutant: str) -> None:
    trial, said = FOUND_BY[mutant]
    with world(tmp_path / "world", ward, ledger, mutant=mutant) as made:
        if mutant == "old_grant_goes_first":
            made.start()
            made.consent(trial.mode)
        report = run(made, trial)
    assert any(said in violation for violation in report.violations), report
