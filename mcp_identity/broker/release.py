"""The one door through which a secret leaves: as the value, as a one-time handle, or never.

Every edge comes through here, inside the unit that writes the audit row, so nothing is handed out before that row stands. A
call of the vendor's API takes the credential through here too, for `calls.py` alone: it does not leave.
"""

from __future__ import annotations

from datetime import timedelta
from hashlib import sha256

from mcp_identity.broker.answers import ApiKeyReleased, HandleIssued, TokenReleased
from mcp_identity.domain.clock import random_token
from mcp_identity.domain.credentials import Grant, Secret, TokenSet
from mcp_identity.domain.errors import AccessDenied, ProviderMisconfigured, VaultCorrupt
from mcp_identity.domain.identity import Principal, Proof
from mcp_identity.domain.provider import CredentialProvider, Release
from mcp_identity.vault.records import Records
from mcp_identity.vault.records.releases import NewRelease

ELICITED = "elicitation"
"""How a grant was obtained that MCP forbids to hand to the client."""
HANDLE_PREFIX = "mid_rh_"
HANDLE_LIFETIME = timedelta(seconds=60)
_CODE_EDGES = frozenset({"agentcore"})
"""Where nobody but code asks, so that no model sees what is answered."""
_HANDLE_EDGES = frozenset({"http", "sse"})
"""Where code of the agent's can redeem a handle over the same network."""


def release_token(
    records: Records,
    principal: Principal,
    provider: CredentialProvider,
    grant: Grant,
    *,
    default_release: Release,
    missing_scopes: frozenset[str],
    refreshed: bool,
) -> TokenReleased | HandleIssued:
    """Let an access token go.

    Raises:
        AccessDenied: If the provider's release mode keeps it here.
        ProviderMisconfigured: If it has no end within a day and no operator chose a release mode.
    """
    tokens = _tokens(grant)
    mode = provider.release or default_release
    _require_release(principal, provider, mode, long_lived=tokens.is_long_lived, obtained_by=grant.obtained_by)
    if mode is Release.HANDLE and not _is_agent_code(principal):
        handle = _issue(records, principal, provider, grant.id, grant.generation)
        return HandleIssued(
            handle=handle,
            handle_expires_at=records.now + HANDLE_LIFETIME,
            provider=provider.name,
            flow=grant.key.flow,
            scopes=tuple(sorted(tokens.scopes)),
            missing_scopes=tuple(sorted(missing_scopes)),
            expires_at=tokens.known_end,
        )
    return _released(provider, grant, tokens, missing_scopes, refreshed=refreshed)


def release_api_key(
    records: Records, principal: Principal, provider: CredentialProvider, key: Secret, *, default_release: Release
) -> ApiKeyReleased | HandleIssued:
    """Let an API key go; it has no end, so only an explicit release mode lets it.

    Raises:
        AccessDenied: If the provider's release mode keeps it here.
        ProviderMisconfigured: If no operator chose a release mode.
    """
    mode = provider.release or default_release
    _require_release(principal, provider, mode, long_lived=True, obtained_by="")
    if mode is Release.HANDLE and not _is_agent_code(principal):
        handle = _issue(records, principal, provider, "", provider.epoch)
        return HandleIssued(handle=handle, handle_expires_at=records.now + HANDLE_LIFETIME, provider=provider.name)
    return ApiKeyReleased(key, provider.name)


def redeem_token(provider: CredentialProvider, grant: Grant, *, default_release: Release) -> TokenReleased:
    """Let the access token of a handle go; whose it is was checked, and the handle is consumed in this very unit.

    Raises:
        AccessDenied: If the release mode keeps it here by now.
    """
    _require_redeemable(provider, default_release, obtained_by=grant.obtained_by)
    return _released(provider, grant, _tokens(grant), frozenset(), refreshed=False)


def redeem_api_key(provider: CredentialProvider, key: Secret, *, default_release: Release) -> ApiKeyReleased:
    """Let the API key of a handle go, likewise.

    Raises:
        AccessDenied: If the release mode keeps it here by now.
    """
    _require_redeemable(provider, default_release, obtained_by="")
    return ApiKeyReleased(key, provider.name)


def use_token(grant: Grant) -> Secret:
    """The access token for one request to the vendor's API, which only `calls.py` makes; every release mode lets it."""
    return _tokens(grant).access_token


def use_api_key(key: Secret) -> Secret:
    """The API key for one such request."""
    return key


def handle_hash(handle: Secret) -> bytes:
    """What a handle is found by."""
    return sha256(handle.reveal().encode()).digest()


def _issue(records: Records, principal: Principal, provider: CredentialProvider, grant_id: str, generation: int) -> Secret:
    """Keep a new handle: whose it is and what for, and no copy of the secret."""
    handle = Secret(HANDLE_PREFIX + random_token(records.entropy))
    records.insert_release(
        NewRelease(
            tenant=principal.tenant,
            handle_hash=handle_hash(handle),
            workload_id=principal.workload.id,
            workload_epoch=principal.workload.epoch,
            user_key=principal.user_key,
            grant_id=grant_id,
            provider_row=provider.id,
            generation=generation,
            expires_at=records.now + HANDLE_LIFETIME,
        )
    )
    return handle


def _released(
    provider: CredentialProvider, grant: Grant, tokens: TokenSet, missing_scopes: frozenset[str], *, refreshed: bool
) -> TokenReleased:
    return TokenReleased(
        access_token=tokens.access_token,
        token_type=tokens.token_type,
        scopes=tuple(sorted(tokens.scopes)),
        missing_scopes=tuple(sorted(missing_scopes)),
        expires_at=tokens.known_end,
        provider=provider.name,
        flow=grant.key.flow,
        extra=tokens.extra,
        refreshed=refreshed,
    )


def _tokens(grant: Grant) -> TokenSet:
    if grant.tokens is None:
        raise VaultCorrupt("an active grant has no tokens")
    return grant.tokens


def require_way_out(provider: CredentialProvider, *, default_release: Release) -> None:
    """Refuse at once what leaves by no edge, whatever the user would say, before anybody is asked.

    Raises:
        AccessDenied: If the provider's release mode keeps every credential of it here.
    """
    if (provider.release or default_release) is Release.NEVER:
        raise AccessDenied(f"{provider.name} has release never: its credential is used through call_api and does not leave")


def _require_release(
    principal: Principal, provider: CredentialProvider, mode: Release, *, long_lived: bool, obtained_by: str
) -> None:
    require_way_out(provider, default_release=mode)
    if mode is Release.HANDLE and not _can_redeem(principal) and not _is_agent_code(principal):
        raise AccessDenied(
            f"{provider.name} has release handle, which on {_where(principal)} behaves as never: "
            "its credential is used through call_api"
        )
    if mode is Release.TOKEN and obtained_by == ELICITED:
        raise AccessDenied(f"this grant at {provider.name} was obtained through elicitation; it is used through call_api")
    if long_lived and provider.release is None:
        raise ProviderMisconfigured(
            f"the credential of {provider.name} has no end within 24 hours, so an operator has to choose how it may leave: "
            f"mcp-identity providers update {provider.name} --release token"
        )


def _require_redeemable(provider: CredentialProvider, default: Release, *, obtained_by: str) -> None:
    mode = provider.release or default
    if mode is Release.NEVER or (mode is Release.TOKEN and obtained_by == ELICITED):
        raise AccessDenied(f"the credential of {provider.name} does not leave any more; it is used through call_api")


def _can_redeem(principal: Principal) -> bool:
    """Whether agent code can have a workload access token of this very principal."""
    return principal.edge in _HANDLE_EDGES and principal.authenticated_by != Proof.LOOPBACK


def _is_agent_code(principal: Principal) -> bool:
    """Whether what asks is code of the agent's with a workload access token, which would redeem a handle at once anyway."""
    return principal.edge in _CODE_EDGES and principal.authenticated_by == Proof.WORKLOAD_TOKEN


def _where(principal: Principal) -> str:
    names = {Proof.CLI.value: "the command line", Proof.LOOPBACK.value: "a server that asks nobody who they are"}
    return names.get(principal.authenticated_by, "stdio")
