"""Does the server speak TLS by itself, and nothing else then?"""

from __future__ import annotations

import ssl
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import anyio
import httpx2
import pytest

from tests.fakes.home import VaultHome, free_port
from tests.http.kit import Mode, Server, Transport, ask, http_client, local_options, mcp_over, server_here, stateless, whoami
from tests.transport.certificates import Authority


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """A private CA."""
    return Authority.create(tmp_path_factory.mktemp("ca"))


@pytest.fixture(scope="module")
def chain(authority: Authority) -> Path:
    """A certificate of this machine, and its key."""
    authority.server_context(["localhost", "127.0.0.1"])
    (made,) = authority.folder.glob("*.pem")
    return made


@pytest.fixture(scope="module")
async def secure(chain: Path, tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[Server]:
    """A server with a certificate."""
    home = VaultHome(tmp_path_factory.mktemp("secure"))
    port = free_port()
    url = f"https://localhost:{port}"
    async with server_here(home, local_options(port=port), public_url=url, tls_cert=chain, tls_key=chain) as server:
        yield server


@pytest.mark.parametrize("mode", ["auto", "legacy"])
@pytest.mark.parametrize("transport", ["http", "sse"])
async def test_clients_work_over_tls(secure: Server, authority: Authority, transport: Transport, mode: Mode) -> None:
    assert secure.url.startswith("https://localhost:")
    headers = secure.bearer("alice")
    async with mcp_over(secure, transport, mode, headers, verify=authority.client_context()) as client:
        answer = (await client.call_tool("whoami", {})).structured_content
    assert answer is not None
    assert answer["workload"] == "alice"


async def test_challenges_name_https(secure: Server, authority: Authority) -> None:
    async with http_client(verify=authority.client_context()) as http:
        answer = await ask(http, secure, whoami(), {})
    assert f'resource_metadata="{secure.url}/.well-known/' in answer.headers["www-authenticate"]


async def test_links_to_its_own_port_name_https_too(authority: Authority, chain: Path, home: VaultHome) -> None:
    """Without a public URL they are made of the port."""
    asks = stateless("tools/call", {"name": "get_token", "arguments": {"provider": "notes"}})
    async with (
        server_here(home, local_options(insecure_loopback=True), agents=(), tls_cert=chain, tls_key=chain) as server,
        http_client(verify=authority.client_context()) as http,
    ):
        answer = (await ask(http, server, asks, {})).json()["result"]["structuredContent"]
        assert answer["authorization_url"].startswith(f"{server.url}/consent/")
        assert (await http.get(answer["authorization_url"])).status_code == 200


async def test_nothing_is_said_in_the_clear(secure: Server) -> None:
    async with http_client() as http:
        with pytest.raises(httpx2.HTTPError):
            await http.get(secure.url.replace("https", "http") + "/healthz")


async def test_old_tls_is_not_spoken(secure: Server, authority: Authority) -> None:
    old = authority.client_context()
    old.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
    with pytest.warns(DeprecationWarning, match="TLSv1_1"):
        old.maximum_version = ssl.TLSVersion.TLSv1_1
    async with http_client(verify=old) as http:
        with pytest.raises(httpx2.HTTPError):
            await http.get(f"{secure.url}/healthz")


async def test_who_says_nothing_does_not_hold_a_connection(chain: Path, empty_home: VaultHome) -> None:
    """covers: A56."""
    port = free_port()
    given: dict[str, Any] = {"public_url": f"https://localhost:{port}", "tls_cert": chain, "tls_key": chain}
    async with server_here(empty_home, local_options(port=port), request_seconds=0.2, **given):
        for beginning in (b"", b"\x16\x03\x01"):
            async with await anyio.connect_tcp("127.0.0.1", port) as stream:
                await stream.send(beginning)
                with anyio.fail_after(5), pytest.raises((anyio.EndOfStream, anyio.BrokenResourceError)):
                    await stream.receive()
