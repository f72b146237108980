"""The labs run as they are written, and each line of the troubleshooting table is made to happen."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = Path(__file__).parents[2] / "examples" / "labs" / "run.py"


@pytest.fixture(scope="module")
def said() -> str:
    """What the labs print, in lines that are not broken."""
    environment = {**os.environ, "COLUMNS": "160"}
    command = [sys.executable, str(PROGRAM)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=110, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    return done.stdout


def of(said: str, label: str) -> str:
    """What the labs say of one thing."""
    found = re.search(rf"^   {re.escape(label)}: (.*)$", said, re.MULTILINE)
    assert found is not None, label
    return found[1]


def test_a_user_pools_token_opens_what_the_agents_authorizer_allows(said: str) -> None:
    assert of(said, "a workload access token for the pool's user").startswith("mid_wat_")
    assert of(said, "over MCP the same token is").endswith(" through inbound-agent")


@pytest.mark.parametrize("label", ["a token of another application", "a token with another signature"])
def test_another_applications_token_and_a_changed_one_open_nothing(said: str, label: str) -> None:
    assert re.match(r"40[0-3] (Unauthorized|AccessDenied|Validation)Exception: ", of(said, label))


def test_a_users_token_is_there_once_the_application_has_said_whose_browser_it_was(said: str) -> None:
    assert of(said, "there is no token yet, and the session is") == "IN_PROGRESS"
    assert of(said, "before the application has said whose browser that was") == "a token: False"
    assert of(said, "the vendor's API says") == "200 alice"


def test_another_user_has_nothing_and_cannot_be_completed_as_somebody_else(said: str) -> None:
    assert of(said, "Bob has a token") == "False"
    assert re.match(r"40[03] ", of(said, "Bob's link, opened by Alice, and her application completes it as her"))


def test_one_agent_has_three_kinds_of_credential(said: str) -> None:
    assert of(said, "notes, with the user's token") == "200 alice"
    assert of(said, "reports, with the agent's own") == "200 reports-app"
    assert of(said, "the weather, with the key") == "200 sunny"
    assert of(said, "three credentials, and no two the same") == "True"


def test_a_credential_that_is_not_found_says_to_look_at_the_list(said: str) -> None:
    """Covers the table's line: credential not found, check the name."""
    assert re.match(r"404 ResourceNotFoundException: .*list", of(said, "credential not found"))
    assert of(said, "the list has") == "weather"


def test_an_invalid_api_key_is_replaced_by_updating_its_provider(said: str) -> None:
    """Covers the table's line: invalid API key, update the provider."""
    assert of(said, "invalid API key") == "401 invalid key"
    assert of(said, "after the update") == "200 sunny"


def test_a_token_that_cannot_be_renewed_names_the_providers_configuration(said: str) -> None:
    """Covers the table's line: OAuth token expired, check the provider's configuration."""
    refusal = of(said, "no new OAuth token")
    assert refusal.startswith("400 ValidationException: ")
    assert "invoices" in refusal
    assert "secret" in refusal
    assert of(said, "with the vendor's newest secret") == "200 reports-app"


def test_a_denied_access_names_the_rule_that_would_allow_it(said: str) -> None:
    """Covers the table's line: access denied, check the policy."""
    refusal = of(said, "access denied")
    assert refusal.startswith("403 AccessDeniedException: ")
    assert "--allow-provider weather" in refusal
    assert of(said, "after it was allowed") == "200 sunny"
    assert of(said, "another agent's").startswith(("403 ", "404 "))
    assert of(said, "an operator's").startswith("403 AccessDeniedException: ")


def test_the_clean_up_leaves_no_secret(said: str) -> None:
    assert of(said, "secrets left in the vault") == "0"
