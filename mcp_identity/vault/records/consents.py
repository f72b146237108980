"""Consent sessions: the request is sealed when it is made, each attempt when the button is pressed.

Every step is one conditional update, so of two that try it at once one succeeds. `state` is kept as a hash, and the sealed
attempt repeats that hash and the browser's: whoever edits the columns gets `VaultCorrupt`, not somebody else's code. A code
that waits for the app's word is sealed together with the hash of the only name that it can be asked for by.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Collection
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, RowMapping, delete, func, insert, select, update

from mcp_identity.domain.audit import session_event
from mcp_identity.domain.consent import (
    FINAL_STATES,
    OPEN_STATES,
    RECEIVED_LIFETIME,
    ConsentSession,
    ConsentState,
    may_become,
)
from mcp_identity.domain.credentials import CLOCK_TOLERANCE, Secret
from mcp_identity.domain.errors import ConsentExpired, UpstreamUnavailable, VaultCorrupt
from mcp_identity.vault.envelope import Place
from mcp_identity.vault.records.audit import AuditRecords
from mcp_identity.vault.records.base import intact, table
from mcp_identity.vault.records.consent_cell import decode_request, encode_request
from mcp_identity.vault.records.moments import micros, moment
from mcp_identity.vault.records.owners import Owner, owned_rows
from mcp_identity.vault.records.protected import Protected, Row, SealedColumn

_SESSIONS = table("consent_sessions")
_UNDER_WAY = (ConsentState.RECEIVED.value, ConsentState.EXCHANGING.value)
_OPEN = [state.value for state in OPEN_STATES]
_WAITING = (ConsentState.PENDING.value, ConsentState.STARTED.value)
_ERASED: dict[str, Any] = {"attempt_sealed": None, "state_hash": None, "code": None}
KEPT = timedelta(days=1)
"""How long a final session can still be asked about."""
MOST_ATTEMPTS = 20
"""How often the button of one session may be pressed: by anybody who holds its link, and each time it is written down."""
SWEPT_AT_ONCE = 500
"""How many sessions one unit ends; the rest waits for the next."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """What pressing the button made; erased in every final state.

    Attributes:
        state_hash: SHA-256 of ``state``.
        browser_hash: SHA-256 of the cookie that this browser was given.
        code_verifier: PKCE (RFC 7636 §4.1).
        nonce: For an ID token; empty where none is expected.
        allow_other_account: The user ticked that another account is meant.
    """

    state_hash: bytes
    browser_hash: bytes
    code_verifier: Secret
    nonce: str
    allow_other_account: bool


@dataclass(frozen=True, slots=True)
class Received:
    """A code that waits for the app to say whose browser brought it.

    Attributes:
        attempt: What the button had made.
        code: The authorization code.
        received_at: When it came.
    """

    attempt: Attempt
    code: Secret
    received_at: datetime


def _request_place(tenant: str, session_id: str, request_hash: bytes, created_at: int, expires_at: int) -> Place:
    """The request is sealed together with what it is found by and with its time, so neither can be given to another."""
    context = (request_hash.hex(), str(created_at), str(expires_at))
    return Place("consent_sessions", tenant, session_id, "request", context=context)


def _attempt_place(tenant: str, session_id: str, attempt: int) -> Place:
    return Place("consent_sessions", tenant, session_id, "attempt_sealed", attempt)


def _code_place(tenant: str, session_id: str, attempt: int, completion_hash: bytes) -> Place:
    return Place("consent_sessions", tenant, session_id, "code", attempt, context=(completion_hash.hex(),))


def _sealed_request_place(row: Row) -> Place:
    return _request_place(row["tenant_id"], row["id"], row["request_hash"], row["created_at"], row["expires_at"])


PROTECTED = Protected(
    "consent_sessions",
    (
        SealedColumn("request", _sealed_request_place),
        SealedColumn("attempt_sealed", lambda row: _attempt_place(row["tenant_id"], row["id"], row["attempt"])),
        SealedColumn("code", lambda row: _code_place(row["tenant_id"], row["id"], row["attempt"], row["completion_hash"])),
    ),
)


class ConsentRecords(AuditRecords):
    """Attempts to get a user's consent."""

    def insert_session(self, session: ConsentSession, request_hash: bytes) -> None:
        """Keep a new session, with everything that was asked for sealed."""
        request, created_at, expires_at = session.request, micros(session.created_at), micros(session.expires_at)
        place = _request_place(request.tenant, session.id, request_hash, created_at, expires_at)
        self.connection.execute(
            insert(_SESSIONS),
            {
                "id": session.id,
                "tenant_id": request.tenant,
                "workload_id": request.workload_id,
                "user_key": request.user,
                "provider_row": request.provider_row,
                "request_hash": request_hash,
                "request": self._seal(encode_request(request), place),
                "state": session.state.value,
                "error_code": "",
                "attempt": 0,
                "grant_id": "",
                "created_at": created_at,
                "updated_at": created_at,
                "expires_at": expires_at,
                **_ERASED,
                "completion_hash": None,
            },
        )

    def find_session(self, session_id: str) -> ConsentSession | None:
        """A session by the random part of its URI; whose it is, the caller checks."""
        row = self.connection.execute(select(_SESSIONS).where(_SESSIONS.c.id == session_id)).mappings().first()
        return self._session(row) if row else None

    def ended_sessions(self, session_ids: Collection[str]) -> frozenset[str]:
        """Which of some sessions are over, or gone; a look at the columns, cheap enough to be repeated, and no proof."""
        waiting = _SESSIONS.c.state.in_(_WAITING) & (_SESSIONS.c.expires_at > micros(self.now))
        open_ = _SESSIONS.c.id.in_(session_ids) & (waiting | _SESSIONS.c.state.in_(_UNDER_WAY))
        return frozenset(session_ids) - set(self.connection.execute(select(_SESSIONS.c.id).where(open_)).scalars())

    def find_open_session(self, request_hash: bytes, tenant: str, workload_id: str, user: str) -> ConsentSession | None:
        """The open session of an equal request, so that asking twice gives one link."""
        query = select(_SESSIONS).where(
            _SESSIONS.c.tenant_id == tenant,
            _SESSIONS.c.workload_id == workload_id,
            _SESSIONS.c.user_key == user,
            _SESSIONS.c.request_hash == request_hash,
            _SESSIONS.c.state.in_(_WAITING),
            _SESSIONS.c.expires_at > micros(self.now),
        )
        row = self.connection.execute(query.order_by(_SESSIONS.c.created_at.desc()).limit(1)).mappings().first()
        return self._session(row) if row else None

    def count_sessions(self, tenant: str, workload_id: str, user: str, provider_row: str) -> tuple[int, int]:
        """How many consents are open for a principal, and how many links it got for one provider in the last minute."""
        mine = (_SESSIONS.c.tenant_id == tenant) & (_SESSIONS.c.workload_id == workload_id) & (_SESSIONS.c.user_key == user)
        pending = _SESSIONS.c.state.in_(_OPEN) & (_SESSIONS.c.expires_at > micros(self.now))
        recent = (_SESSIONS.c.provider_row == provider_row) & (_SESSIONS.c.created_at > micros(self.now - timedelta(minutes=1)))
        count = select(func.count()).select_from(_SESSIONS)
        return (
            self.connection.execute(count.where(mine & pending)).scalar_one(),
            self.connection.execute(count.where(mine & recent)).scalar_one(),
        )

    def count_open_sessions(self, tenant: str, workload_id: str) -> tuple[int, int]:
        """How many consents are open in the whole vault, and how many of those are one workload's."""
        waiting = _SESSIONS.c.state.in_(_WAITING) & (_SESSIONS.c.expires_at > micros(self.now))
        mine = (_SESSIONS.c.tenant_id == tenant) & (_SESSIONS.c.workload_id == workload_id)
        count = select(func.count()).select_from(_SESSIONS)
        return (
            self.connection.execute(count.where(waiting)).scalar_one(),
            self.connection.execute(count.where(waiting & mine)).scalar_one(),
        )

    def start_attempt(self, session: ConsentSession, attempt: Attempt) -> bool:
        """The button was pressed: `pending` or `started` → `started`; an earlier attempt is void.

        Returns:
            Whether it counts; not where the session has ended, or the button was pressed too often.
        """
        row = self.connection.execute(select(_SESSIONS).where(_SESSIONS.c.id == session.id)).mappings().first()
        if row is None:
            return False
        number, tenant = intact("consent_sessions", row)["attempt"] + 1, session.request.tenant
        if number > MOST_ATTEMPTS:
            return False
        plaintext = json.dumps(
            [
                attempt.state_hash.hex(),
                attempt.browser_hash.hex(),
                attempt.code_verifier.reveal(),
                attempt.nonce,
                attempt.allow_other_account,
            ]
        ).encode()
        return self._step(
            session.id,
            ConsentState.STARTED,
            attempt=number,
            attempt_sealed=self._seal(plaintext, _attempt_place(tenant, session.id, number)),
            state_hash=attempt.state_hash,
        )

    def find_attempt(self, state_hash: bytes) -> tuple[ConsentSession, Attempt] | None:
        """The session that a callback's ``state`` belongs to, with its attempt.

        Raises:
            VaultCorrupt: If the column and the sealed attempt differ.
        """
        row = self.connection.execute(select(_SESSIONS).where(_SESSIONS.c.state_hash == state_hash)).mappings().first()
        if row is None:
            return None
        session, attempt = self._session(row), self._attempt(row)
        if attempt.state_hash != state_hash:
            raise VaultCorrupt("a consent session's state was changed outside the product")
        return replace(session, allow_other_account=attempt.allow_other_account), attempt

    def consume_state(self, session: ConsentSession) -> bool:
        """Take the one answer that counts: `started` → `received` → `exchanging`."""
        return self._step(session.id, ConsentState.RECEIVED, state_hash=None) and self._step(
            session.id, ConsentState.EXCHANGING, attempt_sealed=None
        )

    def keep_code(self, session: ConsentSession, code: Secret, completion_hash: bytes) -> bool:
        """Take the one answer that counts, and let it wait for the app's word: `started` → `received`."""
        row = self.connection.execute(select(_SESSIONS).where(_SESSIONS.c.id == session.id)).mappings().first()
        if row is None:
            return False
        place = _code_place(session.request.tenant, session.id, intact("consent_sessions", row)["attempt"], completion_hash)
        sealed = self._seal(json.dumps([code.reveal(), micros(self.now)]).encode(), place)
        return self._step(session.id, ConsentState.RECEIVED, state_hash=None, code=sealed, completion_hash=completion_hash)

    def find_completion(self, completion_hash: bytes) -> tuple[ConsentSession, Received | None] | None:
        """The session whose code waits under this name; without the code once it was taken or has ended.

        Raises:
            VaultCorrupt: If the code, its name or its attempt was changed or moved.
        """
        query = select(_SESSIONS).where(_SESSIONS.c.completion_hash == completion_hash)
        row = self.connection.execute(query).mappings().first()
        if row is None:
            return None
        session = self._session(row)
        if session.state is not ConsentState.RECEIVED:
            return session, None
        if row["code"] is None:
            raise VaultCorrupt("a consent session's code was removed outside the product")
        attempt = self._attempt(row)
        place = _code_place(session.request.tenant, session.id, row["attempt"], completion_hash)
        try:
            code, at = json.loads(self._open(row["code"], place))
            received_at = moment(at)
        except (TypeError, ValueError):
            raise VaultCorrupt("a consent session's code is not what the product wrote") from None
        if received_at is None:
            raise VaultCorrupt("a consent session's code has no time")
        session = replace(session, allow_other_account=attempt.allow_other_account)
        return session, Received(attempt, Secret(code), received_at)

    def take_code(self, session: ConsentSession) -> bool:
        """Take the code that waits, once: `received` → `exchanging`."""
        return self._step(session.id, ConsentState.EXCHANGING, attempt_sealed=None, code=None)

    def complete_session(self, session_id: str, grant_id: str) -> bool:
        """`exchanging` → `completed`; False where the session was ended meanwhile, e.g. by a revocation."""
        return self._step(session_id, ConsentState.COMPLETED, grant_id=grant_id, **_ERASED)

    def end_session(self, session_id: str, state: ConsentState, error_code: str) -> bool:
        """Any open state → `denied`, `failed` or `expired`; False where it had ended."""
        return self._step(session_id, state, error_code=error_code, **_ERASED)

    def end_sessions(self, tenant: str, workload_id: str, user: str, provider_row: str, error_code: str) -> int:
        """End every open session of a principal at one provider; for a revocation."""
        owner = Owner(tenant, workload_id, provider_row=provider_row)
        return self._end_open(error_code, *owned_rows(_SESSIONS, owner), _SESSIONS.c.user_key == user)

    def end_sessions_of(self, owner: Owner, error_code: str) -> int:
        """The same for whomever an operator means."""
        return self._end_open(error_code, *owned_rows(_SESSIONS, owner))

    def _end_open(self, error_code: str, *conditions: ColumnElement[bool]) -> int:
        changed = self.connection.execute(
            update(_SESSIONS)
            .where(*conditions, _SESSIONS.c.state.in_(_OPEN))
            .values(state=ConsentState.FAILED.value, error_code=error_code, updated_at=micros(self.now), **_ERASED)
        )
        return changed.rowcount

    def sweep_sessions(self, limit: int = SWEPT_AT_ONCE) -> int:
        """End what nobody will finish, and forget what ended long ago.

        What is from the future was made while a clock was wrong. It would stay open until then, so it is ended, too.

        Args:
            limit: End at most so many of each kind; whoever must have them all goes on until none is ended.
        """
        future = _SESSIONS.c.updated_at > micros(self.now + CLOCK_TOLERANCE)
        old = (_SESSIONS.c.updated_at <= micros(self.now - RECEIVED_LIFETIME)) | future
        unclaimed = (_SESSIONS.c.state == ConsentState.RECEIVED.value) & old
        stuck = (_SESSIONS.c.state == ConsentState.EXCHANGING.value) & old
        late = _SESSIONS.c.state.in_(_WAITING) & ((_SESSIONS.c.expires_at <= micros(self.now)) | future)
        ended = self._sweep(late | unclaimed, ConsentState.EXPIRED, ConsentExpired.code, limit)
        ended += self._sweep(stuck, ConsentState.FAILED, UpstreamUnavailable.code, limit)
        final = _SESSIONS.c.state.in_([state.value for state in FINAL_STATES])
        self.connection.execute(delete(_SESSIONS).where(final & (_SESSIONS.c.updated_at <= micros(self.now - KEPT))))
        return ended

    def _sweep(self, condition: ColumnElement[bool], state: ConsentState, code: str, limit: int) -> int:
        ended = 0
        for row in self.connection.execute(select(_SESSIONS).where(condition).limit(limit)).mappings().all():
            ended += self.end_session(row["id"], state, code)
            with contextlib.suppress(VaultCorrupt):  # nobody can say whose it was; it ends all the same
                self.append_audit(session_event(self._session(row), "sweep_consent").ending(code))
        return ended

    def has_open_sessions(self) -> bool:
        """Whether anybody may still come back to the consent page."""
        stale = _SESSIONS.c.updated_at <= micros(self.now - RECEIVED_LIFETIME)
        waiting = _SESSIONS.c.state.in_(_WAITING) & (_SESSIONS.c.expires_at > micros(self.now))
        under_way = _SESSIONS.c.state.in_(_UNDER_WAY) & ~stale
        return self.connection.execute(select(_SESSIONS.c.id).where(waiting | under_way).limit(1)).first() is not None

    def has_unfinished_sessions(self) -> bool:
        """Whether `sweep_sessions` may have something to end."""
        unfinished = _SESSIONS.c.state.in_(_OPEN)
        return self.connection.execute(select(_SESSIONS.c.id).where(unfinished).limit(1)).first() is not None

    def delete_provider_sessions(self, tenant: str, provider_row: str) -> None:
        """Remove the sessions of a provider that is being removed."""
        self.connection.execute(
            delete(_SESSIONS).where(_SESSIONS.c.tenant_id == tenant, _SESSIONS.c.provider_row == provider_row)
        )

    def _step(self, session_id: str, following: ConsentState, **values: Any) -> bool:
        before = [state.value for state in ConsentState if may_become(state, following)]
        changed = self.connection.execute(
            update(_SESSIONS)
            .where(_SESSIONS.c.id == session_id, _SESSIONS.c.state.in_(before))
            .values(state=following.value, updated_at=micros(self.now), **values)
        )
        return changed.rowcount == 1

    def _attempt(self, row: RowMapping) -> Attempt:
        """What the button made, of a row that was read and checked."""
        if row["attempt_sealed"] is None:
            raise VaultCorrupt("a consent session's attempt was removed outside the product")
        place = _attempt_place(row["tenant_id"], row["id"], row["attempt"])
        try:
            state, browser, verifier, nonce, other = json.loads(self._open(row["attempt_sealed"], place))
            return Attempt(bytes.fromhex(state), bytes.fromhex(browser), Secret(verifier), nonce, other)
        except (TypeError, ValueError):
            raise VaultCorrupt("a consent attempt is not what the product wrote") from None

    def _session(self, row: RowMapping) -> ConsentSession:
        intact("consent_sessions", row)
        request = decode_request(self._open(row["request"], _sealed_request_place(row)))
        owner = (request.tenant, request.workload_id, request.user, request.provider_row)
        if owner != (row["tenant_id"], row["workload_id"], row["user_key"], row["provider_row"]):
            raise VaultCorrupt("a consent session was moved to another owner")
        created_at, expires_at = moment(row["created_at"]), moment(row["expires_at"])
        try:
            state = ConsentState(row["state"])
        except ValueError:
            raise VaultCorrupt("a consent session is in an unknown state") from None
        if created_at is None or expires_at is None:
            raise VaultCorrupt("a consent session has no time")
        return ConsentSession(row["id"], request, state, created_at, expires_at, row["error_code"], row["grant_id"])
