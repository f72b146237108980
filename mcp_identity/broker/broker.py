"""The verbs of the product, the same for every edge.

Every verb takes a `Call` that holds the verified principal, and every call, allowed or refused, has a row in the audit
trail before its answer leaves. The rooms beside this one do the work; here is only who is called, and in which order.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from mcp_identity.broker.access import require_access, require_workload
from mcp_identity.broker.access_keys import AccessKeys
from mcp_identity.broker.administration import Administration
from mcp_identity.broker.answers import (
    OPEN_STATUS,
    ApiKeyReleased,
    ConsentRequired,
    ConsentStatus,
    GrantListing,
    HandleIssued,
    IdentityTokenIssued,
    ProviderListing,
    Revoked,
    StorageReport,
    TokenReleased,
    TokenRequest,
    WorkloadTokenIssued,
    consent_status,
)
from mcp_identity.broker.audit import Call, audited, new_call, write_refusal
from mcp_identity.broker.callbacks import Callbacks
from mcp_identity.broker.callers import Callers
from mcp_identity.broker.calls import ApiCalls
from mcp_identity.broker.completion import Completion
from mcp_identity.broker.consents import Consents
from mcp_identity.broker.directory import Directory
from mcp_identity.broker.exchange import Exchanger
from mcp_identity.broker.grants import Grants, require_provider, unknown_provider
from mcp_identity.broker.handles import Handles
from mcp_identity.broker.identity_tokens import IdentityTokens
from mcp_identity.broker.inventory import Inventory
from mcp_identity.broker.issuers import Issuers
from mcp_identity.broker.limits import Refusals
from mcp_identity.broker.plan import Plan, call_plan, make_plan
from mcp_identity.broker.planning import plan_anew, with_plan
from mcp_identity.broker.portal import Portal
from mcp_identity.broker.progress import Progress, ending, same_request, standing
from mcp_identity.broker.release import release_api_key
from mcp_identity.broker.replays import Replays
from mcp_identity.broker.services import Services
from mcp_identity.broker.signing import SigningKeys
from mcp_identity.broker.storage import count_unreadable
from mcp_identity.broker.tokens import NeedsConsent, Tokens
from mcp_identity.broker.workload_access import WorkloadAccess
from mcp_identity.broker.workloads import Workloads
from mcp_identity.domain.api_call import ApiAnswer, ApiRequest
from mcp_identity.domain.audit import AuditEvent
from mcp_identity.domain.consent import ConsentBegun, ConsentState, ConsentView, Returned, SignInView
from mcp_identity.domain.credentials import Secret
from mcp_identity.domain.errors import IdentityError, InvalidRequest, ProviderMisconfigured, UnsupportedFlow
from mcp_identity.domain.identity import Principal, SubjectToken, User
from mcp_identity.domain.login import BrowserSession
from mcp_identity.domain.provider import ProviderKind
from mcp_identity.vault.records import Records
from mcp_identity.vault.records.audit import AuditPlace

_SWEEP_SECONDS = 15.0


class Broker:
    """What edges may ask for."""

    def __init__(self, services: Services) -> None:
        """Build the rooms on their shared parts."""
        self._services = services
        self._tokens = Tokens(services)
        self._calls = ApiCalls(services, self._tokens)
        self._handles = Handles(services)
        exchanger = Exchanger(services)
        self._consents = Consents(services)
        self._callbacks = Callbacks(services, exchanger)
        self.completion = Completion(services, exchanger)
        self._progress = Progress(services)
        self._grants = Grants(services)
        self.directory = Directory(services)
        signing_keys = SigningKeys(services)
        self._workload_access = WorkloadAccess(services)
        self._identity_tokens = IdentityTokens(services, signing_keys)
        self.issuers = Issuers(services)
        self.workloads = Workloads(services, signing_keys)
        self.inventory = Inventory(services)
        self.administration = Administration(services)
        self.vault_standing = self.administration.vault_standing
        self.access_keys = AccessKeys(services)
        self.replays = Replays(services)
        self.callers = Callers(services)
        self.portal = Portal(services)
        self.refusals = Refusals(services)
        self._swept_at = services.clock.monotonic()

    async def confirm(self) -> None:
        """Let the vault say whether a remembered caller is still to be believed.

        Raises:
            Outdated: If not; they must be verified anew.
        """
        await self._services.vault.run(lambda _records: None)

    def call(self, principal: Principal, action: str) -> Call:
        """Begin a call of a verified principal."""
        return new_call(principal, action, self._services.entropy)

    async def get_token(self, call: Call, request: TokenRequest) -> TokenReleased | HandleIssued | ConsentRequired:
        """Serve a token, or the link at which the user can consent.

        Raises:
            IdentityError: Any of the designed failures; the trail has it.
        """

        async def work() -> TokenReleased | HandleIssued | ConsentRequired:
            if request.session_uri:
                return await self._from_session(call, request)
            return await with_plan(self.directory, call, request, self._token_or_link)

        return await audited(self._services.vault, call, work, provider=request.provider)

    async def start_consent(self, call: Call, request: TokenRequest) -> ConsentRequired:
        """Give a fresh link, whatever is granted already.

        Raises:
            UnsupportedFlow: If the provider asks no user.
            IdentityError: As `get_token`.
        """

        async def work() -> ConsentRequired:
            if request.session_uri:
                raise InvalidRequest("start_consent always makes a fresh session; leave session_uri out")
            plan = await plan_anew(self.directory, call, request)
            if not plan.flow.asks_user:
                raise UnsupportedFlow(f"{plan.flow.value} needs no consent; call get_token")
            return await self._consents.start(call, plan, await self._tokens.forced(plan), forced=True)

        return await audited(self._services.vault, call, work, provider=request.provider)

    async def get_consent(self, call: Call, session_uri: str, wait_seconds: float = 0) -> ConsentStatus:
        """Where a consent of this principal stands; may wait until it ends.

        Raises:
            ConsentNotFound: If it is not this principal's, or there is none.
            RateLimited: If too many calls of this principal wait already.
        """
        return await audited(self._services.vault, call, lambda: self._progress.status(call, session_uri, wait_seconds))

    async def get_api_key(self, call: Call, provider_name: str) -> ApiKeyReleased | HandleIssued:
        """Serve a static key.

        Raises:
            UnknownProvider: If there is no such provider.
            UnsupportedFlow: If it holds no API key.
            ProviderMisconfigured: If its key is missing, or no operator chose how it may leave.
            AccessDenied: If its release mode keeps it here.
        """

        def unit(records: Records) -> ApiKeyReleased | HandleIssued:
            require_workload(records, call.principal)
            provider = require_provider(records, call.principal.tenant, provider_name)
            if provider.kind is not ProviderKind.API_KEY:
                raise UnsupportedFlow(f"{provider.name} gives tokens, not an API key; call get_token")
            require_access(call.principal, call.action, provider, frozenset())
            key = records.open_provider_secret(provider)
            if key is None:
                raise ProviderMisconfigured(f"{provider.name} has no API key; an operator has to give it")
            default = self._services.default_release
            released = release_api_key(records, call.principal, provider, key, default_release=default)
            detail = {"released": "handle"} if isinstance(released, HandleIssued) else {}
            records.append_audit(call.event(provider=provider.name).ending("ok", **detail))
            return released

        event = call.event(provider=provider_name)
        return await audited(self._services.vault, call, lambda: self._services.vault.run(unit, event), provider=provider_name)

    async def call_api(self, call: Call, request: ApiRequest) -> ApiAnswer | ConsentRequired:
        """Call the vendor's API with a credential that the caller does not see.

        Raises:
            UrlRefused: If the URL is none of the provider's API.
            IdentityError: Any of the designed failures; the trail has it.
        """
        told: dict[str, str] = {}

        async def work() -> ApiAnswer | ConsentRequired:
            provider = await self.directory.find(call.principal.tenant, request.provider)
            if provider is None:
                raise unknown_provider()
            require_access(call.principal, call.action, provider, frozenset())
            plan = call_plan(call.principal, provider, request)
            outcome = await self._calls.perform(call, provider, plan, request, told)
            if isinstance(outcome, ApiAnswer):
                return outcome
            if plan is None:
                raise RuntimeError("an API key needs no consent")
            return await self._consents.start(call, plan, outcome)

        return await audited(self._services.vault, call, work, provider=request.provider, detail=told)

    async def redeem(self, call: Call, handle: Secret) -> TokenReleased | ApiKeyReleased:
        """Give agent code the secret behind a one-time handle.

        Raises:
            AccessDenied: If the caller brings no workload access token, or policy or the release mode say no.
            NotFound: If there is no such handle for this caller, or it is used or over.
        """
        return await audited(self._services.vault, call, lambda: self._handles.redeem(call, handle))

    async def issue_workload_access_token(
        self,
        call: Call,
        user: User | None,
        user_expires_at: datetime | None,
        user_tool_scopes: frozenset[str] | None = None,
        subject_token: SubjectToken | None = None,
    ) -> WorkloadTokenIssued:
        """Issue a short-lived bearer for this workload, alone or for a user.

        Raises:
            AccessDenied: If this caller gets none, or may not assert users.
        """
        return await audited(
            self._services.vault,
            call,
            lambda: self._workload_access.issue(call, user, user_expires_at, user_tool_scopes, subject_token),
        )

    async def issue_identity_token(self, call: Call, audience: str, lifetime_seconds: int) -> IdentityTokenIssued:
        """Issue a signed JWT by which others recognise this workload.

        Raises:
            AccessDenied: If this caller gets none, or none for this audience.
            InvalidRequest: If the lifetime is out of bounds.
        """
        return await audited(self._services.vault, call, lambda: self._identity_tokens.issue(call, audience, lifetime_seconds))

    async def identity_metadata(self, tenant: str) -> Mapping[str, Any]:
        """The discovery document for those who verify a tenant's identity tokens.

        Raises:
            NotFound: If the tenant issues none, or is not there; both look the same.
        """
        return await self._identity_tokens.metadata(tenant)

    async def identity_jwks(self, tenant: str) -> Mapping[str, Any]:
        """The keys for those who verify a tenant's identity tokens.

        Raises:
            NotFound: As `identity_metadata`.
        """
        return await self._identity_tokens.jwks(tenant)

    async def list_providers(self, call: Call) -> ProviderListing:
        """The providers that this principal may use."""
        return await audited(self._services.vault, call, lambda: self._grants.list_providers(call))

    async def list_grants(self, call: Call) -> GrantListing:
        """This principal's grants."""
        return await audited(self._services.vault, call, lambda: self._grants.list_grants(call))

    async def revoke_grant(self, call: Call, provider: str, flow: str = "") -> tuple[Revoked, ...]:
        """End this principal's grants at a provider, here and there."""
        return await audited(self._services.vault, call, lambda: self._grants.revoke(call, provider, flow), provider=provider)

    async def note(self, call: Call) -> None:
        """Write down a call that reads nothing, such as `whoami`."""
        await self._services.vault.run(lambda records: records.append_audit(call.event()), call.event())

    async def refuse(self, call: Call, error: IdentityError, *, provider: str = "") -> None:
        """Write down a call that was refused before it came here."""
        await write_refusal(self._services.vault, call, error, provider=provider)

    async def list_audit(
        self, tenant: str, *, limit: int, after: AuditPlace | None = None
    ) -> list[tuple[AuditPlace, AuditEvent]]:
        """The latest events of a tenant, oldest first, each with its place, for the operator."""
        return await self._services.vault.read(lambda records: records.list_audit(tenant, limit=limit, after=after))

    async def check_storage(self) -> StorageReport:
        """Look at the whole vault for `doctor`: the database file, and what is kept of every tenant."""
        version, problems = await self._services.vault.check_storage()
        return StorageReport(version, problems, await self._services.vault.read(count_unreadable))

    async def complete_consent(self, call: Call, session_uri: str, user: User) -> ConsentStatus:
        """Finish a consent that came back to the workload's own app.

        Args:
            call: The workload that asked for it.
            session_uri: The completion URI that the browser brought; the session URI of the link completes nothing.
            user: The app's user, verified by the edge, or named by an id.

        Raises:
            ConsentNotFound: If there is no such completion URI, or it is another workload's.
            ConsentMismatch: If it is another user's; the consent has failed by that.
            IdentityError: Any other designed failure; the trail has it.
        """
        return await audited(self._services.vault, call, lambda: self.completion.complete(call, session_uri, user))

    async def view_consent(self, session_id: str, browser: BrowserSession | None = None) -> ConsentView | SignInView:
        """What the consent page shows to this browser."""
        return await self._consents.view(session_id, browser)

    async def begin_consent(
        self, session_id: str, *, allow_other_account: bool, browser: BrowserSession | None = None
    ) -> ConsentBegun:
        """The button on the consent page was pressed."""
        return await self._consents.begin(session_id, allow_other_account=allow_other_account, browser=browser)

    async def receive_callback(
        self,
        provider_id: str,
        parameters: Sequence[tuple[str, str]],
        browser_secrets: Mapping[str, str],
        browser: BrowserSession | None = None,
    ) -> Returned:
        """The vendor sent a browser back; where it goes now."""
        return await self._callbacks.receive(provider_id, parameters, browser_secrets, browser)

    async def has_open_consents(self) -> bool:
        """Whether anybody may still come to the consent page; ends what nobody will finish."""
        vault, now = self._services.vault, self._services.clock.monotonic()
        if now - self._swept_at >= _SWEEP_SECONDS:
            await self.sweep()
        return await vault.read(lambda records: records.has_open_sessions())

    async def sweep(self) -> int:
        """End what nobody will finish: consents that ran out or are stuck, sign-ins, handles. A server calls it periodically.

        Returns:
            How many consents were ended.
        """
        vault = self._services.vault
        self._swept_at = self._services.clock.monotonic()
        if await vault.read(lambda records: records.has_late_logins()):
            await vault.run(lambda records: records.sweep_logins())
        if await vault.read(lambda records: records.has_late_releases()):
            await vault.run(lambda records: records.sweep_releases())
        await self.replays.sweep()
        ended = 0
        if await vault.read(lambda records: records.has_unfinished_sessions()):
            while swept := await vault.run(lambda records: records.sweep_sessions()):
                ended += swept
        return ended

    def page_key(self) -> bytes:
        """The key of the consent page's form tokens."""
        return self._services.vault.derived_key("page")

    def request_state_key(self) -> bytes:
        """The key of what MCP clients carry for us between two rounds of one call; the same on every replica."""
        return self._services.vault.derived_key("request-state")

    def prove_vault(self, nonce: bytes, port: int) -> bytes:
        """Prove to a sibling process that this one serves the vault on `port`."""
        return self._services.vault.prove(nonce, port)

    def check_vault_proof(self, nonce: bytes, port: int, proof: bytes) -> bool:
        """Whether a sibling of this vault made the proof."""
        return self._services.vault.check_proof(nonce, port, proof)

    async def _token_or_link(self, call: Call, plan: Plan) -> TokenReleased | HandleIssued | ConsentRequired:
        outcome = await self._tokens.get(call, plan)
        if isinstance(outcome, NeedsConsent):
            return await self._consents.start(call, plan, outcome)
        return outcome

    async def _from_session(self, call: Call, request: TokenRequest) -> TokenReleased | HandleIssued | ConsentRequired:
        """Answer from one consent session alone: its link, how it ended, or the grant that it made."""
        session, provider = await self._progress.find(call, request.session_uri)
        plan = make_plan(call.principal, provider, same_request(session, provider, request))
        state, error_code = standing(session, self._services.clock.now())
        if state is ConsentState.COMPLETED:
            return await self._token_or_link(call, plan)
        if consent_status(state) == OPEN_STATUS:
            return await self._consents.again(call, plan, session)
        raise ending(state, error_code)
