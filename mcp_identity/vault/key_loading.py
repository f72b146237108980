"""How the keys of a tenant come into this process: once for all who wait, and without keeping anybody else from working.

A key backend may be on another machine, slow, or down. Few threads wait for it at a time; who comes while it is asked, waits
for that answer; and who comes right after it failed is told so without asking again.
"""

from __future__ import annotations

import copy
from collections import defaultdict
from dataclasses import dataclass, field
from threading import Lock

import anyio
import anyio.to_thread
from anyio.lowlevel import RunVar
from sqlalchemy import Engine, select
from sqlalchemy.exc import SQLAlchemyError

from mcp_identity.domain.clock import Clock
from mcp_identity.domain.errors import IdentityError
from mcp_identity.vault.failures import storage_failure
from mcp_identity.vault.keys import KeyRing
from mcp_identity.vault.records.base import table
from mcp_identity.vault.records.keys import read_wrapped_keys

THREADS = 4
PAUSE_SECONDS = 1.0
"""How long a failure answers those who come after it."""
_EPOCH = select(table("vault_state").c.configuration_epoch)


@dataclass(frozen=True, slots=True)
class _Asking:
    """What one event loop waits for.

    Attributes:
        limiter: Counts the threads that wait for a key backend.
        flights: Of each tenant whose keys are being loaded: set once they are, or are not.
    """

    limiter: anyio.CapacityLimiter
    flights: dict[tuple[KeyLoader, str], anyio.Event] = field(default_factory=dict[tuple["KeyLoader", str], anyio.Event])


_asking = RunVar[_Asking]("mcp-identity keys that are being loaded")


class KeyLoader:
    """Loads tenants' keys into one ring."""

    def __init__(self, readers: Engine, ring: KeyRing, clock: Clock) -> None:
        """Keep where keys come from and go to."""
        self._readers = readers
        self._ring = ring
        self._clock = clock
        self._locks: defaultdict[str, Lock] = defaultdict(Lock)
        self._failures: dict[str, tuple[float, IdentityError]] = {}

    async def load(self, tenant: str) -> None:
        """See to it that a tenant's keys are there, without blocking the event loop; see `load_now`."""
        asking = _asking.get(None)
        if asking is None:
            _asking.set(asking := _Asking(anyio.CapacityLimiter(THREADS)))
        flight = self, tenant
        while not self._ring.has(tenant):
            asked = asking.flights.get(flight)
            if asked is not None:
                await asked.wait()
                continue
            answered = asking.flights[flight] = anyio.Event()
            try:
                await anyio.to_thread.run_sync(self.load_now, tenant, limiter=asking.limiter)
                return  # also where it has to be read again: the unit will say so
            finally:
                del asking.flights[flight]
                answered.set()

    def load_now(self, tenant: str) -> None:
        """See to it that a tenant's keys are there.

        Raises:
            VaultUnavailable: If they cannot be read or unwrapped now.
            VaultCorrupt: If they were changed outside the product.
        """
        with self._locks[tenant]:
            if self._ring.has(tenant):
                return
            failed_at, failure = self._failures.get(tenant, (0.0, None))
            if failure is not None and 0 <= self._clock.monotonic() - failed_at < PAUSE_SECONDS:
                raise copy.copy(failure)
            try:
                self._load(tenant)
            except IdentityError as error:
                self._failures[tenant] = self._clock.monotonic(), copy.copy(error)
                raise
            self._failures.pop(tenant, None)

    def _load(self, tenant: str) -> None:
        try:
            with self._readers.connect() as connection:
                epoch: int = connection.execute(_EPOCH).scalar_one()  # first: what is read after it is as new, or newer
                rows = read_wrapped_keys(connection, tenant)
        except SQLAlchemyError as error:
            raise storage_failure(error) from None
        self._ring.follow(epoch)
        self._ring.load(tenant, rows, epoch)
