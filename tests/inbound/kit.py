"""Who can be told apart, and how? Issuers as `issuers add` pins them, and workloads that their tokens speak for."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mcp_identity import app
from mcp_identity.domain.authorizer import Authorizer
from mcp_identity.domain.credentials import Secret
from mcp_identity.domain.identity import DEFAULT_TENANT, Principal, WorkloadIdentity
from mcp_identity.domain.issuer import Issuer
from mcp_identity.inbound.authentication import Authenticator
from mcp_identity.inbound.jwt import VerifiedToken, read_token, verify_access_token
from mcp_identity.inbound.workload_tokens import WorkloadTokens
from mcp_identity.oauth.jws import process_key_set_response
from mcp_identity.providers import presets
from mcp_identity.settings import Settings
from mcp_identity.transport import Transport
from mcp_identity.vault.vault import Vault
from tests.fakes.clock import FakeClock, SystemEntropy
from tests.fakes.identity_provider import CLIENT, FakeIdentityProvider, FakeIdentityTransport, respond_json

PUBLIC_URL = "https://identity.example.com"


def issuer_of(idp: FakeIdentityProvider, *, tenant: str = DEFAULT_TENANT, name: str = "company", **changes: Any) -> Issuer:
    """The issuer row of a fake provider."""
    rules = presets.get(idp.preset).rules
    organisations = frozenset({idp.tenant_id}) if rules.discriminator else frozenset[str]()
    fields: dict[str, Any] = {
        "id": f"issuer-{tenant}-{name}",
        "tenant": tenant,
        "name": name,
        "preset": idp.preset,
        "issuer": idp.metadata_issuer,
        "discovery_url": idp.discovery_url,
        "jwks_url": idp.jwks_url,
        "audiences": frozenset({idp.audience} - {""}),
        "discriminator_values": organisations,
        "rules": rules,
        **changes,
    }
    return Issuer(**fields)


def verify(idp: FakeIdentityProvider, token: str, issuer: Issuer | None = None) -> VerifiedToken:
    """Verify a token with the keys that a provider publishes, at its own time."""
    keys = process_key_set_response(respond_json(idp.jwks()))
    return verify_access_token(read_token(token), issuer or issuer_of(idp), keys, idp.now())


@dataclass(slots=True)
class Inbound:
    """A running product that knows identity providers.

    Attributes:
        prepared: Its parts.
        clock: Its clock, and the providers'.
        transport: To the providers.
        authenticator: What is tested.
    """

    prepared: app.Prepared
    clock: FakeClock
    transport: Transport
    authenticator: Authenticator
    tokens: WorkloadTokens
    _numbers: list[int] = field(default_factory=lambda: [0])

    @property
    def vault(self) -> Vault:
        return self.prepared.vault

    async def add_issuer(self, idp: FakeIdentityProvider, **changes: Any) -> Issuer:
        """Keep a provider as an issuer."""
        issuer = issuer_of(idp, **changes)
        await self.vault.ensure_tenant(issuer.tenant)
        await self.vault.run(lambda records: records.insert_issuer(issuer, None))
        if isinstance(self.transport, FakeIdentityTransport):
            self.transport.know(idp)
        return issuer

    async def add_workload(
        self,
        name: str = "agent",
        issuer: Issuer | None = None,
        *,
        tenant: str = DEFAULT_TENANT,
        authorizer: Authorizer | None = None,
        **changes: Any,
    ) -> WorkloadIdentity:
        """Keep a workload; the usual client's tokens of `issuer` speak for it, if no other authorizer is given."""
        if authorizer is None:
            authorizer = Authorizer(issuer.id, clients=frozenset({CLIENT})) if issuer else Authorizer()
        self._numbers[0] += 1
        workload = WorkloadIdentity(f"workload-{self._numbers[0]}", tenant, name, authorizer=authorizer, **changes)
        await self.vault.ensure_tenant(tenant)
        return await self.vault.run(lambda records: records.insert_workload(workload, "test"))

    async def authenticate(self, bearer: str, *, hint: str = "") -> Principal:
        return await self.authenticator.authenticate(Secret(bearer), edge="http", workload_hint=hint)


@asynccontextmanager
async def running(
    home: Path, *, clock: FakeClock, transport: Transport | None = None, public_url: str = PUBLIC_URL
) -> AsyncGenerator[Inbound]:
    """The product on a vault in a folder, with a transport that knows the providers that are added as issuers."""
    transport = transport or FakeIdentityTransport()
    settings = Settings(home=home, public_url=public_url)
    prepared = app.prepare(settings, clock=clock, entropy=SystemEntropy(), transport=transport)
    tokens = WorkloadTokens(prepared.vault, clock, SystemEntropy(), public_url)
    async with app.running(prepared):
        yield Inbound(prepared, clock, transport, app.authenticator_of(prepared), tokens)
