"""How does the vault stand: under which key, and how much of what it holds cannot be believed? Nothing is changed here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from mcp_identity.domain.errors import VaultCorrupt
from mcp_identity.vault.keys import VAULT
from mcp_identity.vault.records import Records
from mcp_identity.vault.records.moments import moment


@dataclass(frozen=True, slots=True)
class VaultStanding:
    """Under which key a tenant's secrets are.

    Attributes:
        key_id: Names the key-encryption key, e.g. ``aws-kms:<ARN>``; never the key.
        changed_at: When the tenant's own key was last made anew.
    """

    key_id: str
    changed_at: datetime


def standing_of(records: Records, tenant: str) -> VaultStanding:
    """Under which key a tenant's secrets are, or would be."""
    keys = records.list_keys(tenant) or records.list_keys(VAULT)
    changed_at = moment(max(key.created_at for key in keys))
    if changed_at is None:
        raise VaultCorrupt("a key was made at no time")
    return VaultStanding(records.key_holder().key_id, changed_at)


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
        lambda: records.list_access_keys(tenant),
        *(lambda each=each: records.list_workload_keys(tenant, each.id) for each in workloads),
    ]
    return len(providers.corrupt) + len(workloads.corrupt) + grants + sum(map(_is_corrupt, listings))


def _is_corrupt(listing: Callable[[], object]) -> bool:
    try:
        listing()
    except VaultCorrupt:
        return True
    return False
