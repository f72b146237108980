"""The audit trail: append, and read back.

Each row's MAC is HMAC(audit key, MAC of the row before ‖ canonical row), and the writer's head moves in the same
transaction. Verifying and exporting the trail is not done here.
"""

from __future__ import annotations

import hmac
import json
from hashlib import sha256

from sqlalchemy import func, insert, select, update
from sqlalchemy.exc import DBAPIError

from mcp_identity.domain.audit import AuditEvent
from mcp_identity.domain.errors import AuditUnavailable
from mcp_identity.vault.envelope import length_prefixed
from mcp_identity.vault.records.base import RecordsBase, table
from mcp_identity.vault.records.chain import GENESIS, Head
from mcp_identity.vault.records.moments import micros, moment

_EVENTS, _HEADS, _WRITERS = (table(name) for name in ("audit_events", "audit_heads", "audit_writers"))
_INSERT = insert(_EVENTS)
_MAC_VERSION = b"\x01"
_TEXT_LIMIT = 512
CHAINED = (
    "id", "tenant_id", "writer_id", "sequence", "at", "correlation_id", "workload", "workload_id", "user_key", "user_display",
    "verified", "edge", "action", "provider", "flow", "scopes", "outcome", "detail",
)  # fmt: skip
"""The columns that version 1 of the chain covers, in order."""


def event_mac(key: bytes, previous: bytes, row: dict[str, str | int]) -> bytes:
    """The MAC of one row of the trail, chained to the row before."""
    canonical = length_prefixed(_MAC_VERSION, *(str(row[name]).encode() for name in CHAINED))
    return hmac.digest(key, length_prefixed(previous, canonical), sha256)


def writer_mac(key: bytes, previous: bytes, number: int, writer_id: str, started_at: int) -> bytes:
    """The MAC of one entry of the writers' registry, chained to the entry before."""
    parts = (b"writer", previous, str(number).encode(), writer_id.encode(), str(started_at).encode())
    return hmac.digest(key, length_prefixed(*parts), sha256)


class AuditRecords(RecordsBase):
    """Who got what, or was refused."""

    def append_audit(self, event: AuditEvent) -> None:
        """Write one event in this transaction.

        Raises:
            AuditUnavailable: If it cannot be written; then nothing may be released.
        """
        try:
            self._append(event)
        except DBAPIError as error:
            raise AuditUnavailable("the audit trail cannot be written, so nothing was released") from error

    def _append(self, event: AuditEvent) -> None:
        head = self.chain.working
        if not head.registered:
            head = self._register()
        detail = {name: value[:_TEXT_LIMIT] for name, value in event.detail.items()}
        row: dict[str, str | int] = {
            "id": self.new_id(),
            "tenant_id": event.tenant,
            "writer_id": self.chain.writer_id,
            "sequence": head.sequence + 1,
            "at": micros(self.now),
            "correlation_id": event.correlation_id,
            "workload": event.workload,
            "workload_id": event.workload_id,
            "user_key": event.user_key,
            "user_display": event.user_display,
            "verified": int(event.verified),
            "edge": event.edge,
            "action": event.action,
            "provider": event.provider[:_TEXT_LIMIT],
            "flow": event.flow,
            "scopes": " ".join(event.scopes),
            "outcome": event.outcome,
            "detail": json.dumps(detail, sort_keys=True, separators=(",", ":")) if detail else "",
        }
        mac = event_mac(self.ring.derived("audit"), head.mac, row)
        self.connection.execute(_INSERT, {**row, "mac": mac})
        self.chain.working = Head(head.sequence + 1, mac, registered=True)

    def _register(self) -> Head:
        last = self.connection.execute(select(_WRITERS).order_by(_WRITERS.c.number.desc()).limit(1)).mappings().first()
        number, previous = (last["number"] + 1, last["mac"]) if last else (1, GENESIS)
        started_at, writer_id = micros(self.now), self.chain.writer_id
        mac = writer_mac(self.ring.derived("audit"), previous, number, writer_id, started_at)
        self.connection.execute(
            insert(_WRITERS), {"number": number, "writer_id": writer_id, "started_at": started_at, "mac": mac}
        )
        self.connection.execute(insert(_HEADS), {"writer_id": writer_id, "sequence": 0, "mac": GENESIS})
        return Head(registered=True)

    def move_audit_head(self) -> None:
        """Put the head where the chain ends; once per batch, before COMMIT.

        Raises:
            AuditUnavailable: If it cannot be written.
        """
        head = self.chain.working
        if head == self.chain.committed:
            return
        try:
            self.connection.execute(
                update(_HEADS).where(_HEADS.c.writer_id == self.chain.writer_id).values(sequence=head.sequence, mac=head.mac)
            )
        except DBAPIError as error:
            raise AuditUnavailable("the audit trail cannot be written, so nothing was released") from error

    def list_audit(self, tenant: str, *, limit: int, after: int = 0) -> list[tuple[int, AuditEvent]]:
        """The latest events of a tenant, oldest first, each with its place in the table.

        Args:
            tenant: The tenant.
            limit: The most events.
            after: Only events behind this place.
        """
        place = _EVENTS.c.at
        query = select(_EVENTS).where(_EVENTS.c.tenant_id == tenant, place > after)
        rows = self.connection.execute(query.order_by(place.desc(), _EVENTS.c.sequence.desc()).limit(limit)).mappings().all()
        return [
            (
                row["at"],
                AuditEvent(
                    tenant=row["tenant_id"],
                    workload=row["workload"],
                    workload_id=row["workload_id"],
                    user_key=row["user_key"],
                    user_display=row["user_display"],
                    verified=bool(row["verified"]),
                    edge=row["edge"],
                    action=row["action"],
                    provider=row["provider"],
                    flow=row["flow"],
                    scopes=tuple(row["scopes"].split()),
                    outcome=row["outcome"],
                    correlation_id=row["correlation_id"],
                    detail=json.loads(row["detail"]) if row["detail"] else {},
                    at=moment(row["at"]),
                ),
            )
            for row in reversed(rows)
        ]

    def count_audit(self) -> int:
        """How many events the trail holds."""
        return self.connection.execute(select(func.count()).select_from(_EVENTS)).scalar_one()
