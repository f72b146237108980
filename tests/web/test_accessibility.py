"""Every page, in a real browser, against the rules of axe (WCAG 2.2 A and AA) and at the widths of a phone and a desk."""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator, Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import anyio
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route

from mcp_identity.broker.portal import PortalGrant
from mcp_identity.domain.consent import ConsentState, SignInView
from mcp_identity.domain.credentials import GrantState
from mcp_identity.domain.identity import User, UserKind
from mcp_identity.domain.login import BrowserSession
from mcp_identity.web import pages
from mcp_identity.web.serving import claim, serving
from tests.fakes.chromium import Browser, chromium, require_chromium
from tests.web.conftest import LOGIN, NOW, SESSION, make_view

AXE = Path(__file__).parent / "axe" / "node_modules" / "axe-core" / "axe.min.js"
TEMPLATES = Path(pages.__file__).parent / "templates"
RULES = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]
TOKEN = "A" * 43
LONG = "an-agent-with-a-name-that-is-much-longer-than-anybody-would-choose-and-has-no-space"
ALICE = BrowserSession("acme", "issuer-1", User("https://idp", "1", UserKind.OIDC, "Alice Example"), NOW, NOW)
GRANT = PortalGrant(
    id="1",
    workload="assistant",
    provider="github-work",
    provider_title="GitHub",
    state=GrantState.ACTIVE,
    scopes=("read:user", "repo"),
    since=NOW - timedelta(days=40),
    last_used_at=NOW,
)
GRANTS = (GRANT, replace(GRANT, workload=LONG, state=GrantState.NEEDS_CONSENT, last_used_at=None, scopes=()))
ASKING = replace(
    make_view(),
    workload_verified=True,
    return_host="app.example.com",
    signed_in_as="Alice Example",
    login=LOGIN,
    account_known=True,
    parameters=(("access_type", "offline"),),
    resource="https://api.example.com/v1",
)


def consent(**fields: Any) -> str:
    return pages.consent_page(replace(make_view(), **fields), now=NOW, form_token=TOKEN)


PAGES: dict[str, Callable[[], str]] = {
    "ask": lambda: pages.consent_page(make_view(), now=NOW, form_token=TOKEN),
    "ask-signed-in": lambda: pages.consent_page(ASKING, now=NOW, form_token=TOKEN),
    "ask-long": lambda: consent(workload=LONG, scopes=tuple(f"https://scope.example.com/{LONG}/{n}" for n in range(4))),
    "sign-in": lambda: pages.sign_in_page(SignInView(SESSION, ConsentState.PENDING, LOGIN), form_token=TOKEN),
    "stranger": lambda: pages.sign_in_page(SignInView(SESSION, ConsentState.PENDING, LOGIN, stranger=True), form_token=TOKEN),
    "finishing": lambda: consent(state=ConsentState.EXCHANGING),
    "completed": lambda: consent(state=ConsentState.COMPLETED),
    "denied": lambda: consent(state=ConsentState.DENIED, error_code="consent_denied"),
    "failed": lambda: consent(state=ConsentState.FAILED, error_code="upstream_rejected"),
    "expired": lambda: consent(expires_at=NOW),
    "problem": lambda: pages.problem_page("invalid_request", retry_path="/portal"),
    "portal": lambda: pages.portal_page(ALICE, GRANTS, form_token=TOKEN),
    "portal-empty": lambda: pages.portal_page(ALICE, (), form_token=TOKEN),
    "portal-sign-in": lambda: pages.portal_sign_in_page([LOGIN], form_token=TOKEN, unknown=False),
    "portal-organisation": lambda: pages.portal_sign_in_page([], form_token=TOKEN, unknown=True),
}


def test_every_template_is_among_the_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    used: set[str] = set()
    render = pages._render  # pyright: ignore[reportPrivateUsage]

    def noted(template: str, **values: object) -> str:
        used.add(template)
        return render(template, **values)

    monkeypatch.setattr(pages, "_render", noted)
    for make in PAGES.values():
        make()
    assert used == {path.name for path in TEMPLATES.glob("*.html")} - {"base.html"}


@pytest.fixture(scope="module")
async def browser(tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[tuple[Browser, str]]:
    require_chromium()
    if not AXE.exists():
        why = "axe-core is not installed (make peers), so the pages were not checked with it"
        if os.environ.get("CI"):
            pytest.fail(why)
        pytest.skip(why)

    async def page(request: Request) -> Response:
        make = PAGES.get(request.path_params["name"])
        return HTMLResponse(make()) if make else Response(status_code=404)

    async def style(_request: Request) -> Response:
        return Response(pages.stylesheet(), media_type="text/css")

    app = Starlette(routes=[Route("/consent/style.css", style), Route("/{name}", page)])
    async with chromium(tmp_path_factory.mktemp("profile")) as window:
        sockets = claim(0)
        assert sockets is not None
        async with serving(app, sockets):
            yield window, f"http://127.0.0.1:{sockets[0].getsockname()[1]}"


@pytest.mark.parametrize(("scheme", "width"), [("light", 320), ("dark", 1280)])
@pytest.mark.parametrize("name", PAGES)
async def test_a_page_breaks_no_rule_and_fits_its_screen(
    browser: tuple[Browser, str], name: str, scheme: str, width: int
) -> None:
    window, origin = browser
    await window.emulate(scheme=scheme, width=width)
    await window.open(f"{origin}/{name}")
    await window.run(f"(() => {{ {AXE.read_text('utf-8')} }})()")
    asked = {"runOnly": {"type": "tag", "values": RULES}}
    found = await window.run_later(f"axe.run(document, {asked!r}).then(found => done(found))")
    assert [(each["id"], [node["html"] for node in each["nodes"]]) for each in found["violations"]] == []
    assert len(found["passes"]) >= 10
    assert await window.run("document.documentElement.scrollWidth <= document.documentElement.clientWidth")
    if folder := os.environ.get("PAGE_SCREENSHOTS"):
        await anyio.Path(folder, f"{name}-{scheme}-{width}.png").write_bytes(await window.screenshot())
