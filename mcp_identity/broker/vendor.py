"""Small errands to a provider's authorization server that several verbs share."""

from __future__ import annotations

from mcp_identity.domain.credentials import TokenSet
from mcp_identity.domain.errors import IdentityError
from mcp_identity.domain.provider import CredentialProvider, Dialect, OAuthClient
from mcp_identity.oauth.revocation import process_revocation_response, revocation_request
from mcp_identity.transport import Transport
from mcp_identity.vault.records import Records


def client_of(records: Records, provider: CredentialProvider) -> OAuthClient:
    """Who we are at the provider's authorization server, its secret included."""
    return OAuthClient(provider.client_id, provider.client_authentication, records.open_provider_secret(provider))


async def revoke_at_vendor(
    transport: Transport, provider: CredentialProvider, dialect: Dialect, client: OAuthClient, tokens: TokenSet | None
) -> str:
    """Give tokens back, the refresh token first (RFC 7009 §2.1).

    Returns:
        ``revoked``, ``unsupported``, ``failed`` or ``nothing``; a failure at the vendor changes nothing here.
    """
    if tokens is None:
        return "nothing"
    outcome = "unsupported"
    try:
        for token, hint in ((tokens.refresh_token, "refresh_token"), (tokens.access_token, "access_token")):
            if token is None:
                continue
            request = revocation_request(
                provider.server,
                client,
                dialect,
                token=token,
                token_type_hint="refresh_token" if hint == "refresh_token" else "access_token",
            )
            if request is not None:
                answer = await transport.send(request, allow_http_loopback=provider.allow_http_loopback)
                process_revocation_response(answer, dialect)
                outcome = "revoked"
    except IdentityError:
        return "failed"
    return outcome
