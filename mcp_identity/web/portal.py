"""What does a signed-in user see of what agents hold, and how do they end it?

One page, `/portal`: sign in, look, disconnect, sign out. It shows the grants of the user that the browser's session names, and
of nobody else; every button is a POST with a token that belongs to this browser. Decides nothing about grants and verifies no
sign-in: both are behind desks. Trusts the desks; trusts a browser only as far as its sealed session.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from starlette.exceptions import HTTPException
from starlette.responses import HTMLResponse, Response

from mcp_identity.domain.clock import Entropy, random_token
from mcp_identity.domain.errors import InvalidRequest, NotFound
from mcp_identity.domain.identity import User, is_name
from mcp_identity.domain.login import BrowserSession, LoginPurpose, LoginTarget
from mcp_identity.web import pages, security
from mcp_identity.web.browser_session import Cookies
from mcp_identity.web.consent import form_of, page_route
from mcp_identity.web.login import PORTAL_PATH, SignIns, see_other

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.routing import Route

    from mcp_identity.broker.portal import PortalGrant
    from mcp_identity.web.desk import SignInDesk

_FORM = "portal"
"""What the portal's form tokens are for; no consent has such an id."""


class PortalDesk(Protocol):
    """The counter that the portal knocks at."""

    async def list(self, tenant: str, user: User) -> tuple[PortalGrant, ...]:
        """What a user has granted and not taken back."""
        ...

    async def revoke(self, tenant: str, user: User, grant_id: str) -> None:
        """End one grant of this user.

        Raises:
            NotFound: It is not this user's, or there is none.
        """
        ...


class Portal:
    """A user's own page."""

    def __init__(
        self,
        desk: PortalDesk,
        sessions: SignInDesk,
        sign_ins: SignIns,
        cookies: Cookies,
        page_key: bytes,
        entropy: Entropy,
    ) -> None:
        """Keep what it works with.

        Args:
            desk: The user's grants.
            sessions: Who is signed in, and where people can sign in.
            sign_ins: Signs browsers in and out.
            cookies: Those of this origin.
            page_key: Authenticates forms.
            entropy: For the cookie that a form is tied to.
        """
        self._desk = desk
        self._sessions = sessions
        self._sign_ins = sign_ins
        self._cookies = cookies
        self._page_key = page_key
        self._entropy = entropy

    def routes(self) -> list[Route]:
        """Its one route."""
        return [page_route(PORTAL_PATH, self.portal, "GET", "POST")]

    async def portal(self, request: Request) -> Response:
        """Show the page, or do what a button of it says."""
        session = await self._sessions.current(self._cookies.session(request.cookies))
        if request.method == "POST":
            return await self._press(request, session)
        return await self._show(request, session)

    async def _show(self, request: Request, session: BrowserSession | None, *, unknown: bool = False) -> Response:
        """The page; it changes nothing."""
        cookie = self._cookies.form(request.cookies)
        if not security.is_token(cookie):  # one that is there stays, so that two tabs both work
            cookie = random_token(self._entropy)
        token = security.form_token(self._page_key, cookie, _FORM)
        if session is None:
            targets = await self._sessions.targets()
            page = HTMLResponse(pages.portal_sign_in_page(_choices(targets), form_token=token, unknown=unknown))
            leads_to = [target.host for _, target in targets]
        else:
            grants = await self._desk.list(session.tenant, session.user)
            page = HTMLResponse(pages.portal_page(session, grants, form_token=token))
            leads_to = []
        page.headers["content-security-policy"] = security.content_policy(*leads_to)
        page.headers["referrer-policy"] = "same-origin"  # or the form's own Origin would be `null`
        self._cookies.set_form(page, cookie, PORTAL_PATH)
        return page

    async def _press(self, request: Request, session: BrowserSession | None) -> Response:
        """One of the page's buttons."""
        form = await form_of(request)
        cookie = self._cookies.form(request.cookies)
        if not security.is_form_token(form.get("form_token", ""), self._page_key, cookie, _FORM):
            return HTMLResponse(pages.problem_page("invalid_request", retry_path=PORTAL_PATH), 403)
        match form.get("step", ""):
            case "sign_in":
                return await self._sign_in(request, form)
            case "sign_out":
                answer = see_other(PORTAL_PATH)
                self._sign_ins.sign_out(answer)
                return answer
            case "disconnect" if session is not None:
                return await self._disconnect(session, form.get("grant", ""))
            case "disconnect":
                return see_other(PORTAL_PATH)
            case _:
                raise InvalidRequest("there is no such button")

    async def _sign_in(self, request: Request, form: dict[str, str]) -> Response:
        """Go to the identity provider that was chosen, by its button or by the organisation's name."""
        targets = await self._sessions.targets()
        chosen = [target for _, target in targets if target.issuer_id == form.get("issuer", "")]
        if not chosen and is_name(form.get("organisation", "").strip().lower()):
            chosen = [target for _, target in targets if target.tenant == form["organisation"].strip().lower()]
        if not chosen:
            return await self._show(request, None, unknown=True)
        return await self._sign_ins.begin(chosen[0], LoginPurpose.PORTAL)

    async def _disconnect(self, session: BrowserSession, grant_id: str) -> Response:
        try:
            await self._desk.revoke(session.tenant, session.user, grant_id)
        except NotFound:
            raise HTTPException(404) from None
        return see_other(PORTAL_PATH)


def _choices(targets: tuple[tuple[str, LoginTarget], ...]) -> list[LoginTarget]:
    """The buttons of the sign-in page; none where there are several tenants, whose names are nobody's business."""
    tenants = {target.tenant for _, target in targets}
    return [target for _, target in targets] if len(tenants) == 1 else []
