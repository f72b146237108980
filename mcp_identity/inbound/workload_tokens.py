"""Is this bearer a workload access token of this vault, and what does it say?

Opaque: sealed under a key of its own that is derived from the vault's, for this vault and this public URL and nowhere else.
There is no table, so every replica of the vault opens it; whether what it says still holds (the workload, its epoch, the user)
is for whoever authenticates by it to read. It is a bearer: whoever holds it may use it until it ends. The user's own token is
in it only where the workload has a use for it, and nobody who holds it can see that one.
"""

from __future__ import annotations

import json
import re
from base64 import urlsafe_b64decode, urlsafe_b64encode
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Protocol

from mcp_identity.domain.clock import Clock, Entropy, random_token
from mcp_identity.domain.credentials import Secret
from mcp_identity.domain.errors import TokenExpired, VaultCorrupt
from mcp_identity.domain.identity import SubjectToken, User, UserKind, WorkloadIdentity
from mcp_identity.inbound.jwt import EXPIRED, unauthenticated
from mcp_identity.vault.envelope import KEY_ID_BYTES, RANDOM_BYTES, DataKey, Place, open_sealed, seal
from mcp_identity.vault.records.moments import micros, moment

WORKLOAD_TOKEN_PREFIX = "mid_wat_"  # noqa: S105 - what tells the token from other bearers
MAXIMUM_TOKEN_LENGTH = 32 * 1024
"""A user's own token may be in it."""
TOOL_SCOPE_PREFIX = "identity:"
"""Of a token's scopes only those of our own tools go into a workload access token."""
_TOKEN = re.compile(r"mid_wat_([A-Za-z0-9_-]{1,32760})")
_VERSION = 1
_JTI_BYTES = 16


class Sealing(Protocol):
    """The vault, as far as tokens are sealed with it."""

    @property
    def id(self) -> str:
        """Names it; random."""
        ...

    def derived_key(self, purpose: str) -> bytes:
        """A key of it for one purpose."""
        ...


@dataclass(frozen=True, slots=True)
class WorkloadToken:
    """What a workload access token says; that we sealed it, and that it has not ended, is known.

    Attributes:
        tenant: The tenant.
        workload_id: The workload's immutable id.
        epoch: The workload's epoch when it was issued; another one now, and it has ended.
        user: The user, or None.
        token_id: Its id, for the trail.
        issued_at: When it was issued.
        expires_at: When it ends.
        tool_scopes: Which tools it may use; None where none are asked.
        subject_token: The user's own token, where the workload may exchange it somewhere.
    """

    tenant: str
    workload_id: str
    epoch: int
    user: User | None
    token_id: str
    issued_at: datetime
    expires_at: datetime
    tool_scopes: frozenset[str] | None
    subject_token: SubjectToken | None = field(default=None, repr=False)


class WorkloadTokens:
    """Seals and opens workload access tokens."""

    def __init__(self, vault: Sealing, clock: Clock, entropy: Entropy, public_url: str) -> None:
        """Keep what it works with.

        Args:
            vault: Whose key seals them.
            clock: Says whether one has ended.
            entropy: For ids and nonces.
            public_url: Where this server is reached; a token of another one does not open here.
        """
        self._vault = vault
        self._clock = clock
        self._entropy = entropy
        self._public_url = public_url

    def seal(
        self,
        workload: WorkloadIdentity,
        user: User | None,
        *,
        issued_at: datetime,
        expires_at: datetime,
        tool_scopes: frozenset[str] | None,
        subject_token: SubjectToken | None = None,
    ) -> tuple[Secret, str]:
        """Make a token; whether there may be one was decided before.

        Returns:
            The token, and its id for the trail.
        """
        token_id = random_token(self._entropy, _JTI_BYTES)
        scopes = None if tool_scopes is None else sorted(each for each in tool_scopes if each.startswith(TOOL_SCOPE_PREFIX))
        payload: dict[str, Any] = {
            "version": _VERSION,
            "tenant": workload.tenant,
            "workload": workload.id,
            "epoch": workload.epoch,
            "user": [user.issuer, user.subject, user.kind.value, user.display] if user else None,
            "jti": token_id,
            "issued": micros(issued_at),
            "expires": micros(expires_at),
            "scopes": scopes,
        }
        if subject_token is not None:
            parts = (subject_token.token.reveal(), subject_token.issuer_id, micros(subject_token.expires_at))
            payload["subject"] = parts
        text = json.dumps(payload, separators=(",", ":")).encode()
        sealed = seal(self._key(), text, self._place(), self._entropy.random_bytes(RANDOM_BYTES))
        return Secret(WORKLOAD_TOKEN_PREFIX + urlsafe_b64encode(sealed).rstrip(b"=").decode("ascii")), token_id

    def open(self, bearer: str) -> WorkloadToken:
        """Open a token.

        Raises:
            Unauthenticated: If it was not sealed here, for whatever reason.
            TokenExpired: If it was, and has ended.
        """
        found = _TOKEN.fullmatch(bearer) if len(bearer) <= MAXIMUM_TOKEN_LENGTH else None
        if found is None:
            raise unauthenticated()
        try:
            record = urlsafe_b64decode(found[1] + "=" * (-len(found[1]) % 4))
            text = open_sealed(self._find_key, record, self._place())
            token = _read(json.loads(text))
        except (VaultCorrupt, ValueError, KeyError, TypeError):
            raise unauthenticated() from None
        if token.expires_at <= self._clock.now():
            raise TokenExpired(EXPIRED)
        return token

    def _find_key(self, key_id: bytes) -> DataKey:
        key = self._key()
        if key.id != key_id:
            raise VaultCorrupt("a token names a key that this vault does not have")
        return key

    def _key(self) -> DataKey:
        key_id = self._vault.derived_key("workload-token-key-id")[:KEY_ID_BYTES]
        return DataKey(key_id, self._vault.derived_key("workload-token"))

    def _place(self) -> Place:
        return Place("workload_token", "", self._vault.id, "bearer", context=(self._public_url,))


def _read(payload: dict[str, Any]) -> WorkloadToken:
    issued_at, expires_at = moment(payload["issued"]), moment(payload["expires"])
    if payload["version"] != _VERSION or issued_at is None or expires_at is None:
        raise ValueError
    user = None
    if payload["user"] is not None:
        issuer, subject, kind, display = payload["user"]
        user = User(issuer, subject, UserKind(kind), display)
    subject = None
    if payload.get("subject") is not None:
        token, issuer_id, ends = payload["subject"]
        subject = SubjectToken(Secret(token), issuer_id, moment(ends) or expires_at)
    scopes = payload["scopes"]
    return WorkloadToken(
        tenant=payload["tenant"],
        workload_id=payload["workload"],
        epoch=payload["epoch"],
        user=user,
        token_id=payload["jti"],
        issued_at=issued_at,
        expires_at=expires_at,
        tool_scopes=None if scopes is None else frozenset(scopes),
        subject_token=subject,
    )
