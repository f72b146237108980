"""What becomes of a browser that the vendor sends back.

Its answer counts once, from the browser that pressed the button and (with login binding) in which the initiator is signed in,
on the callback of the provider that was asked, while nothing that was asked has changed. Any mismatch: no exchange, the
session fails, the trail says why, the browser is told little. With app binding the code is not exchanged here: it waits,
sealed, for the app to say whose browser this is. The exchange runs as owned work; a closed browser loses nothing.
"""

from __future__ import annotations

import hmac
from collections.abc import Mapping, Sequence
from hashlib import sha256

from mcp_identity.broker.binding import Visitor, error_location, return_location, visitor_of
from mcp_identity.broker.exchange import Exchange, Exchanger
from mcp_identity.broker.plan import dialect_of
from mcp_identity.broker.services import Services
from mcp_identity.broker.sessions import COOKIE_ID_LENGTH, GONE, end_session, require_unchanged, stray_event
from mcp_identity.broker.vendor import client_of
from mcp_identity.domain.audit import session_event
from mcp_identity.domain.clock import random_token
from mcp_identity.domain.consent import SESSION_URI_PREFIX, Binding, ConsentSession, Returned
from mcp_identity.domain.errors import ConsentExpired, ConsentMismatch, ConsentNotFound, IdentityError
from mcp_identity.domain.login import BrowserSession
from mcp_identity.oauth.authorization import process_authorization_response
from mcp_identity.vault.records import Records
from mcp_identity.vault.records.consents import Attempt
from mcp_identity.vault.strays import Strays


class Callbacks:
    """Takes vendors' answers."""

    def __init__(self, services: Services, exchanger: Exchanger) -> None:
        """Keep what it works with."""
        self._services = services
        self._exchanger = exchanger
        self._strays = Strays(services.vault, services.clock)

    async def receive(
        self,
        provider_id: str,
        parameters: Sequence[tuple[str, str]],
        browser_secrets: Mapping[str, str],
        browser: BrowserSession | None = None,
    ) -> Returned:
        """The vendor sent a browser back.

        Args:
            provider_id: From the path of the callback.
            parameters: Its query, as it came.
            browser_secrets: What this browser's consent cookies hold, by the first characters of the session id.
            browser: Who has signed in there.

        Returns:
            Where the browser goes now.

        Raises:
            ConsentNotFound: If the callback belongs to no open session.
        """
        return await self._services.tasks.run(lambda: self._receive(provider_id, parameters, browser_secrets, browser))

    async def _receive(
        self,
        provider_id: str,
        parameters: Sequence[tuple[str, str]],
        browser_secrets: Mapping[str, str],
        browser: BrowserSession | None,
    ) -> Returned:
        """One piece of owned work: once the state is consumed, the exchange follows, whoever has hung up."""
        states = [value for name, value in parameters if name == "state"]
        state_hash = sha256(states[0].encode("utf-8", "replace")).digest() if len(states) == 1 else b""
        completion = random_token(self._services.entropy)

        def unit(records: Records) -> Exchange | Returned | None:
            found = records.find_attempt(state_hash) if state_hash else None
            if found is None:
                return None
            session, attempt = found
            event = session_event(session, "callback")
            try:
                _require_browser(records, session, attempt, browser_secrets, browser)
            except ConsentMismatch as error:
                end_session(records, session, error, event)
                return Returned(session.id, refused=True)
            try:
                exchange = _accept(records, session, attempt, provider_id, parameters)
            except IdentityError as error:
                end_session(records, session, error, event)
                return Returned(session.id, error_location(records, session.request, error))
            if session.request.binding is not Binding.APP:
                if not records.consume_state(session):
                    raise ConsentNotFound(GONE)
                records.append_audit(event)
                return exchange
            if not records.keep_code(session, exchange.code, sha256(completion.encode()).digest()):
                raise ConsentNotFound(GONE)
            records.append_audit(event.ending("ok", waits_for="complete_consent"))
            return Returned(session.id, return_location(session.request, session_id=SESSION_URI_PREFIX + completion))

        outcome = await self._services.vault.run(unit, stray_event("callback"))
        if outcome is None:
            error = ConsentNotFound(GONE)
            await self._strays.note(stray_event("callback").ending(error.code))
            raise error
        if isinstance(outcome, Exchange):
            await self._exchanger.finish(outcome)
            return Returned(outcome.session.id)
        return outcome


def _require_browser(
    records: Records,
    session: ConsentSession,
    attempt: Attempt,
    browser_secrets: Mapping[str, str],
    browser: BrowserSession | None,
) -> None:
    """Check that this is the browser that was asked, and still the initiator's.

    Raises:
        ConsentMismatch: If it is not.
    """
    presented = browser_secrets.get(session.id[:COOKIE_ID_LENGTH], "").encode("utf-8", "replace")
    if not hmac.compare_digest(sha256(presented).digest(), attempt.browser_hash):
        raise ConsentMismatch("the answer came from another browser than the one that was asked")
    if session.request.binding is Binding.LOGIN and visitor_of(records, session.request, browser) is not Visitor.INITIATOR:
        raise ConsentMismatch("the answer came from a browser in which the initiator is not signed in any more")


def _accept(
    records: Records,
    session: ConsentSession,
    attempt: Attempt,
    provider_id: str,
    parameters: Sequence[tuple[str, str]],
) -> Exchange:
    """Check everything else that must hold before a code is exchanged."""
    if session.expires_at <= records.now:
        raise ConsentExpired("the answer came too late")
    provider = require_unchanged(records, session.request)
    if not hmac.compare_digest(provider.provider_id.encode(), provider_id.encode("utf-8", "replace")):
        raise ConsentMismatch("the answer came to another provider's callback")
    code = process_authorization_response(parameters, server=provider.server)
    return Exchange(session, attempt, code.code, provider, dialect_of(provider), client_of(records, provider))
