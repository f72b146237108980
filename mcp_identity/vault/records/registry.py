"""Which tables hold what somebody could read or forge, and how each of them is protected. All of them, in one place."""

from __future__ import annotations

from mcp_identity.vault.records import access_keys, consents, grants, issuers, logins, providers, replay_marks, signing_keys
from mcp_identity.vault.records.protected import Protected
from mcp_identity.vault.records.rows import COVERED

_ALL = (
    Protected("tenants", covered=COVERED["tenants"], tenant_column="id"),
    Protected("users", covered=COVERED["users"]),
    Protected("workload_identities", covered=COVERED["workload_identities"]),
    providers.PROTECTED,
    issuers.PROTECTED,
    Protected("workload_keys", covered=COVERED["workload_keys"]),
    access_keys.PROTECTED,
    signing_keys.PROTECTED,
    Protected("releases", covered=COVERED["releases"]),
    grants.PROTECTED,
    consents.PROTECTED,
    logins.PROTECTED,
    replay_marks.PROTECTED,
)
PROTECTED = {each.table: each for each in _ALL}
"""By table; small ones that authorise first, so that what was moved is soon as good as new."""
UNWRITTEN = frozenset({"settings", "groups", "approvals", "policies"})
"""Tables that have sealed or authenticated columns and that nothing writes yet."""
CHAINED = frozenset({"audit_events", "audit_heads", "audit_writers"})
"""The trail: chained under the vault's own key, which has one version."""
OF_THE_VAULT = frozenset({"vault_state", "vault_keys"})
"""What the key backend wraps, and each key's sealed constant."""
