"""What a key backend does: wrap and unwrap small keys under a key-encryption key that it alone holds.

It binds each wrapped key to its context (vault, tenant, version, purpose), so that none can be moved. What goes wrong in it
is one of three designed errors; the text of its library stays inside, because it may hold an address, an account or a token.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from mcp_identity.domain.credentials import Secret
from mcp_identity.domain.errors import ConfigurationError
from mcp_identity.vault.envelope import length_prefixed

SecretReader = Callable[[str], Secret]
"""Reads ``env:<name>`` or ``file:<path>``; the settings have the only one."""


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
    """A holder of a key-encryption key; several threads may use it at once."""

    @property
    def key_id(self) -> str:
        """Names the key-encryption key without telling it; two different keys have different ids."""
        ...

    def wrap(self, key: bytes, context: WrapContext) -> bytes:
        """Wrap `key` for `context`.

        Raises:
            VaultUnavailable: If the backend cannot be reached now, or does not let us.
        """
        ...

    def unwrap(self, wrapped: bytes, context: WrapContext) -> bytes:
        """Unwrap what `wrap` made for the same context.

        Raises:
            VaultCorrupt: If it was made for another context or by another key, or was changed.
            VaultUnavailable: If the backend cannot be reached now, or does not let us.
        """
        ...

    def rewrap(self, wrapped: bytes, context: WrapContext) -> bytes:
        """Bring what `wrap` made to the newest version of the same key-encryption key, where the backend has versions.

        Raises:
            VaultCorrupt: As `unwrap`.
            VaultUnavailable: As `unwrap`.
        """
        ...


def missing_package(kind: str, extra: str) -> ConfigurationError:
    """The error of a backend whose library is not installed."""
    return ConfigurationError(f"{kind} keys need a package that is not installed; run: pip install 'mcp-identity[{extra}]'")
