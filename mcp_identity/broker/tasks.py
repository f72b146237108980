"""Work that the server owns: it outlives the request that began it, and a shutdown waits for it.

An exchange or a refresh and its commit run here, so neither a cancelled request nor a closed connection loses a token that
a vendor has already rotated.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Any, Generic, TypeVar

import anyio
from anyio.abc import TaskGroup

from mcp_identity.domain.errors import VaultUnavailable

T = TypeVar("T")


class Owned(Generic[T]):
    """One piece of owned work; any number of callers may wait for it."""

    def __init__(self) -> None:
        """Not done yet."""
        self._done = anyio.Event()
        self._result: T | None = None
        self._error: Exception | None = None

    async def wait(self) -> T:
        """Its result, or the error that it ended with. Cancelling a waiter does not cancel the work."""
        await self._done.wait()
        if self._error is not None:
            raise self._error
        return self._result  # type: ignore[return-value]  # set whenever there is no error

    async def _run(self, work: Callable[[], Awaitable[T]]) -> None:
        try:
            with anyio.CancelScope(shield=True):
                self._result = await work()
        except Exception as error:  # noqa: BLE001 - it is the waiters' to handle
            self._error = error
        except BaseException:
            self._error = VaultUnavailable("the server is ending; ask again")
            raise
        finally:
            self._done.set()


class OwnedTasks:
    """The owned work of one process."""

    def __init__(self) -> None:
        """Nothing runs yet."""
        self._group: TaskGroup | None = None
        self._open = 0
        self._idle = anyio.Event()

    @contextlib.asynccontextmanager
    async def running(self, grace_seconds: Callable[[], float]) -> AsyncGenerator[None]:
        """Take work until the block ends, then wait for what is under way.

        Args:
            grace_seconds: Asked at the end: how long to wait.
        """
        async with anyio.create_task_group() as group:
            self._group = group
            try:
                yield
            finally:
                self._group = None
                with anyio.CancelScope(shield=True):
                    await self.drain(grace_seconds())
                group.cancel_scope.cancel()

    async def drain(self, grace_seconds: float) -> bool:
        """Wait until nothing is under way; False if the time was not enough."""
        with anyio.move_on_after(grace_seconds):
            while self._open:
                self._idle = anyio.Event()
                await self._idle.wait()
        return not self._open

    def start(self, work: Callable[[], Awaitable[T]]) -> Owned[T]:
        """Begin owned work.

        Raises:
            VaultUnavailable: If the server is ending.
        """
        if self._group is None:
            raise VaultUnavailable("the server is ending; ask again")
        owned: Owned[T] = Owned()
        self._open += 1
        self._group.start_soon(self._track, owned, work)
        return owned

    async def run(self, work: Callable[[], Awaitable[T]]) -> T:
        """Begin owned work and wait for it."""
        return await self.start(work).wait()

    async def _track(self, owned: Owned[Any], work: Callable[[], Awaitable[Any]]) -> None:
        try:
            await owned._run(work)  # noqa: SLF001  # pyright: ignore[reportPrivateUsage] - one mechanism, two classes
        finally:
            self._open -= 1
            if not self._open:
                self._idle.set()
