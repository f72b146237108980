"""Who asks the real authorization servers for tokens? The product, opened in a folder of its own, with a person at hand."""

from __future__ import annotations

import socket
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio.to_thread

from mcp_identity import app
from mcp_identity.broker.answers import ConsentRequired, HandleIssued, ProviderSpec, TokenReleased, TokenRequest
from mcp_identity.broker.broker import Broker
from mcp_identity.domain.credentials import Secret
from mcp_identity.domain.identity import Principal
from mcp_identity.domain.provider import CredentialProvider
from mcp_identity.settings import Settings
from tests.fakes.browser import Browser, Decision, Page
from tests.peers.servers import AuthMethod, Peer, PeerClient

PASSWORDS = {"alice": "wonderland", "bob": "builder"}


def free_port() -> int:
    """A port of this machine that nobody holds now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def settings_in(home: Path, **more: Any) -> Settings:
    """Settings of a vault in `home` whose limits do not stand in a test's way."""
    given: dict[str, Any] = {"callback_port": free_port(), "links_per_minute": 1000, "pending_consents": 1000, **more}
    return Settings(home=home, **given)


@dataclass(frozen=True, slots=True)
class Product:
    """The running product and one principal of it."""

    graph: app.Graph
    principal: Principal

    @property
    def broker(self) -> Broker:
        return self.graph.broker

    async def add(self, peer: Peer, *, name: str = "peer", by_issuer: bool = False, **spec: Any) -> CredentialProvider:
        """Add a provider for `peer`; its client comes with `connect`."""
        where = {"issuer": peer.issuer}
        if not by_issuer:
            where = {
                "authorization_url": peer.authorization_url,
                "token_url": peer.token_url,
                "revocation_url": peer.revocation_url,
            }
        return await self.add_as(
            name, ProviderSpec(vendor="custom", settings=where | spec.pop("settings", {}), allow_http_loopback=True, **spec)
        )

    async def add_as(self, name: str, spec: ProviderSpec) -> CredentialProvider:
        return await self.broker.directory.add(self.broker.call(self.principal, "add_provider"), name, spec)

    async def register(
        self,
        peer: Peer,
        *,
        name: str = "peer",
        by_issuer: bool = False,
        auth_method: AuthMethod = "client_secret_basic",
        scopes: tuple[str, ...] = ("read",),
        settings: dict[str, str] | None = None,
        key: str = "",
        **metadata: Any,
    ) -> PeerClient:
        """Add a provider for user consents, register its redirect URI at the peer, and give it the peer's client.

        Where the client signs who it is, `key` is its private key in PEM, and the metadata has the public one.
        """
        authentication = auth_method.removeprefix("client_secret_")
        public = auth_method == "none"
        provider = await self.add(
            peer,
            name=name,
            by_issuer=by_issuer,
            client_id="not-yet-known",
            secret=None if public else Secret(key or "not-yet-known"),
            client_authentication=authentication,
            scopes=scopes,
            settings={"flows": "USER_FEDERATION", **(settings or {})},
        )
        uri = self.broker.directory.redirect_uri(provider)
        client = await anyio.to_thread.run_sync(lambda: peer.register(uri, auth_method=auth_method, **metadata))
        spec = ProviderSpec(client_id=client.client_id, secret=None if public else Secret(key or client.client_secret))
        await self.broker.directory.update(self.broker.call(self.principal, "update_provider"), name, spec)
        return client

    async def get(self, *scopes: str, provider: str = "peer", **request: Any) -> TokenReleased | HandleIssued | ConsentRequired:
        call = self.broker.call(self.principal, "get_token")
        return await self.broker.get_token(call, TokenRequest(provider, scopes, **request))

    async def token(self, *scopes: str, provider: str = "peer", **request: Any) -> TokenReleased:
        """A token that must be there."""
        answer = await self.get(*scopes, provider=provider, **request)
        assert isinstance(answer, TokenReleased), answer
        return answer

    async def link(self, *scopes: str, provider: str = "peer", **request: Any) -> ConsentRequired:
        """A link that must be needed."""
        answer = await self.get(*scopes, provider=provider, **request)
        assert isinstance(answer, ConsentRequired), answer
        return answer

    async def fresh_link(self, *scopes: str, provider: str = "peer", **request: Any) -> ConsentRequired:
        call = self.broker.call(self.principal, "start_consent")
        return await self.broker.start_consent(call, TokenRequest(provider, scopes, **request))

    async def status(self, consent: ConsentRequired) -> tuple[str, str]:
        status = await self.broker.get_consent(self.broker.call(self.principal, "get_consent"), consent.session_uri)
        return status.status, status.error_code

    async def person_opens(
        self, link: str, *, username: str = "alice", decision: Decision = "allow", browser: Browser | None = None
    ) -> Page:
        """A person opens the link and goes the whole way, in a browser of their own unless one is given."""

        def walk() -> Page:
            if browser is not None:
                return browser.consent(link, username=username, password=PASSWORDS[username], decision=decision)
            with Browser() as own:
                return own.consent(link, username=username, password=PASSWORDS[username], decision=decision)

        return await anyio.to_thread.run_sync(walk)

    async def connected(self, *scopes: str, **request: Any) -> TokenReleased:
        """Ask, let the person consent, ask again with the same arguments."""
        consent = await self.link(*scopes, **request)
        await self.person_opens(consent.authorization_url)
        return await self.token(*scopes, **request)


@asynccontextmanager
async def running_product(home: Path, *, workload: str = "agent", **settings: Any) -> AsyncGenerator[Product]:
    """The product on a vault in `home`, while the block lasts."""
    async with app.open(settings_in(home, **settings)) as graph:
        yield Product(graph, await graph.broker.directory.local_principal(workload, graph.user, "stdio"))
