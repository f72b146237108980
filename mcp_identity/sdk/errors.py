"""What can a caller of this client do about a failure?

Every failure is an `IdentityClientError`. Its code is the server's own (`mcp_identity.domain.errors`), or one of the few that
only a client can have. The message says what happened, the remedy what to do; neither ever holds a secret, and the link of a
consent stands in an attribute alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from mcp_identity.domain.errors import clean_text

UNREACHABLE = "unreachable"
NOT_CONFIGURED = "not_configured"
TIMED_OUT = "timed_out"
BAD_ANSWER = "bad_answer"
CLOSED = "closed"
CONSENT_REQUIRED = "consent_required"
CONSENT_TIMED_OUT = "consent_timed_out"

REMEDIES: Mapping[str, str] = MappingProxyType(
    {
        UNREACHABLE: "Check that the server runs, and MCP_IDENTITY_URL or url=.",
        NOT_CONFIGURED: "Set MCP_IDENTITY_URL and MCP_IDENTITY_WORKLOAD_KEY, or pass url= and token=.",
        TIMED_OUT: "Call again; if it stays so, look at the server's log.",
        BAD_ANSWER: "Check that MCP_IDENTITY_URL leads to an mcp-identity server, and that both have one version.",
        CLOSED: "Make a new IdentityClient; this one was closed.",
        CONSENT_REQUIRED: "Show the user the authorization_url of this error, and call again once they have agreed.",
        CONSENT_TIMED_OUT: "Call again: while the link is good the same one comes back, and the wait goes on.",
        "unauthenticated": "Check the bearer: MCP_IDENTITY_WORKLOAD_KEY, token=, or what acting_for() was given. "
        "`mcp-identity workloads issue-key NAME` makes a new key.",
        "token_expired": "Get a new token from the identity provider, or a new workload access token, and call again.",
        "insufficient_scope": "Ask the identity provider for a token with the scopes that the message names.",
        "access_denied": "An operator decides that: `mcp-identity workloads show NAME` says what this agent may do, "
        "`mcp-identity workloads update NAME --allow-provider PROVIDER` changes it.",
        "unknown_provider": "`list_providers` gives the names that there are; `mcp-identity providers add` adds one.",
        "not_found": "Check the name: what is absent and what is another's look the same.",
        "conflict": "Something of this name is there already, or changed meanwhile: look at it, and call again.",
        "invalid_request": "Correct the argument that the message names.",
        "invalid_scope": "Correct the scopes: one per item, as the vendor writes them.",
        "invalid_target": "Correct resource or audience, or leave it out.",
        "unsupported_flow": "Name a flow that the provider offers: auth_flow='M2M', 'USER_FEDERATION' or "
        "'ON_BEHALF_OF_TOKEN_EXCHANGE'.",
        "consent_denied": "The user said no. Call again only if they change their mind.",
        "consent_expired": "Call again for a new link; a link is good for ten minutes.",
        "consent_mismatch": "Somebody else opened the link. Call again, and show the new link to the user who asked.",
        "consent_not_found": "Call again without the session: it has ended, or is another's.",
        "different_account": "The user agreed with another account at the vendor than before. Call again with "
        "force_authentication=True to change accounts.",
        "provider_misconfigured": "An operator corrects the provider: `mcp-identity providers test NAME` says what is wrong, "
        "`mcp-identity providers update NAME` changes it.",
        "upstream_rejected": "The vendor refused, as the message says: an operator checks the provider's client, secret and "
        "scopes with `mcp-identity providers test NAME`.",
        "upstream_unavailable": "The vendor does not answer: call again later.",
        "upstream_bad_response": "The vendor's answer makes no sense: `mcp-identity providers test NAME` says more.",
        "upstream_tls": "The vendor's certificate is not believed: an operator checks the provider's URLs.",
        "url_refused": "An operator corrects the provider's URLs.",
        "vault_unavailable": "Call again; if it stays so, `mcp-identity doctor` on the server says why.",
        "vault_corrupt": "An operator looks at the server: `mcp-identity doctor`.",
        "audit_unavailable": "Nothing leaves without a trail: an operator looks at the server, `mcp-identity doctor`.",
        "rate_limited": "Call again after retry_after_seconds, and less often.",
    }
)
"""What to do, by code."""


class IdentityClientError(Exception):
    """A credential, or whatever else was asked for, cannot be had.

    Attributes:
        code: The stable code; what programs compare.
        message: What happened.
        remedy: What to do about it; empty where nothing but the message is known.
        retryable: Whether the same call may succeed later without anybody acting.
        retry_after_seconds: When to try again, where that is known.
        correlation_id: Names the call in the server's audit trail; empty where it did not get so far.
    """

    def __init__(
        self,
        code: str,
        message: str,
        *,
        remedy: str | None = None,
        retryable: bool = False,
        retry_after_seconds: float | None = None,
        correlation_id: str = "",
    ) -> None:
        """Keep a cleaned and bounded message; the remedy is the code's own where none is given."""
        self.code = code
        self.message = clean_text(message)
        self.remedy = REMEDIES.get(code, "") if remedy is None else remedy
        self.retryable = retryable
        self.retry_after_seconds = retry_after_seconds
        self.correlation_id = correlation_id
        named = f"{code}, correlation id {correlation_id}" if correlation_id else code
        super().__init__(f"{self.message} ({named}). {self.remedy}".strip())


class ConsentRequiredError(IdentityClientError):
    """The user has to agree first, and nobody waits for it, or no longer.

    Attributes:
        authorization_url: The link to show to the user, verbatim.
        session_uri: Names the attempt, for `get_consent`.
    """

    def __init__(self, code: str, message: str, *, authorization_url: str, session_uri: str) -> None:
        """Keep the link where no log finds it by itself."""
        self.authorization_url = authorization_url
        self.session_uri = session_uri
        super().__init__(code, message, retryable=True)


def error_of(said: Mapping[str, Any]) -> IdentityClientError:
    """The error that an answer with status ``error`` stands for."""
    after, remedy = said.get("retry_after_seconds"), said.get("remedy")
    return IdentityClientError(
        str(said.get("code", BAD_ANSWER)),
        str(said.get("message", "the server said no more")),
        remedy=remedy if isinstance(remedy, str) else None,
        retryable=said.get("retryable") is True,
        retry_after_seconds=after if isinstance(after, int | float) else None,
        correlation_id=str(said.get("correlation_id", "")),
    )


def failure(code: str, message: str, *, retryable: bool = False, retry_after_seconds: float | None = None) -> dict[str, Any]:
    """A failure that the server did not word, in the form of its answers."""
    said: dict[str, Any] = {"status": "error", "code": code, "message": message, "retryable": retryable}
    return said if retry_after_seconds is None else {**said, "retry_after_seconds": retry_after_seconds}
