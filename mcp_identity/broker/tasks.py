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
E = TypeVar("E", bound=Exception)


class Owned(Generic[T]):
    """One piece of owned work; any number of callers may wait for it."""

    def __init__(self, work: Callable[[], Awaitable[T]]) -> None:
        """Not begun yet."""
        self._work = work
        self._scope = anyio.CancelScope(shield=True)
        self._done = anyio.Event()
        self._result: T | None = None
        self._error: Exception | None = VaultUnavailable("the server is ending; ask again")

    async def wait(self) -> T:
        """Its result, or the error that it ended with. Cancelling a waiter does not cancel the work."""
        await self._done.wait()
        if self._error is not None:
            raise one_more(self._error) from self._error
        return self._result  # type: ignore[return-value]  # set whenever there is no error

    async def run(self) -> None:
        """Do the work; the cancellation of whatever is around does not reach it."""
        try:
            with self._scope:
                self._result = await self._work()
                self._error = None
        except Exception as error:  # noqa: BLE001 - it is the waiters' to handle
            self._error = error
        finally:
            self._done.set()

    def give_up(self) -> None:
        """Cancel the work itself."""
        self._scope.cancel()


class OwnedTasks:
    """The owned work of one process."""

    def __init__(self) -> None:
        """Nothing runs yet."""
        self._group: TaskGroup | None = None
        self._open: set[Owned[Any]] = set()
        self._idle = anyio.Event()

    @contextlib.asynccontextmanager
    async def running(self, grace_seconds: Callable[[], float]) -> AsyncGenerator[None]:
        """Take work until the block ends, then wait for what is under way.

        Args:
            grace_seconds: Asked at the end: how long to wait before what still runs is given up.
        """
        async with anyio.create_task_group() as group:
            self._group = group
            try:
                yield
            finally:
                self._group = None
                with anyio.CancelScope(shield=True):
                    await self.drain(grace_seconds())
                for owned in self._open:
                    owned.give_up()

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
        owned = Owned(work)
        self._open.add(owned)
        self._group.start_soon(self._track, owned)
        return owned

    async def run(self, work: Callable[[], Awaitable[T]]) -> T:
        """Begin owned work and wait for it."""
        return await self.start(work).wait()

    async def _track(self, owned: Owned[Any]) -> None:
        try:
            await owned.run()
        finally:
            self._open.discard(owned)
            if not self._open:
                self._idle.set()


def one_more(error: E) -> E:
    """The same error for one more waiter, so that each raises its own traceback and marks its own as written down."""
    again = type(error).__new__(type(error), *error.args)
    again.__dict__.update(vars(error))
    return again
