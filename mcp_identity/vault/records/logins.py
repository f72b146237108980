"""Sign-ins of browsers on their way: one use, ten minutes, bound to the browser in which the button was pressed.

`state` and the browser's cookie are kept as hashes. Verifier and nonce are sealed together with everything that the row is
found by and decided on, so a row that was edited or mixed from two opens for nobody.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import delete, func, insert, select

from mcp_identity.domain.credentials import Secret
from mcp_identity.domain.errors import VaultCorrupt
from mcp_identity.domain.login import BrowserSession, LoginPurpose
from mcp_identity.vault.envelope import Place
from mcp_identity.vault.records.base import intact, table
from mcp_identity.vault.records.issuers import IssuerRecords
from mcp_identity.vault.records.moments import micros, moment
from mcp_identity.vault.records.protected import Protected, Row, SealedColumn
from mcp_identity.vault.records.users import UserRecords

_LOGINS = table("login_transactions")
_OPEN = "open"
_FOUND_BY = ("purpose", "issuer_id", "consent_id", "state_hash", "cookie_hash", "expires_at")


@dataclass(frozen=True, slots=True)
class Login:
    """A sign-in on its way.

    Attributes:
        tenant: The tenant.
        issuer_id: The row of the issuer that was asked.
        purpose: What for.
        consent_id: The consent that it is for, or empty.
        state_hash: SHA-256 of ``state``.
        browser_hash: SHA-256 of the cookie that this browser was given.
        code_verifier: PKCE (RFC 7636 §4.1).
        nonce: For the ID token.
        redirect_uri: Where the identity provider sends the browser back to.
        expires_at: When an unfinished one ends.
    """

    tenant: str
    issuer_id: str
    purpose: LoginPurpose
    consent_id: str
    state_hash: bytes
    browser_hash: bytes
    code_verifier: Secret
    nonce: str
    redirect_uri: str
    expires_at: datetime


class LoginRecords(IssuerRecords, UserRecords):
    """Sign-ins on their way, and what became of them."""

    def insert_login(self, login: Login) -> None:
        """Keep a new one."""
        row_id, expires_at = self.new_id(), micros(login.expires_at)
        found_by = (login.purpose.value, login.issuer_id, login.consent_id, login.state_hash, login.browser_hash, expires_at)
        sealed = json.dumps([login.code_verifier.reveal(), login.nonce, login.redirect_uri]).encode()
        self.connection.execute(
            insert(_LOGINS),
            {
                "id": row_id,
                "tenant_id": login.tenant,
                "purpose": login.purpose.value,
                "issuer_id": login.issuer_id,
                "consent_id": login.consent_id,
                "state_hash": login.state_hash,
                "cookie_hash": login.browser_hash,
                "sealed": self._seal(sealed, _place(login.tenant, row_id, *found_by)),
                "state": _OPEN,
                "created_at": micros(self.now),
                "expires_at": expires_at,
            },
        )

    def take_login(self, state_hash: bytes) -> Login | None:
        """Take the sign-in that an answer's ``state`` belongs to; nobody finds it again, whatever becomes of it.

        Raises:
            VaultCorrupt: If its row was changed outside the product.
        """
        row = self.connection.execute(select(_LOGINS).where(_LOGINS.c.state_hash == state_hash)).mappings().first()
        if row is None:
            return None
        intact("login_transactions", row)
        expires_at = moment(row["expires_at"])
        if row["sealed"] is None or expires_at is None:
            raise VaultCorrupt("a sign-in was changed outside the product")
        place = _sealed_place(row)
        try:
            verifier, nonce, redirect_uri = json.loads(self._open(row["sealed"], place))
            purpose = LoginPurpose(row["purpose"])
        except (TypeError, ValueError):
            raise VaultCorrupt("a sign-in is not what the product wrote") from None
        taken = self.connection.execute(delete(_LOGINS).where(_LOGINS.c.id == row["id"], _LOGINS.c.state_hash == state_hash))
        if taken.rowcount != 1:
            return None
        return Login(
            tenant=row["tenant_id"],
            issuer_id=row["issuer_id"],
            purpose=purpose,
            consent_id=row["consent_id"],
            state_hash=state_hash,
            browser_hash=row["cookie_hash"],
            code_verifier=Secret(verifier),
            nonce=nonce,
            redirect_uri=redirect_uri,
            expires_at=expires_at,
        )

    def count_logins(self, purpose: LoginPurpose, consent_id: str) -> tuple[int, int]:
        """How many sign-ins of a kind are on their way, and how many of them for one consent."""
        live = (_LOGINS.c.purpose == purpose.value) & (_LOGINS.c.expires_at > micros(self.now))
        count = select(func.count()).select_from(_LOGINS)
        return (
            self.connection.execute(count.where(live)).scalar_one(),
            self.connection.execute(count.where(live & (_LOGINS.c.consent_id == consent_id))).scalar_one(),
        )

    def drop_oldest_logins(self, purpose: LoginPurpose, count: int) -> None:
        """Forget the sign-ins of a kind that were begun first, so many of them."""
        oldest = select(_LOGINS.c.id).where(_LOGINS.c.purpose == purpose.value).order_by(_LOGINS.c.created_at).limit(count)
        self.connection.execute(delete(_LOGINS).where(_LOGINS.c.id.in_(oldest.scalar_subquery())))

    def is_session_good(self, session: BrowserSession) -> bool:
        """Whether a browser session still proves its user: in time, its issuer still vouches, and nobody has ended it since.

        Raises:
            VaultCorrupt: If the issuer's or the user's row was changed outside the product.
        """
        issuer = self.find_issuer_id(session.tenant, session.issuer_id)
        if issuer is None or issuer.disabled or not issuer.can_log_in or issuer.issuer != session.user.issuer:
            return False
        not_before = self.find_not_before(session.tenant, session.user)
        return self.now < session.expires_at and (not_before is None or session.issued_at > not_before)

    def sweep_logins(self) -> int:
        """Forget the sign-ins that nobody finished in time."""
        return self.connection.execute(delete(_LOGINS).where(_LOGINS.c.expires_at <= micros(self.now))).rowcount

    def has_late_logins(self) -> bool:
        """Whether `sweep_logins` has something to forget."""
        late = select(_LOGINS.c.id).where(_LOGINS.c.expires_at <= micros(self.now)).limit(1)
        return self.connection.execute(late).first() is not None


def _place(tenant: str, row_id: str, *found_by: str | bytes | int) -> Place:
    context = tuple(each.hex() if isinstance(each, bytes) else str(each) for each in found_by)
    return Place("login_transactions", tenant, row_id, "sealed", context=context)


def _sealed_place(row: Row) -> Place:
    return _place(row["tenant_id"], row["id"], *(row[name] for name in _FOUND_BY))


PROTECTED = Protected("login_transactions", (SealedColumn("sealed", _sealed_place),))
