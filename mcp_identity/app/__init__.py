"""How the parts are put together: settings in, the running graph out.

`prepare` does what takes time and may fail (imports, keys, schema) and may run on any thread; `running` starts the owned
work and the consent page on the event loop. Every edge gets its broker here and nowhere else; `stdio.py` is the life of a
process that serves one MCP host. Heavy libraries are imported inside functions, because a stdio server answers `tools/list`
before it needs them.
"""

from __future__ import annotations

import contextlib
import os
import ssl
import time
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import anyio
import anyio.to_thread

from mcp_identity.domain.consent import Binding

if TYPE_CHECKING:
    from mcp_identity.broker.broker import Broker
    from mcp_identity.broker.services import ConsentFront
    from mcp_identity.broker.tasks import OwnedTasks
    from mcp_identity.domain.clock import Clock, Entropy
    from mcp_identity.domain.http import HttpRequest, HttpResponse
    from mcp_identity.domain.identity import User
    from mcp_identity.inbound.authentication import Authenticator
    from mcp_identity.settings import Settings
    from mcp_identity.transport import Transport
    from mcp_identity.vault.opening import Migration, VaultLocation
    from mcp_identity.vault.vault import Vault
    from mcp_identity.web.listener import LoopbackListener

GRACE_SECONDS = 10.0
"""How long a shutdown waits for owned work."""


class SystemClock:
    """The real clock."""

    def now(self) -> datetime:
        """The time on the wall, in UTC."""
        return datetime.now(UTC)

    def monotonic(self) -> float:
        """Seconds that never go back."""
        return time.monotonic()


class SystemEntropy:
    """OpenSSL's randomness: seeded by the operating system, another stream in every thread and after a fork.

    Asking the operating system each time would let go of the interpreter for each salt and each row id, and wait behind the
    other threads to get it back.
    """

    def random_bytes(self, count: int) -> bytes:
        """Unpredictable bytes."""
        return ssl.RAND_bytes(count)


class LoopbackFront:
    """The consent pages of a single-user server, on this machine's own port."""

    is_loopback = True
    binding = Binding.LOCAL

    def __init__(self, port: int) -> None:
        """Know the port; who serves it comes with `attach`."""
        self.port = port
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
        return f"http://{loopback_host}:{self.port}"


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
    """An opened vault and its broker, not yet running.

    Attributes:
        graph: What edges work with.
        vault: Open.
        transport: Sends all HTTP.
        tasks: The owned work.
        listener: Serves the consent pages on a loopback port; None where the HTTP server has them.
        clock: The clock of them all.
        entropy: The randomness of them all.
    """

    graph: Graph
    vault: Vault
    transport: Transport
    tasks: OwnedTasks
    listener: LoopbackListener | None
    clock: Clock
    entropy: Entropy

    def close(self) -> None:
        """Let go of a vault that never ran."""
        self.vault.close()


def vault_location(settings: Settings) -> VaultLocation:
    """Where the vault of these settings is.

    Raises:
        ConfigurationError: If its database cannot be told, or not be spoken to.
    """
    from mcp_identity.settings import key_reference, read_secret
    from mcp_identity.vault.kms.choosing import KeySource
    from mcp_identity.vault.opening import VaultLocation

    key = KeySource(*key_reference(settings.key)) if settings.key else None
    postgres = None
    if url := settings.postgres_url:
        from mcp_identity.vault.stores.postgres_url import parse_url

        postgres = parse_url(url, read_secret)
    return VaultLocation(settings.home, key, os.urandom(16).hex(), settings.database_path, postgres=postgres)


def has_vault(location: VaultLocation) -> bool:
    """Whether there is a vault; nothing is made.

    Raises:
        ConfigurationError: If something else is in its place.
        StorageError: If its database cannot be asked now.
    """
    from mcp_identity.vault.opening import find_vault

    return find_vault(location)


def migrate(settings: Settings) -> Migration:
    """Bring the vault of these settings to this version's schema; one that has it is left as it is.

    Raises:
        ConfigurationError: If there is no vault, or key and vault do not fit together.
        StorageError: If a newer version wrote it, or it cannot be opened now.
    """
    from mcp_identity.vault.opening import migrate_location

    return migrate_location(vault_location(settings), SystemClock(), SystemEntropy())


def prepare(
    settings: Settings,
    *,
    initialise: bool = False,
    clock: Clock | None = None,
    entropy: Entropy | None = None,
    transport: Transport | None = None,
    front: ConsentFront | None = None,
) -> Prepared:
    """Open the vault and build the graph on it.

    Args:
        settings: What was configured.
        initialise: Make a vault for a key that has none.
        clock: Another clock, in tests.
        entropy: Other randomness, in tests.
        transport: Another HTTP client, in tests.
        front: Where the consent pages are; None for a loopback port of this process's own.

    Raises:
        ConfigurationError: If key and vault do not fit together.
        StorageError: If the vault cannot be opened.
    """
    from mcp_identity.app.secret_sources import ListedSources
    from mcp_identity.broker.broker import Broker
    from mcp_identity.broker.services import Limits, Services
    from mcp_identity.broker.tasks import OwnedTasks
    from mcp_identity.broker.upstreams import Upstreams
    from mcp_identity.inbound.workload_tokens import WorkloadTokens
    from mcp_identity.transport import Transport
    from mcp_identity.vault.vault import open_vault

    clock, entropy = clock or SystemClock(), entropy or SystemEntropy()
    sources = ListedSources(settings)
    vault = open_vault(vault_location(settings), clock, entropy, initialise=initialise)
    client, tasks = transport or Transport(), OwnedTasks()
    own_pages = LoopbackFront(settings.callback_port)
    services = Services(
        vault=vault,
        transport=client,
        upstreams=Upstreams(client, clock),
        clock=clock,
        entropy=entropy,
        tasks=tasks,
        front=front or own_pages,
        default_release=settings.default_release,
        limits=Limits(
            settings.pending_consents,
            settings.links_per_minute,
            settings.concurrent_waits,
            settings.total_consents,
            settings.refreshes_ahead,
        ),
        mint=WorkloadTokens(vault, clock, entropy, settings.public_url),
        public_url=settings.public_url,
        secret_sources=sources,
    )
    broker = Broker(services)
    listener = None if front else _listen(own_pages, broker, client, clock, entropy)
    graph = Graph(broker, settings.local_user(vault.id), settings)
    return Prepared(graph, vault, client, tasks, listener, clock, entropy)


def authenticator_of(prepared: Prepared) -> Authenticator:
    """Who verifies the bearers of callers; the owned tasks must run while it is used."""
    from mcp_identity.inbound.authentication import Authenticator
    from mcp_identity.inbound.keys import IssuerKeys
    from mcp_identity.inbound.workload_tokens import WorkloadTokens

    vault, clock = prepared.vault, prepared.clock
    tokens = WorkloadTokens(vault, clock, prepared.entropy, prepared.graph.settings.public_url)
    return Authenticator(vault, IssuerKeys(prepared.transport, clock, prepared.tasks), tokens, clock)


def _listen(front: LoopbackFront, broker: Broker, client: Transport, clock: Clock, entropy: Entropy) -> LoopbackListener:
    """Make the listener of the loopback pages, which takes the port when a consent is open."""
    from mcp_identity.web.listener import LoopbackListener

    async def send(request: HttpRequest) -> HttpResponse:
        return await client.send(request, allow_http_loopback=True)

    listener = LoopbackListener(broker, port=front.port, send=send, clock=clock, entropy=entropy)
    front.attach(listener)
    return listener


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
            if prepared.listener is not None:
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
    from mcp_identity.app.front import configured_front

    front = configured_front(settings)
    prepared = await anyio.to_thread.run_sync(lambda: prepare(settings, initialise=initialise, front=front))
    async with running(prepared) as graph:
        yield graph
