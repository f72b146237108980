"""How an app says whose browser it was that came back (app binding), and what that leads to.

The browser brought a code; whose it is, only the app knows. It is handed a completion URI, which nobody else has seen, and
hands it back with its user's own proof. Only the workload that asked can complete, only for the user that it asked for. The
session URI that the initiator knows completes nothing, so a forwarded link brings them nothing. A wrong user ends the
session for good: the code of a victim must not wait for a second guess.
"""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import sha256

from mcp_identity.broker.access import require_workload
from mcp_identity.broker.answers import ConsentStatus, consent_status
from mcp_identity.broker.audit import Call
from mcp_identity.broker.exchange import Exchange, Exchanger
from mcp_identity.broker.plan import dialect_of
from mcp_identity.broker.services import Services
from mcp_identity.broker.sessions import end_session, require_unchanged
from mcp_identity.broker.vendor import client_of
from mcp_identity.domain.audit import CORRELATION_LENGTH
from mcp_identity.domain.consent import RECEIVED_LIFETIME, ConsentSession, session_id_of
from mcp_identity.domain.errors import AccessDenied, ConsentExpired, ConsentMismatch, ConsentNotFound, IdentityError
from mcp_identity.domain.identity import User, UserKind, WorkloadIdentity
from mcp_identity.vault.records import Records
from mcp_identity.vault.records.consents import Received

_GONE = "there is no such consent session"


@dataclass(frozen=True, slots=True)
class _Refused:
    """What the unit wrote down, to be told once that is committed."""

    error: IdentityError


class Completion:
    """Lets apps finish the consents that came back to them."""

    def __init__(self, services: Services, exchanger: Exchanger) -> None:
        """Keep what it works with."""
        self._services = services
        self._exchanger = exchanger

    async def complete(self, call: Call, session_uri: str, user: User) -> ConsentStatus:
        """Finish a consent: the app's user is the one that it was asked for.

        A second call for a consent that is being finished, or has ended, tells how it stands and changes nothing.

        Args:
            call: The workload that asked for it.
            session_uri: The completion URI, as the browser brought it to the app.
            user: The app's user, by their own verified token, or by an id.

        Raises:
            ConsentNotFound: If there is no such completion URI, or it is another workload's.
            ConsentMismatch: If it is another user's; the consent has failed by that.
            ConsentExpired: If the app took longer than a minute.
            AccessDenied: If the user is named by an id, and the workload may not do so.
            ProviderMisconfigured: If the provider or the workload was changed since the link was given.
        """
        return await self._services.tasks.run(lambda: self._complete(call, session_uri, user))

    async def workload_of(self, tenant: str, session_uri: str) -> WorkloadIdentity | None:
        """Which workload asked for the consent of this completion URI, if any did; for a caller who may stand for several."""
        identifier = session_id_of(session_uri)
        if not identifier:
            return None
        name = sha256(identifier.encode()).digest()

        def unit(records: Records) -> WorkloadIdentity | None:
            found = records.find_completion(name)
            if found is None or found[0].request.tenant != tenant:
                return None
            return records.find_workload_id(tenant, found[0].request.workload_id)

        return await self._services.vault.run(unit)

    async def _complete(self, call: Call, session_uri: str, user: User) -> ConsentStatus:
        """One piece of owned work: once the code is taken, the exchange follows, whoever has hung up."""
        identifier, principal = session_id_of(session_uri), call.principal
        name = sha256(identifier.encode()).digest() if identifier else b""

        def unit(records: Records) -> Exchange | ConsentStatus | _Refused:
            require_workload(records, principal)
            if user.kind is UserKind.ASSERTED and not principal.may_name_users:
                raise AccessDenied("this workload may not name users by an id; complete with the user's own token")
            session, received = _find(records, call, name)
            request = session.request
            event = call.event(provider=request.provider, flow=request.flow.value, scopes=request.scopes)
            event = event.ending("ok", consent=session.id[:CORRELATION_LENGTH])
            try:
                outcome = _judge(records, session, received, user)
            except IdentityError as error:
                end_session(records, session, error, event)
                error.audited = True
                return _Refused(error)
            if isinstance(outcome, Exchange) and not records.take_code(session):
                raise ConsentNotFound(_GONE)
            records.append_audit(event)
            return outcome

        outcome = await self._services.vault.run(unit)
        if isinstance(outcome, _Refused):
            raise outcome.error
        if isinstance(outcome, ConsentStatus):
            return outcome
        await self._exchanger.finish(outcome)
        ended = await self._services.vault.read(lambda records: records.find_session(outcome.session.id))
        if ended is None:
            raise ConsentNotFound(_GONE)
        return _status(ended)


def _find(records: Records, call: Call, name: bytes) -> tuple[ConsentSession, Received | None]:
    """The consent of this completion URI; absent and another workload's look the same."""
    found, principal = records.find_completion(name) if name else None, call.principal
    if found is not None:
        request = found[0].request
        if (request.tenant, request.workload_id) == (principal.tenant, principal.workload.id):
            return found
    raise ConsentNotFound(_GONE)


def _judge(records: Records, session: ConsentSession, received: Received | None, user: User) -> Exchange | ConsentStatus:
    """What a completion by this user leads to; a failure ends the consent."""
    request = session.request
    if (user.key, user.kind) != (request.user, request.user_kind):
        raise ConsentMismatch("the consent is another user's")
    if received is None:
        return _status(session)
    if received.received_at + RECEIVED_LIFETIME <= records.now:
        raise ConsentExpired("the app took too long; ask for a new link")
    provider = require_unchanged(records, request)
    client = client_of(records, provider)
    return Exchange(session, received.attempt, received.code, provider, dialect_of(provider), client)


def _status(session: ConsentSession) -> ConsentStatus:
    return ConsentStatus(consent_status(session.state), session.error_code, session.expires_at, session.request.provider)
