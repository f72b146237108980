"""Can an operator add, see, change, test and remove providers, without a secret ever showing?"""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from tests.cli.conftest import CommandLine
from tests.peers.servers import DjangoOAuthServer

SECRET = "cs-made-up-4711"
GITHUB = ("providers", "add", "github-work", "--vendor", "github", "--client-id", "Iv1.made-up")


def test_add_prints_the_redirect_uri_to_register_and_what_comes_next(vault: CommandLine) -> None:
    answer = vault.succeed(*GITHUB, "--client-secret-stdin", stdin=f"{SECRET}\n")
    shown = vault.succeed("providers", "show", "github-work", "--json").json
    assert shown["redirect_uri"].startswith(f"http://127.0.0.1:{vault.port}/oauth2/callback/")
    assert f"\n    {shown['redirect_uri']}\n" in answer.out
    assert "Note: Tokens of an OAuth app have no end" in answer.out
    assert answer.out.endswith("Next:\n  mcp-identity connect github-work --workload claude-desktop\n")
    assert SECRET not in answer.out + answer.err


def test_add_answers_in_json_too(vault: CommandLine) -> None:
    added = vault.succeed(*GITHUB, "--client-secret-stdin", "--scopes", "repo read:user", "--json", stdin=SECRET).json
    assert added["redirect_uri"].startswith("http://127.0.0.1:")
    assert (added["name"], added["vendor"], added["kind"]) == ("github-work", "github", "oauth2")
    assert (added["scopes"], added["flows"], added["has_secret"]) == (["read:user", "repo"], ["USER_FEDERATION"], True)
    assert added["next_command"].startswith("mcp-identity connect github-work")


def test_where_a_server_has_the_redirect_uri_connect_is_not_what_comes_next(vault: CommandLine) -> None:
    public = "https://identity.example.com"
    added = vault.succeed(*GITHUB, "--client-secret-stdin", "--json", stdin=SECRET, MCP_IDENTITY_PUBLIC_URL=public).json
    assert added["redirect_uri"].startswith(public)
    assert added["next_command"] == "mcp-identity providers test github-work"


@pytest.mark.parametrize("place", ["env", "file", "stdin"])
def test_a_secret_comes_from_a_variable_a_file_or_stdin_and_is_never_shown(
    vault: CommandLine, tmp_path: Path, place: str
) -> None:
    file = tmp_path / "secret"
    file.write_text(f"{SECRET}\n")
    given = {"env": ("env", "THE_SECRET"), "file": ("file", str(file)), "stdin": ("stdin",)}[place]
    options = [f"--client-secret-{given[0]}", *given[1:]]
    said = [vault.succeed(*GITHUB, *options, stdin=SECRET if place == "stdin" else "", THE_SECRET=SECRET)]
    commands = ("providers show github-work", "providers list --json", "audit tail --json", "doctor")
    said += [vault.succeed(*command.split()) for command in commands]
    assert all(SECRET not in answer.out + answer.err for answer in said)
    assert SECRET.encode() not in b"".join(path.read_bytes() for path in vault.home.iterdir() if path.is_file())


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (GITHUB, "--client-secret-env"),
        ((*GITHUB, "--client-secret-stdin"), "stdin"),
        ((*GITHUB, "--client-secret-stdin", "--client-secret-env", "X"), "--client-secret-file"),
        ((*GITHUB, "--api-key-stdin"), "--api-key"),
        ((*GITHUB[:5], "--client-secret-stdin"), "--client-id"),
        (("providers", "add", "x", "--vendor", "githubb", "--client-id", "y"), "github"),
        (("providers", "add", "x", "--client-id", "y"), "--vendor"),
        ((*GITHUB, "--set", "app", "--client-secret-stdin"), "FIELD=VALUE"),
        ((*GITHUB, "--set", "color=red", "--client-secret-stdin"), "color"),
        ((*GITHUB, "--set", "app=neither", "--client-secret-stdin"), "github-app"),
        (
            (*GITHUB[:4], "google", *GITHUB[5:], "--issuer", "https://idp.example.com", "--client-secret-stdin"),
            "issuer",
        ),
        (("providers", "add", "x", "--kind", "api-key", "--vendor", "github"), "--vendor"),
        (("providers", "add", "x", "--kind", "api-key", "--release", "token"), "--api-key-env"),
        (("providers", "add", "Not A Name", "--kind", "api-key", "--release", "token", "--api-key-stdin"), "a-z"),
        ((*GITHUB, "--scopes", 'a "b"', "--client-secret-stdin"), "scope"),
    ],
)
def test_what_is_missing_or_contradictory_is_a_usage_error_that_names_it(
    vault: CommandLine, arguments: tuple[str, ...], named: str
) -> None:
    answer = vault(*arguments, stdin="" if named == "stdin" else SECRET)
    assert (answer.code, answer.out) == (2, "")
    assert named in answer.err
    assert vault.succeed("providers", "list", "--json").json == []


def test_an_api_key_needs_a_release_mode_where_nobody_can_be_asked(vault: CommandLine) -> None:
    answer = vault("providers", "add", "weather", "--kind", "api-key", "--api-key-stdin", stdin="sk-made-up")
    assert (answer.code, answer.out) == (2, "")
    assert "--release" in answer.err


def test_a_variable_that_is_not_set_is_a_configuration_error(vault: CommandLine) -> None:
    answer = vault(*GITHUB, "--client-secret-env", "NOT_SET_ANYWHERE")
    assert (answer.code, answer.out) == (78, "")
    assert "NOT_SET_ANYWHERE" in answer.err


def test_release_handle_says_that_stdio_keeps_it(vault: CommandLine) -> None:
    answer = vault.succeed(*GITHUB, "--client-auth", "post", "--client-secret-stdin", "--release", "handle", stdin=SECRET)
    assert "Note: On stdio, release handle behaves as never." in answer.out


def test_a_name_that_is_taken_is_refused(vault: CommandLine) -> None:
    vault.with_api_key()
    answer = vault("providers", "add", "weather", "--kind", "api-key", "--api-key-stdin", "--release", "never", stdin="k")
    assert (answer.code, answer.out) == (1, "")
    assert answer.err.endswith("[conflict]\n")


def test_endpoints_make_a_provider_of_any_server(vault: CommandLine) -> None:
    urls = {name: f"https://idp.example.com/{name}" for name in ("authorization", "token", "revocation")}
    options = [part for name, url in urls.items() for part in (f"--{name}-url", url)]
    added = vault.succeed("providers", "add", "idp", *options, "--client-id", "x", "--client-auth", "none", "--json").json
    assert added["vendor"] == "custom"
    assert {name: added[f"{name}_url"] for name in urls} == urls
    assert (added["client_authentication"], added["has_secret"]) == ("none", False)


def test_an_issuers_metadata_gives_the_endpoints(vault: CommandLine, server: DjangoOAuthServer) -> None:
    answer = vault("providers", "add", "idp", "--issuer", server.issuer, "--client-id", "x", "--client-auth", "none")
    assert answer.code != 0  # http needs a word of the operator
    options = ("--issuer", server.issuer, "--client-id", "x", "--client-auth", "none", "--allow-http-loopback")
    assert vault.succeed("providers", "add", "idp", *options, "--json").json["token_url"] == server.token_url


def test_the_list_is_a_table_and_json_and_empty_at_first(vault: CommandLine) -> None:
    empty = vault.succeed("providers", "list")
    assert empty.out == ""
    assert "mcp-identity providers add" in empty.err
    vault.with_api_key()
    assert vault.succeed("providers", "list").out.splitlines()[1] == "weather\tapi-key\tapi-key\t\ttoken\tenabled"
    assert vault.succeed("providers", "list", "--json").json[0]["name"] == "weather"


def test_an_update_keeps_what_it_does_not_name(vault: CommandLine) -> None:
    before = vault.succeed(*GITHUB, "--client-secret-stdin", "--scopes", "repo", "--json", stdin=SECRET).json
    vault.succeed("providers", "update", "github-work", "--scopes", "repo gist", "--disable")
    after = vault.succeed("providers", "show", "github-work", "--json").json
    changed = {"scopes": ["gist", "repo"], "disabled": True}
    assert after == {name: value for name, value in (before | changed).items() if name != "next_command"}
    vault.succeed("providers", "update", "github-work", "--enable")
    assert vault.succeed("providers", "show", "github-work", "--json").json["disabled"] is False


def test_an_update_that_moves_the_endpoints_clears_the_secret_and_says_how_to_give_it_again(vault: CommandLine) -> None:
    urls = ("--authorization-url", "https://a.example.com/authorize", "--token-url", "https://a.example.com/token")
    vault.succeed("providers", "add", "idp", *urls, "--client-id", "x", "--client-secret-stdin", stdin=SECRET)
    moved = vault.succeed("providers", "update", "idp", "--token-url", "https://b.example.com/token")
    assert "mcp-identity providers update idp --client-secret-stdin" in moved.err
    assert vault.succeed("providers", "show", "idp", "--json").json["has_secret"] is False
    vault.succeed("providers", "update", "idp", "--client-secret-stdin", stdin=SECRET)
    assert vault.succeed("providers", "show", "idp", "--json").json["has_secret"] is True


@pytest.mark.parametrize("verb", ["show", "update", "remove", "test"])
def test_an_unknown_provider_is_an_error_for_every_verb(vault: CommandLine, verb: str) -> None:
    answer = vault("providers", verb, "nowhere", *(["--yes"] if verb == "remove" else []))
    assert (answer.code, answer.out) == (1, "")
    assert answer.err.endswith("[unknown_provider]\n")


def test_remove_asks_first_and_needs_yes_where_it_cannot(vault: CommandLine) -> None:
    vault.with_api_key()
    answer = vault("providers", "remove", "weather")
    assert (answer.code, answer.out) == (2, "")
    assert "--yes" in answer.err
    vault.succeed("providers", "remove", "weather", "--yes")
    assert vault.succeed("providers", "list", "--json").json == []


def test_a_test_shows_each_check_and_fails_with_the_worst(vault: CommandLine, server: DjangoOAuthServer) -> None:
    options = ("--issuer", server.issuer, "--allow-http-loopback", "--set", "flows=M2M", "--scopes", "read")
    client = (server.m2m.client_id, server.m2m.client_secret)
    vault.succeed("providers", "add", "idp", *options, "--client-id", client[0], "--client-secret-stdin", stdin=client[1])
    passed = vault.succeed("providers", "test", "idp")
    assert "client credentials\tok\ta token for read" in passed.out
    vault.succeed("providers", "update", "idp", "--client-secret-stdin", stdin="wrong")
    failed = vault("providers", "test", "idp", "--json")
    assert failed.code == 1
    assert {each["check"]: each["passed"] for each in failed.json}["client credentials"] is False


def test_no_secret_stands_in_the_arguments_of_a_program(vault: CommandLine) -> None:
    answer = vault.program(*GITHUB, "--client-secret", SECRET)
    assert answer.code == 2
    assert SECRET not in answer.out + answer.err


@pytest.mark.skipif(os.name != "posix", reason="modes are POSIX")
def test_nothing_of_the_vault_is_open_to_others_afterwards(vault: CommandLine) -> None:
    vault.with_api_key()
    assert all(not stat.S_IMODE(path.stat().st_mode) & 0o077 for path in (vault.home, *vault.home.rglob("*")))


def test_a_secret_of_more_than_one_line_is_refused(vault: CommandLine) -> None:
    answer = vault("providers", "add", "key", "--kind", "api-key", "--api-key-stdin", "--release", "token", stdin="one\ntwo\n")
    assert answer.code == 2
    assert "more than one line" in answer.err


def test_tokens_that_never_expire_are_announced_with_what_to_do(vault: CommandLine) -> None:
    added = vault.succeed("providers", "add", "github", "--vendor", "github", "--client-id", "ID", "--client-auth", "post",
                          "--client-secret-env", "A_SECRET", A_SECRET="made-up")  # fmt: skip
    assert "mcp-identity providers update github --release token" in " ".join((added.out + added.err).split())
