"""How does agent code get the secret behind a one-time handle?

It presents the handle and, as its bearer, a workload access token of the same workload and user. The handle is used up in
the unit that gives the secret, so of any number of redemptions one wins. State, generation, release mode and policy are
looked at again. A second redemption, and one by anybody else, gets what an absent handle gets, and raises an alarm in the
trail of whose handle it was.
"""

from __future__ import annotations

from dataclasses import dataclass

from mcp_identity.broker.access import require_access, require_workload
from mcp_identity.broker.answers import ApiKeyReleased, TokenReleased
from mcp_identity.broker.audit import Call
from mcp_identity.broker.on_behalf import require_vouched
from mcp_identity.broker.release import handle_hash, redeem_api_key, redeem_token
from mcp_identity.broker.services import Services
from mcp_identity.domain.audit import AuditEvent
from mcp_identity.domain.credentials import Flow, Grant, GrantState, Secret
from mcp_identity.domain.errors import AccessDenied, NotFound
from mcp_identity.domain.identity import Principal, Proof
from mcp_identity.domain.provider import CredentialProvider
from mcp_identity.vault.records import Records
from mcp_identity.vault.records.releases import StoredRelease

INTERCEPTED = "release_intercepted"


@dataclass(frozen=True, slots=True)
class _Found:
    """What a handle stands for."""

    release: StoredRelease
    provider: CredentialProvider
    grant: Grant | None

    @property
    def scopes(self) -> frozenset[str]:
        """What the credential may do."""
        return self.grant.tokens.scopes if self.grant and self.grant.tokens else frozenset()


class Handles:
    """Redeems handles."""

    def __init__(self, services: Services) -> None:
        """Keep what it works with."""
        self._services = services

    async def redeem(self, call: Call, handle: Secret) -> TokenReleased | ApiKeyReleased:
        """Give the secret behind a handle, once.

        Raises:
            AccessDenied: If the caller is no agent code with a workload access token, or policy or the release mode say no.
            NotFound: If there is no such handle for this caller, or it is used or over; all look the same.
        """
        principal = call.principal
        if principal.authenticated_by != Proof.WORKLOAD_TOKEN:
            raise AccessDenied("a release handle is redeemed with a token of get_workload_access_token, and with nothing else")
        found = await self._services.vault.read(lambda records: _find(records, principal, handle))
        if isinstance(found, _Found):
            require_access(principal, call.action, found.provider, found.scopes)
        default = self._services.default_release

        def unit(records: Records) -> TokenReleased | ApiKeyReleased | None:
            require_workload(records, principal)
            again = _find(records, principal, handle)
            if again != found or not isinstance(again, _Found) or not records.consume_release(again.release):
                for event in _refusals(records, call, handle):
                    records.append_audit(event)
                return None
            provider, grant = again.provider, again.grant
            if grant is not None and grant.key.flow is Flow.ON_BEHALF_OF_TOKEN_EXCHANGE:
                require_vouched(records, principal, provider)
            if grant is None:
                key = records.open_provider_secret(provider)
                if key is None:
                    raise AccessDenied(f"the credential of {provider.name} is not there any more")
                released: TokenReleased | ApiKeyReleased = redeem_api_key(provider, key, default_release=default)
            else:
                released = redeem_token(provider, grant, default_release=default)
            flow = grant.key.flow.value if grant else ""
            records.append_audit(call.event(provider=provider.name, flow=flow, scopes=again.scopes))
            return released

        released = await self._services.vault.run(unit, call.event())
        if released is None:
            error = NotFound("there is no such release handle")
            error.audited = True
            raise error
        return released


def _find(records: Records, principal: Principal, handle: Secret) -> _Found | None:
    """What a handle stands for, if this principal may redeem it now."""
    release = records.find_release(handle_hash(handle))
    if release is None or release.is_used or not _is_own(release, principal) or release.given.expires_at <= records.now:
        return None
    given = release.given
    provider = records.find_provider_row(given.tenant, given.provider_row)
    if provider is None:
        return None
    if not given.grant_id:
        return _Found(release, provider, None) if provider.epoch == given.generation else None
    grant = records.find_grant_row(given.tenant, given.grant_id)
    served = (
        grant is not None
        and grant.state is GrantState.ACTIVE
        and grant.generation == given.generation
        and grant.tokens is not None
        and grant.tokens.is_alive(records.now)
    )
    return _Found(release, provider, grant) if served else None


def _is_own(release: StoredRelease, principal: Principal) -> bool:
    given, workload = release.given, principal.workload
    owner = (given.tenant, given.workload_id, given.workload_epoch, given.user_key)
    return owner == (principal.tenant, workload.id, workload.epoch, principal.user_key)


def _refusals(records: Records, call: Call, handle: Secret) -> list[AuditEvent]:
    """What the trail says of a refused redemption, in the caller's tenant; and where it was no accident, in the owner's."""
    refused = call.event(outcome=NotFound.code)
    release = records.find_release(handle_hash(handle))
    if release is None or not (release.is_used or not _is_own(release, call.principal)):
        return [refused]
    given = release.given
    provider = records.find_provider_row(given.tenant, given.provider_row)
    owner = records.find_workload_id(given.tenant, given.workload_id)
    why = "again" if _is_own(release, call.principal) else "by another workload or user"
    alarm = AuditEvent(
        tenant=given.tenant,
        workload=owner.name if owner else "",
        workload_id=given.workload_id,
        user_key=given.user_key,
        user_display="",
        verified=True,
        edge=call.principal.edge or call.principal.authenticated_by,
        action=INTERCEPTED,
        provider=provider.name if provider else "",
        outcome=NotFound.code,
        correlation_id=call.correlation_id,
        detail={"redeemed": why, "redeemer": call.principal.workload.name if call.principal.tenant == given.tenant else ""},
    )
    return [refused, alarm]
