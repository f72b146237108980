"""Whoever may name a URL to an operator's command, or write it into metadata, makes no connection to our own network.

Through providers and through issuers, with the transport that is used in earnest and a listener that must hear nothing;
`call_api` has the same in `tests/broker/test_calls.py`.

covers: A09
"""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from mcp_identity import app
from mcp_identity.broker.answers import ProviderSpec, TokenRequest
from mcp_identity.broker.specifications import IssuerSpec
from mcp_identity.domain.credentials import Secret
from mcp_identity.domain.errors import IdentityError
from mcp_identity.domain.http import HttpRequest, HttpResponse
from mcp_identity.settings import Settings
from mcp_identity.transport import Transport
from tests.broker.kit import free_port
from tests.broker.test_calls import REBINDINGS
from tests.fakes.hostile_server import HostileServer, Script, hostile_server
from tests.fakes.identity_provider import FakeIdentityProvider
from tests.transport.test_addresses import FORBIDDEN_URLS

REFUSED = {"url_refused", "invalid_request"}
PUBLIC = "https://idp.example.com"
ENDPOINTS = ("authorization_endpoint", "token_endpoint", "jwks_uri", "revocation_endpoint")


class Answering(Transport):
    """The transport, in front of which one public host is played; everything else really goes out."""

    def __init__(self, document: dict[str, Any], **options: Any) -> None:
        super().__init__(**options)
        self.document = document

    async def send(self, request: HttpRequest, *, allow_http_loopback: bool = False) -> HttpResponse:
        if request.url.startswith(f"{PUBLIC}/"):
            found = FakeIdentityProvider().jwks() if request.url.endswith("/jwks_uri") else self.document
            return HttpResponse(200, {"content-type": "application/json"}, json.dumps(found).encode())
        return await super().send(request, allow_http_loopback=allow_http_loopback)


@dataclass(frozen=True, slots=True)
class Target:
    """A product on a transport, and a listener that must hear nothing."""

    graph: app.Graph
    canary: HostileServer
    transport: Transport

    async def add_provider(self, number: int, **settings: str) -> str:
        """Add a provider; the code of the refusal."""
        call = self.graph.broker.call(self.graph.broker.directory.operator(self.graph.user), "create_provider")
        spec = ProviderSpec(vendor="custom", settings=settings, client_id="c", secret=Secret("not so secret"))
        return await code_of(lambda: self.graph.broker.directory.add(call, f"p{number}", spec))

    async def use_provider(self, number: int) -> str:
        """Ask for a token; the code of the refusal."""
        principal = await self.graph.broker.directory.local_principal("agent", self.graph.user, "cli")
        call = self.graph.broker.call(principal, "get_token")
        return await code_of(lambda: self.graph.broker.get_token(call, TokenRequest(f"p{number}")))

    async def add_issuer(self, number: int, discovery_url: str, **given: Any) -> str:
        """Add an issuer; the code of the refusal."""
        call = self.graph.broker.call(self.graph.broker.directory.operator(self.graph.user), "create_issuer")
        spec = IssuerSpec(discovery_url, audiences=("mcp",), **given)
        return await code_of(lambda: self.graph.broker.issuers.add(call, f"i{number}", spec))


async def code_of(work: Callable[[], Awaitable[object]]) -> str:
    try:
        await work()
    except IdentityError as error:
        return error.code
    return "added"


@asynccontextmanager
async def running(home: Path, transport: Transport) -> AsyncGenerator[Target]:
    prepared = app.prepare(Settings(home=home, callback_port=free_port()), transport=transport)
    async with hostile_server() as canary, app.running(prepared) as graph:
        yield Target(graph, canary, transport)


async def everything_leads_here(_host: str, _port: int) -> list[str]:
    return ["127.0.0.1"]


def metadata(**changed: str) -> dict[str, Any]:
    """The document of a public host."""
    own = {name: f"{PUBLIC}/{name}" for name in ENDPOINTS}
    listed = {"code_challenge_methods_supported": ["S256"], "response_types_supported": ["code"]}
    return {"issuer": PUBLIC, **own, **listed, **changed}


def urls_for(canary: HostileServer) -> list[str]:
    """Every forbidden URL, and those that name this machine with the listener's port."""
    assert len(FORBIDDEN_URLS) >= 80
    return list(
        dict.fromkeys([*FORBIDDEN_URLS, *(url.replace("127.0.0.1/", f"127.0.0.1:{canary.port}/") for url in FORBIDDEN_URLS)])
    )


async def test_no_forbidden_url_of_a_provider_makes_a_connection(tmp_path: Path) -> None:
    async with running(tmp_path, Transport(resolver=everything_leads_here)) as target:
        for number, url in enumerate(urls_for(target.canary)):
            assert await target.add_provider(number, issuer=url) in REFUSED, url
            if url and await target.add_provider(number, token_url=url, flows="M2M") == "added":
                assert await target.use_provider(number) == "url_refused", url
        assert target.canary.connections == 0


async def test_no_forbidden_url_of_an_issuer_makes_a_connection(tmp_path: Path) -> None:
    async with running(tmp_path, Answering(metadata(), resolver=everything_leads_here)) as target:
        for number, url in enumerate(urls_for(target.canary)):
            assert await target.add_issuer(number, url) in REFUSED, url
            if url:
                login = {"login_client_id": "c", "login_discovery_url": url}
                assert await target.add_issuer(number, PUBLIC, **login) in REFUSED, url
        assert target.canary.connections == 0


@pytest.mark.parametrize("endpoint", ENDPOINTS)
async def test_metadata_that_names_a_forbidden_url_makes_no_connection(tmp_path: Path, endpoint: str) -> None:
    transport = Answering(metadata(), resolver=everything_leads_here)
    async with running(tmp_path, transport) as target:
        for number, url in enumerate(urls_for(target.canary)):
            transport.document = metadata(**{endpoint: url})
            await target.add_provider(number, issuer=PUBLIC)
            await target.add_issuer(number, PUBLIC, login_client_id="c")
        assert target.canary.connections == 0


@pytest.mark.parametrize("answers", REBINDINGS)
async def test_a_name_that_leads_inside_makes_no_connection(tmp_path: Path, answers: list[list[str]]) -> None:
    rest = list(answers)

    async def resolver(_host: str, _port: int) -> list[str]:
        return rest.pop(0) if len(rest) > 1 else rest[0]

    async with running(tmp_path, Transport(resolver=resolver)) as target:
        url = f"https://rebound.example.com:{target.canary.port}"
        for number in range(2):
            assert await target.add_provider(number, issuer=url) in REFUSED
            assert await target.add_issuer(number, url) in REFUSED
        assert target.canary.connections == 0


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize("where", ["http://127.0.0.1:{port}/", "//127.0.0.1:{port}/", "https://localhost:{port}/"])
async def test_metadata_that_redirects_is_not_followed(tmp_path: Path, status: int, where: str) -> None:
    async with running(tmp_path, Transport()) as target, hostile_server() as idp:
        location = where.format(port=target.canary.port)
        idp.script = Script(status=status, body=b"", headers=(("Location", location),))
        url = f"http://127.0.0.1:{idp.port}"
        assert await target.add_issuer(1, url, allow_http_loopback=True) == "upstream_bad_response"
        assert idp.connections >= 1
        assert target.canary.connections == 0
