"""Is the process up, and can it serve? For supervisors and load balancers: a word, no version, no count, no name."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

import anyio
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from mcp_identity.domain.errors import StorageError

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

    from mcp_identity.domain.clock import Clock

PATHS = ("/healthz", "/readyz")
_KEPT_SECONDS = 1.0
_PATIENCE_SECONDS = 5.0


class Readiness:
    """Whether the vault takes a unit now; looked at once a second at most, however often it is asked."""

    def __init__(self, clock: Clock, run_unit: Callable[[], Awaitable[object]], is_ending: Callable[[], bool]) -> None:
        """Know nothing yet.

        Args:
            clock: Its monotonic time counts.
            run_unit: Runs a unit in the vault.
            is_ending: Whether the process is about to end.
        """
        self._clock = clock
        self._run_unit = run_unit
        self._is_ending = is_ending
        self._turn = anyio.Lock()
        self._looked_at: float | None = None
        self._ready = False

    async def is_ready(self) -> bool:
        """Whether this process serves now."""
        async with self._turn:
            now = self._clock.monotonic()
            if self._looked_at is None or now - self._looked_at >= _KEPT_SECONDS:
                self._ready = await self._look()
                self._looked_at = now
        return self._ready and not self._is_ending()

    async def _look(self) -> bool:
        with anyio.move_on_after(_PATIENCE_SECONDS):
            try:
                await self._run_unit()
            except StorageError:
                return False
            return True
        return False


def health_routes(readiness: Readiness) -> list[Route]:
    """`/healthz` and `/readyz`."""

    async def healthz(_request: Request) -> Response:
        return PlainTextResponse("ok", headers={"cache-control": "no-store"})

    async def readyz(_request: Request) -> Response:
        ready = await readiness.is_ready()
        return PlainTextResponse("ready" if ready else "not ready", 200 if ready else 503, {"cache-control": "no-store"})

    return [Route(path, endpoint, methods=["GET"]) for path, endpoint in zip(PATHS, (healthz, readyz), strict=True)]
