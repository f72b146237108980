"""A server with many users, its identity provider, a vendor, and people with browsers of their own."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urljoin, urlsplit

import httpx2
from starlette.applications import Starlette

from mcp_identity import app
from mcp_identity.app.front import PublicFront
from mcp_identity.domain.authorizer import Authorizer
from mcp_identity.domain.credentials import Secret
from mcp_identity.domain.http import HttpRequest, HttpResponse
from mcp_identity.domain.identity import ASSERTED_ISSUER, Principal, Proof, User, UserKind, WorkloadIdentity
from mcp_identity.domain.issuer import Issuer
from mcp_identity.inbound.login import Logins
from mcp_identity.settings import Settings
from mcp_identity.transport import Transport
from mcp_identity.vault.records import Records
from mcp_identity.web.application import own_origins, web_routes
from tests.broker.kit import Product
from tests.fakes.authorization_server import ISSUER as VENDOR
from tests.fakes.authorization_server import FakeAuthorizationServer
from tests.fakes.clock import FakeClock
from tests.fakes.home import put_vault
from tests.fakes.identity_provider import ALICE, LOGIN_CLIENT, LOGIN_SECRET, FakeIdentityProvider, Person
from tests.web.conftest import Page

PUBLIC_URL = "https://identity.example.com"
COMPANY = "https://login.example.com"
RETURN_URL = "https://app.example.com/connected?tab=1"
SHORT = 16


class World(Transport):
    """Everything beyond our server: the vendor and the company's identity provider."""

    def __init__(self, vendor: FakeAuthorizationServer, company: FakeIdentityProvider) -> None:
        super().__init__()
        self.vendor, self.company = vendor, company

    async def send(self, request: HttpRequest, *, allow_http_loopback: bool = False) -> HttpResponse:
        if request.url.startswith(self.company.origin):
            return await self.company.transport.send(request, allow_http_loopback=allow_http_loopback)
        return await self.vendor.send(request, allow_http_loopback=allow_http_loopback)


@dataclass(frozen=True, slots=True)
class Remote:
    """The product as a server with many users.

    Attributes:
        product: The product; its principal is Alice by way of `agent`.
        logins: Signs browsers in.
        company: The identity provider of its users.
        site: The pages, as an ASGI application.
    """

    product: Product
    logins: Logins
    company: FakeIdentityProvider
    site: Starlette

    def as_person(self, person: Person) -> Product:
        """The product as somebody else calls it, by the same agent."""
        return replace(self.product, principal=replace(self.product.principal, user=user_of(person)))

    def as_asserted(self, subject: str) -> Product:
        """The product as the agent calls it for a user that it names by an id."""
        return replace(self.product, principal=replace(self.product.principal, user=asserted(subject)))

    def as_agent(self, workload: WorkloadIdentity) -> Product:
        """The product as another agent calls it for Alice."""
        return replace(self.product, principal=replace(self.product.principal, workload=workload))

    async def add_workload(self, name: str, **fields: Any) -> WorkloadIdentity:
        """One more agent."""
        given: dict[str, Any] = {
            "authorizer": Authorizer(issuer_id="issuer-1", clients=frozenset({name})),
            "return_urls": (RETURN_URL,),
            "may_assert_users": True,
            **fields,
        }
        made = WorkloadIdentity(f"workload-{name}", "default", name, **given)
        return await self.product.vault.run(lambda records: records.insert_workload(made, "test"))

    @asynccontextmanager
    async def browser(self, person: Person = ALICE, *, account: str = "", origin: str = PUBLIC_URL) -> AsyncGenerator[Browser]:
        """Somebody's own browser, with a cookie jar of its own.

        Args:
            person: Who is signed in there at the company.
            account: The account at the vendor; empty for the person's subject.
            origin: Where our pages are.
        """
        async with httpx2.AsyncClient(transport=httpx2.ASGITransport(self.site), base_url=origin) as client:
            yield Browser(self, client, person, account or person.subject)

    async def trail(self, action: str) -> list[str]:
        """How the steps of a verb ended."""
        return await self.product.outcomes(action)

    async def nothing_was_given(self) -> None:
        """Not one code was exchanged, and not one grant made."""
        assert self.product.server.count("authorization_code") == 0
        assert await self.product.grants() == []


@dataclass(slots=True)
class Browser:
    """A person at a browser: it follows redirects, signs in at the company by itself, and consents at the vendor.

    Attributes:
        remote: The world.
        client: The cookie jar, and the way to our pages.
        person: Who is signed in there at the company.
        account: The account at the vendor.
        at: Where it stands.
        status: The last answer's status.
        html: The last page.
        visited: Every URL that it went to, in order.
        stops_at: A prefix of URLs that it does not go to.
    """

    remote: Remote
    client: httpx2.AsyncClient
    person: Person
    account: str
    at: str = ""
    status: int = 0
    html: str = ""
    visited: list[str] = field(default_factory=list[str])
    stops_at: str = "nowhere"

    @property
    def page(self) -> Page:
        return Page(self.html)

    @property
    def words(self) -> str:
        return self.page.words

    async def open(self, url: str) -> None:
        """Go there, and wherever one is sent on to."""
        await self._go("GET", url)

    async def press(self, step: str = "", **fields: str) -> None:
        """Press a button of the page; the form's own fields go with it."""
        data = {"form_token": self.page.form_token, **fields} | ({"step": step} if step else {})
        await self._go("POST", self.at, data)

    async def _go(self, method: str, url: str, data: dict[str, str] | None = None) -> None:
        while True:
            self.at = url
            self.visited.append(url)
            if url.startswith(self.stops_at):
                return
            if url.startswith(f"{VENDOR}/authorize"):
                url = redirected(url, self.remote.product.server.person_consents(url, account=self.account))
                method, data = "GET", None
                continue
            if url.startswith(self.remote.company.origin):
                cookie = {"cookie": f"idp_user={self.person.subject}"}
                answer = self.remote.company.respond(HttpRequest("GET", url, cookie))
                assert answer.status == 302, answer.body
                method, url, data = "GET", answer.headers["location"], None
                continue
            if not url.startswith(str(self.client.base_url).rstrip("/")):
                self.status, self.html = 0, ""
                return
            answer = await self.client.request(method, url, data=data)
            self.status, self.html = answer.status_code, answer.text
            if "location" not in answer.headers:
                return
            method, url, data = "GET", urljoin(url, answer.headers["location"]), None

    def cookies_named(self, part: str) -> list[str]:
        """The names of the cookies that it holds, of those that hold `part`."""
        return [name for name in self.client.cookies if part in name]


def redirected(authorization_url: str, answer: list[tuple[str, str]]) -> str:
    """Where the vendor sends the browser back to."""
    target = dict(parse_qsl(urlsplit(authorization_url).query))["redirect_uri"]
    return str(httpx2.URL(target, params=answer))


def answer_of(url: str) -> dict[str, str]:
    """What a return URL was given."""
    return dict(parse_qsl(urlsplit(url).query))


def user_of(person: Person, issuer: str = COMPANY) -> User:
    """The user that tokens of the company name."""
    return User(issuer, person.subject, UserKind.OIDC, person.name)


def asserted(subject: str) -> User:
    """A user that an agent names by an id."""
    return User(f"{ASSERTED_ISSUER}default", subject, UserKind.ASSERTED, subject)


def issuer_of(company: FakeIdentityProvider, **fields: Any) -> Issuer:
    """The company's row."""
    given: dict[str, Any] = {
        "audiences": frozenset({company.audience}),
        "login_client_id": LOGIN_CLIENT,
        "login_issuer": company.metadata_issuer,
        "login_authorization_url": company.authorization_url,
        "login_token_url": company.token_url,
        "login_jwks_url": company.jwks_url,
        **fields,
    }
    return Issuer("issuer-1", "default", "company", "oidc", company.issuer, company.discovery_url, company.jwks_url, **given)


@asynccontextmanager
async def running_remote(
    home: Path,
    *,
    clock: FakeClock | None = None,
    issuer: dict[str, Any] | None = None,
    public_url: str = PUBLIC_URL,
    company: FakeIdentityProvider | None = None,
    grace_seconds: float = 10.0,
    own_vault: bool = False,
    **settings: Any,
) -> AsyncGenerator[Remote]:
    """A server with many users on a vault in `home`, with one vendor, `idp`, while the block lasts."""
    clock = clock or FakeClock()
    server = FakeAuthorizationServer(clock.now)
    if company is None:
        company = FakeIdentityProvider(now=clock.now)
        company.origin = COMPANY
    given: dict[str, Any] = {"links_per_minute": 1000, "pending_consents": 1000, **settings}
    if not own_vault:
        put_vault(home)
    prepared = app.prepare(
        Settings(home=home, **given), clock=clock, transport=World(server, company), front=PublicFront(public_url)
    )
    logins = Logins(prepared.vault, prepared.transport, clock, prepared.entropy, public_url)
    host = urlsplit(public_url).netloc
    routes = web_routes(
        prepared.graph.broker,
        logins,
        prepared.graph.broker.portal,
        allowed_hosts=frozenset({host}),
        origins=own_origins(public_url),
        clock=clock,
        entropy=prepared.entropy,
    )
    async with app.running(prepared, lambda: grace_seconds):
        made = issuer_of(company, **(issuer or {}))

        def unit(records: Records) -> WorkloadIdentity:
            if (there := records.find_workload("default", "agent")) is not None:
                return there
            records.insert_issuer(made, Secret(LOGIN_SECRET) if made.login_client_id else None)
            agent = WorkloadIdentity(
                id="workload-agent",
                tenant="default",
                name="agent",
                authorizer=Authorizer(issuer_id=made.id, audiences=frozenset({company.audience})),
                return_urls=(RETURN_URL,),
                may_assert_users=True,
            )
            return records.insert_workload(agent, "test")

        agent = await prepared.vault.run(unit)
        principal = Principal(agent, user_of(ALICE, company.issuer), Proof.JWT, verified=True, edge="http")
        product = Product(prepared, server, clock, principal)
        if await product.broker.directory.find("default", "idp") is None:
            await product.add()
        yield Remote(product, logins, company, Starlette(routes=routes))
