"""What may a token do whose issuer was added with required tool scopes, and how is the caller told to ask for more?"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import replace
from pathlib import Path

import httpx2
import pytest
from mcp import MCPError

from mcp_identity import app
from mcp_identity.domain.identity import Principal, Proof
from mcp_identity.tools.caller import Authenticator
from tests.fakes.home import VaultHome
from tests.http.kit import (
    ACCEPT,
    LEGACY_VERSION,
    Knowing,
    Mode,
    Server,
    Transport,
    ask,
    mcp_over,
    open_session,
    server_here,
    stateless,
    whoami,
)
from tests.http.test_gate import challenge

HELD = {"none": frozenset[str](), "read": frozenset({"identity:read", "email"}), "token": frozenset({"identity:token"})}
LISTS = stateless("resources/read", {"uri": "identity://grants"})
GETS = stateless("tools/call", {"name": "get_api_key", "arguments": {"provider": "none"}})


@pytest.fixture(scope="module")
async def scoped(tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[Server]:
    """A server whose bearers `none`, `read` and `token` hold those scopes; `alice`'s key is asked for none."""
    path: Path = tmp_path_factory.mktemp("scoped")
    knowing: list[Knowing] = []

    def verify(prepared: app.Prepared) -> Authenticator:
        knowing.append(Knowing(app.authenticator_of(prepared)))
        return knowing[0]

    async with server_here(VaultHome(path), verify=verify) as server:
        assert server.serving is not None
        workload = await server.serving.prepared.graph.broker.workloads.get("default", "alice")
        for name, scopes in HELD.items():
            known = Principal(workload, None, Proof.JWT, verified=True, edge="http", tool_scopes=scopes, credential_id=name)
            knowing[0].principals[name] = known
            server.keys[name] = name
        yield server


@pytest.mark.parametrize(
    ("held", "request_", "needed"),
    [
        ("none", whoami(), "identity:read"),
        ("none", LISTS, "identity:read"),
        ("none", GETS, "identity:token"),
        ("read", GETS, "identity:read identity:token"),
        ("token", whoami(), "identity:read identity:token"),
    ],
)
async def test_a_stateless_client_is_challenged_with_every_scope_that_it_needs(
    scoped: Server, http: httpx2.AsyncClient, held: str, request_: tuple[dict[str, object], dict[str, str]], needed: str
) -> None:
    answer = await ask(http, scoped, request_, scoped.bearer(held))
    assert answer.status_code == 403
    assert challenge(answer)["error"] == "insufficient_scope"
    assert challenge(answer)["scope"] == needed


async def test_who_holds_the_scope_or_is_asked_for_none_comes_in(scoped: Server, http: httpx2.AsyncClient) -> None:
    for held, request in (("read", whoami()), ("read", LISTS), ("alice", whoami()), ("alice", LISTS)):
        assert (await ask(http, scoped, request, scoped.bearer(held))).status_code == 200
    for held in ("token", "alice"):
        answer = (await ask(http, scoped, GETS, scoped.bearer(held))).json()["result"]
        assert answer["structuredContent"]["code"] == "unknown_provider"


async def test_a_name_that_is_nowhere_needs_no_scope_to_be_unknown(scoped: Server, http: httpx2.AsyncClient) -> None:
    request = stateless("tools/call", {"name": "create_provider", "arguments": {}})
    answers = [await ask(http, scoped, request, scoped.bearer(held)) for held in ("none", "alice")]
    assert answers[0].status_code == answers[1].status_code
    assert answers[0].json()["error"] == answers[1].json()["error"]


@pytest.mark.parametrize(("transport", "mode"), [("http", "legacy"), ("sse", "legacy"), ("sse", "auto")])
async def test_elsewhere_the_tool_itself_refuses(scoped: Server, transport: Transport, mode: Mode) -> None:
    async with mcp_over(scoped, transport, mode, scoped.bearer("read")) as client:
        assert len((await client.list_tools()).tools) > 5
        may = (await client.call_tool("whoami", {})).structured_content
        assert may is not None
        assert "get_api_key" not in may["may"]
        for arguments in ({"provider": "none"}, {"nonsense": "x"}):
            refused = await client.call_tool("get_api_key", arguments)
            assert refused.is_error
        refused = await client.call_tool("get_api_key", {"provider": "none"})
        assert refused.structured_content is not None
        assert refused.structured_content["code"] == "insufficient_scope"
        assert "identity:read identity:token" in refused.structured_content["message"]
    event = [each for each in scoped.home.trail() if each["action"] == "get_api_key"][-1]
    assert (event["action"], event["outcome"], event["detail"]["credential"]) == ("get_api_key", "insufficient_scope", "read")


async def test_more_scopes_count_at_once_in_a_session(scoped: Server, http: httpx2.AsyncClient) -> None:
    session = await open_session(http, scoped, scoped.bearer("read"))
    call = {
        "jsonrpc": "2.0",
        "id": 2,
        "method": "tools/call",
        "params": {"name": "get_api_key", "arguments": {"provider": "n"}},
    }
    found: list[str] = []
    for held in ("read", "token", "read"):
        headers = {**ACCEPT, **scoped.bearer(held), "mcp-session-id": session, "mcp-protocol-version": LEGACY_VERSION}
        text = (await http.post(f"{scoped.url}/mcp", json=call, headers=headers)).text
        found.append(
            "insufficient_scope" if "insufficient_scope" in text else "unknown_provider" * ("unknown_provider" in text)
        )
    assert found == ["insufficient_scope", "unknown_provider", "insufficient_scope"]


async def test_a_resource_is_refused_by_its_code(scoped: Server) -> None:
    async with mcp_over(scoped, "http", "legacy", scoped.bearer("token")) as client:
        with pytest.raises(MCPError, match="insufficient_scope"):
            await client.read_resource("identity://grants")


def test_a_session_belongs_to_tenant_workload_and_user() -> None:
    """What the SDK compares is made of all three."""
    from mcp.server.auth.middleware.bearer_auth import authorization_context

    from mcp_identity.domain.identity import User, UserKind, WorkloadIdentity
    from mcp_identity.tools.gate import request_inside

    one = Principal(WorkloadIdentity("w", "t", "n"), User("i", "s", UserKind.OIDC), "jwt", verified=True)
    others = [
        replace(one, user=None),
        replace(one, user=User("i", "other", UserKind.OIDC)),
        replace(one, user=User("other", "s", UserKind.OIDC)),
        replace(one, workload=WorkloadIdentity("other", "t", "n")),
        replace(one, workload=WorkloadIdentity("w", "other", "n")),
        None,
    ]
    contexts = [authorization_context(request_inside({"headers": []}, each)["user"]) for each in (one, *others)]
    assert all(contexts[0] != other for other in contexts[1:])
    assert contexts[0] == authorization_context(request_inside({"headers": []}, replace(one, credential_id="other"))["user"])
