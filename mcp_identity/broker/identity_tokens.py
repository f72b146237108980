"""A workload's proof of itself for others, and the documents by which others verify it.

Only a workload that proved itself by a credential of its own gets one: not by a user's token, whose bearer may be the user,
nor by a workload access token, which would let it outlive its end. The trail has it before it leaves.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from mcp_identity.broker.access import require_workload
from mcp_identity.broker.answers import IdentityTokenIssued
from mcp_identity.broker.audiences import require_foreign_audience
from mcp_identity.broker.audit import NAME_LIMIT, Call
from mcp_identity.broker.services import Services
from mcp_identity.broker.signing import SigningKeys, signing_key
from mcp_identity.domain.clock import random_token
from mcp_identity.domain.credentials import Secret
from mcp_identity.domain.errors import AccessDenied, InvalidRequest, NotFound, clean_text
from mcp_identity.domain.identity import Principal, Proof, command, is_name
from mcp_identity.oauth.identity_token import (
    identity_claims,
    identity_metadata,
    issuer_of,
    key_set,
    sign_identity_token,
)
from mcp_identity.vault.records import Records

SHORTEST_SECONDS, LONGEST_SECONDS = 60, 900
_TOKEN_ID_BYTES = 16


class IdentityTokens:
    """The identity tokens of the tenants."""

    def __init__(self, services: Services, signing_keys: SigningKeys) -> None:
        """Keep what it works with."""
        self._services = services
        self._signing_keys = signing_keys

    async def issue(self, call: Call, audience: str, lifetime_seconds: int) -> IdentityTokenIssued:
        """Issue an identity token.

        Args:
            call: Of the workload itself.
            audience: One of those that an operator gave the workload.
            lifetime_seconds: `SHORTEST_SECONDS` to `LONGEST_SECONDS`.

        Raises:
            InvalidRequest: If the lifetime is another.
            AccessDenied: If this caller gets none, or none for this audience, or there is no public URL.
        """
        principal, public_url = call.principal, self._services.public_url
        _require_itself(principal)
        if not public_url:
            raise AccessDenied("identity tokens are issued only where this server has a public URL: others must find its keys")
        if not SHORTEST_SECONDS <= lifetime_seconds <= LONGEST_SECONDS:
            raise InvalidRequest(f"lifetime_seconds is between {SHORTEST_SECONDS} and {LONGEST_SECONDS}")
        _require_audience(principal, audience)
        await self._signing_keys.ensure(call)
        token_id = random_token(self._services.entropy, _TOKEN_ID_BYTES)
        now = self._services.clock.now()
        expires_at = now.replace(microsecond=0) + timedelta(seconds=lifetime_seconds)
        detail = {"jti": token_id, "audience": clean_text(audience, NAME_LIMIT), "lifetime_seconds": str(lifetime_seconds)}
        event = call.event().ending("ok", **detail)

        def unit(records: Records) -> Secret:
            require_workload(records, principal)
            require_foreign_audience(records, principal.tenant, audience, public_url)
            key = signing_key(records.list_signing_keys(principal.tenant), records.now)
            records.append_audit(event.ending("ok", key_version=str(key.version)))
            return records.open_signing_key(key)

        private = await self._services.vault.run(unit, event)
        claims = identity_claims(
            issuer=issuer_of(public_url, principal.tenant),
            workload_id=principal.workload.id,
            name=principal.workload.name,
            audience=audience,
            issued_at=now,
            expires_at=expires_at,
            token_id=token_id,
        )
        return IdentityTokenIssued(sign_identity_token(private, claims), expires_at)

    async def metadata(self, tenant: str) -> dict[str, Any]:
        """The discovery document of a tenant.

        Raises:
            NotFound: If there is no such tenant, or it issues none; both look the same.
        """
        await self._published(tenant)
        return identity_metadata(issuer_of(self._services.public_url, tenant))

    async def jwks(self, tenant: str) -> dict[str, Any]:
        """The keys of a tenant: the one that signs, the one that follows, and those that verifiers may still need.

        Raises:
            NotFound: As `metadata`.
        """
        return key_set(await self._published(tenant))

    async def _published(self, tenant: str) -> list[str]:
        found: list[str] = []
        if self._services.public_url and is_name(tenant):
            keys = await self._services.vault.read(lambda records: records.list_signing_keys(tenant))
            found = [key.public_jwk for key in keys]
        if not found:
            raise NotFound("there is no issuer of identity tokens here")
        return found


def _require_itself(principal: Principal) -> None:
    if principal.authenticated_by in (Proof.STDIO, Proof.CLI, Proof.LOOPBACK):
        raise AccessDenied("identity tokens are for workloads that prove who they are; here the name is only a label")
    if principal.authenticated_by == Proof.WORKLOAD_TOKEN:
        raise AccessDenied("a workload access token gets no identity token; use a workload key, or a service's own token")
    if principal.user is not None or not principal.verified:
        raise AccessDenied("a user's token gets no identity token; use a workload key, or a service's own token")


def _require_audience(principal: Principal, audience: str) -> None:
    allowed = principal.workload.identity_audiences
    if audience not in allowed:
        given = f"may get identity tokens for: {', '.join(allowed)}" if allowed else "may get no identity tokens"
        raise AccessDenied(
            f"the workload {principal.workload.name} {given}; an operator gives the list: "
            f"{command(principal.tenant)} workloads update {principal.workload.name} --identity-audience AUDIENCE"
        )
