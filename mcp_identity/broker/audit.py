"""What the trail will say about the call that is being made."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TypeVar

from mcp_identity.domain.audit import AuditEvent
from mcp_identity.domain.clock import Entropy
from mcp_identity.domain.errors import IdentityError, StorageError, clean_text
from mcp_identity.domain.identity import Principal
from mcp_identity.vault.vault import Vault

T = TypeVar("T")
NAME_LIMIT = 128
_NOTHING: Mapping[str, str] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Call:
    """One call of one principal.

    Attributes:
        principal: On whose behalf; verified at the edge.
        action: The verb.
        correlation_id: Joins rows, log lines and the answer.
    """

    principal: Principal
    action: str
    correlation_id: str

    def event(
        self, *, provider: str = "", flow: str = "", scopes: frozenset[str] = frozenset(), outcome: str = "ok", action: str = ""
    ) -> AuditEvent:
        """The event of this call.

        Args:
            provider: As it was asked for; foreign text, so it is cleaned.
            flow: The flow, once it is known.
            scopes: The scopes, once they are checked.
            outcome: ``ok``, ``consent_required`` or an error's code.
            action: Another verb than the call's, for a step within it.
        """
        principal = self.principal
        user = principal.user
        return AuditEvent(
            tenant=principal.tenant,
            workload=principal.workload.name,
            workload_id=principal.workload.id,
            user_key=principal.user_key,
            user_display=user.display if user else "",
            verified=principal.verified,
            edge=principal.edge or principal.authenticated_by,
            action=action or self.action,
            provider=clean_text(provider, NAME_LIMIT),
            flow=flow,
            scopes=tuple(sorted(scopes)),
            outcome=outcome,
            correlation_id=self.correlation_id,
            detail=proof_of(principal),
        )


def proof_of(principal: Principal) -> dict[str, str]:
    """What proved a caller from the network, for the trail; the credential by its id, never itself."""
    if not principal.edge:
        return {}
    named = {"credential": principal.credential_id} if principal.credential_id else {}
    signed = {"signed_by": principal.signed_by} if principal.signed_by else {}
    return {"authenticated_by": principal.authenticated_by, **named, **signed}


def new_call(principal: Principal, action: str, entropy: Entropy) -> Call:
    """Begin a call."""
    return Call(principal, action, entropy.random_bytes(8).hex())


async def audited(
    vault: Vault, call: Call, work: Callable[[], Awaitable[T]], *, provider: str = "", detail: Mapping[str, str] = _NOTHING
) -> T:
    """Run a verb; a refusal that no unit has written down is written down here, before it is told."""
    try:
        return await work()
    except IdentityError as error:
        await write_refusal(vault, call, error, provider=provider, detail=detail)
        raise


async def write_refusal(
    vault: Vault, call: Call, error: IdentityError, *, provider: str = "", detail: Mapping[str, str] = _NOTHING
) -> None:
    """See to it that the trail has a refusal, once.

    Where the database itself failed, the trail is not tried: it is in the same database, and for one that is locked whoever
    was refused has waited long enough.

    Raises:
        AuditUnavailable: If it cannot be written.
    """
    if not error.audited and not (isinstance(error, StorageError) and error.unwritable):
        event = call.event(provider=provider).ending(error.code, **detail)
        await vault.run(lambda records: records.append_audit(event))
        error.audited = True
