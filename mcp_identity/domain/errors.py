"""What can go wrong, by who can act on it.

Every failure that leaves the product is one of these classes. The code is stable and is what tests and clients compare;
the message is for people and models, and therefore never holds a secret, a URL query, a response body, or anything that
belongs to another principal. Edges map codes, and nothing but codes, to their own protocol.

    IdentityError
    ├── AgentError            the agent can ask differently
    │   ├── InvalidRequest · UnknownProvider · UnsupportedFlow · InvalidScope · InvalidTarget · NotFound · Conflict
    ├── UserError             the user can act
    │   ├── ConsentDenied · ConsentExpired · ConsentMismatch · ConsentNotFound · DifferentAccount
    ├── OperatorError         the operator can act
    │   ├── AccessDenied · ProviderMisconfigured
    ├── CallerError           the transport's credential: 401 and 403
    │   ├── Unauthenticated · TokenExpired · InsufficientScope
    ├── UpstreamError         the resource's authorization server
    │   ├── UpstreamRejected · UpstreamUnavailable · UpstreamBadResponse · UpstreamTls · UrlRefused
    ├── StorageError          the vault
    │   ├── VaultUnavailable · VaultCorrupt · AuditUnavailable
    ├── RateLimited           whoever asks too often
    └── ConfigurationError    start-up alone: exit 78
"""

from __future__ import annotations

from typing import ClassVar, Literal

Actor = Literal["agent", "user", "operator", "caller", "upstream", "storage"]

MESSAGE_LIMIT = 600
"""Characters of a message that leave the product; longer ones are cut."""


def clean_text(text: str, limit: int = MESSAGE_LIMIT) -> str:
    """Make foreign text safe for a log line, a page or a model.

    Control, bidirectional, zero-width and tag characters are dropped, white space is folded, and the result is cut.

    Args:
        text: Anything, for instance a vendor's ``error_description``.
        limit: The most characters to keep.
    """
    if len(text) <= limit and text.isprintable() and "  " not in text and text == text.strip(" "):
        return text  # nearly always; the only white space that is printable is the plain space
    kept = (" " if char.isspace() else char for char in text[: limit * 4] if char.isprintable() or char.isspace())
    return " ".join("".join(kept).split())[:limit]


class IdentityError(Exception):
    """The root of every designed failure.

    Attributes:
        code: The stable code that clients compare.
        actor: Who can do something about it.
        retryable: Whether the same call may succeed later without anybody acting.
        retry_after_seconds: When it makes sense to try again, where that is known.
        message: Safe for a model, a log and a page.
        audited: The trail has this refusal already.
    """

    code: ClassVar[str] = "internal_error"
    actor: ClassVar[Actor] = "operator"
    retryable: bool = False

    def __init__(self, message: str, *, retryable: bool | None = None, retry_after_seconds: int | None = None) -> None:
        """Keep a cleaned and bounded message."""
        self.message = clean_text(message)
        if retryable is not None:
            self.retryable = retryable
        self.retry_after_seconds = retry_after_seconds
        self.audited = False
        super().__init__(self.message)


class AgentError(IdentityError):
    """The agent can ask differently."""

    actor = "agent"


class InvalidRequest(AgentError):
    """An argument is missing, malformed, or in conflict with another."""

    code = "invalid_request"


class UnknownProvider(AgentError):
    """No credential provider of this name exists for this principal."""

    code = "unknown_provider"


class UnsupportedFlow(AgentError):
    """The provider does not offer this flow, or offers several and none was named."""

    code = "unsupported_flow"


class InvalidScope(AgentError):
    """A scope is malformed, or too many were asked for (RFC 6749 §3.3)."""

    code = "invalid_scope"


class InvalidTarget(AgentError):
    """The resource or audience is malformed or not served (RFC 8707 §2)."""

    code = "invalid_target"


class NotFound(AgentError):
    """Absent, or not yours: both look the same."""

    code = "not_found"


class Conflict(AgentError):
    """Something of this name is there already, or changed meanwhile."""

    code = "conflict"


class UserError(IdentityError):
    """The user can act."""

    actor = "user"


class ConsentDenied(UserError):
    """The user, or the vendor on their behalf, said no (RFC 6749 §4.1.2.1)."""

    code = "consent_denied"


class ConsentExpired(UserError):
    """Nobody finished the consent in time."""

    code = "consent_expired"


class ConsentMismatch(UserError):
    """The answer came from another browser, user, vendor or flow than the one that was asked."""

    code = "consent_mismatch"


class ConsentNotFound(UserError):
    """No such consent session for this principal."""

    code = "consent_not_found"


class DifferentAccount(UserError):
    """The user signed in at the vendor with another account than before."""

    code = "different_account"


class OperatorError(IdentityError):
    """The operator can act."""

    actor = "operator"


class AccessDenied(OperatorError):
    """Policy, or the release mode, says no."""

    code = "access_denied"


class ProviderMisconfigured(OperatorError):
    """The configuration of a credential provider cannot work as it stands."""

    code = "provider_misconfigured"


class CallerError(IdentityError):
    """The transport's credential does not do."""

    actor = "caller"


class Unauthenticated(CallerError):
    """No credential, or one that proves nothing."""

    code = "unauthenticated"


class TokenExpired(CallerError):
    """The caller's own token has expired."""

    code = "token_expired"


class InsufficientScope(CallerError):
    """The caller's token lacks a scope that this tool needs.

    Attributes:
        scopes: Every scope that the caller needs for it, those that it has included, sorted.
    """

    code = "insufficient_scope"

    def __init__(self, message: str, *, scopes: tuple[str, ...] = ()) -> None:
        """Keep what to ask the identity provider for."""
        super().__init__(message)
        self.scopes = scopes


class UpstreamError(IdentityError):
    """The resource's authorization server, or the way to it."""

    actor = "upstream"


class UpstreamRejected(UpstreamError):
    """The authorization server answered with an error of its own.

    Attributes:
        error: The vendor's error code, verbatim but bounded, e.g. ``invalid_grant``.
        description: The vendor's description, cleaned and bounded.
    """

    code = "upstream_rejected"

    def __init__(self, message: str, *, error: str, description: str = "", retry_after_seconds: int | None = None) -> None:
        """Keep the vendor's own code beside ours."""
        super().__init__(message, retry_after_seconds=retry_after_seconds)
        self.error = clean_text(error, 120)
        self.description = clean_text(description, 300)


class UpstreamUnavailable(UpstreamError):
    """No usable answer in time.

    Attributes:
        may_have_been_processed: Whether the request could have reached the server. A lost answer to a refresh may have
            cost the refresh token; a refused connection cannot have.
    """

    code = "upstream_unavailable"
    retryable = True

    def __init__(self, message: str, *, may_have_been_processed: bool = True, retry_after_seconds: int | None = None) -> None:
        """Keep whether a rotation may have happened unseen."""
        super().__init__(message, retry_after_seconds=retry_after_seconds)
        self.may_have_been_processed = may_have_been_processed


class UpstreamBadResponse(UpstreamError):
    """The answer is not what the protocol allows; it may have been processed all the same."""

    code = "upstream_bad_response"
    may_have_been_processed = True


class UpstreamTls(UpstreamError):
    """The server's certificate does not stand, or TLS could not be agreed on. Nothing was sent."""

    code = "upstream_tls"


class UrlRefused(UpstreamError):
    """The address rules forbid this URL. Nothing was sent."""

    code = "url_refused"


class StorageError(IdentityError):
    """The vault cannot do it now, or what it holds cannot be believed.

    Attributes:
        unwritable: The database itself does not take a write now, so the trail cannot have this refusal either.
    """

    actor = "storage"
    unwritable: bool = False


class VaultUnavailable(StorageError):
    """The vault cannot be read or written now."""

    code = "vault_unavailable"
    retryable = True


class VaultCorrupt(StorageError):
    """A row does not authenticate: it was edited, swapped, truncated, or comes from another vault."""

    code = "vault_corrupt"


class AuditUnavailable(StorageError):
    """The audit row could not be written, so nothing was released."""

    code = "audit_unavailable"
    retryable = True


class RateLimited(IdentityError):
    """Too many calls, links or pending consents."""

    code = "rate_limited"
    actor = "agent"
    retryable = True


class ConfigurationError(IdentityError):
    """The process must not start as configured. Ends the command line with exit status 78 (EX_CONFIG)."""

    code = "configuration_error"
    actor = "operator"
