"""Does agent code get its credentials over HTTP: from threads, tasks and endpoints, for its users, and for nobody else?"""

from __future__ import annotations

import logging
import re
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from threading import Barrier
from typing import Any

import anyio
import anyio.to_thread
import httpx2
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from mcp_identity import ConsentRequiredError, CredentialProvider, IdentityClient, IdentityClientError, acting_for
from mcp_identity.sdk import wire
from mcp_identity.tools import gate
from tests.sdk.kit import RETURN_URL, World, arrive

NOBODY = "mid_wk_" + "A" * 43


@pytest.fixture(scope="module")
def client(world: World) -> IdentityClient:
    """The agent `alice`."""
    return world.client()


@pytest.fixture
def user(client: IdentityClient, request: pytest.FixtureRequest) -> Generator[str]:
    """A user whom nobody else has, for whom the test acts; the user's id.

    A test that is a coroutine says so itself: its context may be older than this.
    """
    name = re.sub(r"\W", "-", request.node.name)[:100]
    with acting_for(client.get_workload_access_token(user_id=name)):
        yield name


def test_plain_code_gets_a_token_and_all_that_is_known_of_it(world: World, client: IdentityClient) -> None:
    token = client.get_token("billing")
    assert token.access_token in world.vendor.minted
    assert (token.token_type, token.scopes, token.provider, token.flow) == ("Bearer", ("read",), "billing", "M2M")
    assert token.expires_at is not None
    assert token.access_token not in repr(token)
    assert client.get_token("billing", auth_flow="M2M", scopes=["read"]) == token


def test_plain_code_gets_a_key(world: World, client: IdentityClient) -> None:
    assert client.get_api_key("weather") == world.home.api_key
    assert CredentialProvider("weather", client=client).get_api_key() == world.home.api_key
    assert CredentialProvider("billing", client=client).get_access_token() in world.vendor.minted


async def test_coroutines_get_both(world: World, client: IdentityClient) -> None:
    assert await client.get_api_key_async("weather") == world.home.api_key
    assert (await client.get_token_async("billing")).access_token in world.vendor.minted
    assert await CredentialProvider("weather", client=client).get_api_key_async() == world.home.api_key
    assert await CredentialProvider("billing", client=client).get_access_token_async() in world.vendor.minted


async def test_plain_code_works_where_an_event_loop_runs(world: World, client: IdentityClient) -> None:
    assert client.get_api_key("weather") == world.home.api_key
    assert await anyio.to_thread.run_sync(client.get_api_key, "weather") == world.home.api_key


def test_one_client_serves_many_event_loops(world: World, client: IdentityClient) -> None:
    async def ask() -> str:
        return await client.get_api_key_async("weather")

    assert [anyio.run(ask) for _ in range(3)] == [world.home.api_key] * 3


def test_the_settings_say_where_the_server_is_and_what_it_is_shown(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MCP_IDENTITY_URL", f"{world.server.url}/mcp")
    monkeypatch.setenv("MCP_IDENTITY_WORKLOAD_KEY", world.server.keys["mallory"])
    with IdentityClient() as other:
        assert other.call_tool("whoami")["workload"] == "mallory"
        assert world.server.keys["mallory"] not in repr(other)


def test_any_tool_can_be_called(client: IdentityClient) -> None:
    names = {provider["name"] for provider in client.call_tool("list_providers")["providers"]}
    assert {"notes", "billing", "weather", "sealed"} <= names
    with pytest.raises(IdentityClientError) as failed:
        client.call_tool("get_root")
    assert failed.value.code == "access_denied"


# Consent


def test_a_user_is_shown_the_link_and_waited_for(world: World, client: IdentityClient, user: str) -> None:
    links: list[str] = []

    def show(link: str) -> None:
        links.append(link)
        world.agree(client, user)(link)

    token = client.get_token("notes", callback_url=RETURN_URL, on_auth_url=show)
    assert token.access_token in world.vendor.minted
    assert len(links) == 1
    again = client.get_token("notes", callback_url=RETURN_URL, on_auth_url=show)
    assert (again.access_token, len(links)) == (token.access_token, 1)
    anew = client.get_token("notes", callback_url=RETURN_URL, on_auth_url=show, force_authentication=True)
    assert anew.access_token != token.access_token
    assert len(links) == 2


async def test_a_link_may_be_shown_by_a_coroutine(world: World, client: IdentityClient, user: str) -> None:
    async def show(link: str) -> None:
        await anyio.to_thread.run_sync(world.agree(client, user), link)

    with acting_for(await client.get_workload_access_token_async(user_id=user)):
        token = await client.get_token_async("notes", callback_url=RETURN_URL, on_auth_url=show)
        again = await client.get_token_async("notes", callback_url=RETURN_URL)
    assert token.access_token == again.access_token


def test_plain_code_may_show_a_link_by_a_coroutine_which_acts_for_the_same_user(
    world: World, client: IdentityClient, user: str
) -> None:
    async def show(link: str) -> None:
        session_id = await anyio.to_thread.run_sync(arrive, link)
        assert await client.complete_consent_async(session_id, user_id=user, token=world.server.keys["alice"]) == "completed"
        assert (await client.call_tool_async("whoami"))["user_subject"] == user

    token = client.get_token("notes", callback_url=RETURN_URL, on_auth_url=show)
    assert token.access_token in world.vendor.minted


async def test_who_cannot_show_a_link_fails_with_their_own_error(client: IdentityClient, user: str) -> None:
    class NoScreenError(Exception):
        pass

    async def show(link: str) -> None:
        raise NoScreenError(len(link))

    with acting_for(await client.get_workload_access_token_async(user_id=user)):
        with pytest.raises(NoScreenError):
            await client.get_token_async("notes", callback_url=RETURN_URL, on_auth_url=show)
        with pytest.raises(NoScreenError):
            client.get_token("notes", callback_url=RETURN_URL, on_auth_url=show)


def test_a_user_who_says_no_ends_the_wait_at_once(world: World, client: IdentityClient, user: str) -> None:
    world.vendor.denies = True
    try:
        with pytest.raises(IdentityClientError) as denied:
            client.get_token("notes", callback_url=RETURN_URL, on_auth_url=arrive)
    finally:
        world.vendor.denies = False
    assert user
    assert (denied.value.code, denied.value.retryable) == ("consent_denied", False)


def test_a_consent_that_another_user_brought_back_is_nobodys(world: World, client: IdentityClient, user: str) -> None:
    def show(link: str) -> None:
        session_id = arrive(link)
        with pytest.raises(IdentityClientError) as failed:
            client.complete_consent(session_id, user_id="somebody-else", token=world.server.keys["alice"])
        assert failed.value.code == "consent_mismatch"

    assert user
    with pytest.raises(IdentityClientError) as failed:
        client.get_token("notes", callback_url=RETURN_URL, on_auth_url=show)
    assert failed.value.code == "consent_mismatch"


def test_who_does_not_wait_gets_the_link_in_the_error_and_later_the_token(
    world: World, client: IdentityClient, user: str
) -> None:
    with pytest.raises(ConsentRequiredError) as required:
        client.get_token("notes", callback_url=RETURN_URL, wait_seconds=0)
    world.agree(client, user)(required.value.authorization_url)
    assert client.get_token("notes", callback_url=RETURN_URL, wait_seconds=0).access_token in world.vendor.minted


def test_without_a_way_to_show_it_the_link_goes_to_the_error_output_and_into_no_log(
    client: IdentityClient, user: str, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    assert user
    caplog.set_level(logging.DEBUG)
    with pytest.raises(ConsentRequiredError) as required:
        client.get_token("notes", callback_url=RETURN_URL, wait_seconds=0.1)
    assert required.value.code == "consent_timed_out"
    printed = capsys.readouterr()
    assert required.value.authorization_url in printed.err
    assert printed.out == ""
    assert required.value.authorization_url not in caplog.text + str(required.value)
    assert "notes" in caplog.text


def test_many_who_wait_for_one_consent_take_one_place_at_the_server(world: World, client: IdentityClient, user: str) -> None:
    """A principal may wait in four calls at once; ten threads of an agent want the same token."""
    links: list[str] = []
    everybody = Barrier(11)

    def show(link: str) -> None:
        links.append(link)
        everybody.wait(20)

    def get() -> str:
        return client.get_token("notes", callback_url=RETURN_URL, on_auth_url=show).access_token

    with ThreadPoolExecutor(10) as pool:
        tokens = [pool.submit(copy_context().run, get) for _ in range(10)]
        everybody.wait(20)
        assert len(set(links)) == 1
        world.agree(client, user)(links[0])
        assert len({token.result(20) for token in tokens}) == 1
    assert all(event["outcome"] != "rate_limited" for event in world.events("get_consent"))


# Whose


def test_users_at_once_are_never_mixed_up(world: World, client: IdentityClient) -> None:
    users = [f"user-{number}" for number in range(4)]
    bearers = {user: client.get_workload_access_token(user_id=user) for user in users}

    def work(user: str) -> set[tuple[str, str]]:
        found: set[tuple[str, str]] = set()
        with acting_for(bearers[user]):
            for _ in range(8):
                token = client.get_token("notes", callback_url=RETURN_URL, on_auth_url=world.agree(client, user))
                found.add((client.call_tool("whoami")["user_subject"], token.access_token))
        return found

    async def work_async(user: str, found: dict[str, set[tuple[str, str]]]) -> None:
        with acting_for(bearers[user]):
            for _ in range(8):
                token = await client.get_token_async("notes", callback_url=RETURN_URL, wait_seconds=0)
                found.setdefault(user, set()).add(
                    ((await client.call_tool_async("whoami"))["user_subject"], token.access_token)
                )

    async def all_at_once() -> dict[str, set[tuple[str, str]]]:
        found: dict[str, set[tuple[str, str]]] = {}
        async with anyio.create_task_group() as tasks:
            for user in users:
                tasks.start_soon(work_async, user, found)
        return found

    with ThreadPoolExecutor(4) as pool:
        by_threads = dict(zip(users, pool.map(work, users), strict=True))
    for user, found in by_threads.items():
        assert {name for name, _ in found} == {user}
        assert len(found) == 1
    assert len({token for found in by_threads.values() for _, token in found}) == 4
    assert anyio.run(all_at_once) == by_threads


async def test_endpoints_act_for_whoever_asks_and_for_nobody_afterwards(client: IdentityClient) -> None:
    def plain(request: Request) -> JSONResponse:  # in a worker thread
        with acting_for(request.headers["x-user"]):
            return JSONResponse(client.call_tool("whoami"))

    async def coroutine(request: Request) -> JSONResponse:
        with acting_for(request.headers["x-user"]):
            return JSONResponse(await client.call_tool_async("whoami"))

    async def both(request: Request) -> JSONResponse:  # plain code inside of the running loop
        with acting_for(request.headers["x-user"]):
            return JSONResponse(client.call_tool("whoami"))

    routes = [Route(f"/{endpoint.__name__}", endpoint) for endpoint in (plain, coroutine, both)]
    app = httpx2.ASGITransport(Starlette(routes=routes))
    bearers = {user: await client.get_workload_access_token_async(user_id=user) for user in ("anna", "ben")}
    found: dict[tuple[str, str], Any] = {}

    async def ask(http: httpx2.AsyncClient, path: str, user: str) -> None:
        found[path, user] = (await http.get(path, headers={"x-user": bearers[user]})).json()["user_subject"]

    async with httpx2.AsyncClient(transport=app, base_url="http://app") as http, anyio.create_task_group() as tasks:
        for path in ("/plain", "/coroutine", "/both"):
            for user in bearers:
                tasks.start_soon(ask, http, path, user)
    assert all(subject == user for (_, user), subject in found.items())
    assert len(found) == 6
    assert "user_subject" not in await client.call_tool_async("whoami")


def test_the_server_reads_the_header_that_names_a_workload() -> None:
    assert wire.WORKLOAD_HEADER == gate.WORKLOAD_HEADER


def test_a_named_workload_must_be_the_bearers_own(world: World) -> None:
    client = world.client(tokens=dict(world.server.keys))
    for agent in ("alice", "mallory"):
        assert client.call_tool("whoami", workload=agent)["workload"] == agent
        assert CredentialProvider("weather", client=client, workload=agent).get_api_key() == world.home.api_key
    with pytest.raises(IdentityClientError) as failed:
        client.get_api_key("weather", workload="somebody")
    assert failed.value.code == "access_denied"
    assert "alice" in failed.value.message
    asked = len(world.events("whoami"))
    client.get_api_key("weather", workload="alice")
    assert len(world.events("whoami")) == asked  # it was proved before


# What cannot be


@pytest.mark.parametrize(
    ("provider", "code", "remedy"),
    [
        ("nope", "unknown_provider", "list_providers"),
        ("sealed", "access_denied", "workloads show"),
        ("a b", "unknown_provider", ""),
    ],
)
def test_what_cannot_be_had_is_an_error_that_says_what_to_do(
    client: IdentityClient, provider: str, code: str, remedy: str
) -> None:
    with pytest.raises(IdentityClientError) as failed:
        client.get_api_key(provider)
    assert failed.value.code == code
    assert remedy in failed.value.remedy
    assert re.fullmatch(r"[0-9a-f]{16}", failed.value.correlation_id)


def test_a_bearer_that_proves_nothing_is_told_so_and_stands_nowhere(world: World, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    with pytest.raises(IdentityClientError) as failed:
        world.client(token=NOBODY).get_api_key("weather")
    assert failed.value.code == "unauthenticated"
    assert NOBODY not in caplog.text + str(failed.value) + repr(failed.value)
    with pytest.raises(IdentityClientError) as failed:
        IdentityClient(world.server.url).call_tool("whoami")
    assert (failed.value.code, "MCP_IDENTITY_WORKLOAD_KEY" in failed.value.remedy) == ("unauthenticated", True)


def test_no_secret_gets_into_a_log(world: World, client: IdentityClient, user: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    token = client.get_token("notes", callback_url=RETURN_URL, on_auth_url=world.agree(client, user))
    key = client.get_api_key("weather")
    wat = client.get_workload_access_token(user_id=user)
    with pytest.raises(IdentityClientError) as failed:
        client.get_workload_access_token(user_token="a.users.token")
    for secret in (token.access_token, key, wat, "a.users.token", *world.server.keys.values()):
        assert secret not in caplog.text + str(failed.value)


@pytest.mark.parametrize("bearer", ["", "Bearer abc", "abc\n", "ä"])
def test_what_is_no_bearer_is_refused_before_it_is_sent(bearer: str) -> None:
    with pytest.raises(IdentityClientError) as failed, acting_for(bearer):
        pass
    assert failed.value.code == "invalid_request"
    with pytest.raises(IdentityClientError):
        IdentityClient("http://127.0.0.1:1", token=bearer)


@pytest.mark.parametrize(
    "url",
    [
        "us-west-2",
        "http://identity.example.com",
        "https://u:p@identity.example.com",
        "https://identity.example.com/?a=b",
        "https://identity.example.com/other",
        "https://",
        "ftp://127.0.0.1",
        "http://127.0.0.1:99999",
        "https://[::1",
    ],
)
def test_an_address_that_a_bearer_must_not_go_to_is_refused(url: str) -> None:
    with pytest.raises(IdentityClientError) as failed:
        IdentityClient(url)
    assert failed.value.code == "not_configured"


@pytest.mark.parametrize(
    "arguments",
    [{"command": ("mcp-identity", "serve")}, {"workload": "a b"}, {"tokens": {"a b": "mid_wk_x"}}, {"tokens": {"a": "b c"}}],
)
def test_what_contradicts_itself_is_refused(arguments: dict[str, Any]) -> None:
    with pytest.raises(IdentityClientError) as failed:
        IdentityClient("http://127.0.0.1:1", **arguments)
    assert failed.value.code == "invalid_request"


def test_settings_that_do_not_stand_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MCP_IDENTITY_CALLBACK_PORT", "x")
    with pytest.raises(IdentityClientError) as failed:
        IdentityClient("http://127.0.0.1:1", token="mid_wk_x").call_tool("whoami")
    assert failed.value.code == "not_configured"
    assert "callback_port" in failed.value.message


@pytest.mark.parametrize("url", ["http://localhost:8000", "http://[::1]:8000/mcp", "https://identity.example.com/mcp/"])
def test_an_address_that_a_bearer_may_go_to_is_taken(url: str) -> None:
    assert url in repr(IdentityClient(url))


async def test_what_nobody_waits_for_any_more_ends(world: World, client: IdentityClient, user: str) -> None:
    shown, wat = anyio.Event(), await client.get_workload_access_token_async(user_id=user)
    with acting_for(wat):
        async with anyio.create_task_group() as tasks:

            async def get() -> None:
                await client.get_token_async("notes", callback_url=RETURN_URL, on_auth_url=lambda _: shown.set())

            tasks.start_soon(get)
            await shown.wait()
            tasks.cancel_scope.cancel()
    assert await client.get_api_key_async("weather") == world.home.api_key


def test_a_closed_client_says_so(world: World) -> None:
    client = world.client()
    assert client.get_api_key("weather")
    client.close()
    client.close()
    with pytest.raises(IdentityClientError) as failed:
        client.get_api_key("weather")
    assert failed.value.code == "closed"
