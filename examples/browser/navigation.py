"""What does a browser request when a person opens an address, presses a button, or goes through a consent?"""

from __future__ import annotations

import http.cookiejar
from collections import Counter
from dataclasses import replace
from types import TracebackType
from typing import Literal, Self
from urllib.parse import urljoin, urlsplit

import httpx2

from .cookies import CookieJar
from .origins import posting_origin, referrer, relation
from .pages import Button, Form, Hop, Page

Decision = Literal["allow", "deny"]

MAX_REDIRECTS = 20
MAX_STEPS = 12
BECOMES_GET = frozenset({301, 302, 303})
WORDS: dict[Decision, tuple[str, ...]] = {
    "allow": ("allow", "authorize", "authorise", "approve", "accept", "agree"),
    "deny": ("deny", "decline", "reject", "refuse", "cancel"),
}
ASIDE = ("sign in as", "sign out")
"""What buttons say that lead a person somewhere else than on."""
NAVIGATION_HEADERS = {
    "Accept": "text/html,application/xhtml+xml;q=0.9,*/*;q=0.8",
    "Accept-Language": "en",
    "Sec-Fetch-Dest": "document",
    "Sec-Fetch-Mode": "navigate",
    "Sec-Fetch-User": "?1",
    "User-Agent": "Mozilla/5.0 (headless; a person in a test)",
}


class Browser:
    """A person's browser with a profile of its own. It blocks: call it from a thread where an event loop runs.

    Args:
        stop_at: An address prefix at which a navigation ends without a request; the page then has its URL and the status 0.
        timeout_seconds: How long one answer may take.
    """

    def __init__(self, *, stop_at: str | None = None, timeout_seconds: float = 15) -> None:
        self.cookies = CookieJar()
        self.stop_at = stop_at
        keep_none = http.cookiejar.CookieJar(http.cookiejar.DefaultCookiePolicy(allowed_domains=[]))
        self._client = httpx2.Client(cookies=keep_none, follow_redirects=False, trust_env=False, timeout=timeout_seconds)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def get(self, url: str, *, opened_from: Page | None = None) -> Page:
        """Open an address: typed by the person, or a link on the page `opened_from`."""
        return self._navigate("GET", url, "", opened_from)

    def submit(self, form: Form, *, page: Page, button: Button | str | None = None, **fields: str) -> Page:
        """Fill in a form of `page` and press a button.

        Args:
            form: The form, one of `page.forms`.
            page: The page that shows it.
            button: The button or the first word on it; None presses the first, as the Enter key does.
            fields: What the person types, by field name.

        Raises:
            LookupError: The form has no such button or no such visible field.
        """
        if unknown := fields.keys() - set(form.visible):
            raise LookupError(f"The form has no field {', '.join(sorted(unknown))}; it has {', '.join(form.visible)}")
        pressed = form.find_button(button.casefold()) if isinstance(button, str) else button or next(iter(form.buttons), None)
        if pressed is None:
            raise LookupError(f"The form has no button {button!r}; it has {[each.label for each in form.buttons]}")
        return self._navigate(*form.request(pressed, fields), page)

    def consent(
        self,
        url: str,
        *,
        username: str = "alice",
        password: str = "wonderland",  # noqa: S107 - the demonstration server's own, public password
        decision: Decision = "allow",
    ) -> Page:
        """Open a consent link and do what it asks until there is nothing left to do; answer the last page.

        The person presses the one button that leads on from the page that the link opens, signs in wherever a password is
        asked for, and presses Allow or Deny wherever that is the question. Wrong passwords are not tried twice.
        """
        page = self.get(url)
        pressed = Counter[tuple[str, str]]()
        for _ in range(MAX_STEPS):
            step = _next_step(page, url, decision)
            if step is None:
                return page
            form, button, repeats = step
            pressed[page.url, button.label] += 1
            if pressed[page.url, button.label] > repeats:
                return page
            typed = {form.username_field: username, form.password_field: password} if form.password_field else {}
            page = self.submit(form, page=page, button=button, **typed)
        raise RuntimeError(f"The pages never end; the last one is {page.url}")

    def _navigate(self, method: str, url: str, body: str, page: Page | None) -> Page:
        """Go to an address, and on from pages that do nothing but send a form by script."""
        here = self._follow(method, url, body, page)
        while form := next((form for form in here.forms if form.sends_itself), None):
            before, here = here, self._follow(*form.request(form.buttons[0], {}), here)
            here = replace(here, hops=before.hops + here.hops)
            if len(here.hops) > MAX_REDIRECTS:
                raise RuntimeError(f"Too many pages that send themselves; the last one is {here.url}")
        return here

    def _follow(self, method: str, url: str, body: str, page: Page | None) -> Page:
        """Request an address and follow its redirects, each with the headers that it would have in a browser."""
        policy, came_from = page.referrer_policy if page else "", page.url if page else None
        urls: list[str] = []
        hops: list[Hop] = []
        while True:
            if urlsplit(url).scheme not in {"http", "https"} or (self.stop_at is not None and url.startswith(self.stop_at)):
                return Page(url, hops=tuple(hops))
            urls.append(url)
            headers = self._headers(method, urls, came_from, policy)
            response = self._client.request(method, url, headers=headers, content=body or None)
            self.cookies.store(response)
            hops.append(Hop(method, url, response.status_code, headers))
            if not response.has_redirect_location:
                return Page.read(url, response, tuple(hops), response.headers.get("referrer-policy", ""))
            if len(hops) > MAX_REDIRECTS:
                raise RuntimeError(f"Too many redirects; the last one is to {url}")
            policy = response.headers.get("referrer-policy", policy)
            url = urljoin(url, response.headers["location"])
            if response.status_code in BECOMES_GET:
                method, body = "GET", ""

    def _headers(self, method: str, urls: list[str], came_from: str | None, policy: str) -> dict[str, str]:
        site = relation(came_from, urls)
        optional = {
            "Cookie": self.cookies.header(urls[-1], cross_site=site == "cross-site", method=method),
            "Referer": referrer(policy, came_from, urls[-1]) if came_from else "",
            "Origin": posting_origin(policy, came_from, urls) if method == "POST" else "",
            "Content-Type": "application/x-www-form-urlencoded" if method == "POST" else "",
        }
        return {**NAVIGATION_HEADERS, "Sec-Fetch-Site": site, **{name: value for name, value in optional.items() if value}}


def _next_step(page: Page, link: str, decision: Decision) -> tuple[Form, Button, int] | None:
    """Find what a person going through a consent would press next, and how often at most on this page."""
    buttons = [(form, button) for form in page.forms for button in form.buttons]
    for form, button in buttons:
        if form.password_field:
            return form, button, 1
    for form, button in buttons:
        if button.says(*WORDS[decision]):
            return form, button, 1
    onward = [(form, button) for form, button in buttons if not button.says(*ASIDE)]
    is_link_page = urlsplit(page.url)[:3] == urlsplit(link)[:3]
    if is_link_page and len(onward) == 1:
        return *onward[0], 2  # once more after a sign-in that leads back here
    return None
