"""What operators set up: credential providers, and who works on this machine.

Endpoints are pinned when a provider is added; what an issuer's metadata says later changes nothing until an operator says
so. A secret is sealed to where it may be sent: changing an endpoint or the issuer clears it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import TypeVar

from mcp_identity.broker.answers import ProviderCheck, ProviderSpec, Revoked
from mcp_identity.broker.audit import Call, audited, new_call, write_refusal
from mcp_identity.broker.checkup import Checkup
from mcp_identity.broker.configuration import configure, is_public, needs_other_secret, require_secret
from mcp_identity.broker.grants import unknown_provider
from mcp_identity.broker.plan import definition_of, dialect_of
from mcp_identity.broker.services import Services
from mcp_identity.broker.sessions import redirect_uri
from mcp_identity.broker.vendor import find_client, revoke_grants_at_vendor
from mcp_identity.domain.clock import random_token
from mcp_identity.domain.credentials import Flow, Grant, GrantState, Secret
from mcp_identity.domain.errors import AccessDenied, Conflict, InvalidRequest, NotFound
from mcp_identity.domain.identity import (
    DEFAULT_TENANT,
    RESOURCE_NAME_RULE,
    Principal,
    User,
    WorkloadIdentity,
    command,
    is_resource_name,
)
from mcp_identity.domain.provider import (
    CredentialProvider,
    OAuthClient,
    ProviderKind,
    Release,
)
from mcp_identity.providers import catalog
from mcp_identity.vault.records import Records
from mcp_identity.vault.records.providers import ProviderList

T = TypeVar("T")
EVERY_ISSUER = ("*",)
"""Names each issuer that a tenant has now; one that is added later is not among them, and a list that is there stays."""


class Directory:
    """Providers and local principals."""

    def __init__(self, services: Services) -> None:
        """Keep what it works with."""
        self._services = services

    @property
    def epoch(self) -> int:
        """Another number once something was configured that a principal holds; whoever keeps one looks it up again."""
        return self._services.vault.configuration_epoch

    def recall(self, tenant: str, name: str) -> CredentialProvider | None:
        """A provider as this process last read it, at no cost; it may have changed since, or stand in no committed row."""
        return self._services.vault.recall_provider(tenant, name)

    async def find(self, tenant: str, name: str) -> CredentialProvider | None:
        """A provider by its name."""
        if not is_resource_name(name):
            return None
        return await self._services.vault.run(lambda records: records.find_provider(tenant, name))

    async def get(self, tenant: str, name: str, kind: ProviderKind | None = None) -> CredentialProvider:
        """A provider by its name.

        Args:
            tenant: Whose it is.
            name: Its name.
            kind: Of which kind it must be; None for any.

        Raises:
            UnknownProvider: If there is none.
        """
        provider = await self.find(tenant, name)
        if provider is None or kind not in (None, provider.kind):
            raise unknown_provider()
        return provider

    async def list(self, tenant: str) -> ProviderList:
        """All providers of a tenant."""
        return await self._services.vault.read(lambda records: records.list_providers(tenant))

    def redirect_uri(self, provider: CredentialProvider) -> str:
        """What to register at the vendor."""
        return redirect_uri(self._services.front.base_url(dialect_of(provider).loopback_host), provider)

    def notes(self, provider: CredentialProvider) -> tuple[str, ...]:
        """What the operator must know about a provider as it is configured."""
        notes = list(definition_of(provider).notes)
        if provider.release is None and dialect_of(provider).expiry == "never":
            notes.insert(
                0,
                "Its tokens never expire, so they are kept back until you say how they may leave: "
                f"mcp-identity providers update {provider.name} --release token",
            )
        if Flow.USER_FEDERATION in provider.flows and not dialect_of(provider).loopback_allowed:
            notes.append("This vendor takes no redirect to this machine: consents need a server with PUBLIC_URL.")
        if provider.release is Release.HANDLE:
            notes.append("On stdio, release handle behaves as never.")
        if not provider.api_hosts and not dialect_of(provider).api_host_field:
            notes.append(
                "call_api does not know where its credential may go: "
                f"{command(provider.tenant)} providers update {provider.name} --api-host https://HOST, and its secret again"
            )
        return tuple(notes)

    async def add(self, call: Call, name: str, spec: ProviderSpec) -> CredentialProvider:
        """Add a provider; its endpoints are looked up now and pinned.

        Raises:
            InvalidRequest: If the specification is incomplete or contradictory; the message says what is missing.
            Conflict: If the name is taken.
            UpstreamError: If the issuer's metadata cannot be had or does not stand.
        """
        return await self._audited(call, name, lambda: self._add(call, name, spec))

    async def _add(self, call: Call, name: str, spec: ProviderSpec) -> CredentialProvider:
        if not is_resource_name(name):
            raise InvalidRequest(RESOURCE_NAME_RULE)
        entropy = self._services.entropy
        blank = CredentialProvider(
            id=entropy.random_bytes(16).hex(),
            tenant=call.principal.tenant,
            name=name,
            vendor=spec.vendor or "",
            kind=ProviderKind.OAUTH2,
            provider_id=random_token(entropy, 12),
        )
        issuers = await self._subject_issuers(blank.tenant, spec)
        provider = await configure(self._services.transport, blank, catalog.get(blank.vendor), spec, issuers)
        secret = await self._secret(call, spec)
        require_secret(provider, secret)
        provider = replace(provider, secret_reference=spec.secret_reference)
        event = call.event(provider=name)

        def unit(records: Records) -> CredentialProvider:
            if like := records.find_provider_like(provider.tenant, name):
                raise Conflict(f"there is a provider {like} already; see: mcp-identity providers show {like}")
            kept = records.insert_provider(provider, secret)
            records.append_audit(event)
            return kept

        await self._services.vault.ensure_tenant(provider.tenant)
        return await self._services.vault.run(unit, event)

    async def update(
        self, call: Call, name: str, spec: ProviderSpec, kind: ProviderKind | None = None
    ) -> tuple[CredentialProvider, bool]:
        """Change a provider; what the specification leaves out stays.

        Args:
            call: Of the operator.
            name: The provider's name.
            spec: What shall be otherwise.
            kind: Of which kind it must be; None for any.

        Returns:
            The provider, and whether its secret was cleared because it would now go elsewhere.

        Raises:
            UnknownProvider: If there is no such provider.
            InvalidRequest: If the specification is contradictory.
            UpstreamError: If the issuer's metadata cannot be had or does not stand.
        """
        return await self._audited(call, name, lambda: self._update(call, name, spec, kind))

    async def _update(
        self, call: Call, name: str, spec: ProviderSpec, kind: ProviderKind | None
    ) -> tuple[CredentialProvider, bool]:
        before = await self.get(call.principal.tenant, name, kind)
        if spec.vendor not in (None, before.vendor):
            raise InvalidRequest("the vendor of a provider cannot be changed; add another provider")
        issuers = await self._subject_issuers(before.tenant, spec)
        if spec.subject_issuers == EVERY_ISSUER and dialect_of(before).on_behalf_of != "no":
            issuers = before.subject_issuers  # whoever says this has no words for fewer, and somebody may have listed fewer
        after = await configure(self._services.transport, before, definition_of(before), spec, issuers)
        given = await self._secret(call, spec)
        if given is not None or needs_other_secret(before, after):
            require_secret(after, given)
        moved = (after.server, after.api_hosts) != (before.server, before.api_hosts)
        cleared = given is None and moved and not is_public(after)
        stays = given is None and not cleared and not is_public(after)
        reference = before.secret_reference if stays else spec.secret_reference
        after = replace(after, epoch=before.epoch + 1, secret_reference=reference)
        became = "cleared" if cleared else "kept" if given is None else "changed"
        event = call.event(provider=name).ending("ok", secret=became)

        def unit(records: Records) -> CredentialProvider:
            if records.find_provider(before.tenant, name) != before:
                raise Conflict(f"the provider {name} was changed meanwhile; try again", retryable=True)
            kept = records.update_provider(after, records.open_provider_secret(before) if stays else given)
            records.append_audit(event)
            return kept

        return await self._services.vault.run(unit, event), cleared

    async def _subject_issuers(self, tenant: str, spec: ProviderSpec) -> frozenset[str] | None:
        """The rows of the issuers that a specification names; None where it names none.

        Raises:
            NotFound: If the tenant has no issuer of this name.
        """
        names = spec.subject_issuers
        if names is None:
            return None
        known = await self._services.vault.read(lambda records: {each.name: each.id for each in records.list_issuers(tenant)})
        if names == EVERY_ISSUER:
            return frozenset(known.values())
        for name in names:
            if name not in known:
                raise NotFound(f"there is no issuer of this name; see: {command(tenant)} issuers list")
        return frozenset(known[name] for name in names)

    async def remove(self, call: Call, name: str, kind: ProviderKind | None = None) -> tuple[Revoked, ...]:
        """Remove a provider with its secret and every grant at it, of whomever; the grants are revoked at the vendor.

        Args:
            call: Of the operator.
            name: The provider's name.
            kind: Of which kind it must be; None for any.

        Raises:
            UnknownProvider: If there is no such provider.
        """
        return await self._audited(call, name, lambda: self._remove(call, name, kind))

    async def _remove(self, call: Call, name: str, kind: ProviderKind | None) -> tuple[Revoked, ...]:
        provider = await self.get(call.principal.tenant, name, kind)
        event = call.event(provider=name)

        def unit(records: Records) -> tuple[OAuthClient | None, list[Grant]]:
            if records.find_provider(provider.tenant, name) != provider:
                raise Conflict(f"the provider {name} was changed meanwhile; try again", retryable=True)
            found = records.list_provider_grants(provider.tenant, provider.id)
            client = find_client(records, provider)
            records.delete_provider_sessions(provider.tenant, provider.id)
            records.delete_provider_grants(provider.tenant, provider.id)
            records.delete_provider(provider)
            records.append_audit(event.ending("ok", grants=str(len(found.grants) + len(found.corrupt))))
            return client, [grant for grant in found.grants if grant.state is not GrantState.REVOKED]

        async def work() -> tuple[Revoked, ...]:
            client, grants = await self._services.vault.run(unit, event)
            return await revoke_grants_at_vendor(self._services.upstreams, provider, dialect_of(provider), client, grants)

        return await self._services.tasks.run(work)

    async def test(self, call: Call, name: str) -> tuple[ProviderCheck, ...]:
        """Check whether a provider works; asks nobody for consent.

        Raises:
            UnknownProvider: If there is no such provider.
        """

        async def work() -> tuple[ProviderCheck, ...]:
            provider = await self.get(call.principal.tenant, name)
            return await Checkup(self._services).run(call, provider, self.redirect_uri(provider))

        return await self._audited(call, name, work)

    async def has_secret(self, provider: CredentialProvider) -> bool:
        """Whether a provider's secret is stored.

        Raises:
            VaultCorrupt: If it does not authenticate.
        """
        return await self._services.vault.read(lambda records: records.open_provider_secret(provider) is not None)

    def operator(self, user: User, tenant: str = DEFAULT_TENANT) -> Principal:
        """The operator of this machine, who is no agent: nothing is registered, and the trail says ``operator``."""
        return Principal(WorkloadIdentity("", tenant, "operator"), user, "cli", verified=False)

    async def tenants(self) -> tuple[str, ...]:
        """The names of all tenants."""
        return await self._services.vault.read(lambda records: records.list_tenants())

    async def workloads(self, tenant: str) -> tuple[WorkloadIdentity, ...]:
        """The workloads that have been seen."""
        return tuple(await self._services.vault.read(lambda records: records.list_workloads(tenant)))

    async def local_principal(self, workload: str, user: User, edge: str, tenant: str = DEFAULT_TENANT) -> Principal:
        """The principal of a process on this machine; the user is registered at first sight, and the workload, too.

        Only in the local tenant, where the workload is a label: in any other one an operator registers it first, since others
        may be relying on what it means there.

        Args:
            workload: A label that the client chose; separates cooperating clients, and is no boundary.
            user: The operating system's user.
            edge: ``stdio`` or ``cli``.
            tenant: Whose workload is meant.

        Raises:
            InvalidRequest: If the label is no name.
            NotFound: If another tenant than the local one has no such workload.
            AccessDenied: If the workload is disabled.
        """
        if not is_resource_name(workload):
            raise InvalidRequest(f"the workload {workload[:64]!r} is no name: {RESOURCE_NAME_RULE}")

        def unit(records: Records) -> WorkloadIdentity:
            found = records.find_workload(tenant, workload)
            if found is None and tenant != DEFAULT_TENANT:
                raise NotFound(
                    "the tenant has no workload of this name; register it first: "
                    f"mcp-identity --tenant {tenant} workloads create NAME"
                )
            records.register_user(tenant, user)
            like = "" if found else records.find_workload_like(tenant, workload)
            if like:
                raise InvalidRequest(f"there is a workload {like}; name it so")
            return found or records.register_workload(tenant, workload, edge)

        identity = await self._services.vault.run(unit)
        principal = Principal(identity, user, edge, verified=False)
        if identity.disabled:
            refused = AccessDenied(f"the workload {workload} is disabled")
            await write_refusal(self._services.vault, new_call(principal, "arrive", self._services.entropy), refused)
            raise refused
        return principal

    async def _secret(self, call: Call, spec: ProviderSpec) -> Secret | None:
        """The secret that was given, or that is where the specification says.

        Raises:
            InvalidRequest: If both were named, or there is none in such a place.
        """
        if spec.secret_reference is None:
            return spec.secret
        if spec.secret is not None:
            raise InvalidRequest("a secret is given, or named by a reference; not both")
        return await self._services.secret_sources.read(call.principal.tenant, spec.secret_reference)

    async def _audited(self, call: Call, name: str, work: Callable[[], Awaitable[T]]) -> T:
        return await audited(self._services.vault, call, work, provider=name)
