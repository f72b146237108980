"""The developer agent at a small GitHub, as it is written for AgentCore and with our own client, until all is removed."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Generator
from pathlib import Path
from typing import Any

import httpx2
import pytest

FOLDER = Path(__file__).parents[2] / "examples" / "github_agent"
SECRETS = re.compile(r"gho_|ghu_|ghr_|mid_wat_|mid_wk_|eyJ[A-Za-z0-9_-]{20}")
"""What GitHub's tokens, our workload tokens and keys, and the company's JWTs begin with."""
CLIENTS = [
    {"client_id": "oauth", "client_secret": "s3cret", "callback": "http://127.0.0.1:9/back"},
    {"client_id": "app", "client_secret": "s3cret", "callback": "http://127.0.0.1:9/back", "app": "github-app"},
]


@pytest.fixture(scope="module")
def shown() -> tuple[str, str]:
    """What the example prints, and what it and our server write beside."""
    environment = {**os.environ, "COLUMNS": "160"}
    command = [sys.executable, str(FOLDER / "run.py")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=110, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    return done.stdout, done.stderr


@pytest.fixture(scope="module")
def said(shown: tuple[str, str]) -> str:
    return shown[0]


def part(said: str, number: int) -> str:
    """One numbered part of what the example prints."""
    return said.partition(f"\n{number}. ")[2].partition(f"\n{number + 1}. ")[0]


def test_the_vendors_name_an_id_and_a_secret_make_the_provider(said: str) -> None:
    assert re.search(r"callback URL to register at GitHub: http://127\.0\.0\.1:\d+/oauth2/callback/\S+", part(said, 1))


def test_the_first_question_needs_a_consent_and_the_retry_succeeds(said: str) -> None:
    stock = part(said, 2)
    assert stock.count("Authentication required") == 1
    assert stock.index("Authentication required") < stock.index("Alice agreed at GitHub") < stock.index("Repositories:")


def test_repositories_issues_and_pull_requests_are_read_with_the_users_token(said: str) -> None:
    stock = part(said, 2)
    assert "Repositories: alice/wonderland, alice/looking-glass (private)" in stock
    issues = re.search(r"Issues: (.*)", stock)
    assert issues is not None
    assert "Jam tomorrow" in issues[1]
    assert "Mend the clock" not in issues[1]
    assert "Pull requests: alice/wonderland: Mend the clock" in stock


def test_with_our_client_a_grant_that_is_there_is_used_and_another_user_has_none(said: str) -> None:
    alice, _, bob = part(said, 3).partition("Bob asks:")
    assert "Authentication required" not in alice
    assert "alice/looking-glass (private)" in alice
    assert bob.count("Authentication required") == 1
    assert "Repositories: bob/crane" in bob
    assert "looking-glass" not in bob


def test_each_promise_of_an_invocation_is_kept(said: str) -> None:
    """The user's JWT is checked, they and the agent are established, the consent is asked for, kept, and passed in."""
    stock, trail = part(said, 2), part(said, 5)
    assert "the runtime knows the user: Alice" in stock
    assert re.search(r"github-agent +Alice +get_workload_access_token +ok", trail)
    assert re.search(r"github-agent +Alice +start_consent +github-provider +consent_required", trail)
    assert re.search(r"github-agent +Alice +begin_consent +github-provider +ok", trail)
    assert re.search(r"github-agent +Alice +complete_consent +github-provider +ok", trail)
    assert re.search(r"github-agent +Alice +get_token +github-provider +ok", trail)


def test_no_token_is_in_a_file_or_a_log(shown: tuple[str, str]) -> None:
    said, beside = shown
    assert "files with a token: none" in part(said, 4)
    assert not SECRETS.search(beside)
    assert not SECRETS.search(said)


def test_what_is_removed_leaves_no_secret_and_no_token_that_is_still_good(said: str) -> None:
    assert "GitHub gave 2 tokens; 0 of them are still good" in said
    assert "secrets in the vault: 0" in said


# The small GitHub -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def github(tmp_path_factory: pytest.TempPathFactory) -> Generator[dict[str, str]]:
    clients = tmp_path_factory.mktemp("github") / "clients.json"
    clients.write_text(json.dumps(CLIENTS))
    command = [sys.executable, str(FOLDER / "github.py"), "--clients", str(clients), "--stop-when-input-ends"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout
        yield json.loads(process.stdout.readline())
        process.terminate()


def code(github: dict[str, str], client: str, scope: str = "repo") -> str:
    """What Alice's browser brings back."""
    asked = {"client_id": client, "redirect_uri": CLIENTS[0]["callback"], "scope": scope, "state": "s"}
    with httpx2.Client(trust_env=False) as browser:
        url = httpx2.URL(github["authorization_url"], params=asked)
        browser.post(url, data={"login": "alice", "password": "wonderland"})
        answer = browser.post(url, data={"authorize": "1"})
        return str(httpx2.URL(answer.headers["location"]).params["code"])


def exchanged(github: dict[str, str], client: str, accept: str = "application/json", **form: str) -> httpx2.Response:
    given = {"client_id": client, "client_secret": "s3cret", **form}
    return httpx2.post(github["token_url"], data=given, headers={"Accept": accept}, trust_env=False)


def test_it_answers_in_a_form_unless_json_is_asked_for(github: dict[str, str]) -> None:
    plain = exchanged(github, "oauth", accept="*/*", code=code(github, "oauth"))
    assert plain.headers["content-type"].startswith("application/x-www-form-urlencoded")
    assert "token_type=bearer" in plain.text
    answer: dict[str, Any] = exchanged(github, "oauth", code=code(github, "oauth", "gist repo repo:status")).json()
    assert (answer["scope"], "expires_in" in answer, "refresh_token" in answer) == ("gist,repo", False, False)


@pytest.mark.parametrize(
    ("form", "error"),
    [
        ({"code": "spent"}, "bad_verification_code"),
        ({"code": "x", "client_secret": "wrong"}, "incorrect_client_credentials"),
        ({"grant_type": "refresh_token", "refresh_token": "ghr_x"}, "bad_refresh_token"),
    ],
)
def test_its_errors_come_with_http_200(github: dict[str, str], form: dict[str, str], error: str) -> None:
    answer = exchanged(github, "oauth", **form)
    assert (answer.status_code, answer.json()["error"]) == (200, error)


def test_an_apps_refresh_ends_both_tokens_before_it(github: dict[str, str]) -> None:
    first: dict[str, Any] = exchanged(github, "app", code=code(github, "app")).json()
    refresh = {"grant_type": "refresh_token", "refresh_token": first["refresh_token"]}
    second: dict[str, Any] = exchanged(github, "app", **refresh).json()
    assert exchanged(github, "app", **refresh).json()["error"] == "bad_refresh_token"
    assert [called(github, each["access_token"]).status_code for each in (first, second)] == [401, 200]


def test_a_token_is_deleted_with_the_clients_password_and_wants_a_user_agent(github: dict[str, str]) -> None:
    token = str(exchanged(github, "oauth", code=code(github, "oauth")).json()["access_token"])
    assert called(github, token).json()["login"] == "alice"
    assert called(github, token, agent="").status_code == 403
    url, body = f"{github['revocation_url']}/oauth/token", json.dumps({"access_token": token})
    deleted = [
        httpx2.request("DELETE", url, auth=("oauth", secret), content=body, trust_env=False).status_code
        for secret in ("wrong", "s3cret", "s3cret")
    ]
    assert deleted == [401, 204, 404]
    assert called(github, token).status_code == 401


def called(github: dict[str, str], token: str, agent: str = "test") -> httpx2.Response:
    headers = {"Authorization": f"Bearer {token}", "User-Agent": agent}
    return httpx2.get(f"{github['url']}/user", headers=headers, trust_env=False)
