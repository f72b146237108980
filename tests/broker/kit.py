"""The product on a fake authorization server and a clock that stands still, and the short ways to use it."""

from __future__ import annotations

import socket
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from mcp_identity import app
from mcp_identity.broker.answers import ConsentRequired, HandleIssued, ProviderSpec, TokenReleased, TokenRequest
from mcp_identity.broker.audit import Call
from mcp_identity.broker.broker import Broker
from mcp_identity.broker.services import ConsentFront
from mcp_identity.domain.audit import AuditEvent
from mcp_identity.domain.consent import ConsentView
from mcp_identity.domain.credentials import Grant, GrantState, Secret
from mcp_identity.domain.errors import IdentityError
from mcp_identity.domain.identity import Principal, User, UserKind
from mcp_identity.domain.provider import CredentialProvider
from mcp_identity.settings import Settings
from mcp_identity.vault.vault import Vault
from mcp_identity.vault.writer import Unit
from tests.fakes.authorization_server import CLIENT_ID, CLIENT_SECRET, ISSUER, FakeAuthorizationServer
from tests.fakes.clock import FakeClock
from tests.fakes.home import put_vault

BY_URLS = {
    "authorization_url": f"{ISSUER}/authorize",
    "token_url": f"{ISSUER}/token",
    "revocation_url": f"{ISSUER}/revoke",
}
BY_ISSUER = {"issuer": ISSUER}


def free_port() -> int:
    """A port of this machine that nobody holds now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextmanager
def raising(code: str) -> Generator[pytest.ExceptionInfo[IdentityError]]:
    """The block fails with this code."""
    with pytest.raises(IdentityError) as caught:
        yield caught
    assert caught.value.code == code, caught.value.message


@dataclass(frozen=True, slots=True)
class Pressed:
    """A browser that pressed the button of a consent page.

    Attributes:
        session_id: The session.
        url: The vendor's page, with state and challenge.
        cookies: What this browser brings back.
    """

    session_id: str
    url: str
    cookies: dict[str, str]


@dataclass(frozen=True, slots=True)
class Product:
    """The running product and one principal of it.

    Attributes:
        prepared: The graph with its parts.
        server: The authorization server that it talks to.
        clock: Its clock.
        principal: Who calls.
    """

    prepared: app.Prepared
    server: FakeAuthorizationServer
    clock: FakeClock
    principal: Principal

    @property
    def broker(self) -> Broker:
        return self.prepared.graph.broker

    @property
    def vault(self) -> Vault:
        return self.prepared.vault

    def call(self, action: str = "test") -> Call:
        return self.broker.call(self.principal, action)

    # Other principals

    async def as_workload(self, name: str) -> Product:
        user = self.principal.user
        assert user is not None
        return replace(self, principal=await self.broker.directory.local_principal(name, user, "stdio"))

    async def as_user(self, subject: str) -> Product:
        assert self.principal.user is not None
        user = User(self.principal.user.issuer, subject, UserKind.LOCAL, subject)
        name = self.principal.workload.name
        return replace(self, principal=await self.broker.directory.local_principal(name, user, "stdio"))

    def as_workload_alone(self) -> Product:
        return replace(self, principal=replace(self.principal, user=None))

    # Providers

    async def add(self, name: str = "idp", *, flows: str = "USER_FEDERATION", **spec: Any) -> CredentialProvider:
        """Add a provider at the fake server."""
        settings = {"flows": flows, **spec.pop("settings", BY_URLS)}
        given: dict[str, Any] = {
            "client_id": CLIENT_ID,
            "secret": Secret(CLIENT_SECRET),
            "scopes": ("read",),
            "settings": settings,
            **spec,
        }
        return await self.broker.directory.add(self.call("add_provider"), name, ProviderSpec(vendor="custom", **given))

    async def update(self, name: str = "idp", **spec: Any) -> tuple[CredentialProvider, bool]:
        return await self.broker.directory.update(self.call("update_provider"), name, ProviderSpec(**spec))

    async def add_api_key(self, name: str = "key", *, release: str = "token") -> CredentialProvider:
        spec = ProviderSpec(vendor="api-key", secret=Secret("api-key-canary"), release=release)
        return await self.broker.directory.add(self.call("add_provider"), name, spec)

    # Tokens

    async def get(self, *scopes: str, provider: str = "idp", **request: Any) -> TokenReleased | HandleIssued | ConsentRequired:
        return await self.broker.get_token(self.call("get_token"), TokenRequest(provider, scopes, **request))

    async def token(self, *scopes: str, provider: str = "idp", **request: Any) -> TokenReleased:
        """A token that must be there."""
        answer = await self.get(*scopes, provider=provider, **request)
        assert isinstance(answer, TokenReleased), answer
        return answer

    async def link(self, *scopes: str, provider: str = "idp", **request: Any) -> ConsentRequired:
        """A link that must be needed."""
        answer = await self.get(*scopes, provider=provider, **request)
        assert isinstance(answer, ConsentRequired), answer
        return answer

    async def start(self, *scopes: str, provider: str = "idp", **request: Any) -> ConsentRequired:
        return await self.broker.start_consent(self.call("start_consent"), TokenRequest(provider, scopes, **request))

    # The browser

    async def press(self, consent: ConsentRequired, *, other_account: bool = False) -> Pressed:
        session_id = consent.session_uri.rpartition(":")[2]
        begun = await self.broker.begin_consent(session_id, allow_other_account=other_account)
        return Pressed(session_id, begun.authorization_url, {session_id[:16]: begun.browser_secret.reveal()})

    async def page(self, consent: ConsentRequired) -> ConsentView:
        """What the page of a link shows."""
        view = await self.broker.view_consent(consent.session_uri.rpartition(":")[2])
        assert isinstance(view, ConsentView)
        return view

    async def come_back(self, pressed: Pressed, parameters: list[tuple[str, str]], *, provider: str = "idp") -> str:
        found = await self.broker.directory.get("default", provider)
        return (await self.broker.receive_callback(found.provider_id, parameters, pressed.cookies)).session_id

    async def consent(
        self, consent: ConsentRequired, *, account: str = "alice", other_account: bool = False, provider: str = "idp"
    ) -> None:
        """A person goes the whole way."""
        pressed = await self.press(consent, other_account=other_account)
        await self.come_back(pressed, self.server.person_consents(pressed.url, account=account), provider=provider)

    async def connected(self, *scopes: str, provider: str = "idp", **request: Any) -> TokenReleased:
        """Ask, let the person consent, ask again with the same arguments."""
        await self.consent(await self.link(*scopes, provider=provider, **request), provider=provider)
        return await self.token(*scopes, provider=provider, **request)

    async def status(self, consent: ConsentRequired) -> tuple[str, str]:
        status = await self.broker.get_consent(self.call("get_consent"), consent.session_uri)
        return status.status, status.error_code

    # What stands in the vault

    async def run(self, unit: Unit[Any]) -> Any:
        return await self.vault.run(unit)

    async def sql(self, statement: str) -> None:
        """Change the database behind the product's back."""
        await self.vault.run(lambda records: records.connection.exec_driver_sql(statement) and None)

    async def grants(self, provider: str = "idp") -> list[Grant]:
        found = await self.broker.directory.get("default", provider)
        return list((await self.vault.read(lambda records: records.list_provider_grants("default", found.id))).grants)

    async def grant(self, provider: str = "idp") -> Grant:
        (grant,) = await self.grants(provider)
        return grant

    async def state(self) -> GrantState:
        return (await self.grant()).state

    async def trail(self) -> list[AuditEvent]:
        return [event for _, event in await self.broker.list_audit("default", limit=10_000)]

    async def outcomes(self, action: str) -> list[str]:
        """How calls of a verb ended, oldest first."""
        return [event.outcome for event in await self.trail() if event.action == action]


@asynccontextmanager
async def running_product(
    home: Path,
    *,
    grace_seconds: float = 10.0,
    clock: FakeClock | None = None,
    server: FakeAuthorizationServer | None = None,
    front: ConsentFront | None = None,
    **settings: Any,
) -> AsyncGenerator[Product]:
    """The product on a vault in `home`, while the block lasts."""
    clock = clock or FakeClock()
    server = server or FakeAuthorizationServer(clock.now)
    given: dict[str, Any] = {
        "callback_port": free_port(),
        "links_per_minute": 1000,
        "pending_consents": 1000,
        "refreshes_ahead": 0,
        **settings,
    }
    put_vault(home)
    prepared = app.prepare(Settings(home=home, **given), clock=clock, transport=server, front=front)
    async with app.running(prepared, lambda: grace_seconds) as graph:
        principal = await graph.broker.directory.local_principal("agent", graph.user, "stdio")
        yield Product(prepared, server, clock, principal)
