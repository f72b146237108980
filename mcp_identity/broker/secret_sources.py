"""Where may a secret come from that is only named over the network? From the places that an operator listed for the tenant.

Whoever manages providers over MCP or the AgentCore edge sends no secret: it would pass through a model, a log of its host, or
a shell. It names one, and the server reads it, once, when the provider is added or updated. What reads the environment and
the files is put in by `app/`.
"""

from __future__ import annotations

from typing import Protocol

from mcp_identity.domain.credentials import Secret, SecretReference
from mcp_identity.domain.errors import InvalidRequest


class SecretSources(Protocol):
    """Reads secrets by reference."""

    async def read(self, tenant: str, reference: SecretReference) -> Secret:
        """The secret that is there now.

        Raises:
            InvalidRequest: If no place was listed for the tenant in which it would be, or nothing usable is there. The message
                says what to configure; neither the reference nor what was found is in it.
        """
        ...


class NoSources:
    """Nothing was listed."""

    async def read(self, tenant: str, reference: SecretReference) -> Secret:
        """Refuse."""
        del reference
        raise not_listed(tenant)


def not_listed(tenant: str) -> InvalidRequest:
    """The refusal of a reference that leads to no place of the tenant."""
    return InvalidRequest(
        f"the secret reference is in no place that was listed for the tenant {tenant}: it is env:NAME or file:/PATH, and an "
        f"operator lists where such secrets are, e.g. MCP_IDENTITY_SECRET_SOURCES={tenant}=env:{_example(tenant)}_"
    )


def _example(tenant: str) -> str:
    return "".join(char if char.isalnum() else "_" for char in tenant).upper()
