"""Which vendors do we know? The catalog as edges may read it; needs no vault."""

from __future__ import annotations

from mcp_identity.domain.provider import ProviderDefinition
from mcp_identity.providers import catalog


def list_definitions() -> tuple[ProviderDefinition, ...]:
    """All vendors, by name."""
    return tuple(catalog.load().values())


def get_definition(name: str) -> ProviderDefinition:
    """One vendor.

    Raises:
        InvalidRequest: If there is none; the message names those that look alike.
    """
    return catalog.get(name)


def find_agentcore_vendor(name: str) -> ProviderDefinition | None:
    """The vendor that AgentCore calls so (``credentialProviderVendor``), or None."""
    return catalog.by_agentcore_vendor(name)
