"""Who could call over the network at all, and whom would we believe? For the start of a server, and for its metadata."""

from __future__ import annotations

from mcp_identity.broker.services import Services
from mcp_identity.vault.records import Records

_FRESH_SECONDS = 30.0


class Callers:
    """What is configured about callers, of all tenants together."""

    def __init__(self, services: Services) -> None:
        """Keep what it works with."""
        self._services = services
        self._issuers: tuple[str, ...] = ()
        self._read_at: float | None = None

    async def are_possible(self) -> bool:
        """Whether there is an issuer whose tokens are believed, a workload key, or an access key."""

        def unit(records: Records) -> bool:
            has_issuer = any(not issuer.disabled for issuer in records.all_issuers())
            return has_issuer or records.has_workload_keys() or records.has_access_keys()

        return await self._services.vault.read(unit)

    async def may_be_operators(self) -> bool:
        """Whether there is an issuer whose tokens may say that who brings them is an operator: one that is asked for scopes."""
        found = await self._services.vault.read(lambda records: records.all_issuers())
        return any(issuer.require_tool_scopes and not issuer.disabled for issuer in found)

    async def issuers(self) -> tuple[str, ...]:
        """The identifiers of the issuers whose tokens are believed, sorted; of which tenant each is, is nobody's business.

        Anybody may ask, so the vault is read twice a minute at most.
        """
        now = self._services.clock.monotonic()
        if self._read_at is None or now - self._read_at > _FRESH_SECONDS:
            found = await self._services.vault.read(lambda records: records.all_issuers())
            self._issuers = tuple(sorted({each.issuer for each in found if not each.disabled and "{" not in each.issuer}))
            self._read_at = now
        return self._issuers
