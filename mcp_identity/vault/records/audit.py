"""The audit trail: append, and read back.

Each row's MAC is HMAC(audit key, MAC of the row before ‖ canonical row), and the writer's head moves in the same
transaction. Verifying and exporting the trail is not done here.
"""

from __future__ import annotations

import hmac
import json
from collections.abc import Mapping
from datetime import datetime
from hashlib import sha256
from typing import Any

from sqlalchemy import RowMapping, bindparam, func, insert, select, tuple_, update
from sqlalchemy.exc import DBAPIError

from mcp_identity.domain.audit import REFUSED, SERVED, AuditEvent, AuditQuery
from mcp_identity.domain.errors import AuditUnavailable, VaultCorrupt, clean_text
from mcp_identity.vault.envelope import length_prefixed
from mcp_identity.vault.failures import locked_for
from mcp_identity.vault.prepared import Prepared, Rows
from mcp_identity.vault.records.base import RecordsBase, intact, table
from mcp_identity.vault.records.chain import GENESIS, Head
from mcp_identity.vault.records.moments import micros, moment

_EVENTS, _HEADS, _WRITERS = (table(name) for name in ("audit_events", "audit_heads", "audit_writers"))
_ROWS = Rows(_EVENTS)
_MOVE = Prepared(
    update(_HEADS).where(_HEADS.c.writer_id == bindparam("mine")).values(sequence=bindparam("number"), mac=bindparam("its_mac"))
)
_MAC_VERSION = b"\x01"
_TEXT_LIMIT = 512
_UNWRITTEN = "the audit trail cannot be written, so nothing was released"
RELEASING = ("get_token", "get_api_key", "call_api", "redeem_release")
"""The actions by which a grant is used."""
CHAINED = (
    "id", "tenant_id", "writer_id", "sequence", "at", "correlation_id", "workload", "workload_id", "user_key", "user_display",
    "verified", "edge", "action", "provider", "flow", "scopes", "outcome", "detail",
)  # fmt: skip
"""The columns that version 1 of the chain covers, in order."""


def event_mac(key: bytes, previous: bytes, row: Mapping[str, Any]) -> bytes:
    """The MAC of one row of the trail, chained to the row before."""
    canonical = length_prefixed(_MAC_VERSION, *(str(row[name]).encode() for name in CHAINED))
    return hmac.digest(key, length_prefixed(previous, canonical), sha256)


def writer_mac(key: bytes, previous: bytes, number: int, writer_id: str, started_at: int) -> bytes:
    """The MAC of one entry of the writers' registry, chained to the entry before."""
    parts = (b"writer", previous, str(number).encode(), writer_id.encode(), str(started_at).encode())
    return hmac.digest(key, length_prefixed(*parts), sha256)


AuditPlace = tuple[int, str, int]
"""Where an event stands in the trail: its time in microseconds, its writer, and its number there."""


class AuditRecords(RecordsBase):
    """Who got what, or was refused."""

    def append_audit(self, event: AuditEvent) -> None:
        """Write one event in this transaction: it is collected here, and written with the others before COMMIT.

        Raises:
            AuditUnavailable: If it cannot be written; then nothing may be released.
        """
        try:
            self._append(event)
        except UnicodeError as error:
            raise AuditUnavailable(_UNWRITTEN) from error

    def _append(self, event: AuditEvent) -> None:
        head = self.chain.working
        detail = {name: clean_text(value, _TEXT_LIMIT) for name, value in event.detail.items()}
        at = micros(self.now)
        row: dict[str, Any] = {
            # It begins with the time, so that one batch's rows come to lie side by side in the index and not all over it.
            "id": f"{at:016x}{self.entropy.random_bytes(8).hex()}",
            "tenant_id": event.tenant,
            "writer_id": self.chain.writer_id,
            "sequence": head.sequence + 1,
            "at": at,
            "correlation_id": clean_text(event.correlation_id, _TEXT_LIMIT),
            "workload": clean_text(event.workload, _TEXT_LIMIT),
            "workload_id": event.workload_id,
            "user_key": event.user_key,
            "user_display": clean_text(event.user_display, _TEXT_LIMIT),
            "verified": int(event.verified),
            "edge": event.edge,
            "action": event.action,
            "provider": clean_text(event.provider, _TEXT_LIMIT),
            "flow": event.flow,
            "scopes": " ".join(event.scopes),
            "outcome": event.outcome,
            "detail": json.dumps(detail, sort_keys=True, separators=(",", ":")) if detail else "",
        }
        row["mac"] = mac = event_mac(self.ring.derived("audit"), head.mac, row)
        self.trail.append(row)
        self.chain.working = Head(head.sequence + 1, mac, registered=True)

    def write_audit(self) -> None:
        """Write what was collected and put the head where the chain ends; once per batch, before COMMIT.

        Raises:
            AuditUnavailable: If it cannot be written; then nothing of the batch may be released.
        """
        if not self.trail:
            return
        head = self.chain.working
        try:
            if not self.chain.committed.registered:
                self._register()
            # A trigger could swallow a row without an error.
            added = _ROWS.add(self.connection, self.trail)
            moved = _MOVE.run(self.connection, {"mine": self.chain.writer_id, "number": head.sequence, "its_mac": head.mac})
        except DBAPIError as error:
            why = locked_for(error)
            raise AuditUnavailable(f"{_UNWRITTEN} ({why})" if why else _UNWRITTEN) from error
        if added != len(self.trail):
            raise AuditUnavailable(_UNWRITTEN)
        if moved.rowcount != 1:
            raise AuditUnavailable("the head of the audit trail was removed outside the product, so nothing was released")

    def _register(self) -> None:
        last = self.connection.execute(select(_WRITERS).order_by(_WRITERS.c.number.desc()).limit(1)).mappings().first()
        number, previous = (last["number"] + 1, last["mac"]) if last else (1, GENESIS)
        started_at, writer_id = micros(self.now), self.chain.writer_id
        mac = writer_mac(self.ring.derived("audit"), previous, number, writer_id, started_at)
        self.connection.execute(
            insert(_WRITERS), {"number": number, "writer_id": writer_id, "started_at": started_at, "mac": mac}
        )
        self.connection.execute(insert(_HEADS), {"writer_id": writer_id, "sequence": 0, "mac": GENESIS})

    def settle_audit_head(self) -> None:
        """After a COMMIT of which nobody knows whether it stands: continue from what does.

        Raises:
            AuditUnavailable: If the head is neither of the two that it can be.
        """
        chain = self.chain
        row = self.connection.execute(select(_HEADS).where(_HEADS.c.writer_id == chain.writer_id)).mappings().first()
        found = Head(row["sequence"], row["mac"], registered=True) if row else Head()
        if found not in (chain.working, chain.committed):
            raise AuditUnavailable("the head of the audit trail was changed outside the product, so nothing was released")
        chain.working = found
        chain.commit()

    def list_audit(self, tenant: str, *, limit: int, after: AuditPlace | None = None) -> list[tuple[AuditPlace, AuditEvent]]:
        """Events of a tenant, oldest first, each with its place in the trail.

        Args:
            tenant: The tenant.
            limit: The most events.
            after: The next events behind this place; None for the latest ones.
        """
        query = select(_EVENTS).where(_EVENTS.c.tenant_id == tenant).limit(limit)
        order = (_EVENTS.c.at, _EVENTS.c.writer_id, _EVENTS.c.sequence)
        if after is None:
            latest = query.order_by(*(column.desc() for column in order))
            rows = self.connection.execute(latest).mappings().all()[::-1]
        else:
            behind = query.where(tuple_(*order) > after).order_by(*order)
            rows = self.connection.execute(behind).mappings().all()
        return [((row["at"], row["writer_id"], row["sequence"]), _event(row)) for row in rows]

    def search_audit(
        self, tenant: str, query: AuditQuery, *, limit: int, before: AuditPlace | None = None
    ) -> list[tuple[AuditPlace, AuditEvent]]:
        """Events of a tenant, the newest first, each with its place in the trail.

        Args:
            tenant: The tenant.
            query: Which ones.
            limit: The most events.
            before: The next events before this place; None for the latest ones.
        """
        order, found = (_EVENTS.c.at, _EVENTS.c.writer_id, _EVENTS.c.sequence), [_EVENTS.c.tenant_id == tenant]
        if query.who:
            found.append(
                (_EVENTS.c.workload == query.who) | (_EVENTS.c.user_key == query.who) | (_EVENTS.c.user_display == query.who)
            )
        if query.action:
            found.append(_EVENTS.c.action == query.action)
        if query.provider:
            found.append(_EVENTS.c.provider == query.provider)
        if query.outcome == REFUSED:
            found.append(_EVENTS.c.outcome.not_in(SERVED))
        elif query.outcome:
            found.append(_EVENTS.c.outcome == query.outcome)
        if query.since:
            found.append(_EVENTS.c.at >= micros(query.since))
        if query.until:
            found.append(_EVENTS.c.at < micros(query.until))
        if before is not None:
            found += [_EVENTS.c.at <= before[0], tuple_(*order) < before]
        latest = select(_EVENTS).where(*found).order_by(*(column.desc() for column in order)).limit(limit)
        rows = self.connection.execute(latest).mappings().all()
        return [((row["at"], row["writer_id"], row["sequence"]), _event(row)) for row in rows]

    def last_releases(self, tenant: str, user_key: str) -> dict[tuple[str, str], datetime]:
        """When each workload was last served from each provider for one user, by workload id and provider name.

        For people to read: it is what the trail says, which is not verified here.
        """
        query = (
            select(_EVENTS.c.workload_id, _EVENTS.c.provider, func.max(_EVENTS.c.at))
            .where(
                _EVENTS.c.tenant_id == tenant,
                _EVENTS.c.user_key == user_key,
                _EVENTS.c.action.in_(RELEASING),
                _EVENTS.c.outcome == "ok",
            )
            .group_by(_EVENTS.c.workload_id, _EVENTS.c.provider)
        )
        found: dict[tuple[str, str], datetime] = {}
        for workload_id, provider, at in self.connection.execute(query).all():
            when = moment(at) if isinstance(at, int) else None
            if when is not None:
                found[str(workload_id), str(provider)] = when
        return found

    def count_audit(self) -> int:
        """How many events the trail holds."""
        return self.connection.execute(select(func.count()).select_from(_EVENTS)).scalar_one()


def _event(row: RowMapping) -> AuditEvent:
    try:
        return _readable_event(row)
    except (VaultCorrupt, OverflowError):  # what the row says cannot be shown; that it is there can, and hides no other
        unknown = AuditEvent("", "", "", "", "", verified=False, edge="", action="unreadable")
        return unknown.ending(VaultCorrupt.code)


def _readable_event(row: RowMapping) -> AuditEvent:
    intact("audit_events", row)
    try:
        detail = {str(name): str(value) for name, value in json.loads(row["detail"] or "{}").items()}
    except (ValueError, AttributeError):
        detail = {"detail": "unreadable"}  # whether the row was changed is for the chain's MACs to say; one row hides no other
    return AuditEvent(
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
        detail=detail,
        at=moment(row["at"]),
    )
