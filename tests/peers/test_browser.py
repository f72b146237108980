"""Does the person's browser behave as a real one where it matters for a consent: cookies, headers, forms?"""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from threading import Thread
from typing import Any
from urllib.parse import parse_qsl
from wsgiref.simple_server import WSGIRequestHandler, make_server

import pytest

from tests.fakes.browser import Browser
from tests.peers.requests import Pkce, authorization_url, exchange
from tests.peers.servers import DjangoOAuthServer


@dataclass(frozen=True, slots=True)
class Request:
    """What a page was asked with."""

    method: str
    path: str
    headers: dict[str, str]
    form: dict[str, str]


@dataclass(frozen=True, slots=True)
class Answer:
    """What a page says."""

    html: str = ""
    status: str = "200 OK"
    headers: list[tuple[str, str]] = field(default_factory=list[tuple[str, str]])

    @classmethod
    def redirect(cls, url: str, status: str = "303 See Other", *headers: tuple[str, str]) -> Answer:
        return cls(status=status, headers=[("Location", url), *headers])


@dataclass(slots=True)
class Site:
    """A web site whose pages a test writes."""

    url: str = ""
    pages: dict[str, Callable[[Request], Answer]] = field(default_factory=dict[str, Callable[[Request], Answer]])
    seen: list[Request] = field(default_factory=list[Request])

    def says(self, path: str, html: str, *headers: tuple[str, str]) -> None:
        self.pages[path] = lambda _: Answer(html, headers=list(headers))

    def sends_to(self, path: str, url: str, *headers: tuple[str, str], status: str = "303 See Other") -> None:
        self.pages[path] = lambda _: Answer.redirect(url, status, *headers)


@contextmanager
def running_site(host: str = "127.0.0.1") -> Generator[Site]:
    """Serve a site on a free port."""
    site = Site()

    def application(environ: dict[str, Any], start_response: Callable[[str, list[tuple[str, str]]], object]) -> list[bytes]:
        headers = {name[5:].replace("_", "-").lower(): value for name, value in environ.items() if name.startswith("HTTP_")}
        body = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0)).decode()
        request = Request(environ["REQUEST_METHOD"], environ["PATH_INFO"], headers, dict(parse_qsl(body)))
        site.seen.append(request)
        answer = site.pages.get(request.path, lambda _: Answer("", "404 Not Found"))(request)
        start_response(answer.status, [("Content-Type", "text/html; charset=utf-8"), *answer.headers])
        return [answer.html.encode()]

    with make_server("127.0.0.1", 0, application, handler_class=Quiet) as server:
        site.url = f"http://{host}:{server.server_port}"
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield site
        finally:
            server.shutdown()
            thread.join()


class Quiet(WSGIRequestHandler):
    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class names it so
        pass


@pytest.fixture
def site() -> Generator[Site]:
    with running_site() as one:
        yield one


@pytest.fixture
def foreign_site() -> Generator[Site]:
    """Another site in a browser's eyes: same machine, other host name."""
    with running_site("localhost") as one:
        yield one


@pytest.fixture
def browser() -> Generator[Browser]:
    with Browser() as one:
        yield one


FORM = '<form method="post" action="/post"><input type="hidden" name="csrf" value="t"><button>Go on</button></form>'


# Cookies


def test_a_cookie_is_sent_below_its_path_only(site: Site, browser: Browser) -> None:
    site.says("/start", "", ("Set-Cookie", "bound=1; Path=/oauth2/callback/; HttpOnly; SameSite=Lax"))
    browser.get(f"{site.url}/start")
    for path in ("/oauth2/callback/p", "/oauth2/callbacks", "/"):
        browser.get(f"{site.url}{path}")
    assert [request.headers.get("cookie") for request in site.seen[1:]] == ["bound=1", None, None]


def test_a_cookie_without_a_path_belongs_to_the_folder_of_its_page(site: Site, browser: Browser) -> None:
    site.says("/consent/one", "", ("Set-Cookie", "a=1"))
    browser.get(f"{site.url}/consent/one")
    browser.get(f"{site.url}/consent/two")
    browser.get(f"{site.url}/portal")
    assert [request.headers.get("cookie") for request in site.seen[1:]] == ["a=1", None]


def test_all_ports_of_a_host_share_cookies_and_other_hosts_do_not(site: Site, foreign_site: Site, browser: Browser) -> None:
    site.says("/", "", ("Set-Cookie", "a=1"))
    with running_site() as other_port:
        for url in (site.url, other_port.url, foreign_site.url):
            browser.get(f"{url}/")
        assert other_port.seen[0].headers["cookie"] == "a=1"
    assert "cookie" not in foreign_site.seen[0].headers


def test_an_expired_cookie_is_forgotten(site: Site, browser: Browser) -> None:
    site.says("/in", "", ("Set-Cookie", "a=1; Path=/"), ("Set-Cookie", "b=2; Path=/"))
    site.says("/out", "", ("Set-Cookie", "a=; Path=/; Max-Age=0"))
    site.says("/gone", "", ("Set-Cookie", "b=; Path=/; Expires=Thu, 01 Jan 1970 00:00:00 GMT"))
    for path in ("/in", "/out", "/gone"):
        browser.get(f"{site.url}{path}")
    assert [request.headers.get("cookie") for request in site.seen] == [None, "a=1; b=2", "b=2"]
    assert list(browser.cookies) == []


@pytest.mark.parametrize(
    "header",
    [
        "__Host-a=1; Path=/",
        "__Host-a=1; Secure; Path=/x",
        "__Secure-a=1",
        "a=1; SameSite=None",
        "a=1; Domain=example.test",
    ],
)
def test_a_cookie_that_breaks_the_rules_is_not_kept(header: str, site: Site, browser: Browser) -> None:
    site.says("/", "", ("Set-Cookie", header))
    browser.get(f"{site.url}/")
    assert list(browser.cookies) == []


def test_a_host_cookie_is_kept_on_loopback(site: Site, browser: Browser) -> None:
    site.says("/", "", ("Set-Cookie", "__Host-a=1; Secure; Path=/; HttpOnly"))
    browser.get(f"{site.url}/")
    browser.get(f"{site.url}/")
    assert site.seen[1].headers["cookie"] == "__Host-a=1"


def test_a_link_from_another_site_brings_lax_cookies_but_no_strict_ones(
    site: Site, foreign_site: Site, browser: Browser
) -> None:
    site.says("/", FORM, ("Set-Cookie", "lax=1; Path=/"), ("Set-Cookie", "strict=1; Path=/; SameSite=Strict"))
    browser.get(f"{site.url}/")
    foreign = browser.get(f"{foreign_site.url}/")
    page = browser.get(f"{site.url}/", opened_from=foreign)
    assert site.seen[-1].headers["cookie"] == "lax=1"
    assert site.seen[-1].headers["sec-fetch-site"] == "cross-site"
    browser.submit(page.forms[0], page=foreign)
    assert "cookie" not in site.seen[-1].headers


# Headers


def test_a_typed_address_has_no_site_and_stays_so_over_redirects(site: Site, foreign_site: Site, browser: Browser) -> None:
    site.sends_to("/", f"{foreign_site.url}/")
    page = browser.get(f"{site.url}/")
    assert [hop.request_headers["Sec-Fetch-Site"] for hop in page.hops] == ["none", "none"]
    assert "referer" not in foreign_site.seen[0].headers


def test_a_posted_form_says_where_it_came_from(site: Site, browser: Browser) -> None:
    site.says("/", FORM)
    page = browser.get(f"{site.url}/")
    browser.submit(page.forms[0], page=page)
    posted = site.seen[-1]
    assert posted.form == {"csrf": "t"}
    assert posted.headers["origin"] == site.url
    assert posted.headers["referer"] == f"{site.url}/"
    assert posted.headers["sec-fetch-site"] == "same-origin"
    assert posted.headers["sec-fetch-mode"] == "navigate"


def test_a_page_without_referrer_posts_with_a_null_origin(site: Site, browser: Browser) -> None:
    site.says("/", FORM, ("Referrer-Policy", "no-referrer"))
    page = browser.get(f"{site.url}/")
    browser.submit(page.forms[0], page=page)
    assert site.seen[-1].headers["origin"] == "null"
    assert "referer" not in site.seen[-1].headers


def test_a_redirect_after_a_post_is_a_get_that_tells_another_origin_only_the_origin(
    site: Site, foreign_site: Site, browser: Browser
) -> None:
    site.says("/consent/secret", FORM)
    site.sends_to("/post", f"{foreign_site.url}/authorize")
    page = browser.get(f"{site.url}/consent/secret")
    browser.submit(page.forms[0], page=page)
    arrived = foreign_site.seen[0]
    assert (arrived.method, arrived.headers["sec-fetch-site"]) == ("GET", "cross-site")
    assert arrived.headers["referer"] == f"{site.url}/"
    assert "origin" not in arrived.headers


def test_a_temporary_redirect_posts_again_and_a_foreign_one_hides_the_origin(
    site: Site, foreign_site: Site, browser: Browser
) -> None:
    site.says("/", FORM)
    site.sends_to("/post", f"{foreign_site.url}/again", status="307 Temporary Redirect")
    foreign_site.sends_to("/again", f"{site.url}/post2", status="307 Temporary Redirect")
    page = browser.get(f"{site.url}/")
    browser.submit(page.forms[0], page=page)
    assert (foreign_site.seen[0].method, foreign_site.seen[0].headers["origin"]) == ("POST", site.url)
    assert (site.seen[-1].method, site.seen[-1].headers["origin"]) == ("POST", "null")
    assert site.seen[-1].form == {"csrf": "t"}


# Pages


def test_a_person_sees_text_and_controls_but_no_scripts(site: Site, browser: Browser) -> None:
    site.says(
        "/",
        "<title>T &amp; T</title><style>p{}</style><script>x</script><p>Hello <b>yo</b>u</p><a href='/more'>Read on</a>"
        "<form><input name=q value=1><input type=checkbox name=yes checked><input type=checkbox name=no>"
        "<select name=s><option value=a>A<option value=b selected>B</select><input type=submit value='Search it'></form>",
    )
    page = browser.get(f"{site.url}/")
    assert page.title == "T & T"
    assert page.text == "Hello you Read on A B"
    assert page.links == ((f"{site.url}/more", "Read on"),)
    found = browser.submit(page.forms[0], page=page, button="search", q="x y")
    assert found.query == {"q": "x y", "yes": "on", "s": "b"}


def test_what_a_page_does_not_offer_cannot_be_pressed_or_filled(site: Site, browser: Browser) -> None:
    site.says("/", FORM)
    page = browser.get(f"{site.url}/")
    with pytest.raises(LookupError, match="no button 'allow'"):
        browser.submit(page.forms[0], page=page, button="allow")
    with pytest.raises(LookupError, match="no field csrf"):
        browser.submit(page.forms[0], page=page, csrf="forged")


def test_a_form_that_a_script_would_send_is_sent(site: Site, browser: Browser) -> None:
    site.says(
        "/",
        "<form method=post action=/post><input type=hidden name=code value=c><noscript><button>On</button></noscript></form>",
    )
    site.says("/post", "arrived")
    assert browser.get(f"{site.url}/").text == "arrived"
    assert site.seen[-1].form == {"code": "c"}


def test_navigation_ends_at_the_stop_address_and_at_another_apps_scheme(site: Site) -> None:
    site.sends_to("/", f"{site.url}/stop?code=1")
    site.sends_to("/app", "cursor://callback?code=2", status="302 Found")
    with Browser(stop_at=f"{site.url}/stop") as browser:
        assert browser.get(f"{site.url}/").query == {"code": "1"}
        assert browser.get(f"{site.url}/app").url == "cursor://callback?code=2"
    assert [request.path for request in site.seen] == ["/", "/app"]


def test_redirects_without_end_are_an_error(site: Site, browser: Browser) -> None:
    site.sends_to("/", f"{site.url}/")
    with pytest.raises(RuntimeError, match="Too many redirects"):
        browser.get(f"{site.url}/")


# The whole walk


@pytest.mark.parametrize("decision", ["allow", "deny"])
def test_a_consent_leads_from_our_page_over_the_vendors_to_the_last_page(
    decision: str, site: Site, browser: Browser, django_oauth_server: DjangoOAuthServer
) -> None:
    server, pkce = django_oauth_server, Pkce()
    client = server.register(f"{site.url}/oauth2/callback/p")
    authorize = authorization_url(server, client, pkce)

    def callback(request: Request) -> Answer:
        bound = "consent_x=1" in request.headers.get("cookie", "")
        return Answer(f"bound: {bound} <form method=post action=/portal/revoke><button>Disconnect</button></form>")

    site.says("/consent/x", FORM)
    site.sends_to("/post", authorize, ("Set-Cookie", "consent_x=1; Path=/oauth2/callback/; HttpOnly; SameSite=Lax"))
    site.pages["/oauth2/callback/p"] = callback
    page = browser.consent(f"{site.url}/consent/x", decision="allow" if decision == "allow" else "deny")
    assert "bound: True" in page.text
    assert [request.path for request in site.seen] == ["/consent/x", "/post", "/oauth2/callback/p"]
    if decision == "deny":
        assert page.query["error"] == "access_denied"
    else:
        assert exchange(server, client, page.query["code"], pkce.verifier).is_success


def test_a_consent_that_leads_back_to_our_page_after_a_sign_in_goes_on(site: Site, browser: Browser) -> None:
    def consent_page(request: Request) -> Answer:
        return Answer(FORM) if "who=" in request.headers.get("cookie", "") else Answer.redirect("/login")

    site.pages["/consent/x"] = consent_page
    site.says(
        "/login",
        "<form method=post action=/signed-in><input name=email><input type=password name=pw><button>Go</button></form>",
    )
    site.sends_to("/signed-in", "/consent/x", ("Set-Cookie", "who=alice; Path=/"))
    site.says("/post", "done")
    assert browser.consent(f"{site.url}/consent/x").text == "done"
    assert site.seen[2].form == {"email": "alice", "pw": "wonderland"}
