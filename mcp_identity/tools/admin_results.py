"""What the admin tools answer: facts of the configuration, of grants and of the trail. Nothing here holds a secret."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import BaseModel, Field
from pydantic.json_schema import SkipJsonSchema

from mcp_identity.tools.results import Flag, Number, Result, Text, Texts, iso, optional

if TYPE_CHECKING:
    from mcp_identity.broker.administration import EndedGrant, KnownGrant
    from mcp_identity.broker.broker import Broker
    from mcp_identity.domain.audit import AuditEvent
    from mcp_identity.domain.identity import WorkloadIdentity
    from mcp_identity.domain.issuer import Issuer
    from mcp_identity.domain.provider import CredentialProvider

Pairs = dict[str, str] | SkipJsonSchema[None]


class ClaimItem(BaseModel):
    """One required claim."""

    claim: str = Field(description="the claim's name")
    operator: str = Field(description="equals, contains or contains_any")
    values: list[str] = Field(description="what it is compared with")


class WorkloadFacts(BaseModel):
    """An agent as it is registered."""

    name: Text = optional("its name")
    id: Text = optional("its immutable id")
    disabled: Flag = optional("it may do nothing")
    issuer: Text = optional("the issuer whose tokens may speak for it")
    audiences: Texts = optional("one of these must be among a token's audiences")
    clients: Texts = optional("a token's client must be one of these")
    scopes: Texts = optional("a token must hold all of these scopes")
    claims: list[ClaimItem] | SkipJsonSchema[None] = optional("claims that a token must have")
    shared_authorizer: Flag = optional("it may share its tokens with other workloads that are marked so")
    allowed_providers: Texts = optional("the credential providers that it may use; none named means every one")
    return_urls: Texts = optional("where a browser may be sent after a consent")
    identity_audiences: Texts = optional("who its identity tokens may be for")
    may_assert_users: Flag = optional("it may name a user by an id")
    owner: Text = optional("who answers for it")
    tags: Pairs = optional("tags, by name")
    created_at: Text = optional("when it was registered; ISO 8601")
    updated_at: Text = optional("when it was changed last; ISO 8601")


class WorkloadResult(WorkloadFacts, Result):
    """The answer of the tools that show or change one workload."""


class WorkloadsResult(Result):
    """The answer of `list_workload_identities`."""

    workloads: list[WorkloadFacts] | SkipJsonSchema[None] = optional("the workload identities, by name")
    unreadable: Number = optional("rows that were changed outside the product and are not served")
    next_page: Text = optional("there are more: pass this as page")


class EndedItem(BaseModel):
    """One grant that was ended."""

    provider: str = Field(description="the credential provider")
    flow: str = Field(description="how it had been obtained")
    at_vendor: str = Field(description="revoked, unsupported, failed or nothing")
    workload: Text = optional("the agent that had it")
    user: Text = optional("the user who gave it: issuer and subject")


class EndedResult(Result):
    """The answer of the tools that remove a workload or a provider, or end grants."""

    name: Text = optional("what was removed")
    revoked: list[EndedItem] | SkipJsonSchema[None] = optional("the grants that ended")
    open_consents: Number = optional("consents under way that ended")
    unreadable: Number = optional("grants that were changed outside the product, and were left")


class ProviderFacts(BaseModel):
    """A credential provider as it is configured."""

    name: Text = optional("what agents call it")
    vendor: Text = optional("the vendor")
    kind: Text = optional("oauth2 or api-key")
    flows: Texts = optional("the flows that it offers")
    scopes: Texts = optional("asked for when a call names none")
    release: Text = optional("how its secrets may leave; absent for the server's default")
    client_id: Text = optional("our client id at the vendor")
    client_authentication: Text = optional("how we authenticate at the vendor")
    has_secret: Flag = optional("whether its client secret or API key is stored")
    secret_reference: Text = optional("where that secret was read")
    secret_json_key: Text = optional("the key of it in the JSON object there")
    settings: Pairs = optional("what the vendor leaves open, by field")
    issuer: Text = optional("its issuer identifier")
    authorization_url: Text = optional("its authorization endpoint")
    token_url: Text = optional("its token endpoint")
    revocation_url: Text = optional("its revocation endpoint")
    api_hosts: Texts = optional("where call_api may send its credential")
    subject_issuers: Texts = optional("issuers whose users' tokens may be sent to it, to be exchanged")
    allow_http_loopback: Flag = optional("its endpoints may be http on a loopback address")
    disabled: Flag = optional("it serves nobody")
    tags: Pairs = optional("tags, by name")
    redirect_uri: Text = optional("register this at the vendor, exactly as it stands")
    notes: Texts = optional("what an operator must know about it")
    created_at: Text = optional("when it was added; ISO 8601")
    updated_at: Text = optional("when it was changed last; ISO 8601")


class ProviderResult(ProviderFacts, Result):
    """The answer of the tools that show or change one provider."""

    secret_cleared: Flag = optional("its secret would now go elsewhere, so it was cleared: give secret_reference again")


class AllProvidersResult(Result):
    """The answer of `list_all_providers`."""

    providers: list[ProviderFacts] | SkipJsonSchema[None] = optional("the credential providers, by name")
    unreadable: Number = optional("rows that were changed outside the product and are not served")
    next_page: Text = optional("there are more: pass this as page")


class IssuerFacts(BaseModel):
    """An identity provider as it is configured."""

    name: Text = optional("its name")
    preset: Text = optional("how its tokens are read")
    issuer: Text = optional("its issuer identifier")
    discovery_url: Text = optional("where its metadata was read")
    jwks_url: Text = optional("its keys")
    audiences: Texts = optional("what its tokens must be for")
    claim: Text = optional("the claim that tells its organisations apart")
    claim_values: Texts = optional("the organisations that are this tenant")
    can_log_in: Flag = optional("whether browsers can sign in there")
    login_client_id: Text = optional("our client there, for a browser's sign-in")
    has_login_secret: Flag = optional("whether that client's secret is stored")
    login_redirect_uri: Text = optional("register this there, exactly as it stands")
    require_tool_scopes: Flag = optional("its tokens need a scope for each tool")
    allow_http_loopback: Flag = optional("it may be http on a loopback address")
    disabled: Flag = optional("its tokens are not believed")
    notes: Texts = optional("what an operator must know about it")


class IssuerResult(IssuerFacts, Result):
    """The answer of `create_issuer` and `delete_issuer`."""


class IssuersResult(Result):
    """The answer of `list_issuers`."""

    issuers: list[IssuerFacts] | SkipJsonSchema[None] = optional("the issuers, by name")


class KnownGrantItem(BaseModel):
    """One grant of somebody, without secrets."""

    workload: str = Field(description="the agent that has it")
    user: Text = optional("the user who gave it: issuer and subject; absent for the agent's own")
    provider: str = Field(description="the credential provider")
    flow: str = Field(description="how it was obtained")
    state: str = Field(description="pending, active, needs_consent or revoked")
    reason: Text = optional("with state needs_consent: why")
    scopes: list[str] = Field(description="what is granted")
    expires_at: Text = optional("when the current access token ends; ISO 8601")
    refreshable: bool = Field(description="whether a new token can be had without the user")
    resource: Text = optional("RFC 8707 resource")
    audience: Text = optional("audience")
    created_at: Text = optional("when it was first made; ISO 8601")
    updated_at: Text = optional("when it last changed; ISO 8601")


class AllGrantsResult(Result):
    """The answer of `list_all_grants`."""

    grants: list[KnownGrantItem] | SkipJsonSchema[None] = optional("the grants, the newest first")
    unreadable: Number = optional("rows of this page that were changed outside the product and are not served")
    next_page: Text = optional("there are more: pass this as page")


class AuditItem(BaseModel):
    """One event of the trail."""

    at: Text = optional("when; ISO 8601")
    workload: str = Field(description="the agent, or operator")
    verified: bool = Field(description="false where the agent's name is a label that the client chose")
    user: Text = optional("the user: issuer and subject")
    user_display: Text = optional("the user's name for people")
    edge: str = Field(description="through which door it came")
    action: str = Field(description="the verb")
    provider: Text = optional("the credential provider")
    flow: Text = optional("the flow")
    scopes: Texts = optional("the scopes")
    outcome: str = Field(description="ok, consent_required or an error's code")
    correlation_id: Text = optional("names the call")
    detail: Pairs = optional("further facts")


class AuditResult(Result):
    """The answer of `search_audit`."""

    events: list[AuditItem] | SkipJsonSchema[None] = optional("the events, the newest first")
    next_page: Text = optional("there are more: pass this as page")


def workload_facts(workload: WorkloadIdentity, issuer: str) -> dict[str, object]:
    """A workload.

    Args:
        workload: As it stands.
        issuer: The name of its authorizer's issuer, or empty.
    """
    authorizer = workload.authorizer
    return {
        "name": workload.name,
        "id": workload.id,
        "disabled": workload.disabled,
        "issuer": issuer or None,
        "audiences": sorted(authorizer.audiences),
        "clients": sorted(authorizer.clients),
        "scopes": sorted(authorizer.scopes),
        "claims": [
            ClaimItem(claim=rule.claim, operator=rule.operator.value, values=list(rule.values)) for rule in authorizer.claims
        ],
        "shared_authorizer": workload.shared_authorizer,
        "allowed_providers": sorted(workload.allowed_providers),
        "return_urls": list(workload.return_urls),
        "identity_audiences": list(workload.identity_audiences),
        "may_assert_users": workload.may_assert_users,
        "owner": workload.owner,
        "tags": dict(workload.tags),
        "created_at": iso(workload.created_at),
        "updated_at": iso(workload.updated_at),
    }


async def issuer_names(broker: Broker, tenant: str) -> dict[str, str]:
    """The names of a tenant's issuers, by row id."""
    return {each.id: each.name for each in await broker.issuers.list(tenant)}


async def provider_facts(broker: Broker, provider: CredentialProvider, issuers: dict[str, str]) -> dict[str, object]:
    """A provider, with whether its secret is stored and what to register for it.

    Args:
        broker: Knows the rest.
        provider: As it stands.
        issuers: The names of its tenant's issuers, by row id.
    """
    from mcp_identity.domain.credentials import Flow
    from mcp_identity.domain.errors import ProviderMisconfigured
    from mcp_identity.domain.provider import ProviderKind

    directory, server, reference = broker.directory, provider.server, provider.secret_reference
    try:
        notes = list(directory.notes(provider))
        redirect_uri = directory.redirect_uri(provider) if Flow.USER_FEDERATION in provider.flows else None
    except ProviderMisconfigured as error:
        notes, redirect_uri = [error.message], None
    return {
        "name": provider.name,
        "vendor": provider.vendor,
        "kind": provider.kind.value,
        "flows": [flow.value for flow in provider.flows],
        "scopes": sorted(provider.scopes),
        "release": provider.release.value if provider.release else None,
        "client_id": provider.client_id or None,
        "client_authentication": provider.client_authentication.value if provider.kind is ProviderKind.OAUTH2 else None,
        "has_secret": await directory.has_secret(provider),
        "secret_reference": reference.reference if reference else None,
        "secret_json_key": (reference.json_key or None) if reference else None,
        "settings": dict(provider.settings),
        "issuer": server.issuer or None,
        "authorization_url": server.authorization_url or None,
        "token_url": server.token_url or None,
        "revocation_url": server.revocation_url or None,
        "api_hosts": list(provider.api_hosts),
        "subject_issuers": sorted(issuers[each] for each in provider.subject_issuers if each in issuers) or None,
        "allow_http_loopback": provider.allow_http_loopback,
        "disabled": provider.disabled,
        "tags": dict(provider.tags),
        "redirect_uri": redirect_uri,
        "notes": notes,
        "created_at": iso(provider.created_at),
        "updated_at": iso(provider.updated_at),
    }


def issuer_facts(broker: Broker, issuer: Issuer) -> dict[str, object]:
    """An issuer."""
    values = sorted(issuer.discriminator_values)
    return {
        "name": issuer.name,
        "preset": issuer.preset,
        "issuer": issuer.issuer,
        "discovery_url": issuer.discovery_url,
        "jwks_url": issuer.jwks_url,
        "audiences": sorted(issuer.audiences),
        "claim": issuer.rules.discriminator if values else None,
        "claim_values": values or None,
        "can_log_in": issuer.can_log_in,
        "login_client_id": issuer.login_client_id or None,
        "has_login_secret": issuer.has_login_secret,
        "login_redirect_uri": broker.issuers.login_redirect_uri(issuer) or None,
        "require_tool_scopes": issuer.require_tool_scopes,
        "allow_http_loopback": issuer.allow_http_loopback,
        "disabled": issuer.disabled,
        "notes": list(broker.issuers.notes(issuer)),
    }


def grant_item(known: KnownGrant) -> KnownGrantItem:
    """A grant of somebody."""
    grant = known.grant
    return KnownGrantItem(
        workload=known.workload,
        user=known.user or None,
        provider=grant.provider,
        flow=grant.flow.value,
        state=grant.state.value,
        reason=grant.reason.value if grant.reason else None,
        scopes=list(grant.scopes),
        expires_at=iso(grant.expires_at),
        refreshable=grant.refreshable,
        resource=grant.resource or None,
        audience=grant.audience or None,
        created_at=iso(grant.created_at),
        updated_at=iso(grant.updated_at),
    )


def ended_item(ended: EndedGrant) -> EndedItem:
    """A grant that was ended."""
    return EndedItem(
        provider=ended.revoked.provider,
        flow=ended.revoked.flow.value,
        at_vendor=ended.revoked.at_vendor,
        workload=ended.workload or None,
        user=ended.user or None,
    )


def audit_item(event: AuditEvent) -> AuditItem:
    """An event of the trail."""
    return AuditItem(
        at=event.at.isoformat() if event.at else None,
        workload=event.workload,
        verified=event.verified,
        user=event.user_key or None,
        user_display=event.user_display or None,
        edge=event.edge,
        action=event.action,
        provider=event.provider or None,
        flow=event.flow or None,
        scopes=list(event.scopes) or None,
        outcome=event.outcome,
        correlation_id=event.correlation_id or None,
        detail=dict(event.detail) or None,
    )
