"""What if the server is not there, goes away, comes back, or gives handles in place of secrets?"""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import threading
from collections.abc import Generator
from contextlib import ExitStack
from pathlib import Path

import httpx2
import pytest
from anyio.from_thread import BlockingPortal, start_blocking_portal

from mcp_identity import IdentityClient, IdentityClientError, acting_for
from mcp_identity.sdk.endpoint import Who
from mcp_identity.sdk.wire import Sending, failure_of, note_lost
from tests.fakes.home import VaultHome, free_port
from tests.fakes.vendor import Vendor, running_vendor
from tests.http.kit import Server, local_options, server_here
from tests.sdk.kit import RETURN_URL, World
from tests.transport.certificates import Authority


class Fleeting:
    """A server on one port that can be stopped and started again."""

    def __init__(self, portal: BlockingPortal, home: VaultHome, vendor: Vendor) -> None:
        self.portal, self.home, self.vendor = portal, home, vendor
        self.port, self.key = free_port(), ""
        self._stack = ExitStack()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> Server:
        agents = () if self.key else ("alice",)
        serving = server_here(self.home, local_options("http", port=self.port), agents=agents, grace_seconds=0.5)
        server = self._stack.enter_context(self.portal.wrap_async_context_manager(serving))
        self.key = self.key or server.keys["alice"]
        return server

    def stop(self) -> None:
        self._stack.close()


@pytest.fixture(scope="module")
def fleeting(tmp_path_factory: pytest.TempPathFactory) -> Generator[Fleeting]:
    """A server that runs now."""
    with start_blocking_portal() as portal, portal.wrap_async_context_manager(running_vendor()) as vendor:
        home = VaultHome(tmp_path_factory.mktemp("home"))
        portal.call(home.add_providers, vendor)
        server = Fleeting(portal, home, vendor)
        server.start()
        yield server
        server.stop()


def test_a_server_that_is_not_there_is_named_as_what_is_missing() -> None:
    with (
        IdentityClient(f"http://127.0.0.1:{free_port()}", token="mid_wk_x") as client,
        pytest.raises(IdentityClientError) as failed,
    ):
        client.get_api_key("weather")
    assert (failed.value.code, failed.value.retryable) == ("unreachable", True)
    assert "MCP_IDENTITY_URL" in failed.value.remedy


def test_a_client_outlives_its_server(fleeting: Fleeting) -> None:
    with IdentityClient(fleeting.url, token=fleeting.key) as client:
        assert client.get_api_key("weather") == fleeting.home.api_key
        fleeting.stop()
        with pytest.raises(IdentityClientError) as failed:
            client.get_api_key("weather")
        assert failed.value.code == "unreachable"
        fleeting.start()
        assert client.get_api_key("weather") == fleeting.home.api_key
        fleeting.stop()  # the connection that was kept is dead, and nobody has noticed
        fleeting.start()
        assert client.get_api_key("weather") == fleeting.home.api_key


def test_calls_at_once_fail_and_work_each_for_itself(fleeting: Fleeting) -> None:
    with IdentityClient(fleeting.url, token=fleeting.key) as client:
        found: list[str] = []
        threads = [threading.Thread(target=lambda: found.append(client.get_api_key("weather"))) for _ in range(8)]
        for thread in threads:
            thread.start()
        with pytest.raises(IdentityClientError) as failed:
            client.get_api_key("weather", token="mid_wk_" + "B" * 43)
        for thread in threads:
            thread.join(20)
    assert failed.value.code == "unauthenticated"
    assert found == [fleeting.home.api_key] * 8


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_a_client_made_before_a_fork_works_after_it(fleeting: Fleeting, tmp_path: Path) -> None:
    code = (
        "import os, sys\nfrom mcp_identity import IdentityClient\n"
        "client = IdentityClient()\nkey = client.get_api_key('weather')\n"
        "child = os.fork()\nagain = client.get_api_key('weather')\n"
        "if not child:\n    os._exit(0 if again == key else 7)\n"
        "client.close()\nsys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))"
    )
    environment = {**os.environ, "MCP_IDENTITY_URL": fleeting.url, "MCP_IDENTITY_WORKLOAD_KEY": fleeting.key}
    environment["MCP_IDENTITY_HOME"] = str(tmp_path)
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], env=environment, capture_output=True, text=True, timeout=40, check=False
    )
    assert done.returncode == 0, done.stderr


# Handles


def test_code_gets_the_secret_where_a_model_gets_a_handle(world: World) -> None:
    world.release("handle", "weather", "billing", "notes")
    client = world.client()
    assert "handle" in client.call_tool("get_api_key", {"provider": "weather"})
    assert client.get_api_key("weather") == world.home.api_key
    assert client.get_token("billing").access_token in world.vendor.minted
    with acting_for(client.get_workload_access_token(user_id="7")):
        token = client.get_token("notes", callback_url=RETURN_URL, on_auth_url=world.agree(client, "7"))
        assert token.access_token in world.vendor.minted
        assert token.scopes == ("read",)
    events = world.events("redeem_release")
    assert [event["outcome"] for event in events] == ["ok"] * len(events)


# Certificates


def test_a_certificate_is_believed_by_whom_the_program_says(tmp_path_factory: pytest.TempPathFactory) -> None:
    authority = Authority.create(tmp_path_factory.mktemp("ca"))
    authority.server_context(["localhost", "127.0.0.1"])
    (chain,) = authority.folder.glob("*.pem")
    port = free_port()
    url = f"https://localhost:{port}"
    home = VaultHome(tmp_path_factory.mktemp("home"))
    serving = server_here(home, local_options("http", port=port), public_url=url, tls_cert=chain, tls_key=chain)
    with start_blocking_portal() as portal, portal.wrap_async_context_manager(serving) as server:
        with IdentityClient(url, token=server.keys["alice"], ssl_context=authority.client_context()) as client:
            assert client.call_tool("whoami")["workload"] == "alice"
        with IdentityClient(url, token=server.keys["alice"]) as client, pytest.raises(IdentityClientError) as failed:
            client.call_tool("whoami")
    assert failed.value.code == "unreachable"
    assert "certificate" in failed.value.message


# A server that asks nobody


def test_where_nobody_is_asked_a_workload_is_a_label(tmp_path: Path) -> None:
    home = VaultHome(tmp_path)
    serving = server_here(home, local_options("http", insecure_loopback=True), agents=())
    with (
        start_blocking_portal() as portal,
        portal.wrap_async_context_manager(serving) as server,
        IdentityClient(server.url, workload="helper") as client,
    ):
        assert client.call_tool("whoami")["workload"] == "helper"
        assert client.call_tool("whoami", workload="another")["workload"] == "another"


# Clients that nobody closed


def test_what_a_forgotten_client_had_ends(world: World) -> None:
    def threads() -> list[threading.Thread]:
        return [thread for thread in threading.enumerate() if thread.name == "mcp-identity-client"]

    before = set(threads())
    client = IdentityClient(world.server.url, token=world.server.keys["alice"])
    assert client.get_api_key("weather")
    (own,) = set(threads()) - before
    del client
    gc.collect()
    own.join(20)
    assert not own.is_alive()


# What a failure below MCP says


def response(status: int, body: object = None, **headers: str) -> httpx2.Response:
    return httpx2.Response(status, json=body, headers=headers) if body is not None else httpx2.Response(status, headers=headers)


@pytest.mark.parametrize(
    ("answer", "code", "retryable"),
    [
        (response(401, {"error": "token_expired", "message": "the bearer has expired"}), "token_expired", False),
        (response(403, {"error": "insufficient_scope", "message": "it needs identity:admin"}), "insufficient_scope", False),
        (
            response(429, {"error": "rate_limited", "message": "too many requests"}, **{"retry-after": "3"}),
            "rate_limited",
            True,
        ),
        (response(404, {"status": "error", "code": "not_found", "message": "no"}), "not_found", False),
        (response(401), "unauthenticated", False),
        (response(403, ["a page"]), "access_denied", False),
        (response(404), "not_configured", False),
        (response(302, location="https://login.example.com"), "bad_answer", False),
        (response(500), "bad_answer", False),
        (response(502), "unreachable", True),
    ],
)
def test_a_status_that_is_no_success_is_said_in_our_codes(answer: httpx2.Response, code: str, retryable: bool) -> None:
    said = failure_of(answer)
    assert said is not None
    assert (said["code"], said.get("retryable", False)) == (code, retryable)
    assert said.get("retry_after_seconds", 0) == (3 if code == "rate_limited" else 0)


def test_an_answer_of_the_protocol_speaks_for_itself() -> None:
    assert failure_of(response(400, {"jsonrpc": "2.0", "id": 1, "error": {"code": -32602, "message": "no"}})) is None


@pytest.mark.parametrize(
    ("error", "code", "lost", "unsent"),
    [
        (httpx2.ConnectError("refused"), "unreachable", True, True),
        (httpx2.RemoteProtocolError("gone"), "unreachable", True, False),
        (httpx2.ReadTimeout("slow"), "timed_out", False, False),
    ],
)
def test_only_what_was_lost_may_be_asked_again(error: httpx2.TransportError, code: str, lost: bool, unsent: bool) -> None:
    sending = Sending(Who("mid_wk_x"))
    note_lost(sending, error)
    assert sending.failure is not None
    assert (sending.failure["code"], sending.is_lost, sending.is_unsent) == (code, lost, unsent)
