"""What a key backend does: wrap and unwrap small keys under a key-encryption key that it alone holds.

It binds each wrapped key to its context (vault, tenant, version, purpose), so that none can be moved.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from mcp_identity.vault.envelope import length_prefixed


@dataclass(frozen=True, slots=True)
class WrapContext:
    """What a wrapped key is bound to.

    Attributes:
        vault_id: The vault.
        tenant: The tenant, or empty for the vault's own key.
        version: The key's version, counted from 1.
        purpose: ``tenant``, ``vault`` or ``check``.
    """

    vault_id: str
    tenant: str
    version: int
    purpose: str

    def associated_data(self) -> bytes:
        """All of it, unambiguously."""
        return length_prefixed(
            b"mcp-identity/wrap/v1",
            self.vault_id.encode(),
            self.tenant.encode(),
            str(self.version).encode(),
            self.purpose.encode(),
        )


class KeyBackend(Protocol):
    """A holder of a key-encryption key."""

    @property
    def key_id(self) -> str:
        """Names the key-encryption key without telling it."""
        ...

    def wrap(self, key: bytes, context: WrapContext) -> bytes:
        """Wrap `key` for `context`."""
        ...

    def unwrap(self, wrapped: bytes, context: WrapContext) -> bytes:
        """Unwrap what `wrap` made for the same context.

        Raises:
            VaultCorrupt: If it was made for another context or by another key, or was changed.
        """
        ...
