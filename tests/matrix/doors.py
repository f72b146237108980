"""Through which door does an identity come? The SDK's own client on each transport; what comes back is kept whole."""

from __future__ import annotations

import sys
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from mcp import Client, MCPError, StdioServerParameters

from mcp_identity.broker.broker import Broker
from mcp_identity.domain.identity import Principal
from mcp_identity.tools.server import build_server
from tests.matrix.kit import Json
from tests.matrix.world import Identity, World


@dataclass(slots=True)
class ClientDoor:
    """The SDK's client, connected."""

    client: Client

    async def tools(self) -> list[Json]:
        """What is listed."""
        listed = await self.client.list_tools()
        return [tool.model_dump(mode="json", by_alias=True, exclude_none=True) for tool in listed.tools]

    async def call(self, tool: str, arguments: Json) -> str:
        """Call a tool; everything that came back, as text."""
        try:
            return (await self.client.call_tool(tool, arguments)).model_dump_json()
        except MCPError as error:
            return error.error.model_dump_json()


@dataclass(frozen=True, slots=True)
class FixedCaller:
    """A gate that has verified one principal."""

    broker: Broker
    principal: Principal
    verifier: Any

    async def begin(self, action: str) -> Any:
        return self.broker, self.broker.call(self.principal, action)

    async def note_client(self, ctx: Any, call_next: Callable[[Any], Awaitable[Any]]) -> Any:
        return await call_next(ctx)


@asynccontextmanager
async def memory_door(broker: Broker, verifier: Any, identity: Identity, mode: Any = "auto") -> AsyncGenerator[ClientDoor]:
    """No transport: the tools as a remote caller has them."""
    caller = FixedCaller(broker, identity.principal, verifier)
    async with Client(build_server(caller, version="0", remote=True, issues_identity_tokens=True), mode=mode) as client:
        yield ClientDoor(client)


@asynccontextmanager
async def stdio_door(world: World, identity: Identity, mode: Any = "auto") -> AsyncGenerator[ClientDoor]:
    """A process of one agent and one user."""
    environment = world.home.environment(WORKLOAD=identity.agent, USER=identity.person.subject)
    server = StdioServerParameters(command=sys.executable, args=["-m", "mcp_identity", "serve"], env=environment)
    async with Client(server, mode=mode) as client:
        yield ClientDoor(client)
