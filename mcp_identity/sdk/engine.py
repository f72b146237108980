"""Where do calls run, whoever makes them? In one event loop of the client's own, on a thread that begins with the first call.

So a plain thread, an endpoint and a running event loop share one connection, and none of them waits for another's loop: nobody
else's code ever runs in ours. The modules that speak MCP are loaded on that first call, off the caller's loop.
"""

from __future__ import annotations

import atexit
import os
import threading
from concurrent.futures import CancelledError, Future
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from weakref import WeakSet

from mcp_identity.sdk.endpoint import Place
from mcp_identity.sdk.errors import CLOSED, IdentityClientError

if TYPE_CHECKING:
    from anyio.from_thread import BlockingPortal

    from mcp_identity.sdk.connections import Hub
    from mcp_identity.sdk.steps import Ask, Pause, Redeem, Reply


@dataclass(frozen=True, slots=True)
class _Running:
    """The loop, and what runs in it.

    Attributes:
        process: The process that it is in: a fork has none of its parent's threads.
    """

    thread: threading.Thread
    portal: BlockingPortal
    hub: Hub
    process: int


class Engine:
    """Performs the steps that need the server."""

    def __init__(self, place: Place, version: str) -> None:
        """Start nothing yet."""
        self.place = place
        self._version = version
        self._lock = threading.Lock()
        self._running: _Running | None = None
        self._is_closed = False
        _engines.add(self)

    def perform(self, step: Ask | Redeem | Pause) -> Reply:
        """Do a step; the calling thread waits.

        Raises:
            IdentityClientError: If this was closed.
        """
        running = self._started()
        try:
            future = running.portal.start_task_soon(running.hub.perform, step)
            try:
                return future.result()
            except BaseException:  # e.g. Ctrl-C: what nobody waits for any more ends
                future.cancel()
                raise
        except (CancelledError, RuntimeError) as error:
            raise self._ended(error) from None

    async def perform_async(self, step: Ask | Redeem | Pause) -> Reply:
        """Do a step; the calling task waits, in whatever event loop it is.

        Raises:
            IdentityClientError: If this was closed.
        """
        running = self._running
        if running is None or running.process != os.getpid():
            import anyio.to_thread

            running = await anyio.to_thread.run_sync(self._started)
        try:
            return await running.portal.call_async(running.hub.perform, step, abandon_on_cancel=True)
        except (CancelledError, RuntimeError) as error:
            raise self._ended(error) from None

    def close(self) -> None:
        """End the connections, and a server that was started; calls that still run fail."""
        with self._lock:
            self._is_closed = True
            running, self._running = self._running, None
        if running is None or running.process != os.getpid():
            return
        with suppress(RuntimeError):
            running.portal.call(running.portal.stop, True)
        running.thread.join()

    def _started(self) -> _Running:
        with self._lock:
            if self._is_closed:
                raise _closed()
            if self._running is not None and self._running.process != os.getpid():
                _parents.append(self._running)  # what ends it would reach into the parent's own loop
                self._running = None
            if self._running is None:
                self._running = self._start()
            return self._running

    def _start(self) -> _Running:
        import anyio
        from anyio.from_thread import BlockingPortal

        from mcp_identity.sdk.connections import Hub

        hub = Hub(self.place, self._version)
        stands: Future[BlockingPortal] = Future()

        async def serve() -> None:
            async with BlockingPortal() as portal, anyio.create_task_group() as tasks:
                await tasks.start(hub.run)
                stands.set_result(portal)
                await portal.sleep_until_stopped()
                tasks.cancel_scope.cancel()

        def run() -> None:
            try:
                anyio.run(serve)
            except BaseException as error:
                if stands.done():
                    raise
                stands.set_exception(error)

        thread = threading.Thread(target=run, name="mcp-identity-client", daemon=True)
        thread.start()
        return _Running(thread, stands.result(), hub, os.getpid())

    def _ended(self, error: Exception) -> Exception:
        """What a call is told whose loop ended under it."""
        return _closed() if self._is_closed else error


def _closed() -> IdentityClientError:
    return IdentityClientError(CLOSED, "this client was closed")


_engines: WeakSet[Engine] = WeakSet()
_parents: list[_Running] = []
"""What the process that we were forked from has running."""


def _close_all() -> None:
    """A server that we started ends before we do, and has the time to finish what it does."""
    for engine in list(_engines):
        engine.close()


atexit.register(_close_all)


def close_in_background(engine: Any) -> None:
    """Close an engine whose client is gone; by whom that is noticed, and in which thread, nobody can say."""
    with suppress(RuntimeError):  # at the end of the process no thread can be started; then `_close_all` does it
        threading.Thread(target=engine.close, daemon=True).start()
