"""What has a user granted, and to which agents? For the user's own page: seeing it, and ending it.

The user was verified by a browser's sign-in. Nothing here names another user, and absent and not yours look the same.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from mcp_identity.broker.plan import dialect_of, title_of
from mcp_identity.broker.services import Services
from mcp_identity.broker.vendor import find_client, revoke_at_vendor
from mcp_identity.domain.audit import AuditEvent
from mcp_identity.domain.credentials import Grant, GrantState
from mcp_identity.domain.errors import NotFound
from mcp_identity.domain.identity import User
from mcp_identity.domain.provider import CredentialProvider, OAuthClient
from mcp_identity.vault.records import Records


@dataclass(frozen=True, slots=True)
class PortalGrant:
    """One grant as its user sees it.

    Attributes:
        id: Names it on the page; worth nothing to anybody else.
        workload: The agent's name.
        provider: The credential provider's name.
        provider_title: The vendor's name.
        state: Where it stands.
        scopes: What is granted, sorted.
        since: When it was first given.
        last_used_at: When the agent was last served from it, or None.
    """

    id: str
    workload: str
    provider: str
    provider_title: str
    state: GrantState
    scopes: tuple[str, ...]
    since: datetime | None
    last_used_at: datetime | None


class Portal:
    """A user's own grants."""

    def __init__(self, services: Services) -> None:
        """Keep what it works with."""
        self._services = services

    async def list(self, tenant: str, user: User) -> tuple[PortalGrant, ...]:
        """What a user has granted and not taken back, the newest first."""
        vault, event = self._services.vault, _event(tenant, user, "list_own_grants")
        used = await vault.read(lambda records: records.last_releases(tenant, user.key))  # long, so beside the writer

        def unit(records: Records) -> tuple[PortalGrant, ...]:
            providers = {each.id: each for each in records.list_providers(tenant).providers}
            workloads = {each.id: each.name for each in records.list_workloads(tenant)}
            found = [
                _portal_grant(grant, providers[grant.key.provider_row], workloads[grant.key.workload_id], used)
                for grant in reversed(records.list_user_grants(tenant, user.key).grants)
                if grant.state in (GrantState.ACTIVE, GrantState.NEEDS_CONSENT)
                and grant.key.provider_row in providers
                and grant.key.workload_id in workloads
            ]
            records.append_audit(event)
            return tuple(found)

        return await vault.run(unit, event)

    async def revoke(self, tenant: str, user: User, grant_id: str) -> None:
        """End one grant of this user, here and then at the vendor.

        Raises:
            NotFound: If it is not this user's, or there is none.
        """
        event = _event(tenant, user, "revoke_own_grant")

        def unit(records: Records) -> tuple[CredentialProvider, OAuthClient | None, Grant]:
            mine = records.list_user_grants(tenant, user.key).grants
            grant = next((each for each in mine if each.id == grant_id and each.state is not GrantState.REVOKED), None)
            provider = records.find_provider_row(tenant, grant.key.provider_row) if grant else None
            if grant is None or provider is None:
                raise NotFound("there is no such grant")
            records.revoke_grant_row(grant)
            ended = records.end_sessions(tenant, grant.key.workload_id, user.key, provider.id, "conflict")
            workload = records.find_workload_id(tenant, grant.key.workload_id)
            facts = {"agent": workload.name if workload else "", "provider": provider.name, "open_consents": str(ended)}
            records.append_audit(event.ending("ok", **facts))
            return provider, find_client(records, provider), grant

        async def work() -> None:
            provider, client, grant = await self._services.vault.run(unit, event)
            await revoke_at_vendor(self._services.upstreams, provider, dialect_of(provider), client, grant.tokens)

        await self._services.tasks.run(work)


def _event(tenant: str, user: User, action: str) -> AuditEvent:
    return AuditEvent(tenant, "", "", user.key, user.display, verified=True, edge="web", action=action)


def _portal_grant(
    grant: Grant, provider: CredentialProvider, workload: str, used: dict[tuple[str, str], datetime]
) -> PortalGrant:
    return PortalGrant(
        id=grant.id,
        workload=workload,
        provider=provider.name,
        provider_title=title_of(provider),
        state=grant.state,
        scopes=tuple(sorted(grant.tokens.scopes)) if grant.tokens else (),
        since=grant.created_at,
        last_used_at=used.get((grant.key.workload_id, provider.name)),
    )
