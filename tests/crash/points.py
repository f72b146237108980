"""Where can a server be killed? The product's own functions, wrapped in the process that is to be killed.

The product knows of none of it. A point has a name `flow.step`. `install` wraps what is there and fails where a name of the
product has moved, so a point that nobody passes any more is not a point that always survives.
"""

# pyright: reportPrivateUsage=false
# Steps that matter are inside the product, not at its surface.

from __future__ import annotations

import functools
import inspect
import os
import threading
import time
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import parse_qs

from tests.crash.control import Control

Flow = str
FLOW_OF = {"authorization_code": "callback", "refresh_token": "refresh", "client_credentials": "m2m"}
CALLBACK = (
    "received", "consumed", "consume.commit.before", "consume.commit.after", "before_post", "arrived", "processed", "answered",
    "read", "stored", "store.commit.before", "store.commit.after", "finished", "before_303",
)  # fmt: skip
REFRESH = (
    "leased", "lease.commit.before", "lease.commit.after", "before_post", "arrived", "processed", "answered", "read", "stored",
    "store.commit.before", "store.commit.after", "obtained", "serve.commit.before", "serve.commit.after",
)  # fmt: skip
M2M = (
    "leased", "lease.commit.before", "lease.commit.after", "before_post", "arrived", "processed", "answered", "read", "stored",
    "store.commit.before", "store.commit.after", "obtained", "serve.commit.before", "serve.commit.after",
)  # fmt: skip
FAILED_REFRESH = ("released", "release.commit.before", "release.commit.after")
"""The server says that it cannot: the lease is given back."""
CONSENT = ("asked", "ask.commit.before", "ask.commit.after", "begun", "begin.commit.before", "begin.commit.after")
LOSING = frozenset({"processed", "answered", "read", "stored", "store.commit.before"})
"""Between these and the next commit the server has rotated what nobody has stored."""


class _Labels(threading.local):
    """What this thread's open transaction holds."""

    def __init__(self) -> None:
        self.open: list[str] = []


class Points:
    """The points of one process."""

    def __init__(self, control: Control) -> None:
        """Know who says where to die."""
        self._control = control
        self._labels = _Labels()

    def at(self, point: str) -> None:
        """Come by a point."""
        self._control.passes(point)

    def mark(self, label: str) -> None:
        """The open transaction holds a step, so its COMMIT is a point of that step."""
        self._labels.open.append(label)

    def wrap(self, owner: Any, name: str, around: Callable[..., Any]) -> None:
        """Put `around(original, *arguments)` in the place of a function.

        Raises:
            AttributeError: If the product has no such function any more.
        """
        original = getattr(owner, name)

        @functools.wraps(original)
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            return around(original, *args, **kwargs)

        @functools.wraps(original)
        async def coroutine(*args: Any, **kwargs: Any) -> Any:  # who calls it may ask what kind of function it is
            return await around(original, *args, **kwargs)

        setattr(owner, name, coroutine if inspect.iscoroutinefunction(original) else wrapper)

    def around(self, owner: Any, name: str, *, before: str = "", after: str = "") -> None:
        """Pass points before and after a coroutine function."""

        async def passing(original: Callable[..., Awaitable[Any]], *args: Any, **kwargs: Any) -> Any:
            if before:
                self.at(before)
            result = await original(*args, **kwargs)
            if after:
                self.at(after)
            return result

        self.wrap(owner, name, passing)

    def step(self, owner: Any, name: str, naming: Callable[..., tuple[str, str] | None]) -> None:
        """Pass a point after a step inside a unit of work, and name the COMMIT that makes it stand.

        Args:
            owner: The class.
            name: The method.
            naming: Gives point and label from the method's arguments, or None where it is another step.
        """

        def passing(original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
            names = naming(*args, **kwargs)
            result = original(*args, **kwargs)
            if names is not None:
                self.at(names[0])
                self.mark(names[1])
            return result

        self.wrap(owner, name, passing)

    def commits(self) -> None:
        """Pass points around each COMMIT of a step."""
        from sqlalchemy.engine.default import DefaultDialect

        def committing(original: Callable[..., Any], *args: Any) -> None:
            labels, self._labels.open = list(dict.fromkeys(self._labels.open)), []
            self.at("commit.before")
            for label in labels:
                self.at(f"{label}.commit.before")
            original(*args)
            if "refresh.store" in labels:
                self._control.stored_at = time.monotonic()
            for label in labels:
                self.at(f"{label}.commit.after")
            self.at("commit.after")

        def rolling_back(original: Callable[..., Any], *args: Any) -> None:
            self._labels.open = []
            original(*args)

        self.wrap(DefaultDialect, "do_commit", committing)
        self.wrap(DefaultDialect, "do_rollback", rolling_back)


DURABLE = ("commit.before", "commit.after", "file.synced", "file.named")
"""What a command of the command line does that lasts: it commits, brings a file to the disk, and gives it its name."""


def install(control: Control) -> None:
    """Wrap the product of this process."""
    points = Points(control)
    points.commits()
    _pages(points)
    _transport(points)
    _refresher(points)
    _records(points)
    _vault(points)
    _files(points)


def _files(points: Points) -> None:
    def passing(point: str) -> Callable[..., Any]:
        def around(original: Callable[..., Any], *args: Any, **more: Any) -> Any:
            result = original(*args, **more)
            points.at(point)
            return result

        return around

    points.wrap(os, "fsync", passing("file.synced"))
    for name in ("replace", "rename", "link"):
        points.wrap(os, name, passing("file.named"))


def _pages(points: Points) -> None:
    from mcp_identity.broker.broker import Broker
    from mcp_identity.broker.exchange import Exchanger
    from mcp_identity.web.consent import Consents

    points.around(Consents, "callback", before="callback.received", after="callback.before_303")
    points.around(Exchanger, "_exchange", after="callback.read")
    points.around(Exchanger, "finish", after="callback.finished")
    points.around(Broker, "sweep", after="swept")


def _transport(points: Points) -> None:
    from mcp_identity.transport import Transport

    async def sending(original: Callable[..., Awaitable[Any]], transport: Any, request: Any, **options: Any) -> Any:
        kind = parse_qs((request.body or b"").decode("latin-1")).get("grant_type", [""])[0]
        flow = FLOW_OF.get(kind, "")
        points.at(f"{flow}.before_post")
        answer = await original(transport, request, **options)
        points.at(f"{flow}.answered")
        return answer

    points.wrap(Transport, "send", sending)


def _refresher(points: Points) -> None:
    from mcp_identity.broker.refresh import Refresher

    async def reading(original: Callable[..., Awaitable[Any]], refresher: Any, plan: Any, *args: Any) -> Any:
        result = await original(refresher, plan, *args)
        points.at(f"{_flow(plan.flow)}.read")
        return result

    async def obtaining(
        original: Callable[..., Awaitable[Any]], refresher: Any, call: Any, plan: Any, *args: Any, **more: Any
    ) -> Any:
        result = await original(refresher, call, plan, *args, **more)
        points.at(f"{_flow(plan.flow)}.obtained")
        return result

    points.wrap(Refresher, "ask_vendor", reading)
    points.wrap(Refresher, "obtain", obtaining)


def _records(points: Points) -> None:
    from mcp_identity.vault.records import Records

    def storing(_records: Any, lease: Any, *_: Any) -> tuple[str, str]:
        flow = _flow(lease.grant.key.flow)
        return f"{flow}.stored", f"{flow}.store"

    def leasing(_records: Any, grant: Any, *_: Any, **__: Any) -> tuple[str, str]:
        flow = _flow(grant.key.flow)
        return f"{flow}.leased", f"{flow}.lease"

    def serving(_records: Any, event: Any) -> tuple[str, str] | None:
        flow = _flow(event.flow)
        return (f"{flow}.served", f"{flow}.serve") if (event.action, event.outcome) == ("get_token", "ok") else None

    points.step(Records, "take_lease", leasing)
    points.step(Records, "put_tokens", storing)
    points.step(Records, "release_lease", lambda *_, **__: ("refresh.released", "refresh.release"))
    points.step(Records, "consume_state", lambda *_: ("callback.consumed", "callback.consume"))
    points.step(Records, "complete_session", lambda *_: ("callback.stored", "callback.store"))
    points.step(Records, "insert_session", lambda *_: ("consent.asked", "consent.ask"))
    points.step(Records, "start_attempt", lambda *_: ("consent.begun", "consent.begin"))
    points.step(Records, "append_audit", serving)


def _vault(points: Points) -> None:
    from mcp_identity.domain.errors import StorageError
    from mcp_identity.vault.vault import Vault

    async def running(original: Callable[..., Awaitable[Any]], *args: Any, **more: Any) -> Any:
        try:
            return await original(*args, **more)
        except StorageError:
            points.at("vault.failed")
            raise

    points.wrap(Vault, "run", running)


def _flow(flow: Any) -> str:
    return "m2m" if flow == "M2M" else "refresh"
