"""How does a command that carries a whole vault write into its trail, without being one of the processes that serve it?

In a transaction of its own, before it reads; the vault's writer is not needed for one row.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from sqlalchemy.exc import SQLAlchemyError

from mcp_identity.domain.audit import AuditEvent
from mcp_identity.domain.clock import Clock, Entropy
from mcp_identity.domain.errors import AuditUnavailable
from mcp_identity.vault.failures import is_conflict, storage_failure
from mcp_identity.vault.keys import KeyRing
from mcp_identity.vault.moving.state import read_state, require_ours
from mcp_identity.vault.records import Records
from mcp_identity.vault.records.base import Caches
from mcp_identity.vault.records.chain import AuditChain
from mcp_identity.vault.stores.store import Store

_ATTEMPTS = 5
Work = Callable[[Records], AuditEvent | None]
"""Changes something, and may say more precisely what happened."""


def nothing(_records: Records) -> None:
    """Only the trail is written."""


@dataclass(frozen=True, slots=True)
class Seams:
    """Time and randomness."""

    clock: Clock
    entropy: Entropy


def write_down(
    store: Store, ring: KeyRing, seams: Seams, event: AuditEvent, work: Work = nothing, *, unmarked: bool = True
) -> None:
    """Append one event to the trail, durably, and change something in the same transaction.

    Args:
        store: The vault's.
        ring: Its keys.
        seams: The event's time, and what names the writer of its chain.
        event: What happened.
        work: Runs in the same transaction, and again where another process was faster.
        unmarked: Refuse a vault that is being filled.

    Raises:
        VaultUnavailable: If the vault cannot be written now, or is not one of ours.
        AuditUnavailable: If the trail cannot.
    """
    engine = store.writing_engine()
    attempts = _ATTEMPTS
    try:
        while True:
            try:
                with engine.begin() as connection:
                    state = read_state(connection)
                    if unmarked:
                        require_ours(store.name, state.schema_version, state.minimum_writer)
                    chain = AuditChain(seams.entropy.random_bytes(16).hex())
                    records = Records(connection, ring, seams.entropy, Caches(), chain, seams.clock.now(), seams.clock)
                    records.append_audit(work(records) or event)
                    records.write_audit()
            except (SQLAlchemyError, AuditUnavailable) as error:
                attempts -= 1
                if not is_conflict(error) or not attempts:
                    raise error if isinstance(error, AuditUnavailable) else storage_failure(error) from None
            else:
                return
    finally:
        engine.dispose()
