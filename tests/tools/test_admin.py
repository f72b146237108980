"""Who is served the tools of operators, what do they do, and what do they never take or give?"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx2
import pytest
from mcp import MCPError

from mcp_identity.domain.identity import Principal, Proof, WorkloadIdentity
from mcp_identity.tools.caller import Local, StdioCaller
from mcp_identity.tools.scopes import ADMIN, READ, administers, is_allowed
from mcp_identity.tools.server import build_server
from tests.fakes.home import VaultHome
from tests.fakes.identity_provider import AUDIENCE, FakeIdentityProvider
from tests.fakes.mcp_client import Json, mcp_client
from tests.fakes.vendor import CLIENT_ID, Vendor, new_secret
from tests.http.kit import ask as ask_over_http
from tests.http.kit import http_client, local_options, server_here, stateless
from tests.tools.admin_kit import AGENTS, APP, OPERATORS, Desk, running_desk

FIXED = {
    "list_workload_identities", "get_workload_identity", "create_workload_identity", "update_workload_identity",
    "delete_workload_identity", "get_provider", "create_provider", "update_provider", "delete_provider", "list_issuers",
    "create_issuer", "delete_issuer", "list_all_grants", "revoke_grants", "search_audit",
}  # fmt: skip
"""Names that clients rely on."""
NEW = FIXED | {"list_all_providers"}


@pytest.fixture(scope="module")
async def desk(tmp_path_factory: pytest.TempPathFactory, vendor: Vendor) -> AsyncGenerator[Desk]:
    """A server that the tests of this module share."""
    del vendor  # it is of the whole session, so it comes first and goes last
    async with running_desk(tmp_path_factory.mktemp("desk")) as desk:
        yield desk


@pytest.fixture(scope="module")
async def idp() -> AsyncGenerator[FakeIdentityProvider]:
    """An identity provider on a port of this machine."""
    async with FakeIdentityProvider().serve() as idp:
        yield idp


@pytest.fixture
def secret(monkeypatch: pytest.MonkeyPatch) -> str:
    """A client secret where the server may read it, as `env:ACME_SECRET`."""
    made = new_secret()
    monkeypatch.setenv("ACME_SECRET", made)
    return made


# Who sees them


@pytest.mark.parametrize("by", OPERATORS)
async def test_operators_see_them_beside_what_agents_see(desk: Desk, by: str) -> None:
    assert await desk.tools(by) >= NEW | {"whoami", "get_token"}


@pytest.mark.parametrize("by", AGENTS)
async def test_everybody_else_sees_none_of_them_anywhere(desk: Desk, by: str) -> None:
    assert await desk.tools(by) & NEW == set()
    assert set((await desk.do("whoami", by))["may"]) & NEW == set()


@pytest.mark.parametrize("by", AGENTS)
async def test_a_call_by_anybody_else_is_that_of_a_tool_that_there_is_not_and_is_written_down(desk: Desk, by: str) -> None:
    for tool in sorted(NEW):
        before = [event["outcome"] for event in desk.trail() if event["action"] == tool]
        with pytest.raises(MCPError) as refused:
            await desk.ask(tool, by, name="alice")
        with pytest.raises(MCPError) as unknown:
            await desk.ask("create_world", by, name="alice")
        assert refused.value.error.code == unknown.value.error.code
        assert refused.value.error.message.replace(tool, "create_world") == unknown.value.error.message
        after = [event["outcome"] for event in desk.trail() if event["action"] == tool]
        assert after == [*before, "insufficient_scope"]


async def test_whoami_tells_an_operator_of_them(desk: Desk) -> None:
    assert set((await desk.do("whoami", "everything"))["may"]) >= NEW


async def test_nobody_is_challenged_to_get_the_scope_of_operators(desk: Desk) -> None:
    call = stateless("tools/call", {"name": "create_provider", "arguments": {}})
    async with http_client() as http:
        answer = await ask_over_http(http, desk.server, call, desk.server.bearer("reader"))
    assert ADMIN not in answer.headers.get("www-authenticate", "")
    assert "Unknown tool" in answer.text


async def test_a_list_is_for_its_caller_alone_also_in_caches(desk: Desk) -> None:
    async with http_client() as http:
        for by, sees in (("operator", True), ("reader", False), ("operator", True)):
            answer = await ask_over_http(http, desk.server, stateless("tools/list"), desk.server.bearer(by))
            result: Json = _result(answer)
            assert ({tool["name"] for tool in result["tools"]} >= NEW) is sees
            assert result["cacheScope"] == "private"


def _result(answer: httpx2.Response) -> Json:
    if answer.headers["content-type"].startswith("application/json"):
        return answer.json()["result"]
    import json

    return json.loads(answer.text.partition("data: ")[2].splitlines()[0])["result"]


async def _no_vault() -> Local:
    raise AssertionError("a list needs no vault")


async def test_without_the_toolset_there_are_none(desk: Desk) -> None:
    del desk
    server = build_server(StdioCaller(_no_vault), version="0", remote=True)
    assert {tool.name for tool in await server.list_tools()} & NEW == set()


async def test_a_server_whose_tools_for_operators_nobody_could_use_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async with server_here(VaultHome(tmp_path / "home"), local_options("http", admin=True), agents=()):
        assert "--require-tool-scopes" in capsys.readouterr().err


@pytest.mark.parametrize("proof", [each for each in Proof if each not in (Proof.JWT, Proof.STDIO)])
@pytest.mark.parametrize("scopes", [None, frozenset({ADMIN})])
def test_only_a_token_of_its_own_makes_an_operator(proof: Proof, scopes: frozenset[str] | None) -> None:
    principal = Principal(WorkloadIdentity("w", "default", "agent"), None, proof, verified=True, tool_scopes=scopes)
    assert not administers(principal)
    assert not is_allowed(principal, "create_provider")
    assert not is_allowed(principal, "forgotten")


async def test_a_token_of_an_issuer_is_an_operators_only_where_scopes_are_asked_for(
    desk: Desk, idp: FakeIdentityProvider
) -> None:
    scopes = {"strict": True, "lax": False}
    found: dict[str, bool] = {}
    for name, asked in scopes.items():
        await desk.do(
            "create_issuer", name=name, discovery_url=idp.issuer, audiences=[AUDIENCE], require_tool_scopes=asked,
            allow_http_loopback=True,
        )  # fmt: skip
        await desk.do("create_workload_identity", name=f"of-{name}", issuer=name, audiences=[AUDIENCE])
        for scope in (ADMIN, READ):
            bearer = {"authorization": f"Bearer {idp.access_token(scopes=f'openid {scope}')}"}
            async with http_client() as http:
                answer = await ask_over_http(http, desk.server, stateless("tools/list"), bearer)
            found[f"{name} {scope}"] = "create_provider" in answer.text
        if asked:
            await _an_operator_is_none_any_more_at_once(desk, idp, name)
        await desk.do("update_workload_identity", name=f"of-{name}", issuer="")
        await desk.do("delete_issuer", name=name)
        await desk.do("delete_workload_identity", name=f"of-{name}")
    assert found == {f"strict {ADMIN}": True, f"strict {READ}": False, f"lax {ADMIN}": False, f"lax {READ}": False}


async def _an_operator_is_none_any_more_at_once(desk: Desk, idp: FakeIdentityProvider, name: str) -> None:
    """One who was remembered a moment ago, and whose agent was stopped meanwhile: nothing is done for them, nothing told."""
    bearer = {"authorization": f"Bearer {idp.access_token(scopes=ADMIN)}"}
    call = stateless("tools/call", {"name": "create_workload_identity", "arguments": {"name": "too-late"}})
    async with http_client() as http:
        for arguments in ({"name": "in-time"}, {"name": "in-time"}):
            again = stateless("tools/call", {"name": "get_workload_identity", "arguments": arguments})
            assert "not_found" in (await ask_over_http(http, desk.server, again, bearer)).text
        await desk.do("update_workload_identity", name=f"of-{name}", disabled=True)
        answer = await ask_over_http(http, desk.server, call, bearer)
    assert answer.status_code == 401 or "unauthenticated" in answer.text
    assert await desk.refusal("get_workload_identity", name="too-late") == "not_found"


async def test_on_stdio_whoever_starts_it_is_the_operator(home: VaultHome) -> None:
    command = ("--toolset", "agent,admin", "--allow-http-loopback")
    async with mcp_client(home.environment(), name="Console", command=_serve(*command)) as client:
        listed = await client.request("tools/list")
        assert {tool["name"] for tool in listed["tools"]} >= NEW | {"get_token"}
        assert (await client.call("get_provider", name="notes"))["has_secret"] is True
        made = await client.call("create_workload_identity", name="made-on-stdio", owner="me")
        assert (made["status"], made["owner"]) == ("ok", "me")
        assert set((await client.call("whoami"))["may"]) >= NEW
    event = [each for each in home.trail() if each["action"] == "create_workload_identity"][-1]
    assert (event["workload"], event["edge"], event["outcome"]) == ("console", "stdio", "ok")


def _serve(*arguments: str) -> tuple[str, ...]:
    import sys

    return (sys.executable, "-m", "mcp_identity", "serve", *arguments)


# What they do


async def test_a_workload_is_registered_shown_changed_and_removed(desk: Desk) -> None:
    made = await desk.do(
        "create_workload_identity", name="Nightly_Build", allowed_providers=["notes"], owner="ops", tags={"team": "build"},
        return_urls=["https://app.example/done"], may_assert_users=True,
    )  # fmt: skip
    assert (made["owner"], made["tags"], made["allowed_providers"]) == ("ops", {"team": "build"}, ["notes"])
    assert await desk.refusal("create_workload_identity", name="nightly_build") == "conflict"
    changed = await desk.do("update_workload_identity", name="Nightly_Build", tags={}, disabled=True)
    assert (changed["tags"], changed["disabled"], changed["owner"]) == ({}, True, "ops")
    shown = await desk.do("get_workload_identity", name="Nightly_Build")
    assert {**shown, "updated_at": ""} == {**changed, "updated_at": ""}
    assert (shown["id"], shown["return_urls"]) == (made["id"], ["https://app.example/done"])
    assert (await desk.do("delete_workload_identity", name="Nightly_Build"))["revoked"] == []
    assert await desk.refusal("get_workload_identity", name="Nightly_Build") == "not_found"


async def test_workloads_come_by_page(desk: Desk) -> None:
    names = [f"page-{number}" for number in range(5)]
    for name in names:
        await desk.do("create_workload_identity", name=name)
    found: list[str] = []
    page = ""
    while True:
        answer = await desk.do("list_workload_identities", limit=2, page=page)
        assert len(answer["workloads"]) <= 2
        found += [each["name"] for each in answer["workloads"]]
        page = answer.get("next_page", "")
        if not page:
            break
    assert [name for name in found if name in names] == names
    assert found == sorted(set(found))
    for name in names:
        await desk.do("delete_workload_identity", name=name)


async def test_a_provider_is_added_with_a_secret_that_only_its_place_was_told_of(
    desk: Desk, vendor: Vendor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ACME_VENDOR", vendor.client_secret)
    made = await desk.do(
        "create_provider", name="billing", vendor="custom", settings={**vendor.settings, "flows": "M2M"}, client_id=CLIENT_ID,
        secret_reference="env:ACME_VENDOR", scopes=["read"], allow_http_loopback=True, tags={"cost": "low"},
    )  # fmt: skip
    assert (made["has_secret"], made["secret_reference"]) == (True, "env:ACME_VENDOR")
    token = await desk.do("get_token", "alice", provider="billing")
    assert token["access_token"] in vendor.minted
    shown = await desk.do("get_provider", name="billing")
    assert {**shown, "secret_cleared": None} == {**made, "secret_cleared": None}
    listed = await desk.do("list_all_providers")
    assert [each["tags"] for each in listed["providers"] if each["name"] == "billing"] == [{"cost": "low"}]
    kept = await desk.do("update_provider", name="billing", scopes=["read", "write"])
    assert (kept["scopes"], kept["has_secret"], kept["secret_reference"]) == (["read", "write"], True, "env:ACME_VENDOR")
    ended = await desk.do("delete_provider", name="billing")
    assert [each["flow"] for each in ended["revoked"]] == ["M2M"]
    assert await desk.refusal("get_provider", name="billing") == "unknown_provider"


async def test_a_secret_that_would_go_elsewhere_is_cleared_with_where_it_was_read(
    desk: Desk, vendor: Vendor, secret: str
) -> None:
    await desk.do(
        "create_provider", name="moving", vendor="custom", settings={**vendor.settings, "flows": "M2M"}, client_id=CLIENT_ID,
        secret_reference="env:ACME_SECRET", scopes=["read"], allow_http_loopback=True,
    )  # fmt: skip
    moved = {"token_url": f"{vendor.url}/elsewhere"}
    changed = await desk.do("update_provider", name="moving", settings=moved)
    assert (changed["secret_cleared"], changed["has_secret"], changed.get("secret_reference")) == (True, False, None)
    again = await desk.do("update_provider", name="moving", secret_reference="env:ACME_SECRET")
    assert (again["secret_cleared"], again["has_secret"], again["secret_reference"]) == (False, True, "env:ACME_SECRET")
    assert secret not in str(again)
    await desk.do("delete_provider", name="moving")


async def test_an_api_key_comes_out_of_a_json_document(desk: Desk) -> None:
    key = new_secret()
    (desk.folder / "keys.json").write_text(f'{{"weather": "{key}", "other": 1}}')
    made = await desk.do(
        "create_provider", name="weather", vendor="api-key", secret_reference=f"file:{desk.folder}/keys.json",
        secret_json_key="weather", release="token",
    )  # fmt: skip
    assert (made["kind"], made["secret_json_key"]) == ("api-key", "weather")
    assert (await desk.do("get_api_key", "alice", provider="weather"))["api_key"] == key
    assert await desk.refusal("update_provider", name="weather", secret_reference="env:ACME_NONE") == "invalid_request"
    await desk.do("delete_provider", name="weather")


async def test_http_on_this_machine_is_only_for_servers_that_were_started_for_it(home: VaultHome) -> None:
    async with mcp_client(home.environment(), command=_serve("--toolset", "admin")) as client:
        for tool, more in (
            ("create_provider", {"vendor": "github"}),
            ("create_issuer", {"discovery_url": "http://127.0.0.1:1"}),
        ):
            answer = await client.call(tool, name="local", allow_http_loopback=True, **more)
            assert (answer["code"], "--allow-http-loopback" in answer["message"]) == ("invalid_request", True)


async def test_an_issuer_is_added_listed_and_removed(desk: Desk, idp: FakeIdentityProvider, secret: str) -> None:
    made = await desk.do(
        "create_issuer", name="company", discovery_url=idp.issuer, audiences=[AUDIENCE], login_client_id="the-login-client",
        secret_reference="env:ACME_SECRET", require_tool_scopes=True, allow_http_loopback=True,
    )  # fmt: skip
    assert (made["issuer"], made["has_login_secret"], made["require_tool_scopes"]) == (idp.issuer, True, True)
    assert secret not in str(made)
    assert [each["name"] for each in (await desk.do("list_issuers"))["issuers"]] == ["company"]
    await desk.do("create_workload_identity", name="of-company", issuer="company", clients=["c"])
    assert (await desk.do("get_workload_identity", name="of-company"))["issuer"] == "company"
    assert await desk.refusal("delete_issuer", name="company") == "conflict"
    await desk.do("delete_workload_identity", name="of-company")
    await desk.do("delete_issuer", name="company")
    assert (await desk.do("list_issuers"))["issuers"] == []


async def test_grants_are_listed_by_page_and_ended_by_whose_they_are(desk: Desk, vendor: Vendor, secret: str) -> None:
    del secret
    for name in ("calendar", "mail"):
        await desk.do(
            "create_provider", name=name, vendor="custom", settings={**vendor.settings, "flows": "USER_FEDERATION"},
            client_id=CLIENT_ID, secret_reference="env:ACME_SECRET", allow_http_loopback=True,
        )  # fmt: skip
    tokens = [
        await desk.grant(workload, user, provider)
        for workload in ("alice", "mallory")
        for user in ("bob", "carol")
        for provider in ("calendar", "mail")
    ]
    found = await _all_grants(desk)
    assert len(found) == len(tokens) == 8
    assert not any(token in str(found) for token in tokens)
    of_bob = "https://idp.example bob"
    for which, count in (({"user": of_bob}, 4), ({"workload": "mallory"}, 4), ({"user": of_bob, "provider": "mail"}, 2)):
        assert len(await _all_grants(desk, **which)) == count
    assert await desk.refusal("revoke_grants") == "invalid_request"
    assert await desk.refusal("revoke_grants", workload="nobody") == "not_found"
    assert await desk.refusal("revoke_grants", provider="nothing") == "unknown_provider"
    ended = await desk.do("revoke_grants", user=of_bob, provider="mail")
    assert sorted(each["workload"] for each in ended["revoked"]) == ["alice", "mallory"]
    assert {each["user"] for each in ended["revoked"]} == {of_bob}
    assert (await desk.do("revoke_grants", user=of_bob, provider="mail"))["revoked"] == []
    assert len((await desk.do("revoke_grants", workload="mallory"))["revoked"]) == 3
    assert sum(each["state"] == "active" for each in await _all_grants(desk)) == 3
    event = [each for each in desk.trail() if each["action"] == "revoke_grants"][-1]
    assert (event["workload"], event["user_display"], event["detail"]["grants"]) == ("alice", "olivia@example.com", "3")
    for name in ("calendar", "mail"):
        await desk.do("delete_provider", name=name)


async def _all_grants(desk: Desk, **which: str) -> list[Json]:
    found: list[Json] = []
    page = ""
    while True:
        answer = await desk.do("list_all_grants", limit=3, page=page, **which)
        found += answer["grants"]
        page = answer.get("next_page", "")
        if not page:
            return found


async def test_a_revocation_ends_consents_that_are_under_way(desk: Desk, vendor: Vendor, secret: str) -> None:
    del secret
    await desk.do(
        "create_provider", name="photos", vendor="custom", settings={**vendor.settings, "flows": "USER_FEDERATION"},
        client_id=CLIENT_ID, secret_reference="env:ACME_SECRET", allow_http_loopback=True, scopes=["read"],
    )  # fmt: skip
    link = await desk.ask("get_token", "reader", provider="photos", return_url=APP)
    assert link["status"] == "consent_required", link
    assert (await desk.do("revoke_grants", provider="photos"))["open_consents"] == 1
    assert (await desk.ask("get_consent", "reader", session_uri=link["session_uri"]))["status"] == "failed"
    await desk.do("delete_provider", name="photos")


async def test_the_trail_is_searched_by_everything_that_it_says(desk: Desk) -> None:
    begun = datetime.now(UTC)
    for number in range(5):
        assert await desk.refusal("get_api_key", "alice", provider=f"none-{number}") == "unknown_provider"
    await desk.do("create_workload_identity", name="searched-for")
    await desk.do("delete_workload_identity", name="searched-for")
    since = begun.isoformat()

    async def found(**filters: Any) -> list[Json]:
        return (await desk.do("search_audit", limit=200, since=since, **filters))["events"]

    assert {each["provider"] for each in await found(action="get_api_key")} == {f"none-{number}" for number in range(5)}
    assert len(await found(provider="none-3")) == 1
    assert len(await found(outcome="refused")) == len(await found(outcome="unknown_provider")) == 5
    assert [each["action"] for each in await found(who="olivia@example.com", outcome="ok") if "identity" in each["action"]] == [
        "delete_workload_identity",
        "create_workload_identity",
    ]
    assert len(await found(who="https://idp.example olivia", action="create_workload_identity")) == 1
    assert await found(who="nobody") == []
    assert (await desk.do("search_audit", until=(begun - timedelta(days=999)).isoformat()))["events"] == []
    pages: list[Json] = []
    page = ""
    while True:
        answer = await desk.do("search_audit", action="get_api_key", since=since, limit=2, page=page)
        pages.append(answer)
        page = answer.get("next_page", "")
        if not page:
            break
    assert [len(each["events"]) for each in pages] == [2, 2, 1]
    assert [each["provider"] for answer in pages for each in answer["events"]] == [f"none-{4 - number}" for number in range(5)]
    assert await desk.refusal("search_audit", limit=201) == "invalid_request"
    for wrong in ({"since": "yesterday"}, {"page": "1"}, {"page": f"{2**63}.a.1"}, {"who": "a\0b"}, {"until": "9999-99"}):
        assert await desk.refusal("search_audit", **wrong) == "invalid_request"


async def test_whatever_is_looked_at_stands_in_the_trail_with_who_looked(desk: Desk) -> None:
    for tool in ("list_workload_identities", "list_all_providers", "list_issuers", "list_all_grants", "search_audit"):
        await desk.do(tool)
        event = desk.trail()[-1]
        assert (event["action"], event["outcome"], event["user_display"]) == (tool, "ok", "olivia@example.com")
        assert event["detail"]["credential"] == "a-jti"
    await desk.do("get_workload_identity", name="alice")
    assert desk.trail()[-1]["action"] == "get_workload_identity"


# What they keep apart, and out


async def test_an_operator_of_one_tenant_finds_nothing_of_another(desk: Desk, vendor: Vendor, secret: str) -> None:
    del secret
    await desk.do(
        "create_provider", name="ours", vendor="custom", settings={**vendor.settings, "flows": "USER_FEDERATION"},
        client_id=CLIENT_ID, secret_reference="env:ACME_SECRET", allow_http_loopback=True,
    )  # fmt: skip
    await desk.grant("alice", "bob", "ours")
    foreign = {
        "get_workload_identity": {"name": "alice"},
        "update_workload_identity": {"name": "alice", "disabled": True},
        "delete_workload_identity": {"name": "alice"},
        "get_provider": {"name": "ours"},
        "update_provider": {"name": "ours", "disabled": True},
        "delete_provider": {"name": "ours"},
        "list_all_grants": {"provider": "ours"},
        "revoke_grants": {"workload": "alice"},
    }
    for tool, arguments in foreign.items():
        absent = {name: "never-there" if isinstance(value, str) else value for name, value in arguments.items()}
        here, nowhere = await desk.ask(tool, "elsewhere", **arguments), await desk.ask(tool, "elsewhere", **absent)
        assert (here["code"], here["message"]) == (nowhere["code"], nowhere["message"])
    assert [each["name"] for each in (await desk.do("list_workload_identities", "elsewhere"))["workloads"]] == ["robot"]
    for tool, what in (("list_all_providers", "providers"), ("list_issuers", "issuers"), ("list_all_grants", "grants")):
        assert (await desk.do(tool, "elsewhere"))[what] == []
    assert (await desk.do("revoke_grants", "elsewhere", user="https://idp.example bob"))["revoked"] == []
    events = (await desk.do("search_audit", "elsewhere", limit=200))["events"]
    assert {each["workload"] for each in events} <= {"robot", "operator"}
    assert await desk.refusal(
        "create_provider", "elsewhere", name="theirs", vendor="api-key", secret_reference="env:ACME_SECRET", release="never"
    ) == "invalid_request"  # fmt: skip
    assert len(await _all_grants(desk, provider="ours")) == 1
    await desk.do("delete_provider", name="ours")


VALID: dict[str, Json] = {
    "list_workload_identities": {},
    "get_workload_identity": {"name": "alice"},
    "create_workload_identity": {"name": "canary"},
    "update_workload_identity": {"name": "mallory"},
    "delete_workload_identity": {"name": "nobody"},
    "list_all_providers": {},
    "get_provider": {"name": "standing"},
    "create_provider": {"name": "canary", "vendor": "api-key", "secret_reference": "env:ACME_SECRET", "release": "never"},
    "update_provider": {"name": "standing"},
    "delete_provider": {"name": "nothing"},
    "list_issuers": {},
    "create_issuer": {"name": "canary", "discovery_url": "https://127.0.0.1:1", "audiences": ["a"]},
    "delete_issuer": {"name": "nobody"},
    "list_all_grants": {},
    "revoke_grants": {"user": "https://idp.example nobody"},
    "search_audit": {"who": "nobody"},
}
TOLD = {
    ("create_workload_identity", "owner"),
    ("create_workload_identity", "tags"),
    ("update_workload_identity", "owner"),
    ("update_workload_identity", "tags"),
    ("create_provider", "tags"),
    ("update_provider", "tags"),
    ("update_provider", "client_id"),
}
"""What is no secret: it is kept, and shown to operators."""


@pytest.mark.parametrize("tool", sorted(NEW))
async def test_a_secret_in_the_wrong_place_is_repeated_to_nobody(
    desk: Desk, tool: str, secret: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Whatever argument it is put into: as it is, in a list, in an object, as a name; the real one is never told either."""
    listed = (await desk.clients["operator"].list_tools()).tools
    arguments = next(each for each in listed if each.name == tool).input_schema["properties"]
    caplog.set_level("DEBUG")
    for argument in arguments:
        canary = f"hunter2 {new_secret()[:24]}!"
        forms: list[Any] = [canary, f"env:{canary}", [canary], {canary: canary}, [{"claim": canary, "operator": "equals"}]]
        for value in [] if (tool, argument) in TOLD else forms:
            given: Json = {**VALID[tool], argument: value}
            answer = await desk.ask(tool, **given)
            assert answer.get("code") != "rate_limited", argument  # or it was not even looked at
            assert canary not in str(answer), argument
            assert secret not in str(answer), argument
            if answer["status"] == "ok" and tool in ("create_provider", "create_workload_identity"):
                await desk.do(tool.replace("create", "delete"), name=answer["name"])
        said = f"{_logged(caplog)} {desk.trail()[-20:]}"
        caplog.clear()
        assert canary not in said, argument
        assert secret not in said, argument
    assert await desk.refusal(tool, **VALID[tool], client_secret=secret) == "invalid_request"
    assert secret not in f"{_logged(caplog)} {desk.trail()[-1]}"


def _logged(caplog: pytest.LogCaptureFixture) -> str:
    """What the server logged: the client is in this process, too, and logs what it sends."""
    ours = [each for each in caplog.records if not each.name.startswith(("mcp.client", "httpx", "httpcore", "mcp.shared"))]
    return " ".join(each.getMessage() for each in ours)


async def test_no_tool_of_operators_has_an_argument_or_a_field_for_a_secret(desk: Desk) -> None:
    for tool in (await desk.clients["operator"].list_tools()).tools:
        if tool.name in NEW:
            assert not _names_in(tool.input_schema) & {"secret", "client_secret", "api_key", "login_secret", "token", "key"}
            assert not _names_in(tool.output_schema or {}) & {
                "secret",
                "client_secret",
                "api_key",
                "access_token",
                "refresh_token",
            }


def _names_in(schema: Any) -> set[str]:
    """The names of all properties in a schema, wherever they stand."""
    inside: list[Any] = [*schema.values()] if isinstance(schema, dict) else schema if isinstance(schema, list) else []  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
    named: set[str] = set(schema.get("properties", ())) if isinstance(schema, dict) else set()  # pyright: ignore[reportUnknownMemberType, reportUnknownArgumentType]
    return named.union(*map(_names_in, inside))
