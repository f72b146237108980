"""Who asks, at this edge, and on whose behalf is what they ask for?

Whoever signed a request, or brought a bearer, is an operator of its tenant or stands for workloads of it. A call is then made
for one of three: the operator, a workload that is named, or the workload and user that a workload access token proves. Each
must be one that the asker may act for. A workload that is not there and one that is not the asker's look the same.

Trusts `inbound/` for who signed and whom a bearer proves. Nothing of a request but its proofs changes who somebody is.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol

from mcp_identity.agentcore.arns import DEFAULT_REGION
from mcp_identity.broker.audit import Call
from mcp_identity.domain.errors import AccessDenied, InsufficientScope, NotFound, Unauthenticated
from mcp_identity.domain.identity import TOKEN_SCOPE, Principal, Proof, WorkloadIdentity, command
from mcp_identity.domain.standing import Standing, standing

if TYPE_CHECKING:
    from datetime import datetime

    from mcp_identity.domain.access_key import Signer
    from mcp_identity.domain.credentials import Secret
    from mcp_identity.domain.identity import SubjectToken, User

EDGE = "agentcore"
OPERATOR = "operator"


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
        """The token itself, to be exchanged elsewhere on that user's behalf."""
        ...


class Verifier(Protocol):
    """Believes a bearer, or does not."""

    async def authenticate(self, bearer: Secret, *, edge: str, workload_hint: str = "") -> Principal:
        """The principal that a bearer proves.

        Raises:
            CallerError: If it proves nothing.
            StorageError: If that cannot be known now.
        """
        ...

    def recall(self, bearer: Secret, *, edge: str, workload_hint: str = "") -> tuple[Principal, Standing] | None:
        """The principal that it proved a moment ago; to be confirmed before anything leaves."""
        ...

    async def verify_user_token(self, principal: Principal, token: Secret) -> VerifiedUser:
        """The user of a second bearer, which must pass that workload's own authorizer.

        Raises:
            CallerError: If it proves nothing.
            StorageError: If that cannot be known now.
        """
        ...


class Named(Protocol):
    """Knows workloads by their names."""

    async def find(self, tenant: str, name: str) -> WorkloadIdentity | None:
        """A workload by its name; to be confirmed before anything leaves, as the asker is."""
        ...


class Room(Protocol):
    """So many at once."""

    def hold(self, key: Any, group: Any) -> AbstractContextManager[bool]:
        """Take a place while the block lasts; False where there is none."""
        ...


class Counting(Protocol):
    """Counts what principals ask."""

    @property
    def running(self) -> Room:
        """Calls that run."""
        ...

    def admit(self, principal: Principal, *, has_room: bool) -> None:
        """Let a call begin.

        Raises:
            RateLimited: If this principal calls too often.
        """
        ...


@dataclass(frozen=True, slots=True)
class Identity:
    """What an asker proved.

    Attributes:
        principal: For the trail and for counting: the operator, a workload, or a key of workloads that has named none yet.
        is_admin: It acts as an operator, and for every workload of the tenant.
        workload_ids: Those that it stands for, where it is no operator.
        may_assert_users: It may name a user by an id, also where the workload may not.
        signed_by: The access key that signed; empty for a bearer.
        region: That the signature is for.
        signature_hash: Names the signature; empty for a bearer.
    """

    principal: Principal
    is_admin: bool
    workload_ids: frozenset[str]
    may_assert_users: bool = False
    signed_by: str = ""
    region: str = DEFAULT_REGION
    signature_hash: bytes = b""


def identity_of_signer(signer: Signer) -> Identity:
    """What a signature proves: no workload yet, but a key that stands for some."""
    name = OPERATOR if signer.is_admin else ""
    return Identity(
        principal=Principal(
            workload=WorkloadIdentity("", signer.tenant, name),
            user=None,
            authenticated_by=Proof.ACCESS_KEY,
            verified=True,
            edge=EDGE,
            credential_id=signer.key_id,
        ),
        is_admin=signer.is_admin,
        workload_ids=signer.workload_ids,
        may_assert_users=signer.may_assert_users,
        signed_by=signer.access_key_id,
        region=signer.region,
        signature_hash=signer.signature_hash,
    )


def identity_of_bearer(principal: Principal) -> Identity:
    """What a bearer proves: a workload by its own key or its service's token, or an operator by a token with that scope.

    Raises:
        AccessDenied: If it is another bearer's kind: a user's own token, or a workload access token.
    """
    # A workload access token keeps the scopes of what it was made from; an operator is nobody by what was derived.
    if principal.is_operator_by_token:
        operator = replace(principal, workload=WorkloadIdentity("", principal.tenant, OPERATOR))
        return Identity(operator, is_admin=True, workload_ids=frozenset())
    if not principal.is_workload_itself:
        raise AccessDenied(
            "here a caller proves itself by an access key's signature, a workload key, or a service's own token; a workload "
            "access token belongs into the body, as workloadIdentityToken"
        )
    return Identity(principal, is_admin=False, workload_ids=frozenset({principal.workload.id}))


class Asker:
    """Whoever made one request."""

    def __init__(
        self, identity: Identity, workloads: Named, verifier: Verifier, counting: Counting, request_id: str, *, fresh: bool
    ) -> None:
        """Serve one request.

        Args:
            identity: What was proved.
            workloads: Knows them by their names.
            verifier: Verifies the bearers inside of the request.
            counting: Counts calls.
            request_id: Joins the trail's rows with the answer.
            fresh: Nobody is remembered any more: the configuration has changed.
        """
        self.identity = identity
        self.begun: Call | None = None
        self._places: list[AbstractContextManager[bool]] = []
        self._workloads = workloads
        self._verifier = verifier
        self._counting = counting
        self._request_id = request_id
        self._fresh = fresh

    @property
    def tenant(self) -> str:
        """Whose everything is that is asked here."""
        return self.identity.principal.tenant

    @property
    def region(self) -> str:
        """For ARNs; it means nothing."""
        return self.identity.region

    def call(self, action: str) -> Call:
        """A call of the asker's own: an operator's, where one was required.

        Raises:
            RateLimited: If it calls too often.
        """
        return self._begin(self.identity.principal, action)

    async def call_for(self, workload_name: str, action: str) -> Call:
        """A call of a workload that the asker names.

        Raises:
            NotFound: If there is none of this name, or it is none of the asker's.
            InsufficientScope: If the asker's own token has not the scope.
            RateLimited: If it calls too often.
        """
        own = self.identity.principal.workload
        is_own = own.id and own.name == workload_name
        workload = own if is_own else await self._workloads.find(self.tenant, workload_name)
        if workload is None or not self.may_act_for(workload):
            ours = command(self.tenant)
            raise NotFound(
                "there is no workload identity of this name that this caller stands for; an operator sees which there are, and "
                f"which of them an access key is for: {ours} workloads list, {ours} access-keys list"
            )
        return self.call_as(workload, action)

    def call_as(self, workload: WorkloadIdentity, action: str) -> Call:
        """A call of a workload that the asker may act for, which was found otherwise than by its name.

        Raises:
            InsufficientScope: If the asker's own token has not the scope.
            RateLimited: If it calls too often.
        """
        identity = self.identity
        principal = replace(
            identity.principal,
            workload=workload,
            user=None,
            subject_token=None,
            may_assert_users=identity.may_assert_users,
        )
        return self._begin(_within(principal), action)

    async def call_by_token(self, token: Secret, action: str) -> Call:
        """A call of the workload and the user that a workload access token proves.

        Raises:
            Unauthenticated: If it proves nothing.
            TokenExpired: If it did once.
            AccessDenied: If it is of a workload that the asker may not act for.
            InsufficientScope: If it has not the scope.
            RateLimited: If it calls too often.
            StorageError: If that cannot be known now.
        """
        principal = self._recall(token)
        if principal is None:
            try:
                principal = await self._verifier.authenticate(token, edge=EDGE)
            except Unauthenticated:
                raise Unauthenticated(
                    "the workloadIdentityToken proves nothing here, or not any more; get a new one with GetWorkloadAccessToken"
                ) from None
        if principal.authenticated_by != Proof.WORKLOAD_TOKEN:
            raise Unauthenticated("the workloadIdentityToken is no workload access token; get one with GetWorkloadAccessToken")
        if not self.may_act_for(principal.workload):
            raise AccessDenied("the workloadIdentityToken is of a workload that this caller may not act for")
        signed_by = self.identity.signed_by or self.identity.principal.credential_id
        return self._begin(_within(replace(principal, signed_by=signed_by)), action)

    async def verify_user_token(self, principal: Principal, token: Secret) -> VerifiedUser:
        """The user whom their own token proves to a workload.

        Raises:
            CallerError: If it proves nobody to it.
            StorageError: If that cannot be known now.
        """
        try:
            return await self._verifier.verify_user_token(principal, token)
        except Unauthenticated:
            raise Unauthenticated(
                "the userToken is not accepted: it has to be a valid access token of a user, and fit the authorizer of this "
                f"very workload; an operator sees that: {command(principal.tenant)} workloads show {principal.workload.name}"
            ) from None

    def may_act_for(self, workload: WorkloadIdentity) -> bool:
        """Whether the asker may stand for this workload; for a disabled one, or one of another tenant, nobody may."""
        if workload.tenant != self.tenant or workload.disabled:
            return False
        return self.identity.is_admin or workload.id in self.identity.workload_ids

    def may_name_users(self, workload: WorkloadIdentity) -> bool:
        """Whether a user of this workload may be named by an id alone."""
        return workload.may_assert_users or self.identity.may_assert_users

    def stray(self, action: str) -> Call:
        """A call for the trail alone, of a request that came to no other."""
        return self.begun or Call(self.identity.principal, action, self._request_id)

    def _recall(self, token: Secret) -> Principal | None:
        """Whom a token proved a moment ago, if that can be relied on together with what is known of the asker."""
        known = None if self._fresh else self._verifier.recall(token, edge=EDGE)
        if known is None:
            return None
        principal, remembered = known
        before = standing.get()
        if before is None or before.is_confirmed:
            standing.set(remembered)
        elif before.epoch != remembered.epoch:
            return None
        return principal

    def _begin(self, principal: Principal, action: str) -> Call:
        self.begun = Call(principal, action, self._request_id)
        workload = (principal.tenant, principal.workload.id)
        place = self._counting.running.hold((*workload, principal.user_key), workload)
        has_room = place.__enter__()
        self._places.append(place)
        self._counting.admit(principal, has_room=has_room)
        return self.begun

    def leave(self) -> None:
        """What was begun does not run any more."""
        for place in self._places:
            place.__exit__(None, None, None)
        self._places.clear()


def _within(principal: Principal) -> Principal:
    """The principal, if its token may be used for this at all.

    Raises:
        InsufficientScope: If it may not.
    """
    if principal.tool_scopes is not None and TOKEN_SCOPE not in principal.tool_scopes:
        raise InsufficientScope(f"the caller's token needs the scope {TOKEN_SCOPE}", scopes=(TOKEN_SCOPE,))
    return principal
