"""Access keys: what signs requests. Rows that grant authority, so every column is under a MAC, and the secret is sealed.

SigV4 is symmetric: to check a signature its secret is needed, so this is kept, sealed to the key's id and to what the key may
do. The end of a key is the end of its row.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import RowMapping, delete, select, update

from mcp_identity.domain.access_key import AccessKey, AccessKeyRole
from mcp_identity.domain.credentials import Secret
from mcp_identity.domain.errors import NotFound, VaultCorrupt
from mcp_identity.domain.identity import DEFAULT_TENANT, WorkloadIdentity
from mcp_identity.vault.envelope import Place
from mcp_identity.vault.records.base import table
from mcp_identity.vault.records.moments import micros, moment
from mcp_identity.vault.records.protected import Protected, Row, SealedColumn
from mcp_identity.vault.records.rows import COVERED, AuthenticatedRows

_KEYS = table("access_keys")
ACTIVE = "active"
_ROLES = frozenset(role.value for role in AccessKeyRole)
USE_SECONDS = 60
"""How exactly the last use is known: one write for each key in so long, whatever the number of calls."""
_MICROSECONDS = 1_000_000


class AccessKeyRecords(AuthenticatedRows):
    """The keys that sign requests."""

    def insert_access_key(
        self,
        tenant: str,
        access_key_id: str,
        secret: Secret,
        *,
        role: AccessKeyRole,
        workload_ids: frozenset[str] = frozenset(),
        may_assert_users: bool = False,
    ) -> AccessKey:
        """Keep a new key."""
        given: dict[str, Any] = {
            "id": self.new_id(),
            "tenant_id": tenant,
            "access_key_id": access_key_id,
            "secret_generation": 1,
            "role": role.value,
            "workload_ids": " ".join(sorted(workload_ids)),
            "may_assert_users": int(may_assert_users),
            "state": ACTIVE,
            "created_at": micros(self.now),
        }
        given["secret"] = self._seal(secret.reveal().encode(), _place(given))
        self._insert_row("access_keys", tenant, given)
        return AccessKey(given["id"], tenant, access_key_id, role, workload_ids, may_assert_users, self.now)

    def find_access_key(self, access_key_id: str) -> tuple[AccessKey, Secret] | None:
        """A key by its id, of whatever tenant, with its secret: the key itself says whose it is.

        Raises:
            VaultCorrupt: If its row was changed outside the product.
        """
        row = self.connection.execute(select(_KEYS).where(_KEYS.c.access_key_id == access_key_id)).mappings().first()
        if row is None:
            return None
        found = self._access_key(row)
        return found, Secret(self._open(row["secret"], _place(row)).decode())

    def pretend_access_key(self, access_key_id: str) -> None:
        """Do what finding a key costs beside the database, so that the time does not tell which keys there are."""
        row = {"tenant_id": DEFAULT_TENANT, "id": "", "access_key_id": access_key_id, "secret_generation": 1}
        place = _place(row | {"role": "", "workload_ids": "", "may_assert_users": 0})
        self._seal(bytes(len(access_key_id)), place)
        self._mac(DEFAULT_TENANT, "access_keys", 1, (access_key_id,))

    def has_access_keys(self) -> bool:
        """Whether there is any key of any tenant; a look, not a proof."""
        return self.connection.execute(select(_KEYS.c.id).limit(1)).first() is not None

    def list_access_keys(self, tenant: str) -> tuple[AccessKey, ...]:
        """The keys of a tenant, oldest first.

        Raises:
            VaultCorrupt: If a row was changed outside the product.
        """
        query = select(_KEYS).where(_KEYS.c.tenant_id == tenant).order_by(_KEYS.c.created_at, _KEYS.c.id)
        return tuple(self._access_key(row) for row in self.connection.execute(query).mappings().all())

    def delete_access_key(self, tenant: str, access_key_id: str) -> None:
        """End a key.

        Raises:
            NotFound: If the tenant has no such key.
        """
        mine = (_KEYS.c.tenant_id == tenant, _KEYS.c.access_key_id == access_key_id)
        if self.connection.execute(select(_KEYS.c.id).where(*mine)).first() is None:
            raise NotFound("there is no such access key; see: mcp-identity access-keys list")
        self.connection.execute(delete(_KEYS).where(*mine))
        self.raise_epoch()

    def delete_access_keys_of(self, workload: WorkloadIdentity) -> tuple[str, ...]:
        """End the keys that stand for this workload alone; their ids. Those that stand for others, too, stay for the others."""
        found = self.list_access_keys(workload.tenant)
        ending = tuple(key.access_key_id for key in found if key.workload_ids == frozenset({workload.id}))
        for access_key_id in ending:
            self.delete_access_key(workload.tenant, access_key_id)
        return ending

    def note_access_key_use(self, key: AccessKey) -> None:
        """Keep when a key was used, if that is not known to the minute already."""
        now = micros(self.now)
        late = _KEYS.c.last_used_at <= now - USE_SECONDS * _MICROSECONDS
        mine = (_KEYS.c.tenant_id == key.tenant, _KEYS.c.id == key.id)
        self.connection.execute(update(_KEYS).where(*mine, late).values(last_used_at=now))

    def _access_key(self, row: RowMapping) -> AccessKey:
        self._check_row("access_keys", row)
        created_at = moment(row["created_at"])
        if created_at is None or row["state"] != ACTIVE or row["role"] not in _ROLES or row["secret"] is None:
            raise VaultCorrupt("an access key is not what the product wrote")
        return AccessKey(
            id=row["id"],
            tenant=row["tenant_id"],
            access_key_id=row["access_key_id"],
            role=AccessKeyRole(row["role"]),
            workload_ids=frozenset(row["workload_ids"].split()),
            may_assert_users=bool(row["may_assert_users"]),
            created_at=created_at,
            last_used_at=moment(row["last_used_at"]),
        )


def _place(row: Row) -> Place:
    """A secret belongs to its key, and to what that may do."""
    context = (row["access_key_id"], row["role"], row["workload_ids"], str(row["may_assert_users"]))
    return Place("access_keys", row["tenant_id"], row["id"], "secret", row["secret_generation"], context)


PROTECTED = Protected("access_keys", (SealedColumn("secret", _place),), COVERED["access_keys"])
