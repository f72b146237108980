"""What counts once: the signature of a request, and what the first one came to. The outcome is sealed to its row.

A mark without an outcome says that the first one is under way, or that its process ended before anybody knew.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import RowMapping, delete, insert, select, update

from mcp_identity.domain.errors import VaultCorrupt
from mcp_identity.vault.envelope import Place
from mcp_identity.vault.records.base import RecordsBase, intact, table
from mcp_identity.vault.records.moments import micros, moment
from mcp_identity.vault.records.protected import Protected, Row, SealedColumn

_MARKS = table("replay_marks")


@dataclass(frozen=True, slots=True)
class ReplayMark:
    """Something that was seen.

    Attributes:
        id: Row id.
        created_at: When it was seen first.
        detail: What else was known of it then.
        outcome: What it came to; None as long as that is not known.
    """

    id: str
    created_at: datetime
    detail: str
    outcome: bytes | None


class ReplayMarkRecords(RecordsBase):
    """What was seen, for as long as it may come again."""

    def find_replay_mark(self, tenant: str, purpose: str, mark_hash: bytes) -> ReplayMark | None:
        """What is known of something that may have been seen; one whose time is over is not known any more.

        Raises:
            VaultCorrupt: If its row was changed outside the product.
        """
        row = self._mark_row(mark_hash)
        if row is None or row["expires_at"] <= micros(self.now):
            return None
        created_at = moment(row["created_at"])
        found, _, detail = row["purpose"].partition(" ")
        if row["tenant_id"] != tenant or found != purpose or created_at is None:
            raise VaultCorrupt("a replay mark is not what the product wrote")
        outcome = None if row["outcome"] is None else self._open(row["outcome"], _place(row))
        return ReplayMark(row["id"], created_at, detail, outcome)

    def insert_replay_mark(self, tenant: str, purpose: str, mark_hash: bytes, *, expires_at: datetime, detail: str = "") -> str:
        """Keep that something was seen, whose outcome is not known yet; the row's id. One whose time is over makes way.

        Args:
            tenant: The tenant.
            purpose: What kind of thing; a word.
            mark_hash: Tells it from everything else.
            expires_at: From then on it may come again.
            detail: What else is known of it now.
        """
        self.connection.execute(delete(_MARKS).where(_MARKS.c.mark_hash == mark_hash, _MARKS.c.expires_at <= micros(self.now)))
        mark_id = self.new_id()
        given = {
            "id": mark_id,
            "tenant_id": tenant,
            "purpose": f"{purpose} {detail}" if detail else purpose,
            "mark_hash": mark_hash,
            "outcome": None,
            "created_at": micros(self.now),
            "expires_at": micros(expires_at),
        }
        self.connection.execute(insert(_MARKS), given)
        return mark_id

    def settle_replay_mark(self, tenant: str, mark_id: str, outcome: bytes) -> None:
        """Keep what it came to; nothing where the mark was swept meanwhile."""
        mine = (_MARKS.c.tenant_id == tenant, _MARKS.c.id == mark_id)
        row = self.connection.execute(select(_MARKS).where(*mine)).mappings().first()
        if row is not None:
            sealed = self._seal(outcome, _place(intact("replay_marks", row)))
            self.connection.execute(update(_MARKS).where(*mine).values(outcome=sealed))

    def forget_replay_mark(self, tenant: str, mark_id: str) -> None:
        """It came to nothing, so it may come again."""
        self.connection.execute(delete(_MARKS).where(_MARKS.c.tenant_id == tenant, _MARKS.c.id == mark_id))

    def has_late_replay_marks(self) -> bool:
        """Whether `sweep_replay_marks` has something to forget."""
        late = select(_MARKS.c.id).where(_MARKS.c.expires_at <= micros(self.now)).limit(1)
        return self.connection.execute(late).first() is not None

    def sweep_replay_marks(self) -> int:
        """Forget what cannot come again; how many."""
        return self.connection.execute(delete(_MARKS).where(_MARKS.c.expires_at <= micros(self.now))).rowcount

    def _mark_row(self, mark_hash: bytes) -> RowMapping | None:
        row = self.connection.execute(select(_MARKS).where(_MARKS.c.mark_hash == mark_hash)).mappings().first()
        return None if row is None else intact("replay_marks", row)


def _place(row: Row) -> Place:
    """An outcome belongs to what was seen, and to its time."""
    context = (row["purpose"], row["mark_hash"].hex(), str(row["created_at"]), str(row["expires_at"]))
    return Place("replay_marks", row["tenant_id"], row["id"], "outcome", context=context)


PROTECTED = Protected("replay_marks", (SealedColumn("outcome", _place),))
