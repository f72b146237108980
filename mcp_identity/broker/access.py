"""May this principal do this, with these scopes?

The one place that every decision comes through. A workload that is disabled may do nothing; a provider that is disabled
serves nobody. On this machine's own vault every other workload may use every provider, until a rule says otherwise.
"""

from __future__ import annotations

from mcp_identity.domain.errors import AccessDenied
from mcp_identity.domain.identity import Principal
from mcp_identity.domain.provider import CredentialProvider


def require_access(principal: Principal, action: str, provider: CredentialProvider, scopes: frozenset[str]) -> None:
    """Decide, before anything is read, asked for, or released.

    Args:
        principal: Who asks.
        action: The verb.
        provider: Where the credential is from.
        scopes: What the credential that would leave may do.

    Raises:
        AccessDenied: If not.
    """
    del scopes
    if principal.workload.disabled:
        raise AccessDenied(f"the workload {principal.workload.name} is disabled")
    if provider.disabled:
        raise AccessDenied(f"{action}: the provider {provider.name} is disabled")
