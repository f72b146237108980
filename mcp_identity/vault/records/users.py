"""Tenants and their users, as far as they are registered at first sight."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import bindparam, select

from mcp_identity.domain.identity import User
from mcp_identity.vault.records.base import table
from mcp_identity.vault.records.moments import micros, moment
from mcp_identity.vault.records.rows import AuthenticatedRows

_USERS, _TENANTS = (table(name) for name in ("users", "tenants"))
_FIND_USER = select(_USERS).where(
    _USERS.c.tenant_id == bindparam("tenant"),
    _USERS.c.issuer == bindparam("issuer"),
    _USERS.c.subject == bindparam("subject"),
)
"""Built once: every call over HTTP runs it."""


class UserRecords(AuthenticatedRows):
    """For whom is asked."""

    def register_user(self, tenant: str, user: User) -> datetime | None:
        """Keep a user, if it is seen for the first time.

        Returns:
            The user's not-before: nothing that was issued earlier counts. None where nobody set one.

        Raises:
            VaultCorrupt: If its row was changed outside the product.
        """
        row = self._user_row(tenant, user)
        if row is not None:
            return moment(self._check_row("users", row)["not_before_at"])
        now = micros(self.now)
        self._insert_row(
            "users",
            tenant,
            {
                "id": self.new_id(),
                "tenant_id": tenant,
                "issuer": user.issuer,
                "subject": user.subject,
                "kind": user.kind.value,
                "display": user.display,
                "created_at": now,
                "last_seen_at": now,
            },
        )
        return None

    def find_not_before(self, tenant: str, user: User) -> datetime | None:
        """The same for reading: None for a user that nobody has seen."""
        row = self._user_row(tenant, user)
        return moment(self._check_row("users", row)["not_before_at"]) if row is not None else None

    def end_user_credentials(self, tenant: str, user: User) -> None:
        """From now on nothing counts that was issued for this user before.

        Raises:
            VaultCorrupt: If its row was changed outside the product.
        """
        self.register_user(tenant, user)
        row = self._user_row(tenant, user)
        if row is not None:
            self._update_row("users", tenant, row, {"not_before_at": micros(self.now)})
            self.raise_epoch()

    def insert_tenant(self, tenant: str) -> None:
        """Keep a new tenant."""
        self._insert_row("tenants", tenant, {"id": tenant, "title": tenant, "created_at": micros(self.now)})

    def has_tenant(self, tenant: str) -> bool:
        """Whether there is such a tenant."""
        row = self.connection.execute(select(_TENANTS).where(_TENANTS.c.id == tenant)).mappings().first()
        return row is not None and bool(self._check_row("tenants", row))

    def list_tenants(self) -> tuple[str, ...]:
        """The names of all tenants; they are authenticated when they are used."""
        return tuple(self.connection.execute(select(_TENANTS.c.id).order_by(_TENANTS.c.id)).scalars().all())

    def _user_row(self, tenant: str, user: User):  # noqa: ANN202 - a row of the driver
        given = {"tenant": tenant, "issuer": user.issuer, "subject": user.subject}
        return self.connection.execute(_FIND_USER, given).mappings().first()
