"""A short-lived bearer for a workload, alone or for one user: what agent code hands on instead of a user's token.

It is issued to a workload that proved itself by a credential of its own, never to a user's token or to another such bearer,
so that none begets the next. A user is named by their own verified token, or by an id where an operator lets the workload say
whom it acts for. The trail has it, by its id, before it leaves.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta

from mcp_identity.broker.access import require_workload
from mcp_identity.broker.answers import WorkloadTokenIssued
from mcp_identity.broker.audit import Call
from mcp_identity.broker.on_behalf import may_exchange
from mcp_identity.broker.services import Services
from mcp_identity.domain.credentials import Secret
from mcp_identity.domain.errors import AccessDenied, InvalidRequest, TokenExpired, Unauthenticated
from mcp_identity.domain.identity import ASSERTED_ISSUER, Principal, Proof, SubjectToken, User, UserKind, command
from mcp_identity.vault.records import Records

LIFETIME = timedelta(minutes=15)
_OWN = (Proof.WORKLOAD_KEY, Proof.JWT, Proof.ACCESS_KEY)
_SUBJECT_LIMIT = 255


class WorkloadAccess:
    """Workload access tokens."""

    def __init__(self, services: Services) -> None:
        """Keep what it works with."""
        self._services = services

    async def issue(
        self,
        call: Call,
        user: User | None,
        user_expires_at: datetime | None,
        user_tool_scopes: frozenset[str] | None = None,
        subject_token: SubjectToken | None = None,
    ) -> WorkloadTokenIssued:
        """Issue a workload access token.

        Args:
            call: Of the workload itself.
            user: For whom: of their own verified token, or asserted by id; None for the workload alone.
            user_expires_at: When the user's own token ends; None for an asserted user, or none.
            user_tool_scopes: Which tools the user's own token may use, so that this one may use no others; None for all.
            subject_token: The user's own token; it goes into this one where the workload may exchange it somewhere.

        Raises:
            AccessDenied: If this caller gets none, or may not assert users.
            InvalidRequest: If the user is none that can be named.
            TokenExpired: If the user's token has ended.
        """
        principal, now = call.principal, self._services.clock.now()
        _require_own_credential(principal)
        _check_user(principal, user, user_expires_at)
        ends = (now + LIFETIME, user_expires_at, principal.expires_at)
        expires_at = min(each for each in ends if each is not None)
        if expires_at <= now:
            raise TokenExpired("the token that this one would be made from has ended")
        event = call.event().ending("ok", user_kind=user.kind.value if user else "none")
        if user is not None:
            event = replace(event, user_key=user.key, user_display=user.display)

        def unit(records: Records) -> Secret:
            require_workload(records, principal)
            if user is not None:
                not_before = records.register_user(principal.tenant, user)
                if not_before is not None and now < not_before:
                    raise Unauthenticated("the user's credentials were ended")
            is_of_use = user is not None and subject_token is not None and may_exchange(records, principal, subject_token)
            token, token_id = self._services.mint.seal(
                principal.workload,
                user,
                issued_at=now,
                expires_at=expires_at,
                tool_scopes=_both(principal.tool_scopes, user_tool_scopes),
                subject_token=subject_token if is_of_use else None,
            )
            records.append_audit(event.ending("ok", jti=token_id))
            return token

        return WorkloadTokenIssued(await self._services.vault.run(unit, event), expires_at)


def _both(one: frozenset[str] | None, other: frozenset[str] | None) -> frozenset[str] | None:
    """What two tokens may use both; None is everything."""
    if one is None or other is None:
        return other if one is None else one
    return one & other


def _require_own_credential(principal: Principal) -> None:
    if principal.authenticated_by in (Proof.STDIO, Proof.CLI, Proof.LOOPBACK):
        raise AccessDenied("workload access tokens are for callers over HTTP; here every call is already this agent's own")
    if principal.authenticated_by not in _OWN or not principal.verified:
        raise AccessDenied("a workload access token gets no further one; use the workload key, or the service's own token")
    if principal.user is not None:
        raise AccessDenied("a user's token gets no workload access token; use the workload key, or the service's own token")


def _check_user(principal: Principal, user: User | None, user_expires_at: datetime | None) -> None:
    """Check once more what the edge has checked: nothing but this makes the user of the token."""
    if user is None:
        return
    if user.kind is UserKind.ASSERTED:
        if not principal.may_name_users:
            raise AccessDenied(
                f"the workload {principal.workload.name} may not name a user by id; pass the user's own token, or an operator "
                f"allows it: {command(principal.tenant)} workloads update {principal.workload.name} --may-assert-users"
            )
        if user.issuer != f"{ASSERTED_ISSUER}{principal.tenant}":
            raise InvalidRequest("the user is of another tenant")
    elif user.kind is not UserKind.OIDC or user_expires_at is None:
        raise InvalidRequest("a user is named by their own verified token, or by an id")
    if not user.subject or len(user.subject) > _SUBJECT_LIMIT or not user.subject.isprintable():
        raise InvalidRequest(f"a user's id is 1 to {_SUBJECT_LIMIT} visible characters")
