"""Can an operator make, list and end the keys that sign requests, and is each secret shown once?"""

from __future__ import annotations

import json

import pytest

from mcp_identity.domain.access_key import is_access_key_id
from tests.cli.conftest import CommandLine


def test_a_key_is_made_shown_once_listed_and_removed(vault: CommandLine) -> None:
    vault.succeed("workloads", "create", "billing-agent")
    arguments = ("--role", "workload", "--workload", "billing-agent", "--may-assert-users", "--json")
    made = vault.succeed("access-keys", "create", *arguments)
    key = made.json
    assert "only time" in made.err
    assert is_access_key_id(key["access_key_id"])
    assert len(key["secret_access_key"]) >= 40
    assert (key["role"], key["workloads"], key["may_assert_users"]) == ("workload", ["billing-agent"], True)
    listed = vault.succeed("access-keys", "list", "--json")
    assert listed.json == [{name: value for name, value in key.items() if name != "secret_access_key"}]
    assert listed.json[0]["last_used_at"] is None
    assert key["secret_access_key"] not in listed.out + vault.succeed("access-keys", "list").out
    assert vault.succeed("access-keys", "remove", key["access_key_id"]).out == f"Removed {key['access_key_id']}.\n"
    assert json.loads(vault.succeed("access-keys", "list", "--json").out) == []
    again = vault("access-keys", "remove", key["access_key_id"])
    assert (again.code, again.out) == (1, "")
    assert "mcp-identity access-keys list" in again.err


def test_what_is_said_beside_a_new_key_is_how_clients_take_it(vault: CommandLine) -> None:
    made = vault.succeed("access-keys", "create", "--role", "admin", MCP_IDENTITY_PUBLIC_URL="https://identity.example.com")
    facts = dict(line.split() for line in made.out.splitlines())
    assert set(facts) == {"access_key_id:", "secret_access_key:"}
    assert f"export AWS_ACCESS_KEY_ID={facts['access_key_id:']}" in made.err
    assert "BEDROCK_AGENTCORE_DP_ENDPOINT=https://identity.example.com" in made.err
    assert "--endpoint-url https://identity.example.com" in made.err
    assert facts["secret_access_key:"] not in made.err
    (row,) = vault.succeed("access-keys", "list").out.splitlines()[1:]
    assert row.split("\t")[:4] == [facts["access_key_id:"], "admin", "every one", ""]
    assert row.endswith("\tnever")


def test_the_list_is_empty_at_first(vault: CommandLine) -> None:
    empty = vault.succeed("access-keys", "list")
    assert (empty.out, "mcp-identity access-keys create" in empty.err) == ("", True)


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        ((), 2),
        (("--role", "root"), 2),
        (("--role", "workload"), 2),
        (("--role", "admin", "--workload", "x"), 2),
        (("--role", "workload", "--workload", "nobody"), 1),
    ],
)
def test_a_key_that_cannot_be_is_refused(vault: CommandLine, arguments: tuple[str, ...], code: int) -> None:
    answer = vault("access-keys", "create", *arguments)
    assert (answer.code, answer.out) == (code, "")


def test_keys_are_of_the_tenant_that_was_named(vault: CommandLine) -> None:
    key = vault.succeed("--tenant", "acme", "access-keys", "create", "--role", "admin", "--json").json
    assert key["tenant"] == "acme"
    assert vault.succeed("access-keys", "list", "--json").json == []
    assert vault("access-keys", "remove", key["access_key_id"]).code == 1
    assert len(vault.succeed("--tenant", "acme", "access-keys", "list", "--json").json) == 1
