"""Does a person at the command line get what an agent would get: tokens, keys, consents, grants?"""

from __future__ import annotations

import re
from typing import Any

import httpx2
import pytest

from tests.cli.conftest import CommandLine
from tests.fakes.browser import Browser, Decision
from tests.peers.servers import DjangoOAuthServer

AGENT = ("--workload", "cursor")


def test_an_api_key_is_alone_on_stdout(vault: CommandLine) -> None:
    vault.with_api_key()
    answer = vault.succeed("token", "weather", *AGENT)
    assert (answer.out, answer.err) == ("sk-made-up\n", "")
    assert vault.succeed("token", "weather", "--json", *AGENT).json == {"api_key": "sk-made-up", "provider": "weather"}


@pytest.mark.parametrize("release", ["never", "handle"])
def test_what_is_not_released_is_refused_on_the_command_line_too(vault: CommandLine, release: str) -> None:
    vault.with_api_key(release=release)
    answer = vault("token", "weather", *AGENT)
    assert (answer.code, answer.out) == (1, "")
    assert answer.err.endswith("[access_denied]\n")
    assert "call_api" in answer.err


def test_an_unknown_provider_is_an_error(vault: CommandLine) -> None:
    answer = vault("token", "nowhere", *AGENT)
    assert (answer.code, answer.out) == (1, "")
    assert answer.err.endswith("[unknown_provider]\n")


def test_the_agent_is_the_one_that_is_named_or_configured_or_the_only_one(vault: CommandLine) -> None:
    vault.with_api_key()
    nobody = vault("token", "weather")
    assert (nobody.code, nobody.out) == (2, "")
    assert "--workload NAME registers one" in nobody.err
    vault.succeed("--workload", "cursor", "token", "weather")
    vault.succeed("token", "weather")
    vault.succeed("token", "weather", MCP_IDENTITY_WORKLOAD="claude-code")
    many = vault("token", "weather")
    assert (many.code, many.out) == (2, "")
    assert "claude-code, cursor" in many.err
    trail = [line.split("\t")[1] for line in vault.succeed("audit", "tail").out.splitlines()[1:]]
    assert trail == ["operator", "cursor", "cursor", "claude-code"]


def test_what_is_no_name_cannot_be_an_agent(vault: CommandLine) -> None:
    answer = vault("token", "weather", "--workload", "Claude Desktop")
    assert (answer.code, answer.out) == (2, "")
    assert answer.err.endswith("[invalid_request]\n")


def test_operators_are_no_agents(vault: CommandLine) -> None:
    vault.with_api_key()
    vault.succeed("providers", "test", "weather")
    assert vault("grants", "list").code == 2


def test_another_user_has_grants_of_its_own_and_is_shown_as_asserted(vault: CommandLine) -> None:
    vault.with_api_key()
    vault.succeed("token", "weather", "--user", "ada", *AGENT)
    assert "ada (asserted)" in vault.succeed("audit", "tail").out


@pytest.fixture
def m2m(vault: CommandLine, server: DjangoOAuthServer) -> CommandLine:
    """A provider of the client credentials flow."""
    options = ("--issuer", server.issuer, "--allow-http-loopback", "--set", "flows=M2M", "--scopes", "read")
    client = ("--client-id", server.m2m.client_id, "--client-secret-stdin")
    vault.succeed("providers", "add", "idp", *options, *client, stdin=server.m2m.client_secret)
    return vault


def test_a_token_is_alone_on_stdout_and_works(m2m: CommandLine, server: DjangoOAuthServer) -> None:
    answer = m2m.succeed("token", "idp", *AGENT)
    assert answer.err == ""
    assert _whose(server, answer.out.strip())["client"] == "m2m"
    assert m2m.succeed("token", "idp", *AGENT).out == answer.out


def test_a_token_in_json_says_what_it_may_do_and_until_when(m2m: CommandLine) -> None:
    found = m2m.succeed("token", "idp", "--scopes", "read write", "--flow", "m2m", "--json", *AGENT).json
    assert sorted(found["scopes"]) == ["read", "write"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", found["expires_at"])
    assert (found["flow"], found["provider"], found["missing_scopes"]) == ("M2M", "idp", [])


def test_an_m2m_provider_needs_no_consent(m2m: CommandLine) -> None:
    answer = m2m("connect", "idp", "--no-browser", *AGENT)
    assert (answer.code, answer.out) == (1, "")
    assert answer.err.endswith("[unsupported_flow]\n")


def test_grants_are_listed_without_secrets_and_revoked(m2m: CommandLine) -> None:
    token = m2m.succeed("token", "idp", *AGENT).out.strip()
    listed = m2m.succeed("grants", "list", "--json", *AGENT)
    assert [(each["provider"], each["flow"], each["state"]) for each in listed.json] == [("idp", "M2M", "active")]
    table = m2m.succeed("grants", "list", *AGENT)
    assert "idp\tM2M\tactive\tread" in table.out
    assert token not in listed.out + table.out
    assert "at the vendor: " in m2m.succeed("grants", "revoke", "idp", *AGENT).out
    again = m2m("grants", "revoke", "idp", *AGENT)
    assert (again.code, again.out) == (1, "")
    assert again.err.endswith("[not_found]\n")


@pytest.fixture
def federated(vault: CommandLine, server: DjangoOAuthServer) -> CommandLine:
    """A provider that asks the user, whose redirect URI is registered."""
    options = ("--issuer", server.issuer, "--allow-http-loopback", "--set", "flows=USER_FEDERATION", "--scopes", "read")
    added = vault.succeed("providers", "add", "idp", *options, "--client-id", "x", "--client-auth", "none", "--json").json
    client = server.register(added["redirect_uri"])
    change = ("--client-id", client.client_id, "--client-auth", "basic", "--client-secret-stdin")
    vault.succeed("providers", "update", "idp", *change, stdin=client.client_secret)
    return vault


def test_a_token_that_needs_consent_gives_the_link_on_stderr_alone(federated: CommandLine) -> None:
    answer = federated("token", "idp", *AGENT)
    assert (answer.code, answer.out) == (1, "")
    assert f"http://127.0.0.1:{federated.port}/consent/" in answer.err
    assert "mcp-identity connect idp --workload cursor" in answer.err


def test_connect_sees_the_consent_through(federated: CommandLine, server: DjangoOAuthServer) -> None:
    page, code = _connect(federated, "allow")
    assert code == 0
    assert "idp" in page
    token = federated.succeed("token", "idp", *AGENT).out.strip()
    assert _whose(server, token)["username"] == "alice"
    again = federated.succeed("connect", "idp", "--no-browser", *AGENT)
    assert "connected already" in again.out
    assert [each["state"] for each in federated.succeed("grants", "list", "--json", *AGENT).json] == ["active"]


def test_connect_for_more_scopes_keeps_those_that_are_granted(federated: CommandLine) -> None:
    assert _connect(federated, "allow")[1] == 0
    assert _connect(federated, "allow", "--scopes", "write")[1] == 0
    (grant,) = federated.succeed("grants", "list", "--json", *AGENT).json
    assert sorted(grant["scopes"]) == ["read", "write"]


def test_connect_that_is_denied_is_an_error(federated: CommandLine) -> None:
    assert _connect(federated, "deny")[1] == 1
    assert federated.succeed("grants", "list", "--json", *AGENT).json == []


def test_connect_stops_waiting_when_told(federated: CommandLine) -> None:
    answer = federated("connect", "idp", "--no-browser", "--wait-seconds", "0", *AGENT)
    assert (answer.code, answer.out) == (1, "")
    assert "Nobody has answered yet" in answer.err


def test_open_consents_can_be_ended(federated: CommandLine) -> None:
    federated("connect", "idp", "--no-browser", "--wait-seconds", "0", *AGENT)
    assert "Ended the open consents" in federated.succeed("grants", "revoke", "idp", *AGENT).out


def _connect(cli: CommandLine, decision: Decision, *options: str) -> tuple[str, int]:
    """Run `connect` as a program and go through the consent in a browser; the last page and the exit status."""
    with cli.started("connect", "idp", "--no-browser", *AGENT, *options) as process, Browser() as browser:
        assert process.stderr is not None
        link = next(found[0] for line in process.stderr if (found := re.search(r"http://\S+/consent/\S+", line)))
        page = browser.consent(link, decision=decision)
        assert page.status == 200
        assert page.url == link
        return page.text, process.wait(20)


def _whose(server: DjangoOAuthServer, token: str) -> Any:
    headers = {"Authorization": f"Bearer {token}"}
    return httpx2.get(server.me_url, headers=headers, trust_env=False).raise_for_status().json()
