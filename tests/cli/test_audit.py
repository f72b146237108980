"""Can the trail be read, and followed?"""

from __future__ import annotations

import json
import signal

from tests.cli.conftest import CommandLine


def test_tail_shows_the_latest_events_oldest_first(vault: CommandLine) -> None:
    vault.with_api_key()
    vault.succeed("token", "weather", "--workload", "cursor")
    vault("token", "nowhere")
    lines = [json.loads(line) for line in vault.succeed("audit", "tail", "--json").out.splitlines()]
    assert [(line["workload"], line["action"], line["provider"], line["outcome"]) for line in lines] == [
        ("operator", "create_provider", "weather", "ok"),
        ("cursor", "get_api_key", "weather", "ok"),
        ("cursor", "get_token", "nowhere", "unknown_provider"),
    ]
    assert all(line["edge"] == "cli" and line["at"].endswith("Z") and not line["verified"] for line in lines)
    last = vault.succeed("audit", "tail", "-n", "1").out.splitlines()
    assert len(last) == 2
    assert "unknown_provider" in last[1]


def test_what_an_agent_named_a_provider_cannot_act_on_the_terminal(vault: CommandLine) -> None:
    vault("token", "\x1b[2Jevil\u202e", "--workload", "cursor")
    assert "\x1b" not in vault.succeed("audit", "tail").out
    assert "\u202e" not in vault.succeed("audit", "tail").out


def test_follow_goes_on_with_new_events_and_ends_quietly(vault: CommandLine) -> None:
    vault.with_api_key("there-before")
    with vault.started("audit", "tail", "--follow", "--json") as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert json.loads(process.stdout.readline())["provider"] == "there-before"
        vault.with_api_key("followed")
        assert json.loads(process.stdout.readline())["provider"] == "followed"
        process.send_signal(signal.SIGINT)
        assert process.wait(10) == 130
        assert process.stderr.read() == ""
