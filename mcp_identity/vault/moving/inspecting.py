"""Does every sealed cell of a vault open, does every MAC stand, and does the trail fit together?

Asked of a whole vault after it was carried, with its keys at hand. A row that does not stand hides no other: rows are
counted, because what was damaged before is damaged afterwards, and neither better nor worse for it. Sign-ins on their way
are not opened: they end within minutes.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Connection, RowMapping, Table, select

from mcp_identity.domain.errors import IdentityError, VaultCorrupt
from mcp_identity.vault.keys import VAULT, KeyNotLoaded, KeyRing
from mcp_identity.vault.moving.reading import AT_ONCE, Progress
from mcp_identity.vault.moving.state import CARRIED
from mcp_identity.vault.moving.trail import Seams
from mcp_identity.vault.records import Records
from mcp_identity.vault.records.audit import event_mac, writer_mac
from mcp_identity.vault.records.base import Caches, intact, table
from mcp_identity.vault.records.chain import GENESIS, AuditChain
from mcp_identity.vault.records.keys import read_wrapped_keys

_EVENTS, _HEADS, _WRITERS = (table(name) for name in ("audit_events", "audit_heads", "audit_writers"))
_KEY_ATTEMPTS = 3


@dataclass(slots=True)
class Findings:
    """What was found.

    Attributes:
        checked: Rows that were opened, or whose MAC was checked.
        unreadable: Of those, the ones that do not stand, by table.
        refreshable: Grants of users that stand and hold a refresh token, by vendor of their provider.
        active: All grants of users that stand and would be served.
    """

    checked: int = 0
    unreadable: dict[str, int] = field(default_factory=dict[str, int])
    refreshable: dict[str, int] = field(default_factory=dict[str, int])
    active: int = 0

    def note(self, name: str, count: int = 1) -> None:
        """Rows that do not stand."""
        self.unreadable[name] = self.unreadable.get(name, 0) + count


class Inspection(Records):
    """Records that are read to be checked, and not to be used."""

    def __init__(self, connection: Connection, ring: KeyRing, seams: Seams) -> None:
        """Look at one vault, in one transaction."""
        super().__init__(connection, ring, seams.entropy, Caches(), AuditChain(""), seams.clock.now())
        self._vendors: dict[str, str] = {}

    def inspect(self, progress: Progress) -> Findings:
        """Look at everything."""
        findings = Findings()
        looks: dict[str, Callable[[RowMapping, Findings], object]] = {
            "tenants": lambda row, _: self._check_row("tenants", row),
            "users": lambda row, _: self._check_row("users", row),
            "workload_identities": lambda row, _: self._workload(row),
            "workload_keys": lambda row, _: self._workload_key(row),
            "releases": lambda row, _: self._check_row("releases", row),
            "signing_keys": self._look_at_signing_key,
            "issuers": lambda row, _: self.open_login_secret(self._issuer(row)),
            "credential_providers": self._look_at_provider,
            "grants": self._look_at_grant,
            "consent_sessions": self._look_at_consent,
        }
        for each in sorted(CARRIED, key=lambda each: each.name == "grants"):  # providers first: grants are counted by vendor
            if look := looks.get(each.name):
                self._look(each, look, findings, progress)
        self._look_at_trail(findings, progress)
        return findings

    def _look(
        self, target: Table, look: Callable[[RowMapping, Findings], object], findings: Findings, progress: Progress
    ) -> None:
        options = {"stream_results": True, "yield_per": AT_ONCE}
        for rows in self.connection.execute(select(target), execution_options=options).mappings().partitions():
            for row in rows:
                findings.checked += 1
                try:
                    self._with_keys(lambda: look(row, findings))  # noqa: B023 - called before the next row comes
                except IdentityError:
                    findings.note(target.name)
            progress("opened", target.name, len(rows))

    def _with_keys(self, work: Callable[[], object]) -> None:
        for _ in range(_KEY_ATTEMPTS):
            try:
                work()
            except KeyNotLoaded as missing:
                self.ring.load(missing.tenant, read_wrapped_keys(self.connection, missing.tenant))
            else:
                return
        raise VaultCorrupt("a tenant's keys cannot be unwrapped")

    def _look_at_signing_key(self, row: RowMapping, _: Findings) -> None:
        self._check_row("signing_keys", row)
        if row["private_key"] is not None:
            for key in self.list_signing_keys(row["tenant_id"]):
                if key.id == row["id"]:
                    self.open_signing_key(key)

    def _look_at_provider(self, row: RowMapping, _: Findings) -> None:
        provider = self._decode(row).provider
        self._vendors[provider.id] = provider.vendor
        self.open_provider_secret(provider)

    def _look_at_grant(self, row: RowMapping, findings: Findings) -> None:
        grant = self._grant(row, self._key_of(row))
        if grant.key.user and grant.tokens is not None and grant.reason is None:
            findings.active += 1
            if grant.tokens.refresh_token is not None:
                vendor = self._vendors.get(grant.key.provider_row, "")
                findings.refreshable[vendor] = findings.refreshable.get(vendor, 0) + 1

    def _look_at_consent(self, row: RowMapping, _: Findings) -> None:
        self._session(row)
        if row["attempt_sealed"] is not None:
            self._attempt(row)
        if row["completion_hash"] is not None:
            self.find_completion(row["completion_hash"])

    def _look_at_trail(self, findings: Findings, progress: Progress) -> None:
        """Whether each chain is whole: every row follows the one before, and the head is where it ends."""
        self._with_keys(lambda: self.ring.current(VAULT))
        heads = {row.writer_id: (row.sequence, row.mac) for row in self.connection.execute(select(_HEADS)).all()}
        key, chains = self.ring.derived("audit"), dict.fromkeys(heads, (0, GENESIS))
        for count, row in enumerate(self._chained(), start=1):
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
        for number, row in enumerate(self._ordered(_WRITERS, _WRITERS.c.number), start=1):
            expected = writer_mac(key, previous, number, row["writer_id"], row["started_at"])
            if row["number"] != number or not hmac.compare_digest(row["mac"], expected):
                findings.note(_WRITERS.name)
            previous = row["mac"]
            registered.add(row["writer_id"])
        if strange := len(heads.keys() ^ registered):
            findings.note(_WRITERS.name, strange)

    def _chained(self) -> Iterator[RowMapping]:
        return self._ordered(_EVENTS, _EVENTS.c.writer_id, _EVENTS.c.sequence)

    def _ordered(self, target: Table, *order: Any) -> Iterator[RowMapping]:
        options = {"stream_results": True, "yield_per": AT_ONCE}
        for rows in self.connection.execute(select(target).order_by(*order), execution_options=options).mappings().partitions():
            yield from rows


def _follows(key: bytes, previous: bytes, row: RowMapping) -> bool:
    try:
        return hmac.compare_digest(event_mac(key, previous, dict(intact(_EVENTS.name, row))), row["mac"])
    except VaultCorrupt:
        return False
