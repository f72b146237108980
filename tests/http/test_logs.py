"""What stands in the log of a server, and what does it give away to whoever asks?"""

from __future__ import annotations

import json
import logging

import anyio
import httpx2
import pytest

from tests.fakes.home import VaultHome
from tests.http.kit import ACCEPT, Server, add_agents, ask, http_client, mcp_over, server_here, server_process, whoami

CANARY = "c4n4ry"


async def test_the_access_log_names_routes_and_nothing_of_requests(empty_home: VaultHome) -> None:
    """At the most talkative level, over everything that a caller can put a secret into.

    covers: A10
    """
    keys = await add_agents(empty_home, "alice")
    arguments = ("--transport", "sse", "--port", "0")
    async with (
        server_process(empty_home, *arguments, keys=keys, settings={"LOG_LEVEL": "DEBUG", "LOG_FORMAT": "json"}) as server,
        http_client() as http,
    ):
        alice = server.bearer("alice")
        await ask(http, server, whoami(), alice)
        async with mcp_over(server, "sse", "legacy", alice) as client:
            await client.call_tool("whoami", {})
        for path in ("/mcp", "/oauth2/callback/x", "/consent/" + "A" * 43, f"/{CANARY}", "/messages/"):
            await http.request("GET", f"{server.url}{path}?code={CANARY}&state={CANARY}", headers={"x-y": CANARY})
            await http.post(
                f"{server.url}{path}?session_id={CANARY}",
                content=CANARY,
                headers={**ACCEPT, "authorization": f"Bearer {CANARY}", "mcp-session-id": CANARY, "cookie": f"a={CANARY}"},
            )
            await http.post(f"{server.url}{path}", content=f'{{"{CANARY}"', headers={**ACCEPT, **alice})
        await http.request(CANARY, f"{server.url}/mcp")
        assert server.process is not None
        server.process.terminate()
        assert await server.process.wait() == 0
        await server.logged.wait()
    said = server.log.decode()
    assert CANARY not in said
    assert keys["alice"] not in said
    lines = [json.loads(line) for line in said.splitlines() if line.startswith("{")]
    access = [line["message"] for line in lines if line["logger"] == "mcp_identity.access"]
    assert any(line.startswith("POST /mcp 200 in ") for line in access)
    assert any(line.startswith("GET /sse 200 in ") for line in access)
    assert any(line.startswith("GET (none) 404 in ") for line in access)
    assert any(line.startswith("? /mcp ") for line in access)
    assert not [line for line in lines if line["logger"] == "uvicorn.access"]


async def test_health_says_a_word(server: Server, http: httpx2.AsyncClient) -> None:
    """covers: A58."""
    for path, word in (("/healthz", "ok"), ("/readyz", "ready")):
        answer = await http.get(server.url + path)
        assert (answer.status_code, answer.text) == (200, word)
        assert set(answer.headers) == {"date", "cache-control", "content-length", "content-type", "x-content-type-options"}
        assert (await http.post(server.url + path)).status_code == 405


async def test_no_answer_names_the_software(server: Server, http: httpx2.AsyncClient) -> None:
    """covers: A58."""
    for method, path in (("GET", "/nothing"), ("PUT", "/mcp"), ("GET", "/mcp"), ("POST", "/mcp"), ("GET", "/sse")):
        for headers in ({}, {"authorization": "Bearer x"}):
            answer = await http.request(method, server.url + path, headers=headers)
            assert "server" not in answer.headers
            assert "x-powered-by" not in answer.headers
            text = (answer.text + str(answer.headers)).lower()
            assert not [name for name in ("uvicorn", "starlette", "python", "traceback", "alice", "default") if name in text]


async def test_a_server_whose_vault_is_gone_is_not_ready(empty_home: VaultHome) -> None:
    async with server_here(empty_home) as server, http_client() as http:
        assert server.serving is not None
        await anyio.to_thread.run_sync(server.serving.prepared.vault.close)
        assert (await http.get(f"{server.url}/readyz")).status_code == 503
        assert (await http.get(f"{server.url}/healthz")).status_code == 200
        answer = await ask(http, server, whoami(), server.bearer("alice"))
        assert answer.status_code == 503
        assert answer.json()["error"] == "vault_unavailable"
        assert answer.headers["retry-after"] == "1"


async def test_a_fault_of_ours_is_told_without_a_word_of_it(empty_home: VaultHome, caplog: pytest.LogCaptureFixture) -> None:
    class Broken:
        async def authenticate(self, *_: object, **__: object) -> object:
            raise ValueError(CANARY)

        def recall(self, *_: object, **__: object) -> None:
            """Nobody is remembered."""

    async with server_here(empty_home, verify=lambda _prepared: Broken()) as server, http_client() as http:  # type: ignore[arg-type, return-value]
        with caplog.at_level(logging.DEBUG, "mcp_identity"):
            answer = await ask(http, server, whoami(), server.bearer("alice"))
    assert answer.status_code == 500
    assert CANARY not in answer.text
    assert "/mcp failed" in caplog.text
