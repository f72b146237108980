"""Whom does this bearer prove: which agent, and for which user?

Three kinds of bearer, told apart by how they begin: a workload's own key, a workload access token, and a JWT of an issuer that
an operator added. What the vault says of the workload and the user is read in one unit of work for each call, so that whoever
is disabled, removed or signed out is so at once. Which of several workloads a JWT speaks for follows from their authorizers;
the caller's word chooses only between workloads that share their tokens. Of a bearer nothing is kept but its digest, with what
it proved; who is remembered by it is believed only until the vault has confirmed them (`domain/standing.py`). Refusals are one
text for every reason; counting, limiting and auditing them is done at the gate, which knows where they come from.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import datetime
from hashlib import sha256
from typing import Protocol, TypeVar

from mcp_identity.domain.clock import Clock
from mcp_identity.domain.credentials import Secret
from mcp_identity.domain.errors import TokenExpired, Unauthenticated
from mcp_identity.domain.identity import Principal, Proof, SubjectToken, User, UserKind, WorkloadIdentity
from mcp_identity.domain.issuer import Issuer
from mcp_identity.domain.standing import Standing
from mcp_identity.domain.workload_key import WORKLOAD_KEY_PREFIX
from mcp_identity.inbound.jwt import VerifiedToken, issuer_of, read_token, unauthenticated, verify_access_token
from mcp_identity.inbound.workload_keys import digest_of, find_key
from mcp_identity.inbound.workload_tokens import WORKLOAD_TOKEN_PREFIX, WorkloadToken, WorkloadTokens
from mcp_identity.oauth.jws import CompactToken, PublicKey
from mcp_identity.vault.records import Records
from mcp_identity.vault.vault import Vault

T = TypeVar("T")
_CHANGES_SEEN = 3
"""How often the issuers may change under one authentication."""
REMEMBERED_SECONDS = 60.0
"""How long what a bearer proved is remembered; a key that an issuer withdraws counts no longer than that."""
FRESH_SECONDS = 1.0
"""How lately this process must have looked at the vault's configuration for anybody to be remembered."""
MOST_REMEMBERED = 4096


class Keys(Protocol):
    """Knows with which keys an issuer signs."""

    async def get(self, issuer: Issuer, key_id: str | None) -> tuple[PublicKey, ...]:
        """The issuer's keys; none where they cannot be had."""
        ...


@dataclass(frozen=True, slots=True)
class VerifiedUser:
    """A user, as their own token proves.

    Attributes:
        user: Who.
        expires_at: When the token ends.
        issuer_id: The row of the issuer that says so.
        tool_scopes: Which tools that token may use; None where its issuer is asked for none.
    """

    user: User
    expires_at: datetime
    issuer_id: str
    tool_scopes: frozenset[str] | None = None
    subject_token: SubjectToken | None = field(default=None, repr=False, compare=False)
    """The token itself."""


@dataclass(frozen=True, slots=True)
class _Known:
    """Whom a bearer proved, under which configuration epoch, and when by the monotonic clock.

    Of the user's own token only this is kept: whose it is, and when it ends. The next call brings the token again.
    """

    principal: Principal
    epoch: int
    at: float
    subject: tuple[str, datetime] | None


class Authenticator:
    """Believes bearers, or does not."""

    def __init__(self, vault: Vault, keys: Keys, tokens: WorkloadTokens, clock: Clock) -> None:
        """Keep what it works with.

        Args:
            vault: Issuers, workloads, users and keys.
            keys: The issuers' keys.
            tokens: Opens workload access tokens.
            clock: For expiries.
        """
        self._vault = vault
        self._keys = keys
        self._tokens = tokens
        self._clock = clock
        self._issuers: tuple[Issuer, ...] = ()
        self._known: OrderedDict[bytes, _Known] = OrderedDict()

    async def authenticate(self, bearer: Secret, *, edge: str, workload_hint: str = "") -> Principal:
        """The principal that a bearer proves.

        Args:
            bearer: What the caller brings.
            edge: The door that it came through, for the trail.
            workload_hint: The name of the workload that the caller wants to be; heard only between workloads that share
                their tokens.

        Raises:
            Unauthenticated: If it proves nothing, for whatever reason.
            TokenExpired: If it did, and has ended.
            StorageError: If that cannot be known now.
        """
        principal, epoch = await self._verify(bearer.reveal(), edge, workload_hint)
        self._remember(_name_of(bearer, edge, workload_hint), principal, epoch)
        return principal

    def recall(self, bearer: Secret, *, edge: str, workload_hint: str = "") -> tuple[Principal, Standing] | None:
        """The principal that this bearer proved a moment ago, under the configuration that still holds as far as is known.

        Whoever takes this word must have it confirmed before anything leaves.
        """
        name = _name_of(bearer, edge, workload_hint)
        known = self._known.get(name)
        if known is None:
            return None
        principal, now = known.principal, self._clock.monotonic()
        is_over = principal.expires_at is not None and principal.expires_at <= self._clock.now()
        if is_over or now - known.at > REMEMBERED_SECONDS or known.epoch != self._vault.recent_epoch(FRESH_SECONDS):
            return None
        if known.subject is not None:
            try:
                principal = replace(principal, subject_token=self._subject_in(bearer, *known.subject))
            except TokenExpired:  # this very moment
                return None
        return principal, Standing(known.epoch)

    def _subject_in(self, bearer: Secret, issuer_id: str, expires_at: datetime) -> SubjectToken | None:
        """The user's own token in a bearer that was verified a moment ago: it is the bearer, or is sealed in it."""
        text = bearer.reveal()
        if text.startswith(WORKLOAD_TOKEN_PREFIX):
            return self._tokens.open(text).subject_token
        return SubjectToken(bearer, issuer_id, expires_at)

    def _remember(self, name: bytes, principal: Principal, epoch: int) -> None:
        subject = principal.subject_token
        if subject is None:
            self._known[name] = _Known(principal, epoch, self._clock.monotonic(), None)
        else:
            bare, facts = replace(principal, subject_token=None), (subject.issuer_id, subject.expires_at)
            self._known[name] = _Known(bare, epoch, self._clock.monotonic(), facts)
        self._known.move_to_end(name)
        if len(self._known) > MOST_REMEMBERED:
            self._known.popitem(last=False)

    async def _verify(self, text: str, edge: str, workload_hint: str) -> tuple[Principal, int]:
        """The principal, and the configuration epoch that they were read under."""
        if text.startswith(WORKLOAD_KEY_PREFIX):
            digest = digest_of(Secret(text))
            return await self._ask(lambda records: _principal_of_key(records, digest, edge))
        if text.startswith(WORKLOAD_TOKEN_PREFIX):
            token = self._tokens.open(text)
            return await self._ask(lambda records: _principal_of_token(records, token, edge))
        return await self._of_jwt(
            text, lambda records, verified: _principal_of_jwt(records, text, verified, edge, workload_hint)
        )

    async def verify_user_token(self, principal: Principal, token: Secret) -> VerifiedUser:
        """The user of a second bearer: a JWT that the calling workload's own authorizer accepts.

        Raises:
            Unauthenticated: If it proves no user to this workload, for whatever reason.
            TokenExpired: If it did, and has ended.
            StorageError: If that cannot be known now.
        """
        user, _ = await self._of_jwt(token.reveal(), lambda records, verified: _user_for(records, verified, principal))
        return replace(user, subject_token=SubjectToken(token, user.issuer_id, user.expires_at))

    async def _of_jwt(self, text: str, decide: Callable[[Records, VerifiedToken], T | None]) -> tuple[T, int]:
        """Verify a JWT, and let the vault decide what it proves, under which configuration epoch."""
        token = read_token(text)
        for _ in range(_CHANGES_SEEN):
            issuer = await self._issuer(token)
            verified = verify_access_token(token, issuer, await self._keys.get(issuer, token.key_id), self._clock.now())

            def unit(records: Records, verified: VerifiedToken = verified) -> tuple[bool, T | None, int]:
                # An issuer that was removed or changed since we looked vouches for nothing.
                stands = any(each == verified.issuer for each in records.all_issuers())
                return stands, decide(records, verified) if stands else None, records.caches.epoch

            stands, found, epoch = await self._vault.run(unit)
            if found is not None:
                return found, epoch
            if stands:
                break
            self._issuers = ()
        raise unauthenticated()

    async def _issuer(self, token: CompactToken) -> Issuer:
        """The issuer that a token names; looked for once more in the vault, where it is not among those that we know."""
        try:
            return issuer_of(token, self._issuers)
        except Unauthenticated:
            self._issuers = await self._vault.run(lambda records: records.all_issuers())
            return issuer_of(token, self._issuers)

    async def _ask(self, unit: Callable[[Records], T | None]) -> tuple[T, int]:
        """Run a unit; one that finds nobody says None, since one that raises would cost the writer what it has decoded."""
        found, epoch = await self._vault.run(lambda records: (unit(records), records.caches.epoch))
        if found is None:
            raise unauthenticated()
        return found, epoch


def _name_of(bearer: Secret, edge: str, workload_hint: str) -> bytes:
    return sha256(f"{edge}\n{workload_hint}\n{bearer.reveal()}".encode()).digest()


def _principal_of_key(records: Records, digest: bytes, edge: str) -> Principal | None:
    key = find_key(records, digest)
    workload = records.find_workload_id(key.tenant, key.workload_id) if key else None
    if key is None or workload is None or workload.disabled:
        return None
    return Principal(
        workload=workload,
        user=None,
        authenticated_by=Proof.WORKLOAD_KEY,
        verified=True,
        edge=edge,
        credential_id=key.id,
        expires_at=key.expires_at,
    )


def _principal_of_token(records: Records, token: WorkloadToken, edge: str) -> Principal | None:
    workload = records.find_workload_id(token.tenant, token.workload_id)
    if workload is None or workload.disabled or workload.epoch != token.epoch:
        return None
    if token.user is not None and not _still_counts(records, token.tenant, token.user, token.issued_at):
        return None
    return Principal(
        workload=workload,
        user=token.user,
        authenticated_by=Proof.WORKLOAD_TOKEN,
        verified=True,
        edge=edge,
        tool_scopes=token.tool_scopes,
        credential_id=token.token_id,
        expires_at=token.expires_at,
        subject_token=token.subject_token,
    )


def _principal_of_jwt(records: Records, text: str, verified: VerifiedToken, edge: str, hint: str) -> Principal | None:
    workload = _workload_of(records, verified, hint)
    if workload is None or workload.disabled or not _user_counts(records, verified):
        return None
    return Principal(
        workload=workload,
        user=verified.user,
        authenticated_by=Proof.JWT,
        verified=True,
        edge=edge,
        tool_scopes=_tool_scopes(verified),
        credential_id=verified.token_id,
        expires_at=verified.expires_at,
        subject_token=SubjectToken(Secret(text), verified.issuer.id, verified.expires_at) if verified.user else None,
    )


def _user_for(records: Records, verified: VerifiedToken, principal: Principal) -> VerifiedUser | None:
    workload = records.find_workload_id(principal.tenant, principal.workload.id)
    if workload is None or workload.disabled or verified.issuer.tenant != principal.tenant:
        return None
    user = verified.user
    if user is None or not _accepts(workload, verified) or not _user_counts(records, verified):
        return None
    return VerifiedUser(user, verified.expires_at, verified.issuer.id, _tool_scopes(verified))


def _workload_of(records: Records, verified: VerifiedToken, hint: str) -> WorkloadIdentity | None:
    """The one workload that a token speaks for; of several, the one that is named, if all of them share their tokens."""
    accepting = [each for each in records.workloads_with_authorizer(verified.issuer.tenant) if _accepts(each, verified)]
    if len(accepting) > 1:
        accepting = (
            [each for each in accepting if each.name == hint] if all(each.shared_authorizer for each in accepting) else []
        )
    return accepting[0] if len(accepting) == 1 else None


def _accepts(workload: WorkloadIdentity, verified: VerifiedToken) -> bool:
    return workload.authorizer.accepts(
        verified.issuer.id, verified.audiences, verified.client, verified.scopes, verified.claims
    )


def _tool_scopes(verified: VerifiedToken) -> frozenset[str] | None:
    return verified.scopes if verified.issuer.require_tool_scopes else None


def _user_counts(records: Records, verified: VerifiedToken) -> bool:
    """Register the token's user at first sight; whether the token was issued after the user's credentials were ended."""
    if verified.user is None:
        return True
    not_before = records.register_user(verified.issuer.tenant, verified.user)
    return not_before is None or verified.issued_at > not_before


def _still_counts(records: Records, tenant: str, user: User, issued_at: datetime) -> bool:
    """Whether a user of a workload access token is one that their issuer still vouches for, and was not signed out since."""
    vouched = user.kind is not UserKind.OIDC or any(
        each.tenant == tenant and each.issuer == user.issuer and not each.disabled for each in records.all_issuers()
    )
    not_before = records.register_user(tenant, user)
    return vouched and (not_before is None or issued_at > not_before)
