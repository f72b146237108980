"""What operators set up: credential providers, and who works on this machine.

Endpoints are pinned when a provider is added; what an issuer's metadata says later changes nothing until an operator says
so. A secret is sealed to where it may be sent: changing an endpoint or the issuer clears it.
"""

from __future__ import annotations

from dataclasses import replace

from mcp_identity.broker.answers import ProviderCheck, ProviderSpec, Revoked
from mcp_identity.broker.audit import Call
from mcp_identity.broker.checkup import Checkup
from mcp_identity.broker.discovery import Discovered, discover
from mcp_identity.broker.grants import unknown_provider
from mcp_identity.broker.plan import definition_of, dialect_of
from mcp_identity.broker.services import Services
from mcp_identity.broker.sessions import redirect_uri
from mcp_identity.broker.vendor import client_of, revoke_at_vendor
from mcp_identity.domain.clock import random_token
from mcp_identity.domain.credentials import Flow, Grant, GrantState, parse_scopes
from mcp_identity.domain.errors import AccessDenied, Conflict, InvalidRequest, VaultCorrupt
from mcp_identity.domain.identity import DEFAULT_TENANT, Principal, User, WorkloadIdentity, is_name
from mcp_identity.domain.provider import (
    AuthorizationServer,
    ClientAuthentication,
    CredentialProvider,
    OAuthClient,
    ProviderDefinition,
    ProviderKind,
    Release,
)
from mcp_identity.oauth.urls import check_url
from mcp_identity.providers import catalog
from mcp_identity.vault.records import Records
from mcp_identity.vault.records.providers import ProviderList

_NAME_RULE = "a name is 1 to 128 of a-z, 0-9, dot, dash and underscore, and begins with a letter or digit"


class Directory:
    """Providers and local principals."""

    def __init__(self, services: Services) -> None:
        """Keep what it works with."""
        self._services = services

    async def find(self, tenant: str, name: str) -> CredentialProvider | None:
        """A provider by its name."""
        if not is_name(name):
            return None
        return await self._services.vault.run(lambda records: records.find_provider(tenant, name))

    async def get(self, tenant: str, name: str) -> CredentialProvider:
        """A provider by its name.

        Raises:
            UnknownProvider: If there is none.
        """
        provider = await self.find(tenant, name)
        if provider is None:
            raise unknown_provider(name)
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
        if Flow.USER_FEDERATION in provider.flows and not dialect_of(provider).loopback_allowed:
            notes.append("This vendor takes no redirect to this machine: consents need a server with PUBLIC_URL.")
        if provider.release is Release.HANDLE:
            notes.append("On stdio, release handle behaves as never.")
        return tuple(notes)

    async def add(self, call: Call, name: str, spec: ProviderSpec) -> CredentialProvider:
        """Add a provider; its endpoints are looked up now and pinned.

        Raises:
            InvalidRequest: If the specification is incomplete or contradictory; the message says what is missing.
            Conflict: If the name is taken.
            UpstreamError: If the issuer's metadata cannot be had or does not stand.
        """
        if not is_name(name):
            raise InvalidRequest(_NAME_RULE)
        entropy = self._services.entropy
        blank = CredentialProvider(
            id=entropy.random_bytes(16).hex(),
            tenant=call.principal.tenant,
            name=name,
            vendor=spec.vendor or "",
            kind=ProviderKind.OAUTH2,
            provider_id=random_token(entropy, 12),
        )
        provider = await self._configured(blank, catalog.get(blank.vendor), spec, settings_changed=True)
        _require_secret(provider, given=spec.secret is not None)
        event = call.event(provider=name)

        def unit(records: Records) -> None:
            if records.find_provider(provider.tenant, name) is not None:
                raise Conflict(f"there is a provider {name} already; see: mcp-identity providers show {name}")
            records.insert_provider(provider, spec.secret)
            records.append_audit(event)

        await self._services.vault.run(unit, event)
        return provider

    async def update(self, call: Call, name: str, spec: ProviderSpec) -> tuple[CredentialProvider, bool]:
        """Change a provider; what the specification leaves out stays.

        Returns:
            The provider, and whether its secret was cleared because it would now go elsewhere.

        Raises:
            UnknownProvider: If there is no such provider.
            InvalidRequest: If the specification is contradictory.
            UpstreamError: If the issuer's metadata cannot be had or does not stand.
        """
        before = await self.get(call.principal.tenant, name)
        if spec.vendor not in (None, before.vendor):
            raise InvalidRequest("the vendor of a provider cannot be changed; add another provider")
        changed = bool(spec.settings) and {**before.settings, **spec.settings} != before.settings
        after = await self._configured(before, definition_of(before), spec, settings_changed=changed)
        after = replace(after, epoch=before.epoch + 1)
        moved = (after.server, after.api_hosts) != (before.server, before.api_hosts)
        event = call.event(provider=name)

        def unit(records: Records) -> bool:
            if records.find_provider(before.tenant, name) != before:
                raise Conflict(f"the provider {name} was changed meanwhile; try again", retryable=True)
            old = records.open_provider_secret(before)
            secret = spec.secret or (None if moved else old)
            if after.client_authentication is ClientAuthentication.NONE and after.kind is ProviderKind.OAUTH2:
                secret = None
            records.update_provider(after, secret)
            records.append_audit(event.ending("ok", secret="kept" if secret == old else "changed"))
            return old is not None and secret is None

        return after, await self._services.vault.run(unit, event)

    async def remove(self, call: Call, name: str) -> tuple[Revoked, ...]:
        """Remove a provider with its secret and every grant at it, of whomever; the grants are revoked at the vendor.

        Raises:
            UnknownProvider: If there is no such provider.
        """
        provider = await self.get(call.principal.tenant, name)
        event = call.event(provider=name)

        def unit(records: Records) -> tuple[OAuthClient, list[Grant]]:
            found = records.list_provider_grants(provider.tenant, provider.id)
            client = client_of(records, provider)
            records.delete_provider_sessions(provider.tenant, provider.id)
            records.delete_provider_grants(provider.tenant, provider.id)
            records.delete_provider(provider)
            records.append_audit(event.ending("ok", grants=str(len(found.grants) + len(found.corrupt))))
            return client, [grant for grant in found.grants if grant.state is not GrantState.REVOKED]

        client, grants = await self._services.vault.run(unit, event)
        dialect = dialect_of(provider)

        async def revoke() -> tuple[Revoked, ...]:
            outcomes = [
                Revoked(
                    name,
                    grant.key.flow,
                    await revoke_at_vendor(self._services.transport, provider, dialect, client, grant.tokens),
                )
                for grant in grants
            ]
            return tuple(outcomes)

        return await self._services.tasks.run(revoke)

    async def test(self, call: Call, name: str) -> tuple[ProviderCheck, ...]:
        """Check whether a provider works; asks nobody for consent.

        Raises:
            UnknownProvider: If there is no such provider.
        """
        provider = await self.get(call.principal.tenant, name)
        return await Checkup(self._services).run(call, provider, self.redirect_uri(provider))

    async def secret_state(self, provider: CredentialProvider) -> str:
        """Whether a provider's secret is there: ``stored``, ``none``, or ``unreadable`` where it does not authenticate."""

        def unit(records: Records) -> str:
            try:
                return "none" if records.open_provider_secret(provider) is None else "stored"
            except VaultCorrupt:
                return "unreadable"

        return await self._services.vault.read(unit)

    def operator(self, user: User) -> Principal:
        """The operator of this machine, who is no agent: nothing is registered, and the trail says ``operator``."""
        return Principal(WorkloadIdentity("", DEFAULT_TENANT, "operator"), user, "cli", verified=False)

    async def workloads(self, tenant: str) -> tuple[WorkloadIdentity, ...]:
        """The workloads that have been seen."""
        return tuple(await self._services.vault.read(lambda records: records.list_workloads(tenant)))

    async def local_principal(self, workload: str, user: User, edge: str) -> Principal:
        """The principal of a process on this machine; workload and user are registered at first sight.

        Args:
            workload: A label that the client chose; separates cooperating clients, and is no boundary.
            user: The operating system's user.
            edge: ``stdio`` or ``cli``.

        Raises:
            InvalidRequest: If the label is no name.
            AccessDenied: If the workload is disabled.
        """
        if not is_name(workload):
            raise InvalidRequest(f"the workload {workload[:64]!r} is no name: {_NAME_RULE}")

        def unit(records: Records) -> WorkloadIdentity:
            records.register_user(DEFAULT_TENANT, user)
            found = records.find_workload(DEFAULT_TENANT, workload)
            return found or records.register_workload(DEFAULT_TENANT, workload, edge)

        identity = await self._services.vault.run(unit)
        if identity.disabled:
            raise AccessDenied(f"the workload {workload} is disabled")
        return Principal(identity, user, edge, verified=False)

    async def _configured(
        self, provider: CredentialProvider, definition: ProviderDefinition, spec: ProviderSpec, *, settings_changed: bool
    ) -> CredentialProvider:
        """`provider` with what the specification says."""
        loopback = provider.allow_http_loopback if spec.allow_http_loopback is None else spec.allow_http_loopback
        release = provider.release if spec.release is None else _release(spec.release)
        settings = {**provider.settings, **spec.settings}
        scopes = provider.scopes if spec.scopes is None else parse_scopes(spec.scopes)
        disabled = provider.disabled if spec.disabled is None else spec.disabled
        common = replace(
            provider,
            kind=definition.kind,
            settings=settings,
            release=release,
            scopes=scopes,
            allow_http_loopback=loopback,
            disabled=disabled,
        )
        resolved = catalog.resolve(definition, settings)
        if definition.kind is ProviderKind.API_KEY:
            if spec.client_id or spec.client_authentication or scopes:
                raise InvalidRequest("an API key has no client and no scopes")
            return common
        found = Discovered(provider.server)
        if settings_changed:
            found = await discover(self._services.transport, resolved.endpoints, allow_http_loopback=loopback)
        _check_server(found.server, allow_http_loopback=loopback)
        authentication = _authentication(provider, definition, spec, found)
        flows = tuple(flow for flow in resolved.flows if _is_possible(flow, found.server, authentication))
        if not flows:
            raise InvalidRequest("no flow is possible: a user's consent needs an authorization URL, M2M a client secret")
        if not scopes and spec.scopes is None and not provider.client_id:
            scopes = frozenset(definition.default_scopes)
        return replace(
            common,
            server=found.server,
            client_id=_client_id(provider, spec),
            client_authentication=authentication,
            flows=flows,
            scopes=scopes,
        )


def _client_id(provider: CredentialProvider, spec: ProviderSpec) -> str:
    client_id = provider.client_id if spec.client_id is None else spec.client_id
    if not client_id or len(client_id) > 512 or not client_id.isprintable():  # noqa: PLR2004 - a bound, like the others
        raise InvalidRequest("a client id is required: --client-id ID, as the vendor shows it")
    return client_id


def _release(text: str) -> Release:
    try:
        return Release(text)
    except ValueError:
        raise InvalidRequest("release is one of: token, handle, never") from None


def _authentication(
    provider: CredentialProvider, definition: ProviderDefinition, spec: ProviderSpec, found: Discovered
) -> ClientAuthentication:
    accepted = definition.client_authentication
    if spec.client_authentication is not None:
        if spec.client_authentication not in {way.value for way in accepted}:
            raise InvalidRequest(
                f"{definition.title} accepts client authentication: {', '.join(way.value for way in accepted)}"
            )
        return ClientAuthentication(spec.client_authentication)
    if provider.client_id:
        return provider.client_authentication
    offered = [way for way in accepted if way in found.client_authentication and way is not ClientAuthentication.NONE]
    return offered[0] if offered else accepted[0]


def _is_possible(flow: Flow, server: AuthorizationServer, authentication: ClientAuthentication) -> bool:
    if flow is Flow.M2M:
        return authentication is not ClientAuthentication.NONE
    return flow is not Flow.USER_FEDERATION or bool(server.authorization_url)


def _check_server(server: AuthorizationServer, *, allow_http_loopback: bool) -> None:
    if not server.token_url:
        raise InvalidRequest("the provider needs an issuer whose metadata can be read (--issuer), or a --token-url")
    for url in (server.authorization_url, server.token_url, server.refresh_url, server.revocation_url, server.jwks_url):
        if url:
            check_url(url, allow_http_loopback=allow_http_loopback)


def _require_secret(provider: CredentialProvider, *, given: bool) -> None:
    if provider.kind is ProviderKind.API_KEY:
        if not given:
            raise InvalidRequest("an API key is required: --api-key-env VAR, --api-key-file PATH or --api-key-stdin")
        if provider.release is None:
            raise InvalidRequest("an API key has no end, so say how it may leave: --release token, handle or never")
    elif given == (provider.client_authentication is ClientAuthentication.NONE):
        raise InvalidRequest(
            "a client secret is required: --client-secret-env VAR, --client-secret-file PATH or --client-secret-stdin; "
            "a public client has none: --client-auth none"
        )
