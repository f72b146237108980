"""What the trail says about one call: who, what, with which outcome. It holds no secret, of any type."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime

from mcp_identity.domain.consent import ConsentSession

CORRELATION_LENGTH = 16
"""Characters of a session id that join the rows of one consent."""
REFUSED = "refused"
"""Stands for every outcome that is an error."""
SERVED = ("ok", "consent_required")
"""The outcomes that are none."""


@dataclass(frozen=True, slots=True)
class AuditEvent:
    """One call, allowed or refused.

    Attributes:
        tenant: The tenant.
        workload: The workload's name.
        workload_id: Its id; empty where it is not known.
        user_key: Issuer and subject of the user, or empty.
        user_display: The user's name for people.
        verified: Whether the workload's name is proven.
        edge: ``stdio``, ``cli`` or ``web``.
        action: The verb, e.g. ``get_token``.
        provider: The credential provider's name as it was asked for, or empty.
        flow: The flow, or empty.
        scopes: The scopes, sorted.
        outcome: ``ok``, ``consent_required``, or an error's code.
        correlation_id: Joins the rows, log lines and the answer of one call.
        detail: Further facts; keys are chosen by us, values are bounded.
        at: When; set by the vault.
    """

    tenant: str
    workload: str
    workload_id: str
    user_key: str
    user_display: str
    verified: bool
    edge: str
    action: str
    provider: str = ""
    flow: str = ""
    scopes: tuple[str, ...] = ()
    outcome: str = "ok"
    correlation_id: str = ""
    detail: Mapping[str, str] = field(default_factory=dict[str, str])
    at: datetime | None = None

    def ending(self, outcome: str, **detail: str) -> AuditEvent:
        """The same event with its outcome, and further facts."""
        if outcome == self.outcome and not detail:
            return self
        return replace(self, outcome=outcome, detail={**self.detail, **detail})


@dataclass(frozen=True, slots=True)
class AuditQuery:
    """Which events are looked for; all that is said must hold, and what is empty says nothing.

    Attributes:
        who: A workload's name, or a user's key or name for people; exactly.
        action: The verb.
        provider: The credential provider's name.
        outcome: ``ok``, ``consent_required`` or an error's code; `REFUSED` for all of those.
        since: From this moment on.
        until: Before this moment.
    """

    who: str = ""
    action: str = ""
    provider: str = ""
    outcome: str = ""
    since: datetime | None = None
    until: datetime | None = None


def session_event(session: ConsentSession, action: str) -> AuditEvent:
    """What the trail says of a step in the browser: it acts for the principal that asked."""
    request = session.request
    return AuditEvent(
        tenant=request.tenant,
        workload=request.workload,
        workload_id=request.workload_id,
        user_key=request.user,
        user_display=request.user_display,
        verified=request.workload_verified,
        edge="web",
        action=action,
        provider=request.provider,
        flow=request.flow.value,
        scopes=tuple(sorted(request.scopes)),
        correlation_id=session.id[:CORRELATION_LENGTH],
    )
