"""Whose browser is this? The company's application knows, and so it alone finishes the consents of its users.

The user signs in and asks; the application calls the runtime with the user's token and shows what the agent says: a link
first, where the agent needs a consent, and then the answer. From the consent the browser comes back to `/connected` with a
`session_id`. Whoever holds that could connect an account to somebody's agent, so it is believed only from a browser that
is signed in, in which this very question was asked; and it is completed with the token of the user of that browser, never
with a name that the address brings. mcp-identity then compares: another user than the one who asked, and nothing is connected.
"""

from __future__ import annotations

import json
import secrets
from base64 import urlsafe_b64encode
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from hashlib import sha256
from typing import Any, Protocol
from urllib.parse import urlencode, urlsplit

import anyio
import httpx2
from anyio.abc import TaskGroup
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import Mount, Route

from . import pages
from .identity import IdentityRefused
from .runtime import SESSION_HEADER, Runtime
from .sessions import Conversation, Session, Sessions
from .user_tokens import Company, InvalidToken, UserTokens

SESSION_COOKIE, SIGN_IN_COOKIE = "app_session", "app_sign_in"
SESSION_SECONDS = 3600
WAIT_SECONDS = 25
CONSENT_SECONDS = 660
"""A link is good for ten minutes; after that nothing comes any more."""
HEADERS = {
    # The page's own files and nothing else: what an agent says cannot bring a script along.
    "Content-Security-Policy": "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "Cache-Control": "no-store",
    "Referrer-Policy": "no-referrer",  # the return address holds the completion URI
    "X-Content-Type-Options": "nosniff",
}
MESSAGES = {
    "UserDenied": "You did not allow it.",
    "AccessDeniedException": "You may not use this agent.",
    "unauthenticated": "Your sign-in has ended. Sign out, and in again.",
}


class Completions(Protocol):
    """Where consents are completed."""

    async def complete(self, session_uri: str, user_token: str) -> None:
        """Say whose browser came back."""
        ...


class Application:
    """The application and, below `/runtime`, the runtime that it calls.

    The two share nothing but that address; they stand in one process to keep the example small.

    Args:
        origin: Scheme, host and port under which browsers know it.
        http: For the identity provider and the runtime.
        company: The identity provider.
        users: Says whom a token speaks for.
        identity: Completes consents.
        consent_origin: Where mcp-identity's pages are: the one place that a link may lead to.
        runtime: Runs the agent.
    """

    def __init__(
        self,
        *,
        origin: str,
        http: httpx2.AsyncClient,
        company: Company,
        users: UserTokens,
        identity: Completions,
        consent_origin: str,
        runtime: Runtime,
    ) -> None:
        self._origin = origin
        self._http = http
        self._company = company
        self._users = users
        self._identity = identity
        self._consent_page = f"{consent_origin.rstrip('/')}/consent/"
        self._runtime = runtime
        self._sessions = Sessions()
        self._tasks: TaskGroup | None = None
        # Over https no neighbouring host can plant a cookie with this prefix.
        self._secure = urlsplit(origin).scheme == "https"
        self._prefix = "__Host-" if self._secure else ""

    def app(self) -> Starlette:
        """The ASGI application; what agents are asked runs for as long as it does."""
        routes = [
            Route("/", self.home),
            Route("/sign-in", self.sign_in),
            Route("/signed-in", self.signed_in),
            Route("/sign-out", self.sign_out, methods=["POST"]),
            Route("/ask", self.ask, methods=["POST"]),
            Route("/conversation", self.conversation),
            Route("/connected", self.connected),
            Route("/style.css", self.style),
            Route("/follow.js", self.script),
            Mount("/runtime", routes=self._runtime.routes()),
        ]

        @asynccontextmanager
        async def lifespan(_app: Starlette) -> AsyncGenerator[None]:
            async with anyio.create_task_group() as self._tasks:
                yield
                self._tasks.cancel_scope.cancel()

        return Starlette(routes=routes, lifespan=lifespan)

    # Signing in

    async def sign_in(self, _request: Request) -> Response:
        """Send the browser to the company's identity provider: authorization code with PKCE."""
        begun = self._sessions.begin()
        asked = {
            "response_type": "code",
            "client_id": self._company.client_id,
            "redirect_uri": f"{self._origin}/signed-in",
            "scope": "openid",
            "state": begun.state,
            "code_challenge": urlsafe_b64encode(sha256(begun.verifier.encode()).digest()).rstrip(b"=").decode(),
            "code_challenge_method": "S256",
        }
        answer = RedirectResponse(f"{self._company.authorization_url}?{urlencode(asked)}", 303, HEADERS)
        self._set(answer, SIGN_IN_COOKIE, begun.id)
        return answer

    async def signed_in(self, request: Request) -> Response:
        """Take the browser back; the code counts only in the browser where the sign-in began.

        Otherwise somebody could sign a victim's browser in as themselves, and have the victim's accounts connected to them.
        """
        asked = request.query_params
        begun = self._sessions.finish(self._cookie(request, SIGN_IN_COOKIE), asked.get("state", ""))
        if begun is None or "code" not in asked:
            return _page(pages.trouble("sign-in"), 403)
        form = {
            "grant_type": "authorization_code",
            "code": asked["code"],
            "redirect_uri": f"{self._origin}/signed-in",
            "client_id": self._company.client_id,
            "code_verifier": begun.verifier,
        }
        exchanged = await self._http.post(self._company.token_url, data=form)
        token = str(exchanged.json().get("access_token", "")) if exchanged.is_success else ""
        try:
            user = await self._users.verify(token)
        except InvalidToken:
            return _page(pages.trouble("sign-in"), 403)
        answer = RedirectResponse("/", 303, HEADERS)
        # A new id at every sign-in: one that stood in the browser before proves nothing now.
        self._set(answer, SESSION_COOKIE, self._sessions.open(token, user.name).id)
        answer.delete_cookie(self._prefix + SIGN_IN_COOKIE, secure=self._secure, httponly=True, samesite="lax")
        return answer

    async def sign_out(self, request: Request) -> Response:
        """End the session."""
        session = await self._posted(request)
        if session is None:
            return _page(pages.trouble("form"), 403)
        self._sessions.close(session)
        return RedirectResponse("/", 303, HEADERS)

    # Asking

    async def home(self, request: Request) -> Response:
        """The page."""
        session = self._session(request)
        if session is None:
            return _page(pages.welcome())
        return _page(pages.home(session.name, session.form_token, session.conversation.view))

    async def style(self, _request: Request) -> Response:
        """How the page looks."""
        return Response(pages.STYLE, media_type="text/css")

    async def script(self, _request: Request) -> Response:
        """What keeps the page up to date."""
        return Response(pages.SCRIPT, media_type="text/javascript")

    async def ask(self, request: Request) -> Response:
        """Ask the agent; the answer comes to the page when there is one, wherever the browser is meanwhile."""
        session = await self._posted(request)
        if session is None or self._tasks is None:
            return _page(pages.trouble("form"), 403)
        question = str((await request.form()).get("question", ""))[:500]
        await self._tasks.start(self._work, session, question)
        return RedirectResponse("/", 303, HEADERS)

    async def conversation(self, request: Request) -> Response:
        """The part of the page that changes, once it has changed."""
        session, since = self._session(request), request.query_params.get("since", "")
        if session is None or not since.isdecimal():
            return Response(status_code=403, headers=HEADERS)
        talk, changed = session.conversation, False
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(_until_gone, request, tasks.cancel_scope)
            changed = await talk.changed_since(int(since), WAIT_SECONDS)
            tasks.cancel_scope.cancel()
        if not changed:
            return Response(status_code=204, headers=HEADERS)
        return HTMLResponse(pages.conversation(talk.view), headers={**HEADERS, "X-Version": str(talk.view.version)})

    async def _work(self, session: Session, question: str, *, task_status: anyio.abc.TaskStatus[None]) -> None:
        """Call the runtime as the user of this session, and show what comes."""
        talk = session.conversation
        async with talk.asking(question) as state:
            task_status.started()
            headers = {"Authorization": f"Bearer {session.user_token}", SESSION_HEADER: session.form_token}
            call: dict[str, Any] = {
                "json": {"prompt": question, "state": state},
                "headers": headers,
                "timeout": CONSENT_SECONDS,
            }
            try:
                async with self._http.stream("POST", f"{self._origin}/runtime/invocations", **call) as answer:
                    if answer.is_error:
                        await answer.aread()
                        self._show(talk, {"error": answer.json().get("error", "")})
                        return
                    async for line in answer.aiter_lines():
                        if line.startswith("data: "):
                            self._show(talk, json.loads(line.removeprefix("data: ")))
            except (httpx2.HTTPError, ValueError):
                self._show(talk, {"error": "AgentFailed"})

    def _show(self, talk: Conversation, event: dict[str, Any]) -> None:
        """Show what the agent said. An agent follows what it read somewhere, so no link of its own choice becomes a button."""
        match event:
            case {"consent_url": str(url)} if url.startswith(self._consent_page):
                talk.show(state="consent", link=url)
            case {"answer": str(text)}:
                talk.show(state="answered", text=text)
            case _:
                code = str(event.get("error", ""))
                talk.show(state="failed", text=MESSAGES.get(code, "The agent could not answer. Ask again."))

    # Coming back from a consent

    async def connected(self, request: Request) -> Response:
        """Take a browser back from a consent, and say whose it is."""
        session, asked = self._session(request), request.query_params
        if session is None:
            return _page(pages.trouble("nobody"), 401)  # nobody to complete it for; it ends by itself within a minute
        talk = session.conversation
        expected, brought = talk.state.encode(), asked.get("custom_state", "").encode()
        if not expected or not secrets.compare_digest(expected, brought):
            return _page(pages.trouble("stranger"), 403)
        talk.state = ""  # each link comes back once
        if "session_id" not in asked:
            return _page(pages.trouble("denied" if asked.get("error") == "access_denied" else "failed"), 400)
        try:
            await self._identity.complete(asked["session_id"], session.user_token)
        except IdentityRefused:
            return _page(pages.trouble("failed"), 400)
        talk.show(state="working", link="")
        # On, so that the completion URI stands in no history and no later request.
        return RedirectResponse("/", 303, HEADERS)

    # Browsers

    def _session(self, request: Request) -> Session | None:
        return self._sessions.find(self._cookie(request, SESSION_COOKIE))

    async def _posted(self, request: Request) -> Session | None:
        """The session that a form was sent from; None for a form of another site, whose request brings our cookie as well."""
        session = self._session(request)
        form_token = str((await request.form()).get("form_token", ""))
        if session is None or not secrets.compare_digest(session.form_token.encode(), form_token.encode()):
            return None
        return session

    def _cookie(self, request: Request, name: str) -> str:
        return request.cookies.get(self._prefix + name, "")

    def _set(self, answer: Response, name: str, value: str) -> None:
        """Set a cookie that no script reads.

        Lax, not strict: the browser comes back from the identity provider and from the consent by a link of another site, and
        has to bring it then; with a form or a frame of another site it does not.
        """
        answer.set_cookie(
            self._prefix + name, value, max_age=SESSION_SECONDS, httponly=True, samesite="lax", secure=self._secure
        )


async def _until_gone(request: Request, waiting: anyio.CancelScope) -> None:
    """Wait for nobody who has hung up."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
    waiting.cancel()


def _page(text: str, status: int = 200) -> Response:
    return HTMLResponse(text, status, HEADERS)
