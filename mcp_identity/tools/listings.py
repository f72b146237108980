"""What the tools that only look, or end something, answer: lists, and who one is. Nothing here holds a secret."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mcp.types import CallToolResult
from pydantic import BaseModel, Field
from pydantic.json_schema import SkipJsonSchema

from mcp_identity.tools.results import Flag, Number, Result, Text, Texts, answer, iso, optional

if TYPE_CHECKING:
    from mcp_identity.broker.answers import GrantListing, GrantSummary, ProviderListing, Revoked
    from mcp_identity.domain.identity import Principal


class GrantItem(BaseModel):
    """One grant, without secrets."""

    provider: str = Field(description="the credential provider")
    flow: str = Field(description="how it was obtained")
    state: str = Field(description="pending, active, needs_consent or revoked")
    reason: Text = optional("with state needs_consent: why")
    scopes: list[str] = Field(description="what is granted")
    declined_scopes: list[str] = Field(description="what was asked for and not granted")
    expires_at: Text = optional("when the current access token ends; ISO 8601")
    refreshable: bool = Field(description="whether a new token can be had without the user")
    resource: Text = optional("RFC 8707 resource")
    audience: Text = optional("audience")
    created_at: Text = optional("when it was first made; ISO 8601")
    updated_at: Text = optional("when it last changed; ISO 8601")


class GrantsResult(Result):
    """The answer of `list_grants`."""

    grants: list[GrantItem] | SkipJsonSchema[None] = optional("the grants")
    unreadable: Number = optional("rows that were changed outside the product and are not served")


class ProviderItem(BaseModel):
    """One credential provider, as this principal sees it."""

    name: str = Field(description="pass this as `provider`")
    vendor: str = Field(description="the vendor")
    title: str = Field(description="the vendor's name for people")
    kind: str = Field(description="oauth2: call get_token; api-key: call get_api_key")
    flows: list[str] = Field(
        description="M2M needs no user; USER_FEDERATION acts for the user, after consent; ON_BEHALF_OF_TOKEN_EXCHANGE acts for "
        "the user whose own token came with the call, and asks nobody"
    )
    scopes: list[str] = Field(description="asked for when a call names none")
    api_hosts: list[str] = Field(
        description="where call_api may send the credential; an account may have one of its own beside"
    )
    grants: list[GrantItem] = Field(description="what is granted already")


class ProvidersResult(Result):
    """The answer of `list_providers`."""

    providers: list[ProviderItem] | SkipJsonSchema[None] = optional("the providers that may be used")
    unreadable: Number = optional("rows that were changed outside the product and are not served")


class RevokedItem(BaseModel):
    """One grant that was ended."""

    flow: str = Field(description="how it had been obtained")
    at_vendor: str = Field(description="revoked, unsupported, failed or nothing")


class RevokeResult(Result):
    """The answer of `revoke_grant`."""

    provider: Text = optional("the credential provider")
    revoked: list[RevokedItem] | SkipJsonSchema[None] = optional("the grants that were ended")


class WhoamiResult(Result):
    """The answer of `whoami`."""

    tenant: Text = optional("the tenant")
    workload: Text = optional("the agent's name")
    verified: Flag = optional("false where the agent's name is a label that the client chose")
    authenticated_by: Text = optional("what proved it")
    user_issuer: Text = optional("who identifies the user")
    user_subject: Text = optional("the user's identifier at that issuer")
    user_display: Text = optional("the user's name for people")
    may: Texts = optional("the tools that this principal may call")


def providers_result(listing: ProviderListing) -> ProvidersResult:
    """The providers that a principal may use."""
    return ProvidersResult(
        status="ok",
        providers=[
            ProviderItem(
                name=each.provider.name,
                vendor=each.provider.vendor,
                title=each.title,
                kind=each.provider.kind.value,
                flows=[flow.value for flow in each.provider.flows],
                scopes=list(each.scopes),
                api_hosts=list(each.provider.api_hosts),
                grants=[_grant_item(grant) for grant in each.grants],
            )
            for each in listing.providers
        ],
        unreadable=listing.unreadable or None,
    )


def grants_result(listing: GrantListing) -> GrantsResult:
    """A principal's grants."""
    return GrantsResult(
        status="ok", grants=[_grant_item(grant) for grant in listing.grants], unreadable=listing.unreadable or None
    )


def revoked_answer(provider: str, revoked: tuple[Revoked, ...]) -> CallToolResult:
    """What was ended."""
    items = [RevokedItem(flow=each.flow.value, at_vendor=each.at_vendor) for each in revoked]
    return answer(RevokeResult(status="ok", provider=provider, revoked=items))


def whoami_answer(principal: Principal, may: list[str]) -> CallToolResult:
    """The principal as it was verified."""
    user = principal.user
    return answer(
        WhoamiResult(
            status="ok",
            tenant=principal.tenant,
            workload=principal.workload.name,
            verified=principal.verified,
            authenticated_by=principal.authenticated_by,
            user_issuer=user.issuer if user else None,
            user_subject=user.subject if user else None,
            user_display=user.display if user else None,
            may=may,
        )
    )


def _grant_item(grant: GrantSummary) -> GrantItem:
    return GrantItem(
        provider=grant.provider,
        flow=grant.flow.value,
        state=grant.state.value,
        reason=grant.reason.value if grant.reason else None,
        scopes=list(grant.scopes),
        declined_scopes=list(grant.declined_scopes),
        expires_at=iso(grant.expires_at),
        refreshable=grant.refreshable,
        resource=grant.resource or None,
        audience=grant.audience or None,
        created_at=iso(grant.created_at),
        updated_at=iso(grant.updated_at),
    )
