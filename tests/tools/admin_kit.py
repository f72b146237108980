"""A server with the tools of operators, and everybody who may come to it: operators of two tenants, and those who are none."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from mcp import Client

from mcp_identity import app
from mcp_identity.broker.answers import ProviderSpec
from mcp_identity.broker.specifications import WorkloadSpec
from mcp_identity.domain.credentials import Flow, GrantKey, Secret, TokenSet
from mcp_identity.domain.identity import Principal, Proof, User, UserKind, WorkloadIdentity
from mcp_identity.tools.caller import Authenticator
from mcp_identity.tools.scopes import ADMIN, READ, TOKEN
from tests.fakes.home import VaultHome
from tests.fakes.mcp_client import Json
from tests.fakes.vendor import new_secret
from tests.http.kit import Knowing, Server, local_options, mcp_over, server_here

OPERATORS = ("operator", "everything", "elsewhere")
AGENTS = ("alice", "reader", "derived", "unasked")
APP = "https://app.example/done"
NO_HURRY: dict[str, Any] = {"calls_per_second": 10_000, "requests_per_second": 10_000}
"""A test asks faster than people do; what is refused for that shows nothing else."""
OLIVIA = User("https://idp.example", "olivia", UserKind.OIDC, "olivia@example.com")


@dataclass(slots=True)
class Desk:
    """A server that runs, with one MCP client for each caller.

    Attributes:
        server: The server.
        folder: Where secrets of the tenant `default` are.
        clients: By caller.
    """

    server: Server
    folder: Path
    clients: dict[str, Client] = field(default_factory=dict[str, Client])

    @property
    def graph(self) -> app.Graph:
        """What is served."""
        assert self.server.serving is not None
        return self.server.serving.prepared.graph

    async def ask(self, tool: str, by: str = "operator", **arguments: Any) -> Json:
        """Call a tool; its structured answer."""
        answer = await self.clients[by].call_tool(tool, arguments)
        assert answer.structured_content is not None
        assert answer.is_error is (answer.structured_content["status"] == "error")
        return answer.structured_content

    async def do(self, tool: str, by: str = "operator", **arguments: Any) -> Json:
        """The same, for a call that must succeed."""
        found = await self.ask(tool, by, **arguments)
        assert found["status"] == "ok", found
        return found

    async def refusal(self, tool: str, by: str = "operator", **arguments: Any) -> str:
        """The code of the error that a call ends with."""
        found = await self.ask(tool, by, **arguments)
        assert found["status"] == "error", found
        return str(found["code"])

    async def tools(self, by: str) -> set[str]:
        """The names of the tools that a caller is shown."""
        return {tool.name for tool in (await self.clients[by].list_tools()).tools}

    async def grant(self, workload: str, user: str, provider: str) -> str:
        """A user has granted something to an agent; the access token of it."""
        assert self.server.serving is not None
        directory, vault = self.graph.broker.directory, self.server.serving.prepared.vault
        identity = await self.graph.broker.workloads.get("default", workload)
        row = (await directory.get("default", provider)).id
        key = GrantKey("default", identity.id, f"https://idp.example {user}" if user else "", row, Flow.USER_FEDERATION)
        token = new_secret()
        tokens = TokenSet(Secret(token), "Bearer", frozenset({"read"}), frozenset({"read"}), datetime.now(UTC))
        await vault.run(lambda records: records.complete_grant(key, tokens, "consent"))
        return token

    def trail(self) -> list[Json]:
        """What the trail says."""
        return self.server.home.trail()


@asynccontextmanager
async def running_desk(path: Path) -> AsyncGenerator[Desk]:
    """A desk on a vault of its own, while the block lasts."""
    folder = path / "secrets"
    folder.mkdir()
    knowing: list[Knowing] = []

    def verify(prepared: app.Prepared) -> Authenticator:
        knowing.append(Knowing(app.authenticator_of(prepared)))
        return knowing[0]

    options = local_options("http", admin=True, allow_http_loopback=True)
    places = ("default=env:ACME_", f"default=file:{folder}/", "acme=env:ROADRUNNER_")
    async with server_here(VaultHome(path / "home"), options, verify=verify, secret_sources=places, **NO_HURRY) as server:
        desk = Desk(server, folder)
        operator = desk.graph.broker.directory.operator(desk.graph.user)
        call = desk.graph.broker.call(operator, "update_workload_identity")
        here = await desk.graph.broker.workloads.update(call, "alice", WorkloadSpec(return_urls=(APP,)))
        spec = ProviderSpec("custom", {"token_url": "https://vendor.example/token", "flows": "M2M"}, "id", secret=Secret("s"))
        await desk.graph.broker.directory.add(desk.graph.broker.call(operator, "create_provider"), "standing", spec)
        there = await _workload_of(desk.graph, "acme")
        callers = {
            "operator": _brings(here, {ADMIN}),
            "everything": _brings(here, {READ, TOKEN, ADMIN, "email"}),
            "elsewhere": _brings(there, {ADMIN}),
            "reader": _brings(here, {READ, TOKEN}),
            "derived": _brings(here, {READ, TOKEN, ADMIN}, Proof.WORKLOAD_TOKEN),
            "unasked": _brings(here, None),
        }
        for name, principal in callers.items():
            knowing[0].principals[name] = principal
            server.keys[name] = name
        async with AsyncExitStack() as stack:
            for name in (*OPERATORS, *AGENTS):
                client = mcp_over(server, "http", "auto", server.bearer(name))
                desk.clients[name] = await stack.enter_async_context(client)
            yield desk


def _brings(workload: WorkloadIdentity, scopes: set[str] | None, proof: Proof = Proof.JWT) -> Principal:
    held = None if scopes is None else frozenset(scopes)
    return Principal(workload, OLIVIA, proof, verified=True, edge="http", tool_scopes=held, credential_id="a-jti")


async def _workload_of(graph: app.Graph, tenant: str) -> WorkloadIdentity:
    call = graph.broker.call(graph.broker.directory.operator(graph.user, tenant), "create_workload_identity")
    return await graph.broker.workloads.create(call, "robot", WorkloadSpec())
