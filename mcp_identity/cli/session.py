"""How does a command get at the vault, and on whose behalf does it ask?"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, TypeVar

import anyio
import typer

from mcp_identity.cli.logs import configure_logging
from mcp_identity.cli.options import globals_of
from mcp_identity.domain.errors import InvalidRequest, NotFound
from mcp_identity.domain.identity import DEFAULT_TENANT, Principal

if TYPE_CHECKING:
    from mcp_identity.app import Graph
    from mcp_identity.broker.audit import Call
    from mcp_identity.settings import Settings

T = TypeVar("T")


def settings_of(context: typer.Context, *, workload: str | None = None, user: str | None = None) -> Settings:
    """Read the settings, what was said on the command line first, and begin to log as they say.

    Raises:
        ConfigurationError: If they do not stand.
    """
    from mcp_identity.settings import load_settings

    given = globals_of(context)
    settings = load_settings(workload=workload or given.workload, user=user or given.user)
    configure_logging(settings.log_level, settings.log_format)
    return settings


def run(
    settings: Settings, errand: Callable[[Graph], Awaitable[T]], *, initialise: bool = False, as_local_user: bool = False
) -> T:
    """Open the vault, run an errand on it, and close it.

    Args:
        settings: Where the vault is.
        errand: What to do.
        initialise: Make a vault for a key that has none.
        as_local_user: It acts for this machine's user, who consents on this machine's own pages, also where a server with
            a public URL has the vault.

    Raises:
        IdentityError: Whatever the errand raises, as it was raised.
        ConfigurationError: If key and vault do not fit together.
        StorageError: If the vault cannot be opened.
    """
    if as_local_user:
        settings = settings.model_copy(update={"public_url": ""})
    return anyio.run(_run, settings, errand, initialise)


async def _run(settings: Settings, errand: Callable[[Graph], Awaitable[T]], initialise: bool) -> T:
    from mcp_identity import app

    outcome: list[T] = []
    failure: Exception | None = None
    async with app.open(settings, initialise=initialise) as graph:
        try:
            outcome.append(await errand(graph))
        except Exception as error:  # noqa: BLE001 - kept out of the task groups, which would wrap it; raised again below
            failure = error
    if failure is not None:
        raise failure
    return outcome[0]


def tenant_of(context: typer.Context) -> str:
    """The tenant that a command acts in."""
    return globals_of(context).tenant


def operate(graph: Graph, action: str, tenant: str) -> Call:
    """Begin a call of the operator of a tenant, who is no agent."""
    return graph.broker.call(graph.broker.directory.operator(graph.user, tenant), action)


async def principal_of(graph: Graph, tenant: str) -> Principal:
    """The agent and user that a command acts for; in the local tenant an agent that is named is registered at first sight.

    Raises:
        InvalidRequest: If no agent was named and it is not clear which is meant.
    """
    directory, name = graph.broker.directory, graph.settings.workload
    if not name:
        known = [workload.name for workload in await directory.workloads(tenant)]
        if not known and tenant != DEFAULT_TENANT:
            raise NotFound(f"the tenant has no workload; register one: mcp-identity --tenant {tenant} workloads create NAME")
        if not known:
            raise InvalidRequest("no workload is registered yet; --workload NAME registers one, e.g. claude-desktop")
        if len(known) > 1:
            raise InvalidRequest(f"which workload? name one with --workload: {', '.join(known)}")
        name = known[0]
    return await directory.local_principal(name, graph.user, "cli", tenant)
