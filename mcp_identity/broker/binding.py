"""Who may finish a consent, and how does a browser prove that it is theirs?

PKCE and state tie an answer to a question; neither ties a browser to a person. Whoever forwards a link forwards both. So each
consent has a binding, chosen when it is asked for and sealed with it.
"""

from __future__ import annotations

from enum import Enum
from urllib.parse import urlencode, urlsplit

from mcp_identity.domain.consent import Binding, ConsentRequest
from mcp_identity.domain.errors import ConsentDenied, IdentityError, InvalidRequest, ProviderMisconfigured
from mcp_identity.domain.identity import Principal, UserKind
from mcp_identity.domain.issuer import Issuer
from mcp_identity.domain.login import BrowserSession, LoginTarget
from mcp_identity.vault.records import Records


class NoBinding(ProviderMisconfigured):
    """The browser of this user could prove itself in no way that is configured."""


class Visitor(Enum):
    """Who sits at a browser, as far as it can prove it."""

    NOBODY = "nobody"
    STRANGER = "stranger"
    INITIATOR = "initiator"


def choose_binding(front: Binding, principal: Principal, return_url: str) -> Binding:
    """How the browser of a consent will have to prove itself.

    Args:
        front: What the pages can do: `LOCAL` on a single user's machine, else `LOGIN`.
        principal: Who asks.
        return_url: Where the browser shall go at the end; checked to be registered.

    Raises:
        InvalidRequest: If there is a return URL where no app can be bound.
        NoBinding: If this user can prove themselves in no way.
    """
    if front is Binding.LOCAL:
        if return_url:
            raise InvalidRequest("return_url is for servers with many users; here the consent page needs none, so leave it out")
        return Binding.LOCAL
    if return_url:
        return Binding.APP
    if principal.user is None or principal.user.kind is not UserKind.OIDC:
        name = principal.workload.name
        raise NoBinding(
            "a user that the agent names by an id cannot sign in here, so only its app can say who they are: register its URL "
            f"(mcp-identity workloads update {name} --return-url URL) and pass it as return_url"
        )
    return Binding.LOGIN


def find_login_issuer(records: Records, principal: Principal) -> Issuer:
    """The issuer at which the initiator's browser will have to sign in: the one that their token is of.

    Raises:
        NoBinding: If nobody can sign in there.
    """
    mine = principal.workload.authorizer.issuer_id
    issuers = [
        each for each in records.list_issuers(principal.tenant) if principal.user and each.issuer == principal.user.issuer
    ]
    usable = [each for each in issuers if each.can_log_in and not each.disabled]
    for issuer in sorted(usable, key=lambda each: each.id != mine):
        return issuer
    raise NoBinding(
        "the user's identity provider has no login client here, so a browser cannot prove whose it is: "
        "mcp-identity issuers add NAME … --login-client-id ID, or register the app's URL "
        f"(mcp-identity workloads update {principal.workload.name} --return-url URL) and pass it as return_url"
    )


def visitor_of(records: Records, request: ConsentRequest, browser: BrowserSession | None) -> Visitor:
    """Who sits at the browser that comes for a consent with login binding.

    A session of another tenant or issuer says nothing here, and neither does one that has ended.
    """
    if browser is None or (browser.tenant, browser.issuer_id) != (request.tenant, request.login_issuer):
        return Visitor.NOBODY
    if not records.is_session_good(browser):
        return Visitor.NOBODY
    if (browser.user.key, browser.user.kind) == (request.user, request.user_kind):
        return Visitor.INITIATOR
    return Visitor.STRANGER


def login_target(records: Records, request: ConsentRequest) -> LoginTarget:
    """Where the browser has to sign in.

    Raises:
        ProviderMisconfigured: If nobody can sign in there any more.
    """
    issuer = records.find_issuer_id(request.tenant, request.login_issuer)
    if issuer is None or issuer.disabled or not issuer.can_log_in:
        raise ProviderMisconfigured("the user's identity provider was changed since the link was given")
    ours = urlsplit(request.redirect_uri)  # the sign-in must come back to the host that the consent's cookies are of
    host = urlsplit(issuer.login_authorization_url).netloc
    return LoginTarget(issuer.tenant, issuer.id, host, f"{ours.scheme}://{ours.netloc}")


def return_location(request: ConsentRequest, **answer: str) -> str:
    """The app's URL with our answer, and with the state that the app gave us."""
    if request.custom_state:
        answer["custom_state"] = request.custom_state
    joint = "&" if urlsplit(request.return_url).query else "?"
    return request.return_url + joint + urlencode(answer)


def error_location(records: Records, request: ConsentRequest, error: IdentityError) -> str:
    """Where to send the browser of a consent that failed; empty for our own page.

    Only the app that is still registered is told, and only whether it was the user's wish.
    """
    if request.binding is not Binding.APP:
        return ""
    workload = records.find_workload_id(request.tenant, request.workload_id)
    if workload is None or workload.disabled or request.return_url not in workload.return_urls:
        return ""
    return return_location(request, error="access_denied" if isinstance(error, ConsentDenied) else "server_error")


def return_host(request: ConsentRequest) -> str:
    """The host of the app that the browser goes to at the end, or the scheme of an app without one; empty for our own page."""
    parts = urlsplit(request.return_url)
    return parts.netloc if parts.scheme in ("https", "http", "") else f"{parts.scheme}:"
