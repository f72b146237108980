"""How much of what the vault holds cannot be believed? For `doctor`, which changes nothing."""

from __future__ import annotations

from collections.abc import Callable

from mcp_identity.domain.errors import VaultCorrupt
from mcp_identity.vault.records import Records


def count_unreadable(records: Records) -> int:
    """Count the rows of every tenant that were changed outside the product; where a listing ends at one, that one."""
    return sum(_of_tenant(records, tenant) for tenant in records.list_tenants() if not records.is_erased(tenant))


def _of_tenant(records: Records, tenant: str) -> int:
    providers, workloads = records.list_providers(tenant), records.list_workloads(tenant)
    grants = sum(len(records.list_provider_grants(tenant, provider.id).corrupt) for provider in providers.providers)
    listings: list[Callable[[], object]] = [
        lambda: records.has_tenant(tenant),
        lambda: records.list_issuers(tenant),
        lambda: records.list_signing_keys(tenant),
        *(lambda each=each: records.list_workload_keys(tenant, each.id) for each in workloads),
    ]
    return len(providers.corrupt) + len(workloads.corrupt) + grants + sum(map(_is_corrupt, listings))


def _is_corrupt(listing: Callable[[], object]) -> bool:
    try:
        listing()
    except VaultCorrupt:
        return True
    return False
