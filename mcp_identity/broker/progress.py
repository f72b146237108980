"""How far is a consent that this principal asked for?"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Generator
from dataclasses import replace
from datetime import datetime

import anyio

from mcp_identity.broker.access import require_workload
from mcp_identity.broker.answers import OPEN_STATUS, ConsentStatus, TokenRequest, consent_status
from mcp_identity.broker.audit import Call
from mcp_identity.broker.services import Services
from mcp_identity.domain.consent import ConsentSession, ConsentState, session_id_of
from mcp_identity.domain.credentials import parse_scopes
from mcp_identity.domain.errors import (
    AccessDenied,
    Conflict,
    ConsentDenied,
    ConsentExpired,
    ConsentMismatch,
    ConsentNotFound,
    DifferentAccount,
    IdentityError,
    InvalidRequest,
    ProviderMisconfigured,
    RateLimited,
    UpstreamBadResponse,
    UpstreamRejected,
    UpstreamUnavailable,
)
from mcp_identity.domain.provider import CredentialProvider
from mcp_identity.vault.records import Records
from mcp_identity.vault.vault import Vault

MAXIMUM_WAIT_SECONDS = 50
_POLL_SECONDS = 0.25
_ENDINGS: dict[str, type[IdentityError]] = {
    error.code: error
    for error in (
        AccessDenied,
        Conflict,
        ConsentDenied,
        ConsentExpired,
        ConsentMismatch,
        DifferentAccount,
        ProviderMisconfigured,
        UpstreamUnavailable,
    )
}


class Progress:
    """Tells principals of their consents."""

    def __init__(self, services: Services) -> None:
        """Nobody waits yet."""
        self._services = services
        self._waiting: dict[tuple[str, str], int] = {}
        self._lookout = _Lookout(services.vault)

    async def status(self, call: Call, session_uri: str, wait_seconds: float) -> ConsentStatus:
        """Where a consent stands; waits until it has ended, or the time is over.

        Raises:
            ConsentNotFound: If it is not this principal's, or there is none.
            RateLimited: If too many calls of this principal wait already.
        """
        if not 0 <= wait_seconds <= MAXIMUM_WAIT_SECONDS:
            raise InvalidRequest(f"wait_seconds is between 0 and {MAXIMUM_WAIT_SECONDS}")
        clock = self._services.clock
        with self._slot(call) if wait_seconds else contextlib.nullcontext():
            deadline = clock.monotonic() + wait_seconds
            status = await self._status(call, session_uri)
            while status.status == OPEN_STATUS and clock.monotonic() < deadline:
                if await self._lookout.has_ended(session_id_of(session_uri) or ""):
                    status = await self._status(call, session_uri)
            if wait_seconds and status.status == OPEN_STATUS:
                status = await self._status(call, session_uri)  # it may have ended since the last look
        event = call.event(provider=status.provider).ending("ok", status=status.status)
        await self._services.vault.run(lambda records: records.append_audit(event))
        return status

    async def find(self, call: Call, session_uri: str) -> tuple[ConsentSession, CredentialProvider]:
        """A session of this principal; absent and not yours look the same."""
        session_id, principal = session_id_of(session_uri), call.principal
        owner = (principal.tenant, principal.workload.id, principal.user_key)

        def unit(records: Records) -> tuple[ConsentSession, CredentialProvider]:
            require_workload(records, principal)
            session = records.find_session(session_id) if session_id else None
            if session is not None:
                request = session.request
                provider = records.find_provider_row(request.tenant, request.provider_row)
                if provider is not None and (request.tenant, request.workload_id, request.user) == owner:
                    return session, provider
            raise ConsentNotFound("there is no such consent session")

        return await self._services.vault.read(unit)

    async def _status(self, call: Call, session_uri: str) -> ConsentStatus:
        session, provider = await self.find(call, session_uri)
        state, error_code = standing(session, self._services.clock.now())
        return ConsentStatus(consent_status(state), error_code, session.expires_at, provider.name)

    @contextlib.contextmanager
    def _slot(self, call: Call) -> Generator[None]:
        """One of the few calls of a principal that may wait at a time."""
        name = (call.principal.workload.id, call.principal.user_key)
        if self._waiting.get(name, 0) >= self._services.limits.concurrent_waits:
            raise RateLimited("too many calls wait for a consent already", retry_after_seconds=5)
        self._waiting[name] = self._waiting.get(name, 0) + 1
        try:
            yield
        finally:
            self._waiting[name] -= 1
            if not self._waiting[name]:
                del self._waiting[name]


class _Lookout:
    """Looks whether sessions have ended, for all who wait at once: their number does not count."""

    def __init__(self, vault: Vault) -> None:
        self._vault = vault
        self._watched = Counter[str]()
        self._ended = frozenset[str]()
        self._turn = anyio.Lock()
        self._looked_at = 0.0

    async def has_ended(self, session_id: str) -> bool:
        """Whether a session is over, a moment from now."""
        self._watched[session_id] += 1
        began = anyio.current_time()
        try:
            await anyio.sleep(_POLL_SECONDS)
            async with self._turn:
                if self._looked_at <= began:
                    watched, self._looked_at = tuple(self._watched), anyio.current_time()
                    self._ended = await self._vault.read(lambda records: records.ended_sessions(watched))
            return session_id in self._ended
        finally:
            self._watched -= Counter([session_id])


def standing(session: ConsentSession, now: datetime) -> tuple[ConsentState, str]:
    """The state of a session, and why it ended, also where nobody has swept it yet."""
    if session.state in (ConsentState.PENDING, ConsentState.STARTED) and session.expires_at <= now:
        return ConsentState.EXPIRED, ConsentExpired.code
    return session.state, session.error_code


def same_request(session: ConsentSession, provider: CredentialProvider, request: TokenRequest) -> TokenRequest:
    """The request that a session was made for, with what the caller left out filled in.

    Raises:
        InvalidRequest: If the caller asks for something else than the session did.
    """
    asked = session.request
    scopes = parse_scopes(request.scopes) or asked.scopes
    differs = (
        request.provider != provider.name
        or request.flow not in ("", asked.flow.value)
        or request.resource not in ("", asked.resource)
        or request.audience not in ("", asked.audience)
        or request.return_url not in ("", asked.return_url)
        or request.custom_state not in ("", asked.custom_state)
        or not scopes <= asked.scopes
    )
    if differs:
        raise InvalidRequest(
            "session_uri belongs to another request: another provider, flow, resource, audience, return_url or scopes"
        )
    return replace(
        request, scopes=tuple(sorted(scopes)), flow=asked.flow.value, resource=asked.resource, audience=asked.audience
    )


def ending(state: ConsentState, error_code: str) -> IdentityError:
    """What to raise for a session that ended otherwise than completed; asking for it again changes nothing."""
    message = f"that consent ended as {state.value} ({error_code}); ask for a new link (start_consent, or forceAuthentication)"
    if error_code == UpstreamRejected.code:
        return UpstreamRejected(message, error="unspecified")
    error = _ENDINGS.get(error_code, UpstreamBadResponse)(message)
    error.retryable = False
    return error
