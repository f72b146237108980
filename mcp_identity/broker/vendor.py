"""Small errands to a provider's authorization server that several verbs share."""

from __future__ import annotations

from base64 import b64decode
from collections.abc import Callable, Iterable
from typing import TypeVar
from urllib.parse import unquote_plus

from mcp_identity.broker.answers import Revoked
from mcp_identity.broker.plan import dialect_of
from mcp_identity.broker.upstreams import Upstreams
from mcp_identity.domain.clock import random_token
from mcp_identity.domain.credentials import Grant, TokenSet
from mcp_identity.domain.errors import Conflict, IdentityError, UpstreamRejected
from mcp_identity.domain.http import HttpRequest, HttpResponse
from mcp_identity.domain.provider import Assertions, CredentialProvider, Dialect, OAuthClient, Stamp
from mcp_identity.oauth.revocation import TokenTypeHint, process_revocation_response, revocation_request
from mcp_identity.transport import Transport
from mcp_identity.vault.records import Records

T = TypeVar("T")
FAILED = "failed"
_SHORTEST_SECRET = 8
_JTI_BYTES = 16


async def ask(transport: Transport, provider: CredentialProvider, request: HttpRequest, read: Callable[[HttpResponse], T]) -> T:
    """Send a request that carries secrets, and read its answer.

    Raises:
        UpstreamRejected: If the vendor refused; an error code that repeats what we sent is none.
        UpstreamError: If there is no usable answer.
    """
    response = await transport.send(request, allow_http_loopback=provider.allow_http_loopback)
    try:
        return read(response)
    except UpstreamRejected as error:
        if len(error.error) < _SHORTEST_SECRET or error.error not in _sent(request):
            raise
        message = "the authorization server refused the request, and repeats what we sent as its reason"
        raise UpstreamRejected(message, error="unspecified") from None


def _sent(request: HttpRequest) -> str:
    """Everything that a request says, as text."""
    scheme, _, credential = request.headers.get("Authorization", "").partition(" ")
    if scheme == "Basic":
        credential = b64decode(credential).decode("utf-8", "replace")
    return f"{unquote_plus((request.body or b'').decode('ascii', 'replace'))} {unquote_plus(credential)}"


def client_of(records: Records, provider: CredentialProvider) -> OAuthClient:
    """Who we are at the provider's authorization server, its secret included.

    Raises:
        Conflict: If the provider is not the one in the vault any more: its secret is not for the endpoints at hand.
        VaultCorrupt: If the secret was sealed for another configuration.
    """
    if records.find_provider(provider.tenant, provider.name) != provider:
        raise Conflict(f"the provider {provider.name} was changed meanwhile; ask again", retryable=True)
    secret, entropy, clock, dialect = (
        records.open_provider_secret(provider),
        records.entropy,
        records.clock,
        dialect_of(provider),
    )

    def stamp() -> Stamp:
        return Stamp(random_token(entropy, _JTI_BYTES), clock.now())

    assertions = Assertions(stamp, dialect.assertion_audience, dialect.assertion_algorithm, dialect.assertion_key_id)
    return OAuthClient(provider.client_id, provider.client_authentication, secret, assertions)


def find_client(records: Records, provider: CredentialProvider) -> OAuthClient | None:
    """The same for what must not fail over it: None where the secret cannot be had."""
    try:
        return client_of(records, provider)
    except IdentityError:
        return None


async def revoke_at_vendor(
    upstreams: Upstreams, provider: CredentialProvider, dialect: Dialect, client: OAuthClient | None, tokens: TokenSet | None
) -> str:
    """Give tokens back, the refresh token first (RFC 7009 §2.1); one that fails does not spare the other.

    A vendor that does not answer costs its deadline only a few times, however much there is to give back.

    Returns:
        ``revoked``, ``unsupported``, ``failed`` or ``nothing``; a failure at the vendor changes nothing here.
    """
    if tokens is None:
        return "nothing"
    if client is None or tokens.destination != provider.destination():
        return FAILED
    outcomes = [
        await _revoke_one(upstreams, provider, dialect, client, tokens, hint) for hint in ("refresh_token", "access_token")
    ]
    return next((outcome for outcome in (FAILED, "revoked") if outcome in outcomes), "unsupported")


async def revoke_grants_at_vendor(
    upstreams: Upstreams, provider: CredentialProvider, dialect: Dialect, client: OAuthClient | None, grants: Iterable[Grant]
) -> tuple[Revoked, ...]:
    """Give back what several grants of one provider held; each has been ended here already."""
    revoked: list[Revoked] = []
    for grant in grants:
        outcome = await revoke_at_vendor(upstreams, provider, dialect, client, grant.tokens)
        revoked.append(Revoked(provider.name, grant.key.flow, outcome))
    return tuple(revoked)


async def _revoke_one(
    upstreams: Upstreams,
    provider: CredentialProvider,
    dialect: Dialect,
    client: OAuthClient,
    tokens: TokenSet,
    hint: TokenTypeHint,
) -> str:
    token = tokens.refresh_token if hint == "refresh_token" else tokens.access_token
    # The vendors' own ways end everything by the access token, and know nothing else.
    if token is None or (hint == "refresh_token" and dialect.revocation_style != "rfc7009"):
        return "nothing"
    try:
        request = revocation_request(provider.server, client, dialect, token=token, token_type_hint=hint)
        if request is None:
            return "unsupported"
        async with upstreams.turn(provider, provider.server.revocation_url) as turn:
            with turn.asking():
                answer = await upstreams.transport.send(request, allow_http_loopback=provider.allow_http_loopback)
                process_revocation_response(answer, dialect)
    except IdentityError:
        return FAILED
    return "revoked"
