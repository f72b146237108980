"""What each tool answers: one flat object per tool with `status`, the error arm included, no unions.

Fields that do not apply are left out. The text beside the structure is written for the model, because many clients show it
nothing else. What stands here leaves the product: only values that `broker/release.py` let go are revealed.
"""

from __future__ import annotations

import json
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any

from mcp.types import CallToolResult, TextContent
from pydantic import BaseModel, ConfigDict, Field
from pydantic.json_schema import SkipJsonSchema

if TYPE_CHECKING:
    from mcp_identity.broker.answers import (
        ApiKeyReleased,
        ConsentRequired,
        ConsentStatus,
        GrantListing,
        GrantSummary,
        ProviderListing,
        Revoked,
        TokenReleased,
    )
    from mcp_identity.domain.errors import IdentityError
    from mcp_identity.domain.identity import Principal


def without_default(schema: dict[str, Any]) -> None:
    """Leave the default out of a field's schema: it is no value of the field's type, only Python's way to say absent."""
    schema.pop("default", None)


def _optional(description: str) -> Any:
    return Field(default=None, description=description, json_schema_extra=without_default)


Text = Annotated[str | SkipJsonSchema[None], Field()]
Texts = Annotated[list[str] | SkipJsonSchema[None], Field()]
Number = Annotated[int | SkipJsonSchema[None], Field()]
Flag = Annotated[bool | SkipJsonSchema[None], Field()]


class Result(BaseModel):
    """What every tool's answer has in common: the status, and the error arm."""

    model_config = ConfigDict(extra="forbid")

    status: str = Field(description="`ok`, `error`, or another outcome of this tool")
    code: Text = _optional("with status error: the stable error code")
    message: Text = _optional("with status error: what went wrong and what to do")
    retryable: Flag = _optional("with status error: whether the same call may succeed later")
    retry_after_seconds: Number = _optional("with status error: when to try again")
    correlation_id: Text = _optional("with status error: names this call in the audit trail")


class TokenResult(Result):
    """The answer of `get_token`."""

    access_token: Text = _optional("with status ok: the access token; send it as `Authorization: Bearer`")
    token_type: Text = _optional("with status ok: usually Bearer")
    scopes: Texts = _optional("with status ok: what the token may do")
    expires_at: Text = _optional("when the token, or with consent_required the link, ends; ISO 8601")
    missing_scopes: Texts = _optional("scopes that were asked for and are not granted")
    provider: Text = _optional("the credential provider")
    flow: Text = _optional("how the token was obtained")
    extra: dict[str, str] | SkipJsonSchema[None] = _optional("facts that belong to the token, e.g. instance_url")
    reason: Text = _optional("with status consent_required: why the user has to be asked")
    authorization_url: Text = _optional("with status consent_required: show this link to the user, verbatim")
    session_uri: Text = _optional("with status consent_required: names the attempt, for get_consent")


class ConsentResult(Result):
    """The answer of `start_consent`."""

    reason: Text = _optional("why the user has to be asked")
    authorization_url: Text = _optional("show this link to the user, verbatim")
    session_uri: Text = _optional("names the attempt, for get_consent")
    expires_at: Text = _optional("when the link ends; ISO 8601")
    missing_scopes: Texts = _optional("what the user will be asked for")
    provider: Text = _optional("the credential provider")


class ConsentStatusResult(Result):
    """The answer of `get_consent`: pending, completed, denied, failed or expired."""

    provider: Text = _optional("the credential provider")
    reason: Text = _optional("why it ended otherwise than completed: a stable error code")
    expires_at: Text = _optional("when an unfinished consent ends; ISO 8601")


class ApiKeyResult(Result):
    """The answer of `get_api_key`."""

    api_key: Text = _optional("with status ok: the key")
    provider: Text = _optional("the credential provider")


class GrantItem(BaseModel):
    """One grant, without secrets."""

    provider: str = Field(description="the credential provider")
    flow: str = Field(description="how it was obtained")
    state: str = Field(description="pending, active, needs_consent or revoked")
    reason: Text = _optional("with state needs_consent: why")
    scopes: list[str] = Field(description="what is granted")
    declined_scopes: list[str] = Field(description="what was asked for and not granted")
    expires_at: Text = _optional("when the current access token ends; ISO 8601")
    refreshable: bool = Field(description="whether a new token can be had without the user")
    resource: Text = _optional("RFC 8707 resource")
    audience: Text = _optional("audience")
    created_at: Text = _optional("when it was first made; ISO 8601")
    updated_at: Text = _optional("when it last changed; ISO 8601")


class GrantsResult(Result):
    """The answer of `list_grants`."""

    grants: list[GrantItem] | SkipJsonSchema[None] = _optional("the grants")
    unreadable: Number = _optional("rows that were changed outside the product and are not served")


class ProviderItem(BaseModel):
    """One credential provider, as this principal sees it."""

    name: str = Field(description="pass this as `provider`")
    vendor: str = Field(description="the vendor")
    title: str = Field(description="the vendor's name for people")
    kind: str = Field(description="oauth2: call get_token; api-key: call get_api_key")
    flows: list[str] = Field(description="M2M needs no user; USER_FEDERATION acts for the user, after consent")
    scopes: list[str] = Field(description="asked for when a call names none")
    grants: list[GrantItem] = Field(description="what is granted already")


class ProvidersResult(Result):
    """The answer of `list_providers`."""

    providers: list[ProviderItem] | SkipJsonSchema[None] = _optional("the providers that may be used")
    unreadable: Number = _optional("rows that were changed outside the product and are not served")


class RevokedItem(BaseModel):
    """One grant that was ended."""

    flow: str = Field(description="how it had been obtained")
    at_vendor: str = Field(description="revoked, unsupported, failed or nothing")


class RevokeResult(Result):
    """The answer of `revoke_grant`."""

    provider: Text = _optional("the credential provider")
    revoked: list[RevokedItem] | SkipJsonSchema[None] = _optional("the grants that were ended")


class WhoamiResult(Result):
    """The answer of `whoami`."""

    tenant: Text = _optional("the tenant")
    workload: Text = _optional("the agent's name")
    verified: Flag = _optional("false where the agent's name is a label that the client chose")
    authenticated_by: Text = _optional("what proved it")
    user_issuer: Text = _optional("who identifies the user")
    user_subject: Text = _optional("the user's identifier at that issuer")
    user_display: Text = _optional("the user's name for people")
    may: Texts = _optional("the tools that this principal may call")


def iso(moment: datetime | None) -> str | None:
    """ISO 8601 in UTC, to the second."""
    return moment.isoformat(timespec="seconds") if moment else None


def answer(result: Result, text: str = "") -> CallToolResult:
    """A tool's answer: the structure, and a text for the model."""
    structure = result.model_dump(mode="json", exclude_none=True)
    content = f"{text}\n{json.dumps(structure)}" if text else json.dumps(structure)
    return CallToolResult(
        content=[TextContent(type="text", text=content)],
        structured_content=structure,
        is_error=result.status == "error",
    )


def error_answer(error: IdentityError, correlation_id: str) -> CallToolResult:
    """A tool error, in the arm that every output schema has.

    Args:
        error: What went wrong.
        correlation_id: Names the call in the trail; empty where the call could not even begin.
    """
    result = Result(
        status="error",
        code=error.code,
        message=error.message,
        retryable=error.retryable,
        retry_after_seconds=error.retry_after_seconds,
        correlation_id=correlation_id or None,
    )
    named = f" (correlation id {correlation_id})" if correlation_id else ""
    return answer(result, f"{error.code}: {error.message}{named}")


def consent_text(required: ConsentRequired) -> str:
    """What a model has to do with `consent_required`."""
    return (
        f"The user has to connect {required.provider} first. Show the user this link verbatim, do not open or shorten it: "
        f"{required.authorization_url}\nThen call get_consent with the session_uri and wait_seconds=50 until it says "
        "completed, and repeat this call."
    )


def token_answer(outcome: TokenReleased) -> CallToolResult:
    """A token that was let go."""
    return answer(
        TokenResult(
            status="ok",
            access_token=outcome.access_token.reveal(),
            token_type=outcome.token_type,
            scopes=list(outcome.scopes),
            missing_scopes=list(outcome.missing_scopes) or None,
            expires_at=iso(outcome.expires_at),
            provider=outcome.provider,
            flow=outcome.flow.value,
            extra=outcome.extra or None,
        )
    )


def consent_answer(required: ConsentRequired, kind: type[TokenResult | ConsentResult]) -> CallToolResult:
    """The user has to be asked first."""
    result = kind(
        status="consent_required",
        reason=required.reason.value,
        authorization_url=required.authorization_url,
        session_uri=required.session_uri,
        expires_at=iso(required.expires_at),
        missing_scopes=list(required.missing_scopes),
        provider=required.provider,
    )
    return answer(result, consent_text(required))


def consent_status_answer(status: ConsentStatus) -> CallToolResult:
    """Where a consent stands."""
    return answer(
        ConsentStatusResult(
            status=status.status,
            provider=status.provider,
            reason=status.error_code or None,
            expires_at=iso(status.expires_at),
        )
    )


def api_key_answer(released: ApiKeyReleased) -> CallToolResult:
    """A key that was let go."""
    return answer(ApiKeyResult(status="ok", api_key=released.api_key.reveal(), provider=released.provider))


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
