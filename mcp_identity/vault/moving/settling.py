"""What must not come back when an older state of a vault is put back?

What was ended since the backup stands in it as it was. Everything short-lived ends here: consents and sign-ins on their way,
handles, approvals, leases, and with every workload's epoch its access tokens. Configuration that processes keep decoded is
dropped everywhere. What only an operator can weigh is ended where he says so: the bearers that agents and users hold, and
the grants of users, who may have ended one since; they are then asked for their consent again.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from sqlalchemy import RowMapping, Table, delete, select, update

from mcp_identity.domain.consent import OPEN_STATES, ConsentState
from mcp_identity.domain.credentials import GrantState, Reason
from mcp_identity.domain.errors import ConsentExpired, VaultCorrupt
from mcp_identity.vault.moving.inspecting import Inspection
from mcp_identity.vault.moving.trail import Seams
from mcp_identity.vault.records import Records
from mcp_identity.vault.records.base import table
from mcp_identity.vault.records.moments import micros
from mcp_identity.vault.records.releases import ISSUED
from mcp_identity.vault.records.workload_keys import ACTIVE, REVOKED

EPOCHS = 1 << 20
"""So far is the configuration epoch raised: a process that saw more changes than the backup must not meet its own number. And
each workload's: one step would make the number of an access token count again that was ended since the backup was made."""
_Change = Callable[[RowMapping], dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Wishes:
    """What the operator wants to end.

    Attributes:
        end_bearers: Workload keys, and every token and browser session of users that was issued before now.
        ask_again: Every grant of a user, who is asked for consent again.
    """

    end_bearers: bool = False
    ask_again: bool = False


@dataclass(slots=True)
class Settled:
    """What was ended.

    Attributes:
        consents: Consents on their way.
        sign_ins: Sign-ins on their way.
        handles: One-time handles, and approvals.
        leases: Leases of refreshes.
        workloads: Workloads whose access tokens ended.
        workload_keys: Workload keys that were revoked.
        users: Users whose tokens and sessions ended.
        grants: Grants for which the user is asked again.
        left: Rows that cannot be read, and were left as they are.
    """

    consents: int = 0
    sign_ins: int = 0
    handles: int = 0
    leases: int = 0
    workloads: int = 0
    workload_keys: int = 0
    users: int = 0
    grants: int = 0
    left: int = 0

    def detail(self) -> dict[str, str]:
        """For the trail: what was ended at all."""
        return {name: str(count) for name, count in asdict(self).items() if count}


class Settling(Inspection):
    """Records in which things end."""

    def __init__(self, records: Records, seams: Seams) -> None:
        """Work in the transaction of other records."""
        super().__init__(records.connection, records.ring, seams)
        self.chain, self.trail, self.now = records.chain, records.trail, records.now

    def settle(self, wishes: Wishes) -> Settled:
        """End what must not come back."""
        settled = Settled()
        settled.consents = self._end_consents()
        for name in ("login_transactions", "approvals"):
            settled.sign_ins += self._run(delete(table(name)))
        releases, grants = table("releases"), table("grants")
        settled.handles = self._run(delete(releases).where(releases.c.state == ISSUED))
        # The intent stays: whether a refresh was under way is what tells a lost token from a refused one.
        settled.leases = self._run(update(grants).where(grants.c.lease_owner != "").values(lease_owner="", lease_until=0))
        settled.workloads = self._change("workload_identities", settled, lambda row: {"epoch": row["epoch"] + EPOCHS})
        if wishes.end_bearers:
            revoked = {"state": REVOKED}
            settled.workload_keys = self._change(
                "workload_keys", settled, lambda row: revoked if row["state"] == ACTIVE else {}
            )
            settled.users = self._change("users", settled, lambda _: {"not_before_at": micros(self.now)})
        if wishes.ask_again:
            settled.grants = self._run(
                update(grants)
                .where(grants.c.user_key != "", grants.c.state == GrantState.ACTIVE.value)
                .values(state=GrantState.NEEDS_CONSENT.value, reason=Reason.REVOKED.value)
            )
        return settled

    def _end_consents(self) -> int:
        sessions = table("consent_sessions")
        return self._run(
            update(sessions)
            .where(sessions.c.state.in_([state.value for state in OPEN_STATES]))
            .values(
                state=ConsentState.EXPIRED.value,
                error_code=ConsentExpired.code,
                attempt_sealed=None,
                state_hash=None,
                code=None,
                updated_at=micros(self.now),
            )
        )

    def _change(self, name: str, settled: Settled, changed: _Change) -> int:
        """Change every row of a table that a MAC stands for, and authenticate it anew; how many were changed."""
        target, count = table(name), 0
        for row_id in self._ids(target):
            row = self.connection.execute(select(target).where(target.c.id == row_id)).mappings().one()
            try:
                if values := changed(row):
                    self._with_keys(lambda: self._update_row(name, row["tenant_id"], row, values))  # noqa: B023 - called at once
                    count += 1
            except VaultCorrupt:
                settled.left += 1
        return count

    def _ids(self, target: Table) -> list[str]:
        return list(self.connection.execute(select(target.c.id)).scalars())

    def _run(self, statement: Any) -> int:
        return self.connection.execute(statement).rowcount
