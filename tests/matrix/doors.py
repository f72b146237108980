"""Through which door does an identity come? The SDK's own client on each transport; what comes back is kept whole."""

from __future__ import annotations

import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from mcp import Client, MCPError, StdioServerParameters

from tests.fakes.mcp_client import Json
from tests.http.kit import Mode, Server, Transport, mcp_over
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


def stdio_client(world: World, agent: str, user: str, mode: Mode, **options: Any) -> Client:
    """The SDK's client of a process of one agent and one user."""
    environment = world.home.environment(WORKLOAD=agent, USER=user)
    server = StdioServerParameters(command=sys.executable, args=["-m", "mcp_identity", "serve"], env=environment)
    return Client(server, mode=mode, **options)


@asynccontextmanager
async def stdio_door(world: World, identity: Identity, mode: Mode = "auto") -> AsyncGenerator[ClientDoor]:
    """A process of one agent and one user."""
    async with stdio_client(world, identity.agent, identity.person.subject, mode) as client:
        yield ClientDoor(client)


@asynccontextmanager
async def remote_door(
    world: World, server: Server, transport: Transport, identity: Identity, mode: Mode = "auto"
) -> AsyncGenerator[ClientDoor]:
    """A user's own token, over Streamable HTTP or SSE."""
    bearer = {"authorization": f"Bearer {world.bearer(identity)}"}
    async with mcp_over(server, transport, mode, bearer) as client:
        yield ClientDoor(client)
