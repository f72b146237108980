"""What does a caller hear whom the gate does not let in? Status, challenge, and a code; nothing of what it sent."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from starlette.responses import Response

from mcp_identity.domain.errors import CallerError, IdentityError, RateLimited, StorageError, TokenExpired

if TYPE_CHECKING:
    from starlette.types import Send

INVALID_TOKEN = "invalid_token"  # noqa: S105 - RFC 6750 §3.1
INSUFFICIENT_SCOPE = "insufficient_scope"
UNAUTHENTICATED = "this server answers to a bearer alone: a token of a configured issuer, a workload key, or a token of ours"
REFUSED = "the bearer proves nothing here"
EXPIRED = "the bearer has expired"


def unauthenticated(metadata_url: str, scopes: Iterable[str], failed: CallerError | None) -> Response:
    """401; without an `error` where no credential came (RFC 6750 §3.1).

    Args:
        metadata_url: Of the resource, RFC 9728 §5.1.
        scopes: Every scope that may be needed.
        failed: Why the bearer was not believed; None where there was none.
    """
    if failed is None:
        return _answer(401, "unauthenticated", UNAUTHENTICATED, challenge(metadata_url, scopes, ""))
    expired = isinstance(failed, TokenExpired)
    return _answer(401, failed.code, EXPIRED if expired else REFUSED, challenge(metadata_url, scopes, INVALID_TOKEN))


def insufficient_scope(metadata_url: str, scopes: Iterable[str]) -> Response:
    """403, with every scope that is needed for it (RFC 6750 §3.1, and the MCP specification on step-up)."""
    scopes = tuple(scopes)
    message = f"the caller's token needs the scopes {' '.join(scopes)}"
    return _answer(403, INSUFFICIENT_SCOPE, message, challenge(metadata_url, scopes, INSUFFICIENT_SCOPE))


def malformed(message: str) -> Response:
    """400."""
    return _answer(400, "invalid_request", message, {})


def foreign_page() -> Response:
    """403."""
    return _answer(403, "access_denied", "this is for programs, and for pages whose origin is listed", {})


def too_many(seconds: float) -> Response:
    """429, with when to come again."""
    return _answer(429, RateLimited.code, "too many requests", _retry_after(seconds))


def busy() -> Response:
    """503: everything is taken, by whomever."""
    return _answer(503, RateLimited.code, "the server is busy", _retry_after(1))


def ending() -> Response:
    """503: the process is about to end."""
    return _answer(503, "vault_unavailable", "the server is ending; ask again", {**_retry_after(1), "connection": "close"})


def storage(error: StorageError) -> Response:
    """503: whether the bearer proves something cannot be known now."""
    return _answer(503, error.code, "callers cannot be verified now; ask again", _retry_after(1))


def failed() -> Response:
    """500, without a word of why."""
    return _answer(500, IdentityError.code, "the server failed; its log knows more", {})


def challenge(metadata_url: str, scopes: Iterable[str], error: str) -> dict[str, str]:
    """The header that says what would do: the scopes, and where the issuers are named (RFC 6750 §3, RFC 9728 §5.1)."""
    parts = [f'error="{error}"'] if error else []
    parts += [f'scope="{" ".join(scopes)}"', f'resource_metadata="{metadata_url}"']
    return {"www-authenticate": "Bearer " + ", ".join(parts)}


def _retry_after(seconds: float) -> dict[str, str]:
    return {"retry-after": str(max(1, math.ceil(seconds)))}


def _answer(status: int, code: str, message: str, headers: Mapping[str, str]) -> Response:
    body = json.dumps({"error": code, "message": message})
    return Response(body, status, {**headers, "cache-control": "no-store"}, "application/json")


async def say(response: Response, send: Send) -> None:
    """Send an answer that needs nothing of the request."""
    await send({"type": "http.response.start", "status": response.status_code, "headers": response.raw_headers})
    await send({"type": "http.response.body", "body": bytes(response.body)})
