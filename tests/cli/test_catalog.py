"""Are the vendors' facts readable?"""

from __future__ import annotations

from tests.cli.conftest import CommandLine


def test_the_list_names_every_vendor(cli: CommandLine) -> None:
    vendors = {entry["vendor"]: entry for entry in cli.succeed("catalog", "list", "--json").json}
    assert {"github", "google", "microsoft", "slack", "salesforce", "custom", "api-key"} <= vendors.keys()
    assert vendors["github"]["title"] == "GitHub"
    assert "github\tGitHub\toauth2\tUSER_FEDERATION" in cli.succeed("catalog", "list").out


def test_a_vendor_shows_its_settings_notes_and_where_they_come_from(cli: CommandLine) -> None:
    shown = cli.succeed("catalog", "show", "github").out
    assert "one of oauth-app, github-app; default oauth-app" in shown
    assert "https://docs.github.com/" in shown
    assert "checked:" in shown
    assert "Note: Tokens of an OAuth app have no end" in shown


def test_a_vendors_facts_are_json_too(cli: CommandLine) -> None:
    facts = cli.succeed("catalog", "show", "custom", "--json").json
    assert facts["name"] == "custom"
    assert facts["settings"]["issuer"]["example"]


def test_an_unknown_vendor_is_a_usage_error_that_names_its_likes(cli: CommandLine) -> None:
    answer = cli("catalog", "show", "githubb")
    assert (answer.code, answer.out) == (2, "")
    assert "did you mean github?" in answer.err
