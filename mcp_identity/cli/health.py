"""Is everything in order? The checks behind `doctor`, each with what to do if not; they change nothing."""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, cast

import anyio
import anyio.to_thread

from mcp_identity.cli.client_files import CLIENTS, Client, is_ours, read_configuration
from mcp_identity.cli.failures import FAILED, STORAGE, exit_code
from mcp_identity.domain.errors import ConfigurationError, IdentityError
from mcp_identity.domain.http import HttpRequest
from mcp_identity.domain.identity import DEFAULT_TENANT, command
from mcp_identity.domain.provider import ClientAuthentication, CredentialProvider, ProviderKind

if TYPE_CHECKING:
    from mcp_identity.app import Graph, Prepared
    from mcp_identity.settings import Settings

State = Literal["ok", "note", "failed"]
_NONCE_BYTES = 32
_CONNECT_SECONDS = 2


@dataclass(frozen=True, slots=True)
class Check:
    """One line of the report.

    Attributes:
        name: What was looked at.
        state: ``ok``, ``note`` for what should be known, or ``failed``.
        detail: What was found, and where it failed what to do.
        exit_code: The exit status that a failure asks for.
    """

    name: str
    state: State
    detail: str
    exit_code: int = 0


def failed(name: str, error: IdentityError) -> Check:
    """A check that ended with a designed failure."""
    return Check(name, "failed", error.message, exit_code(error))


async def examine(settings: Settings) -> list[Check]:
    """Look at everything that these settings name."""
    from mcp_identity import app

    checks = [Check("settings", "ok", "read")]
    if sys.platform == "win32":
        detail = "files have no mode here: the ACL of your profile is relied upon to keep others out"
        checks.append(Check("platform", "note", detail))
    try:
        if await anyio.to_thread.run_sync(_is_unused, settings):
            where = "on PostgreSQL" if settings.is_shared else f"in {settings.home}"
            detail = f"not made yet {where}; the first start makes vault and key, or run: mcp-identity init"
            checks += [Check("vault", "note", detail), await _port(settings.callback_port, None)]
        else:
            prepared = await anyio.to_thread.run_sync(app.prepare, settings)
            checks += _of_files(settings)
            async with app.running(prepared), aclosing(_of_vault(prepared)) as found:
                checks += [check async for check in found]
    except IdentityError as error:
        checks += [failed("vault", error), await _port(settings.callback_port, None)]
    return checks + [check for client in CLIENTS.values() if (check := _of_client(client))]


def _is_unused(settings: Settings) -> bool:
    """Whether a first start would make everything; opening it to look would do that, too."""
    from mcp_identity.app import has_vault, vault_location

    location = vault_location(settings)
    source = location.key_source
    if source.is_given or (location.key is not None and source.path is not None and not source.path.parent.is_dir()):
        return False
    default = location.default_key
    return not (default.exists() or default.is_symlink()) and not has_vault(location)


def _of_files(settings: Settings) -> list[Check]:
    """What opening the vault has checked already, said in plain words."""
    from mcp_identity.app import vault_location

    location = vault_location(settings)
    private = ", open to nobody else" if os.name == "posix" else ""
    mode = f" (mode {stat.S_IMODE(location.home.stat().st_mode):o})" if os.name == "posix" and location.home.exists() else ""
    home = (
        f"{location.home}{private}{mode}" if location.home.exists() else f"{location.home} is not there, and nothing needs it"
    )
    return [
        Check("home", "ok", home),
        Check("key", "ok", f"{location.key_source.where} fits the vault; keep a backup of it apart from the vault"),
        Check("vault", "ok", f"{location.name} opens"),
    ]


async def _of_vault(prepared: Prepared) -> AsyncGenerator[Check]:
    graph = prepared.graph
    try:
        report = await graph.broker.check_storage()
    except IdentityError as error:
        yield failed("database", error)
    else:
        yield Check("schema", "ok", f"version {report.schema_version}")
        if report.problems:
            detail = f"{'; '.join(report.problems)}; restore the vault from a backup"
            yield Check("database", "failed", detail, STORAGE)
        else:
            found = "PostgreSQL has met nothing damaged" if graph.settings.is_shared else "SQLite finds nothing damaged"
            yield Check("database", "ok", found)
        unreadable = f"{report.unreadable} rows were changed outside the product; restore a backup, or remove and add them anew"
        yield Check("rows", "failed", unreadable, STORAGE) if report.unreadable else Check("rows", "ok", "all are readable")
    yield await _port(graph.settings.callback_port, prepared)
    async for check in _of_providers(graph):
        yield check


async def _of_providers(graph: Graph) -> AsyncGenerator[Check]:
    directory = graph.broker.directory
    try:
        for tenant in await directory.tenants():
            for provider in (await directory.list(tenant)).providers:
                yield _of_provider(provider, has_secret=await directory.has_secret(provider))
    except IdentityError as error:
        yield failed("providers", error)


def _of_provider(provider: CredentialProvider, *, has_secret: bool) -> Check:
    name = f"provider {provider.name}" + (f" of {provider.tenant}" if provider.tenant != DEFAULT_TENANT else "")
    needs_one = provider.kind is ProviderKind.API_KEY or provider.client_authentication is not ClientAuthentication.NONE
    if needs_one and not has_secret:
        detail = f"its secret is missing; give it with: {command(provider.tenant)} providers update {provider.name}"
        return Check(name, "failed", detail, FAILED)
    return Check(name, "ok", f"readable{', disabled' if provider.disabled else ''}")


async def _port(port: int, prepared: Prepared | None) -> Check:
    """Whether the consent page can be served; a sibling that serves it proves that it has the same vault."""
    if not await _is_taken(port):
        return Check("callback port", "ok", f"{port} is free")
    if prepared is None:
        return Check("callback port", "note", f"{port} is held; by whom shows once the vault opens")
    from mcp_identity.app import SystemEntropy

    nonce = SystemEntropy().random_bytes(_NONCE_BYTES)
    challenge = HttpRequest("POST", f"http://127.0.0.1:{port}/vault-proof", body=nonce, maximum_bytes=4 * _NONCE_BYTES)
    try:
        proof = (await prepared.transport.send(challenge, allow_http_loopback=True)).body
    except IdentityError:
        proof = b""
    if prepared.graph.broker.check_vault_proof(nonce, port, proof):
        return Check("callback port", "ok", f"{port} is held by a server of this vault")
    detail = f"{port} is held by another program; stop it, or set MCP_IDENTITY_CALLBACK_PORT and register the new redirect URIs"
    return Check("callback port", "failed", detail, FAILED)


async def _is_taken(port: int) -> bool:
    for host in ("127.0.0.1", "::1"):
        with anyio.move_on_after(_CONNECT_SECONDS):
            try:
                stream = await anyio.connect_tcp(host, port)
            except OSError:
                continue
            await stream.aclose()
        return True
    return False


def _of_client(client: Client) -> Check | None:
    """Whether a client starts us; nothing of one that does not, since nobody has every client."""
    try:
        servers: object = read_configuration(client.path()).get(client.key)
    except ConfigurationError as error:
        return Check(f"client {client.name}", "note", error.message)
    named = cast("dict[str, object]", servers) if isinstance(servers, dict) else {}
    names = [name for name, entry in named.items() if is_ours(entry)]
    return Check(f"client {client.name}", "ok", f"starts us as {', '.join(names)}") if names else None
