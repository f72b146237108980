"""The examples run as they are written, over both transports, with a company's identity provider and a real vendor."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture(scope="module", params=["http", "sse"])
def said(request: pytest.FixtureRequest) -> str:
    """What the example prints."""
    program = EXAMPLES / f"agent_over_{request.param}.py"
    environment = {**os.environ, "PYTHONWARNINGS": "default", "COLUMNS": "160"}
    done = subprocess.run(
        [sys.executable, str(program)], env=environment, capture_output=True, text=True, timeout=110, check=False
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return done.stdout


def test_each_user_gets_what_they_granted_and_a_forwarded_link_gives_nothing(said: str) -> None:
    """Covers: A01b."""
    assert re.search(r"the page tells Bob: This link is not yours", said)
    assert re.search(r"I can read the notes of 200: alice, \['read', 'write'\]", said)
    assert said.count("Please connect your notes first") == 2
    assert "knows her as" in said


def test_the_trail_has_every_step(said: str) -> None:
    trail = said.partition("The trail says")[2]
    assert re.search(r"Bob +view_consent +notes +consent_mismatch|view_consent +notes +consent_mismatch", trail)
    for action in ("create_issuer", "create_workload_identity", "sign_in", "begin_consent", "callback", "complete_consent"):
        assert re.search(rf"{action} .*ok", trail), action
    assert re.search(r"assistant +Alice +get_token +notes +ok", trail)
    assert re.search(r"assistant +Bob +get_token +notes +consent_required", trail)
