"""Does the example keep to what it teaches? Nobody chooses whom the agent acts for, or finishes a consent of somebody else."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx2
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from mcp_identity.domain.http import HttpRequest
from tests.examples.runtime_shim import Application, Company, IdentityRefused, Runtime, UserTokens
from tests.fakes.identity_provider import ALICE, AUDIENCE, BOB, MALLORY, FakeIdentityProvider, Person

ORIGIN, IDENTITY, APP = "http://app.example.com", "http://identity.example.com", "company-app"
LINK = f"{IDENTITY}/consent/abc"


@dataclass(slots=True)
class FakeIdentity:
    """mcp-identity, as far as the example asks it.

    Attributes:
        refuses: Every call is refused with this.
        tokens: The user tokens that workload access tokens were asked for with.
        completed: Completion URI and user token of each completion.
    """

    refuses: str = ""
    tokens: list[str] = field(default_factory=list[str])
    completed: list[tuple[str, str]] = field(default_factory=list[tuple[str, str]])

    async def workload_token(self, user_token: str) -> str:
        self._refuse()
        self.tokens.append(user_token)
        return f"wat-{len(self.tokens)}"

    async def complete(self, session_uri: str, user_token: str) -> None:
        self._refuse()
        self.completed.append((session_uri, user_token))

    def _refuse(self) -> None:
        if self.refuses:
            raise IdentityRefused(self.refuses, "no")


@dataclass(slots=True)
class FakeAgent:
    """An agent.

    Attributes:
        events: What it answers with.
        invocations: Headers and payload of each invocation.
    """

    events: list[dict[str, Any]] = field(default_factory=lambda: [{"consent_url": LINK}])
    invocations: list[tuple[dict[str, str], dict[str, Any]]] = field(
        default_factory=list[tuple[dict[str, str], dict[str, Any]]]
    )

    def app(self) -> Starlette:
        return Starlette(routes=[Route("/invocations", self.invoke, methods=["POST"])])

    async def invoke(self, request: Request) -> Response:
        self.invocations.append((dict(request.headers), await request.json()))
        if not self.events:
            return JSONResponse({"error": "a canary"}, 500)
        said = "".join(f"data: {json.dumps(event)}\n\n" for event in self.events)
        return Response(said, media_type="text/event-stream")


@dataclass(frozen=True, slots=True)
class Stage:
    """The application with everything around it.

    Attributes:
        site: The application, as ASGI.
        idp: Where people sign in.
        identity: mcp-identity.
        agent: The agent.
        runtime: A caller of the runtime that is no browser.
    """

    site: Starlette
    idp: FakeIdentityProvider
    identity: FakeIdentity
    agent: FakeAgent
    runtime: httpx2.AsyncClient

    @asynccontextmanager
    async def browser(self, person: Person | None) -> AsyncGenerator[httpx2.AsyncClient]:
        """A browser of its own, signed in or not."""
        async with httpx2.AsyncClient(transport=httpx2.ASGITransport(self.site), base_url=ORIGIN) as client:
            if person is not None:
                assert (await self.sign_in(client, person)).status_code == 303
            yield client

    async def sign_in(self, client: httpx2.AsyncClient, person: Person) -> httpx2.Response:
        """Go through the sign-in."""
        return await client.get(self.answer(await client.get("/sign-in"), person))

    def answer(self, begun: httpx2.Response, person: Person) -> str:
        """Where the identity provider sends the browser back to."""
        request = HttpRequest("GET", begun.headers["location"], {"cookie": f"idp_user={person.subject}"})
        return self.idp.respond(request).headers["location"]


async def ask(client: httpx2.AsyncClient, **fields: str) -> httpx2.Response:
    """Send the form of the page, once what it leads to is on the page."""
    page = (await client.get("/")).text
    found = re.search(r'name="form_token" value="([^"]+)"', page)
    form = {"form_token": found[1] if found else "", "question": "Whose?", **fields}
    answer = await client.post("/ask", data=form)
    if answer.status_code == 303 and (before := re.search(r'data-version="(\d+)"', page)):
        await client.get("/conversation", params={"since": str(int(before[1]) + 1)})  # that it is at work is the first change
    return answer


@pytest.fixture
async def stage() -> AsyncGenerator[Stage]:
    idp, identity, agent = FakeIdentityProvider(), FakeIdentity(), FakeAgent()
    idp.login_client, idp.login_secret = APP, ""

    async def provider(request: Request) -> Response:
        method = "POST" if request.method == "POST" else "GET"
        answer = idp.respond(HttpRequest(method, str(request.url), dict(request.headers), await request.body() or None))
        return Response(answer.body, answer.status, dict(answer.headers))

    sites: list[Starlette] = []

    async def own(scope: Scope, receive: Receive, send: Send) -> None:
        await sites[0](scope, receive, send)

    company_site = Starlette(routes=[Route("/{path:path}", provider, methods=["GET", "POST"])])
    mounts = {idp.origin: httpx2.ASGITransport(company_site), ORIGIN: httpx2.ASGITransport(own)}
    async with (
        httpx2.AsyncClient(mounts=mounts, trust_env=False) as http,
        httpx2.AsyncClient(transport=httpx2.ASGITransport(agent.app()), base_url="http://agent") as to_agent,
    ):
        company = await Company.discover(http, idp.discovery_url, client_id=APP, audience=AUDIENCE)
        users = UserTokens(http, company)
        runtime = Runtime(users=users, identity=identity, agent=to_agent, return_url=f"{ORIGIN}/connected")
        application = Application(
            origin=ORIGIN,
            http=http,
            company=company,
            users=users,
            identity=identity,
            consent_origin=IDENTITY,
            runtime=runtime,
        )
        site = application.app()
        sites.append(site)
        async with (
            site.router.lifespan_context(site),
            httpx2.AsyncClient(transport=httpx2.ASGITransport(site), base_url=f"{ORIGIN}/runtime") as caller,
        ):
            yield Stage(site, idp, identity, agent, caller)


# The runtime


async def test_a_bearer_that_is_none_starts_no_agent(stage: Stage) -> None:
    idp = stage.idp
    bad = {
        "": None,
        "Basic": "Basic YTpi",
        "nonsense": "Bearer a.b.c",
        "another audience": f"Bearer {idp.access_token(client=APP, audience='https://other.example.com')}",
        "another application": f"Bearer {idp.access_token(client='another-app')}",
        "expired": f"Bearer {idp.access_token(client=APP, lifetime_seconds=-60)}",
        "another issuer": f"Bearer {idp.access_token(client=APP, claims={'iss': 'https://evil.example.com'})}",
        "no subject": f"Bearer {idp.access_token(client=APP, claims={'sub': None})}",
        "an ID token": f"Bearer {idp.id_token(claims={'client_id': APP})}",
        "unsigned": f"Bearer {unsigned(idp.access_token(client=APP))}",
    }
    answers: set[tuple[int, str]] = set()
    for value in bad.values():
        headers = {"authorization": value} if value else {}
        answer = await stage.runtime.post("/invocations", json={"state": "s"}, headers=headers)
        answers.add((answer.status_code, answer.text))
    assert answers == {(401, '{"error":"unauthenticated"}')}
    assert (stage.agent.invocations, stage.identity.tokens) == ([], [])


def unsigned(token: str) -> str:
    """The same claims under an algorithm that is none."""
    return ".".join(["eyJhbGciOiJub25lIn0", token.split(".")[1], ""])


async def test_strangers_do_not_make_the_runtime_fetch_keys_over_and_over(stage: Stage) -> None:
    for _ in range(5):
        headers = {"authorization": f"Bearer {stage.idp.sign({'sub': 'x'}, kid='2')}"}
        assert (await stage.runtime.post("/invocations", json={}, headers=headers)).status_code == 401
    assert stage.idp.jwks_fetches == 1


async def test_no_header_of_the_caller_says_whom_the_agent_acts_for(stage: Stage) -> None:
    token = stage.idp.access_token(client=APP)
    headers = {
        "authorization": f"Bearer {token}",
        "WorkloadAccessToken": "somebody-elses",
        "X-Amz-Bedrock-AgentCore-Identity-WAT": "somebody-elses",
        "OAuth2CallbackUrl": "https://evil.example.com/",
        "X-Amzn-Bedrock-AgentCore-Runtime-Session-Id": "a-session",
        "cookie": "a=b",
    }
    assert (await stage.runtime.post("/invocations", json={"state": "s"}, headers=headers)).status_code == 200
    ((seen, payload),) = stage.agent.invocations
    assert (seen["workloadaccesstoken"], seen["oauth2callbackurl"]) == ("wat-1", f"{ORIGIN}/connected")
    assert "somebody-elses" not in str(seen)
    assert not {"authorization", "cookie"} & seen.keys()
    assert payload == {"state": "s"}
    assert stage.identity.tokens == [token]


async def test_two_users_with_one_session_id_are_not_in_one_session(stage: Stage) -> None:
    for person in (ALICE, BOB, ALICE):
        headers = {
            "authorization": f"Bearer {stage.idp.access_token(person, client=APP)}",
            "X-Amzn-Bedrock-AgentCore-Runtime-Session-Id": "guessed",
        }
        await stage.runtime.post("/invocations", json={}, headers=headers)
    alice, bob, again = (seen["x-amzn-bedrock-agentcore-runtime-session-id"] for seen, _ in stage.agent.invocations)
    assert alice == again != bob
    assert "guessed" not in alice + bob


async def test_whom_the_identity_service_refuses_gets_no_agent(stage: Stage) -> None:
    headers = {"authorization": f"Bearer {stage.idp.access_token(client=APP)}"}
    for code, status in (("AccessDeniedException", 403), ("Unreachable", 502)):
        stage.identity.refuses = code
        answer = await stage.runtime.post("/invocations", json={}, headers=headers)
        assert (answer.status_code, answer.json()) == (status, {"error": code})
    assert stage.agent.invocations == []


async def test_a_body_without_an_end_is_not_read_to_its_end(stage: Stage) -> None:
    headers = {"authorization": f"Bearer {stage.idp.access_token(client=APP)}"}
    assert (await stage.runtime.post("/invocations", content=b"x" * 70_000, headers=headers)).status_code == 413
    assert stage.agent.invocations == []


async def test_what_a_broken_agent_says_goes_nowhere(stage: Stage) -> None:
    stage.agent.events = []
    async with stage.browser(ALICE) as alice:
        await ask(alice)
        page = (await alice.get("/")).text
    assert "could not answer" in page
    assert "canary" not in page


# Signing in


async def test_a_sign_in_counts_only_in_the_browser_where_it_began(stage: Stage) -> None:
    async with stage.browser(None) as mallory, stage.browser(None) as victim:
        forwarded = stage.answer(await mallory.get("/sign-in"), MALLORY)
        assert (await victim.get(forwarded)).status_code == 403
        await victim.get("/sign-in")
        assert (await victim.get(forwarded)).status_code == 403
        assert "Signed in" not in (await victim.get("/")).text


async def test_a_sign_in_comes_back_once_and_makes_a_new_session(stage: Stage) -> None:
    async with stage.browser(None) as alice:
        alice.cookies.set("app_session", "planted", domain="app.example.com")
        back = stage.answer(await alice.get("/sign-in"), ALICE)
        assert (await alice.get(back)).status_code == 303
        assert [each.value for each in alice.cookies.jar if each.name == "app_session" and each.value == "planted"] == []
        assert (await alice.get(back)).status_code == 403


async def test_cookies_are_hidden_from_scripts_and_stay_at_home(stage: Stage) -> None:
    async with stage.browser(None) as alice:
        begun = await alice.get("/sign-in")
        done = await alice.get(stage.answer(begun, ALICE))
        for answer in (begun, done):
            for cookie in answer.headers.get_list("set-cookie"):
                assert "HttpOnly" in cookie
                assert "SameSite=lax" in cookie


async def test_a_form_of_another_site_asks_nothing_and_ends_nothing(stage: Stage) -> None:
    async with stage.browser(ALICE) as alice:
        assert (await ask(alice, form_token="guessed")).status_code == 403
        assert (await alice.post("/sign-out", data={"form_token": ""})).status_code == 403
        assert "Signed in" in (await alice.get("/")).text
    async with stage.browser(None) as nobody:
        assert (await ask(nobody)).status_code == 403
        assert (await nobody.get("/conversation", params={"since": "0"})).status_code == 403
    assert stage.agent.invocations == []


# Coming back from a consent


def state_of(stage: Stage) -> str:
    """The state that the agent was last invoked with."""
    return stage.agent.invocations[-1][1]["state"]


async def test_the_consent_is_completed_as_the_user_of_the_browser(stage: Stage) -> None:
    async with stage.browser(ALICE) as alice:
        await ask(alice)
        assert f'href="{LINK}"' in (await alice.get("/")).text
        back = await alice.get("/connected", params={"session_id": "urn:x", "custom_state": state_of(stage)})
        assert (back.status_code, back.headers["location"]) == (303, "/")
        again = await alice.get("/connected", params={"session_id": "urn:x", "custom_state": state_of(stage)})
        assert again.status_code == 403
    assert stage.identity.completed == [("urn:x", stage.identity.tokens[0])]


async def test_a_forwarded_link_completes_nothing_wherever_it_comes_back(stage: Stage) -> None:
    """Mallory asks, and Bob agrees: his browser did not ask, whoever is signed in there.

    covers: A01b
    """
    async with stage.browser(MALLORY) as mallory, stage.browser(BOB) as bob, stage.browser(None) as nobody:
        await ask(mallory)
        back = {"session_id": "urn:x", "custom_state": state_of(stage)}
        assert (await nobody.get("/connected", params=back)).status_code == 401
        assert (await bob.get("/connected", params=back)).status_code == 403
        await ask(bob)  # a question of his own is another one
        assert (await bob.get("/connected", params=back)).status_code == 403
        assert (await bob.get("/connected", params={"session_id": "urn:x"})).status_code == 403
    assert stage.identity.completed == []


async def test_whoever_said_no_is_told_so(stage: Stage) -> None:
    async with stage.browser(ALICE) as alice:
        await ask(alice)
        back = await alice.get("/connected", params={"error": "access_denied", "custom_state": state_of(stage)})
        assert (back.status_code, "did not allow" in back.text) == (400, True)
        await ask(alice)
        stage.identity.refuses = "ValidationException"
        back = await alice.get("/connected", params={"session_id": "urn:x", "custom_state": state_of(stage)})
        assert (back.status_code, "did not work" in back.text) == (400, True)
    assert stage.identity.completed == []


@pytest.mark.parametrize(
    "link", ["javascript:alert(1)", "https://evil.example.com/consent/abc", f"{IDENTITY}.evil.example.com/consent/x", "x", ""]
)
async def test_no_link_of_an_agents_own_choice_becomes_a_button(stage: Stage, link: str) -> None:
    stage.agent.events = [{"consent_url": link}]
    async with stage.browser(ALICE) as alice:
        await ask(alice)
        page = (await alice.get("/")).text
    assert 'id="consent"' not in page
    assert "could not answer" in page


async def test_what_an_agent_says_is_text(stage: Stage) -> None:
    stage.agent.events = [{"answer": "<script>alert(1)</script>"}]
    async with stage.browser(ALICE) as alice:
        await ask(alice, question="<b>?</b>")
        answer = await alice.get("/")
    assert "<script>alert" not in answer.text
    assert "<b>?" not in answer.text
    assert "&lt;script&gt;" in answer.text
    assert "default-src 'none'" in answer.headers["content-security-policy"]
