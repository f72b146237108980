"""What do the pages of a server with many users do with a browser: which cookies, which redirects, which refusals?"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import TYPE_CHECKING

import httpx2
import pytest
from starlette.applications import Starlette

from mcp_identity.broker.portal import PortalGrant
from mcp_identity.domain.consent import ConsentState
from mcp_identity.domain.credentials import Secret
from mcp_identity.domain.errors import ConsentMismatch, ConsentNotFound, IdentityError, RateLimited
from mcp_identity.domain.identity import User, UserKind
from mcp_identity.domain.login import BrowserSession, LoginBegun, LoginDone, LoginPurpose, LoginTarget
from mcp_identity.web.application import own_origins, web_routes
from mcp_identity.web.browser_session import Cookies
from mcp_identity.web.security import content_policy
from tests.web.conftest import NOW, Page

if TYPE_CHECKING:
    from tests.web.conftest import FakeClock, FakeDesk, FakeEntropy

SESSION = "0123456789abcdefghijklmnopqrstuvwxyzABCDE-_"
PAGE, CALLBACK, LOGIN_CALLBACK = f"/consent/{SESSION}", "/oauth2/callback/p1", "/login/callback/issuer-1"
ORIGIN, LOCAL = "https://identity.example.com", "http://127.0.0.1:8000"


def session_of(subject: str) -> BrowserSession:
    user = User("https://login.example.com", subject, UserKind.OIDC, subject.title())
    return BrowserSession("acme", "issuer-1", user, NOW, NOW + timedelta(hours=8))


@dataclass
class FakeSignIns:
    """A desk for sign-ins: a cookie holds the subject in plain.

    Attributes:
        person: Who signs in.
        error: Raised by both steps, if set.
        purpose: What the sign-in was for.
        started: What the button was pressed with.
        finished: What callbacks brought.
    """

    person: str = "ada"
    error: IdentityError | None = None
    purpose: LoginPurpose = LoginPurpose.CONSENT
    started: list[tuple[LoginTarget, LoginPurpose, str, bool]] = field(
        default_factory=list[tuple[LoginTarget, LoginPurpose, str, bool]]
    )
    finished: list[tuple[str, list[tuple[str, str]], dict[str, str]]] = field(
        default_factory=list[tuple[str, list[tuple[str, str]], dict[str, str]]]
    )

    async def start(
        self, target: LoginTarget, purpose: LoginPurpose, consent_id: str = "", *, another_user: bool = False
    ) -> LoginBegun:
        if self.error:
            raise self.error
        self.started.append((target, purpose, consent_id, another_user))
        return LoginBegun("https://login.example.com/authorize?state=s", "name-1", Secret("login-secret"))

    async def finish(
        self, issuer_id: str, parameters: Sequence[tuple[str, str]], browser_secrets: Mapping[str, str]
    ) -> LoginDone:
        self.finished.append((issuer_id, list(parameters), dict(browser_secrets)))
        if self.error:
            raise self.error
        consent_id = SESSION if self.purpose is LoginPurpose.CONSENT else ""
        session = session_of(self.person)
        return LoginDone(session, self.seal(session), self.purpose, consent_id, "name-1")

    def seal(self, session: BrowserSession) -> Secret:
        return Secret(f"sealed-{session.user.subject}")

    def open(self, cookie: str) -> BrowserSession | None:
        kind, _, subject = cookie.partition("-")
        return session_of(subject) if kind == "sealed" else None

    async def current(self, cookie: str) -> BrowserSession | None:
        return self.open(cookie)

    async def targets(self) -> tuple[tuple[str, LoginTarget], ...]:
        return ()


class NoGrants:
    """The portal's desk, with nothing on it."""

    async def list(self, tenant: str, user: User) -> tuple[PortalGrant, ...]:
        del tenant, user
        return ()

    async def revoke(self, tenant: str, user: User, grant_id: str) -> None:
        del tenant, user, grant_id


@pytest.fixture
def sign_ins() -> FakeSignIns:
    return FakeSignIns()


@asynccontextmanager
async def at(
    origin: str, desk: FakeDesk, sign_ins: FakeSignIns, clock: FakeClock, entropy: FakeEntropy
) -> AsyncGenerator[httpx2.AsyncClient]:
    """A browser before the pages of a server that is at `origin`."""
    hosts = frozenset({origin.partition("://")[2]})
    routes = web_routes(
        desk, sign_ins, NoGrants(), allowed_hosts=hosts, origins=own_origins(origin), clock=clock, entropy=entropy
    )
    transport = httpx2.ASGITransport(Starlette(routes=routes))
    async with httpx2.AsyncClient(transport=transport, base_url=origin) as client:
        yield client


@pytest.fixture
async def browser(
    desk: FakeDesk, sign_ins: FakeSignIns, clock: FakeClock, entropy: FakeEntropy
) -> AsyncGenerator[httpx2.AsyncClient]:
    desk.initiator = "ada"
    async with at(ORIGIN, desk, sign_ins, clock, entropy) as client:
        yield client


async def press(browser: httpx2.AsyncClient, step: str = "") -> httpx2.Response:
    token = Page((await browser.get(PAGE)).text).form_token
    return await browser.post(PAGE, data={"form_token": token, "step": step}, headers={"origin": ORIGIN})


# Signing in


@pytest.mark.parametrize(("step", "another"), [("sign_in", False), ("another_user", True)])
async def test_the_button_marks_the_browser_and_sends_it_to_the_identity_provider(
    browser: httpx2.AsyncClient, sign_ins: FakeSignIns, step: str, another: bool
) -> None:
    answer = await press(browser, step)
    assert (answer.status_code, answer.headers["location"]) == (303, "https://login.example.com/authorize?state=s")
    assert [each[1:] for each in sign_ins.started] == [(LoginPurpose.CONSENT, SESSION, another)]
    cookies = answer.headers.get_list("set-cookie")
    assert cookies[0].startswith("__Host-mid_login_name-1=login-secret; ")
    assert {"HttpOnly", "Max-Age=600", "Path=/", "SameSite=lax", "Secure"} <= set(cookies[0].split("; "))
    assert [each.startswith('__Host-mid_session=""') for each in cookies[1:]] == [True] * another


async def test_the_way_back_keeps_the_session_and_takes_its_mark_back(
    browser: httpx2.AsyncClient, sign_ins: FakeSignIns
) -> None:
    headers = {"cookie": "__Host-mid_login_name-1=one; __Host-mid_login_name-2=two; mid_login_name-3=three; other=four"}
    answer = await browser.get(f"{LOGIN_CALLBACK}?code=c&state=s&state=again&empty=", headers=headers)
    assert (answer.status_code, answer.headers["location"], answer.text) == (303, PAGE, "")
    pairs = [("code", "c"), ("state", "s"), ("state", "again"), ("empty", "")]
    assert sign_ins.finished == [("issuer-1", pairs, {"name-1": "one", "name-2": "two"})]
    cleared, kept = answer.headers.get_list("set-cookie")
    assert cleared.startswith('__Host-mid_login_name-1=""; ')
    assert kept.startswith("__Host-mid_session=sealed-ada; ")
    assert {"HttpOnly", "Max-Age=28800", "Path=/", "SameSite=lax", "Secure"} <= set(kept.split("; "))


async def test_a_sign_in_for_the_portal_leads_there(browser: httpx2.AsyncClient, sign_ins: FakeSignIns) -> None:
    sign_ins.purpose = LoginPurpose.PORTAL
    assert (await browser.get(f"{LOGIN_CALLBACK}?code=c&state=s")).headers["location"] == "/portal"


@pytest.mark.parametrize(
    ("error", "status"), [(ConsentMismatch("x"), 403), (ConsentNotFound("x"), 410), (RateLimited("x"), 429)]
)
async def test_a_sign_in_that_failed_says_little_and_sets_nothing(
    browser: httpx2.AsyncClient, sign_ins: FakeSignIns, error: IdentityError, status: int
) -> None:
    sign_ins.error = error
    answer = await browser.get(f"{LOGIN_CALLBACK}?code=canary&state=canary")
    assert answer.status_code == status
    assert "canary" not in answer.text
    assert "set-cookie" not in answer.headers
    if status == 429:
        assert (await press(browser, "sign_in")).status_code == 429


@pytest.mark.parametrize("step", ["sign_in", "another_user", ""])
async def test_no_button_works_without_its_pages_own_token(
    browser: httpx2.AsyncClient, desk: FakeDesk, sign_ins: FakeSignIns, step: str
) -> None:
    """covers: A19b."""
    for token in ("", "A" * 43):
        assert (await browser.post(PAGE, data={"form_token": token, "step": step})).status_code == 403
    token = Page((await browser.get(PAGE)).text).form_token
    browser.cookies.clear()
    assert (await browser.post(PAGE, data={"form_token": token, "step": step})).status_code == 403
    for origin in ("https://evil.example", "null", "http://identity.example.com", f"{ORIGIN}:8443"):
        token = Page((await browser.get(PAGE)).text).form_token
        data = {"form_token": token, "step": step}
        assert (await browser.post(PAGE, data=data, headers={"origin": origin})).status_code == 403
    assert (desk.begun, sign_ins.started) == ([], [])


async def test_a_button_that_is_not_there_is_refused(browser: httpx2.AsyncClient, sign_ins: FakeSignIns) -> None:
    assert (await press(browser, "approve")).status_code == 400
    assert not sign_ins.started


async def test_where_nobody_has_to_sign_in_nobody_can(
    browser: httpx2.AsyncClient, desk: FakeDesk, sign_ins: FakeSignIns
) -> None:
    desk.initiator = ""
    assert (await press(browser, "sign_in")).status_code == 400
    assert not sign_ins.started


# What stands on the pages


@pytest.mark.parametrize("person", ["", "bob"])
async def test_who_has_not_proved_to_be_the_initiator_reads_nothing_of_the_request(
    browser: httpx2.AsyncClient, person: str
) -> None:
    """covers: A01b."""
    if person:
        browser.cookies.set("__Host-mid_session", f"sealed-{person}", domain="identity.example.com")
    answer = await browser.get(PAGE)
    page = Page(answer.text)
    assert answer.status_code == (403 if person else 200)
    assert not [
        word
        for word in ("claude-desktop", "ada", "Bob", "GitHub", "github", "repo", "login.example.com")
        if word in answer.text
    ]
    assert len(page.find("h1")) == len(page.find("form")) == len(page.find("button")) == 1
    assert page.find("html")[0].get("lang") == "en"
    assert not page.find("script")


@pytest.mark.parametrize("state", list(ConsentState))
async def test_a_stranger_does_not_even_learn_how_it_ended(
    browser: httpx2.AsyncClient, desk: FakeDesk, state: ConsentState
) -> None:
    first = (await browser.get(PAGE)).text
    token = Page(first).form_token
    desk.view = replace(desk.view, state=state, error_code="upstream_rejected")
    again = (await browser.get(PAGE)).text
    assert again.replace(Page(again).form_token, token) == first


async def test_the_initiator_reads_who_is_signed_in_and_can_say_that_it_is_not_them(browser: httpx2.AsyncClient) -> None:
    browser.cookies.set("__Host-mid_session", "sealed-ada", domain="identity.example.com")
    page = Page((await browser.get(PAGE)).text)
    assert "signed in here as Ada" in page.words
    assert "claude-desktop" in page.words
    steps = [element.get("value") for element in page.find("input") if element.get("name") == "step"]
    assert steps == ["another_user"]
    assert (await press(browser)).headers["location"].startswith("https://github.com/")


async def test_the_policy_of_a_page_allows_where_its_forms_lead(browser: httpx2.AsyncClient, desk: FakeDesk) -> None:
    answer = await browser.get(PAGE)
    assert "form-action 'self' https:;" in answer.headers["content-security-policy"]
    assert answer.headers["referrer-policy"] == "same-origin"
    desk.initiator = ""
    desk.view = replace(desk.view, return_host="127.0.0.1:9000")
    policy = (await browser.get(PAGE)).headers["content-security-policy"]
    assert "form-action 'self' https: http://127.0.0.1:* http://localhost:*;" in policy


@pytest.mark.parametrize(
    ("hosts", "expected"),
    [
        ((), "form-action 'self';"),
        (("",), "form-action 'self';"),
        (("github.com", ""), "form-action 'self' https:;"),
        (("github.com", "myapp:"), "form-action 'self' https: myapp:;"),
        (("github.com", "x'; script-src *:"), "form-action 'self' https:;"),
        (("github.com", "MyApp:"), "form-action 'self' https:;"),
    ],
)
def test_a_policy_names_no_more_than_schemes(hosts: tuple[str, ...], expected: str) -> None:
    assert expected in content_policy(*hosts)


# The vendor's callback


async def test_a_browser_that_was_not_asked_is_told_nothing(browser: httpx2.AsyncClient, desk: FakeDesk) -> None:
    """covers: A01."""
    desk.refuses = True
    answer = await browser.get(f"{CALLBACK}?code=canary&state=canary")
    assert answer.status_code == 403
    assert not [word for word in ("claude-desktop", "ada", "GitHub", "canary", SESSION) if word in answer.text]
    assert "location" not in answer.headers
    assert "set-cookie" not in answer.headers


@pytest.mark.parametrize(
    "url",
    ["https://app.example.com/back;x=1?a=%41%20b&session_id=urn%3Aietf~", "myapp://done?session_id=x", "http://127.0.0.1:9/x"],
)
async def test_the_app_gets_its_url_letter_by_letter(browser: httpx2.AsyncClient, desk: FakeDesk, url: str) -> None:
    """covers: A21."""
    desk.initiator, desk.redirect_url = "", url
    answer = await browser.get(f"{CALLBACK}?code=c&state=s")
    assert (answer.status_code, answer.headers["location"], answer.text) == (303, url, "")
    assert answer.headers["referrer-policy"] == "no-referrer"


async def test_the_callback_knows_the_marks_of_this_host_and_who_is_signed_in(
    browser: httpx2.AsyncClient, desk: FakeDesk
) -> None:
    cookies = f"__Host-mid_consent_{SESSION[:16]}=one; mid_consent_planted=two; __Host-mid_session=sealed-ada"
    assert (await browser.get(f"{CALLBACK}?code=c&state=s", headers={"cookie": cookies})).status_code == 303
    assert desk.callbacks == [("p1", [("code", "c"), ("state", "s")], {SESSION[:16]: "one"})]


# The door


@pytest.mark.parametrize("method", ["HEAD", "PUT", "DELETE", "OPTIONS", "PATCH"])
@pytest.mark.parametrize("path", [PAGE, CALLBACK, LOGIN_CALLBACK, "/consent/style.css"])
async def test_other_methods_are_405(browser: httpx2.AsyncClient, sign_ins: FakeSignIns, method: str, path: str) -> None:
    assert (await browser.request(method, path)).status_code == 405
    assert not sign_ins.finished


@pytest.mark.parametrize("host", ["evil.example", "identity.example.com.evil.example", "identity.example.com:8443", ""])
async def test_another_host_is_not_ours(browser: httpx2.AsyncClient, host: str) -> None:
    """covers: A18."""
    for path in (PAGE, CALLBACK, LOGIN_CALLBACK):
        assert (await browser.get(path, headers={"host": host})).status_code == 421


@pytest.mark.parametrize(
    "path", ["/consent/short", f"{PAGE}/", "/oauth2/callback/", "/login/callback/a/b", f"/login/callback/{'i' * 200}"]
)
async def test_what_is_unknown_behind_the_door_is_404(browser: httpx2.AsyncClient, path: str) -> None:
    answer = await browser.get(path)
    assert answer.status_code == 404
    assert answer.headers["x-frame-options"] == "DENY"


async def test_over_http_on_loopback_cookies_have_narrow_paths(
    desk: FakeDesk, sign_ins: FakeSignIns, clock: FakeClock, entropy: FakeEntropy
) -> None:
    desk.initiator = "ada"
    async with at(LOCAL, desk, sign_ins, clock, entropy) as client:
        page = await client.get(PAGE)
        token = Page(page.text).form_token
        (form,) = page.headers.get_list("set-cookie")
        data = {"form_token": token, "step": "sign_in"}
        (login,) = (await client.post(PAGE, data=data, headers={"origin": LOCAL})).headers.get_list("set-cookie")
        back = await client.get(f"{LOGIN_CALLBACK}?code=c&state=s")
        session = back.headers.get_list("set-cookie")[1]
        data = {"form_token": token}
        (mark,) = (await client.post(PAGE, data=data, headers={"origin": "http://localhost:8000"})).headers.get_list(
            "set-cookie"
        )
    for cookie, name, path in (
        (form, "mid_form", PAGE),
        (login, "mid_login_name-1", "/login/callback/"),
        (session, "mid_session", "/"),
        (mark, f"mid_consent_{SESSION[:16]}", "/oauth2/callback/"),
    ):
        attributes = cookie.split("; ")
        assert attributes[0].startswith(f"{name}=")
        assert {"HttpOnly", f"Path={path}"} <= set(attributes)
        assert "Secure" not in attributes


def test_a_planted_cookie_of_a_neighbour_is_not_read() -> None:
    """A host beside ours can set cookies for all of the domain, but none with the prefix."""
    cookies = Cookies(secure=True)
    planted = {"mid_form": "x", "mid_session": "x", "mid_consent_a": "x", "mid_login_a": "x"}
    assert (cookies.form(planted), cookies.session(planted), cookies.marks(planted), cookies.logins(planted)) == (
        "",
        "",
        {},
        {},
    )


@pytest.mark.parametrize(
    ("url", "origins"),
    [
        ("https://Identity.example.com", {"https://identity.example.com"}),
        ("http://127.0.0.1:8000", {"http://127.0.0.1:8000", "http://localhost:8000"}),
        ("http://localhost:8000", {"http://127.0.0.1:8000", "http://localhost:8000"}),
    ],
)
def test_our_origins_are_the_configured_one(url: str, origins: set[str]) -> None:
    assert own_origins(url) == origins
