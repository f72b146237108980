"""May this principal do this, with these scopes?

The one place that every decision comes through. A workload that is disabled may do nothing; a provider that is disabled
serves nobody. A workload for which an operator named providers may use those and no other; one without may use every provider
of its tenant. Providers of other tenants are never found in the first place.
"""

from __future__ import annotations

from mcp_identity.domain.api_call import Attempt
from mcp_identity.domain.errors import AccessDenied
from mcp_identity.domain.identity import Principal, command
from mcp_identity.domain.provider import CredentialProvider
from mcp_identity.vault.records import Records

_NAMED = 8
"""Providers that a message names; whoever has more knows how to go on."""


def require_access(
    principal: Principal, action: str, provider: CredentialProvider, scopes: frozenset[str], attempt: Attempt | None = None
) -> None:
    """Decide, before anything is read, asked for, or released.

    Args:
        principal: Who asks.
        action: The verb.
        provider: Where the credential is from.
        scopes: What the credential that would leave may do.
        attempt: The request to the vendor's API that it is for, where it does not leave.

    Raises:
        AccessDenied: If not.
    """
    del action, scopes, attempt
    if principal.workload.disabled:
        raise AccessDenied(f"the workload {principal.workload.name} is disabled")
    allowed = principal.workload.allowed_providers
    if provider.tenant != principal.tenant or (allowed and provider.name not in allowed):
        names = sorted({*allowed, provider.name})
        listed = "".join(f" --allow-provider {each}" for each in (names if len(names) <= _NAMED else ("…",)))
        raise AccessDenied(
            f"the workload {principal.workload.name} may not use the provider {provider.name}; an operator can allow it: "
            f"{command(principal.tenant)} workloads update {principal.workload.name}{listed}"
        )
    if provider.disabled:
        raise AccessDenied(
            f"the provider {provider.name} is disabled; an operator can enable it: "
            f"{command(principal.tenant)} providers update {provider.name} --enable"
        )


def require_workload(records: Records, principal: Principal) -> None:
    """Check, inside the unit, that the workload is still what it was when the principal was verified.

    Raises:
        AccessDenied: If it was changed, disabled or removed; after a change alone it is worth asking again.
    """
    workload = records.find_workload_id(principal.tenant, principal.workload.id)
    if workload is None or workload.disabled:
        raise AccessDenied(f"the workload {principal.workload.name} was disabled or removed")
    if workload.epoch != principal.workload.epoch:
        raise AccessDenied(f"the workload {principal.workload.name} was changed meanwhile; ask again", retryable=True)
