"""The life of a process that serves one MCP host on stdin and stdout.

The transport listens before anything is opened, and the process ends itself: the SDK reads stdin in a thread that nothing
can interrupt.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, NoReturn

import anyio
import anyio.to_thread

from mcp_identity import app
from mcp_identity.app.memory import settle
from mcp_identity.app.pipes import standard_streams
from mcp_identity.domain.errors import ConfigurationError, IdentityError, StorageError
from mcp_identity.domain.identity import is_resource_name

if TYPE_CHECKING:
    from mcp_identity.settings import Settings
    from mcp_identity.tools.caller import Local
    from mcp_identity.tools.edge import IdentityServer

HOST_GRACE_SECONDS = 2.0
"""How long an MCP host waits after closing our input before it kills us."""
_WARM_AFTER_SECONDS = 1.0
_LIST_LEAVES_WITHIN_SECONDS = 0.02
"""Opening the vault imports much; begun at once, it would hold up the very answer that a host waits for."""
EXIT_FAILED, EXIT_STORAGE, EXIT_CONFIGURATION = 1, 74, 78
log = logging.getLogger(__name__)


def serve_stdio(
    load: Callable[[], Settings],
    configure_logging: Callable[[Settings], None],
    *,
    version: str,
    trust_local_user: bool = False,
    admin: bool = False,
    allow_http_loopback: bool = False,
) -> NoReturn:
    """Serve MCP on stdin and stdout until the input ends or a signal comes; does not return.

    The transport listens first. The settings, the key and the schema are checked on a thread once the first list was
    answered, or a second has passed; no tool answers before. The SDK reads stdin in a thread that nothing can interrupt, so
    the process ends by `os._exit` after everything was drained.

    Args:
        load: Reads the settings.
        configure_logging: Sets logging up, to stderr.
        version: Of the product.
        trust_local_user: Believe this machine's user on a vault that others share.
        admin: Serve the tools for operators, too.
        allow_http_loopback: What those make may use http on a loopback address.
    """
    from mcp_identity.tools.caller import StdioCaller
    from mcp_identity.tools.server import build_server

    async def main() -> None:
        process = _StdioProcess(load, configure_logging, trust_local_user=trust_local_user)
        server = build_server(
            StdioCaller(process.local),
            version=version,
            listed=process.warm_up,
            admin=admin,
            allow_http_loopback=allow_http_loopback,
        )
        settle()
        async with anyio.create_task_group() as group:
            group.start_soon(process.watch_signals)
            group.start_soon(process.run)
            await process.serve(server)

    anyio.run(main)
    _exit(EXIT_FAILED)  # `process.run` ends the process; whoever comes here was thrown out


def _exit(code: int) -> NoReturn:
    with contextlib.suppress(OSError, ValueError):  # nobody may read stderr any more
        sys.stderr.flush()
    os._exit(code)


class _StdioProcess:
    """The life of a process that serves one MCP host."""

    def __init__(
        self, load: Callable[[], Settings], configure_logging: Callable[[Settings], None], *, trust_local_user: bool
    ) -> None:
        self._load = load
        self._trust_local_user = trust_local_user
        self._configure_logging = configure_logging
        self._listed = anyio.Event()
        self._wanted = anyio.Event()
        self._opened = anyio.Event()
        self._ending = anyio.Event()
        self._grace_seconds = app.GRACE_SECONDS
        self._graph: app.Graph | None = None
        self._status = 0

    def warm_up(self) -> None:
        """Begin to open the vault once the list of tools has left."""
        self._listed.set()

    async def local(self) -> Local:
        """What tools work with, once key and schema are checked."""
        from mcp_identity.tools.caller import Local

        self._open_now()
        await self._opened.wait()
        graph = self._graph
        if graph is None:
            raise RuntimeError("opened without a graph")
        return Local(graph.broker, graph.user, graph.settings.workload)

    def end(self, grace_seconds: float) -> None:
        """Begin to end: take nothing new, and wait so long for owned work."""
        self._grace_seconds = grace_seconds
        self._ending.set()
        self._open_now()

    async def watch_signals(self) -> None:
        """End cleanly on SIGINT and SIGTERM."""
        if sys.platform == "win32":
            return
        with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
            async for _ in signals:
                self.end(app.GRACE_SECONDS)

    async def serve(self, server: IdentityServer) -> None:
        """Serve the transport until the input ends, then begin to end."""
        try:
            streams = standard_streams()
            await (server.run_on(*streams) if streams else server.run_stdio_async())
        except* OSError:
            pass  # the host closed the other end first; its input has ended too
        except* Exception as errors:  # noqa: BLE001 - what must not be lost is drained all the same
            self._failed(errors)
        self.end(HOST_GRACE_SECONDS)

    async def run(self) -> None:
        """Open the vault, serve until the end, let go, and end the process: nothing may leave it half alive."""
        try:
            await self._run()
        except Exception as error:  # noqa: BLE001 - the reader of stdin would keep a broken process alive
            self._failed(error)
        _exit(self._status)

    async def _run(self) -> None:
        with anyio.move_on_after(_WARM_AFTER_SECONDS):
            await self._listed.wait()
            with anyio.move_on_after(_LIST_LEAVES_WITHIN_SECONDS):
                await self._wanted.wait()
        if not self._ending.is_set():
            prepared = await anyio.to_thread.run_sync(self._prepare)
            if isinstance(prepared, IdentityError):
                _say(f"error: {prepared.message} [{prepared.code}]")
                self._status = EXIT_STORAGE if isinstance(prepared, StorageError) else EXIT_CONFIGURATION
                return
            async with app.running(prepared, lambda: self._grace_seconds) as self._graph:
                settle()  # what opening the vault has loaded, too
                self._opened.set()
                await self._ending.wait()

    def _open_now(self) -> None:
        self._listed.set()
        self._wanted.set()

    def _failed(self, error: Exception) -> None:
        """Say that the server failed, and where; what the error says itself, nobody has checked."""
        self._status = EXIT_FAILED
        _say(f"error: the server failed ({type(error).__name__}) [{IdentityError.code}]")
        log.error("the server failed", exc_info=error)

    def _prepare(self) -> app.Prepared | IdentityError:
        """The prepared graph, or why there is none; on a thread."""
        try:
            settings = self._load()
            self._configure_logging(settings)
            if settings.workload and not is_resource_name(settings.workload):
                raise ConfigurationError("the workload is lower-case letters, digits, dots, hyphens and underscores")
            settings.require_own_vault(trust_local_user=self._trust_local_user)
            return app.prepare(settings)
        except IdentityError as error:
            return error


def _say(text: str) -> None:
    """Tell the person who looks at the host's log why the process ends."""
    with contextlib.suppress(OSError, ValueError):
        print(text, file=sys.stderr)  # noqa: T201 - the host shows stderr
