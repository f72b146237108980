"""The pages in the browser that people have: what only a browser decides (policies, cookies, keys) is tried in one."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import Route

from mcp_identity.cli.connect import private_page
from mcp_identity.domain.consent import ConsentState
from mcp_identity.web.consent import consent_app
from mcp_identity.web.peer import is_same_user
from mcp_identity.web.serving import claim, serving
from tests.fakes.chromium import Browser, chromium, require_chromium

if TYPE_CHECKING:
    from tests.web.conftest import FakeClock, FakeDesk, FakeEntropy

SESSION = "0123456789abcdefghijklmnopqrstuvwxyzABCDE-_"
TAB, ENTER, SPACE = "\ue004", "\ue007", " "
CONTRAST = """(() => {
  const parse = colour => colour.match(/[\\d.]+/g).map(Number);
  const linear = c => c <= .04045 ? c / 12.92 : ((c + .055) / 1.055) ** 2.4;
  const luminance = rgb => [.2126, .7152, .0722].reduce((sum, weight, i) => sum + weight * linear(rgb[i] / 255), 0);
  const behind = element => {
    const colour = parse(getComputedStyle(element).backgroundColor);
    return colour[3] === 0 ? behind(element.parentElement) : colour;
  };
  const ratio = (a, b) => (Math.max(a, b) + .05) / (Math.min(a, b) + .05);
  const hasText = element => [...element.childNodes].some(node => node.nodeType === 3 && node.data.trim());
  return Math.min(...[...document.body.querySelectorAll("*")].filter(hasText)
    .map(element => ratio(luminance(parse(getComputedStyle(element).color)), luminance(behind(element)))));
})()"""
"""The lowest contrast ratio of any text on the page against what is behind it (WCAG 2.2, 1.4.3)."""


@dataclass(slots=True)
class Vendor:
    """An authorization server with a sign-in page on another origin, which answers by a link back.

    Attributes:
        origin: Where it is.
        callback: Where it sends the browser back to.
        seen: What the browser said of itself when it came.
    """

    origin: str = ""
    callback: str = ""
    seen: list[dict[str, str]] = field(default_factory=list[dict[str, str]])

    def app(self) -> Starlette:
        return Starlette(routes=[Route("/authorize", self.authorize), Route("/login", self.login)])

    async def authorize(self, request: Request) -> Response:
        self.seen.append(dict(request.headers))
        return RedirectResponse(self.origin.replace("127.0.0.1", "localhost") + "/login", 302)

    async def login(self, _request: Request) -> Response:
        return HTMLResponse(
            f"<title>Vendor</title><h1 id='vendor'>Sign in</h1><a href='{self.callback}?code=c&state=s'>Allow</a>"
        )


@dataclass(frozen=True, slots=True)
class Scene:
    """A browser, our pages, and a vendor."""

    browser: Browser
    vendor: Vendor
    origin: str

    @property
    def link(self) -> str:
        return f"{self.origin}/consent/{SESSION}"


@pytest.fixture
async def scene(
    desk: FakeDesk,
    clock: FakeClock,
    entropy: FakeEntropy,
    tmp_path: Path,
) -> AsyncGenerator[Scene]:
    require_chromium()
    ours, theirs = claim(0), claim(0)
    assert ours is not None
    assert theirs is not None
    port, vendor_port = ours[0].getsockname()[1], theirs[0].getsockname()[1]
    hosts = frozenset({f"127.0.0.1:{port}", f"localhost:{port}"})
    app = consent_app(desk, allowed_hosts=hosts, clock=clock, entropy=entropy, check_peer=is_same_user)
    origin = f"http://127.0.0.1:{port}"
    vendor = Vendor(f"http://127.0.0.1:{vendor_port}", f"{origin}/oauth2/callback/p1")
    desk.view = replace(desk.view, provider_host=f"127.0.0.1:{vendor_port}")
    desk.authorization_url = f"{vendor.origin}/authorize?state=s"
    async with chromium(tmp_path) as browser, serving(app, ours, check_peer=is_same_user), serving(vendor.app(), theirs):
        yield Scene(browser, vendor, origin)


async def test_a_consent_from_link_to_connection_with_the_keyboard_alone(scene: Scene, desk: FakeDesk) -> None:
    desk.view = replace(desk.view, account_known=True)
    browser = scene.browser
    await browser.open(scene.link)
    assert not await browser.complaints()  # the policy allows all that the page needs
    await browser.press(TAB, SPACE, TAB, ENTER)  # the box, then the button
    assert await browser.text("#vendor") == "Sign in"
    assert (await browser.url()).startswith("http://localhost:")
    assert desk.begun == [(SESSION, True)]
    assert not {"referer", "origin", "cookie"} & scene.vendor.seen[0].keys()

    await browser.press(TAB, ENTER)
    assert await browser.text("main.good h1") == "GitHub is connected"
    assert await browser.url() == scene.link
    assert desk.callbacks == [("p1", [("code", "c"), ("state", "s")], {SESSION[:16]: "browser-secret"})]
    assert await browser.run("document.cookie") == ""


async def test_a_consent_begins_from_the_private_page_of_the_command_line(scene: Scene, desk: FakeDesk) -> None:
    with private_page(scene.link) as page:
        await scene.browser.open(page)
        await scene.browser.find("form")
        assert await scene.browser.url() == scene.link
    await scene.browser.press(TAB, ENTER)
    assert await scene.browser.text("#vendor") == "Sign in"
    assert desk.begun == [(SESSION, False)]


async def test_the_second_press_after_going_back_works_too(scene: Scene, desk: FakeDesk) -> None:
    browser = scene.browser
    for _ in range(2):
        await browser.open(scene.link)
        await browser.press(TAB, ENTER)
        assert await browser.text("#vendor") == "Sign in"
    assert len(desk.begun) == 2


async def test_a_vendor_that_sends_the_browser_straight_back_is_not_blocked(scene: Scene, desk: FakeDesk) -> None:
    desk.authorization_url = f"{scene.vendor.callback}?code=c&state=s"  # the last step of a chain of redirects
    await scene.browser.open(scene.link)
    await scene.browser.press(TAB, ENTER)
    assert await scene.browser.text("main.good h1") == "GitHub is connected"


async def test_another_site_can_neither_frame_the_page_nor_press_its_button(scene: Scene, desk: FakeDesk) -> None:
    page = (
        f"<h1>Elsewhere</h1><iframe src='{scene.link}'></iframe>"
        f"<form method='post' action='{scene.link}'><input name='form_token' value='x'><button>Win</button></form>"
    )

    async def elsewhere(_request: Request) -> Response:
        return HTMLResponse(page)

    evil = Starlette(routes=[Route("/", elsewhere)])
    sockets = claim(0)
    assert sockets is not None
    async with serving(evil, sockets):
        await scene.browser.open(f"http://127.0.0.1:{sockets[0].getsockname()[1]}/")
        assert any("403" in complaint or "frame-ancestors" in complaint for complaint in await scene.browser.complaints())
        button = await scene.browser.find("button")
        await scene.browser.http.post(f"/session/{scene.browser.session}/element/{button}/click", json={})
        assert await scene.browser.text("main.bad h1") == "This did not work"
    assert not desk.begun


@pytest.mark.parametrize("state", [ConsentState.PENDING, ConsentState.COMPLETED, ConsentState.FAILED])
async def test_every_text_has_enough_contrast_and_fits_a_phone(scene: Scene, desk: FakeDesk, state: ConsentState) -> None:
    long = "https://www.googleapis.com/auth/" + "very.long.scope." * 12
    desk.view = replace(desk.view, state=state, scopes=(long, "repo"), workload="w" * 120, error_code="upstream_rejected")
    browser = scene.browser
    for scheme in ("light", "dark"):
        await browser.emulate(scheme=scheme, width=320)
        await browser.open(scene.link)
        assert await browser.run("document.documentElement.scrollWidth <= 320")
        worst = await browser.run(CONTRAST)
        assert worst >= 4.5, (scheme, worst)
