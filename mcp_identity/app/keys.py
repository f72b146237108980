"""What an operator does with keys, on the running graph: each verb is written into the trail, and so is each refusal."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import TYPE_CHECKING, TypeVar

import anyio.to_thread

from mcp_identity.app import Graph, SystemEntropy, prepare, running
from mcp_identity.domain.identity import DEFAULT_TENANT

if TYPE_CHECKING:
    from mcp_identity.domain.audit import AuditEvent
    from mcp_identity.settings import Settings
    from mcp_identity.vault.key_life import KeyStatus
    from mcp_identity.vault.rewrap import Advance, Rewrapped
    from mcp_identity.vault.vault import Vault

T = TypeVar("T")
PAGE = 200


class KeyDesk:
    """The verbs of `mcp-identity keys`."""

    def __init__(self, graph: Graph, vault: Vault) -> None:
        """Keep what they work with."""
        self._graph = graph
        self._vault = vault
        self._life = vault.key_life()

    async def tenants(self) -> tuple[str, ...]:
        """The tenants whose keys are not erased."""
        found = await self._life.status()
        return tuple(name for name, versions in found.tenants.items() if any(each.state != "erased" for each in versions))

    async def status(self, tenant: str | None) -> KeyStatus:
        """The keys, and how much is under each."""
        return await self._life.status(tenant)

    async def rotate(self, tenant: str) -> int:
        """Make a new version of a tenant's key; which one it is."""
        return await self._audited("rotate_key", tenant, lambda event: self._life.rotate(tenant, event))

    async def rewrap(self, tenant: str, page: int, advance: Advance) -> Rewrapped:
        """Bring a tenant's records under its newest key."""
        return await self._audited(
            "rewrap_records", tenant, lambda event: self._life.rewrap(tenant, event, page=page, advance=advance)
        )

    async def refresh_own(self) -> None:
        """Bring the vault's own key under the backend's newest version."""
        await self._life.refresh_own()

    async def remove_old(self, tenant: str) -> int:
        """Erase the versions that nothing is under any more; how many."""
        return await self._audited("remove_old_keys", tenant, lambda event: self._life.remove_old(tenant, event))

    async def erase(self, tenant: str) -> int:
        """Erase a tenant's key; how many versions it had."""
        return await self._audited("erase_key", tenant, lambda event: self._life.erase(tenant, event))

    async def move(self, reference: str, advance: Advance) -> int:
        """Bring every key under the key-encryption key of a reference; how many there were.

        Raises:
            ConfigurationError: If the reference means no key.
        """
        from mcp_identity.settings import key_reference
        from mcp_identity.vault.kms.choosing import KeySource

        source, entropy = KeySource(*key_reference(reference)), SystemEntropy()

        async def work(event: AuditEvent) -> int:
            await anyio.to_thread.run_sync(source.create, entropy)
            target = await anyio.to_thread.run_sync(source.open, entropy)
            return await self._life.move(target, event, advance)

        return await self._audited("move_keys", DEFAULT_TENANT, work)

    async def _audited(self, action: str, tenant: str, work: Callable[[AuditEvent], Awaitable[T]]) -> T:
        from mcp_identity.broker.audit import audited

        broker = self._graph.broker
        call = broker.call(broker.directory.operator(self._graph.user, tenant), action)
        return await audited(self._vault, call, lambda: work(call.event()))


@contextlib.asynccontextmanager
async def open_keys(settings: Settings) -> AsyncGenerator[KeyDesk]:
    """Open the vault of these settings for its keys' operator; others may have it open.

    Raises:
        ConfigurationError: If key and vault do not fit together.
        StorageError: If the vault cannot be opened.
    """
    from mcp_identity.app.front import configured_front

    front = configured_front(settings)
    prepared = await anyio.to_thread.run_sync(lambda: prepare(settings, front=front))
    async with running(prepared) as graph:
        yield KeyDesk(graph, prepared.vault)
