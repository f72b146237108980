"""How is a vendor's API called for an agent that does not see the credential?

    check → token and audit, in one unit → request → audit → answer

The URL is read once; what was read goes to policy, the trail and the wire. Every request that leaves, also after a redirect
or a refresh, is decided afresh and stands in the trail before it leaves. Trusts neither the agent's request nor the vendor's
answer, and follows neither off the provider's own API hosts. An API that hangs holds a place of its provider's and nobody
else's; what all answers together may fill is bounded (`budget.py`).
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import TypeVar

import anyio.to_thread

from mcp_identity.broker.access import require_access, require_workload
from mcp_identity.broker.audit import Call
from mcp_identity.broker.budget import ANSWER_BYTES, Account, Budget
from mcp_identity.broker.outside import Seen, challenged_scopes, see
from mcp_identity.broker.plan import Plan, api_of
from mcp_identity.broker.redaction import Redactor
from mcp_identity.broker.release import use_api_key, use_token
from mcp_identity.broker.services import Services
from mcp_identity.broker.tokens import NeedsConsent, Tokens, granted_scopes
from mcp_identity.broker.upstreams import api_endpoint
from mcp_identity.domain.api_call import (
    MAXIMUM_BODY_BYTES,
    MAXIMUM_REDIRECTS,
    REDIRECTS,
    ApiAnswer,
    ApiRequest,
    Attempt,
    Reach,
    check_method,
)
from mcp_identity.domain.api_url import ApiUrl
from mcp_identity.domain.audit import AuditEvent
from mcp_identity.domain.credentials import Grant, Reason, Secret
from mcp_identity.domain.errors import AccessDenied, Conflict, IdentityError, InvalidRequest, ProviderMisconfigured, UrlRefused
from mcp_identity.domain.http import HttpRequest, HttpResponse, Method
from mcp_identity.domain.provider import CredentialProvider
from mcp_identity.vault.records import Records

T = TypeVar("T")

DEADLINE_SECONDS = 30.0
_UNAUTHORIZED, _FORBIDDEN = 401, 403
_LARGE = 64 * 1024
"""Bytes above which a body is searched on a thread, so that nobody else waits."""


@dataclass(frozen=True, slots=True)
class _Job:
    """One call, checked.

    Attributes:
        call: Who asks.
        provider: The provider, as it is configured now.
        plan: Which grant; None for an API key.
        request: What was asked.
        method: The method.
        headers: The request headers, the credential not among them.
        reach: Where the credential may go.
        attempt: What the decision is made on.
        account: The room for the answers.
    """

    call: Call
    provider: CredentialProvider
    plan: Plan | None
    request: ApiRequest
    method: Method
    headers: dict[str, str]
    reach: Reach
    attempt: Attempt
    account: Account

    def event(self, url: ApiUrl, grant: Grant | None, redactor: Redactor, step: str) -> AuditEvent:
        """What the trail says of one request: who, and where to; never the query."""
        event = self.call.event(
            provider=self.provider.name,
            flow=self.plan.flow.value if self.plan else "",
            scopes=grant.tokens.scopes if grant and grant.tokens else frozenset(),
        )
        path = redactor.redact(url.path).text
        return event.ending("ok", step=step, method=self.method, host=url.host, path=path)


@dataclass(frozen=True, slots=True)
class _Ready:
    """What one request needs; its row in the trail is committed."""

    credential: Secret
    url: ApiUrl
    grant: Grant | None
    redactor: Redactor

    @property
    def customer(self) -> str:
        """The customer's own API host, where the grant fixed one."""
        return self.grant.tokens.api_host if self.grant and self.grant.tokens else ""


_Obtain = Callable[[ApiUrl | None], Awaitable[_Ready | NeedsConsent]]


class ApiCalls:
    """Calls APIs."""

    def __init__(self, services: Services, tokens: Tokens) -> None:
        """Keep what it works with."""
        self._services = services
        self._tokens = tokens
        self._budget = Budget(ANSWER_BYTES)

    async def perform(
        self, call: Call, provider: CredentialProvider, plan: Plan | None, request: ApiRequest, told: dict[str, str]
    ) -> ApiAnswer | NeedsConsent:
        """Call the API.

        Args:
            call: Who asks.
            provider: The provider.
            plan: Which grant; None where the provider holds an API key.
            request: What to ask.
            told: Is given what the trail shall know of a call that is refused.

        Raises:
            InvalidRequest: If the request is malformed, or carries a credential by itself.
            UrlRefused: If the URL is none of the provider's API.
            UpstreamError: If there is no answer, or none that can be passed on.
            RateLimited: If there is no room for the answer now, and the request changed nothing.
            IdentityError: As `Tokens.get`.
        """
        with self._budget.account(check_method(request.method)) as account:
            job = self._check(call, provider, plan, request, told, account)
            if plan is not None:
                return await self._run(job, self._with_token(job, plan))
            return await self._run(job, self._with_key(job))

    def _check(
        self,
        call: Call,
        provider: CredentialProvider,
        plan: Plan | None,
        request: ApiRequest,
        told: dict[str, str],
        account: Account,
    ) -> _Job:
        """Everything that can be refused before the grant is looked at."""
        api = api_of(provider)
        reach = Reach(api, provider.api_hosts, provider.server, provider.allow_http_loopback)
        method = check_method(request.method)
        told["method"] = method
        if request.body is not None and method in ("GET", "HEAD"):
            raise InvalidRequest(f"{method} takes no body")
        if request.body is not None and len(request.body) > MAXIMUM_BODY_BYTES:
            raise InvalidRequest(f"the body is larger than {MAXIMUM_BODY_BYTES} bytes")
        url = reach.read(request)
        if url is not None:
            told["host"] = url.host  # not the path: what the agent wrote there may be a secret that is not known yet
            if plan is None or not plan.dialect.api_host_field:
                reach.check(method, url)
        elif plan is None or not plan.dialect.api_host_field:
            reach.require_hosts()
        headers = reach.headers(request.headers, request.body, has_key=plan is None)
        attempt = Attempt(method, url.host if url else "", url.path if url else request.path.partition("?")[0])
        return _Job(call, provider, plan, request, method, headers, reach, attempt, account)

    def _with_token(self, job: _Job, plan: Plan) -> _Obtain:
        async def obtain(url: ApiUrl | None) -> _Ready | NeedsConsent:
            def door(records: Records, grant: Grant, missing: frozenset[str], *, refreshed: bool) -> _Ready:
                del missing, refreshed
                customer = grant.tokens.api_host if grant.tokens else ""
                return _begin(records, job, use_token(grant), url, grant, customer)

            return await self._tokens.serve(job.call, plan, door, _attempt(job, url))

        return obtain

    def _with_key(self, job: _Job) -> _Obtain:
        async def obtain(url: ApiUrl | None) -> _Ready:
            call, provider = job.call, job.provider
            require_access(call.principal, call.action, provider, frozenset(), _attempt(job, url))

            def unit(records: Records) -> _Ready:
                require_workload(records, call.principal)
                if records.find_provider(provider.tenant, provider.name) != provider:
                    raise Conflict(f"the provider {provider.name} was changed meanwhile; ask again", retryable=True)
                key = records.open_provider_secret(provider)
                if key is None:
                    raise ProviderMisconfigured(f"{provider.name} has no API key; an operator has to give it")
                return _begin(records, job, use_api_key(key), url, None, "")

            return await self._services.vault.run(unit, call.event(provider=provider.name))

        return obtain

    async def _run(self, job: _Job, obtain: _Obtain) -> ApiAnswer | NeedsConsent:
        """Send the request, and whatever has to follow it."""
        url: ApiUrl | None = None
        redirects, repeated = 0, False
        while True:
            ready = await obtain(url)
            if isinstance(ready, NeedsConsent):
                return ready
            await self._require_no_credential(job, ready)
            response = await self._send(job, ready)
            renewed = False
            if response.status == _UNAUTHORIZED and job.plan and ready.grant and not repeated:
                renewed = await self._tokens.renew(job.call, job.plan, ready.grant)
                if renewed and job.reach.may_repeat(job.method):
                    await self._note(job, ready, response, step="repeated")
                    repeated, url = True, ready.url
                    continue
            following = _redirect(job, ready, response) if redirects < MAXIMUM_REDIRECTS else None
            if following is not None:
                await self._note(job, ready, response, step="redirected")
                redirects, url = redirects + 1, following
                continue
            needs = _missing(job, ready, response)
            if needs is not None:
                await self._note(job, ready, response, step="answered")
                return needs
            seen = await _off_loop(len(response.body), lambda: see(response, job.reach, ready.redactor))  # noqa: B023 - awaited here
            await self._note(job, ready, response, step="answered", seen=seen)
            return _answer(job, ready, response, seen, renewed=renewed)

    async def _require_no_credential(self, job: _Job, ready: _Ready) -> None:
        """Refuse a request in which the agent itself put the credential.

        Raises:
            InvalidRequest: If it is there, in whatever encoding.
        """
        head, body = "\n".join([ready.url.text, *job.headers.values()]).encode(), job.request.body or b""
        found = ready.redactor.is_in(head) or await _off_loop(len(body), lambda: ready.redactor.is_in(body))
        if found:
            raise InvalidRequest("the request holds the credential itself; leave it out, the server adds it where it belongs")

    async def _send(self, job: _Job, ready: _Ready) -> HttpResponse:
        outgoing = _outgoing(job, ready)
        try:
            async with self._services.upstreams.turn(job.provider, api_endpoint(ready.url.host), owner=_sender(job)) as turn:
                with turn.asking():
                    return await self._services.transport.send(outgoing, allow_http_loopback=job.provider.allow_http_loopback)
        except IdentityError as error:
            event = job.event(ready.url, ready.grant, ready.redactor, "failed").ending(error.code)
            await self._services.vault.run(lambda records: records.append_audit(event))
            error.audited = True
            raise

    async def _note(self, job: _Job, ready: _Ready, response: HttpResponse, *, step: str, seen: Seen | None = None) -> None:
        """Write down how a request ended, before anybody is told."""
        detail = {"status": str(response.status)}
        if seen is not None and seen.echoed:
            detail["credential_echoed"] = "withheld" if seen.is_withheld else str(seen.echoed)
        event = job.event(ready.url, ready.grant, ready.redactor, step)
        event = event.ending("ok", **detail)
        await self._services.vault.run(lambda records: records.append_audit(event))


def _begin(records: Records, job: _Job, credential: Secret, url: ApiUrl | None, grant: Grant | None, customer: str) -> _Ready:
    """Decide where the request goes, and write it down, in the unit that gives the credential."""
    target = url or job.reach.read(job.request, customer)
    if target is None:
        raise UrlRefused("the grant names no API host; connect the account again, or give the whole url")
    job.reach.check(job.method, target, customer)
    redactor = Redactor(credential.reveal())
    records.append_audit(job.event(target, grant, redactor, "begun"))
    return _Ready(credential, target, grant, redactor)


def _attempt(job: _Job, url: ApiUrl | None) -> Attempt:
    return replace(job.attempt, host=url.host, path=url.path) if url else job.attempt


def _outgoing(job: _Job, ready: _Ready) -> HttpRequest:
    """The request with the credential in it."""
    secret, api, url = ready.credential.reveal(), job.reach.api, ready.url
    headers = dict(job.headers)
    if job.plan is not None:
        headers["Authorization"] = f"Bearer {_plain(job, secret)}"
    elif api.key_placement == "query":
        url = url.with_query([(api.key_name, secret)])
    elif api.key_placement == "basic":
        pair = f"{api.key_username}:{secret}" if api.key_username else f"{secret}:"
        headers["Authorization"] = f"Basic {b64encode(pair.encode()).decode()}"
    else:
        headers[api.key_name] = f"{api.key_prefix} {_plain(job, secret)}".strip()
    return HttpRequest(
        job.method,
        url.text,
        headers,
        job.request.body,
        MAXIMUM_BODY_BYTES,
        cut=True,
        deadline_seconds=DEADLINE_SECONDS,
        keep=_sender(job),
        allowance=job.account.take,
    )


def _sender(job: _Job) -> str:
    """Who shares a connection: the calls of one principal at one provider."""
    principal = job.call.principal
    return " ".join((job.provider.id, str(job.provider.epoch), principal.workload.id, principal.user_key))


def _plain(job: _Job, secret: str) -> str:
    if not secret.isascii() or not secret.isprintable():
        raise ProviderMisconfigured(f"the credential of {job.provider.name} holds characters that no header takes")
    return secret


def _redirect(job: _Job, ready: _Ready, response: HttpResponse) -> ApiUrl | None:
    """Where a redirect leads that may be followed; one that may not be is the answer."""
    location = response.headers.get("location", "")
    if response.status not in REDIRECTS or job.method not in ("GET", "HEAD") or not location:
        return None
    try:
        url = ready.url.resolve(location)
        job.reach.check_query(url)
        job.reach.check(job.method, url, ready.customer)
    except (UrlRefused, InvalidRequest):
        return None
    return None if ready.redactor.is_in(url.text.encode()) else url


def _missing(job: _Job, ready: _Ready, response: HttpResponse) -> NeedsConsent | None:
    """Whether a refusal for want of scopes is one that the user may be asked about."""
    plan, tokens = job.plan, ready.grant.tokens if ready.grant else None
    if response.status != _FORBIDDEN or plan is None or tokens is None or ready.grant is None or not plan.flow.asks_user:
        return None
    allowed = challenged_scopes(response) & job.provider.scopes
    missing = allowed - granted_scopes(plan, ready.grant) - tokens.declined_scopes
    scopes = plan.scopes | tokens.scopes | missing
    if not missing:
        return None
    try:
        require_access(job.call.principal, job.call.action, job.provider, scopes, _attempt(job, ready.url))
    except AccessDenied:
        return None
    return NeedsConsent(Reason.MISSING_SCOPES, scopes, missing)


def _answer(job: _Job, ready: _Ready, response: HttpResponse, seen: Seen, *, renewed: bool) -> ApiAnswer:
    return ApiAnswer(
        provider=job.provider.name,
        url=f"{ready.url.origin}{ready.url.path}",
        status=response.status,
        headers=seen.headers,
        text=seen.text,
        data=seen.data,
        media_type=seen.media_type,
        is_cut=response.is_cut,
        echoed=seen.echoed > 0,
        is_withheld=seen.is_withheld,
        renewed=renewed,
    )


async def _off_loop(size: int, work: Callable[[], T]) -> T:
    """Do something with so many bytes; on a thread where they are many."""
    return await anyio.to_thread.run_sync(work) if size > _LARGE else work()
