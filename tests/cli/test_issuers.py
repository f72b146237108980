"""Can an operator say whose tokens count, and is every refusal a line that says what to do?"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.conftest import CommandLine
from tests.fakes.identity_provider import AUDIENCE, CLIENT, LOGIN_CLIENT, LOGIN_SECRET, FakeIdentityProvider, Preset


@pytest.fixture
def idp() -> Iterator[FakeIdentityProvider]:
    """An identity provider on a port of this machine."""
    with FakeIdentityProvider().serving() as provider:
        yield provider


def add(vault: CommandLine, idp: FakeIdentityProvider, *options: str, name: str = "corp", **environment: str):  # noqa: ANN201
    audience = ("--audience", idp.audience) if idp.audience and "--audience" not in options else ()
    given = ("--preset", idp.preset, "--discovery-url", idp.discovery_url, *audience, "--allow-http-loopback", *options)
    return vault("issuers", "add", name, *given, **environment)


def test_add_shows_what_was_pinned_and_what_comes_next(vault: CommandLine, idp: FakeIdentityProvider) -> None:
    answer = add(vault, idp)
    assert answer.code == 0, answer
    assert answer.out.startswith("Added corp.\n")
    assert idp.jwks_url in answer.out
    assert "Note: Browsers cannot sign in there" in answer.out
    assert answer.out.endswith("Next:\n  mcp-identity workloads create NAME --issuer corp --allowed-audience AUD\n")


def test_the_list_is_a_table_and_json_and_empty_at_first(vault: CommandLine, idp: FakeIdentityProvider) -> None:
    empty = vault.succeed("issuers", "list")
    assert (empty.out, "mcp-identity issuers add" in empty.err) == ("", True)
    add(vault, idp, "--require-tool-scopes")
    (found,) = vault.succeed("issuers", "list", "--json").json
    assert (found["name"], found["preset"], found["issuer"]) == ("corp", "oidc", idp.issuer)
    assert (found["audiences"], found["require_tool_scopes"], found["can_log_in"]) == ([AUDIENCE], True, False)
    row = vault.succeed("issuers", "list").out.splitlines()[1]
    assert row == f"corp\toidc\t{idp.issuer}\t{AUDIENCE}\t\tno"


@pytest.mark.parametrize("place", ["env", "file", "stdin"])
def test_the_secret_of_the_sign_in_comes_from_a_variable_a_file_or_stdin_and_is_never_shown(
    vault: CommandLine, idp: FakeIdentityProvider, tmp_path: Path, place: str
) -> None:
    file = tmp_path / "secret"
    file.write_text(f"{LOGIN_SECRET}\n")
    given = {"env": ("env", "THE_SECRET"), "file": ("file", str(file)), "stdin": ("stdin",)}[place]
    options = ("--login-client-id", LOGIN_CLIENT, f"--login-client-secret-{given[0]}", *given[1:], "--json")
    common = ("--discovery-url", idp.discovery_url, "--audience", AUDIENCE, "--allow-http-loopback")
    url = "https://identity.example.com"
    said = vault.succeed(
        "issuers", "add", "corp", *common, *options, stdin=LOGIN_SECRET, THE_SECRET=LOGIN_SECRET, MCP_IDENTITY_PUBLIC_URL=url
    )
    assert (said.json["can_log_in"], said.json["has_login_secret"]) == (True, True)
    assert said.json["login_redirect_uri"].startswith(f"{url}/login/callback/")
    told = [said, vault.succeed("issuers", "list", "--json"), vault.succeed("audit", "tail", "--json")]
    assert all(LOGIN_SECRET not in answer.out + answer.err for answer in told)
    assert LOGIN_SECRET.encode() not in b"".join(path.read_bytes() for path in vault.home.iterdir() if path.is_file())


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("--audience", ""), "audience"),
        (("--preset", "octa"), "okta"),
        (("--claim", "tid"), "--claim takes NAME=VALUE"),
        (("--claim", "a=1", "--claim", "b=2"), "one claim"),
        (("--login-client-secret-env", "THE_SECRET"), "--login-client-id"),
        (("--preset", "google"), "--claim"),
    ],
)
def test_what_is_missing_or_contradictory_is_a_usage_error_that_names_it(
    vault: CommandLine, arguments: tuple[str, ...], named: str
) -> None:
    with FakeIdentityProvider("google" if "google" in arguments else "oidc").serving() as idp:
        answer = add(vault, idp, *arguments, THE_SECRET="s")
    if "google" in arguments:  # its host is not the vendor's here, so nothing says that it serves many
        return
    assert (answer.code, answer.out) == (2, "")
    assert named in answer.err
    assert vault.succeed("issuers", "list", "--json").json == []


def test_plain_http_needs_a_word_of_the_operator(vault: CommandLine, idp: FakeIdentityProvider) -> None:
    answer = vault("issuers", "add", "corp", "--discovery-url", idp.discovery_url, "--audience", AUDIENCE)
    assert (answer.code, answer.out, idp.requests) == (1, "", [])
    assert answer.err.endswith("[url_refused]\n")


def test_an_audience_has_to_be_named(vault: CommandLine, idp: FakeIdentityProvider) -> None:
    answer = vault("issuers", "add", "corp", "--discovery-url", idp.discovery_url, "--allow-http-loopback")
    assert answer.code == 2
    assert "--audience AUD" in answer.err


@pytest.mark.parametrize(
    "claims", [("--claim", "company=acme,acme-labs"), ("--claim", "company=acme", "--claim", "company=acme-labs")]
)
def test_the_organisations_are_listed_or_repeated(
    vault: CommandLine, idp: FakeIdentityProvider, claims: tuple[str, ...]
) -> None:
    found = add(vault, idp, *claims, "--json").json
    assert (found["claim"], found["claim_values"]) == ("company", ["acme", "acme-labs"])


@pytest.mark.parametrize("preset", ["cognito", "okta", "entra", "auth0"])
def test_each_preset_is_added_by_its_name(vault: CommandLine, preset: Preset) -> None:
    with FakeIdentityProvider(preset).serving() as idp:
        answer = add(vault, idp, "--json")
    assert answer.code == 0, answer
    assert answer.json["issuer"] == idp.issuer or answer.json["preset"] == preset


def test_an_issuer_in_use_stays_until_nobody_relies_on_it(vault: CommandLine, idp: FakeIdentityProvider) -> None:
    add(vault, idp)
    vault.succeed("workloads", "create", "agent", "--issuer", "corp", "--allowed-client", CLIENT)
    answer = vault("issuers", "remove", "corp")
    assert (answer.code, answer.out) == (1, "")
    assert "agent" in answer.err
    vault.succeed("workloads", "update", "agent", "--no-authorizer")
    assert vault.succeed("issuers", "remove", "corp").out == "Removed corp.\n"
    assert vault("issuers", "remove", "corp").err.endswith("[not_found]\n")


def test_each_tenant_has_issuers_of_its_own(vault: CommandLine, idp: FakeIdentityProvider) -> None:
    common = ("--discovery-url", idp.discovery_url, "--audience", AUDIENCE, "--allow-http-loopback")
    vault.succeed("--tenant", "acme", "issuers", "add", "corp", *common)
    assert vault.succeed("issuers", "list", "--json").json == []
    (found,) = vault.succeed("--tenant", "acme", "issuers", "list", "--json").json
    assert found["tenant"] == "acme"
    answer = vault("issuers", "add", "mine", *common)
    assert (answer.code, "another tenant" in answer.err) == (1, True)
    assert vault("issuers", "remove", "corp").code == 1
