"""Do an agent's own tokens do over the wire what they are for, end at once, and open nothing else?"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from joserfc import jwt
from joserfc.jwk import KeySet

from mcp_identity.broker.specifications import WorkloadSpec
from tests.broker.kit import free_port
from tests.fakes.home import VaultHome
from tests.http.kit import Server, ask, local_options, server_here, stateless, whoami

PARTNER = "https://partner.example.com"


@pytest.fixture
async def public(tmp_path: Path) -> AsyncGenerator[Server]:
    """A server that others reach at the URL that it gives out, with an agent that may name users and get identity tokens."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    async with server_here(VaultHome(tmp_path), local_options(port=port), public_url=url) as server:
        await update(server, "alice", identity_audiences=(PARTNER,), may_assert_users=True)
        yield server


async def update(server: Server, name: str, **spec: Any) -> None:
    assert server.serving is not None
    graph = server.serving.prepared.graph
    call = graph.broker.call(graph.broker.directory.operator(graph.user), "update_workload_identity")
    await graph.broker.workloads.update(call, name, WorkloadSpec(**spec))


async def use(http: httpx2.AsyncClient, server: Server, bearer: str, tool: str, **arguments: Any) -> dict[str, Any]:
    """Call a tool; what it says."""
    request = stateless("tools/call", {"name": tool, "arguments": arguments})
    answer = await ask(http, server, request, {"authorization": f"Bearer {bearer}"})
    assert answer.status_code == 200, answer.text
    return answer.json()["result"]["structuredContent"]


async def test_a_workload_access_token_is_the_workload_and_the_user_that_it_was_made_for(
    public: Server, http: httpx2.AsyncClient
) -> None:
    issued = await use(http, public, public.keys["alice"], "get_workload_access_token", user_id="4711")
    assert issued["status"] == "ok"
    bearer = issued["workload_access_token"]
    assert bearer.startswith("mid_wat_")
    me = await use(http, public, bearer, "whoami")
    assert (me["workload"], me["verified"]) == ("alice", True)
    assert "4711" in str(me)
    its_own = await use(http, public, public.keys["alice"], "whoami")
    for tool, arguments in (("get_workload_access_token", {}), ("get_identity_token", {"audience": PARTNER})):
        assert (tool in its_own["may"], tool in me["may"]) == (True, False)
        refused = await use(http, public, bearer, tool, **arguments)
        assert (refused["status"], refused["code"]) == ("error", "access_denied")


@pytest.mark.parametrize("change", [{"owner": "somebody else"}, {"disabled": True}])
async def test_a_change_of_the_workload_ends_its_tokens_at_once(
    public: Server, http: httpx2.AsyncClient, change: dict[str, Any]
) -> None:
    """covers: A17."""
    issued = await use(http, public, public.keys["alice"], "get_workload_access_token")
    headers = {"authorization": f"Bearer {issued['workload_access_token']}"}
    assert (await ask(http, public, whoami(), headers)).status_code == 200
    await update(public, "alice", **change)
    assert (await ask(http, public, whoami(), headers)).status_code == 401
    by_key = await ask(http, public, whoami(), public.bearer("alice"))
    assert by_key.status_code == (401 if "disabled" in change else 200)


async def test_others_recognise_the_workload_by_what_they_read_here_and_we_do_not(
    public: Server, http: httpx2.AsyncClient
) -> None:
    """covers: A17."""
    issued = await use(http, public, public.keys["alice"], "get_identity_token", audience=PARTNER)
    token = issued["identity_token"]
    metadata = (await http.get(f"{public.url}/identity/default/.well-known/openid-configuration")).json()
    keys = (await http.get(metadata["jwks_uri"])).json()
    claims = jwt.decode(token, KeySet.import_key_set(keys), algorithms=["ES256"]).claims
    assert (claims["iss"], claims["aud"], claims["workload"]) == (metadata["issuer"], PARTNER, "alice")
    assert (await ask(http, public, whoami(), {"authorization": f"Bearer {token}"})).status_code == 401


async def test_an_agent_that_was_not_let_names_no_user_and_nobody(public: Server, http: httpx2.AsyncClient) -> None:
    """covers: A02b."""
    for tool, arguments in (("get_workload_access_token", {"user_id": "4711"}), ("get_identity_token", {"audience": PARTNER})):
        refused = await use(http, public, public.keys["mallory"], tool, **arguments)
        assert (refused["status"], refused["code"]) == ("error", "access_denied")
