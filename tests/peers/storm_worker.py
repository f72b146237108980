"""One process of the product among several on one vault, for the tests: many callers ask for one token at the same moment.

    python storm_worker.py HOME [DATABASE_URL]

Prints a line when it is ready. For each line of its input, `{"agent": "a", "provider": "peer", "callers": 8, "seconds": 400}`,
its clock is so many seconds ahead from then on, so many callers ask at once, and what they were given is printed as JSON.
"""

from __future__ import annotations

import hashlib
import json
import sys
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread

from mcp_identity import app
from mcp_identity.broker.answers import TokenReleased, TokenRequest
from mcp_identity.domain.errors import IdentityError
from mcp_identity.domain.identity import Principal
from mcp_identity.settings import Settings


class FastClock(app.SystemClock):
    """A wall clock that can be put forward, the same in all processes."""

    def __init__(self) -> None:
        self.ahead = timedelta()

    def now(self) -> datetime:
        return super().now() + self.ahead


async def storm(graph: app.Graph, principal: Principal, provider: str, callers: int) -> dict[str, Any]:
    tokens: list[str] = []
    errors: list[str] = []
    refreshed: list[bool] = []

    async def ask() -> None:
        try:
            call = graph.broker.call(principal, "get_token")
            released = await graph.broker.get_token(call, TokenRequest(provider))
        except IdentityError as error:
            errors.append(error.code)
            return
        if not isinstance(released, TokenReleased):
            errors.append(type(released).__name__)
            return
        tokens.append(hashlib.sha256(released.access_token.reveal().encode()).hexdigest()[:16])
        refreshed.append(released.refreshed)

    async with anyio.create_task_group() as group:
        for _ in range(callers):
            group.start_soon(ask)
    return {"answered": len(tokens), "tokens": sorted(set(tokens)), "errors": errors, "refreshed": sum(refreshed)}


async def work(home: Path, database_url: str) -> None:
    clock = FastClock()
    prepared = app.prepare(Settings(home=home, database_url=database_url), clock=clock)
    async with app.running(prepared) as graph:
        print("ready", flush=True)  # noqa: T201 - what the test waits for
        while line := await anyio.to_thread.run_sync(sys.stdin.readline):
            order = json.loads(line)
            clock.ahead = timedelta(seconds=order["seconds"])
            principal = await graph.broker.directory.local_principal(order["agent"], graph.user, "stdio")
            found = await storm(graph, principal, order["provider"], order["callers"])
            print(json.dumps(found), flush=True)  # noqa: T201 - the result


if __name__ == "__main__":
    anyio.run(work, Path(sys.argv[1]), sys.argv[2] if len(sys.argv) > 2 else "")
