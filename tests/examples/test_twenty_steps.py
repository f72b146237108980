"""The way of one request through all twenty steps, with a real browser and the stock SDK.

A person signs in to an application, asks an agent, agrees to what it needs, and gets the answer. Everything speaks over sockets
of this machine: the application and the runtime are those of `examples/runtime_shim`, and the agent is a process of its
own, whose environment names our server and knows nothing else of us.
"""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, closing, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib import import_module
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import anyio
import anyio.to_thread
import httpx2
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mcp_identity.broker.specifications import IssuerSpec, WorkloadSpec
from mcp_identity.domain.access_key import AccessKeyRole
from mcp_identity.domain.http import HttpRequest
from mcp_identity.web.serving import claim, serving
from tests.examples.runtime_shim import AGENT, Application, Company, Identity, IdentityRefused, Runtime, UserTokens
from tests.fakes.authorization_server import CLIENT_ID, CLIENT_SECRET, ISSUER, FakeAuthorizationServer
from tests.fakes.chromium import Browser, chromium, require_chromium
from tests.fakes.home import VaultHome
from tests.fakes.identity_provider import ALICE, AUDIENCE, FakeIdentityProvider
from tests.http.kit import Server, http_client, local_options, server_here
from tests.web.test_real_browser import CONTRAST

APP, WORKLOAD = "company-app", "assistant"
CHAIN = [
    ("get_workload_access_token", "ok"),
    ("get_token", "consent_required"),
    ("begin_consent", "ok"),
    ("callback", "ok"),
    ("complete_consent", "ok"),
    ("get_token", "ok"),
]
"""What was done for the user, in the order in which each first was."""


@dataclass(slots=True)
class Resource:
    """What the person has an account at: a consent page, a strict authorization server, and an API.

    Attributes:
        server: Issues the tokens, and says which of them are good.
        pages: How often its consent page was shown.
        calls: The bearers that came to the API, and how each was answered.
    """

    server: FakeAuthorizationServer = field(default_factory=lambda: FakeAuthorizationServer(lambda: datetime.now(UTC)))
    pages: int = 0
    calls: list[tuple[str, int]] = field(default_factory=list[tuple[str, int]])

    def app(self) -> Starlette:
        posts = [Route(path, self.protocol, methods=["POST"]) for path in ("/token", "/revoke")]
        return Starlette(routes=[Route("/authorize", self.ask), Route("/allow", self.allow), *posts, Route("/api/me", self.me)])

    async def ask(self, request: Request) -> Response:
        self.pages += 1
        query = request.url.query.replace("&", "&amp;")
        return HTMLResponse(f"<title>Notes</title><h1 id='vendor'>Allow?</h1><a id='allow' href='/allow?{query}'>Allow</a>")

    async def allow(self, request: Request) -> Response:
        answer = self.server.person_consents(str(request.url))
        return RedirectResponse(f"{request.query_params['redirect_uri']}?{urlencode(answer)}", 302)

    async def protocol(self, request: Request) -> Response:
        headers = {"Authorization": request.headers.get("authorization", "")}
        answer = self.server.respond(HttpRequest("POST", str(request.url), headers, await request.body()))
        return Response(answer.body, answer.status, dict(answer.headers))

    async def me(self, request: Request) -> Response:
        bearer = request.headers.get("authorization", "").removeprefix("Bearer ")
        good = self.server.is_active(bearer)
        self.calls.append((bearer, 200 if good else 401))
        return JSONResponse({"username": "alice", "scopes": ["read"]}) if good else Response(status_code=401)


@dataclass(slots=True)
class Recorder:
    """Notes what comes to an application, and how it is answered.

    Attributes:
        seen: Path, headers and status of each request.
    """

    inside: ASGIApp
    seen: list[tuple[str, dict[str, str], int]] = field(default_factory=list[tuple[str, dict[str, str], int]])

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def noting(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = {name.decode(): value.decode() for name, value in scope["headers"]}
                self.seen.append((scope["path"], headers, message["status"]))
            await send(message)

        await self.inside(scope, receive, noting)

    def of(self, path: str) -> list[tuple[dict[str, str], int]]:
        return [(headers, status) for at, headers, status in self.seen if at == path]


@dataclass(frozen=True, slots=True)
class World:
    """Everything that takes part.

    Attributes:
        origin: Of the application.
        application: What came to it and to the runtime below it.
        invocations: The headers that the agent was invoked with.
        identity: The application's and the runtime's way to our server.
        users: Their check of users' tokens.
        idp: Where people sign in.
        resource: What they have accounts at.
        server: Ours.
        key: The access key of the workload, and its secret.
    """

    origin: str
    application: Recorder
    invocations: list[dict[str, str]]
    identity: Identity
    users: UserTokens
    idp: FakeIdentityProvider
    resource: Resource
    server: Server
    key: tuple[str, str]

    def trail(self, action: str) -> list[dict[str, Any]]:
        """What the trail says of a verb, oldest first."""
        return [event for event in self.server.home.trail() if event["action"] == action]

    def consents(self) -> list[str]:
        """How each consent stands."""
        with closing(sqlite3.connect(f"file:{self.server.home.path / 'vault.db'}?mode=ro", uri=True)) as connection:
            return [row[0] for row in connection.execute("SELECT state FROM consent_sessions")]


@asynccontextmanager
async def on_a_port(app: ASGIApp, sockets: Any, **options: Any) -> AsyncGenerator[str]:
    async with serving(app, sockets, **options):
        yield f"http://127.0.0.1:{sockets[0].getsockname()[1]}"


@asynccontextmanager
async def agent_process(folder: Path, **environment: str) -> AsyncGenerator[str]:
    """The agent, as a process of its own; where it is."""
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
    command = [sys.executable, str(AGENT), "--stop-when-input-ends"]
    with (folder / "agent.log").open("wb") as log:
        async with await anyio.open_process(
            command, env={**kept, **environment}, cwd=folder, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log
        ) as process:
            assert process.stdout is not None
            said = b""
            with anyio.fail_after(30):
                while not said.endswith(b"\n"):
                    said += await process.stdout.receive()
            yield json.loads(said)["url"]
            process.terminate()


async def set_up(server: Server, idp: FakeIdentityProvider, vendor: str, return_url: str) -> tuple[str, str]:
    """What an operator does once, by stock boto3 where AgentCore has a call for it; the workload's access key."""
    assert server.serving is not None
    broker, user = server.serving.prepared.graph.broker, server.serving.prepared.graph.user
    operator = broker.directory.operator(user)
    issuer = IssuerSpec(idp.discovery_url, audiences=(AUDIENCE,), allow_http_loopback=True)
    await broker.issuers.add(broker.call(operator, "create_issuer"), "company", issuer)
    admin = await broker.access_keys.create(broker.call(operator, "create_access_key"), AccessKeyRole.ADMIN)

    def configure() -> None:
        boto3: Any = import_module("boto3")  # it has no types
        control = boto3.client(
            "bedrock-agentcore-control",
            endpoint_url=server.url,
            region_name="us-east-1",
            aws_access_key_id=admin.key.access_key_id,
            aws_secret_access_key=admin.secret.reveal(),
        )
        control.create_workload_identity(name=WORKLOAD, allowedResourceOauth2ReturnUrls=[return_url])
        endpoints = {"issuer": ISSUER, "authorizationEndpoint": f"{vendor}/authorize", "tokenEndpoint": f"{vendor}/token"}
        discovery = {"authorizationServerMetadata": endpoints}
        custom = {"oauthDiscovery": discovery, "clientId": CLIENT_ID, "clientSecret": CLIENT_SECRET}
        control.create_oauth2_credential_provider(
            name="notes",
            credentialProviderVendor="CustomOauth2",
            oauth2ProviderConfigInput={"customOauth2ProviderConfig": custom},
        )

    await anyio.to_thread.run_sync(configure)
    whose = WorkloadSpec(issuer="company", clients=(APP,))  # AgentCore's interface has no word for this
    await broker.workloads.update(broker.call(operator, "update_workload_identity"), WORKLOAD, whose)
    call = broker.call(operator, "create_access_key")
    made = await broker.access_keys.create(call, AccessKeyRole.WORKLOAD, (WORKLOAD,))
    return made.key.access_key_id, made.secret.reveal()


def agent_environment(server: Server, key: tuple[str, str], vendor: str) -> dict[str, str]:
    """What an agent of the stock SDK is told, and where its notes are."""
    return {
        "BEDROCK_AGENTCORE_CP_ENDPOINT": server.url,
        "BEDROCK_AGENTCORE_DP_ENDPOINT": server.url,
        "AWS_REGION": "us-east-1",
        "AWS_ACCESS_KEY_ID": key[0],
        "AWS_SECRET_ACCESS_KEY": key[1],
        "AWS_EC2_METADATA_DISABLED": "true",
        "NOTES_URL": f"{vendor}/api/me",
        "POLL_SECONDS": "0.2",
    }


async def shown(browser: Browser, selector: str) -> str:
    """What a person reads in an element, once it is there; on a busy machine that may take a while."""
    with anyio.fail_after(60):
        while True:
            with suppress(AssertionError):
                return await browser.text(selector)


async def click(browser: Browser, selector: str) -> None:
    element = await browser.find(selector)
    await browser.http.post(f"/session/{browser.session}/element/{element}/click", json={})


@asynccontextmanager
async def a_world(folder: Path) -> AsyncGenerator[World]:
    """Everything set up, and nobody signed in."""
    sockets, resource_sockets = claim(0), claim(0)
    assert sockets is not None
    assert resource_sockets is not None
    origin = f"http://127.0.0.1:{sockets[0].getsockname()[1]}"
    idp, resource = FakeIdentityProvider(), Resource()
    idp.login_client, idp.login_secret = APP, ""
    home, options = VaultHome(folder / "home"), local_options("http", allow_http_loopback=True)
    async with (
        idp.serve(),
        on_a_port(resource.app(), resource_sockets) as vendor,
        server_here(home, options, agents=("other",)) as server,
        http_client() as http,
    ):
        key = await set_up(server, idp, vendor, f"{origin}/connected")
        async with (
            agent_process(folder, **agent_environment(server, key, vendor)) as agent,
            http_client(base_url=agent) as to_agent,
        ):
            invocations: list[dict[str, str]] = []

            async def note(request: httpx2.Request) -> None:
                invocations.append(dict(request.headers))

            to_agent.event_hooks = {"request": [note]}
            company = await Company.discover(http, idp.discovery_url, client_id=APP, audience=AUDIENCE)
            users = UserTokens(http, company)
            identity = Identity(server.url, WORKLOAD, access_key_id=key[0], secret_access_key=key[1])
            runtime = Runtime(users=users, identity=identity, agent=to_agent, return_url=f"{origin}/connected")
            application = Application(
                origin=origin,
                http=http,
                company=company,
                users=users,
                identity=identity,
                consent_origin=server.url,
                runtime=runtime,
            )
            recorder = Recorder(application.app())
            async with serving(recorder, sockets, lifespan=True):
                yield World(origin, recorder, invocations, identity, users, idp, resource, server, key)


@pytest.fixture
async def world(tmp_path: Path) -> AsyncGenerator[World]:
    require_chromium()
    async with a_world(tmp_path) as one:
        yield one


async def test_a_persons_question_goes_the_whole_way_and_the_trail_shows_it(  # noqa: PLR0915 - twenty steps
    world: World, tmp_path: Path
) -> None:
    resource, idp = world.resource, world.idp
    async with chromium(tmp_path / "alice") as browser:
        # 1. The user signs in with OpenID Connect, and the application has their token.
        await browser.open(world.origin)
        await click(browser, "a[href='/sign-in']")
        assert await shown(browser, "#user") == ALICE.name
        assert [path for path in idp.requests if path in ("/authorize", "/token")] == ["/authorize", "/token"]

        # 2. The application makes a session, whose cookie no script reads.
        assert await browser.run("document.cookie") == ""
        assert "Ask" in await browser.text("#ask")

        # 3. The user asks for something that the agent needs a resource for.
        await click(browser, "#ask")
        await shown(browser, "#consent")  # the link is there: what came before it has left its marks by now
        ((headers, status),) = world.application.of("/runtime/invocations")

        # 4. The application calls the runtime with the user's token.
        bearer = headers["authorization"].removeprefix("Bearer ")
        assert (await world.users.verify(bearer)).subject == ALICE.subject

        # 5. The runtime asks for a workload access token.
        (issued,) = world.trail("get_workload_access_token")

        # 6. The identity service checks the user's token and issues one for that user; for a bad one there is none.
        assert (issued["outcome"], issued["user_display"]) == ("ok", ALICE.name)
        with pytest.raises(IdentityRefused) as refused:
            await world.identity.workload_token(idp.access_token(client="another-app"))
        assert refused.value.code == "UnauthorizedException"

        # 7. The agent is invoked with it, and without the user's own token.
        (invocation,) = world.invocations
        assert invocation["workloadaccesstoken"].startswith("mid_wat_")
        assert "authorization" not in invocation

        # 8. The agent asks for a token of the resource.
        asked = world.trail("get_token")[0]
        assert (asked["provider"], asked["workload"], asked["user_display"]) == ("notes", WORKLOAD, ALICE.name)

        # 9. The identity service wants the user's consent: a link, and a session that waits for it.
        assert asked["outcome"] == "consent_required"
        assert world.consents() == ["pending"]

        # 10. The link reaches the application while the agent goes on waiting.
        link = await browser.run("document.querySelector('#consent').href")
        assert link.startswith(f"{world.server.url}/consent/")
        assert status == 200

        # 11. The prompts are shown: ours, which says who asks for what, and the resource's own.
        await click(browser, "#consent")
        assert WORKLOAD in await browser.text("main")
        await click(browser, "main button")
        assert await browser.text("#vendor") == "Allow?"
        assert (resource.pages, resource.server.families) == (1, [])

        # 12. The user agrees, and the resource records it.
        await click(browser, "#allow")
        assert await shown(browser, "#answer")
        assert [(family.account, family.scopes) for family in resource.server.families] == [("alice", ("read",))]

        # 13. The resource checks our credentials and issues the token, once.
        assert resource.server.count("authorization_code") == 1

        # 14. It was exchanged when the application had said whose browser came back; the agent's next look got it.
        assert [event["outcome"] for event in world.trail("complete_consent")] == ["ok", "ok"]
        assert world.trail("get_token")[-1]["outcome"] == "ok"

        # 15. The agent asks the resource for data with it.
        ((token, answered),) = resource.calls
        assert resource.server.is_active(token)

        # 16. The resource checks the token and answers.
        assert answered == 200

        # 17. The agent puts its answer together.
        said = await browser.text("#answer")
        assert said == "I can read the notes of alice."

        # 18. The runtime returns it: one call, answered once.
        assert len(world.application.of("/runtime/invocations")) == 1

        # 19. The application shows it, on its own page, from which the completion URI is gone.
        assert await browser.url() == f"{world.origin}/"
        assert await browser.run(CONTRAST) >= 4.5

        # 20. Nothing is left open.
        assert world.consents() == ["completed"]

        # And what is revoked at the resource is refused there (16), without another consent before it (33).
        resource.server.families[0].revoked = True
        await click(browser, "#ask")
        assert "could not answer" in await shown(browser, "#failure")
        assert resource.calls[1:] == [(token, 401)]
        assert resource.pages == 1
        assert not [each for each in await browser.complaints() if "favicon" not in each]

    # 20. The trail shows the whole chain: on whose behalf, with which workload access token, and by which key.
    hers = [event for event in world.server.home.trail() if event["user_display"] == ALICE.name]
    assert list(dict.fromkeys((event["action"], event["outcome"]) for event in hers)) == CHAIN
    assert issued["detail"]["jti"] == asked["detail"]["credential"] != invocation["workloadaccesstoken"]
    assert {event["detail"]["signed_by"] for event in world.trail("get_token")} == {world.key[0]}
    (completed,) = [event for event in world.trail("complete_consent") if event["edge"] == "agentcore"]
    assert link.rpartition("/")[2].startswith(completed["detail"]["consent"])

    # And nothing that opens anything was written down on the way.
    written = str(world.server.home.trail()) + (tmp_path / "agent.log").read_text()
    for secret in (bearer, token, invocation["workloadaccesstoken"], world.key[1]):
        assert secret not in written


if os.environ.get("PROVE"):

    def test_the_demonstration_goes_the_same_way_by_itself() -> None:
        program = AGENT.parents[1] / "twenty_steps.py"
        done = subprocess.run(
            [sys.executable, str(program), "--headless"], capture_output=True, text=True, timeout=110, check=False
        )
        assert done.returncode == 0, done.stderr[-4000:]
        assert "I can read the notes of alice." in done.stdout
        assert done.stdout.count("complete_consent") == 2
