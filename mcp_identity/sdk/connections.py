"""How are calls carried? In one event loop: the MCP connections that are kept open, and one request after another on them.

A connection is opened when it is first needed, kept by a task of its own, and opened again once where it was lost. Over HTTP
there is one for everybody; over stdio, and for a server that asks nobody, there is one for each name of a workload, which is
then all that tells them apart.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, TextIO, cast

import anyio
from anyio.abc import TaskGroup, TaskStatus
from mcp.client import Client
from mcp.client.session import ClientSession
from mcp.client.stdio import StdioServerParameters, stdio_client
from mcp.client.streamable_http import streamable_http_client
from mcp.shared.exceptions import MCPError
from mcp.types import (
    CONNECTION_CLOSED,
    INVALID_PARAMS,
    REQUEST_TIMEOUT,
    CallToolRequest,
    CallToolRequestParams,
    CallToolResult,
    Implementation,
)
from pydantic import ValidationError

from mcp_identity.sdk.endpoint import Place, Remote, Started
from mcp_identity.sdk.errors import BAD_ANSWER, TIMED_OUT, UNREACHABLE, failure
from mcp_identity.sdk.steps import Ask, Pause, Redeem, Reply
from mcp_identity.sdk.wire import SENDING, Http, Sending, redeem

VERSION = "2026-07-28"
"""The protocol version that is spoken: in it no session belongs to one caller."""
CLIENT_NAME = "mcp-identity-python"
ANSWER_SECONDS = 30.0
"""How long an answer may take beyond what the server was asked to wait."""
_TALKATIVE = ("client", "mcp.client.client", "mcp.client.session", "mcp.client.stdio", "mcp.client.streamable_http")
_quiet: set[int] = set()
_ADMIN = (
    "Start the server with --toolset admin, and call with a token whose scopes hold identity:admin; "
    "a server that this client starts itself has them."
)
log = logging.getLogger(__name__)
Opening = Callable[[], AbstractAsyncContextManager[ClientSession]]


@dataclass(slots=True, eq=False)
class _Kept:
    """A connection that stands, and the scope whose end closes it.

    Attributes:
        calls: How many are under way on it.
        is_left: No further one begins on it.
    """

    session: ClientSession
    scope: anyio.CancelScope
    calls: int = 0
    is_left: bool = False


class Line:
    """One MCP connection, opened again when it was lost."""

    def __init__(self, opening: Opening, tasks: TaskGroup) -> None:
        """Open nothing yet."""
        self._opening = opening
        self._tasks = tasks
        self._lock = anyio.Lock()
        self._kept: _Kept | None = None

    async def call(self, ask: Ask, sending: Sending) -> dict[str, Any]:
        """Call a tool, once.

        Args:
            ask: What to call.
            sending: Told whether the call was lost on its way.
        """
        try:
            kept = await self._stand()
        except (OSError, ValueError, MCPError) as error:
            sending.is_lost = sending.is_unsent = True
            return failure(UNREACHABLE, f"the server cannot be started ({type(error).__name__})", retryable=True)
        before = SENDING.set(sending)
        kept.calls += 1
        try:
            result = await kept.session.send_request(
                CallToolRequest(params=CallToolRequestParams(name=ask.tool, arguments=dict(ask.arguments))),
                CallToolResult,
                request_read_timeout_seconds=ANSWER_SECONDS + ask.wait_seconds,
            )
        except MCPError as error:
            if sending.failure is not None:
                return sending.failure
            if error.code == CONNECTION_CLOSED:
                self._leave(kept)
                sending.is_lost = True
            return _failure_of(ask, error)
        except ValidationError as error:
            return failure(BAD_ANSWER, f"the server's answer is none ({type(error).__name__})")
        finally:
            SENDING.reset(before)
            kept.calls -= 1
            if kept.is_left and not kept.calls:
                kept.scope.cancel()
        said: Any = result.structured_content
        if isinstance(said, dict) and isinstance(said.get("status"), str):  # pyright: ignore[reportUnknownMemberType] - it is whatever came
            return cast("dict[str, Any]", said)
        return failure(BAD_ANSWER, f"the server's answer to {ask.tool} has no status")

    async def _stand(self) -> _Kept:
        async with self._lock:
            kept = self._kept
            if kept is None:
                kept = self._kept = await self._tasks.start(self._keep)
            return kept

    async def _keep(self, *, task_status: TaskStatus[_Kept]) -> None:
        """Own a connection: whatever ends it ends here, and never those who use it."""
        kept: _Kept | None = None
        try:
            with anyio.CancelScope() as scope:
                async with self._opening() as session:
                    kept = _Kept(session, scope)
                    task_status.started(kept)
                    await anyio.sleep_forever()
        except Exception as error:  # noqa: BLE001 - it ended; why is told to whoever opens it, or nobody
            if kept is None:
                raise _first_of(error) from None
            log.debug("a connection ended: %s", type(_first_of(error)).__name__)
        finally:
            if kept is not None and self._kept is kept:
                self._kept = None

    def _leave(self, kept: _Kept) -> None:
        """Begin nothing more on a connection that is lost, or on which an answer broke off: others may still get theirs."""
        kept.is_left = True
        if self._kept is kept:
            self._kept = None


class Hub:
    """Everything that runs in the event loop of one client."""

    def __init__(self, place: Place, version: str) -> None:
        """Know where the server is."""
        self._place = place
        self._version = version
        self._lines: dict[tuple[str, bool], Line] = {}
        self._waits: dict[tuple[bytes, str], anyio.Event] = {}
        self._tasks: TaskGroup
        self._http: Http | None = None

    async def run(self, *, task_status: TaskStatus[None]) -> None:
        """Keep connections until this is cancelled."""
        thread = threading.get_ident()
        _quiet.add(thread)
        _keep_quiet()
        try:
            async with _http(self._place) as self._http, anyio.create_task_group() as self._tasks:
                task_status.started()
                await anyio.sleep_forever()
        finally:
            _quiet.discard(thread)

    async def perform(self, step: Ask | Redeem | Pause) -> Reply:
        """Do a step."""
        began = anyio.current_time()
        if isinstance(step, Pause):
            await anyio.sleep(step.seconds)
            said: dict[str, Any] = {}
        elif isinstance(step, Redeem):
            said = await self._redeem(step)
        elif step.tool == "get_consent":
            said = await self._wait(step)
        else:
            said = await self._call(step)
        return Reply(said, anyio.current_time() - began)

    async def _call(self, ask: Ask) -> dict[str, Any]:
        """Call a tool; once more where the connection was lost and that does no harm."""
        line = self._line(ask)
        sending = Sending(ask.who)
        said = await line.call(ask, sending)
        if sending.is_lost and (ask.repeatable or sending.is_unsent):
            said = await line.call(ask, Sending(ask.who))
        return said

    async def _wait(self, ask: Ask) -> dict[str, Any]:
        """Ask how a consent stands; of those who wait for the same one, one asks at a time: each takes a place there."""
        key = (sha256(ask.who.bearer.encode()).digest(), str(ask.arguments.get("session_uri")))
        with anyio.move_on_after(ask.wait_seconds) as patience:
            while (others := self._waits.get(key)) is not None:
                await others.wait()
        if patience.cancelled_caught:
            return {"status": "pending"}
        self._waits[key] = mine = anyio.Event()
        try:
            return await self._call(ask)
        finally:
            del self._waits[key]
            mine.set()

    async def _redeem(self, step: Redeem) -> dict[str, Any]:
        if not isinstance(self._place, Remote) or self._http is None:
            return failure("access_denied", "over stdio there is nothing to redeem a handle at")
        before = SENDING.set(Sending(step.who))
        try:
            return await redeem(self._http, self._place, step.handle)
        finally:
            SENDING.reset(before)

    def _line(self, ask: Ask) -> Line:
        label = "" if ask.who.bearer else ask.who.workload
        admin = ask.admin and isinstance(self._place, Started)
        if (label, admin) not in self._lines:
            self._lines[label, admin] = Line(lambda: self._open(label, admin=admin), self._tasks)
        return self._lines[label, admin]

    @asynccontextmanager
    async def _open(self, label: str, *, admin: bool) -> AsyncGenerator[ClientSession]:
        place = self._place
        if isinstance(place, Remote):
            streams = streamable_http_client(f"{place.origin}/mcp", http_client=self._http)
        else:
            streams = _process(place, label, admin=admin)
        info = Implementation(name=label or CLIENT_NAME, version=self._version)
        async with Client(streams, mode=VERSION, client_info=info, cache=None) as client:
            yield client.session


@asynccontextmanager
async def _http(place: Place) -> AsyncGenerator[Http | None]:
    if isinstance(place, Started):
        yield None
        return
    async with Http(place) as http:
        yield http


@asynccontextmanager
async def _process(place: Started, label: str, *, admin: bool) -> AsyncGenerator[Any]:
    """The streams of a server that is started for this, and ended with it: its input is closed, and it has time to finish."""
    command, *arguments = (*place.command, *(place.for_admin if admin else ()))
    environment = {**place.environment, **({"MCP_IDENTITY_WORKLOAD": label} if label else {})}
    parameters = StdioServerParameters(command=command, args=arguments, env=environment)
    with _error_output() as output:
        async with stdio_client(parameters, errlog=output) as streams:
            yield streams


@contextmanager
def _error_output() -> Generator[TextIO]:
    """Where a server that we start says what is wrong: our own error output, or nowhere where that is no file."""
    try:
        sys.stderr.fileno()
    except (AttributeError, OSError, ValueError):
        with Path(os.devnull).open("w", encoding="utf-8") as nowhere:
            yield nowhere
        return
    yield sys.stderr


def _failure_of(ask: Ask, error: MCPError) -> dict[str, Any]:
    """What an error of the protocol, or of the MCP client, says."""
    data: Any = error.data
    if isinstance(data, dict) and isinstance(code := data.get("code"), str):  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType] - it is whatever came
        return failure(code, error.message.removeprefix(f"{code}: "), retryable=data.get("retryable") is True)  # pyright: ignore[reportUnknownMemberType]
    if error.code == INVALID_PARAMS and error.message.startswith("Unknown tool"):
        said = failure("access_denied", f"this server has no tool {ask.tool} for this caller")
        return {**said, "remedy": _ADMIN if ask.admin else "Check that the server has the version of this client."}
    if error.code == CONNECTION_CLOSED:
        message = "the server ended the connection; one that this client started said why on its error output"
        return failure(UNREACHABLE, message, retryable=True)
    if error.code == REQUEST_TIMEOUT:
        return failure(TIMED_OUT, f"the server did not answer {ask.tool} in time", retryable=True)
    return failure(BAD_ANSWER, f"the server refused {ask.tool} (error {error.code} of the protocol)")


def _first_of(error: BaseException) -> Exception:
    """The first plain exception in a group of them."""
    while isinstance(error, BaseExceptionGroup):
        error = cast("BaseException", error.exceptions[0])  # pyright: ignore[reportUnknownMemberType]
    return error if isinstance(error, Exception) else RuntimeError(type(error).__name__)


class _Quiet(logging.Filter):
    """Drops what the MCP client says in our threads: it logs whole messages, and in ours there are tokens."""

    def filter(self, record: logging.LogRecord) -> bool:
        return record.thread not in _quiet


_QUIET = _Quiet()


def _keep_quiet() -> None:
    for name in _TALKATIVE:
        logging.getLogger(name).addFilter(_QUIET)
