"""What each tool answers: one flat object per tool with `status`, the error arm included, no unions.

Fields that do not apply are left out. The text beside the structure is written for the model, because many clients show it
nothing else. What stands here leaves the product: only values that `broker/release.py` let go are revealed.
"""

from __future__ import annotations

import json
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any

from mcp import MCPError
from mcp.types import INTERNAL_ERROR, INVALID_PARAMS, CallToolResult, TextContent
from pydantic import BaseModel, ConfigDict, Field
from pydantic.json_schema import SkipJsonSchema

if TYPE_CHECKING:
    from mcp_identity.broker.answers import (
        ApiKeyReleased,
        ConsentRequired,
        ConsentStatus,
        HandleIssued,
        TokenReleased,
    )
    from mcp_identity.domain.credentials import Secret
    from mcp_identity.domain.errors import IdentityError


def without_default(schema: dict[str, Any]) -> None:
    """Leave the default out of a field's schema: it is no value of the field's type, only Python's way to say absent."""
    schema.pop("default", None)


def optional(description: str) -> Any:
    """A field that is left out where it does not apply."""
    return Field(default=None, description=description, json_schema_extra=without_default)


Text = Annotated[str | SkipJsonSchema[None], Field()]
Texts = Annotated[list[str] | SkipJsonSchema[None], Field()]
Number = Annotated[int | SkipJsonSchema[None], Field()]
Flag = Annotated[bool | SkipJsonSchema[None], Field()]


class Result(BaseModel):
    """What every tool's answer has in common: the status, and the error arm."""

    model_config = ConfigDict(extra="forbid")

    status: str = Field(description="`ok`, `error`, or another outcome of this tool")
    code: Text = optional("with status error: the stable error code")
    message: Text = optional("with status error: what went wrong and what to do")
    retryable: Flag = optional("with status error: whether the same call may succeed later")
    retry_after_seconds: Number = optional("with status error: when to try again")
    correlation_id: Text = optional("with status error: names this call in the audit trail")


class TokenResult(Result):
    """The answer of `get_token`."""

    access_token: Text = optional("with status ok: the access token; send it as `Authorization: Bearer`")
    token_type: Text = optional("with status ok: usually Bearer")
    scopes: Texts = optional("with status ok: what the token may do")
    expires_at: Text = optional("when the token, or with consent_required the link, ends; ISO 8601")
    missing_scopes: Texts = optional("scopes that were asked for and are not granted")
    provider: Text = optional("the credential provider")
    flow: Text = optional("how the token was obtained")
    extra: dict[str, str] | SkipJsonSchema[None] = optional("facts that belong to the token, e.g. instance_url")
    reason: Text = optional("with status consent_required: why the user has to be asked")
    authorization_url: Text = optional("with status consent_required: show this link to the user, verbatim")
    session_uri: Text = optional("with status consent_required: names the attempt, for get_consent")
    user_action: Text = optional("declined or cancelled, where your client asked the user to open the link and they did not")
    handle: Text = optional("with status ok, in place of the token: code of yours redeems it once at POST /v1/releases")
    handle_expires_at: Text = optional("when the handle ends; ISO 8601")


class ConsentResult(Result):
    """The answer of `start_consent`."""

    reason: Text = optional("why the user has to be asked")
    authorization_url: Text = optional("show this link to the user, verbatim")
    session_uri: Text = optional("names the attempt, for get_consent")
    expires_at: Text = optional("when the link ends; ISO 8601")
    missing_scopes: Texts = optional("what the user will be asked for")
    provider: Text = optional("the credential provider")
    user_action: Text = optional("declined or cancelled, where your client asked the user to open the link and they did not")


class ConsentStatusResult(Result):
    """The answer of `get_consent` and `complete_consent`: pending, completed, denied, failed or expired."""

    provider: Text = optional("the credential provider")
    reason: Text = optional("why it ended otherwise than completed: a stable error code")
    expires_at: Text = optional("when an unfinished consent ends; ISO 8601")


class ApiKeyResult(Result):
    """The answer of `get_api_key`."""

    api_key: Text = optional("with status ok: the key")
    provider: Text = optional("the credential provider")
    handle: Text = optional("with status ok, in place of the key: code of yours redeems it once at POST /v1/releases")
    handle_expires_at: Text = optional("when the handle ends; ISO 8601")


class WorkloadTokenResult(Result):
    """The answer of `get_workload_access_token`."""

    workload_access_token: Text = optional("with status ok: the token; it is a bearer for this server alone")
    expires_at: Text = optional("with status ok: when it ends; ISO 8601")


class IdentityTokenResult(Result):
    """The answer of `get_identity_token`."""

    identity_token: Text = optional("with status ok: the signed JWT; send it only to the audience")
    audience: Text = optional("with status ok: who it is for")
    expires_at: Text = optional("with status ok: when it ends; ISO 8601")


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


HANDLE_TEXT = (
    "The credential itself is not shown. Pass the handle to your own code, which redeems it once, within a minute, at "
    "POST /v1/releases with its workload access token; or use call_api."
)


def token_answer(outcome: TokenReleased | HandleIssued) -> CallToolResult:
    """A token that was let go, or the handle of one."""
    from mcp_identity.broker.answers import HandleIssued

    if isinstance(outcome, HandleIssued):
        handed = TokenResult(
            status="ok",
            handle=outcome.handle.reveal(),
            handle_expires_at=iso(outcome.handle_expires_at),
            scopes=list(outcome.scopes),
            missing_scopes=list(outcome.missing_scopes) or None,
            expires_at=iso(outcome.expires_at),
            provider=outcome.provider,
            flow=outcome.flow.value if outcome.flow else None,
        )
        return answer(handed, HANDLE_TEXT)
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


def consent_answer(required: ConsentRequired, kind: type[TokenResult | ConsentResult], user_action: str = "") -> CallToolResult:
    """The user has to be asked first.

    Args:
        required: What the broker said.
        kind: The tool's result.
        user_action: What the user did when the client asked them to open the link, where it did.
    """
    result = kind(
        status="consent_required",
        reason=required.reason.value,
        authorization_url=required.authorization_url,
        session_uri=required.session_uri,
        expires_at=iso(required.expires_at),
        missing_scopes=list(required.missing_scopes),
        provider=required.provider,
        user_action=user_action or None,
    )
    return answer(result, not_opened_text(required, user_action) if user_action else consent_text(required))


def not_opened_text(required: ConsentRequired, user_action: str) -> str:
    """What a model has to do where the user did not open the link."""
    return (
        f"The user {user_action} the request to open the link that connects {required.provider}. Do not ask again unless they "
        "want to; until the link ends they may still open it."
    )


def consent_ended_answer(status: ConsentStatus, session_uri: str) -> CallToolResult:
    """How a consent ended that `start_consent` had the client ask for."""
    result = ConsentResult(
        status=status.status,
        reason=status.error_code or None,
        session_uri=session_uri,
        expires_at=iso(status.expires_at),
        provider=status.provider,
    )
    return answer(result)


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


def api_key_answer(released: ApiKeyReleased | HandleIssued) -> CallToolResult:
    """A key that was let go, or the handle of one."""
    from mcp_identity.broker.answers import HandleIssued

    if isinstance(released, HandleIssued):
        ends = iso(released.handle_expires_at)
        handed = ApiKeyResult(status="ok", handle=released.handle.reveal(), handle_expires_at=ends, provider=released.provider)
        return answer(handed, HANDLE_TEXT)
    return answer(ApiKeyResult(status="ok", api_key=released.api_key.reveal(), provider=released.provider))


def workload_token_answer(token: Secret, expires_at: datetime) -> CallToolResult:
    """A workload access token that was issued."""
    return answer(
        WorkloadTokenResult(status="ok", workload_access_token=token.reveal(), expires_at=iso(expires_at)),
        "Send it as `Authorization: Bearer` to this server only, and never repeat it.",
    )


def identity_token_answer(token: Secret, audience: str, expires_at: datetime) -> CallToolResult:
    """An identity token that was issued."""
    return answer(
        IdentityTokenResult(status="ok", identity_token=token.reveal(), audience=audience, expires_at=iso(expires_at))
    )


def protocol_error(error: IdentityError, **data: str) -> MCPError:
    """What a request that is no tool call is told of an error."""
    code = INVALID_PARAMS if error.actor == "agent" else INTERNAL_ERROR
    said = {"code": error.code, "retryable": error.retryable, **{name: value for name, value in data.items() if value}}
    return MCPError(code, f"{error.code}: {error.message}", data=said)
