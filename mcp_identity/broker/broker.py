"""The verbs of the product, the same for every edge.

Every verb takes a `Call` that holds the verified principal, and every call, allowed or refused, has a row in the audit
trail before its answer leaves. The rooms beside this one do the work; here is only who is called, and in which order.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TypeVar

import anyio

from mcp_identity.broker.access import require_access
from mcp_identity.broker.answers import (
    OPEN_STATUS,
    ApiKeyReleased,
    ConsentRequired,
    ConsentStatus,
    GrantListing,
    ProviderListing,
    Revoked,
    TokenReleased,
    TokenRequest,
    consent_status,
)
from mcp_identity.broker.audit import Call, new_call
from mcp_identity.broker.consents import Consents
from mcp_identity.broker.directory import Directory
from mcp_identity.broker.grants import Grants, unknown_provider
from mcp_identity.broker.plan import Plan, make_plan
from mcp_identity.broker.release import release_api_key
from mcp_identity.broker.services import Services
from mcp_identity.broker.tokens import NeedsConsent, Tokens
from mcp_identity.domain.audit import AuditEvent
from mcp_identity.domain.consent import ConsentBegun, ConsentSession, ConsentState, ConsentView, session_id_of
from mcp_identity.domain.credentials import Reason
from mcp_identity.domain.errors import (
    ConsentDenied,
    ConsentExpired,
    ConsentMismatch,
    ConsentNotFound,
    DifferentAccount,
    IdentityError,
    InvalidRequest,
    RateLimited,
    UnsupportedFlow,
    UpstreamBadResponse,
)
from mcp_identity.domain.identity import Principal
from mcp_identity.domain.provider import CredentialProvider, ProviderKind
from mcp_identity.vault.records import Records

T = TypeVar("T")
MAXIMUM_WAIT_SECONDS = 50
_POLL_SECONDS = 0.25
_SWEEP_SECONDS = 15.0
_ENDINGS: dict[str, type[IdentityError]] = {
    error.code: error for error in (ConsentDenied, ConsentExpired, ConsentMismatch, DifferentAccount)
}


class Broker:
    """What edges may ask for."""

    def __init__(self, services: Services) -> None:
        """Build the rooms on their shared parts."""
        self._services = services
        self._tokens = Tokens(services)
        self._consents = Consents(services)
        self._grants = Grants(services)
        self.directory = Directory(services)
        self._waiting: dict[str, int] = {}
        self._swept_at = services.clock.monotonic()

    def call(self, principal: Principal, action: str) -> Call:
        """Begin a call of a verified principal."""
        return new_call(principal, action, self._services.entropy)

    async def get_token(self, call: Call, request: TokenRequest) -> TokenReleased | ConsentRequired:
        """Serve a token, or the link at which the user can consent.

        Raises:
            IdentityError: Any of the designed failures; the trail has it.
        """

        async def work() -> TokenReleased | ConsentRequired:
            plan = await self._plan(call, request)
            if request.session_uri:
                return await self._from_session(call, plan)
            outcome = await self._tokens.get(call, plan)
            if isinstance(outcome, NeedsConsent):
                return await self._consents.start(call, plan, outcome)
            return outcome

        return await self._audited(call, work, provider=request.provider)

    async def start_consent(self, call: Call, request: TokenRequest) -> ConsentRequired:
        """Give a fresh link, whatever is granted already.

        Raises:
            UnsupportedFlow: If the provider asks no user.
            IdentityError: As `get_token`.
        """

        async def work() -> ConsentRequired:
            if request.session_uri:
                raise InvalidRequest("start_consent always makes a fresh session; leave session_uri out")
            plan = await self._plan(call, request)
            if not plan.key.user:
                raise UnsupportedFlow(f"{plan.flow.value} needs no consent; call get_token")
            needs = NeedsConsent(Reason.FORCED, plan.scopes, plan.scopes)
            return await self._consents.start(call, plan, needs, forced=True)

        return await self._audited(call, work, provider=request.provider)

    async def get_consent(self, call: Call, session_uri: str, wait_seconds: float = 0) -> ConsentStatus:
        """Where a consent of this principal stands; may wait until it ends.

        Raises:
            ConsentNotFound: If it is not this principal's, or there is none.
            RateLimited: If too many calls of this principal wait already.
        """

        async def work() -> ConsentStatus:
            if not 0 <= wait_seconds <= MAXIMUM_WAIT_SECONDS:
                raise InvalidRequest(f"wait_seconds is between 0 and {MAXIMUM_WAIT_SECONDS}")
            with self._wait_slot(call, waits=wait_seconds > 0):
                deadline = self._services.clock.monotonic() + wait_seconds
                status = await self._status(call, session_uri)
                while status.status == OPEN_STATUS and self._services.clock.monotonic() < deadline:
                    await anyio.sleep(_POLL_SECONDS)
                    status = await self._status(call, session_uri)
            event = call.event(provider=status.provider).ending("ok", status=status.status)
            await self._services.vault.run(lambda records: records.append_audit(event))
            return status

        return await self._audited(call, work)

    async def get_api_key(self, call: Call, provider_name: str) -> ApiKeyReleased:
        """Serve a static key.

        Raises:
            UnknownProvider: If there is no such provider.
            UnsupportedFlow: If it holds no API key.
            AccessDenied: If its release mode keeps it here.
        """

        def unit(records: Records) -> ApiKeyReleased:
            provider = records.find_provider(call.principal.tenant, provider_name)
            if provider is None:
                raise unknown_provider(provider_name)
            if provider.kind is not ProviderKind.API_KEY:
                raise UnsupportedFlow(f"{provider.name} gives tokens, not an API key; call get_token")
            require_access(call.principal, call.action, provider, frozenset())
            key = records.open_provider_secret(provider)
            if key is None:
                raise unknown_provider(provider_name)
            released = release_api_key(call.principal, provider, key, default_release=self._services.default_release)
            records.append_audit(call.event(provider=provider.name))
            return released

        event = call.event(provider=provider_name)
        return await self._audited(call, lambda: self._services.vault.run(unit, event), provider=provider_name)

    async def list_providers(self, call: Call) -> ProviderListing:
        """The providers that this principal may use."""
        return await self._audited(call, lambda: self._grants.list_providers(call))

    async def list_grants(self, call: Call) -> GrantListing:
        """This principal's grants."""
        return await self._audited(call, lambda: self._grants.list_grants(call))

    async def revoke_grant(self, call: Call, provider: str, flow: str = "") -> tuple[Revoked, ...]:
        """End this principal's grants at a provider, here and there."""
        return await self._audited(call, lambda: self._grants.revoke(call, provider, flow), provider=provider)

    async def note(self, call: Call) -> None:
        """Write down a call that reads nothing, such as `whoami`."""
        await self._services.vault.run(lambda records: records.append_audit(call.event()), call.event())

    async def refuse(self, call: Call, error: IdentityError, *, provider: str = "") -> None:
        """Write down a call that was refused before it came here."""
        if not error.audited:
            event = call.event(provider=provider, outcome=error.code)
            await self._services.vault.run(lambda records: records.append_audit(event))
            error.audited = True

    async def list_audit(self, tenant: str, *, limit: int, after: int = 0) -> list[tuple[int, AuditEvent]]:
        """The latest events of a tenant, oldest first, each with its place, for the operator."""
        return await self._services.vault.read(lambda records: records.list_audit(tenant, limit=limit, after=after))

    async def view_consent(self, session_id: str) -> ConsentView:
        """What the consent page shows."""
        return await self._consents.view(session_id)

    async def begin_consent(self, session_id: str, *, allow_other_account: bool) -> ConsentBegun:
        """The button on the consent page was pressed."""
        return await self._consents.begin(session_id, allow_other_account=allow_other_account)

    async def receive_callback(
        self, provider_id: str, parameters: Sequence[tuple[str, str]], browser_secrets: Mapping[str, str]
    ) -> str:
        """The vendor sent a browser back; the session's id, whose page tells the outcome."""
        return await self._consents.receive(provider_id, parameters, browser_secrets)

    async def has_open_consents(self) -> bool:
        """Whether anybody may still come to the consent page; ends what nobody will finish."""
        vault, now = self._services.vault, self._services.clock.monotonic()
        if now - self._swept_at >= _SWEEP_SECONDS:
            self._swept_at = now
            if await vault.read(lambda records: records.has_unfinished_sessions()):
                await vault.run(lambda records: records.sweep_sessions())
        return await vault.read(lambda records: records.has_open_sessions())

    def page_key(self) -> bytes:
        """The key of the consent page's form tokens."""
        return self._services.vault.derived_key("page")

    def prove_vault(self, nonce: bytes, port: int) -> bytes:
        """Prove to a sibling process that this one serves the vault on `port`."""
        return self._services.vault.prove(nonce, port)

    def check_vault_proof(self, nonce: bytes, port: int, proof: bytes) -> bool:
        """Whether a sibling of this vault made the proof."""
        return self._services.vault.check_proof(nonce, port, proof)

    async def _plan(self, call: Call, request: TokenRequest) -> Plan:
        provider = await self.directory.find(call.principal.tenant, request.provider)
        if provider is None:
            raise unknown_provider(request.provider)
        return make_plan(call.principal, provider, request)

    async def _from_session(self, call: Call, plan: Plan) -> TokenReleased | ConsentRequired:
        """Answer from one consent session alone."""
        session, provider = await self._session(call, plan.request.session_uri)
        if provider.id != plan.provider.id:
            raise InvalidRequest("session_uri belongs to another provider")
        request = session.request
        if session.state is ConsentState.COMPLETED:
            outcome = await self._tokens.get(call, plan)
            if isinstance(outcome, NeedsConsent):
                return await self._consents.start(call, plan, outcome)
            return outcome
        if consent_status(session.state) == OPEN_STATUS:
            event = call.event(provider=provider.name, flow=request.flow.value, scopes=request.scopes)
            pending = event.ending("consent_required", reason=request.reason.value)
            await self._services.vault.run(lambda records: records.append_audit(pending))
            return ConsentRequired(
                reason=request.reason,
                authorization_url=self._consents.link(session, provider),
                session_uri=session.session_uri,
                expires_at=session.expires_at,
                missing_scopes=tuple(sorted(request.scopes)),
                provider=provider.name,
            )
        ending = _ENDINGS.get(session.error_code, UpstreamBadResponse)
        raise ending(f"that consent ended as {session.state.value} ({session.error_code}); call start_consent for a new link")

    async def _status(self, call: Call, session_uri: str) -> ConsentStatus:
        session, provider = await self._session(call, session_uri)
        late = consent_status(session.state) == OPEN_STATUS and session.expires_at <= self._services.clock.now()
        state = ConsentState.EXPIRED if late and session.state is not ConsentState.EXCHANGING else session.state
        return ConsentStatus(
            status=consent_status(state),
            error_code="consent_expired" if late else session.error_code,
            expires_at=session.expires_at,
            provider=provider.name,
        )

    async def _session(self, call: Call, session_uri: str) -> tuple[ConsentSession, CredentialProvider]:
        """A session of this principal; absent and not yours look the same."""
        session_id = session_id_of(session_uri)

        def unit(records: Records) -> tuple[ConsentSession, CredentialProvider]:
            session = records.find_session(session_id) if session_id else None
            principal = call.principal
            owner = (principal.tenant, principal.workload.id, principal.user_key)
            if session is not None:
                request = session.request
                provider = records.find_provider_row(request.tenant, request.provider_row)
                if provider is not None and (request.tenant, request.workload_id, request.user) == owner:
                    return session, provider
            raise ConsentNotFound("there is no such consent session")

        return await self._services.vault.read(unit)

    def _wait_slot(self, call: Call, *, waits: bool) -> _WaitSlot:
        return _WaitSlot(self._waiting, f"{call.principal.workload.id} {call.principal.user_key}", waits, self._services)

    async def _audited(self, call: Call, work: Callable[[], Awaitable[T]], *, provider: str = "") -> T:
        """Run a verb; a refusal that no unit has written down is written down here."""
        try:
            return await work()
        except IdentityError as error:
            await self.refuse(call, error, provider=provider)
            raise


class _WaitSlot:
    """One of the few calls of a principal that may wait at a time."""

    def __init__(self, waiting: dict[str, int], name: str, waits: bool, services: Services) -> None:
        self._waiting, self._name, self._waits, self._limit = waiting, name, waits, services.limits.concurrent_waits

    def __enter__(self) -> None:
        if self._waits:
            if self._waiting.get(self._name, 0) >= self._limit:
                raise RateLimited("too many calls wait for a consent already", retry_after_seconds=5)
            self._waiting[self._name] = self._waiting.get(self._name, 0) + 1

    def __exit__(self, *_: object) -> None:
        if self._waits:
            self._waiting[self._name] -= 1
            if not self._waiting[self._name]:
                del self._waiting[self._name]
