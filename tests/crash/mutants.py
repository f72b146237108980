"""Would the harness notice? Mistakes that a product could have, one at a time, put into the process that serves.

Each is a rule of the vault that is broken in the smallest way; `test_mutants.py` says which kills must find it.
"""

# pyright: reportPrivateUsage=false
# The mistakes are put where the rules are.

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

NAME = "CRASH_MUTANT"


def no_intent() -> None:
    """A refresh is begun without a word of it."""
    from mcp_identity.vault.records import Records

    take_lease: Callable[..., Any] = Records.take_lease

    def taking(records: Any, grant: Any, owner: str, *, intent: bool, **more: Any) -> Any:
        del intent
        return take_lease(records, grant, owner, intent=False, **more)

    _put(Records, "take_lease", taking)


def answer_before_commit() -> None:
    """Callers hear of what is not durable yet."""
    from sqlalchemy.engine.default import DefaultDialect

    from mcp_identity.vault import waiting

    commit: Callable[..., Any] = DefaultDialect.do_commit
    taken: list[Any] = []

    def noting(name: str) -> None:
        take: Callable[..., Any] = getattr(waiting.WaitingRoom, name)

        def taking(room: Any) -> Any:
            groups = take(room)
            taken[:] = groups or []
            return groups

        _put(waiting.WaitingRoom, name, taking)

    def committing(*args: Any) -> None:
        groups, taken[:] = [*taken], []
        if groups:
            waiting.answer(groups)
            time.sleep(0.05)  # what the disk may take, and the callers are already gone with it
        commit(*args)

    noting("take")
    noting("take_now")
    _put(DefaultDialect, "do_commit", committing)


def state_not_consumed() -> None:
    """A callback counts as often as it comes."""
    from mcp_identity.vault.records import Records

    def consuming(*_: Any) -> bool:
        return True

    _put(Records, "consume_state", consuming)


def never_swept() -> None:
    """Nobody ends the consents that nobody will finish."""
    from mcp_identity.vault.records import Records

    def sweeping(*_: Any) -> int:
        return 0

    _put(Records, "sweep_sessions", sweeping)


def the_dead_keep_their_leases() -> None:
    """Who holds a lease is never believed to be dead."""
    from mcp_identity.vault.vault import Vault

    def is_dead(*_: Any) -> bool:
        return False

    _put(Vault, "is_dead", is_dead)


def not_stored() -> None:
    """What a refresh brought is served, and stays in memory."""
    from mcp_identity.vault.records import Records

    put_tokens: Callable[..., Any] = Records.put_tokens
    find_grant: Callable[..., Any] = Records.find_grant
    kept: dict[Any, Any] = {}

    def putting(records: Any, lease: Any, *args: Any) -> Any:
        records.connection.exec_driver_sql("SAVEPOINT forgotten")
        stored = put_tokens(records, lease, *args)
        records.connection.exec_driver_sql("ROLLBACK TO forgotten")
        kept[lease.grant.key] = stored
        return stored

    def finding(records: Any, key: Any) -> Any:
        return kept.get(key) or find_grant(records, key)

    _put(Records, "put_tokens", putting)
    _put(Records, "find_grant", finding)


def old_grant_goes_first() -> None:
    """A new consent ends the grant before it has another."""
    from mcp_identity.vault.records import Records
    from mcp_identity.vault.records.base import table

    consume_state: Callable[..., Any] = Records.consume_state

    def consuming(records: Any, session: Any) -> Any:
        from sqlalchemy import update

        grants, request = table("grants"), session.request
        mine = (grants.c.workload_id == request.workload_id) & (grants.c.provider_row == request.provider_row)
        records.connection.execute(update(grants).where(mine).values(state="needs_consent", reason="expired"))
        return consume_state(records, session)

    _put(Records, "consume_state", consuming)


def head_stays() -> None:
    """The trail's head is not moved with its rows."""
    from mcp_identity.vault.records import audit

    class Staying:
        rowcount = 1

        @staticmethod
        def run(*_: Any) -> Any:
            return Staying

    _put(audit, "_MOVE", Staying)


def _put(owner: Any, name: str, function: Any) -> None:
    """Put a function in the place of another.

    Raises:
        AttributeError: If the product has no such function any more.
    """
    getattr(owner, name)
    setattr(owner, name, function)


MUTANTS: dict[str, Callable[[], None]] = {
    each.__name__: each
    for each in (
        no_intent,
        answer_before_commit,
        state_not_consumed,
        never_swept,
        the_dead_keep_their_leases,
        not_stored,
        old_grant_goes_first,
        head_stays,
    )
}


def install(name: str) -> None:
    """Put one mistake into this process; none without a name."""
    if name:
        MUTANTS[name]()
