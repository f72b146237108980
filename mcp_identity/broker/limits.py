"""What was refused before it was a call, written down in aggregate: an attacker must not choose how much we write.

The gate counts; once a minute, and at the end, each kind of refusal becomes one event of the trail with its number. The
first of a kind is written soon, so that an operator who looks sees it. A kind is bounded in number; what comes beyond
that is counted under one name.
"""

from __future__ import annotations

from dataclasses import dataclass

import anyio

from mcp_identity.broker.audit import NAME_LIMIT, proof_of
from mcp_identity.broker.services import Services
from mcp_identity.domain.audit import AuditEvent
from mcp_identity.domain.errors import IdentityError, clean_text
from mcp_identity.domain.identity import DEFAULT_TENANT, Principal

EVERY_SECONDS = 60.0
_SOON_SECONDS = 1.0
_MOST_KINDS = 1000
_OTHERS = "others"


@dataclass(frozen=True, slots=True)
class _Kind:
    code: str
    edge: str
    source: str
    principal: Principal | None
    reason: str = ""


class Refusals:
    """The refusals of this process that the trail does not have yet."""

    def __init__(self, services: Services) -> None:
        """Nothing was refused."""
        self._services = services
        self._counts: dict[_Kind, int] = {}
        self._some = anyio.Event()

    def note(self, code: str, *, edge: str, source: str = "", principal: Principal | None = None, reason: str = "") -> None:
        """Count a refusal.

        Args:
            code: Why.
            edge: At which door.
            source: The address that it came from, where nobody is known to have come.
            principal: Who was refused, where that is known.
            reason: What was wrong, one of a few words of ours that only operators see.
        """
        kind = _Kind(code, edge, clean_text(source, NAME_LIMIT), principal, reason)
        if kind not in self._counts and len(self._counts) >= _MOST_KINDS:
            kind = _Kind(code, edge, _OTHERS, None)
        self._counts[kind] = self._counts.get(kind, 0) + 1
        self._some.set()

    async def run(self) -> None:
        """Keep writing; cancel to stop, then call `write` for the rest."""
        while True:
            await self._some.wait()
            await anyio.sleep(_SOON_SECONDS)
            await self.write()
            await anyio.sleep(EVERY_SECONDS)

    async def write(self) -> None:
        """Write down what was counted; what cannot be written now stays counted."""
        counts, self._counts = self._counts, {}
        self._some = anyio.Event()
        events = [_event(kind, count) for kind, count in counts.items()]
        if not events:
            return
        try:
            await self._services.vault.run(lambda records: [records.append_audit(event) for event in events])
        except IdentityError:
            for kind, count in counts.items():
                self._counts[kind] = self._counts.get(kind, 0) + count
            self._some.set()


def _event(kind: _Kind, count: int) -> AuditEvent:
    principal = kind.principal
    detail = {"count": str(count)} | ({"source": kind.source} if kind.source else {})
    detail |= {"reason": kind.reason} if kind.reason else {}
    return AuditEvent(
        tenant=principal.tenant if principal else DEFAULT_TENANT,
        workload=principal.workload.name if principal else "",
        workload_id=principal.workload.id if principal else "",
        user_key=principal.user_key if principal else "",
        user_display=principal.user.display if principal and principal.user else "",
        verified=bool(principal and principal.verified),
        edge=kind.edge,
        action="authenticate" if principal is None else "arrive",
        outcome=kind.code,
        detail=detail | (proof_of(principal) if principal else {}),
    )
