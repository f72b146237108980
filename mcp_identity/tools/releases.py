"""Where does agent code redeem a one-time handle? `POST /v1/releases`, behind the same gate as the tools.

The handle stands in the body, never in an address. The bearer is the code's own workload access token; whoever brings another
kind of bearer learns nothing of handles. No answer is kept by anybody on its way.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse

from mcp_identity.domain.credentials import Secret
from mcp_identity.domain.errors import (
    AccessDenied,
    IdentityError,
    InsufficientScope,
    InvalidRequest,
    NotFound,
    RateLimited,
    StorageError,
)
from mcp_identity.tools import challenges
from mcp_identity.tools.results import iso
from mcp_identity.tools.scopes import is_allowed, scopes_needed

if TYPE_CHECKING:
    from starlette.types import Receive, Scope, Send

    from mcp_identity.broker.answers import ApiKeyReleased, TokenReleased
    from mcp_identity.broker.audit import Call
    from mcp_identity.broker.broker import Broker

log = logging.getLogger(__name__)
ACTION = "redeem_release"
MAXIMUM_BYTES = 4096
_HEADERS = {"Cache-Control": "no-store", "Pragma": "no-cache", "X-Content-Type-Options": "nosniff"}
_STATUS: tuple[tuple[type[IdentityError], int], ...] = (
    (InvalidRequest, 400),
    (AccessDenied, 403),
    (InsufficientScope, 403),
    (NotFound, 404),
    (RateLimited, 429),
    (StorageError, 503),
)


class Releases:
    """The endpoint, as an ASGI application."""

    def __init__(
        self,
        begin: Callable[[str], Awaitable[tuple[Broker, Call]]],
        refused: Callable[[Scope], None] = lambda _scope: None,
        metadata_url: str = "",
    ) -> None:
        """Know who calls.

        Args:
            begin: Begins a call of the principal that the gate has verified.
            refused: Told of every redemption that failed, for its limits.
            metadata_url: Of this resource, for the challenge to a token that lacks a scope (RFC 9728 §5.1).
        """
        self._begin = begin
        self._metadata_url = metadata_url
        self._refused = refused

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        request = Request(scope, receive)
        if request.method != "POST":
            await JSONResponse({"code": "invalid_request"}, 405, {**_HEADERS, "Allow": "POST"})(scope, receive, send)
            return
        correlation_id = ""
        try:
            broker, call = await self._begin(ACTION)
            correlation_id = call.correlation_id
            await _require_scope(broker, call)
            answer = await self._redeem(request, broker, call)
        except ClientDisconnect:
            return
        except IdentityError as error:
            if isinstance(error, NotFound | InvalidRequest | AccessDenied):
                self._refused(scope)
            answer = _error(error, correlation_id)
            if isinstance(error, InsufficientScope):
                answer.headers.update(challenges.challenge(self._metadata_url, error.scopes, challenges.INSUFFICIENT_SCOPE))
        except Exception:  # whoever asks learns no more than that it failed
            log.exception("a redemption failed unexpectedly")
            answer = _error(IdentityError("the server failed; its log knows more"), correlation_id)
        await answer(scope, receive, send)

    async def _redeem(self, request: Request, broker: Broker, call: Call) -> JSONResponse:
        try:
            handle = await _read(request)
        except InvalidRequest as error:
            await broker.refuse(call, error)
            raise
        return JSONResponse(_released(await broker.redeem(call, handle)), 200, _HEADERS)


async def _require_scope(broker: Broker, call: Call) -> None:
    """A handle takes the same scope of the caller's token as the secret itself.

    Raises:
        InsufficientScope: If it has not got it.
    """
    if not is_allowed(call.principal, "get_token"):
        error = InsufficientScope("the caller's token lacks a scope", scopes=scopes_needed(call.principal, "get_token"))
        await broker.refuse(call, error)
        raise error


async def _read(request: Request) -> Secret:
    """The handle in the body.

    Raises:
        InvalidRequest: If the body is anything but `{"handle": "…"}`; nothing of it is repeated.
    """
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type != "application/json":
        raise InvalidRequest('the body is JSON: {"handle": "…"}, with Content-Type: application/json')
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAXIMUM_BYTES:
            raise InvalidRequest(f"the body is larger than {MAXIMUM_BYTES} bytes")
    try:
        found: Any = json.loads(bytes(body))
    except (ValueError, RecursionError):
        found = None
    handle: object = found.get("handle") if isinstance(found, dict) and len(found) == 1 else None  # pyright: ignore[reportUnknownVariableType, reportUnknownMemberType, reportUnknownArgumentType] - it is whatever came
    if not isinstance(handle, str) or not handle.isascii():
        raise InvalidRequest('the body is one JSON object: {"handle": "…"}')
    return Secret(handle)


def _released(released: TokenReleased | ApiKeyReleased) -> dict[str, Any]:
    from mcp_identity.broker.answers import ApiKeyReleased

    if isinstance(released, ApiKeyReleased):
        return {"status": "ok", "api_key": released.api_key.reveal(), "provider": released.provider}
    found = {
        "status": "ok",
        "access_token": released.access_token.reveal(),
        "token_type": released.token_type,
        "scopes": list(released.scopes),
        "expires_at": iso(released.expires_at),
        "provider": released.provider,
        "flow": released.flow.value,
        "extra": released.extra or None,
    }
    return {name: value for name, value in found.items() if value is not None}


def _error(error: IdentityError, correlation_id: str) -> JSONResponse:
    said = {
        "status": "error",
        "code": error.code,
        "message": error.message,
        "retryable": error.retryable,
        "retry_after_seconds": error.retry_after_seconds,
        "correlation_id": correlation_id,
    }
    status = next((status for kind, status in _STATUS if isinstance(error, kind)), 500)
    headers = {**_HEADERS, **({"Retry-After": str(error.retry_after_seconds)} if error.retry_after_seconds else {})}
    return JSONResponse({name: value for name, value in said.items() if value not in (None, "")}, status, headers)
