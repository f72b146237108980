"""What is in a vault now? Decrypted by the product's own functions in this process, with the integrity of everything."""

# pyright: reportPrivateUsage=false
# A test of invariants looks inside.

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from sqlalchemy import select

from mcp_identity import app
from mcp_identity.app import SystemClock, SystemEntropy
from mcp_identity.domain.credentials import Grant
from mcp_identity.settings import Settings
from mcp_identity.vault.records import Records
from mcp_identity.vault.records.audit import CHAINED, event_mac, writer_mac
from mcp_identity.vault.records.base import table
from mcp_identity.vault.records.chain import GENESIS
from mcp_identity.vault.vault import open_vault

OPEN_STATES = frozenset({"pending", "started", "received", "exchanging"})


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A vault at one moment.

    Attributes:
        grants: By the name of their provider.
        sessions: Of each consent its state, and since when, in seconds of the vault's clock.
        events: How many rows of the trail there are of each action and outcome.
        problems: What is wrong: with the file, with rows that do not open, with the trail.
    """

    grants: Mapping[str, Grant]
    sessions: Mapping[str, str]
    events: Mapping[tuple[str, str], int]
    problems: tuple[str, ...]


def look(settings: Settings) -> Snapshot:
    """Open the vault as one more process, read everything, and let go."""
    vault = open_vault(app.vault_location(settings), SystemClock(), SystemEntropy())
    try:
        return vault._read(_look)
    finally:
        vault.close()


def _look(records: Records) -> Snapshot:
    problems: list[str] = []
    listing = records.list_providers("default")
    problems += [f"the provider {name} does not authenticate" for name in listing.corrupt]
    grants: dict[str, Grant] = {}
    for provider in listing.providers:
        found = records.list_provider_grants("default", provider.id)
        problems += [f"the grant {name} does not open" for name in found.corrupt]
        problems += [f"{provider.name} has {len(found.grants)} grants"] if len(found.grants) > 1 else []
        for grant in found.grants:
            grants[provider.name] = grant
    sessions = table("consent_sessions")
    rows = records.connection.execute(select(sessions.c.id, sessions.c.state)).all()
    for session_id, _ in rows:
        if records.find_session(session_id) is None:
            problems.append("a consent does not open")
    events: dict[tuple[str, str], int] = {}
    problems += _trail(records, events)
    if records.connection.dialect.name == "sqlite":
        found = records.connection.exec_driver_sql("PRAGMA integrity_check(10)").scalars().all()
        problems += [f"integrity_check: {line}" for line in found if line != "ok"]
        broken = records.connection.exec_driver_sql("PRAGMA foreign_key_check").all()
        problems += ["foreign_key_check: a row refers to none"] if broken else []
    return Snapshot(grants, {str(name): str(state) for name, state in rows}, events, tuple(problems))


def _trail(records: Records, events: dict[tuple[str, str], int]) -> list[str]:
    """Compute every MAC of the trail anew."""
    key = records.ring.derived("audit")
    problems: list[str] = []
    writers, heads, rows = table("audit_writers"), table("audit_heads"), table("audit_events")
    previous, known = GENESIS, set[str]()
    for number, row in enumerate(records.connection.execute(select(writers).order_by(writers.c.number)).mappings(), 1):
        mac = writer_mac(key, previous, row["number"], row["writer_id"], row["started_at"])
        if (row["number"], row["mac"]) != (number, mac):
            problems.append(f"writer {number} of the trail does not verify")
        previous = row["mac"]
        known.add(row["writer_id"])
    ends = {row["writer_id"]: (row["sequence"], row["mac"]) for row in records.connection.execute(select(heads)).mappings()}
    chains: dict[str, tuple[int, bytes]] = dict.fromkeys(ends, (0, GENESIS))
    order = rows.c.writer_id, rows.c.sequence
    for row in records.connection.execute(select(rows).order_by(*order)).mappings():
        sequence, before = chains.get(row["writer_id"], (0, GENESIS))
        mac = event_mac(key, before, {name: row[name] for name in CHAINED})
        if (row["sequence"], row["mac"]) != (sequence + 1, mac):
            problems.append(f"row {row['sequence']} of a writer of the trail does not verify")
        chains[row["writer_id"]] = (row["sequence"], row["mac"])
        kind = (row["action"], row["outcome"])
        events[kind] = events.get(kind, 0) + 1
    if chains != ends or known != ends.keys():
        problems.append("the trail's heads are not where its chains end")
    return problems
