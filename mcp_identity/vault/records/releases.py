"""One-time handles: whose they are, for what, and whether they are used; never a copy of the secret.

A handle is found by its SHA-256 and by nothing else. A used one is kept for a while, so that a second redemption is noticed.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import RowMapping, delete, select, update

from mcp_identity.domain.errors import VaultCorrupt
from mcp_identity.vault.records.base import table
from mcp_identity.vault.records.moments import micros, moment
from mcp_identity.vault.records.rows import AuthenticatedRows

_RELEASES = table("releases")
ISSUED, USED = "issued", "used"
KEPT = timedelta(hours=1)
"""How long after its end a handle is still known."""


@dataclass(frozen=True, slots=True)
class NewRelease:
    """A handle to keep.

    Attributes:
        tenant: The tenant.
        handle_hash: SHA-256 of the handle.
        workload_id: Which agent may redeem it.
        workload_epoch: The agent's epoch when it was issued.
        user_key: For whom; empty for the agent alone.
        grant_id: The grant that it is for; empty for an API key.
        provider_row: The credential provider's row.
        generation: The grant's generation, or for an API key the provider's epoch.
        expires_at: When it ends.
    """

    tenant: str
    handle_hash: bytes
    workload_id: str
    workload_epoch: int
    user_key: str
    grant_id: str
    provider_row: str
    generation: int
    expires_at: datetime


@dataclass(frozen=True, slots=True)
class StoredRelease:
    """A handle as it was kept.

    Attributes:
        id: Row id.
        given: What was kept of it.
        is_used: It was redeemed already.
    """

    id: str
    given: NewRelease
    is_used: bool


class ReleaseRecords(AuthenticatedRows):
    """Handles that were given out."""

    def insert_release(self, release: NewRelease) -> None:
        """Keep a new handle."""
        self._insert_row(
            "releases",
            release.tenant,
            {
                "id": self.new_id(),
                "tenant_id": release.tenant,
                "handle_hash": release.handle_hash,
                "workload_id": release.workload_id,
                "workload_epoch": release.workload_epoch,
                "user_key": release.user_key,
                "grant_id": release.grant_id,
                "provider_row": release.provider_row,
                "generation": release.generation,
                "state": ISSUED,
                "created_at": micros(self.now),
                "expires_at": micros(release.expires_at),
            },
        )

    def find_release(self, handle_hash: bytes) -> StoredRelease | None:
        """A handle by its SHA-256, of whatever tenant: whose it is, the row says.

        Raises:
            VaultCorrupt: If its row was changed outside the product.
        """
        row = self._release_row(handle_hash)
        return self._stored_release(row) if row else None

    def consume_release(self, release: StoredRelease) -> bool:
        """Use a handle up; False where somebody else was first."""
        row = self._release_row(release.given.handle_hash)
        if row is None or row["state"] != ISSUED:
            return False
        self._check_row("releases", row)
        values = {**row, "state": USED}
        values["mac"] = self._row_mac("releases", release.given.tenant, values)
        used = update(_RELEASES).where(_RELEASES.c.id == release.id, _RELEASES.c.state == ISSUED)
        return self.connection.execute(used.values(state=USED, mac=values["mac"])).rowcount == 1

    def has_late_releases(self) -> bool:
        """Whether `sweep_releases` has something to forget."""
        late = select(_RELEASES.c.id).where(_RELEASES.c.expires_at < micros(self.now - KEPT)).limit(1)
        return self.connection.execute(late).first() is not None

    def sweep_releases(self) -> int:
        """Forget handles that ended a while ago; how many."""
        old = delete(_RELEASES).where(_RELEASES.c.expires_at < micros(self.now - KEPT))
        return self.connection.execute(old).rowcount

    def _release_row(self, handle_hash: bytes) -> RowMapping | None:
        return self.connection.execute(select(_RELEASES).where(_RELEASES.c.handle_hash == handle_hash)).mappings().first()

    def _stored_release(self, row: RowMapping) -> StoredRelease:
        self._check_row("releases", row)
        expires_at = moment(row["expires_at"])
        if expires_at is None or row["state"] not in (ISSUED, USED):
            raise VaultCorrupt("a handle is not what the product wrote")
        given = NewRelease(
            tenant=row["tenant_id"],
            handle_hash=row["handle_hash"],
            workload_id=row["workload_id"],
            workload_epoch=row["workload_epoch"],
            user_key=row["user_key"],
            grant_id=row["grant_id"],
            provider_row=row["provider_row"],
            generation=row["generation"],
            expires_at=expires_at,
        )
        return StoredRelease(row["id"], given, row["state"] == USED)
