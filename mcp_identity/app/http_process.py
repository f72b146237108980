"""The life of a process that serves callers over HTTP: what is checked before it listens, and how it ends.

A signal ends it: nothing new is taken, requests and owned work have one deadline together, and the status is 0. A second one
ends it at once.
"""

from __future__ import annotations

import contextlib
import gc
import logging
import math
import os
import signal
import sys
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import anyio
import anyio.to_thread

from mcp_identity import app
from mcp_identity.app.door import address_of, is_in, networks_of
from mcp_identity.app.ending import Ending
from mcp_identity.app.exposure import (
    NO_CALLERS,
    NO_OPERATORS,
    HttpOptions,
    base_url,
    door_rules,
    is_loopback,
    require_safe,
    tls_context,
)
from mcp_identity.app.front import PublicFront
from mcp_identity.app.http import Site, application
from mcp_identity.app.memory import settle
from mcp_identity.domain.consent import Binding
from mcp_identity.domain.errors import ConfigurationError, IdentityError, StorageError, clean_text
from mcp_identity.domain.identity import is_resource_name
from mcp_identity.web.peer import is_same_user
from mcp_identity.web.serving import Capacity, addresses, bind, serving

if TYPE_CHECKING:
    import socket

    from mcp_identity.settings import Settings
    from mcp_identity.tools.caller import Authenticator

EXIT_FAILED, EXIT_STORAGE, EXIT_CONFIGURATION = 1, 74, 78
_SIGNALLED = 128
_REST_SECONDS, _PROXY_REST_SECONDS = 5, 75
_FILES_BESIDE_CONNECTIONS = 256
log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Serving:
    """A server that is up.

    Attributes:
        url: Scheme, host and port that it gives out as its own.
        port: Where it listens.
        ending: Ends it.
        prepared: What it serves.
    """

    url: str
    port: int
    ending: Ending
    prepared: app.Prepared


def serve_http(
    load: Callable[[], Settings], configure_logging: Callable[[Settings], None], options: HttpOptions, *, version: str
) -> int:
    """Serve until a signal comes.

    Args:
        load: Reads the settings.
        configure_logging: Sets logging up, to stderr.
        options: What the command line says.
        version: Of the product.

    Returns:
        The exit status.
    """
    failures: list[Exception] = []

    async def main() -> None:
        ending = Ending(app.SystemClock(), app.GRACE_SECONDS)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(_watch_signals, ending)
            try:
                settings = load()
                configure_logging(settings)
                async with running_server(settings, options, ending, version=version) as server:
                    for path in ("/mcp", "/sse") if options.transport == "sse" else ("/mcp",):
                        _say(f"mcp-identity serves {server.url}{path} from {options.host} port {server.port}")
                    gc.collect()  # what start-up has left
                    settle()
                    await ending.begun.wait()
            except Exception as error:  # noqa: BLE001 - out here the task group would wrap it
                failures.append(error)
            tasks.cancel_scope.cancel()

    anyio.run(main)
    return _status_of(failures[0]) if failures else 0


@contextlib.asynccontextmanager
async def running_server(
    settings: Settings,
    options: HttpOptions,
    ending: Ending,
    *,
    version: str,
    verify: Callable[[app.Prepared], Authenticator] = app.authenticator_of,
) -> AsyncGenerator[Serving]:
    """Serve while the block lasts; after it, or once the end has begun, let what is under way end.

    Args:
        settings: What was configured.
        options: What the command line says.
        ending: The end of the server.
        version: Of the product.
        verify: Makes who verifies bearers; another one in tests.

    Raises:
        ConfigurationError: If it must not be served like that.
        StorageError: If the vault cannot be opened.
    """
    if settings.workload and not is_resource_name(settings.workload):
        raise ConfigurationError("the workload is lower-case letters, digits, dots, hyphens and underscores")
    found = _addresses(options.host)
    loopback = is_loopback(found)
    require_safe(settings, options, loopback=loopback)
    tls = tls_context(settings)
    sockets = _bind(options)
    try:
        port = sockets[0].getsockname()[1]
        in_force = settings.model_copy(update={"public_url": base_url(settings, port)})
        binding = Binding.LOCAL if options.insecure_loopback else Binding.LOGIN
        front = PublicFront(settings.public_url, scheme="https" if tls else "http", port=port, binding=binding)
        prepared = await anyio.to_thread.run_sync(lambda: app.prepare(in_force, front=front))
        try:
            await _require_callers(prepared, options, loopback=loopback)
            site = Site(
                door_rules(settings, options, port, found, loopback=loopback),
                None if options.insecure_loopback else verify(prepared),
                sse=options.transport == "sse",
                issues_identity_tokens=bool(settings.public_url),
                version=version,
                admin=options.admin,
                allow_http_loopback=options.allow_http_loopback,
            )
            served = application(prepared, site, ending)
        except BaseException:
            prepared.close()
            raise
    except BaseException:
        for listener in sockets:
            listener.close()
        raise
    _allow_connections(settings.connections)
    async with serving(
        served,
        sockets,
        check_peer=is_same_user if options.insecure_loopback else None,
        capacity=Capacity(
            connections=settings.connections,
            has_room=_room_of(settings),
            header_bytes=settings.header_bytes,
            request_seconds=settings.request_seconds,
            write_seconds=settings.write_seconds,
            # A proxy keeps connections for the next request; one that we close meanwhile costs that request.
            keep_alive_seconds=_PROXY_REST_SECONDS if settings.trusted_proxies else _REST_SECONDS,
            grace_seconds=math.ceil(ending.grace_seconds),
        ),
        tls=tls,
        lifespan=True,
    ):
        try:
            yield Serving(in_force.public_url, port, ending, prepared)
        finally:
            ending.begin()


def _room_of(settings: Settings) -> Callable[[str, int], bool]:
    """How many connections an address may have; a proxy's are those of many."""
    proxies = networks_of(settings.trusted_proxies)
    return lambda host, count: count <= settings.connections_per_address or is_in(address_of(host), proxies)


async def _require_callers(prepared: app.Prepared, options: HttpOptions, *, loopback: bool) -> None:
    """Refuse to be exposed to nobody's use; on this machine, say so and go on, for a key may be issued later."""
    if options.admin and not await prepared.graph.broker.callers.may_be_operators():
        _say(f"note: {NO_OPERATORS}")
    if options.insecure_loopback or await prepared.graph.broker.callers.are_possible():
        return
    if not loopback:
        raise ConfigurationError(NO_CALLERS)
    _say(f"note: {NO_CALLERS}")


def _addresses(host: str) -> list[str]:
    try:
        return [address for _, address in addresses(host)]
    except OSError:
        raise ConfigurationError(f"--host {clean_text(host, 128)!r} is no address of this machine") from None


def _bind(options: HttpOptions) -> list[socket.socket]:
    try:
        return bind(options.host, options.port)
    except OSError as error:
        why = error.strerror or type(error).__name__
        raise ConfigurationError(f"port {options.port} of {options.host} cannot be had ({why}); choose one: --port N") from None


def _allow_connections(connections: int) -> None:
    """Let this process have the files that its connections are; what the system does not allow stays as it is."""
    if sys.platform == "win32":
        return
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = connections + _FILES_BESIDE_CONNECTIONS
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted if hard == resource.RLIM_INFINITY else min(wanted, hard), hard))


async def _watch_signals(ending: Ending) -> None:
    """Begin to end at the first signal; end at once at the second."""
    if sys.platform == "win32":
        return
    with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async for number in signals:
            if ending.has_begun:
                os._exit(_SIGNALLED + number)
            ending.begin()


def _status_of(error: Exception) -> int:
    """Say why the process ends, and with which status."""
    if isinstance(error, IdentityError):
        _say(f"error: {error.message} [{error.code}]")
        return EXIT_STORAGE if isinstance(error, StorageError) else EXIT_CONFIGURATION
    _say(f"error: the server failed ({type(error).__name__}) [{IdentityError.code}]")
    log.error("the server failed", exc_info=error)
    return EXIT_FAILED


def _say(text: str) -> None:
    """Tell the person who started it."""
    with contextlib.suppress(OSError, ValueError):
        print(text, file=sys.stderr, flush=True)  # noqa: T201 - for people, and for supervisors that wait for it
