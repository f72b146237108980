"""What units of work read and write, one module per noun.

A unit is a synchronous function of `Records` that the writer may run again: it reads, decides and audits in one
transaction, and never talks to a network or a key backend.
"""

from __future__ import annotations

from mcp_identity.vault.records.access_keys import AccessKeyRecords
from mcp_identity.vault.records.audit import AuditRecords
from mcp_identity.vault.records.consents import ConsentRecords
from mcp_identity.vault.records.grant_listings import GrantListings
from mcp_identity.vault.records.issuers import IssuerRecords
from mcp_identity.vault.records.keys import KeyRecords
from mcp_identity.vault.records.logins import LoginRecords
from mcp_identity.vault.records.providers import ProviderRecords
from mcp_identity.vault.records.releases import ReleaseRecords
from mcp_identity.vault.records.replay_marks import ReplayMarkRecords
from mcp_identity.vault.records.signing_keys import SigningKeyRecords
from mcp_identity.vault.records.users import UserRecords
from mcp_identity.vault.records.workload_keys import WorkloadKeyRecords
from mcp_identity.vault.records.workloads import WorkloadRecords


class Records(
    GrantListings,
    ConsentRecords,
    ProviderRecords,
    WorkloadRecords,
    WorkloadKeyRecords,
    AccessKeyRecords,
    LoginRecords,
    IssuerRecords,
    SigningKeyRecords,
    KeyRecords,
    ReleaseRecords,
    ReplayMarkRecords,
    UserRecords,
    AuditRecords,
):
    """Everything a unit of work may do in its transaction."""
