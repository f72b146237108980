"""Does a user's own token, brought over the wire, become one that acts for them, and is it seen nowhere else?"""

from __future__ import annotations

import logging
from typing import Any

import httpx2
import pytest

from mcp_identity.broker.answers import ProviderSpec
from mcp_identity.broker.specifications import IssuerSpec, WorkloadSpec
from mcp_identity.domain.credentials import Secret
from tests.fakes.home import VaultHome
from tests.fakes.identity_provider import ALICE, BOB, CLIENT, FakeIdentityProvider
from tests.fakes.vendor import CLIENT_ID, Vendor
from tests.http.kit import Server, ask, server_here, stateless


async def use(http: httpx2.AsyncClient, server: Server, bearer: str, tool: str, **arguments: Any) -> dict[str, Any]:
    """Call a tool; what it says."""
    request = stateless("tools/call", {"name": tool, "arguments": arguments})
    answer = await ask(http, server, request, {"authorization": f"Bearer {bearer}"})
    assert answer.status_code == 200, answer.text
    return answer.json()["result"]["structuredContent"]


async def set_up(server: Server, idp: FakeIdentityProvider, vendor: Vendor) -> str:
    """An issuer, an agent that its tokens speak for, and a provider that exchanges them; the agent's key."""
    assert server.serving is not None
    graph = server.serving.prepared.graph
    broker, call = graph.broker, graph.broker.call(graph.broker.directory.operator(graph.user), "operate")
    spec = IssuerSpec(idp.discovery_url, audiences=(idp.audience,), allow_http_loopback=True)
    await broker.issuers.add(call, "corp", spec)
    issued = await broker.workloads.create_with_key(call, "agent", WorkloadSpec(issuer="corp", clients=(CLIENT,)))
    provider = ProviderSpec(
        "custom",
        settings={**vendor.settings, "flows": "ON_BEHALF_OF_TOKEN_EXCHANGE", "on_behalf_of": "jwt-bearer"},
        client_id=CLIENT_ID,
        secret=Secret(vendor.client_secret),
        scopes=("read",),
        subject_issuers=("corp",),
        allow_http_loopback=True,
    )
    await broker.directory.add(call, "downstream", provider)
    return issued.key.reveal()


async def test_a_users_own_token_is_exchanged_and_seen_nowhere_else(
    empty_home: VaultHome, vendor: Vendor, http: httpx2.AsyncClient, caplog: pytest.LogCaptureFixture
) -> None:
    """covers: A03, A10."""
    caplog.set_level(logging.DEBUG, "mcp_identity")
    idp, said = FakeIdentityProvider(), list[str]()
    async with idp.serve(), server_here(empty_home, agents=()) as server:
        key = await set_up(server, idp, vendor)
        alice, bob = idp.access_token(ALICE), idp.access_token(BOB)
        tokens: dict[str, str] = {}
        for bearer in (alice, bob, alice):
            answer = await use(http, server, bearer, "get_token", provider="downstream")
            assert (answer["status"], answer["flow"]) == ("ok", "ON_BEHALF_OF_TOKEN_EXCHANGE")
            assert tokens.setdefault(bearer, answer["access_token"]) == answer["access_token"]
            said.append(str(answer))
        assert tokens[alice] != tokens[bob]
        assert [form["assertion"] for form in vendor.received] == [alice, bob]

        issued = await use(http, server, key, "get_workload_access_token", user_token=alice)
        by_wat = await use(http, server, issued["workload_access_token"], "get_token", provider="downstream")
        assert by_wat["access_token"] == tokens[alice]
        for tool in ("list_providers", "list_grants", "whoami"):
            said.append(str(await use(http, server, alice, tool)))
        alone = await use(http, server, key, "get_token", provider="downstream")
        assert (alone["status"], alone["code"]) == ("error", "unsupported_flow")

        vendor.echo = "description"
        refused = await use(http, server, alice, "get_token", provider="downstream", scopes=["other"])
        assert (refused["status"], refused["code"]) == ("error", "upstream_rejected")
        told = str([*said, issued, by_wat, alone, refused]) + caplog.text
        for bearer in (alice, bob):
            assert bearer.rpartition(".")[2] not in told
    assert alice.encode() not in b"".join(path.read_bytes() for path in empty_home.path.rglob("*") if path.is_file())
