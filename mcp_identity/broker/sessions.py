"""What a consent session stands for: its grant, its line in the trail, and whether all that was asked still holds."""

from __future__ import annotations

from mcp_identity.broker.plan import consent_digest
from mcp_identity.domain.audit import AuditEvent
from mcp_identity.domain.consent import ConsentRequest, ConsentSession, ConsentState
from mcp_identity.domain.credentials import Flow, GrantKey
from mcp_identity.domain.errors import ConsentDenied, ConsentExpired, IdentityError, ProviderMisconfigured
from mcp_identity.domain.identity import DEFAULT_TENANT
from mcp_identity.domain.provider import CredentialProvider
from mcp_identity.vault.records import Records

COOKIE_ID_LENGTH = 16
GONE = "there is no such consent, or it has ended"
_ENDS: dict[type[IdentityError], ConsentState] = {
    ConsentDenied: ConsentState.DENIED,
    ConsentExpired: ConsentState.EXPIRED,
}


def redirect_uri(base: str, provider: CredentialProvider) -> str:
    """Where the vendor sends the browser back to; what is registered at the vendor."""
    return f"{base}/oauth2/callback/{provider.provider_id}"


def grant_key(request: ConsentRequest) -> GrantKey:
    """Where the grant of a consent is filed."""
    return GrantKey(
        tenant=request.tenant,
        workload_id=request.workload_id,
        user=request.user,
        provider_row=request.provider_row,
        flow=Flow.USER_FEDERATION,
        resource=request.resource,
        audience=request.audience,
    )


def require_unchanged(records: Records, request: ConsentRequest) -> CredentialProvider:
    """The provider of a session, if nothing that was asked has changed since.

    Raises:
        ProviderMisconfigured: If the provider or the workload was changed, disabled or removed.
    """
    provider = records.find_provider_row(request.tenant, request.provider_row)
    workload = records.find_workload_id(request.tenant, request.workload_id)
    unchanged = (
        provider is not None
        and not provider.disabled
        and consent_digest(provider, request.redirect_uri) == request.configuration_digest
        and workload is not None
        and not workload.disabled
        and workload.epoch == request.workload_epoch
    )
    if provider is None or not unchanged:
        raise ProviderMisconfigured("the provider or the agent was changed since the link was given; ask for a new link")
    return provider


def end_session(records: Records, session: ConsentSession, error: IdentityError, event: AuditEvent) -> None:
    """End a session for this reason, and write it down."""
    records.end_session(session.id, _ENDS.get(type(error), ConsentState.FAILED), error.code)
    records.append_audit(event.ending(error.code, why=error.message))


def stray_event(action: str) -> AuditEvent:
    """What the trail says of a browser that came for no session that is open."""
    return AuditEvent(DEFAULT_TENANT, "", "", "", "", verified=False, edge="web", action=action)
