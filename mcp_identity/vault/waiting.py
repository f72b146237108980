"""How units of work come from event loops to the writer's thread, and how their outcomes go back, with few wake-ups.

Waking a thread costs more than most units do. So those of one event loop that come within a turn wait as one group: the first
of them hands the group over after a turn that brought nobody new, whoever comes before the writer takes it joins, and all of
them are told by one call into the loop.
"""

from __future__ import annotations

import contextlib
import threading
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import anyio
from anyio.lowlevel import EventLoopToken, cancel_shielded_checkpoint, current_token

from mcp_identity.domain.audit import AuditEvent
from mcp_identity.domain.errors import RateLimited, VaultUnavailable
from mcp_identity.domain.standing import Standing

T = TypeVar("T")


@dataclass(slots=True)
class Job(Generic[T]):
    """A unit that waits, and its outcome.

    Attributes:
        unit: What is to be run.
        event: What the trail says if it is refused or fails.
        foreseen: The hash of the grant key that it will ask for; empty for none.
        remembered: Its caller, if nothing has confirmed them since they were remembered.
        result: What it gave.
        error: Why it gave nothing.
        moved_to: Where it waits further, since it was not dealt with among the others.
    """

    unit: Any
    event: AuditEvent | None
    foreseen: bytes
    remembered: Standing | None = None
    result: T | None = None
    error: BaseException | None = None
    moved_to: Group | None = None


@dataclass(slots=True)
class Group:
    """Jobs of one event loop."""

    token: EventLoopToken
    done: anyio.Event
    jobs: list[Job[Any]] = field(default_factory=list[Job[Any]])
    is_complete: bool = False


class WaitingRoom:
    """Where jobs wait for the writer."""

    def __init__(self, capacity: int) -> None:
        """Nobody waits.

        Args:
            capacity: The most jobs that may wait.
        """
        self._capacity = capacity
        self._changed = threading.Condition(threading.Lock())
        self._groups: dict[object, Group] = {}
        self._waiting = 0
        self._is_closed = False

    async def wait(self, job: Job[Any]) -> None:
        """Wait until the writer has dealt with a job.

        Raises:
            VaultUnavailable: If the room is closed.
            RateLimited: If too many wait already.
        """
        group, is_first = self._join(job)
        if is_first:
            await self._gather(group)
        await group.done.wait()
        if job.moved_to is not None:
            await job.moved_to.done.wait()

    def take(self) -> list[Group] | None:
        """All that wait, once there are any; None when the room is closed and empty. The writer's thread waits here."""
        with self._changed:
            while not any(group.is_complete for group in self._groups.values()):
                if self._is_closed:
                    return None
                self._changed.wait()
            return self._take()

    def take_now(self) -> list[Group]:
        """All that wait now."""
        with self._changed:
            return self._take()

    def close(self) -> None:
        """Let nobody in any more."""
        with self._changed:
            self._is_closed = True
            for group in self._groups.values():
                group.is_complete = True
            self._changed.notify()

    def _join(self, job: Job[Any]) -> tuple[Group, bool]:
        token = current_token()
        with self._changed:
            if self._is_closed:
                raise VaultUnavailable("the vault is closed")
            if self._waiting >= self._capacity:
                raise RateLimited("the vault has too much to do; try again", retry_after_seconds=1)
            self._waiting += 1
            group = self._groups.get(token.native_token)
            is_first = group is None
            if group is None:
                group = self._groups[token.native_token] = Group(token, anyio.Event())
            group.jobs.append(job)
            return group, is_first

    async def _gather(self, group: Group) -> None:
        seen = 0
        try:
            while len(group.jobs) != seen:
                seen = len(group.jobs)
                await cancel_shielded_checkpoint()
        finally:
            with self._changed:
                group.is_complete = True
                self._changed.notify()

    def _take(self) -> list[Group]:
        groups = list(self._groups.values())
        self._groups.clear()
        self._waiting = 0
        return groups


def set_apart(groups: list[Group], left: list[Job[Any]]) -> list[Group]:
    """Let jobs wait on, each as a group of its own, so that the others of their groups can be told."""
    tokens = {id(job): group.token for group in groups for job in group.jobs}
    for job in left:
        job.moved_to = Group(tokens[id(job)], anyio.Event(), [job])
    return [job.moved_to for job in left if job.moved_to is not None]


def answer(groups: list[Group]) -> None:
    """Tell all of these groups that they have been dealt with."""
    for group in groups:
        with contextlib.suppress(RuntimeError):  # that event loop has ended; nobody waits there any more
            group.token.backend_class.run_sync_soon(group.done.set, (), group.token.native_token)
