"""How the parts are put together: settings in, the running graph out.

`prepare` does what takes time and may fail (imports, keys, schema) and may run on any thread; `running` starts the owned
work and the consent page on the event loop. Every edge gets its broker here and nowhere else. Heavy libraries are imported
inside functions, because a stdio server answers `tools/list` before it needs them.
"""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import signal
import sys
import time
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, NoReturn

import anyio
import anyio.to_thread

from mcp_identity.domain.errors import ConfigurationError, IdentityError, StorageError
from mcp_identity.domain.identity import is_name

if TYPE_CHECKING:
    from mcp_identity.broker.broker import Broker
    from mcp_identity.broker.tasks import OwnedTasks
    from mcp_identity.domain.clock import Clock, Entropy
    from mcp_identity.domain.http import HttpRequest, HttpResponse
    from mcp_identity.domain.identity import User
    from mcp_identity.settings import Settings
    from mcp_identity.tools.caller import Local
    from mcp_identity.tools.edge import IdentityServer
    from mcp_identity.transport import Transport
    from mcp_identity.vault.opening import VaultLocation
    from mcp_identity.vault.vault import Vault
    from mcp_identity.web.listener import LoopbackListener

GRACE_SECONDS = 10.0
"""How long a shutdown waits for owned work."""
HOST_GRACE_SECONDS = 2.0
"""How long an MCP host waits after closing our input before it kills us."""
_WARM_AFTER_SECONDS = 1.0
_LIST_LEAVES_WITHIN_SECONDS = 0.02
"""Opening the vault imports much; begun at once, it would hold up the very answer that a host waits for."""
EXIT_FAILED, EXIT_STORAGE, EXIT_CONFIGURATION = 1, 74, 78
log = logging.getLogger(__name__)


class SystemClock:
    """The real clock."""

    def now(self) -> datetime:
        """The time on the wall, in UTC."""
        return datetime.now(UTC)

    def monotonic(self) -> float:
        """Seconds that never go back."""
        return time.monotonic()


class SystemEntropy:
    """The operating system's randomness."""

    def random_bytes(self, count: int) -> bytes:
        """Unpredictable bytes."""
        return os.urandom(count)


class LoopbackFront:
    """The consent pages of a single-user server, on this machine's own port."""

    is_loopback = True

    def __init__(self, port: int) -> None:
        """Know the port; who serves it comes with `attach`."""
        self._port = port
        self._listener: LoopbackListener | None = None

    def attach(self, listener: LoopbackListener) -> None:
        """Bind the listener, which needs the broker, which needs this."""
        self._listener = listener

    async def ensure_open(self) -> None:
        """See to it that the pages answer."""
        if self._listener is None:
            raise RuntimeError("the graph is not running")
        await self._listener.ensure_open()

    def base_url(self, loopback_host: str) -> str:
        """The origin of the pages."""
        return f"http://{loopback_host}:{self._port}"


@dataclass(frozen=True, slots=True)
class Graph:
    """What edges work with.

    Attributes:
        broker: The verbs.
        user: The local user.
        settings: What was configured.
    """

    broker: Broker
    user: User
    settings: Settings


@dataclass(frozen=True, slots=True)
class Prepared:
    """An opened vault and its broker, not yet running."""

    graph: Graph
    vault: Vault
    transport: Transport
    tasks: OwnedTasks
    listener: LoopbackListener

    def close(self) -> None:
        """Let go of a vault that never ran."""
        self.vault.close()


def vault_location(settings: Settings) -> VaultLocation:
    """Where the vault of these settings is."""
    from mcp_identity.settings import key_reference
    from mcp_identity.vault.opening import KeySource, VaultLocation

    key = KeySource(*key_reference(settings.key)) if settings.key else None
    return VaultLocation(settings.home, key, os.urandom(16).hex(), settings.database_path)


def prepare(
    settings: Settings,
    *,
    initialise: bool = False,
    clock: Clock | None = None,
    entropy: Entropy | None = None,
    transport: Transport | None = None,
) -> Prepared:
    """Open the vault and build the graph on it.

    Args:
        settings: What was configured.
        initialise: Make a vault for a key that has none.
        clock: Another clock, in tests.
        entropy: Other randomness, in tests.
        transport: Another HTTP client, in tests.

    Raises:
        ConfigurationError: If key and vault do not fit together.
        StorageError: If the vault cannot be opened.
    """
    from mcp_identity.broker.broker import Broker
    from mcp_identity.broker.services import Limits, Services
    from mcp_identity.broker.tasks import OwnedTasks
    from mcp_identity.transport import Transport
    from mcp_identity.vault.vault import open_vault
    from mcp_identity.web.listener import LoopbackListener

    clock, entropy = clock or SystemClock(), entropy or SystemEntropy()
    vault = open_vault(vault_location(settings), clock, entropy, initialise=initialise)
    client, tasks = transport or Transport(), OwnedTasks()
    front = LoopbackFront(settings.callback_port)
    services = Services(
        vault=vault,
        transport=client,
        clock=clock,
        entropy=entropy,
        tasks=tasks,
        front=front,
        default_release=settings.default_release,
        limits=Limits(settings.pending_consents, settings.links_per_minute, settings.concurrent_waits),
    )
    broker = Broker(services)

    async def send(request: HttpRequest) -> HttpResponse:
        return await client.send(request, allow_http_loopback=True)

    listener = LoopbackListener(broker, port=settings.callback_port, send=send, clock=clock, entropy=entropy)
    front.attach(listener)
    graph = Graph(broker, settings.local_user(vault.id), settings)
    return Prepared(graph, vault, client, tasks, listener)


@contextlib.asynccontextmanager
async def running(prepared: Prepared, grace_seconds: Callable[[], float] = lambda: GRACE_SECONDS) -> AsyncGenerator[Graph]:
    """Run a prepared graph until the block ends; then wait for what must not be lost, and close the vault.

    Args:
        prepared: What `prepare` made.
        grace_seconds: Asked at the end: how long to wait for owned work.
    """
    failure: Exception | None = None
    try:
        async with anyio.create_task_group() as group:
            await group.start(prepared.listener.run)
            async with prepared.tasks.running(grace_seconds):
                try:
                    yield prepared.graph
                except Exception as error:  # noqa: BLE001 - raised below: out here a task group would wrap it
                    failure = error
            group.cancel_scope.cancel()
    finally:
        with anyio.CancelScope(shield=True):
            await prepared.transport.aclose()
            await anyio.to_thread.run_sync(prepared.vault.close)
    if failure is not None:
        raise failure


@contextlib.asynccontextmanager
async def open(settings: Settings, *, initialise: bool = False) -> AsyncGenerator[Graph]:  # noqa: A001 - the design's own name
    """Open and run the graph of these settings; what a command of the command line asks for.

    Raises:
        ConfigurationError: If key and vault do not fit together.
        StorageError: If the vault cannot be opened.
    """
    prepared = await anyio.to_thread.run_sync(lambda: prepare(settings, initialise=initialise))
    async with running(prepared) as graph:
        yield graph


def serve_stdio(load: Callable[[], Settings], configure_logging: Callable[[Settings], None], *, version: str) -> NoReturn:
    """Serve MCP on stdin and stdout until the input ends or a signal comes; does not return.

    The transport listens first. The settings, the key and the schema are checked on a thread once the first list was
    answered, or a second has passed; no tool answers before. The SDK reads stdin in a thread that nothing can interrupt, so
    the process ends by `os._exit` after everything was drained.

    Args:
        load: Reads the settings.
        configure_logging: Sets logging up, to stderr.
        version: Of the product.
    """
    from mcp_identity.tools.caller import StdioCaller
    from mcp_identity.tools.server import build_server

    async def main() -> None:
        process = _StdioProcess(load, configure_logging)
        server = build_server(StdioCaller(process.local), version=version, listed=process.warm_up)
        gc.freeze()  # what stands now stays; it is never looked at again
        gc.enable()
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

    def __init__(self, load: Callable[[], Settings], configure_logging: Callable[[Settings], None]) -> None:
        self._load = load
        self._configure_logging = configure_logging
        self._listed = anyio.Event()
        self._wanted = anyio.Event()
        self._opened = anyio.Event()
        self._ending = anyio.Event()
        self._grace_seconds = GRACE_SECONDS
        self._graph: Graph | None = None
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
                self.end(GRACE_SECONDS)

    async def serve(self, server: IdentityServer) -> None:
        """Serve the transport until the input ends, then begin to end."""
        try:
            await server.run_stdio_async()
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
            async with running(prepared, lambda: self._grace_seconds) as self._graph:
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

    def _prepare(self) -> Prepared | IdentityError:
        """The prepared graph, or why there is none; on a thread."""
        try:
            settings = self._load()
            self._configure_logging(settings)
            if settings.workload and not is_name(settings.workload):
                raise ConfigurationError("the workload is lower-case letters, digits, dots, hyphens and underscores")
            return prepare(settings)
        except IdentityError as error:
            return error


def _say(text: str) -> None:
    """Tell the person who looks at the host's log why the process ends."""
    with contextlib.suppress(OSError, ValueError):
        print(text, file=sys.stderr)  # noqa: T201 - the host shows stderr
