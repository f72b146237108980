"""Credential providers: rows that grant authority, so every column is under a MAC and the secret is sealed to them.

Decoded rows are kept until the configuration epoch moves. Changing where a secret would go makes its seal useless; whoever
does that through the product must give the secret anew.
"""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

from sqlalchemy import RowMapping, delete, func, insert, select, update

from mcp_identity.domain.credentials import Flow, Secret, SecretReference
from mcp_identity.domain.errors import Conflict, VaultCorrupt
from mcp_identity.domain.provider import AuthorizationServer, ClientAuthentication, CredentialProvider, ProviderKind, Release
from mcp_identity.vault.envelope import Cell, Place
from mcp_identity.vault.records.base import intact, table
from mcp_identity.vault.records.moments import micros, moment
from mcp_identity.vault.records.protected import Protected, Row, SealedColumn
from mcp_identity.vault.records.rows import AuthenticatedRows, Page
from mcp_identity.vault.records.tags import decode_tags, encode_tags

_PROVIDERS = table("credential_providers")
_COVERED = {
    1: (
        "id", "tenant_id", "name", "vendor", "kind", "provider_id", "settings", "issuer", "authorization_url", "token_url",
        "refresh_url", "revocation_url", "jwks_url", "requires_iss", "client_id", "client_authentication", "flows", "scopes",
        "release", "api_hosts", "subject_issuers", "allow_http_loopback", "owner", "tags", "epoch", "disabled", "secret",
        "secret_generation", "secret_updated_at", "created_at", "updated_at",
    )
}  # fmt: skip
"""The columns that each version of the MAC covers; a new column makes a new version."""
_REFERENCE = "@secret_reference"
"""Beside a provider's settings, in their column, stands where its secret was read; no setting has such a name."""


@dataclass(frozen=True, slots=True)
class StoredProvider:
    """A provider with its sealed secret, as a process keeps it between batches."""

    provider: CredentialProvider
    sealed_secret: bytes | None
    secret_generation: int


@dataclass(frozen=True, slots=True)
class ProviderList:
    """What a listing found; rows that do not authenticate are named by id.

    Attributes:
        providers: The readable ones.
        corrupt: The ids of the others.
        next: After which name the next page begins; empty where there is none.
    """

    providers: tuple[CredentialProvider, ...]
    corrupt: tuple[str, ...] = ()
    next: str = ""


def _secret_place(provider: CredentialProvider, generation: int) -> Place:
    context = (provider.configuration_digest(),)
    return Place("credential_providers", provider.tenant, provider.id, "secret", generation, context)


class ProviderRecords(AuthenticatedRows):
    """Configured sources of credentials."""

    def find_provider(self, tenant: str, name: str) -> CredentialProvider | None:
        """A provider by its name.

        Raises:
            VaultCorrupt: If its row was changed outside the product.
        """
        stored = self._stored(tenant, name)
        return stored.provider if stored else None

    def find_provider_like(self, tenant: str, name: str) -> str:
        """The name of the provider that this one could be taken for: itself, or one that differs by case alone; else empty."""
        query = select(_PROVIDERS.c.name).where(_PROVIDERS.c.tenant_id == tenant, func.lower(_PROVIDERS.c.name) == name.lower())
        return self.connection.execute(query).scalar() or ""

    def find_provider_row(self, tenant: str, row_id: str) -> CredentialProvider | None:
        """A provider by its row id."""
        query = select(_PROVIDERS).where(_PROVIDERS.c.tenant_id == tenant, _PROVIDERS.c.id == row_id)
        row = self.connection.execute(query).mappings().first()
        return self._decode(row).provider if row else None

    def list_providers(self, tenant: str, kind: ProviderKind | None = None, page: Page | None = None) -> ProviderList:
        """The providers of a tenant, by name: all of them, or those of a kind, or one page."""
        query = select(_PROVIDERS).where(_PROVIDERS.c.tenant_id == tenant).order_by(_PROVIDERS.c.name)
        if kind is not None:
            query = query.where(_PROVIDERS.c.kind == kind.value)
        rows, following = self._page(query, _PROVIDERS.c.name, page)
        found: list[CredentialProvider] = []
        corrupt: list[str] = []
        for row in rows:
            try:
                found.append(self._decode(row).provider)
            except VaultCorrupt:
                corrupt.append(str(row["id"]))
        return ProviderList(tuple(found), tuple(corrupt), following)

    def exchanging_providers(self, tenant: str) -> tuple[CredentialProvider, ...]:
        """The providers of a tenant that users' own tokens may be sent to; kept decoded until the configuration changes.

        A row that does not authenticate is left out: it is sent nothing.
        """
        if tenant not in self.caches.exchanging:
            query = select(_PROVIDERS).where(_PROVIDERS.c.tenant_id == tenant, _PROVIDERS.c.subject_issuers != "")
            found: list[CredentialProvider] = []
            for row in self.connection.execute(query.order_by(_PROVIDERS.c.name)).mappings().all():
                with suppress(VaultCorrupt):
                    found.append(self._decode(row).provider)
            self.caches.exchanging[tenant] = tuple(found)
        return self.caches.exchanging[tenant]

    def open_provider_secret(self, provider: CredentialProvider) -> Secret | None:
        """The client secret or API key of a provider, for the configuration that it was given for and no other.

        Args:
            provider: As the caller knows it; a secret that was given since must not go to its older endpoints.

        Raises:
            Conflict: If the provider was removed, or now is configured differently.
            VaultCorrupt: If it was sealed for another configuration.
        """
        stored = self._stored(provider.tenant, provider.name)
        if stored is None or _secret_place(stored.provider, 0) != _secret_place(provider, 0):
            raise Conflict(f"the provider {provider.name} was changed meanwhile; ask again", retryable=True)
        if stored.sealed_secret is None:
            return None
        return Secret(self._open(stored.sealed_secret, _secret_place(provider, stored.secret_generation)).decode())

    def insert_provider(self, provider: CredentialProvider, secret: Secret | None) -> CredentialProvider:
        """Keep a new provider.

        Returns:
            The provider, with when it was added.
        """
        now = micros(self.now)
        values = self._encode(provider) | {
            "secret": self._seal(secret.reveal().encode(), _secret_place(provider, 1)) if secret else None,
            "secret_generation": 1,
            "secret_updated_at": now if secret else 0,
            "created_at": now,
            "updated_at": now,
        }
        self.connection.execute(insert(_PROVIDERS), self._with_mac(provider.tenant, values))
        self.raise_epoch()
        return replace(provider, created_at=self.now, updated_at=self.now)

    def update_provider(self, provider: CredentialProvider, secret: Secret | None) -> CredentialProvider:
        """Replace a provider's configuration, and its secret by the one given, sealed anew; None clears it.

        Returns:
            The provider, with the time of its change.

        Raises:
            Conflict: If it was removed meanwhile.
            VaultCorrupt: If its row was changed outside the product; a new MAC must not cover that up.
        """
        query = select(_PROVIDERS).where(_PROVIDERS.c.tenant_id == provider.tenant, _PROVIDERS.c.id == provider.id)
        row = self.connection.execute(query).mappings().first()
        if row is None:
            raise Conflict(f"the provider {provider.name} was removed meanwhile")
        generation = self._decode(row).secret_generation + 1
        values = dict(row) | self._encode(provider)
        values |= {
            "secret": self._seal(secret.reveal().encode(), _secret_place(provider, generation)) if secret else None,
            "secret_generation": generation,
            "secret_updated_at": micros(self.now) if secret else 0,
            "updated_at": micros(self.now),
        }
        self.connection.execute(
            update(_PROVIDERS).where(_PROVIDERS.c.id == provider.id).values(self._with_mac(provider.tenant, values))
        )
        self.raise_epoch()
        return replace(provider, updated_at=self.now)

    def tag_provider(self, provider: CredentialProvider) -> None:
        """Replace the tags of a provider, and nothing else of it: its secret is not sealed anew.

        Raises:
            Conflict: If it was removed meanwhile.
            VaultCorrupt: If its row was changed outside the product.
        """
        query = select(_PROVIDERS).where(_PROVIDERS.c.tenant_id == provider.tenant, _PROVIDERS.c.id == provider.id)
        row = self.connection.execute(query).mappings().first()
        if row is None:
            raise Conflict(f"the provider {provider.name} was removed meanwhile")
        self._decode(row)
        values = dict(row) | {"tags": encode_tags(provider.tags), "updated_at": micros(self.now)}
        self.connection.execute(
            update(_PROVIDERS).where(_PROVIDERS.c.id == provider.id).values(self._with_mac(provider.tenant, values))
        )
        self.raise_epoch()

    def delete_provider(self, provider: CredentialProvider) -> None:
        """Remove a provider's row; its grants and sessions go first."""
        self.connection.execute(
            delete(_PROVIDERS).where(_PROVIDERS.c.tenant_id == provider.tenant, _PROVIDERS.c.id == provider.id)
        )
        self.raise_epoch()

    def _stored(self, tenant: str, name: str) -> StoredProvider | None:
        cached: StoredProvider | None = self.caches.providers.get((tenant, name))
        if cached is not None:
            return cached
        query = select(_PROVIDERS).where(_PROVIDERS.c.tenant_id == tenant, _PROVIDERS.c.name == name)
        row = self.connection.execute(query).mappings().first()
        if row is None:
            return None
        stored = self.caches.providers[tenant, name] = self._decode(row)
        return stored

    def _with_mac(self, tenant: str, values: dict[str, Any]) -> dict[str, Any]:
        covered: tuple[Cell, ...] = tuple(values[name] for name in _COVERED[1])
        return values | {"mac": self._mac(tenant, "credential_providers", 1, covered)}

    def _encode(self, provider: CredentialProvider) -> dict[str, Any]:
        server = provider.server
        return {
            "id": provider.id,
            "tenant_id": provider.tenant,
            "name": provider.name,
            "vendor": provider.vendor,
            "kind": provider.kind.value,
            "provider_id": provider.provider_id,
            "settings": _encode_settings(provider),
            "issuer": server.issuer,
            "authorization_url": server.authorization_url,
            "token_url": server.token_url,
            "refresh_url": server.refresh_url,
            "revocation_url": server.revocation_url,
            "jwks_url": server.jwks_url,
            "requires_iss": int(server.requires_iss),
            "client_id": provider.client_id,
            "client_authentication": provider.client_authentication.value,
            "flows": " ".join(flow.value for flow in provider.flows),
            "scopes": " ".join(sorted(provider.scopes)),
            "release": provider.release.value if provider.release else "",
            "api_hosts": " ".join(provider.api_hosts),
            "subject_issuers": " ".join(sorted(provider.subject_issuers)),
            "allow_http_loopback": int(provider.allow_http_loopback),
            "owner": "",
            "tags": encode_tags(provider.tags),
            "epoch": provider.epoch,
            "disabled": int(provider.disabled),
        }

    def _decode(self, row: RowMapping) -> StoredProvider:
        intact("credential_providers", row)
        versions: dict[int, tuple[Cell, ...]] = {
            version: tuple(row[name] for name in names) for version, names in _COVERED.items()
        }
        self._check_mac(row["tenant_id"], row["mac"], "credential_providers", versions)
        return StoredProvider(_provider(row), row["secret"], row["secret_generation"])


def _encode_settings(provider: CredentialProvider) -> str:
    settings: dict[str, object] = dict(provider.settings)
    if provider.secret_reference:
        settings[_REFERENCE] = [provider.secret_reference.reference, provider.secret_reference.json_key]
    return json.dumps(settings, sort_keys=True)


def _provider(row: Row) -> CredentialProvider:
    """What a row says, whether or not it stands."""
    settings: dict[str, Any] = json.loads(row["settings"])
    reference = settings.pop(_REFERENCE, None)
    return CredentialProvider(
        id=row["id"],
        tenant=row["tenant_id"],
        name=row["name"],
        vendor=row["vendor"],
        kind=ProviderKind(row["kind"]),
        provider_id=row["provider_id"],
        settings=settings,
        server=AuthorizationServer(
            issuer=row["issuer"],
            authorization_url=row["authorization_url"],
            token_url=row["token_url"],
            refresh_url=row["refresh_url"],
            revocation_url=row["revocation_url"],
            jwks_url=row["jwks_url"],
            requires_iss=bool(row["requires_iss"]),
        ),
        client_id=row["client_id"],
        client_authentication=ClientAuthentication(row["client_authentication"]),
        flows=tuple(Flow(flow) for flow in row["flows"].split()),
        scopes=frozenset(row["scopes"].split()),
        release=Release(row["release"]) if row["release"] else None,
        api_hosts=tuple(row["api_hosts"].split()),
        subject_issuers=frozenset(row["subject_issuers"].split()),
        allow_http_loopback=bool(row["allow_http_loopback"]),
        tags=decode_tags(row["tags"]),
        secret_reference=SecretReference(*reference) if reference else None,
        epoch=row["epoch"],
        disabled=bool(row["disabled"]),
        created_at=moment(row["created_at"]),
        updated_at=moment(row["updated_at"]),
    )


def _sealed_secret_place(row: Row) -> Place:
    return _secret_place(_provider(row), row["secret_generation"])


PROTECTED = Protected("credential_providers", (SealedColumn("secret", _sealed_secret_place),), _COVERED)
