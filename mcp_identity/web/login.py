"""What happens when somebody signs in at our pages?

The button starts a sign-in at the identity provider of a tenant, the way back ends it and gives the browser a session. What
signs in whom is decided behind the desk; here is only where the browser goes, and with which cookies. Trusts the desk.
"""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import parse_qsl

from starlette.exceptions import HTTPException
from starlette.responses import Response

from mcp_identity.domain.errors import InvalidRequest
from mcp_identity.domain.login import BrowserSession, LoginPurpose, LoginTarget
from mcp_identity.web import security
from mcp_identity.web.browser_session import Cookies

if TYPE_CHECKING:
    from starlette.requests import Request

    from mcp_identity.web.desk import SignInDesk

PORTAL_PATH = "/portal"


class SignIns:
    """Signs browsers in and out."""

    def __init__(self, desk: SignInDesk, cookies: Cookies) -> None:
        """Keep what it works with."""
        self._desk = desk
        self._cookies = cookies

    def current(self, request: Request) -> BrowserSession | None:
        """Who has signed in at this browser; whether that still counts, is decided where something is decided by it."""
        return self._desk.open(self._cookies.session(request.cookies))

    async def begin(
        self, target: LoginTarget, purpose: LoginPurpose, consent_id: str = "", *, another_user: bool = False
    ) -> Response:
        """The button was pressed: mark this browser, and send it to the identity provider.

        Args:
            target: Where to sign in.
            purpose: What for.
            consent_id: The consent that it is for, or empty.
            another_user: Whoever is signed in is signed out, and asked for again.
        """
        begun = await self._desk.start(target, purpose, consent_id, another_user=another_user)
        answer = see_other(begun.authorization_url)
        self._cookies.set_login(answer, begun.name, begun.browser_secret.reveal())
        if another_user:
            self._cookies.clear_session(answer)
        return answer

    async def callback(self, request: Request) -> Response:
        """The way back from the identity provider. The answer is a redirect to a URL without the code."""
        issuer_id: str = request.path_params["issuer_id"]
        if not security.is_name(issuer_id):
            raise HTTPException(404)
        done = await self._desk.finish(issuer_id, query_of(request), self._cookies.logins(request.cookies))
        answer = see_other(page_path(done.consent_id) if done.purpose is LoginPurpose.CONSENT else PORTAL_PATH)
        self._cookies.clear_login(answer, done.name)
        seconds = int((done.session.expires_at - done.session.issued_at).total_seconds())
        self._cookies.set_session(answer, done.cookie.reveal(), seconds)
        return answer

    def sign_out(self, answer: Response) -> None:
        """Forget who signed in at this browser."""
        self._cookies.clear_session(answer)


def page_path(session_id: str) -> str:
    """The path of a consent's page."""
    return f"/consent/{session_id}"


def see_other(url: str) -> Response:
    """A redirect to exactly this URL; Starlette's own would encode it once more."""
    return Response(status_code=303, headers={"location": url})


def query_of(request: Request) -> list[tuple[str, str]]:
    """All pairs of the raw query; RFC 6749 forbids repeated parameters, so the desk must see them.

    Raises:
        InvalidRequest: If it is too long, or has too many.
    """
    raw: bytes = request.scope["query_string"]
    if len(raw) > security.MAXIMUM_QUERY_BYTES:
        raise InvalidRequest("the query is too long")
    return pairs_of(raw)


def pairs_of(encoded: bytes) -> list[tuple[str, str]]:
    """The pairs of something URL-encoded.

    Raises:
        InvalidRequest: If there are too many.
    """
    try:
        return parse_qsl(encoded.decode("utf-8", "replace"), keep_blank_values=True, max_num_fields=security.MAXIMUM_PARAMETERS)
    except ValueError:
        raise InvalidRequest("too many parameters") from None
