"""A company's people, an agent that they call with their own tokens, and a server that exchanges those tokens."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mcp_identity import app
from mcp_identity.broker.answers import ConsentRequired, HandleIssued, ProviderSpec, TokenReleased, TokenRequest
from mcp_identity.domain.credentials import Flow, Grant, Secret
from mcp_identity.domain.identity import Principal, Proof, WorkloadIdentity
from mcp_identity.domain.provider import CredentialProvider
from mcp_identity.inbound.authentication import Authenticator
from tests.broker.operators import Operator, running_operator
from tests.fakes.exchange_server import CLIENT_ID, CLIENT_SECRET, REVOCATION_URL, TOKEN_URL, FakeExchangeServer
from tests.fakes.identity_provider import ALICE, CLIENT, FakeIdentityProvider, Person

FLOW = Flow.ON_BEHALF_OF_TOKEN_EXCHANGE.value
URLS = {"token_url": TOKEN_URL, "revocation_url": REVOCATION_URL, "flows": FLOW, "on_behalf_of": "token-exchange"}


@dataclass(frozen=True, slots=True)
class World:
    """Who takes part.

    Attributes:
        operator: Of the product.
        idp: The company's identity provider, added as the issuer `corp`.
        server: Exchanges its users' tokens.
        authenticator: The product's own.
        workload: The agent, which the company's tokens speak for.
    """

    operator: Operator
    idp: FakeIdentityProvider
    server: FakeExchangeServer
    authenticator: Authenticator
    workload: WorkloadIdentity

    # Set up

    async def add(self, name: str = "downstream", **spec: Any) -> CredentialProvider:
        """Add the server as a provider."""
        given: dict[str, Any] = {
            "client_id": CLIENT_ID,
            "secret": Secret(CLIENT_SECRET),
            "scopes": ("read",),
            "subject_issuers": ("corp",),
            **spec,
        }
        settings = URLS | given.pop("settings", {})
        call = self.operator.call("create_provider")
        return await self.operator.broker.directory.add(call, name, ProviderSpec("custom", settings=settings, **given))

    async def update(self, name: str = "downstream", **spec: Any) -> CredentialProvider:
        call = self.operator.call("update_provider")
        return (await self.operator.broker.directory.update(call, name, ProviderSpec(**spec)))[0]

    # Callers

    def jwt(self, person: Person = ALICE, *, seconds: int = 3600) -> str:
        """A token of a person for the agent."""
        return self.idp.access_token(person, lifetime_seconds=seconds)

    async def caller(self, bearer: str, *, edge: str = "http") -> Principal:
        """Whom a bearer proves, as the gate sees it."""
        return await self.authenticator.authenticate(Secret(bearer), edge=edge)

    async def workload_token(self, jwt: str, workload: WorkloadIdentity | None = None) -> str:
        """A workload access token for the person of a token, as the edges issue it."""
        own = self.operator.caller(workload or self.workload, Proof.WORKLOAD_KEY)
        named = await self.authenticator.verify_user_token(own, Secret(jwt))
        call = self.operator.broker.call(own, "get_workload_access_token")
        issued = await self.operator.broker.issue_workload_access_token(
            call, named.user, named.expires_at, named.tool_scopes, named.subject_token
        )
        return issued.token.reveal()

    # Tokens

    async def get(
        self, principal: Principal, *scopes: str, provider: str = "downstream", **request: Any
    ) -> TokenReleased | HandleIssued | ConsentRequired:
        call = self.operator.broker.call(principal, "get_token")
        return await self.operator.broker.get_token(call, TokenRequest(provider, scopes, **request))

    async def token(self, principal: Principal, *scopes: str, **request: Any) -> TokenReleased:
        """A token that must be there."""
        answer = await self.get(principal, *scopes, **request)
        assert isinstance(answer, TokenReleased), answer
        return answer

    async def grants(self, provider: str = "downstream") -> list[Grant]:
        vault, tenant = self.operator.vault, self.operator.tenant
        found = await self.operator.broker.directory.get(tenant, provider)
        return list((await vault.read(lambda records: records.list_provider_grants(tenant, found.id))).grants)

    @property
    def exchanges(self) -> int:
        """How many exchanges arrived."""
        return sum(form["grant_type"] != "client_credentials" for form in self.server.forms)


@asynccontextmanager
async def running_world(home: Path) -> AsyncGenerator[World]:
    """All of it, while the block lasts."""
    async with running_operator(home) as operator:
        idp = FakeIdentityProvider(now=operator.clock.now)
        server = FakeExchangeServer(operator.clock.now, idp)
        await operator.add_issuer(idp)
        operator.reach(server)
        workload = await operator.create(issuer="corp", clients=(CLIENT,))
        yield World(operator, idp, server, app.authenticator_of(operator.prepared), workload)
