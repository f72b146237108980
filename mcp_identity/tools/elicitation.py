"""How a user is shown a consent link without the model in between (URL-mode elicitation), where that may be.

Only where the credential stays here, since MCP forbids to hand a client what was obtained so; only to clients that declare
it; and in the two ways that the protocol knows: an input that is required (2026-07-28), or error -32042 with a notification
once it is done (2025-11-25). Whoever cannot gets the structured answer. The link is our own consent page, which asks who
opens it; neither an accepted question nor the state that comes back proves anything.
"""

from __future__ import annotations

import json
import logging
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

import anyio
from anyio.abc import TaskGroup
from mcp import UrlElicitationRequiredError
from mcp.server.mcpserver import Context
from mcp.types import ElicitRequest, ElicitRequestURLParams, ElicitResult, InputRequiredResult
from mcp.types.version import is_version_at_least

from mcp_identity.domain.consent import FINAL_STATES, ConsentState, session_id_of
from mcp_identity.domain.credentials import Reason
from mcp_identity.domain.errors import IdentityError, InvalidRequest

if TYPE_CHECKING:
    from mcp.server.session import ServerSession

    from mcp_identity.broker.answers import ConsentRequired, ConsentStatus
    from mcp_identity.broker.audit import Call
    from mcp_identity.broker.broker import Broker

WAIT_SECONDS: Final = 25
"""How long one round waits for the user: longer than the pauses of clients, shorter than the patience of proxies."""
INPUT_VERSION: Final = "2026-07-28"
ERROR_VERSION: Final = "2025-11-25"
_QUESTION: Final = "consent"
_WATCHES: Final = 200
_LOOK_EVERY_SECONDS: Final = 1.0
_ACTIONS: Final = {"decline": "declined", "cancel": "cancelled"}
log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Asked:
    """The user was asked in an earlier round, and that is over.

    Attributes:
        required: What was asked.
        status: How the consent stands: a final word, or ``pending`` where the user did not open the link.
        user_action: ``declined`` or ``cancelled`` where the user did not open the link, else empty. The session stays open:
            nobody has refused anything to the vendor yet.
    """

    required: ConsentRequired
    status: ConsentStatus
    user_action: str

    def require_completed(self) -> None:
        """Go on only with what the user agreed to; to ask again at once would not be to take no for an answer.

        Raises:
            IdentityError: As the consent ended.
        """
        from mcp_identity.broker.progress import ending

        state = ConsentState(self.status.status)
        if state is not ConsentState.COMPLETED:
            raise ending(state, self.status.error_code)


class Rounds:
    """The rounds of one tool call in which a consent may be asked for."""

    def __init__(self, context: Context[Any, Any]) -> None:
        """See what the client can, and what an earlier round left."""
        self._context = context
        version = context.protocol_version or ""
        self._by_input = bool(version) and is_version_at_least(version, INPUT_VERSION)
        capabilities = context.client_capabilities
        declared = capabilities.elicitation if capabilities is not None else None
        self.offered = declared is not None and declared.url is not None and (self._by_input or version == ERROR_VERSION)
        self._state = context.request_state if self._by_input else None

    async def resume(self, broker: Broker, call: Call) -> Asked | InputRequiredResult | None:
        """Go on where an earlier round stopped.

        Returns:
            None in the first round; what to answer while the user is not done; else how it ended.

        Raises:
            IdentityError: As `get_consent`: the session may be another principal's.
        """
        if self._state is None:
            return None
        required = _decode(self._state)
        given = (self._context.input_responses or {}).get(_QUESTION)
        user_action = _ACTIONS.get(given.action, "") if isinstance(given, ElicitResult) else ""
        waiting = replace(call, action="get_consent")
        status = await broker.get_consent(waiting, required.session_uri, 0 if user_action else WAIT_SECONDS)
        if status.status != "pending":
            return Asked(required, status, "")
        return Asked(required, status, user_action) if user_action else InputRequiredResult(request_state=self._state)

    def ask(self, required: ConsentRequired, broker: Broker) -> InputRequiredResult | None:
        """Have the client show the link, once in a call; None where the structured answer has to do it.

        Raises:
            UrlElicitationRequiredError: Where the protocol version says it by an error.
        """
        if not (self.offered and required.elicited) or self._state is not None:
            return None
        message = f"Open our page to connect {required.provider} for this agent."
        if self._by_input:
            question = ElicitRequest(params=ElicitRequestURLParams(message=message, url=required.authorization_url))
            return InputRequiredResult(input_requests={_QUESTION: question}, request_state=_encode(required))
        watches: Watches = self._context.request_context.lifespan_context
        watches.begin(self._context.session, broker, required.session_uri)
        raise UrlElicitationRequiredError(
            [ElicitRequestURLParams(message=message, url=required.authorization_url, elicitation_id=required.session_uri)]
        )


def _encode(required: ConsentRequired) -> str:
    fields: dict[str, Any] = {
        "reason": required.reason.value,
        "authorization_url": required.authorization_url,
        "session_uri": required.session_uri,
        "expires_at": required.expires_at.isoformat(),
        "missing_scopes": list(required.missing_scopes),
        "provider": required.provider,
    }
    return json.dumps(fields)


def _decode(state: str) -> ConsentRequired:
    """What our own state says; the SDK has opened and checked it."""
    from mcp_identity.broker.answers import ConsentRequired

    try:
        fields: dict[str, Any] = json.loads(state)
        return ConsentRequired(
            reason=Reason(fields["reason"]),
            authorization_url=fields["authorization_url"],
            session_uri=fields["session_uri"],
            expires_at=datetime.fromisoformat(fields["expires_at"]),
            missing_scopes=tuple(fields["missing_scopes"]),
            provider=fields["provider"],
            elicited=True,
        )
    except (ValueError, KeyError, TypeError):
        raise InvalidRequest("the state of this call is of another version; call again without it") from None


class Watches:
    """Consents whose end a client of 2025-11-25 wants to be told of; they end with the connection or the process."""

    def __init__(self, group: TaskGroup) -> None:
        """Nobody waits yet."""
        self._group = group
        self._open: set[str] = set()

    def begin(self, session: ServerSession, broker: Broker, session_uri: str) -> None:
        """Tell a client once a consent has ended; beyond a bound nobody is told, and the client asks again itself."""
        if session_uri in self._open or len(self._open) >= _WATCHES:
            return
        self._open.add(session_uri)
        self._group.start_soon(self._watch, session, broker, session_uri)

    async def _watch(self, session: ServerSession, broker: Broker, session_uri: str) -> None:
        try:
            await _ended(broker, session_id_of(session_uri) or "")
            await session.send_elicit_complete(session_uri)
        except Exception as error:  # noqa: BLE001 - a client that is gone must not end the others' watches
            log.info("a client could not be told that a consent ended (%s)", type(error).__name__)
        finally:
            self._open.discard(session_uri)


async def _ended(broker: Broker, session_id: str) -> None:
    """Wait until a consent has ended; one that is gone has."""
    while True:
        try:
            view = await broker.view_consent(session_id)
        except IdentityError as error:
            if not error.retryable:
                return
        else:
            if view.state in FINAL_STATES:
                return
        await anyio.sleep(_LOOK_EVERY_SECONDS)


@asynccontextmanager
async def watching(_server: object) -> AsyncGenerator[Watches]:
    """The SDK's lifespan of a server: of one connection on stdio and SSE, of the process on Streamable HTTP."""
    async with anyio.create_task_group() as group:
        yield Watches(group)
        group.cancel_scope.cancel()
