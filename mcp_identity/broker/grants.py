"""What a principal has been given: listing it, and ending it here and at the vendor."""

from __future__ import annotations

from dataclasses import dataclass

from mcp_identity.broker.access import require_access, require_workload
from mcp_identity.broker.answers import GrantListing, GrantSummary, ProviderListing, ProviderSummary, Revoked
from mcp_identity.broker.audit import Call
from mcp_identity.broker.plan import dialect_of, title_of
from mcp_identity.broker.services import Services
from mcp_identity.broker.vendor import find_client, revoke_grants_at_vendor
from mcp_identity.domain.credentials import Flow, Grant, GrantState
from mcp_identity.domain.errors import AccessDenied, InvalidRequest, NotFound, UnknownProvider
from mcp_identity.domain.identity import is_resource_name
from mcp_identity.domain.provider import CredentialProvider, OAuthClient
from mcp_identity.vault.records import Records
from mcp_identity.vault.records.grant_listings import GrantList


@dataclass(frozen=True, slots=True)
class _Ending:
    """Grants that are ended here, and what it takes to end them at the vendor."""

    provider: CredentialProvider
    client: OAuthClient | None
    grants: tuple[Grant, ...]


class Grants:
    """A principal's grants."""

    def __init__(self, services: Services) -> None:
        """Keep what it works with."""
        self._services = services

    async def list_providers(self, call: Call) -> ProviderListing:
        """The providers that the principal may use, with the state of its grants."""

        def unit(records: Records) -> ProviderListing:
            require_workload(records, call.principal)
            found = records.list_providers(call.principal.tenant)
            grants = _mine(records, call)
            summaries = [
                ProviderSummary(
                    provider=provider,
                    title=title_of(provider),
                    scopes=tuple(sorted(provider.scopes)),
                    grants=tuple(
                        summary_of(grant, provider.name) for grant in grants.grants if grant.key.provider_row == provider.id
                    ),
                )
                for provider in found.providers
                if _may_see(call, provider)
            ]
            records.append_audit(call.event())
            return ProviderListing(tuple(summaries), len(found.corrupt))

        return await self._services.vault.run(unit, call.event())

    async def list_grants(self, call: Call) -> GrantListing:
        """The principal's grants, M2M ones of its workload included."""

        def unit(records: Records) -> GrantListing:
            require_workload(records, call.principal)
            names = {provider.id: provider.name for provider in records.list_providers(call.principal.tenant).providers}
            found = _mine(records, call)
            records.append_audit(call.event())
            summaries = tuple(summary_of(grant, names.get(grant.key.provider_row, "")) for grant in found.grants)
            return GrantListing(summaries, len(found.corrupt))

        return await self._services.vault.run(unit, call.event())

    async def revoke(self, call: Call, name: str, flow: str) -> tuple[Revoked, ...]:
        """End grants here, and then at the vendor; open consents for them end too.

        Ended here first: once this returns, and also if the vendor cannot be reached, no token of them is served.

        Args:
            call: Who asks.
            name: The credential provider's name.
            flow: Only grants of this flow; empty for all, and for rows that cannot be read any more.

        Raises:
            UnknownProvider: If there is no such provider.
            NotFound: If there is nothing to revoke.
        """
        if flow and flow not in set(Flow):
            raise InvalidRequest(f"flow is one of: {', '.join(Flow)}")
        event = call.event(provider=name, flow=flow)

        def unit(records: Records) -> _Ending:
            require_workload(records, call.principal)
            provider = require_provider(records, call.principal.tenant, name)
            mine = _revocable(records, call)
            grants = tuple(
                grant
                for grant in mine.grants
                if grant.key.provider_row == provider.id
                and (not flow or grant.key.flow.value == flow)
                and grant.state is not GrantState.REVOKED
            )
            unreadable = 0 if flow else records.delete_unreadable_grants(provider.tenant, provider.id, mine.corrupt)
            ended = 0
            if flow in ("", Flow.USER_FEDERATION.value):
                owner = (call.principal.tenant, call.principal.workload.id, call.principal.user_key)
                ended = records.end_sessions(*owner, provider.id, "conflict")
            if not (grants or ended or unreadable):
                raise NotFound(f"there is no grant at {provider.name} to revoke")
            for grant in grants:
                records.revoke_grant_row(grant)
            counts = {"grants": len(grants), "open_consents": ended, "unreadable": unreadable}
            records.append_audit(event.ending("ok", **{name: str(count) for name, count in counts.items()}))
            return _Ending(provider, find_client(records, provider), grants)

        async def work() -> tuple[Revoked, ...]:
            ending = await self._services.vault.run(unit, event)
            if not ending.grants:
                return ()
            dialect, upstreams = dialect_of(ending.provider), self._services.upstreams
            return await revoke_grants_at_vendor(upstreams, ending.provider, dialect, ending.client, ending.grants)

        return await self._services.tasks.run(work)


def require_provider(records: Records, tenant: str, name: str) -> CredentialProvider:
    """A provider by the name that a caller gave; what cannot be a name is not looked up, as not every database takes it.

    Raises:
        UnknownProvider: If there is none.
    """
    provider = records.find_provider(tenant, name) if is_resource_name(name) else None
    if provider is None:
        raise unknown_provider()
    return provider


def unknown_provider() -> UnknownProvider:
    """Absent, and not yours, in the same words. What was asked for is not repeated: it may be a secret in the wrong place."""
    return UnknownProvider("there is no credential provider of this name; list the providers for the names")


def _mine(records: Records, call: Call) -> GrantList:
    principal = call.principal
    users = (principal.user_key, "") if principal.user else ("",)
    return records.list_grants(principal.tenant, principal.workload.id, users)


def _revocable(records: Records, call: Call) -> GrantList:
    """Those that the principal may end: of a server with many users, none of them ends what the agent itself was given."""
    principal = call.principal
    if principal.verified and principal.user:
        return records.list_grants(principal.tenant, principal.workload.id, (principal.user_key,))
    return _mine(records, call)


def _may_see(call: Call, provider: CredentialProvider) -> bool:
    try:
        require_access(call.principal, call.action, provider, frozenset())
    except AccessDenied:
        return False
    return True


def summary_of(grant: Grant, provider: str) -> GrantSummary:
    """A grant without its secrets; the provider by its name."""
    tokens = grant.tokens
    return GrantSummary(
        provider=provider,
        flow=grant.key.flow,
        state=grant.state,
        reason=grant.reason,
        scopes=tuple(sorted(tokens.scopes)) if tokens else (),
        declined_scopes=tuple(sorted(tokens.declined_scopes)) if tokens else (),
        expires_at=tokens.known_end if tokens else None,
        refreshable=bool(tokens and tokens.refresh_token) or not grant.key.flow.asks_user,
        resource=grant.key.resource,
        audience=grant.key.audience,
        account_id=tokens.account_id if tokens else "",
        created_at=grant.created_at,
        updated_at=grant.updated_at,
    )
