"""How does a failure look to a client of the service? Our codes, and nothing but our codes, become the model's.

A client's code catches the modelled class, so each code has one, with its status; the message is ours, which says who can do
what. Some clients send again by themselves what failed with 429 or 500, so only what is worth that is said so.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, Literal

from mcp_identity.domain.errors import IdentityError, InvalidRequest, clean_text

Reason = Literal[
    "CannotParse", "FieldValidationFailed", "IdempotentParameterMismatchException", "EventInOtherSession", "ResourceConflict"
]
VALIDATION: Final = "ValidationException"
ACCESS_DENIED: Final = "AccessDeniedException"
UNAUTHORIZED: Final = "UnauthorizedException"
NOT_FOUND: Final = "ResourceNotFoundException"
CONFLICT: Final = "ConflictException"
THROTTLING: Final = "ThrottlingException"
INTERNAL: Final = "InternalServerException"
UNKNOWN_OPERATION: Final = "UnknownOperationException"
_STATUS: Final = {
    VALIDATION: 400, ACCESS_DENIED: 403, UNAUTHORIZED: 401, NOT_FOUND: 404, CONFLICT: 409, THROTTLING: 429, INTERNAL: 500,
    UNKNOWN_OPERATION: 404,
}  # fmt: skip
_CODES: Final = {
    "unauthenticated": UNAUTHORIZED,  # a bearer inside of a request; the caller's own proof is refused at the door
    "token_expired": UNAUTHORIZED,
    "insufficient_scope": ACCESS_DENIED,
    "access_denied": ACCESS_DENIED,
    "unknown_provider": NOT_FOUND,
    "not_found": NOT_FOUND,
    "consent_not_found": NOT_FOUND,
    "conflict": CONFLICT,
    "rate_limited": THROTTLING,
    "vault_unavailable": INTERNAL,
    "vault_corrupt": INTERNAL,
    "audit_unavailable": INTERNAL,
    IdentityError.code: INTERNAL,
}  # fmt: skip
"""Everything else is a ValidationException: the caller, its user or its operator has to do something else."""
FAILED: Final = "the server failed; its log knows more"
MOST_FIELDS = 20


@dataclass(frozen=True, slots=True)
class Problem:
    """A failure as it is told.

    Attributes:
        status: Of HTTP.
        code: The modelled class.
        message: For people.
        members: The further members that the model gives it.
        retry_after_seconds: When it makes sense to ask again.
    """

    status: int
    code: str
    message: str
    members: dict[str, Any]
    retry_after_seconds: int | None = None


class Fields(InvalidRequest):
    """Members of a request break a rule of the model, or one of ours that only this edge can name."""

    def __init__(self, *fields: tuple[str, str], message: str = "") -> None:
        """Keep the members' names on the wire, each with what is wrong; nothing of what was given."""
        kept = [(clean_text(name, 256), clean_text(what, 256)) for name, what in fields[:MOST_FIELDS]]
        self.fields = tuple(kept)
        super().__init__(message or "; ".join(f"{name}: {what}" for name, what in kept))


class Unreadable(InvalidRequest):
    """The body of a request is none."""


class NotServed(InvalidRequest):
    """An operation, or a part of one, that there is nothing behind here; the message says what is instead."""


class ServiceError(InvalidRequest):
    """A modelled error that none of our codes stands for, e.g. ``ServiceQuotaExceededException``."""

    def __init__(self, service_code: str, status: int, message: str, **members: Any) -> None:
        """Keep the model's code, its status, and its further members."""
        super().__init__(message)
        self.service_code, self.status, self.members = service_code, status, members


def problem(code: str, message: str, **members: Any) -> Problem:
    """A failure of a modelled class."""
    return Problem(_STATUS[code], code, message, members)


def validation(message: str, reason: Reason = "FieldValidationFailed", fields: tuple[tuple[str, str], ...] = ()) -> Problem:
    """A ValidationException with all of its members."""
    listed = [{"name": name, "message": what} for name, what in fields]
    return problem(VALIDATION, message, reason=reason, **({"fieldList": listed} if listed else {}))


def problem_of(error: IdentityError, plane: Literal["data", "control"]) -> Problem:
    """How a designed failure is told.

    Args:
        error: What happened.
        plane: Where: the data plane's model knows no conflict.
    """
    if isinstance(error, ServiceError):
        return Problem(error.status, error.service_code, error.message, error.members)
    if isinstance(error, Unreadable):
        return validation(error.message, "CannotParse")
    if isinstance(error, Fields):
        return validation(error.message, fields=error.fields)
    code = _CODES.get(error.code, VALIDATION)
    if error.code == "upstream_unavailable" and error.retryable:
        code = INTERNAL
    if code == CONFLICT and plane == "data":
        return validation(error.message, "ResourceConflict")
    if code == VALIDATION:
        return validation(error.message)
    return Problem(_STATUS[code], code, error.message, {}, error.retry_after_seconds)
