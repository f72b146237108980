"""The keys that sign identity tokens, per tenant: the public part under a MAC, the private part sealed to it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import RowMapping, select

from mcp_identity.domain.credentials import Secret
from mcp_identity.domain.errors import VaultCorrupt
from mcp_identity.vault.envelope import Place
from mcp_identity.vault.records.base import table
from mcp_identity.vault.records.moments import micros, moment
from mcp_identity.vault.records.protected import Protected, Row, SealedColumn
from mcp_identity.vault.records.rows import COVERED, AuthenticatedRows

_KEYS = table("signing_keys")
ACTIVE, RETIRING, RETIRED = "active", "retiring", "retired"


@dataclass(frozen=True, slots=True)
class StoredSigningKey:
    """A signing key, without its private part.

    Attributes:
        id: Row id.
        tenant: Whose tokens it signs.
        version: Counts the keys of the tenant.
        algorithm: The JWS algorithm.
        public_jwk: The public part, as JSON with its ``kid``.
        created_at: When it was made.
        retires_at: From when on nobody needs to know it any more; None while that is open.
    """

    id: str
    tenant: str
    version: int
    algorithm: str
    public_jwk: str
    created_at: datetime
    retires_at: datetime | None


class SigningKeyRecords(AuthenticatedRows):
    """The keys that sign identity tokens."""

    def list_signing_keys(self, tenant: str) -> tuple[StoredSigningKey, ...]:
        """The keys that a verifier may still need, oldest first.

        Raises:
            VaultCorrupt: If a row was changed outside the product.
        """
        found = tuple(_stored(row) for row in self._signing_key_rows(tenant, ACTIVE, RETIRING))
        return tuple(key for key in found if key.retires_at is None or key.retires_at > self.now)

    def insert_signing_key(self, tenant: str, algorithm: str, public_jwk: str, private_jwk: Secret, *, until: datetime) -> int:
        """Keep a new key; the ones before it retire, and of those whose time is over the private part is overwritten.

        Args:
            tenant: The tenant.
            algorithm: The JWS algorithm.
            public_jwk: The public part, as JSON.
            private_jwk: The private part, as JSON.
            until: When the keys before it retire.

        Returns:
            The key's version.
        """
        version = 1
        for row in self._signing_key_rows(tenant, ACTIVE, RETIRING, RETIRED):
            version = max(version, row["version"] + 1)
            if row["state"] == ACTIVE:
                self._update_row("signing_keys", tenant, row, {"state": RETIRING, "retires_at": micros(until)})
            elif row["state"] == RETIRING and row["retires_at"] <= micros(self.now):
                self._update_row("signing_keys", tenant, row, {"state": RETIRED, "private_key": None})
        key_id = self.new_id()
        given = {
            "id": key_id,
            "tenant_id": tenant,
            "version": version,
            "algorithm": algorithm,
            "public_jwk": public_jwk,
            "private_key": self._seal(private_jwk.reveal().encode(), _place(tenant, key_id, algorithm, public_jwk)),
            "state": ACTIVE,
            "created_at": micros(self.now),
        }
        self._insert_row("signing_keys", tenant, given)
        return version

    def open_signing_key(self, key: StoredSigningKey) -> Secret:
        """The private part, as JSON.

        Raises:
            VaultCorrupt: If it was changed, moved, or is not there.
        """
        query = select(_KEYS.c.private_key).where(_KEYS.c.tenant_id == key.tenant, _KEYS.c.id == key.id)
        sealed = self.connection.execute(query).scalar_one_or_none()
        if sealed is None:
            raise VaultCorrupt("a signing key has no private part")
        return Secret(self._open(sealed, _place(key.tenant, key.id, key.algorithm, key.public_jwk)).decode())

    def _signing_key_rows(self, tenant: str, *states: str) -> list[RowMapping]:
        query = select(_KEYS).where(_KEYS.c.tenant_id == tenant, _KEYS.c.state.in_(states)).order_by(_KEYS.c.version)
        return [self._check_row("signing_keys", row) for row in self.connection.execute(query).mappings().all()]


def _place(tenant: str, key_id: str, algorithm: str, public_jwk: str) -> Place:
    return Place("signing_keys", tenant, key_id, "private_key", context=(algorithm, public_jwk))


def _private_place(row: Row) -> Place:
    return _place(row["tenant_id"], row["id"], row["algorithm"], row["public_jwk"])


PROTECTED = Protected("signing_keys", (SealedColumn("private_key", _private_place),), COVERED["signing_keys"])


def _stored(row: RowMapping) -> StoredSigningKey:
    created_at = moment(row["created_at"])
    if created_at is None:
        raise VaultCorrupt("a signing key has no time")
    return StoredSigningKey(
        id=row["id"],
        tenant=row["tenant_id"],
        version=row["version"],
        algorithm=row["algorithm"],
        public_jwk=row["public_jwk"],
        created_at=created_at,
        retires_at=moment(row["retires_at"]),
    )
