"""How is it written down that somebody came for what is not there, where anybody may come as often as they like?

Whoever brings an answer that nobody waits for needs no credential, and each row of the trail is durable and stays. So only
some a minute are written; the next one that is says how many were left out. Trusts its user to call it for nothing else.
"""

from __future__ import annotations

from mcp_identity.domain.audit import AuditEvent
from mcp_identity.domain.clock import Clock
from mcp_identity.vault.vault import Vault

MOST_A_MINUTE = 30
_MINUTE = 60.0


class Strays:
    """Those who came for one kind of thing, in this process."""

    def __init__(self, vault: Vault, clock: Clock) -> None:
        """Nobody has come.

        Args:
            vault: Where the trail is.
            clock: Its monotonic time counts.
        """
        self._vault = vault
        self._clock = clock
        self._since = clock.monotonic()
        self._written = self._left_out = 0

    async def note(self, event: AuditEvent) -> None:
        """Write one down, or count it.

        Raises:
            StorageError: If it should be written down and cannot be.
        """
        now = self._clock.monotonic()
        if now - self._since >= _MINUTE:
            self._since, self._written = now, 0
        if self._written >= MOST_A_MINUTE:
            self._left_out += 1
            return
        self._written += 1
        if self._left_out:
            event = event.ending(event.outcome, left_out=str(self._left_out))
            self._left_out = 0
        await self._vault.run(lambda records: records.append_audit(event))
