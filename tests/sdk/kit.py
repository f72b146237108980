"""A server in a thread of its own, as a client in this process meets it; people who agree; steps that are answered by hand."""

from __future__ import annotations

import json
import time
from collections.abc import Awaitable, Callable, Generator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any, TypeVar

from anyio.from_thread import BlockingPortal, start_blocking_portal
from joserfc import jwt
from joserfc.jwk import RSAKey

from mcp_identity.broker.answers import ProviderSpec
from mcp_identity.broker.specifications import IssuerSpec, WorkloadSpec
from mcp_identity.sdk.client import IdentityClient
from mcp_identity.sdk.endpoint import Who
from mcp_identity.sdk.steps import Ask, Reply, Step, Steps
from tests.fakes.browser import Browser
from tests.fakes.home import VaultHome, free_port
from tests.fakes.vendor import Vendor, running_vendor
from tests.http.kit import Server, local_options, server_here

T = TypeVar("T")
RETURN_URL = "http://127.0.0.1:9/done"
ALICE = Who("mid_wk_alice", "mid_wk_alice")


@dataclass(slots=True)
class World:
    """A running server with providers, its vendor, and the workload `alice`, which may name users.

    Attributes:
        portal: Runs what belongs to the server's loop.
        server: The server.
        vendor: The vendor.
        clients: What was made here; closed with the world.
    """

    portal: BlockingPortal
    server: Server
    vendor: Vendor
    clients: ExitStack = field(default_factory=ExitStack)

    @property
    def home(self) -> VaultHome:
        """Its vault."""
        return self.server.home

    def client(self, agent: str = "alice", **options: Any) -> IdentityClient:
        """A client with the key of an agent."""
        given: dict[str, Any] = {"token": self.server.keys[agent], **options}
        return self.clients.enter_context(IdentityClient(self.server.url, **given))

    def events(self, action: str) -> list[dict[str, Any]]:
        """What the trail says of a verb."""
        return [event for event in self.home.trail() if event["action"] == action]

    def update(self, agent: str, **spec: Any) -> None:
        """Change a workload, as its operator."""
        self._operate(
            "update_workload_identity", lambda broker, call: broker.workloads.update(call, agent, WorkloadSpec(**spec))
        )

    def release(self, how: str, *names: str) -> None:
        """Let the secrets of providers leave in another way."""
        for name in names:
            spec = ProviderSpec(release=how)
            self._operate(
                "update_provider", lambda broker, call, name=name, spec=spec: broker.directory.update(call, name, spec)
            )

    def trust(self, company: Company) -> None:
        """Let a company's users speak through `alice`."""
        spec = IssuerSpec(company.discovery_url, audiences=("agents",), allow_http_loopback=True)
        self._operate("create_issuer", lambda broker, call: broker.issuers.add(call, "company", spec))
        self.update("alice", issuer="company", audiences=("agents",))

    def _operate(self, action: str, change: Callable[[Any, Any], Awaitable[Any]]) -> None:
        assert self.server.serving is not None
        graph = self.server.serving.prepared.graph

        async def operate() -> None:
            await change(graph.broker, graph.broker.call(graph.broker.directory.operator(graph.user), action))

        self.portal.call(operate)

    def agree(self, client: IdentityClient, user_id: str) -> Callable[[str], None]:
        """A person who opens a link and agrees, and the app that says who they are."""

        def open_link(link: str) -> None:
            session_id = arrive(link)
            if session_id:
                client.complete_consent(session_id, user_id=user_id)

        return open_link


def arrive(link: str) -> str:
    """A person opens a link and does what it asks; the completion URI that the app's own URL gets."""
    with Browser(stop_at=RETURN_URL) as browser:
        page = browser.consent(link)
    assert page.url.startswith(RETURN_URL), page.text
    return page.query.get("session_id", "")


@contextmanager
def running_world(folder: Path, **settings: Any) -> Generator[World]:
    """A world on a free port, in a thread of its own."""
    home, port = VaultHome(folder), free_port()
    with (
        start_blocking_portal() as portal,
        portal.wrap_async_context_manager(running_vendor()) as vendor,
    ):
        portal.call(home.add_providers, vendor)
        given: dict[str, Any] = {
            "public_url": f"http://127.0.0.1:{port}",
            "calls_per_second": 10_000,
            "requests_per_second": 10_000,
            **settings,
        }
        serving = server_here(home, local_options("http", port=port), **given)
        with portal.wrap_async_context_manager(serving) as server, ExitStack() as clients:
            world = World(portal, server, vendor, clients)
            world.update("alice", may_assert_users=True, return_urls=(RETURN_URL,))
            yield world


@dataclass(frozen=True, slots=True)
class Company:
    """An identity provider on this machine, which signs whatever it is told."""

    origin: str
    key: RSAKey

    @property
    def discovery_url(self) -> str:
        """Where its metadata is."""
        return f"{self.origin}/.well-known/openid-configuration"

    def token(self, subject: str, *, ends_in: int = 600, **claims: Any) -> str:
        """The access token of a user."""
        now = int(time.time())
        own = {"iss": self.origin, "sub": subject, "aud": "agents", "client_id": "app", "iat": now - 700, "exp": now + ends_in}
        return jwt.encode({"alg": "RS256", "kid": "1", "typ": "at+jwt"}, {**own, **claims}, self.key, algorithms=["RS256"])

    def said(self, path: str) -> dict[str, Any]:
        """What it publishes."""
        if path != "/.well-known/openid-configuration":
            return {"keys": [self.key.as_dict(private=False)]}
        endpoints = {f"{name}_endpoint": f"{self.origin}/{name}" for name in ("authorization", "token")}
        return {"issuer": self.origin, "jwks_uri": f"{self.origin}/jwks", "response_types_supported": ["code"], **endpoints}


@contextmanager
def running_company() -> Generator[Company]:
    """An identity provider in a thread of its own."""
    companies: list[Company] = []

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = json.dumps(companies[0].said(self.path)).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the name is Python's
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Answer) as server:
        key = RSAKey.generate_key(2048, {"kid": "1", "use": "sig", "alg": "RS256"})
        companies.append(Company(f"http://127.0.0.1:{server.server_port}", key))
        thread = Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield companies[0]
        server.shutdown()
        thread.join()


def play(steps: Steps[T], *replies: Mapping[str, Any] | Reply) -> tuple[T, list[Step]]:
    """Answer the steps of a flow one after another; what it returns, and what it asked.

    Every step takes a reply; `Reply()` is the one for a link that was shown, and for a pause.
    """
    asked: list[Step] = []
    left = iter(replies)
    try:
        step = next(steps)
        while True:
            asked.append(step)
            reply = next(left)
            step = steps.send(reply if isinstance(reply, Reply) else Reply(reply))
    except StopIteration as done:
        assert next(left, None) is None, "the flow ended early"
        return done.value, asked


def tools(asked: Sequence[Step]) -> list[str]:
    """The tools that were called; other steps by their names."""
    return [step.tool if isinstance(step, Ask) else type(step).__name__ for step in asked]
