"""What happens when a browser comes to a consent link, presses its button, and comes back from the vendor?

Routes and nothing else: who may come in is decided in `security.py` and `guard.py`, what a page says in `pages.py`, and
everything about the consent itself by the desk. Keeps no state between requests. Trusts the desk; trusts a browser only
as far as its cookies, which the desk checks.

The link's host must be the host of the provider's redirect URI (`127.0.0.1` or `localhost`): the cookie that the button
sets comes back only to the host that set it.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse, RedirectResponse, Response
from starlette.routing import Route

from mcp_identity.domain.clock import Clock, Entropy, random_token
from mcp_identity.domain.consent import ConsentState
from mcp_identity.domain.errors import IdentityError, InvalidRequest
from mcp_identity.web import pages, security
from mcp_identity.web.guard import CheckPeer, Guard

if TYPE_CHECKING:
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
    routes = _Consents(desk, clock, entropy)
    app = Starlette(
        routes=[
            _route(security.CALLBACK_PATH + "{provider_id}", routes.callback, "GET"),
            _route("/consent/style.css", _stylesheet, "GET"),
            _route("/consent/{session_id}", routes.consent, "GET", "POST"),
            _route("/healthz", _health, "GET"),
            _route("/vault-proof", routes.vault_proof, "POST"),
        ],
        middleware=[Middleware(Guard, allowed_hosts=allowed_hosts, check_peer=check_peer)],
        exception_handlers={IdentityError: _identity_error, HTTPException: _http_error},
    )
    app.router.redirect_slashes = False  # it would build a URL from the Host header
    return app


class _Consents:
    """The pages that talk to the desk."""

    def __init__(self, desk: ConsentDesk, clock: Clock, entropy: Entropy) -> None:
        self._desk = desk
        self._clock = clock
        self._entropy = entropy

    async def consent(self, request: Request) -> Response:
        """Show a session, or begin it."""
        session_id: str = request.path_params["session_id"]
        if not security.is_token(session_id):
            raise HTTPException(404)
        return await (self._begin if request.method == "POST" else self._show)(request, session_id)

    async def _show(self, request: Request, session_id: str) -> Response:
        """The page. It sets the form's cookie and changes nothing else, so a link preview may open it."""
        view = await self._desk.view_consent(session_id)
        cookie = request.cookies.get(security.FORM_COOKIE, "")
        if not security.is_token(cookie):  # one that is there stays, so that two tabs of one link both work
            cookie = random_token(self._entropy)
        token = security.form_token(self._desk.page_key(), cookie, session_id)
        page = HTMLResponse(pages.consent_page(view, now=self._clock.now(), form_token=token))
        if view.state in {ConsentState.PENDING, ConsentState.STARTED}:
            page.headers["content-security-policy"] = security.content_policy(view.provider_host)
            page.headers["referrer-policy"] = "same-origin"  # or the form's own Origin would be `null`
            page.set_cookie(
                security.FORM_COOKIE,
                cookie,
                path=_page_path(session_id),
                secure=request.scope["scheme"] == "https",
                httponly=True,
                samesite="strict",
            )
        return page

    async def _begin(self, request: Request, session_id: str) -> Response:
        """The button: mark this browser, and send it to the vendor."""
        form = await _form(request)
        cookie = request.cookies.get(security.FORM_COOKIE, "")
        if not security.is_form_token(form.get("form_token", ""), self._desk.page_key(), cookie, session_id):
            _log.info("a consent form was refused: its token does not belong to this browser and session")
            return HTMLResponse(pages.problem_page("invalid_request", retry_path=_page_path(session_id)), 403)
        begun = await self._desk.begin_consent(session_id, allow_other_account=form.get("other_account") == "yes")
        answer = RedirectResponse(begun.authorization_url, 303)
        answer.set_cookie(
            security.consent_cookie(session_id),
            begun.browser_secret.reveal(),
            max_age=security.CONSENT_COOKIE_SECONDS,
            path=security.CALLBACK_PATH,
            secure=request.scope["scheme"] == "https",
            httponly=True,
            samesite="lax",  # the way back from the vendor is a cross-site navigation
        )
        return answer

    async def callback(self, request: Request) -> Response:
        """The way back. The answer is a redirect to a URL without the code, whatever became of it."""
        provider_id: str = request.path_params["provider_id"]
        if not security.is_name(provider_id):
            raise HTTPException(404)
        secrets = security.browser_secrets(request.cookies)
        session_id = await self._desk.receive_callback(provider_id, _query(request), secrets)
        answer = RedirectResponse(_page_path(session_id), 303)
        answer.delete_cookie(
            security.consent_cookie(session_id),
            path=security.CALLBACK_PATH,
            secure=request.scope["scheme"] == "https",
            httponly=True,
            samesite="lax",
        )
        return answer

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
    if request.scope["path"].startswith(security.CALLBACK_PATH) and status == STATUS["consent_not_found"]:
        status = 410  # the vendor's answer may have been good once
    return HTMLResponse(pages.problem_page(code), status)


async def _http_error(_request: Request, error: Exception) -> Response:
    """No such page, wrong method, or a request of a shape that no browser of ours sends."""
    status = error.status_code if isinstance(error, HTTPException) else 500
    code = "consent_not_found" if status == STATUS["not_found"] else "invalid_request"
    return HTMLResponse(pages.problem_page(code), status, headers=getattr(error, "headers", None))


def _page_path(session_id: str) -> str:
    return f"/consent/{session_id}"


def _route(path: str, endpoint: object, *methods: str) -> Route:
    """A route for exactly these methods: Starlette would answer HEAD by running GET, and a callback counts once."""
    route = Route(path, endpoint, methods=list(methods))  # pyright: ignore[reportArgumentType]
    route.methods = set(methods)
    return route


def _query(request: Request) -> list[tuple[str, str]]:
    """All pairs of the raw query; RFC 6749 forbids repeated parameters, so the desk must see them."""
    raw: bytes = request.scope["query_string"]
    if len(raw) > security.MAXIMUM_QUERY_BYTES:
        raise InvalidRequest("the query is too long")
    return _pairs(raw)


async def _form(request: Request) -> dict[str, str]:
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/x-www-form-urlencoded":
        raise InvalidRequest("a form is sent URL-encoded")
    return dict(_pairs(await _body(request)))


def _pairs(encoded: bytes) -> list[tuple[str, str]]:
    try:
        return parse_qsl(encoded.decode("utf-8", "replace"), keep_blank_values=True, max_num_fields=security.MAXIMUM_PARAMETERS)
    except ValueError:
        raise InvalidRequest("too many parameters") from None


async def _body(request: Request) -> bytes:
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > security.MAXIMUM_BODY_BYTES:
            raise HTTPException(413)
    return body
