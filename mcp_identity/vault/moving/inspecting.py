"""Does every sealed cell of a vault open, does every MAC stand, and does the trail fit together?

Asked of a whole vault after it was carried, with its keys at hand. A row that does not stand hides no other: rows are
counted, because what was damaged before is damaged afterwards, and neither better nor worse for it.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Connection, select

from mcp_identity.domain.credentials import GrantState
from mcp_identity.domain.errors import VaultCorrupt
from mcp_identity.vault.keys import VAULT, KeyNotLoaded, KeyRing
from mcp_identity.vault.moving.reading import AT_ONCE, Progress, read_rows, row_of
from mcp_identity.vault.moving.trail import Seams
from mcp_identity.vault.records import Records
from mcp_identity.vault.records.audit import event_mac, writer_mac
from mcp_identity.vault.records.base import Caches, intact, table
from mcp_identity.vault.records.chain import GENESIS, AuditChain
from mcp_identity.vault.records.grants import key_of_row
from mcp_identity.vault.records.keys import read_wrapped_keys
from mcp_identity.vault.records.protected import Protected
from mcp_identity.vault.records.registry import PROTECTED

_EVENTS, _HEADS, _WRITERS = (table(name) for name in ("audit_events", "audit_heads", "audit_writers"))
_KEY_ATTEMPTS = 3


@dataclass(slots=True)
class Findings:
    """What was found.

    Attributes:
        checked: Rows that were opened, or whose MAC was checked.
        unreadable: Of those, the ones that do not stand, by table.
        active: Grants of users that stand and would be served.
        refreshable: Of those, the ones with a refresh token.
    """

    checked: int = 0
    unreadable: dict[str, int] = field(default_factory=dict[str, int])
    active: int = 0
    refreshable: int = 0

    def note(self, name: str, count: int = 1) -> None:
        """Rows that do not stand."""
        self.unreadable[name] = self.unreadable.get(name, 0) + count


class Inspection(Records):
    """Records that are read to be checked, and not to be used."""

    def __init__(self, connection: Connection, ring: KeyRing, seams: Seams) -> None:
        """Look at one vault, in one transaction."""
        super().__init__(connection, ring, seams.entropy, Caches(), AuditChain(""), seams.clock.now(), seams.clock)

    def inspect(self, progress: Progress) -> Findings:
        """Look at everything."""
        findings = Findings()
        for protected in PROTECTED.values():
            self._look(protected, findings, progress)
        self._look_at_trail(findings, progress)
        return findings

    def _look(self, protected: Protected, findings: Findings, progress: Progress) -> None:
        target = table(protected.table)
        for rows in read_rows(self.connection, target):
            for row in rows:
                findings.checked += 1
                try:
                    self._with_keys(lambda: self._look_at(protected, row_of(target, row), findings))  # noqa: B023 - called at once
                except VaultCorrupt:
                    findings.note(target.name)
            progress("opened", target.name, len(rows))

    def _look_at(self, protected: Protected, row: dict[str, Any], findings: Findings) -> None:
        intact(protected.table, row)
        if protected.table != "grants":
            protected.verify(self.ring, row)
            return
        grant = self._grant(row, key_of_row(row))
        if grant.key.user and grant.state is GrantState.ACTIVE and grant.tokens is not None:
            findings.active += 1
            findings.refreshable += grant.tokens.refresh_token is not None

    def _with_keys(self, work: Callable[[], object]) -> None:
        for _ in range(_KEY_ATTEMPTS):
            try:
                work()
            except KeyNotLoaded as missing:
                self.ring.load(missing.tenant, read_wrapped_keys(self.connection, missing.tenant))
            else:
                return
        raise VaultCorrupt("a tenant's keys cannot be unwrapped")

    def _look_at_trail(self, findings: Findings, progress: Progress) -> None:
        """Whether each chain is whole: every row follows the one before, and the head is where it ends."""
        self._with_keys(lambda: self.ring.current(VAULT))
        heads = {row.writer_id: (row.sequence, row.mac) for row in self.connection.execute(select(_HEADS)).all()}
        key, chains = self.ring.derived("audit"), dict.fromkeys(heads, (0, GENESIS))
        for count, row in enumerate(self._ordered("audit_events", "writer_id", "sequence"), start=1):
            findings.checked += 1
            sequence, mac = chains.get(row["writer_id"], (0, GENESIS))
            if row["sequence"] != sequence + 1 or not _follows(key, mac, row):
                findings.note(_EVENTS.name)
            chains[row["writer_id"]] = row["sequence"], row["mac"]
            if count % AT_ONCE == 0:
                progress("opened", _EVENTS.name, AT_ONCE)
        if ends := sum(chains[writer] != heads.get(writer) for writer in chains):
            findings.note(_HEADS.name, ends)
        previous = GENESIS
        registered: set[str] = set()
        for number, row in enumerate(self._ordered("audit_writers", "number"), start=1):
            expected = writer_mac(key, previous, number, row["writer_id"], row["started_at"])
            if row["number"] != number or not hmac.compare_digest(row["mac"], expected):
                findings.note(_WRITERS.name)
            previous = row["mac"]
            registered.add(row["writer_id"])
        if strange := len(heads.keys() ^ registered):
            findings.note(_WRITERS.name, strange)

    def _ordered(self, name: str, *order: str) -> Iterator[dict[str, Any]]:
        target = table(name)
        for rows in read_rows(self.connection, target, *(target.c[column] for column in order)):
            for row in rows:
                yield row_of(target, row)


def _follows(key: bytes, previous: bytes, row: dict[str, Any]) -> bool:
    try:
        return hmac.compare_digest(event_mac(key, previous, intact(_EVENTS.name, row)), row["mac"])
    except VaultCorrupt:
        return False
