"""How do the steps of a flow get done, by a thread or by a task? One driver for each; the flow itself knows of neither."""

from __future__ import annotations

import inspect
import logging
import sys
import threading
from collections.abc import Awaitable, Callable
from contextvars import copy_context
from typing import TYPE_CHECKING, Any, TypeVar

from mcp_identity.sdk.steps import Reply, Show, Steps

if TYPE_CHECKING:
    from mcp_identity.sdk.engine import Engine

T = TypeVar("T")
OnAuthUrl = Callable[[str], Any]
"""Shows the user a link: a plain function, or a coroutine function."""
log = logging.getLogger(__name__)


def drive(steps: Steps[T], engine: Engine, on_auth_url: OnAuthUrl | None) -> T:
    """Do a flow; the calling thread waits."""
    try:
        step = next(steps)
        while True:
            if isinstance(step, Show):
                _show(step, on_auth_url)
                reply = Reply()
            else:
                reply = engine.perform(step)
            step = steps.send(reply)
    except StopIteration as done:
        return done.value
    finally:
        steps.close()


async def drive_async(steps: Steps[T], engine: Engine, on_auth_url: OnAuthUrl | None) -> T:
    """Do a flow; the calling task waits."""
    try:
        step = next(steps)
        while True:
            if isinstance(step, Show):
                await _show_async(step, on_auth_url)
                reply = Reply()
            else:
                reply = await engine.perform_async(step)
            step = steps.send(reply)
    except StopIteration as done:
        return done.value
    finally:
        steps.close()


def _show(step: Show, on_auth_url: OnAuthUrl | None) -> None:
    shown = (on_auth_url or _print)(step.url)
    if inspect.isawaitable(shown):
        _finish(shown)
    _waiting(step)


async def _show_async(step: Show, on_auth_url: OnAuthUrl | None) -> None:
    shown = (on_auth_url or _print)(step.url)
    if inspect.isawaitable(shown):
        await shown
    _waiting(step)


def _print(url: str) -> None:
    """What to do where nobody said how to show a link: as the command line does, on the error output alone."""
    text = f"To go on, open this link and agree; the program waits:\n{url}"
    print(text, file=sys.stderr, flush=True)  # noqa: T201 - a person reads it, where no log is kept


def _waiting(step: Show) -> None:
    log.info("waiting until the user agrees to connect %s", step.provider)  # the link belongs to the user, not to a log


def _finish(shown: Awaitable[Any]) -> None:
    """Await what a coroutine function began, for a caller that cannot: in a thread, which may have a loop of its own."""
    import anyio

    failed: list[BaseException] = []

    async def wait() -> None:
        await shown

    def run() -> None:
        try:
            anyio.run(wait)
        except BaseException as error:  # noqa: BLE001 - it is raised again, where the caller is
            failed.append(error)

    thread = threading.Thread(target=copy_context().run, args=(run,))
    thread.start()
    thread.join()
    if failed:
        raise failed[0]
