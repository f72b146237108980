"""How an authorization code becomes a grant: one exchange, then one commit that checks again what was asked."""

from __future__ import annotations

from dataclasses import dataclass, replace

from mcp_identity.broker.refresh import insist
from mcp_identity.broker.release import ELICITED
from mcp_identity.broker.services import Services
from mcp_identity.broker.sessions import grant_key, require_unchanged
from mcp_identity.broker.vendor import ask, revoke_at_vendor
from mcp_identity.domain.audit import session_event
from mcp_identity.domain.consent import ConsentSession, ConsentState
from mcp_identity.domain.credentials import Secret, TokenSet
from mcp_identity.domain.errors import Conflict, DifferentAccount, IdentityError
from mcp_identity.domain.http import HttpResponse
from mcp_identity.domain.provider import CredentialProvider, Dialect, OAuthClient
from mcp_identity.oauth.id_token import jwks_request, verify_id_token
from mcp_identity.oauth.token import TokenAnswer, authorization_code_request, process_token_response
from mcp_identity.vault.records import Records
from mcp_identity.vault.records.consents import Attempt


@dataclass(frozen=True, slots=True)
class Exchange:
    """Everything that one exchange needs; the state is consumed, so nobody else does it."""

    session: ConsentSession
    attempt: Attempt
    code: Secret
    provider: CredentialProvider
    dialect: Dialect
    client: OAuthClient


class Exchanger:
    """Exchanges codes."""

    def __init__(self, services: Services) -> None:
        """Keep what it works with."""
        self._services = services

    async def finish(self, exchange: Exchange) -> None:
        """Exchange the code and store the grant; every outcome ends the session.

        Tokens that cannot be stored are given back: nobody would know of them.
        """
        try:
            answer = await self._exchange(exchange)
        except IdentityError as error:
            await self._fail(exchange, error)
            return
        try:
            await self._store(exchange, await self._with_account(exchange, answer))
        except Exception as error:
            upstreams, provider = self._services.upstreams, exchange.provider
            await revoke_at_vendor(upstreams, provider, exchange.dialect, exchange.client, answer.tokens)
            await self._fail(exchange, error if isinstance(error, IdentityError) else IdentityError("the exchange failed"))
            if not isinstance(error, IdentityError):
                raise

    async def _exchange(self, exchange: Exchange) -> TokenAnswer:
        provider, request = exchange.provider, exchange.session.request
        asked = authorization_code_request(
            provider.server,
            exchange.client,
            exchange.dialect,
            code=exchange.code,
            redirect_uri=request.redirect_uri,
            code_verifier=exchange.attempt.code_verifier,
            resource=request.resource,
        )

        def read(response: HttpResponse) -> TokenAnswer:
            now = self._services.clock.now()
            return process_token_response(response, exchange.dialect, requested_scopes=request.scopes, now=now)

        # Whatever the vendor did of late: the code is good for a minute, and for nothing else.
        with self._services.upstreams.at_once(provider, provider.server.token_url):
            answer = await ask(self._services.transport, provider, asked, read)
        return replace(answer, tokens=answer.tokens.obtained_from(provider.destination()))

    async def _with_account(self, exchange: Exchange, answer: TokenAnswer) -> TokenSet:
        """The account that the tokens belong to: the ID token's subject, verified, or the field that the data file names."""
        provider, nonce = exchange.provider, exchange.attempt.nonce
        if answer.id_token is None or not provider.server.jwks_url:
            return answer.tokens
        request = replace(jwks_request(provider.server), keep=f"keys {provider.id}")
        with self._services.upstreams.at_once(provider, provider.server.jwks_url):
            keys = await self._services.transport.send(request, allow_http_loopback=provider.allow_http_loopback)
        subject = verify_id_token(
            answer.id_token.reveal(),
            keys,
            server=provider.server,
            client_id=provider.client_id,
            nonce=nonce or None,
            now=self._services.clock.now(),
        )
        return answer.tokens.with_account(subject)

    async def _store(self, exchange: Exchange, tokens: TokenSet) -> None:
        session = exchange.session
        event = session_event(session, "complete_consent")

        def unit(records: Records) -> None:
            current = records.find_session(session.id)
            if current is not None and current.state is ConsentState.COMPLETED:
                return  # it stands already: the COMMIT that nobody was sure of had succeeded
            require_unchanged(records, session.request)
            key = grant_key(session.request)
            before = records.find_grant(key)
            known = before.tokens.account_id if before and before.tokens else ""
            if known and tokens.account_id != known and not exchange.attempt.allow_other_account:
                raise DifferentAccount("the user signed in with another account than before")
            grant = records.complete_grant(key, tokens, ELICITED if session.request.elicited else "consent")
            if not records.complete_session(session.id, grant.id):
                raise Conflict("the consent was ended while its code was exchanged")
            granted, asked = " ".join(sorted(tokens.scopes)), session.request.scopes
            detail = {"granted": granted} if tokens.scopes != asked else {}
            records.append_audit(event.ending("ok", **detail))

        await insist(self._services.vault, unit, event)

    async def _fail(self, exchange: Exchange, error: IdentityError) -> None:
        session = exchange.session
        event = session_event(session, "complete_consent")
        why = {"why": error.message}

        def unit(records: Records) -> None:
            records.end_session(session.id, ConsentState.FAILED, error.code)
            if not error.audited:
                records.append_audit(event.ending(error.code, **why))

        await self._services.vault.run(unit, event)
