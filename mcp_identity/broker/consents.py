"""How a user's consent is asked for, and what its answer becomes.

    start → page → button → vendor → callback → exchange → grant

A consent belongs to the principal that asked. The answer counts once, from the browser that pressed the button, on the
callback of the provider that was asked, while nothing that was asked has changed. Any mismatch: no exchange, the session
fails, the trail says why. The exchange runs as owned work; a closed browser loses nothing.
"""

from __future__ import annotations

import hmac
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256

from mcp_identity.broker.access import require_access
from mcp_identity.broker.answers import ConsentRequired
from mcp_identity.broker.audit import Call
from mcp_identity.broker.exchange import Exchange, Exchanger
from mcp_identity.broker.plan import Plan, consent_digest, dialect_of, host_of, title_of
from mcp_identity.broker.progress import standing
from mcp_identity.broker.services import Services
from mcp_identity.broker.sessions import COOKIE_ID_LENGTH, grant_key, redirect_uri, require_unchanged
from mcp_identity.broker.tokens import NeedsConsent, require_current
from mcp_identity.broker.vendor import client_of
from mcp_identity.domain.audit import AuditEvent, session_event
from mcp_identity.domain.clock import random_token
from mcp_identity.domain.consent import (
    SESSION_LIFETIME,
    Binding,
    ConsentBegun,
    ConsentRequest,
    ConsentSession,
    ConsentState,
    ConsentView,
)
from mcp_identity.domain.credentials import Reason, Secret
from mcp_identity.domain.errors import (
    ConsentDenied,
    ConsentExpired,
    ConsentMismatch,
    ConsentNotFound,
    IdentityError,
    ProviderMisconfigured,
    RateLimited,
)
from mcp_identity.domain.identity import DEFAULT_TENANT
from mcp_identity.oauth.authorization import authorization_url, process_authorization_response
from mcp_identity.vault.records import Records
from mcp_identity.vault.records.consents import Attempt

_GONE = "there is no such consent, or it has ended"


@dataclass(frozen=True, slots=True)
class _Ended:
    """The unit ended the session; this is what to tell."""

    session_id: str
    error: IdentityError


class Consents:
    """Asks users, and takes their answers."""

    def __init__(self, services: Services) -> None:
        """Keep what it works with."""
        self._services = services
        self._exchanger = Exchanger(services)

    async def start(self, call: Call, plan: Plan, needs: NeedsConsent, *, forced: bool = False) -> ConsentRequired:
        """Give the link at which the user can consent.

        An equal request gets the open session's link; only `forced` makes a fresh one.

        Raises:
            ProviderMisconfigured: If the vendor takes no redirect to this machine.
            VaultUnavailable: If the page cannot be served.
            RateLimited: If too many consents are open, or too many links were made.
        """
        front, provider = self._services.front, plan.provider
        require_access(call.principal, call.action, provider, needs.scopes)
        if front.is_loopback and not plan.dialect.loopback_allowed:
            raise ProviderMisconfigured(
                f"{title_of(provider)} takes no redirect to this machine; {provider.name} needs PUBLIC_URL"
            )
        await front.ensure_open()
        base = front.base_url(plan.dialect.loopback_host)
        request = self._request(call, plan, needs, redirect_uri(base, provider), forced=forced)
        name = _request_hash(request)
        event = call.event(
            provider=provider.name, flow=plan.flow.value, scopes=needs.scopes, outcome="consent_required"
        ).ending("consent_required", reason=needs.reason.value)

        def unit(records: Records) -> ConsentSession:
            require_current(records, call, plan)
            records.sweep_sessions()
            session = None
            if not forced:
                session = records.find_open_session(name, request.tenant, request.workload_id, request.user)
            if session is None:
                self._require_quota(records, request)
                session = ConsentSession(
                    id=random_token(self._services.entropy),
                    request=request,
                    state=ConsentState.PENDING,
                    created_at=records.now,
                    expires_at=records.now + SESSION_LIFETIME,
                )
                records.insert_session(session, name)
            records.append_audit(event)
            return session

        session = await self._services.vault.run(unit, event)
        return self._link(plan, session, needs.reason, needs.missing)

    async def again(self, call: Call, plan: Plan, session: ConsentSession) -> ConsentRequired:
        """Give the link of an open session once more."""
        request = session.request
        require_access(call.principal, call.action, plan.provider, request.scopes)
        await self._services.front.ensure_open()
        event = call.event(provider=plan.provider.name, flow=plan.flow.value, scopes=request.scopes)

        def unit(records: Records) -> frozenset[str]:
            require_current(records, call, plan)
            grant = records.find_grant(grant_key(request))
            records.append_audit(event.ending("consent_required", reason=request.reason.value))
            return grant.tokens.scopes if grant is not None and grant.tokens is not None else frozenset()

        granted = await self._services.vault.run(unit, event)
        return self._link(plan, session, request.reason, request.scopes - granted)

    def _link(self, plan: Plan, session: ConsentSession, reason: Reason, missing: frozenset[str]) -> ConsentRequired:
        base = self._services.front.base_url(plan.dialect.loopback_host)
        return ConsentRequired(
            reason=reason,
            authorization_url=f"{base}/consent/{session.id}",
            session_uri=session.session_uri,
            expires_at=session.expires_at,
            missing_scopes=tuple(sorted(missing)),
            provider=plan.provider.name,
        )

    async def view(self, session_id: str) -> ConsentView:
        """What the page shows; changes nothing.

        Raises:
            ConsentNotFound: If there is no such session.
        """

        def unit(records: Records) -> ConsentView:
            session = records.find_session(session_id)
            if session is None:
                raise ConsentNotFound(_GONE)
            request = session.request
            provider = records.find_provider_row(request.tenant, request.provider_row)
            if provider is None:
                raise ConsentNotFound(_GONE)
            grant = records.find_grant(grant_key(request))
            state, error_code = standing(session, records.now)
            return ConsentView(
                id=session.id,
                state=state,
                error_code=error_code,
                workload=request.workload,
                workload_verified=request.workload_verified,
                user=request.user_display,
                provider=provider.name,
                provider_title=title_of(provider),
                provider_host=host_of(provider.server.authorization_url),
                scopes=tuple(sorted(request.scopes)),
                parameters=request.parameters,
                resource=request.resource,
                audience=request.audience,
                expires_at=session.expires_at,
                account_known=bool(grant and grant.tokens and grant.tokens.account_id),
            )

        return await self._services.vault.read(unit)

    async def begin(self, session_id: str, *, allow_other_account: bool) -> ConsentBegun:
        """The button was pressed: make state and verifier, and mark the browser.

        Raises:
            ConsentNotFound: If there is no such session, or it has ended.
            ConsentExpired: If its time is over.
            ProviderMisconfigured: If the provider or the workload was changed since the link was given.
        """
        entropy = self._services.entropy
        state, browser = random_token(entropy), random_token(entropy)
        verifier, nonce = Secret(random_token(entropy)), random_token(entropy)

        def unit(records: Records) -> ConsentBegun | _Ended:
            session = records.find_session(session_id)
            if session is None or session.state not in (ConsentState.PENDING, ConsentState.STARTED):
                raise ConsentNotFound(_GONE)
            request, event = session.request, session_event(session, "begin_consent")
            if session.expires_at <= records.now:
                return _end(records, session, ConsentExpired("the link has expired"), event)
            try:
                provider = require_unchanged(records, request)
            except IdentityError as error:
                return _end(records, session, error, event)
            dialect = dialect_of(provider)
            sends_nonce = dialect.id_token and "openid" in request.scopes | frozenset(dialect.always_scopes)
            url = authorization_url(
                provider.server,
                provider.client_id,
                dialect,
                redirect_uri=request.redirect_uri,
                scopes=request.scopes,
                state=state,
                code_verifier=verifier,
                nonce=nonce if sends_nonce else None,
                resource=request.resource,
                audience=request.audience,
                parameters=request.parameters,
            )
            hashes = sha256(state.encode()).digest(), sha256(browser.encode()).digest()
            attempt = Attempt(*hashes, verifier, nonce if sends_nonce else "", allow_other_account)
            if not records.start_attempt(session, attempt):
                raise ConsentNotFound(_GONE)
            records.append_audit(event)
            return ConsentBegun(url, Secret(browser))

        begun = await self._services.vault.run(unit, _stray_event("begin_consent"))
        if isinstance(begun, _Ended):
            raise begun.error
        return begun

    async def receive(self, provider_id: str, parameters: Sequence[tuple[str, str]], browser_secrets: Mapping[str, str]) -> str:
        """The vendor sent a browser back.

        Args:
            provider_id: From the path of the callback.
            parameters: Its query, as it came.
            browser_secrets: What this browser's consent cookies hold, by the first characters of the session id.

        Returns:
            The session's id, whose page tells the outcome.

        Raises:
            ConsentNotFound: If the callback belongs to no open session.
        """
        return await self._services.tasks.run(lambda: self._receive(provider_id, parameters, browser_secrets))

    async def _receive(
        self, provider_id: str, parameters: Sequence[tuple[str, str]], browser_secrets: Mapping[str, str]
    ) -> str:
        """One piece of owned work: once the state is consumed, the exchange follows, whoever has hung up."""
        states = [value for name, value in parameters if name == "state"]
        state_hash = sha256(states[0].encode("utf-8", "replace")).digest() if len(states) == 1 else b""

        def unit(records: Records) -> Exchange | _Ended:
            found = records.find_attempt(state_hash) if state_hash else None
            if found is None:
                raise ConsentNotFound(_GONE)
            session, attempt = found
            event = session_event(session, "callback")
            try:
                exchange = self._accept(records, session, attempt, provider_id, parameters, browser_secrets)
            except IdentityError as error:
                return _end(records, session, error, event)
            if not records.consume_state(session):
                raise ConsentNotFound(_GONE)
            records.append_audit(event)
            return exchange

        outcome = await self._services.vault.run(unit, _stray_event("callback"))
        if isinstance(outcome, Exchange):
            await self._exchanger.finish(outcome)
            return outcome.session.id
        return outcome.session_id

    def _accept(
        self,
        records: Records,
        session: ConsentSession,
        attempt: Attempt,
        provider_id: str,
        parameters: Sequence[tuple[str, str]],
        browser_secrets: Mapping[str, str],
    ) -> Exchange:
        """Check everything that must hold before a code is exchanged."""
        presented = browser_secrets.get(session.id[:COOKIE_ID_LENGTH], "").encode("utf-8", "replace")
        if not hmac.compare_digest(sha256(presented).digest(), attempt.browser_hash):
            raise ConsentMismatch("the answer came from another browser than the one that was asked")
        if session.expires_at <= records.now:
            raise ConsentExpired("the answer came too late")
        provider = require_unchanged(records, session.request)
        if not hmac.compare_digest(provider.provider_id.encode(), provider_id.encode("utf-8", "replace")):
            raise ConsentMismatch("the answer came to another provider's callback")
        code = process_authorization_response(parameters, server=provider.server)
        return Exchange(session, attempt, code.code, provider, dialect_of(provider), client_of(records, provider))

    def _request(self, call: Call, plan: Plan, needs: NeedsConsent, redirect: str, *, forced: bool) -> ConsentRequest:
        principal = call.principal
        return ConsentRequest(
            tenant=principal.tenant,
            workload_id=principal.workload.id,
            workload_epoch=principal.workload.epoch,
            user=principal.user_key,
            provider_row=plan.provider.id,
            configuration_digest=consent_digest(plan.provider, redirect),
            flow=plan.flow,
            scopes=needs.scopes,
            redirect_uri=redirect,
            binding=Binding.LOCAL,
            reason=needs.reason,
            resource=plan.request.resource,
            audience=plan.request.audience,
            parameters=plan.parameters,
            forced=forced,
            provider=plan.provider.name,
            workload=principal.workload.name,
            workload_verified=principal.verified,
            user_display=principal.user.display if principal.user else "",
            edge=principal.authenticated_by,
        )

    def _require_quota(self, records: Records, request: ConsentRequest) -> None:
        limits = self._services.limits
        pending, recent = records.count_sessions(request.tenant, request.workload_id, request.user, request.provider_row)
        if pending >= limits.pending_consents:
            raise RateLimited("too many consents are open; finish or let some expire", retry_after_seconds=60)
        if recent >= limits.links_per_minute:
            raise RateLimited("too many new links for this provider; wait a minute", retry_after_seconds=60)


def _stray_event(action: str) -> AuditEvent:
    """What the trail says of a browser that came for no session that is open."""
    return AuditEvent(DEFAULT_TENANT, "", "", "", "", verified=False, edge="web", action=action)


def _end(records: Records, session: ConsentSession, error: IdentityError, event: AuditEvent) -> _Ended:
    states: dict[type[IdentityError], ConsentState] = {
        ConsentDenied: ConsentState.DENIED,
        ConsentExpired: ConsentState.EXPIRED,
    }
    records.end_session(session.id, states.get(type(error), ConsentState.FAILED), error.code)
    records.append_audit(event.ending(error.code, why=error.message))
    return _Ended(session.id, error)


def _request_hash(request: ConsentRequest) -> bytes:
    parts = [
        request.workload_epoch,
        request.provider_row,
        request.configuration_digest,
        request.flow.value,
        sorted(request.scopes),
        request.resource,
        request.audience,
        request.parameters,
    ]
    return sha256(json.dumps(parts).encode()).digest()
