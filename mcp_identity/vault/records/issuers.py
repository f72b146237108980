"""Issuers: the identity providers whose tokens callers bring. Rows that grant authority, so every column is under a MAC."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError
from sqlalchemy import RowMapping, delete, select

from mcp_identity.domain.credentials import Secret
from mcp_identity.domain.errors import VaultCorrupt
from mcp_identity.domain.issuer import Issuer, TokenRules
from mcp_identity.vault.envelope import Place
from mcp_identity.vault.records.base import table
from mcp_identity.vault.records.moments import micros
from mcp_identity.vault.records.protected import Protected, Row, SealedColumn
from mcp_identity.vault.records.rows import COVERED, AuthenticatedRows

_ISSUERS = table("issuers")


class IssuerRecords(AuthenticatedRows):
    """Who says who callers are."""

    def find_issuer(self, tenant: str, name: str) -> Issuer | None:
        """An issuer by its name.

        Raises:
            VaultCorrupt: If its row was changed outside the product.
        """
        row = self._issuer_row(_ISSUERS.c.tenant_id == tenant, _ISSUERS.c.name == name)
        return self._issuer(row) if row else None

    def find_issuer_id(self, tenant: str, issuer_id: str) -> Issuer | None:
        """An issuer by its row id."""
        row = self._issuer_row(_ISSUERS.c.tenant_id == tenant, _ISSUERS.c.id == issuer_id)
        return self._issuer(row) if row else None

    def list_issuers(self, tenant: str) -> tuple[Issuer, ...]:
        """The issuers of a tenant, by name."""
        query = select(_ISSUERS).where(_ISSUERS.c.tenant_id == tenant).order_by(_ISSUERS.c.name)
        return tuple(self._issuer(row) for row in self.connection.execute(query).mappings().all())

    def all_issuers(self) -> tuple[Issuer, ...]:
        """Every issuer of every tenant: a token says which issuer it is of, and by that which tenant.

        Kept decoded until the configuration changes. A row that does not authenticate is left out: it vouches for nobody.
        """
        if self.caches.issuers is None:
            found: list[Issuer] = []
            for row in self.connection.execute(select(_ISSUERS).order_by(_ISSUERS.c.id)).mappings().all():
                try:
                    found.append(self._issuer(row))
                except VaultCorrupt:
                    continue
            self.caches.issuers = tuple(found)
        return self.caches.issuers

    def insert_issuer(self, issuer: Issuer, login_secret: Secret | None) -> None:
        """Keep a new issuer.

        Args:
            issuer: With its random id.
            login_secret: The secret of the login client, if it has one; sealed to where it may be sent.
        """
        now = micros(self.now)
        sealed = self._seal(login_secret.reveal().encode(), _secret_place(issuer, 1)) if login_secret else None
        given = self._encode_issuer(issuer) | {
            "login_client_secret": sealed,
            "secret_generation": 1,
            "created_at": now,
            "updated_at": now,
        }
        self._insert_row("issuers", issuer.tenant, given)
        self.raise_epoch()

    def delete_issuer(self, issuer: Issuer) -> None:
        """Remove an issuer; its tokens vouch for nobody any more."""
        self.connection.execute(delete(_ISSUERS).where(_ISSUERS.c.tenant_id == issuer.tenant, _ISSUERS.c.id == issuer.id))
        self.raise_epoch()

    def open_login_secret(self, issuer: Issuer) -> Secret | None:
        """The secret of the login client, for the endpoints that it was given for and no other.

        Raises:
            VaultCorrupt: If it was sealed for another configuration.
        """
        row = self._issuer_row(_ISSUERS.c.tenant_id == issuer.tenant, _ISSUERS.c.id == issuer.id)
        if row is None or self._check_row("issuers", row)["login_client_secret"] is None:
            return None
        place = _secret_place(issuer, row["secret_generation"])
        return Secret(self._open(row["login_client_secret"], place).decode())

    def _issuer_row(self, *conditions: Any) -> RowMapping | None:
        return self.connection.execute(select(_ISSUERS).where(*conditions)).mappings().first()

    def _encode_issuer(self, issuer: Issuer) -> dict[str, Any]:
        return {
            "id": issuer.id,
            "tenant_id": issuer.tenant,
            "name": issuer.name,
            "preset": issuer.preset,
            "issuer": issuer.issuer,
            "discovery_url": issuer.discovery_url,
            "jwks_url": issuer.jwks_url,
            "audiences": json.dumps(sorted(issuer.audiences)),
            "discriminator": json.dumps(sorted(issuer.discriminator_values)),
            "subject_claims": json.dumps([issuer.rules.access_subject, issuer.rules.id_subject]),
            "configuration": json.dumps(issuer.pinned(), separators=(",", ":"), sort_keys=True),
            "login_client_id": issuer.login_client_id,
            "login_discovery_url": issuer.login_discovery_url,
            "require_tool_scopes": int(issuer.require_tool_scopes),
            "allow_http_loopback": int(issuer.allow_http_loopback),
            "epoch": issuer.epoch,
            "disabled": int(issuer.disabled),
        }

    def _issuer(self, row: RowMapping) -> Issuer:
        self._check_row("issuers", row)
        try:
            pinned: Mapping[str, Any] = json.loads(row["configuration"])
            return Issuer(
                id=row["id"],
                tenant=row["tenant_id"],
                name=row["name"],
                preset=row["preset"],
                issuer=row["issuer"],
                discovery_url=row["discovery_url"],
                jwks_url=row["jwks_url"],
                audiences=frozenset(json.loads(row["audiences"])),
                discriminator_values=frozenset(json.loads(row["discriminator"])),
                rules=TokenRules.model_validate(pinned["rules"]),
                login_client_id=row["login_client_id"],
                login_issuer=pinned["login_issuer"],
                login_discovery_url=row["login_discovery_url"],
                login_authorization_url=pinned["login_authorization_url"],
                login_token_url=pinned["login_token_url"],
                login_jwks_url=pinned["login_jwks_url"],
                has_login_secret=row["login_client_secret"] is not None,
                require_tool_scopes=bool(row["require_tool_scopes"]),
                allow_http_loopback=bool(row["allow_http_loopback"]),
                epoch=row["epoch"],
                disabled=bool(row["disabled"]),
            )
        except (KeyError, TypeError, ValueError, ValidationError):
            raise VaultCorrupt("an issuer is not what the product wrote") from None


def _secret_place(issuer: Issuer, generation: int) -> Place:
    return _place(issuer.tenant, issuer.id, generation, issuer.login_issuer, issuer.login_token_url, issuer.login_client_id)


def _sealed_secret_place(row: Row) -> Place:
    pinned = json.loads(row["configuration"])
    context = (str(pinned["login_issuer"]), str(pinned["login_token_url"]), row["login_client_id"])
    return _place(row["tenant_id"], row["id"], row["secret_generation"], *context)


def _place(tenant: str, row_id: str, generation: int, *endpoints_and_client: str) -> Place:
    return Place("issuers", tenant, row_id, "login_client_secret", generation, endpoints_and_client)


PROTECTED = Protected("issuers", (SealedColumn("login_client_secret", _sealed_secret_place),), COVERED["issuers"])
