"""An operator of a server that callers reach over the network: identity providers, workloads and their keys, by tenant."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from mcp_identity import app
from mcp_identity.broker.audit import Call
from mcp_identity.broker.broker import Broker
from mcp_identity.broker.specifications import IssuerSpec, WorkloadSpec
from mcp_identity.domain.audit import AuditEvent
from mcp_identity.domain.identity import ASSERTED_ISSUER, Principal, Proof, User, UserKind, WorkloadIdentity
from mcp_identity.domain.issuer import Issuer
from mcp_identity.settings import Settings
from mcp_identity.vault.vault import Vault
from tests.broker.kit import free_port
from tests.fakes.clock import FakeClock
from tests.fakes.home import put_vault
from tests.fakes.identity_provider import FakeIdentityProvider, FakeIdentityTransport

PUBLIC_URL = "https://identity.example.com"


@dataclass(frozen=True, slots=True)
class Operator:
    """The running product, as an operator of one tenant sees it.

    Attributes:
        prepared: The graph with its parts.
        transport: What the product reaches.
        clock: Its clock.
        tenant: Whose operator this is.
    """

    prepared: app.Prepared
    transport: FakeIdentityTransport
    clock: FakeClock
    tenant: str = "default"

    @property
    def broker(self) -> Broker:
        return self.prepared.graph.broker

    @property
    def vault(self) -> Vault:
        return self.prepared.vault

    def of(self, tenant: str) -> Operator:
        return replace(self, tenant=tenant)

    def call(self, action: str = "operate") -> Call:
        return self.broker.call(self.broker.directory.operator(self.prepared.graph.user, self.tenant), action)

    def reach(self, *providers: FakeIdentityProvider) -> None:
        """Let the product reach these."""
        self.transport.providers = (*self.transport.providers, *providers)

    async def add_issuer(self, provider: FakeIdentityProvider | str, name: str = "corp", **spec: Any) -> Issuer:
        """Add an issuer; of a fake, reach it and say what it needs."""
        if isinstance(provider, str):
            url = provider
        else:
            self.reach(provider)
            url = provider.discovery_url
            audiences = (provider.audience,) if provider.audience else ()
            spec = {"preset": provider.preset, "audiences": audiences, **spec}
        return await self.broker.issuers.add(self.call("create_issuer"), name, IssuerSpec(url, **spec))

    async def create(self, name: str = "agent", **spec: Any) -> WorkloadIdentity:
        return await self.broker.workloads.create(self.call("create_workload_identity"), name, WorkloadSpec(**spec))

    async def update(self, name: str = "agent", **spec: Any) -> WorkloadIdentity:
        return await self.broker.workloads.update(self.call("update_workload_identity"), name, WorkloadSpec(**spec))

    async def trail(self, action: str) -> list[AuditEvent]:
        found = await self.broker.list_audit(self.tenant, limit=10_000)
        return [event for _, event in found if event.action == action]

    async def outcomes(self, action: str) -> list[str]:
        """How calls of a verb ended, oldest first."""
        return [event.outcome for event in await self.trail(action)]

    # Callers over HTTP

    def caller(self, workload: WorkloadIdentity, proof: Proof = Proof.WORKLOAD_KEY, **changes: Any) -> Principal:
        """A principal as the gate makes it."""
        given: dict[str, Any] = {"user": None, "verified": True, "edge": "http", **changes}
        return Principal(workload, authenticated_by=proof, **given)

    def asserted(self, subject: str = "4711") -> User:
        return User(f"{ASSERTED_ISSUER}{self.tenant}", subject, UserKind.ASSERTED, subject)

    def in_minutes(self, minutes: float) -> datetime:
        return self.clock.now() + timedelta(minutes=minutes)


ALICE = User("https://idp.example.com", "alice", UserKind.OIDC, "Alice")


@asynccontextmanager
async def running_operator(home: Path, *, public_url: str = PUBLIC_URL, **settings: Any) -> AsyncGenerator[Operator]:
    """The product on a vault in `home`, while the block lasts."""
    clock, transport = FakeClock(), FakeIdentityTransport()
    given = Settings(home=home, callback_port=free_port(), public_url=public_url, **settings)
    put_vault(given.home)
    prepared = app.prepare(given, clock=clock, transport=transport)
    async with app.running(prepared):
        yield Operator(prepared, transport, clock)
