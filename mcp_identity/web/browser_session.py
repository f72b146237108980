"""Which cookies does a browser of ours carry, and how are they set and taken back?

Four kinds: the form's, the mark of the browser that pressed the button, the mark of a sign-in on its way, and the browser
session. Over https each has the ``__Host-`` prefix, so no neighbouring host can plant one; over http, on loopback, that is not
to be had, and the path is as narrow as it can be. All are hidden from scripts. Decides nothing; what a cookie proves is
decided where it was sealed or hashed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal

from mcp_identity.web import security

if TYPE_CHECKING:
    from starlette.responses import Response

HOST_PREFIX = "__Host-"
FORM_COOKIE = "mid_form"
CONSENT_COOKIE_PREFIX = "mid_consent_"
LOGIN_COOKIE_PREFIX = "mid_login_"
SESSION_COOKIE = "mid_session"
MARK_SECONDS = 600
"""How long a browser keeps the mark of a consent or a sign-in: as long as those may take."""
_ID_LENGTH = 16


class Cookies:
    """The cookies of one origin."""

    def __init__(self, *, secure: bool) -> None:
        """Know whether the origin is https.

        Args:
            secure: Configured, or what the socket says; never a header.
        """
        self._secure = secure

    def name(self, name: str) -> str:
        """A cookie's name on this origin."""
        return HOST_PREFIX + name if self._secure else name

    # The form's

    def form(self, cookies: Mapping[str, str]) -> str:
        """What a browser's form cookie holds, or nothing."""
        return cookies.get(self.name(FORM_COOKIE), "")

    def set_form(self, answer: Response, value: str, path: str) -> None:
        """Tie a form to this browser; strict, since the form is only ever sent from our own page."""
        self._set(answer, FORM_COOKIE, value, path, "strict")

    # The browser that pressed the button

    def marks(self, cookies: Mapping[str, str]) -> dict[str, str]:
        """The marks among a browser's cookies: the first 16 characters of a session id → secret."""
        return self._all(cookies, CONSENT_COOKIE_PREFIX)

    def set_mark(self, answer: Response, session_id: str, value: str) -> None:
        """Mark the browser in which the button of this session was pressed; lax: the way back is a cross-site navigation."""
        name = CONSENT_COOKIE_PREFIX + session_id[:_ID_LENGTH]
        self._set(answer, name, value, security.CALLBACK_PATH, "lax", MARK_SECONDS)

    def clear_mark(self, answer: Response, session_id: str) -> None:
        """Take the mark back."""
        self._clear(answer, CONSENT_COOKIE_PREFIX + session_id[:_ID_LENGTH], security.CALLBACK_PATH)

    # A sign-in on its way

    def logins(self, cookies: Mapping[str, str]) -> dict[str, str]:
        """What a browser's sign-in cookies hold, by the names of the sign-ins."""
        return self._all(cookies, LOGIN_COOKIE_PREFIX)

    def set_login(self, answer: Response, name: str, value: str) -> None:
        """Mark the browser in which a sign-in was begun."""
        self._set(answer, LOGIN_COOKIE_PREFIX + name, value, security.LOGIN_PATH, "lax", MARK_SECONDS)

    def clear_login(self, answer: Response, name: str) -> None:
        """Take that mark back."""
        self._clear(answer, LOGIN_COOKIE_PREFIX + name, security.LOGIN_PATH)

    # Who is signed in

    def session(self, cookies: Mapping[str, str]) -> str:
        """The sealed browser session, or nothing."""
        return cookies.get(self.name(SESSION_COOKIE), "")

    def set_session(self, answer: Response, value: str, seconds: int) -> None:
        """Keep a session; lax, so that a link from elsewhere finds its user signed in."""
        self._set(answer, SESSION_COOKIE, value, "/", "lax", seconds)

    def clear_session(self, answer: Response) -> None:
        """Sign out."""
        self._clear(answer, SESSION_COOKIE, "/")

    def _all(self, cookies: Mapping[str, str], prefix: str) -> dict[str, str]:
        prefix = self.name(prefix)
        return {name.removeprefix(prefix): value for name, value in cookies.items() if name.startswith(prefix)}

    def _set(
        self,
        answer: Response,
        name: str,
        value: str,
        path: str,
        same_site: Literal["lax", "strict"],
        seconds: int | None = None,
    ) -> None:
        answer.set_cookie(
            self.name(name),
            value,
            max_age=seconds,
            path="/" if self._secure else path,
            secure=self._secure,
            httponly=True,
            samesite=same_site,
        )

    def _clear(self, answer: Response, name: str, path: str) -> None:
        path = "/" if self._secure else path
        answer.delete_cookie(self.name(name), path=path, secure=self._secure, httponly=True, samesite="lax")
