"""The one door through which a secret leaves: as the value, as a handle, or never.

Every edge comes through here, inside the unit that writes the audit row, so nothing is handed out before that row stands.
"""

from __future__ import annotations

from mcp_identity.broker.answers import ApiKeyReleased, TokenReleased
from mcp_identity.domain.credentials import Grant, Secret
from mcp_identity.domain.errors import AccessDenied, ProviderMisconfigured, VaultCorrupt
from mcp_identity.domain.identity import Principal
from mcp_identity.domain.provider import CredentialProvider, Release

ELICITED = "elicitation"
"""How a grant was obtained that MCP forbids to hand to the client."""


def release_token(
    principal: Principal,
    provider: CredentialProvider,
    grant: Grant,
    *,
    default_release: Release,
    missing_scopes: frozenset[str],
    refreshed: bool,
) -> TokenReleased:
    """Let an access token go.

    Raises:
        AccessDenied: If the provider's release mode keeps it here.
        ProviderMisconfigured: If it has no end within a day and no operator chose a release mode.
    """
    tokens = grant.tokens
    if tokens is None:
        raise VaultCorrupt("an active grant has no tokens")
    _require_release(principal, provider, default_release, long_lived=tokens.is_long_lived, obtained_by=grant.obtained_by)
    return TokenReleased(
        access_token=tokens.access_token,
        token_type=tokens.token_type,
        scopes=tuple(sorted(tokens.scopes)),
        missing_scopes=tuple(sorted(missing_scopes)),
        expires_at=tokens.expires_at,
        provider=provider.name,
        flow=grant.key.flow,
        extra=tokens.extra,
        refreshed=refreshed,
    )


def release_api_key(
    principal: Principal, provider: CredentialProvider, key: Secret, *, default_release: Release
) -> ApiKeyReleased:
    """Let an API key go; it has no end, so only an explicit release mode lets it.

    Raises:
        AccessDenied: If the provider's release mode keeps it here.
        ProviderMisconfigured: If no operator chose a release mode.
    """
    _require_release(principal, provider, default_release, long_lived=True, obtained_by="")
    return ApiKeyReleased(key, provider.name)


def _require_release(
    principal: Principal, provider: CredentialProvider, default: Release, *, long_lived: bool, obtained_by: str
) -> None:
    mode = provider.release or default
    if mode is Release.NEVER:
        raise AccessDenied(f"{provider.name} has release never: its credential is used through call_api and does not leave")
    if mode is Release.HANDLE:
        where = "the command line" if principal.authenticated_by == "cli" else "stdio"
        raise AccessDenied(
            f"{provider.name} has release handle, which on {where} behaves as never: its credential is used through call_api"
        )
    if obtained_by == ELICITED:
        raise AccessDenied(f"this grant at {provider.name} was obtained through elicitation; it is used through call_api")
    if long_lived and provider.release is None:
        raise ProviderMisconfigured(
            f"the credential of {provider.name} has no end within 24 hours, so an operator has to choose how it may leave: "
            f"mcp-identity providers update {provider.name} --release token"
        )
