"""Sign-ins and returns to an app in the browser that people have: two of them, since cookies do not travel with a link."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route

from mcp_identity.domain.credentials import Secret
from mcp_identity.web.serving import claim, serving
from tests.broker.kit import BY_URLS
from tests.fakes.authorization_server import CLIENT_SECRET
from tests.fakes.chromium import Browser, chromium, require_chromium
from tests.fakes.clock import FakeClock
from tests.fakes.identity_provider import ALICE, BOB, MALLORY, FakeIdentityProvider
from tests.web.remote import Remote, redirected, running_remote, user_of
from tests.web.test_real_browser import CONTRAST, ENTER, TAB


@dataclass(frozen=True, slots=True)
class Scene:
    """Our pages, a company's sign-in, a vendor and an app, each on a port of its own.

    Attributes:
        remote: The product, and its sign-in.
        vendor: The vendor's origin.
        app_url: The app's registered URL.
    """

    remote: Remote
    vendor: str
    app_url: str


def beyond(remote: list[Remote]) -> Starlette:
    """The vendor's consent page, and the app that a browser returns to."""

    async def authorize(request: Request) -> Response:
        url = str(request.url)
        back = redirected(url, remote[0].product.server.person_consents(url, account="whoever"))
        return HTMLResponse(f"<title>Vendor</title><h1 id='vendor'>Allow?</h1><a href='{back.replace('&', '&amp;')}'>Allow</a>")

    async def app(_request: Request) -> Response:
        return HTMLResponse("<title>App</title><h1 id='app'>Welcome back</h1>")

    return Starlette(routes=[Route("/authorize", authorize), Route("/connected", app)])


@pytest.fixture
async def scene(tmp_path: Path) -> AsyncGenerator[Scene]:
    require_chromium()
    ours, theirs, clock = claim(0), claim(0), FakeClock()
    assert ours is not None
    assert theirs is not None
    origin, vendor = (f"http://127.0.0.1:{each[0].getsockname()[1]}" for each in (ours, theirs))
    found: list[Remote] = []
    app_url = f"{vendor}/connected"
    company = FakeIdentityProvider(now=clock.now)
    async with (
        company.serve(),
        running_remote(
            tmp_path / "home", clock=clock, public_url=origin, company=company, issuer={"allow_http_loopback": True}
        ) as remote,
        serving(remote.site, ours),
        serving(beyond(found), theirs),
    ):
        settings = {**BY_URLS, "authorization_url": f"{vendor}/authorize"}
        await remote.product.update(settings=settings, secret=Secret(CLIENT_SECRET), allow_http_loopback=True)
        agent = remote.product.principal.workload
        agent = await remote.product.run(lambda records: records.update_workload(replace(agent, return_urls=(app_url,))))
        principal = replace(remote.product.principal, workload=agent)
        found.append(replace(remote, product=replace(remote.product, principal=principal)))
        yield Scene(found[0], vendor, app_url)


async def test_from_the_link_through_the_sign_in_to_the_connection(scene: Scene, tmp_path: Path) -> None:
    consent = await scene.remote.product.link()
    async with chromium(tmp_path / "alice") as browser:
        await browser.open(consent.authorization_url)
        assert await browser.text("h1") == "Sign in to continue"
        await browser.press(TAB, ENTER)
        assert (await browser.text("h1")).startswith("Let ")
        assert "signed in here as Alice Example" in await browser.text("dl")
        assert not await browser.complaints()
        await browser.press(TAB, ENTER)
        assert await browser.text("#vendor") == "Allow?"
        await browser.press(TAB, ENTER)
        assert await browser.text("main.good h1") == "idp is connected"
        assert await browser.url() == consent.authorization_url
        assert await browser.run("document.cookie") == ""
    assert (await scene.remote.product.token()).scopes == ("read",)


async def test_a_forwarded_link_and_a_forwarded_vendors_url_do_nothing_in_another_persons_browser(
    scene: Scene, tmp_path: Path
) -> None:
    """Mallory's two ways, with cookies as browsers keep them.

    covers: A01, A01b
    """
    remote = scene.remote
    mallory = replace(remote.product, principal=replace(remote.product.principal, user=user_of(MALLORY, remote.company.issuer)))
    consent = await mallory.link()
    async with chromium(tmp_path / "mallory") as theirs, chromium(tmp_path / "bob") as bobs:
        remote.company.signed_in = BOB
        await bobs.open(consent.authorization_url)
        await bobs.press(TAB, ENTER)
        assert await bobs.text("main.bad h1") == "This link is not yours"

        remote.company.signed_in = MALLORY
        await theirs.open(consent.authorization_url)
        await theirs.press(TAB, ENTER)
        assert "signed in here as Mallory Example" in await theirs.text("dl")
        await theirs.press(TAB, ENTER)
        assert await theirs.text("#vendor") == "Allow?"
        await bobs.open(await theirs.url())
        await bobs.press(TAB, ENTER)
        assert await bobs.text("main.bad h1") == "This did not work"
    assert await mallory.status(consent) == ("failed", "consent_mismatch")
    await remote.nothing_was_given()


async def test_not_me_asks_the_company_again(scene: Scene, tmp_path: Path) -> None:
    remote, consent = scene.remote, await scene.remote.product.link()
    async with chromium(tmp_path / "shared") as browser:
        remote.company.signed_in = BOB
        await browser.open(consent.authorization_url)
        await browser.press(TAB, ENTER)
        assert await browser.text("main.bad h1") == "This link is not yours"
        remote.company.signed_in = ALICE
        await browser.press(TAB, ENTER)
        assert "signed in here as Alice Example" in await browser.text("dl")


async def test_a_consent_that_returns_to_its_app(scene: Scene, tmp_path: Path) -> None:
    consent = await scene.remote.product.link(return_url=scene.app_url)
    async with chromium(tmp_path / "alice") as browser:
        await browser.open(consent.authorization_url)
        assert scene.app_url.removeprefix("http://").partition("/")[0] in await browser.text("dl")
        await browser.press(TAB, ENTER)
        assert await browser.text("#vendor") == "Allow?"
        await browser.press(TAB, ENTER)
        assert await browser.text("#app") == "Welcome back"
        completion = await browser.run("new URL(location.href).searchParams.get('session_id')")
    alice = scene.remote.product.principal.user
    assert alice is not None
    status = await scene.remote.product.broker.complete_consent(scene.remote.product.call(), completion, alice)
    assert status.status == "completed"


async def shown(browser: Browser, link: str, scheme: str, width: int) -> None:
    await browser.emulate(scheme=scheme, width=width)
    await browser.open(link)
    assert await browser.run("document.documentElement.scrollWidth <= innerWidth"), (scheme, width)
    worst = await browser.run(CONTRAST)
    assert worst >= 4.5, (scheme, width, worst)


async def test_the_pages_around_a_sign_in_have_contrast_and_fit_a_phone(scene: Scene, tmp_path: Path) -> None:
    remote, consent = scene.remote, await scene.remote.product.link()
    async with chromium(tmp_path / "anybody") as browser:
        for person, heading in ((None, "Sign in"), (BOB, "This link"), (ALICE, "Let ")):
            if person is not None:
                remote.company.signed_in = person
                await browser.open(consent.authorization_url)
                await browser.press(TAB, ENTER)
            for scheme in ("light", "dark"):
                for width in (320, 1280):
                    await shown(browser, consent.authorization_url, scheme, width)
            assert (await browser.text("h1")).startswith(heading)
