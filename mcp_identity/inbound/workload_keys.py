"""Whose is this workload key, and does it still open anything?

A key is looked up by its SHA-256, so no comparison can tell how much of a guess was right. It proves a workload alone, never a
user.
"""

from __future__ import annotations

from mcp_identity.domain.credentials import Secret
from mcp_identity.domain.workload_key import workload_key_digest
from mcp_identity.inbound.jwt import unauthenticated
from mcp_identity.vault.records import Records
from mcp_identity.vault.records.workload_keys import StoredWorkloadKey


def digest_of(bearer: Secret) -> bytes:
    """The digest that a key is looked up by.

    Raises:
        Unauthenticated: If it cannot be a key.
    """
    digest = workload_key_digest(bearer)
    if digest is None:
        raise unauthenticated()
    return digest


def find_key(records: Records, digest: bytes) -> StoredWorkloadKey | None:
    """A key that is neither revoked nor at its end; a part of a unit of work.

    An ended key is refused as an unknown one is: there is no way to have it renewed, so nobody is told the difference.

    Raises:
        VaultCorrupt: If its row was changed outside the product.
    """
    key = records.find_workload_key(digest)
    if key is None or key.revoked or (key.expires_at is not None and key.expires_at <= records.now):
        return None
    return key
