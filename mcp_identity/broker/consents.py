"""How a user's consent is asked for: the link, the page behind it, and the button.

    start → page → button → vendor → callback → exchange → grant

A consent belongs to the principal that asked. With login binding the page says nothing of it, and the button does nothing,
before the browser has proved to be the initiator's; a forwarded link is worth nothing to whom it is forwarded, nor to who
forwards it. What the vendor's answer becomes is told in `callbacks.py` and `completion.py`.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from hashlib import sha256

from mcp_identity.broker.access import require_access
from mcp_identity.broker.answers import ConsentRequired
from mcp_identity.broker.audit import NAME_LIMIT, Call
from mcp_identity.broker.binding import Visitor, choose_binding, find_login_issuer, login_target, return_host, visitor_of
from mcp_identity.broker.plan import Plan, consent_digest, dialect_of, host_of, title_of
from mcp_identity.broker.progress import standing
from mcp_identity.broker.services import Services
from mcp_identity.broker.sessions import GONE, end_session, grant_key, redirect_uri, require_unchanged, stray_event
from mcp_identity.broker.tokens import NeedsConsent, require_current
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
    SignInView,
)
from mcp_identity.domain.credentials import Reason, Secret
from mcp_identity.domain.errors import (
    ConsentExpired,
    ConsentMismatch,
    ConsentNotFound,
    IdentityError,
    ProviderMisconfigured,
    RateLimited,
    clean_text,
)
from mcp_identity.domain.identity import UserKind
from mcp_identity.domain.login import BrowserSession
from mcp_identity.domain.provider import Release
from mcp_identity.oauth.authorization import authorization_url
from mcp_identity.vault.records import Records
from mcp_identity.vault.records.consents import Attempt
from mcp_identity.vault.strays import Strays

_SWEPT_ON_THE_WAY = 20
"""How many forgotten sessions one call ends, so that it is not kept waiting by thousands."""


@dataclass(frozen=True, slots=True)
class _Refused:
    """What the unit wrote down, to be told once that is committed."""

    error: IdentityError


class Consents:
    """Asks users."""

    def __init__(self, services: Services) -> None:
        """Keep what it works with."""
        self._services = services
        self._strays = Strays(services.vault, services.clock)

    async def start(self, call: Call, plan: Plan, needs: NeedsConsent, *, forced: bool = False) -> ConsentRequired:
        """Give the link at which the user can consent.

        An equal request gets the open session's link; only `forced` makes a fresh one.

        Raises:
            ProviderMisconfigured: If the vendor takes no redirect to this machine, or the user could prove themselves nowhere.
            VaultUnavailable: If the page cannot be served.
            RateLimited: If too many consents are open, or too many links were made.
        """
        front, provider = self._services.front, plan.provider
        require_access(call.principal, call.action, provider, needs.scopes)
        if front.is_loopback and not plan.dialect.loopback_allowed:
            raise ProviderMisconfigured(
                f"{title_of(provider)} takes no redirect to this machine; {provider.name} needs PUBLIC_URL"
            )
        binding = choose_binding(front.binding, call.principal, plan.request.return_url)
        await front.ensure_open()
        base = front.base_url(plan.dialect.loopback_host)
        asked = self._request(call, plan, needs, redirect_uri(base, provider), binding, forced=forced)
        event = call.event(
            provider=provider.name, flow=plan.flow.value, scopes=needs.scopes, outcome="consent_required"
        ).ending("consent_required", reason=needs.reason.value, binding=binding.value)

        def unit(records: Records) -> ConsentSession:
            require_current(records, call, plan)
            records.sweep_sessions(_SWEPT_ON_THE_WAY)
            request = asked
            if binding is Binding.LOGIN:
                request = replace(asked, login_issuer=find_login_issuer(records, call.principal).id)
            name, session = _request_hash(request), None
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
            elicited=session.request.elicited,
        )

    async def view(self, session_id: str, browser: BrowserSession | None = None) -> ConsentView | SignInView:
        """What the page shows; changes nothing.

        Args:
            session_id: The random part of the session URI.
            browser: Who has signed in there.

        Raises:
            ConsentNotFound: If there is no such session.
        """

        def unit(records: Records) -> tuple[ConsentView | SignInView, AuditEvent | None]:
            session = records.find_session(session_id)
            if session is None:
                raise ConsentNotFound(GONE)
            request = session.request
            provider = records.find_provider_row(request.tenant, request.provider_row)
            if provider is None:
                raise ConsentNotFound(GONE)
            state, error_code = standing(session, records.now)
            login = None
            if request.binding is Binding.LOGIN:
                login, visitor = login_target(records, request), visitor_of(records, request, browser)
                if visitor is not Visitor.INITIATOR:
                    event = _stranger_event(session, "view_consent", browser) if visitor is Visitor.STRANGER else None
                    return SignInView(session.id, state, login, stranger=visitor is Visitor.STRANGER), event
            grant = records.find_grant(grant_key(request))
            view = ConsentView(
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
                return_host=return_host(request),
                signed_in_as=browser.user.display if login and browser else "",
                login=login,
            )
            return view, None

        view, event = await self._services.vault.read(unit)
        if event is not None:
            await self._services.vault.run(lambda records: records.append_audit(event), event)
        return view

    async def begin(self, session_id: str, *, allow_other_account: bool, browser: BrowserSession | None = None) -> ConsentBegun:
        """The button was pressed: make state and verifier, and mark the browser.

        Raises:
            ConsentNotFound: If there is no such session, it has ended, or its button was pressed too often.
            ConsentExpired: If its time is over.
            ConsentMismatch: If the browser has to be the initiator's, and did not prove it; the session stays as it is, or
                whoever gets hold of a link could end it.
            ProviderMisconfigured: If the provider or the workload was changed since the link was given.
        """
        entropy = self._services.entropy
        state, secret = random_token(entropy), random_token(entropy)
        verifier, nonce = Secret(random_token(entropy)), random_token(entropy)

        def unit(records: Records) -> ConsentBegun | _Refused | None:
            session = records.find_session(session_id)
            if session is None or session.state not in (ConsentState.PENDING, ConsentState.STARTED):
                return None
            request, event = session.request, session_event(session, "begin_consent")
            if request.binding is Binding.LOGIN and visitor_of(records, request, browser) is not Visitor.INITIATOR:
                records.append_audit(_stranger_event(session, "begin_consent", browser))
                return _Refused(ConsentMismatch("the browser did not prove to be the initiator's"))
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
            hashes = sha256(state.encode()).digest(), sha256(secret.encode()).digest()
            attempt = Attempt(*hashes, verifier, nonce if sends_nonce else "", allow_other_account)
            if not records.start_attempt(session, attempt):
                return None
            records.append_audit(event)
            return ConsentBegun(url, Secret(secret))

        begun = await self._services.vault.run(unit, stray_event("begin_consent"))
        if begun is None:
            gone = ConsentNotFound(GONE)
            await self._strays.note(stray_event("begin_consent").ending(gone.code))
            raise gone
        if isinstance(begun, _Refused):
            raise begun.error
        return begun

    def _request(
        self, call: Call, plan: Plan, needs: NeedsConsent, redirect: str, binding: Binding, *, forced: bool
    ) -> ConsentRequest:
        principal = call.principal
        stays_here = (plan.provider.release or self._services.default_release) is not Release.TOKEN
        return ConsentRequest(
            tenant=principal.tenant,
            workload_id=principal.workload.id,
            workload_epoch=principal.workload.epoch,
            user=principal.user_key,
            user_kind=principal.user.kind if principal.user else UserKind.LOCAL,
            provider_row=plan.provider.id,
            configuration_digest=consent_digest(plan.provider, redirect),
            flow=plan.flow,
            scopes=needs.scopes,
            redirect_uri=redirect,
            binding=binding,
            reason=needs.reason,
            resource=plan.request.resource,
            audience=plan.request.audience,
            parameters=plan.parameters,
            forced=forced,
            provider=plan.provider.name,
            workload=principal.workload.name,
            workload_verified=principal.verified,
            user_display=principal.user.display if principal.user else "",
            edge=principal.edge or principal.authenticated_by,
            return_url=plan.request.return_url,
            custom_state=plan.request.custom_state,
            elicited=plan.request.elicits and stays_here,
        )

    def _require_quota(self, records: Records, request: ConsentRequest) -> None:
        limits = self._services.limits
        pending, recent = records.count_sessions(request.tenant, request.workload_id, request.user, request.provider_row)
        if pending >= limits.pending_consents:
            raise RateLimited("too many consents are open; finish or let some expire", retry_after_seconds=60)
        if recent >= limits.links_per_minute:
            raise RateLimited("too many new links for this provider; wait a minute", retry_after_seconds=60)
        at_all, of_workload = records.count_open_sessions(request.tenant, request.workload_id)
        # A workload can bring any number of users, so an eighth of all is for the others.
        if at_all >= limits.total_consents or of_workload >= limits.total_consents - limits.total_consents // 8:
            raise RateLimited("this server has too many open consents; ask again later", retry_after_seconds=60)


def _stranger_event(session: ConsentSession, action: str, browser: BrowserSession | None) -> AuditEvent:
    """What the trail says of a browser that came with somebody else's link: whose link, and who came."""
    visitor = clean_text(browser.user.key, NAME_LIMIT) if browser else "nobody signed in"
    return session_event(session, action).ending(ConsentMismatch.code, visitor=visitor)


def _end(records: Records, session: ConsentSession, error: IdentityError, event: AuditEvent) -> _Refused:
    end_session(records, session, error, event)
    return _Refused(error)


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
        request.binding.value,
        request.login_issuer,
        request.return_url,
        request.custom_state,
        request.elicited,
    ]
    return sha256(json.dumps(parts).encode()).digest()
