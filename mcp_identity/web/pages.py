"""What does the person read?

Turns views and codes into HTML: the templates, and the plain words for every code that a page can meet. Knows no request
and decides nothing. Trusts no text: values are cleaned of control and bidirectional characters, then escaped.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from typing import TYPE_CHECKING, Any

from mcp_identity.domain.consent import ConsentState, ConsentView, SignInView
from mcp_identity.domain.credentials import GrantState
from mcp_identity.domain.errors import clean_text
from mcp_identity.domain.login import BrowserSession, LoginTarget

if TYPE_CHECKING:
    from jinja2 import Environment

    from mcp_identity.broker.portal import PortalGrant

_LONGEST_VALUE = 2000


@dataclass(frozen=True, slots=True)
class Words:
    """What happened, and what to do next."""

    happened: str
    next_step: str


_ASK_AGAIN = "Go back to your agent and ask it again; it will give you a new link."
_ASK_OPERATOR = "Tell whoever set up this connection, and name the code below."
_UNKNOWN = Words("Something went wrong on our side.", _ASK_AGAIN)

WORDS: dict[str, Words] = {
    "consent_denied": Words(
        "The sign-in was cancelled, or you chose not to allow it.", "If you did not mean to, ask your agent again."
    ),
    "consent_expired": Words("The link was not used in time. Links work for ten minutes.", _ASK_AGAIN),
    "consent_mismatch": Words(
        "The answer did not come from the browser, the person or the service that we had asked, so we did not use it.",
        "Open the link in the browser that you sign in with, and finish there. Never finish a sign-in that somebody sent you.",
    ),
    "consent_not_found": Words("We know no such request, or it has been used already.", _ASK_AGAIN),
    "different_account": Words(
        "You signed in with another account than the one that is connected.",
        "Ask your agent again. Sign in with the same account, or tick the box that says that you mean a different one.",
    ),
    "access_denied": Words("A rule of this server does not allow this connection.", _ASK_OPERATOR),
    "provider_misconfigured": Words("This connection is not set up correctly.", _ASK_OPERATOR),
    "upstream_rejected": Words(
        "The service answered with an error instead of giving access.",
        f"{_ASK_AGAIN} If it happens again, tell whoever set up this connection.",
    ),
    "upstream_unavailable": Words("The service did not answer in time.", "Wait a moment, then ask your agent again."),
    "upstream_bad_response": Words(
        "The service sent an answer that we could not use.",
        f"{_ASK_AGAIN} If it happens again, tell whoever set up this connection.",
    ),
    "upstream_tls": Words("The service could not prove that it is the right one, so we did not talk to it.", _ASK_OPERATOR),
    "url_refused": Words("The address of the service is not one that this server may talk to.", _ASK_OPERATOR),
    "conflict": Words("This request is being finished already, or something changed meanwhile.", _ASK_AGAIN),
    "invalid_scope": Words("The service does not offer one of the permissions that were asked for.", _ASK_AGAIN),
    "invalid_request": Words("The browser sent something that we could not use.", _ASK_AGAIN),
    "rate_limited": Words("There were too many attempts in a short time.", "Wait a minute, then try again."),
    "vault_unavailable": Words("The store of this server cannot be reached at the moment.", "Wait a moment, then try again."),
    "vault_corrupt": Words("The store of this server holds something that cannot be trusted.", _ASK_OPERATOR),
    "audit_unavailable": Words("This server could not write its log, so it did nothing.", "Wait a moment, then try again."),
}
"""Every code that a person may meet. What is not here reads as a fault of ours."""


def consent_page(view: ConsentView, *, now: datetime, form_token: str) -> str:
    """The page of a consent session, whatever state it is in.

    Args:
        view: What to show.
        now: For the minutes that the link still works.
        form_token: For the form of a session that waits for its user; unused otherwise.
    """
    waiting = view.state in {ConsentState.PENDING, ConsentState.STARTED}
    if waiting and view.expires_at > now:
        minutes = max(1, round((view.expires_at - now).total_seconds() / 60))
        return _render("ask.html", view=view, minutes=minutes, form_token=form_token)
    if view.state is ConsentState.COMPLETED:
        return _render("completed.html", view=view)
    if view.state in {ConsentState.RECEIVED, ConsentState.EXCHANGING}:
        return _render("finishing.html", view=view)
    code = "consent_expired" if waiting else (view.error_code or f"consent_{view.state}")
    return _render("ended.html", view=view, state="expired" if waiting else view.state.value, code=code, words=_words(code))


def sign_in_page(view: SignInView, *, form_token: str) -> str:
    """The page for a browser that has not proved whose it is. It says nothing of the request: not who asked, nor for what.

    Args:
        view: Whether somebody else is signed in.
        form_token: For its form.
    """
    return _render("stranger.html" if view.stranger else "sign_in.html", form_token=form_token)


def problem_page(code: str, *, retry_path: str = "") -> str:
    """A page about a request that belongs to no session: what the code means, and nothing of the request.

    Args:
        code: A stable error code.
        retry_path: One of our own paths to offer a way back to; empty for none.
    """
    return _render("problem.html", code=code, words=_words(code), retry_path=retry_path)


def portal_page(session: BrowserSession, grants: tuple[PortalGrant, ...], *, form_token: str) -> str:
    """A user's own page.

    Args:
        session: Who is signed in.
        grants: What they have granted.
        form_token: For its forms.
    """
    return _render("portal.html", user=session.user.display, grants=[_shown(grant) for grant in grants], form_token=form_token)


def portal_sign_in_page(choices: Sequence[LoginTarget], *, form_token: str, unknown: bool) -> str:
    """The same page for a browser in which nobody is signed in.

    Args:
        choices: Where to sign in; none to ask for the organisation's name.
        form_token: For its forms.
        unknown: Nobody can sign in under the name that was given.
    """
    return _render("portal_sign_in.html", choices=choices, form_token=form_token, unknown=unknown)


def _shown(grant: PortalGrant) -> dict[str, object]:
    """A grant in a person's words."""
    since, used = grant.since, grant.last_used_at
    return {
        "id": grant.id,
        "workload": grant.workload,
        "provider_title": grant.provider_title,
        "scopes": grant.scopes,
        "since": since.isoformat(timespec="seconds") if since else "",
        "since_shown": _moment(since),
        "last_used": used.isoformat(timespec="seconds") if used else "",
        "last_used_shown": _moment(used),
        "needs_consent": grant.state is GrantState.NEEDS_CONSENT,
    }


def _moment(at: datetime | None) -> str:
    """A time as people write it, in UTC."""
    return f"{at.day} {at:%B %Y, %H:%M} UTC" if at else ""


@cache
def stylesheet() -> str:
    """The one stylesheet."""
    source, _, _ = _source("style.css")
    return source


def _words(code: str) -> Words:
    return WORDS.get(code, _UNKNOWN)


def _render(template: str, **values: object) -> str:
    return _environment().get_template(template).render(values)


def _source(name: str) -> tuple[str, Any, Any]:
    environment = _environment()
    if environment.loader is None:  # pragma: no cover - it is made with one
        raise LookupError(name)
    return environment.loader.get_source(environment, name)


def _clean(value: object) -> object:
    """Drop what could make text read differently from what it is; markup of our own templates stays as it is."""
    from markupsafe import Markup

    return clean_text(value, _LONGEST_VALUE) if isinstance(value, str) and not isinstance(value, Markup) else value


@cache
def _environment() -> Environment:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    return Environment(
        loader=PackageLoader("mcp_identity.web"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_clean,
        trim_blocks=True,
        lstrip_blocks=True,
    )
