"""What happens when a browser comes to a consent link, presses its button, and comes back from the vendor?

Routes and nothing else: who may come in is decided in `security.py` and `guard.py`, what a page says in `pages.py`, and
everything about the consent itself by the desk. Keeps no state between requests. Trusts the desk; trusts a browser only
as far as its cookies, which the desk checks.

The link's host must be the host of the provider's redirect URI (`127.0.0.1` or `localhost`): the cookie that the button
sets comes back only to the host that set it. `application.py` puts these pages into the HTTP server, `consent_app` onto the
port of a single user.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse, Response
from starlette.routing import Route

from mcp_identity.domain.clock import Clock, Entropy, random_token
from mcp_identity.domain.consent import ConsentState, ConsentView, SignInView
from mcp_identity.domain.errors import IdentityError, InvalidRequest
from mcp_identity.domain.login import LoginPurpose
from mcp_identity.web import pages, security
from mcp_identity.web.browser_session import Cookies
from mcp_identity.web.guard import CheckPeer, Guard
from mcp_identity.web.login import SignIns, page_path, pairs_of, query_of, see_other

if TYPE_CHECKING:
    from mcp_identity.domain.login import BrowserSession
    from mcp_identity.web.desk import ConsentDesk

_log = logging.getLogger(__name__)

NONCE_BYTES = 32

STATUS: Mapping[str, int] = {
    "access_denied": 403,
    "audit_unavailable": 503,
    "conflict": 409,
    "consent_denied": 403,
    "consent_expired": 410,
    "consent_mismatch": 403,
    "consent_not_found": 404,
    "different_account": 403,
    "invalid_request": 400,
    "not_found": 404,
    "rate_limited": 429,
    "vault_unavailable": 503,
}
"""How an error that reaches a page looks over HTTP; codes that are not here are faults of ours, 500."""


def consent_app(
    desk: ConsentDesk, *, allowed_hosts: frozenset[str], clock: Clock, entropy: Entropy, check_peer: CheckPeer | None = None
) -> Starlette:
    """Make the ASGI application of the consent pages.

    Args:
        desk: What the pages ask and tell.
        allowed_hosts: Exact values of the Host header, lower case, with the port where it is not the scheme's own.
        clock: For the minutes that a link still works.
        entropy: For the cookie that a form is tied to.
        check_peer: Says whether the program at the other end may be answered; None for all.
    """
    consents = Consents(desk, clock, entropy, Cookies(secure=False))
    return page_application(
        [
            *consents.routes(),
            page_route("/healthz", _health, "GET"),
            page_route("/vault-proof", consents.vault_proof, "POST"),
        ],
        Middleware(Guard, allowed_hosts=allowed_hosts, check_peer=check_peer),
    )


def page_application(routes: list[Route], guard: Middleware) -> Starlette:
    """An application of pages: errors are pages too, and nothing is redirected by itself.

    Args:
        routes: Of `page_route`.
        guard: The door.
    """
    app = Starlette(
        routes=routes,
        middleware=[guard],
        exception_handlers={IdentityError: _identity_error, HTTPException: _http_error},
    )
    app.router.redirect_slashes = False  # it would build a URL from the Host header
    return app


class Consents:
    """The pages that talk to the desk."""

    def __init__(
        self, desk: ConsentDesk, clock: Clock, entropy: Entropy, cookies: Cookies, sign_ins: SignIns | None = None
    ) -> None:
        """Keep what they work with.

        Args:
            desk: What the pages ask and tell.
            clock: For the minutes that a link still works.
            entropy: For the cookie that a form is tied to.
            cookies: Those of this origin.
            sign_ins: Signs browsers in; None where nobody has to.
        """
        self._desk = desk
        self._clock = clock
        self._entropy = entropy
        self._cookies = cookies
        self._sign_ins = sign_ins

    def routes(self) -> list[Route]:
        """Their routes."""
        return [
            page_route(security.CALLBACK_PATH + "{provider_id}", self.callback, "GET"),
            page_route("/consent/style.css", _stylesheet, "GET"),
            page_route("/consent/{session_id}", self.consent, "GET", "POST"),
        ]

    async def consent(self, request: Request) -> Response:
        """Show a session, or begin it."""
        session_id: str = request.path_params["session_id"]
        if not security.is_token(session_id):
            raise HTTPException(404)
        return await (self._press if request.method == "POST" else self._show)(request, session_id)

    async def _show(self, request: Request, session_id: str) -> Response:
        """The page. It sets the form's cookie and changes nothing else, so a link preview may open it."""
        view = await self._desk.view_consent(session_id, self._browser(request))
        cookie = self._cookies.form(request.cookies)
        if not security.is_token(cookie):  # one that is there stays, so that two tabs of one link both work
            cookie = random_token(self._entropy)
        token = security.form_token(self._desk.page_key(), cookie, session_id)
        if isinstance(view, SignInView):
            page = HTMLResponse(pages.sign_in_page(view, form_token=token), 403 if view.stranger else 200)
            leads_to, has_form = [view.login.host], True
        else:
            page = HTMLResponse(pages.consent_page(view, now=self._clock.now(), form_token=token))
            leads_to, has_form = _leads_to(view), view.state in {ConsentState.PENDING, ConsentState.STARTED}
        if has_form:
            page.headers["content-security-policy"] = security.content_policy(*leads_to)
            page.headers["referrer-policy"] = "same-origin"  # or the form's own Origin would be `null`
            self._cookies.set_form(page, cookie, page_path(session_id))
        return page

    async def _press(self, request: Request, session_id: str) -> Response:
        """One of the page's buttons."""
        form = await form_of(request)
        cookie = self._cookies.form(request.cookies)
        if not security.is_form_token(form.get("form_token", ""), self._desk.page_key(), cookie, session_id):
            _log.info("a consent form was refused: its token does not belong to this browser and session")
            return HTMLResponse(pages.problem_page("invalid_request", retry_path=page_path(session_id)), 403)
        match form.get("step", ""):
            case "":
                return await self._begin(request, session_id, other_account=form.get("other_account") == "yes")
            case "sign_in" | "another_user" as step:
                return await self._sign_in(request, session_id, another_user=step == "another_user")
            case _:
                raise InvalidRequest("there is no such button")

    async def _begin(self, request: Request, session_id: str, *, other_account: bool) -> Response:
        """Continue: mark this browser, and send it to the vendor."""
        browser = self._browser(request)
        begun = await self._desk.begin_consent(session_id, allow_other_account=other_account, browser=browser)
        answer = see_other(begun.authorization_url)
        self._cookies.set_mark(answer, session_id, begun.browser_secret.reveal())
        return answer

    async def _sign_in(self, request: Request, session_id: str, *, another_user: bool) -> Response:
        """Sign in, or "that is not me"."""
        view = await self._desk.view_consent(session_id, self._browser(request))
        if self._sign_ins is None or view.login is None:
            raise InvalidRequest("nobody has to sign in for this")
        return await self._sign_ins.begin(view.login, LoginPurpose.CONSENT, session_id, another_user=another_user)

    async def callback(self, request: Request) -> Response:
        """The way back. The answer is a redirect to a URL without the code, whatever became of it."""
        provider_id: str = request.path_params["provider_id"]
        if not security.is_name(provider_id):
            raise HTTPException(404)
        marks, browser = self._cookies.marks(request.cookies), self._browser(request)
        returned = await self._desk.receive_callback(provider_id, query_of(request), marks, browser)
        if returned.refused:
            return HTMLResponse(pages.problem_page("consent_mismatch"), STATUS["consent_mismatch"])
        answer = see_other(returned.redirect_url or page_path(returned.session_id))
        self._cookies.clear_mark(answer, returned.session_id)
        return answer

    def _browser(self, request: Request) -> BrowserSession | None:
        return self._sign_ins.current(request) if self._sign_ins else None

    async def vault_proof(self, request: Request) -> Response:
        """Prove to a sibling that this port is served out of its own vault; 32 bytes in, 32 bytes out.

        The port in the proof is the one that the socket says, so a proof fetched here is worth nothing on another port.
        """
        nonce = await _body(request)
        if len(nonce) != NONCE_BYTES:
            raise HTTPException(400)
        _, port = request.scope["server"]
        return Response(self._desk.prove_vault(nonce, port), media_type="application/octet-stream")


async def _stylesheet(_request: Request) -> Response:
    return Response(pages.stylesheet(), media_type="text/css")


async def _health(_request: Request) -> Response:
    return PlainTextResponse("ok")


async def _identity_error(request: Request, error: Exception) -> Response:
    """A designed failure: its code, and no word of its message, which may name what this browser should not know."""
    code = error.code if isinstance(error, IdentityError) else IdentityError.code
    _log.info("a page answered with %s", code)
    status = STATUS.get(code, 500)
    if (
        request.scope["path"].startswith((security.CALLBACK_PATH, security.LOGIN_PATH))
        and status == STATUS["consent_not_found"]
    ):
        status = 410  # the vendor's answer may have been good once
    return HTMLResponse(pages.problem_page(code), status)


async def _http_error(_request: Request, error: Exception) -> Response:
    """No such page, wrong method, or a request of a shape that no browser of ours sends."""
    status = error.status_code if isinstance(error, HTTPException) else 500
    code = "consent_not_found" if status == STATUS["not_found"] else "invalid_request"
    return HTMLResponse(pages.problem_page(code), status, headers=getattr(error, "headers", None))


def _leads_to(view: ConsentView) -> list[str]:
    """Where the forms of a consent's page lead: to the vendor, from there to the app, and to where somebody else signs in."""
    return [view.provider_host, view.return_host, view.login.host if view.login else ""]


def page_route(path: str, endpoint: object, *methods: str) -> Route:
    """A route for exactly these methods: Starlette would answer HEAD by running GET, and a callback counts once."""
    route = Route(path, endpoint, methods=list(methods))  # pyright: ignore[reportArgumentType]
    route.methods = set(methods)
    return route


async def form_of(request: Request) -> dict[str, str]:
    """The fields of a form that was sent URL-encoded.

    Raises:
        InvalidRequest: If it was sent otherwise, or has too many fields.
    """
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/x-www-form-urlencoded":
        raise InvalidRequest("a form is sent URL-encoded")
    return dict(pairs_of(await _body(request)))


async def _body(request: Request) -> bytes:
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > security.MAXIMUM_BODY_BYTES:
            raise HTTPException(413)
    return body
