"""Who is calling a tool: the principal, from the transport, never from an argument.

On stdio it is this machine's user, and a workload whose name is a label that the client chose. Both are fixed at the first
request of the process.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import anyio

from mcp_identity.domain.identity import slug

if TYPE_CHECKING:
    from mcp_identity.broker.audit import Call
    from mcp_identity.broker.broker import Broker
    from mcp_identity.domain.identity import Principal, User


@dataclass(frozen=True, slots=True)
class Local:
    """What a local process serves once its vault is open.

    Attributes:
        broker: The verbs.
        user: The operating system's user.
        workload: The configured name of the agent, or empty.
    """

    broker: Broker
    user: User
    workload: str


class StdioCaller:
    """The one caller of a stdio process."""

    def __init__(self, local: Callable[[], Awaitable[Local]]) -> None:
        """Know how to wait for the vault.

        Args:
            local: Returns once key and schema are checked; no tool answers before.
        """
        self._local = local
        self._lock = anyio.Lock()
        self._client_name = ""
        self._principal: Principal | None = None

    async def begin(self, action: str) -> tuple[Broker, Call]:
        """Begin a call: the broker, and the call with its verified principal."""
        local = await self._local()
        async with self._lock:
            if self._principal is None:
                workload = local.workload or slug(self._client_name)
                self._principal = await local.broker.directory.local_principal(workload, local.user, "stdio")
        return local.broker, local.broker.call(self._principal, action)

    async def note_client(self, ctx: Any, call_next: Callable[[Any], Awaitable[Any]]) -> Any:
        """Server middleware: keep the name that the MCP client gave first.

        It comes with `initialize`, or in every message of protocol version 2026-07-28; a client may also give none.
        """
        parameters = ctx.session.client_params
        if not self._client_name and parameters is not None and parameters.client_info:
            self._client_name = parameters.client_info.name
        return await call_next(ctx)
