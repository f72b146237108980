"""When does a server refuse to start, and what does it say to do?"""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from mcp_identity.app.exposure import HttpOptions, require_safe, tls_context
from mcp_identity.broker.specifications import WorkloadSpec
from mcp_identity.domain.errors import ConfigurationError
from mcp_identity.settings import Settings
from tests.fakes.home import VaultHome
from tests.http.kit import (
    add_agents,
    ask,
    http_client,
    local_options,
    server_here,
    server_process,
    stateless,
    whoami,
)

ANYWHERE = "0.0.0.0"  # noqa: S104
PUBLIC = "https://identity.example"
PROXY = {"trusted_proxies": ("10.0.0.1",)}
TLS = {"tls_cert": Path("cert.pem"), "tls_key": Path("key.pem")}


@pytest.mark.parametrize(
    ("loopback", "options", "settings", "said"),
    [
        (False, {}, {}, "MCP_IDENTITY_PUBLIC_URL=https://HOST"),
        (False, {}, PROXY, "MCP_IDENTITY_PUBLIC_URL=https://HOST"),
        (False, {}, TLS, "MCP_IDENTITY_PUBLIC_URL=https://HOST"),
        (False, {}, {"public_url": PUBLIC}, "MCP_IDENTITY_TRUSTED_PROXIES"),
        (False, {}, {"public_url": "http://identity.example", **PROXY}, "https://"),
        (False, {}, {"public_url": "http://127.0.0.1:8000", **PROXY}, "https://"),
        (True, {}, {"public_url": "http://identity.example"}, "https://"),
        (True, {}, {"tls_cert": Path("cert.pem")}, "MCP_IDENTITY_TLS_KEY"),
        (True, {}, {"tls_key": Path("key.pem")}, "MCP_IDENTITY_TLS_CERT"),
        (False, {"insecure_loopback": True}, {}, "leave --host out"),
        (False, {"insecure_loopback": True}, {"public_url": PUBLIC, **PROXY}, "--insecure-loopback"),
        (True, {"insecure_loopback": True}, {"public_url": PUBLIC}, "--insecure-loopback"),
        (True, {"insecure_loopback": True}, PROXY, "--insecure-loopback"),
        (True, {"insecure_loopback": True}, {"allowed_hosts": ("evil.example",)}, "--insecure-loopback"),
        (True, {"insecure_loopback": True}, {"allowed_hosts": ("localhost", "evil.example:80")}, "--insecure-loopback"),
        (False, {"allow_http_loopback": True}, {"public_url": PUBLIC, **PROXY}, "--allow-http-loopback"),
    ],
)
def test_what_must_not_be_served_is_refused(
    loopback: bool, options: dict[str, bool], settings: dict[str, object], said: str
) -> None:
    """covers: A07."""
    host = "127.0.0.1" if loopback else ANYWHERE
    with pytest.raises(ConfigurationError) as refused:
        require_safe(Settings(**settings), HttpOptions(host=host, **options), loopback=loopback)  # type: ignore[arg-type]
    assert said in refused.value.message


@pytest.mark.parametrize(
    ("loopback", "options", "settings"),
    [
        (True, {}, {}),
        (True, {"allow_http_loopback": True}, {}),
        (True, {"insecure_loopback": True}, {}),
        (True, {"insecure_loopback": True}, {"public_url": "http://localhost:8000", "allowed_hosts": ("127.0.0.1:1",)}),
        (True, {}, {"public_url": "http://127.0.0.1:8000"}),
        (True, {}, {"public_url": PUBLIC}),
        (True, {}, TLS),
        (False, {}, {"public_url": PUBLIC, **PROXY}),
        (False, {}, {"public_url": PUBLIC, **TLS}),
    ],
)
def test_what_may_be_served_is(loopback: bool, options: dict[str, bool], settings: dict[str, object]) -> None:
    host = "127.0.0.1" if loopback else ANYWHERE
    require_safe(Settings(**settings), HttpOptions(host=host, **options), loopback=loopback)  # type: ignore[arg-type]


@pytest.mark.parametrize("transport", ["http", "sse"])
async def test_beyond_this_machine_nobody_is_served_without_callers(empty_home: VaultHome, transport: str) -> None:
    """The process says what to do, with status 78; with a key it starts.

    covers: A07
    """
    arguments = ("--transport", transport, "--host", ANYWHERE, "--port", "0")
    settings = {"PUBLIC_URL": PUBLIC, "TRUSTED_PROXIES": "127.0.0.1"}
    async with server_process(empty_home, *arguments, up=False) as server:
        assert server.process is not None
        assert await server.process.wait() == 78
    assert b"MCP_IDENTITY_PUBLIC_URL" in server.log
    assert not (empty_home.path / "vault.db").exists()
    async with server_process(empty_home, *arguments, up=False, settings=settings) as server:
        assert server.process is not None
        assert await server.process.wait() == 78
    assert b"mcp-identity workloads create NAME --issue-key" in server.log
    keys = await add_agents(empty_home, "alice")
    async with server_process(empty_home, *arguments, keys=keys, settings=settings) as server:
        assert server.url == PUBLIC


async def test_on_this_machine_it_starts_without_callers_and_says_so(empty_home: VaultHome) -> None:
    async with server_process(empty_home, "--transport", "http", "--port", "0") as server, http_client() as http:
        assert (await ask(http, server, whoami(), {})).status_code == 401
    assert server.log.startswith(b"note: ")
    assert b"--issue-key" in server.log


@pytest.mark.parametrize(
    ("arguments", "settings", "status", "said"),
    [
        (("--transport", "http", "--port", "70000"), {}, 2, b"a port is 0 to 65535"),
        (("--transport", "stdio", "--insecure-loopback"), {}, 2, b"--transport http or sse"),
        (("--host", "127.0.0.1"), {}, 2, b"--transport http or sse"),
        (("--transport", "http", "--workload", "agent"), {}, 2, b"--workload is for stdio"),
        (("--transport", "sse", "--trust-local-user"), {}, 2, b"--trust-local-user is for stdio and --insecure-loopback"),
        (("--transport", "http", "--host", "no.such.host.invalid"), {}, 78, b"--host"),
        (("--transport", "http"), {"TLS_CERT": "/nowhere/cert.pem", "TLS_KEY": "/nowhere/key.pem"}, 78, b"FileNotFoundError"),
        (("--transport", "http"), {"PUBLIC_URL": "https://host/path"}, 78, b"public_url"),
        (("--transport", "http"), {"TRUSTED_PROXIES": "everybody"}, 78, b"trusted_proxies"),
        (("--transport", "http"), {"CALLS_PER_SECOND": "0"}, 78, b"calls_per_second"),
        (("--transport", "http", "--insecure-loopback"), {"WORKLOAD": "No Name!"}, 78, b"the workload is"),
    ],
)
async def test_what_does_not_stand_ends_it(
    empty_home: VaultHome, arguments: tuple[str, ...], settings: dict[str, str], status: int, said: bytes
) -> None:
    async with server_process(empty_home, *arguments, up=False, settings=settings) as server:
        assert server.process is not None
        assert await server.process.wait() == status
    assert said in server.log
    assert b"Traceback" not in server.log
    assert not (empty_home.path / "vault.db").exists()


async def test_a_port_that_is_taken_ends_it(empty_home: VaultHome) -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        port = str(holder.getsockname()[1])
        async with server_process(empty_home, "--transport", "http", "--port", port, up=False) as server:
            assert server.process is not None
            assert await server.process.wait() == 78
    assert b"choose one: --port N" in server.log


async def test_a_vault_without_its_key_ends_it_and_frees_the_port(empty_home: VaultHome) -> None:
    await add_agents(empty_home, "alice")
    (empty_home.path / "key").unlink()
    async with server_process(empty_home, "--transport", "http", "--port", "0", up=False) as server:
        assert server.process is not None
        assert await server.process.wait() == 78
    assert b"configuration_error" in server.log
    assert server.log.count(b"\n") == 1


async def test_insecure_loopback_serves_the_local_user_as_the_client_names_itself(empty_home: VaultHome) -> None:
    async with (
        server_here(empty_home, local_options(insecure_loopback=True), agents=()) as server,
        http_client() as http,
    ):
        answer = (await ask(http, server, whoami(), {})).json()["result"]["structuredContent"]
    assert (answer["workload"], answer["verified"], answer["authenticated_by"]) == ("kit", False, "loopback")
    assert answer["user_subject"]
    event = empty_home.trail()[-1]
    assert (event["edge"], event["workload"], event["verified"]) == ("http", "kit", 0)


async def test_insecure_loopback_serves_the_configured_workload(empty_home: VaultHome) -> None:
    options = local_options(insecure_loopback=True)
    async with server_here(empty_home, options, agents=(), workload="mine") as server, http_client() as http:
        answer = (await ask(http, server, whoami(), {"authorization": "Bearer x"})).json()
    assert answer["result"]["structuredContent"]["workload"] == "mine"


async def test_trust_local_user_changes_nothing_on_a_vault_of_ones_own(empty_home: VaultHome) -> None:
    async with server_process(empty_home, "--trust-local-user", up=False) as server:  # its input has ended
        assert server.process is not None
        assert await server.process.wait() == 0
    assert server.log == b""


def test_a_key_with_a_password_or_of_another_certificate_is_refused(tmp_path: Path) -> None:
    (tmp_path / "cert.pem").write_text("no certificate")
    (tmp_path / "key.pem").write_text("no key")
    with pytest.raises(ConfigurationError, match="TLS_CERT"):
        tls_context(Settings(tls_cert=tmp_path / "cert.pem", tls_key=tmp_path / "key.pem"))


@pytest.mark.parametrize("site", ["cross-site", "same-site"])
async def test_insecure_loopback_opens_no_stream_for_somebody_elses_page(empty_home: VaultHome, site: str) -> None:
    """An image of a page brings no Origin. covers: A07."""
    async with server_here(empty_home, local_options(insecure_loopback=True), agents=()) as server, http_client() as http:
        for path in ("/sse", "/mcp"):
            answer = await http.get(f"{server.url}{path}", headers={"sec-fetch-site": site, "sec-fetch-mode": "no-cors"})
            assert answer.status_code == 403
        body, headers = whoami()
        own = {**headers, "sec-fetch-site": "same-origin"}
        assert (await http.post(f"{server.url}/mcp", json=body, headers=own)).status_code == 200


async def test_what_an_operator_changes_is_read_again_where_nobody_is_asked(empty_home: VaultHome) -> None:
    lists = stateless("tools/call", {"name": "list_grants", "arguments": {}})
    async with server_here(empty_home, local_options(insecure_loopback=True), agents=()) as server, http_client() as http:

        async def status() -> str:
            found = (await ask(http, server, lists, {})).json()["result"]["structuredContent"]
            return str(found.get("code", found["status"]))

        assert server.serving is not None
        assert await status() == "ok"
        graph = server.serving.prepared.graph
        call = graph.broker.call(graph.broker.directory.operator(graph.user), "update_workload_identity")
        await graph.broker.workloads.update(call, "kit", WorkloadSpec(owner="somebody else"))
        assert [await status() for _ in range(3)][1:] == ["ok", "ok"]
