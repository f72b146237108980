"""Does a server behind a proxy that ends TLS work as the note on proxies says?

The tests speak as that proxy does: in the clear, from a listed address, with the public host and the client's address.
"""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator
from pathlib import Path

import httpx2
import pytest

from mcp_identity.settings import Settings
from tests.fakes.home import VaultHome
from tests.http.kit import Server, add_agents, ask, server_process, stateless, whoami

PUBLIC = "https://identity.example"
NOTE = Path(__file__).parents[2] / "docs" / "reverse-proxy.md"


@pytest.fixture
async def behind(empty_home: VaultHome) -> AsyncGenerator[Server]:
    """A server that others could reach, and a proxy before it at 127.0.0.1."""
    keys = await add_agents(empty_home, "alice")
    settings = {"PUBLIC_URL": PUBLIC, "TRUSTED_PROXIES": "127.0.0.1", "FAILED_AUTHENTICATIONS_PER_MINUTE": "2"}
    arguments = ("--transport", "sse", "--host", "0.0.0.0", "--port", "0")  # noqa: S104
    async with server_process(empty_home, *arguments, keys=keys, settings=settings) as server:
        yield server


def as_proxy(client: str = "198.51.100.7") -> dict[str, str]:
    """The headers that a proxy adds."""
    return {"host": "identity.example", "x-forwarded-for": client, "x-forwarded-proto": "https"}


async def test_a_server_behind_a_proxy(behind: Server, http: httpx2.AsyncClient) -> None:
    assert behind.url == PUBLIC
    behind.url = f"http://127.0.0.1:{behind.port}"
    answer = await ask(http, behind, whoami(), {**behind.bearer("alice"), **as_proxy()})
    assert answer.json()["result"]["structuredContent"]["workload"] == "alice"
    challenged = await ask(http, behind, whoami(), as_proxy())
    assert f'resource_metadata="{PUBLIC}/.well-known/oauth-protected-resource/mcp"' in challenged.headers["www-authenticate"]
    metadata = (await http.get(f"{behind.url}/.well-known/oauth-protected-resource/sse", headers=as_proxy())).json()
    assert metadata["resource"] == f"{PUBLIC}/sse"
    assert (await http.get(f"{behind.url}/healthz")).status_code == 421  # a probe, too, names the public host

    async with http.stream("GET", f"{behind.url}/sse", headers={**behind.bearer("alice"), **as_proxy()}) as stream:
        assert stream.headers["x-accel-buffering"] == "no"  # nginx buffers nothing of it
        async for line in stream.aiter_lines():
            if line.startswith("data: "):
                assert line.startswith("data: /messages/?session_id=")  # relative: it leads through the proxy
                break

    request = stateless("tools/list")
    guesses = [
        (await ask(http, behind, request, {"authorization": f"Bearer guess-{n}", **as_proxy("203.0.113.1")})).status_code
        for n in range(3)
    ]
    assert guesses == [401, 401, 429]
    other = await ask(http, behind, request, {"authorization": "Bearer guess-9", **as_proxy("203.0.113.2")})
    assert other.status_code == 401  # the limit is the client's, not the proxy's


def test_the_note_names_settings_that_exist() -> None:
    named = set(re.findall(r"MCP_IDENTITY_([A-Z_]+)", NOTE.read_text("utf-8")))
    assert {"PUBLIC_URL", "TRUSTED_PROXIES", "ALLOWED_HOSTS", "TLS_CERT"} <= named
    assert {name.lower() for name in named} <= Settings.model_fields.keys()
