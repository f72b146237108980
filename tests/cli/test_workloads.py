"""Can an operator register agents, give them keys and take both away, in the tenant that was named and no other?"""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from mcp_identity.cli.workload_options import parse_claim, show_claim
from mcp_identity.domain.errors import InvalidRequest
from tests.cli.conftest import CommandLine
from tests.fakes.identity_provider import AUDIENCE, CLIENT, FakeIdentityProvider


@pytest.fixture
def corp(vault: CommandLine) -> Iterator[CommandLine]:
    """A command line on a vault with an issuer, `corp`."""
    with FakeIdentityProvider().serving() as idp:
        vault.succeed(
            "issuers", "add", "corp", "--discovery-url", idp.discovery_url, "--audience", AUDIENCE, "--allow-http-loopback"
        )
        yield vault


def test_a_workload_is_shown_as_it_was_said(corp: CommandLine) -> None:
    options = {
        "--issuer": ("corp",),
        "--allowed-client": (CLIENT, "other"),
        "--allowed-audience": (AUDIENCE,),
        "--required-scope": ("run",),
        "--required-claim": ("department=finance", "groups contains a,b", "roles contains-any x,y"),
        "--allow-provider": ("weather",),
        "--return-url": ("https://app.example.com/done",),
        "--identity-audience": ("https://partner.example.com",),
        "--owner": ("the billing team",),
        "--tag": ("stage=test",),
    }
    given = [part for option, values in options.items() for value in values for part in (option, value)]
    answer = corp.succeed("workloads", "create", "billing", *given, "--may-assert-users", "--shared-authorizer", "--json")
    assert "There is no provider weather yet" in answer.err
    shown = corp.succeed("workloads", "show", "billing", "--json").json
    assert shown == answer.json
    assert (shown["issuer"], shown["allowed_clients"], shown["allowed_audiences"]) == ("corp", ["other", CLIENT], [AUDIENCE])
    assert shown["required_claims"] == list(options["--required-claim"])
    assert (shown["may_assert_users"], shown["shared_authorizer"], shown["tags"]) == (True, True, {"stage": "test"})
    facts = corp.succeed("workloads", "show", "billing").out
    assert "required claims: department=finance; groups contains a,b; roles contains-any x,y shared" in " ".join(facts.split())
    assert json.loads(corp.succeed("workloads", "list", "--json").out) == [shown]


def test_the_list_is_a_table_and_empty_at_first(vault: CommandLine) -> None:
    empty = vault.succeed("workloads", "list")
    assert (empty.out, "mcp-identity workloads create" in empty.err) == ("", True)
    created = vault.succeed("workloads", "create", "agent", "--owner", "me")
    assert "mcp-identity workloads issue-key agent" in created.err
    assert vault.succeed("workloads", "list").out.splitlines()[1] == "agent\t\t\t\tevery one\tme\tenabled"


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("--issuer", "corp"), "--allowed-client"),
        (("--allowed-client", "x"), "--issuer NAME"),
        (("--issuer", "corp", "--required-claim", "x"), "contains-any"),
        (("--issuer", "corp", "--required-claim", "=x"), "contains-any"),
        (("--tag", "x"), "--tag takes NAME=VALUE"),
        (("--allow-provider", "A B"), "provider"),
    ],
)
def test_what_is_missing_or_contradictory_is_a_usage_error_that_names_it(
    corp: CommandLine, arguments: tuple[str, ...], named: str
) -> None:
    answer = corp("workloads", "create", "agent", *arguments)
    assert (answer.code, answer.out) == (2, "")
    assert named in answer.err


@pytest.mark.parametrize(
    "text",
    [
        "department=finance",
        "department=",
        "a=b=c",
        "https://example.com/roles contains admin",
        "g contains-any a,b",
        "n=x contains y",
    ],
)
def test_a_required_claim_reads_back_as_it_was_written(text: str) -> None:
    assert show_claim(parse_claim(text)) == text


@pytest.mark.parametrize("text", ["", "groups", "groups contains", "groups has a", " = "])
def test_what_is_no_required_claim_is_refused(text: str) -> None:
    with pytest.raises(InvalidRequest):
        parse_claim(text)


def test_a_list_is_replaced_as_a_whole_and_emptied_by_one_empty_value(vault: CommandLine) -> None:
    vault.succeed("workloads", "create", "agent", "--allow-provider", "a", "--allow-provider", "b")
    vault.succeed("workloads", "update", "agent", "--allow-provider", "c")
    assert vault.succeed("workloads", "show", "agent", "--json").json["allowed_providers"] == ["c"]
    vault.succeed("workloads", "update", "agent", "--allow-provider", "", "--disable")
    shown = vault.succeed("workloads", "show", "agent", "--json").json
    assert (shown["allowed_providers"], shown["disabled"], shown["epoch"]) == ([], True, 3)
    assert vault("workloads", "update", "agent").code == 2


def test_a_key_stands_alone_on_stdout_and_is_never_shown_again(vault: CommandLine) -> None:
    created = vault.succeed("workloads", "create", "agent", "--issue-key")
    issued = vault.succeed("workloads", "issue-key", "agent", "--label", "production", "--expires-in-days", "30")
    for answer in (created, issued):
        assert answer.out.startswith("mid_wk_")
        assert len(answer.out.split()) == 1
        assert "only time" in answer.err
        assert answer.out.strip() not in answer.err
    listed = vault.succeed("workloads", "keys", "agent", "--json").json
    assert [(key["label"], key["revoked"]) for key in sorted(listed, key=lambda key: key["label"])] == [
        ("", False),
        ("production", False),
    ]
    told = [vault.succeed("workloads", "keys", "agent"), vault.succeed("audit", "tail", "--json")]
    assert all(key.out.strip() not in answer.out + answer.err for answer in told for key in (created, issued))


def test_a_key_is_given_in_json_with_its_id_and_revoked_by_that(vault: CommandLine) -> None:
    found = vault.succeed("workloads", "create", "agent", "--issue-key", "--json").json
    assert (found["name"], found["key"][:7], found["expires_at"]) == ("agent", "mid_wk_", None)
    assert vault.succeed("workloads", "revoke-key", "agent", found["key_id"]).out == f"Revoked {found['key_id']}.\n"
    assert vault.succeed("workloads", "keys", "agent", "--json").json[0]["revoked"] is True
    assert vault("workloads", "revoke-key", "agent", "nosuch").err.endswith("[not_found]\n")


def test_remove_asks_first_and_needs_yes_where_it_cannot(vault: CommandLine) -> None:
    vault.with_api_key()
    assert vault.succeed("token", "weather", "--workload", "agent").out == "sk-made-up\n"
    answer = vault("workloads", "remove", "agent")
    assert (answer.code, "--yes" in answer.err) == (2, True)
    vault.succeed("workloads", "remove", "agent", "--yes")
    assert vault.succeed("workloads", "list", "--json").json == []
    for verb in ("show", "update", "remove", "keys", "issue-key"):
        more = {"update": ["--disable"], "remove": ["--yes"]}.get(verb, [])
        assert vault("workloads", verb, "agent", *more).err.endswith("[not_found]\n")


def test_a_workload_gets_only_what_it_was_allowed(vault: CommandLine) -> None:
    for name in ("weather", "maps"):
        vault.with_api_key(name)
    vault.succeed("workloads", "create", "agent", "--allow-provider", "weather")
    assert vault.succeed("token", "weather", "--workload", "agent").out == "sk-made-up\n"
    answer = vault("token", "maps", "--workload", "agent")
    assert (answer.code, answer.out) == (1, "")
    assert "mcp-identity workloads update agent --allow-provider maps --allow-provider weather [access_denied]" in answer.err


# Tenants

ACME = ("--tenant", "acme")


def test_a_tenant_is_there_once_something_is_created_in_it_and_nothing_crosses(vault: CommandLine) -> None:
    assert vault.succeed(*ACME, "workloads", "list", "--json").json == []
    vault.succeed(*ACME, "workloads", "create", "agent")
    key = ("--kind", "api-key", "--api-key-stdin", "--release", "token")
    added = vault.succeed(*ACME, "providers", "add", "weather", *key, stdin="sk-acme\n")
    assert "mcp-identity --tenant acme token weather" in added.out
    vault.with_api_key()
    assert vault.succeed(*ACME, "token", "weather").out == "sk-acme\n"
    assert vault.succeed("token", "weather", "--workload", "agent").out == "sk-made-up\n"
    assert [each["name"] for each in vault.succeed(*ACME, "providers", "list", "--json").json] == ["weather"]
    trail = [json.loads(line) for line in vault.succeed(*ACME, "audit", "tail", "--json").out.splitlines()]
    assert {event["tenant"] for event in trail} == {"acme"}
    assert {"create_provider", "create_workload_identity", "get_api_key"} == {event["action"] for event in trail}
    vault.succeed(*ACME, "providers", "remove", "weather", "--yes")
    assert [each["name"] for each in vault.succeed("providers", "list", "--json").json] == ["weather"]


def test_in_another_tenant_no_agent_is_registered_at_first_sight(vault: CommandLine) -> None:
    for workload in ((), ("--workload", "agent")):
        answer = vault(*ACME, "token", "weather", *workload)
        assert (answer.code, answer.out) == (1, "")
        assert "mcp-identity --tenant acme workloads create" in answer.err
    assert vault.succeed(*ACME, "workloads", "list", "--json").json == []


def test_the_operator_of_one_tenant_sees_no_others_workload(vault: CommandLine) -> None:
    vault.succeed(*ACME, "workloads", "create", "agent")
    for verb in (("show",), ("update", "--disable"), ("remove", "--yes"), ("issue-key",), ("keys",)):
        told = vault("workloads", verb[0], "agent", *verb[1:]), vault("workloads", verb[0], "nosuch", *verb[1:])
        assert told[0] == told[1]
        assert told[0].code == 1


@pytest.mark.parametrize("name", ["", "A", "a b", "../x"])
def test_a_tenant_has_a_name_like_everything_else(vault: CommandLine, name: str) -> None:
    answer = vault("--tenant", name, "providers", "list")
    assert (answer.code, answer.out) == (2, "")
    assert "a-z" in answer.err
