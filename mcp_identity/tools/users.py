"""Which user does an agent name with a second credential? Two tools take one; no other argument ever names a user.

The user's own token is verified by the rules of the workload that calls, so a token that was made for another agent names
nobody here. An id is the word of an agent that an operator trusted with it, and never matches a user who signed in.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Protocol

from mcp_identity.domain.credentials import Secret
from mcp_identity.domain.errors import AccessDenied, InvalidRequest, Unauthenticated
from mcp_identity.domain.identity import ASSERTED_ISSUER, User, UserKind, command

if TYPE_CHECKING:
    from mcp_identity.domain.identity import Principal, SubjectToken

USER_ID_LIMIT = 255


class VerifiedUser(Protocol):
    """A user whose own token was verified."""

    @property
    def user(self) -> User:
        """Who it is."""
        ...

    @property
    def expires_at(self) -> datetime:
        """When the token ends."""
        ...

    @property
    def tool_scopes(self) -> frozenset[str] | None:
        """Which tools the token may use; None where its issuer is asked for none."""
        ...

    @property
    def subject_token(self) -> SubjectToken | None:
        """The token itself."""
        ...


class UserVerifier(Protocol):
    """Verifies users' tokens."""

    async def verify_user_token(self, principal: Principal, token: Secret) -> VerifiedUser:
        """The user of a token that the calling workload's own authorizer accepts.

        Raises:
            Unauthenticated: If it does not.
            TokenExpired: If the token has ended.
        """
        ...


@dataclass(frozen=True, slots=True)
class NamedUser:
    """A user whom a call names.

    Attributes:
        user: Who.
        expires_at: When what proved it ends; None for an id.
        tool_scopes: Which tools what proved it may use; None where none are asked.
        subject_token: The user's own token; None for an id.
    """

    user: User
    expires_at: datetime | None = None
    tool_scopes: frozenset[str] | None = None
    subject_token: SubjectToken | None = field(default=None, repr=False)


async def named_user(verifier: UserVerifier | None, principal: Principal, user_token: str, user_id: str) -> NamedUser | None:
    """The user that a call names; None where it names nobody.

    Raises:
        InvalidRequest: If it names two, an id that is none, or brings a token where none can be verified.
        AccessDenied: If this agent may not name users by id.
        CallerError: If the token proves nothing.
    """
    if user_token and user_id:
        raise InvalidRequest("pass user_token or user_id, not both")
    if user_token:
        if verifier is None:
            raise InvalidRequest("no issuer of user tokens is configured here, so user_token cannot be verified")
        try:
            verified = await verifier.verify_user_token(principal, Secret(user_token))
        except Unauthenticated:
            raise Unauthenticated(
                "the user_token is not accepted: it has to be a valid access token of a user, and fit the authorizer of this "
                f"very agent; an operator sees that: {command(principal.tenant)} workloads show {principal.workload.name}"
            ) from None
        return NamedUser(verified.user, verified.expires_at, verified.tool_scopes, verified.subject_token)
    if not user_id:
        return None
    if not principal.workload.may_assert_users:
        raise AccessDenied("this agent may not name users by id; pass the user's own token, or ask the operator")
    if len(user_id) > USER_ID_LIMIT or not user_id.isprintable() or " " in user_id:
        raise InvalidRequest(f"user_id is 1 to {USER_ID_LIMIT} printable characters without spaces")
    return NamedUser(User(ASSERTED_ISSUER + principal.tenant, user_id, UserKind.ASSERTED, user_id))
