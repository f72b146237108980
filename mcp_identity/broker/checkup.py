"""Does a configured provider work? The checks behind `providers test`; they change nothing and ask nobody for consent."""

from __future__ import annotations

from collections.abc import Callable

from mcp_identity.broker.answers import ProviderCheck
from mcp_identity.broker.audit import Call
from mcp_identity.broker.discovery import fetch_metadata
from mcp_identity.broker.plan import dialect_of
from mcp_identity.broker.services import Services
from mcp_identity.broker.vendor import ask, client_of
from mcp_identity.domain.clock import random_token
from mcp_identity.domain.credentials import Flow, Secret
from mcp_identity.domain.errors import IdentityError, UpstreamRejected
from mcp_identity.domain.http import HttpResponse
from mcp_identity.domain.provider import CredentialProvider, OAuthClient, ProviderKind
from mcp_identity.oauth.on_behalf import exchange_request
from mcp_identity.oauth.token import TokenAnswer, authorization_code_request, client_credentials_request, process_token_response

_CLIENT_REFUSED = frozenset({"invalid_client", "unauthorized_client", "incorrect_client_credentials", "bad_client_secret"})


class Checkup:
    """Tests providers."""

    def __init__(self, services: Services) -> None:
        """Keep what it works with."""
        self._services = services

    async def run(self, call: Call, provider: CredentialProvider, redirect_uri: str) -> tuple[ProviderCheck, ...]:
        """Test one provider: its secret, its metadata, and whether its authorization server knows our client."""
        checks: list[ProviderCheck] = []
        try:
            client = await self._services.vault.run(lambda records: client_of(records, provider))
        except IdentityError as error:
            checks.append(ProviderCheck("secret", passed=False, detail=error.message))
        else:
            checks.append(ProviderCheck("secret", passed=True, detail="opens" if client.secret else "none is needed"))
            if provider.kind is ProviderKind.OAUTH2:
                checks += await self._of_server(provider, client, redirect_uri)
        outcome = "ok" if all(check.passed for check in checks) else "provider_misconfigured"
        event = call.event(provider=provider.name, outcome=outcome)
        await self._services.vault.run(lambda records: records.append_audit(event))
        return tuple(checks)

    async def _of_server(self, provider: CredentialProvider, client: OAuthClient, redirect_uri: str) -> list[ProviderCheck]:
        checks: list[ProviderCheck] = []
        if provider.server.issuer and provider.settings.get("issuer"):
            checks.append(await self._metadata(provider))
        if Flow.M2M in provider.flows:
            checks.append(await self._m2m(provider, client))
        if Flow.USER_FEDERATION in provider.flows:
            checks.append(await self._code(provider, client, redirect_uri))
        if Flow.ON_BEHALF_OF_TOKEN_EXCHANGE in provider.flows and dialect_of(provider).on_behalf_of_client:
            checks.append(await self._exchange(provider, client))
        return checks

    async def _metadata(self, provider: CredentialProvider) -> ProviderCheck:
        try:
            found = await fetch_metadata(
                self._services.transport, provider.server.issuer, allow_http_loopback=provider.allow_http_loopback
            )
        except IdentityError as error:
            return ProviderCheck("metadata", passed=False, detail=f"{error.code}: {error.message}")
        same = found.server.token_url == provider.server.token_url
        detail = "as it was pinned" if same else "the token endpoint moved; if you trust that, update the provider"
        return ProviderCheck("metadata", passed=same, detail=detail)

    def _reader(self, provider: CredentialProvider) -> Callable[[HttpResponse], TokenAnswer]:
        clock, scopes = self._services.clock, provider.scopes
        return lambda response: process_token_response(response, dialect_of(provider), requested_scopes=scopes, now=clock.now())

    async def _m2m(self, provider: CredentialProvider, client: OAuthClient) -> ProviderCheck:
        dialect = dialect_of(provider)
        try:
            request = client_credentials_request(provider.server, client, dialect, scopes=provider.scopes)
            answer = await ask(self._services.transport, provider, request, self._reader(provider))
        except IdentityError as error:
            return ProviderCheck("client credentials", passed=False, detail=f"{error.code}: {error.message}")
        granted = " ".join(sorted(answer.tokens.scopes)) or "no scopes"
        return ProviderCheck("client credentials", passed=True, detail=f"a token for {granted}")

    async def _exchange(self, provider: CredentialProvider, client: OAuthClient) -> ProviderCheck:
        """Exchange a token that is nobody's, likewise."""
        nobodys = Secret(random_token(self._services.entropy))
        try:
            request = exchange_request(
                provider.server, client, dialect_of(provider), subject_token=nobodys, scopes=provider.scopes
            )
            await ask(self._services.transport, provider, request, self._reader(provider))
        except UpstreamRejected as error:
            return _as_refused("exchange", error)
        except IdentityError as error:
            return ProviderCheck("exchange", passed=False, detail=f"{error.code}: {error.message}")
        return ProviderCheck("exchange", passed=False, detail="the server exchanged a token that is nobody's")

    async def _code(self, provider: CredentialProvider, client: OAuthClient, redirect_uri: str) -> ProviderCheck:
        """Exchange a code that cannot exist: a server that knows us refuses the code, one that does not refuses us."""
        made_up = Secret(random_token(self._services.entropy))
        try:
            request = authorization_code_request(
                provider.server,
                client,
                dialect_of(provider),
                code=made_up,
                redirect_uri=redirect_uri,
                code_verifier=Secret(random_token(self._services.entropy)),
            )
            await ask(self._services.transport, provider, request, self._reader(provider))
        except UpstreamRejected as error:
            return _as_refused("authorization code", error)
        except IdentityError as error:
            return ProviderCheck("authorization code", passed=False, detail=f"{error.code}: {error.message}")
        return ProviderCheck("authorization code", passed=False, detail="the server accepted a code that does not exist")


def _as_refused(name: str, error: UpstreamRejected) -> ProviderCheck:
    """What a refusal says of our client: one that is about what was made up says that the client is known."""
    refused = error.error in _CLIENT_REFUSED
    detail = f"the server does not accept our client ({error.error})" if refused else "the server knows our client"
    return ProviderCheck(name, passed=not refused, detail=detail)
