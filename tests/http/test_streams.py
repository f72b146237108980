"""How long does an open stream live? As long as the credential that opened it, and never longer than the server."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import anyio
import httpx2
import pytest

from mcp_identity import app
from mcp_identity.domain.errors import TokenExpired, Unauthenticated, VaultUnavailable
from mcp_identity.domain.identity import Principal, Proof
from mcp_identity.tools.caller import Authenticator
from tests.fakes.home import VaultHome
from tests.http.kit import ACCEPT, LEGACY_VERSION, Knowing, Server, ask, open_session, server_here, stateless, whoami
from tests.http.test_gate import challenge


class Known:
    """A server whose authenticator has knobs; `short` is a bearer of alice's."""

    def __init__(self, server: Server, knowing: Knowing, principal: Principal) -> None:
        self.server = server
        self.knowing = knowing
        self.principal = principal

    def lives(self, seconds: float) -> dict[str, str]:
        """Let the bearer end so soon; its header."""
        expires_at = datetime.now(UTC) + timedelta(seconds=seconds)
        self.knowing.principals["short"] = replace(self.principal, expires_at=expires_at)
        return {"authorization": "Bearer short"}


@pytest.fixture
async def known(empty_home: VaultHome) -> AsyncGenerator[Known]:
    """A server of this test's own."""
    knowing: list[Knowing] = []

    def verify(prepared: app.Prepared) -> Authenticator:
        knowing.append(Knowing(app.authenticator_of(prepared)))
        return knowing[0]

    async with server_here(empty_home, verify=verify, streams_per_principal=2, stream_check_seconds=0.05) as server:
        assert server.serving is not None
        workload = await server.serving.prepared.graph.broker.workloads.get("default", "alice")
        yield Known(server, knowing[0], Principal(workload, None, Proof.JWT, verified=True, edge="http"))


async def read_to_the_end(stream: httpx2.Response) -> bytes:
    """Everything that still comes; a proper end, or the client would raise."""
    with anyio.fail_after(10):
        return b"".join([chunk async for chunk in stream.aiter_bytes()])


async def opened(known: Known, http: httpx2.AsyncClient, path: str, headers: dict[str, str]) -> dict[str, str]:
    """The headers with which a stream of `path` is opened."""
    if path == "/sse":
        return headers
    session = await open_session(http, known.server, headers)
    return {**headers, "accept": "text/event-stream", "mcp-session-id": session, "mcp-protocol-version": LEGACY_VERSION}


@pytest.mark.parametrize("path", ["/mcp", "/sse"])
async def test_a_stream_ends_with_the_token_that_opened_it(known: Known, http: httpx2.AsyncClient, path: str) -> None:
    """covers: A06."""
    ends_at = datetime.now(UTC) + timedelta(seconds=0.5)
    headers = await opened(known, http, path, known.lives(0.5))
    async with http.stream("GET", known.server.url + path, headers=headers) as stream:
        assert stream.status_code == 200
        await read_to_the_end(stream)
    assert datetime.now(UTC) >= ends_at
    known.knowing.principals["short"] = TokenExpired("x")
    answer = await http.get(known.server.url + path, headers=headers)
    assert answer.status_code == 401
    assert answer.json()["error"] == "token_expired"
    assert challenge(answer)["error"] == "invalid_token"


@pytest.mark.parametrize("path", ["/mcp", "/sse"])
async def test_a_stream_ends_when_its_credential_proves_nothing_any_more_or_somebody_else(
    known: Known, http: httpx2.AsyncClient, path: str
) -> None:
    other = await known.server.serving.prepared.graph.broker.workloads.get("default", "mallory")  # type: ignore[union-attr]
    for after in (Unauthenticated("x"), replace(known.principal, workload=other)):
        headers = await opened(known, http, path, known.lives(3600))
        async with http.stream("GET", known.server.url + path, headers=headers) as stream:
            assert stream.status_code == 200
            known.knowing.principals["short"] = after
            await read_to_the_end(stream)


async def test_a_stream_outlives_a_moment_in_which_nobody_can_be_verified(known: Known, http: httpx2.AsyncClient) -> None:
    async with http.stream("GET", f"{known.server.url}/sse", headers=known.lives(3600)) as stream:
        principal = known.knowing.principals["short"]
        known.knowing.principals["short"] = VaultUnavailable("x")
        await known.knowing.is_asked_again(2)
        assert (await ask(http, known.server, whoami(), {"authorization": "Bearer short"})).status_code == 503
        known.knowing.principals["short"] = principal
        await known.knowing.is_asked_again(2)
        known.knowing.principals["short"] = Unauthenticated("x")
        assert b"event: endpoint" in await read_to_the_end(stream)


async def test_a_subscription_of_a_stateless_client_is_a_stream_too(known: Known, http: httpx2.AsyncClient) -> None:
    body, headers = stateless("subscriptions/listen", {"notifications": {"toolsListChanged": True}})
    with anyio.fail_after(10):
        async with http.stream("POST", f"{known.server.url}/mcp", json=body, headers={**headers, **known.lives(0.5)}) as stream:
            await read_to_the_end(stream)


async def test_one_caller_opens_so_many_streams_and_others_still_some(known: Known, http: httpx2.AsyncClient) -> None:
    """covers: A45."""
    url, alice = f"{known.server.url}/sse", known.server.bearer("alice")
    async with http.stream("GET", url, headers=alice), http.stream("GET", url, headers=known.lives(3600)):
        refused = await http.get(url, headers=alice)
        assert refused.status_code == 429
        assert refused.headers["retry-after"] == "1"
        async with http.stream("GET", url, headers=known.server.bearer("mallory")) as other:
            assert other.status_code == 200
    with anyio.fail_after(5):
        while True:
            async with http.stream("GET", url, headers=alice) as again:
                if again.status_code == 200:
                    break
    assert ACCEPT
