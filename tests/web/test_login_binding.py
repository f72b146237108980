"""A consent that is finished only by who asked for it: the browser signs in at the company's identity provider.

Two kinds of forwarded link, each in two variants: the vendor's own URL (A01) and our page's (A01b), to somebody who has
signed in here and to somebody who has not.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import replace
from pathlib import Path

import anyio
import httpx2
import pytest

from mcp_identity.domain.consent import ConsentView, SignInView
from mcp_identity.domain.identity import User, UserKind
from mcp_identity.domain.login import BrowserSession
from mcp_identity.vault.records import Records
from tests.broker.kit import BY_ISSUER, raising
from tests.fakes.identity_provider import BOB, MALLORY
from tests.web.remote import COMPANY, RETURN_URL, Remote, running_remote, user_of

TELLING = ("agent", "Mallory", "Alice", "idp", "read", "mcp", "example.com")
"""What only the initiator may read on the page."""


@pytest.fixture
async def remote(tmp_path: Path) -> AsyncGenerator[Remote]:
    async with running_remote(tmp_path / "home") as one:
        yield one


# The way it is meant


async def test_the_initiator_signs_in_consents_and_the_agent_has_its_token(remote: Remote) -> None:
    consent = await remote.product.link()
    async with remote.browser() as browser:
        await browser.open(consent.authorization_url)
        assert browser.status == 200
        assert "Sign in to continue" in browser.words
        await browser.press("sign_in")
        assert browser.at == consent.authorization_url
        assert "signed in here as Alice Example" in browser.words
        assert "idp.example.com" in browser.words
        await browser.press()
        assert "is connected" in browser.words
    assert (await remote.product.token()).scopes == ("read",)
    assert await remote.trail("sign_in") == ["ok"]
    assert await remote.trail("complete_consent") == ["ok"]


async def test_who_has_signed_in_before_need_not_do_so_again(remote: Remote) -> None:
    async with remote.browser() as browser:
        for number in range(2):
            consent = await remote.product.start()
            await browser.open(consent.authorization_url)
            if not number:
                await browser.press("sign_in")
            await browser.press()
            assert "is connected" in browser.words
    assert await remote.trail("sign_in") == ["ok"]


async def test_a_page_without_a_session_says_nothing_of_the_request(remote: Remote) -> None:
    consent = await remote.product.link()
    async with remote.browser() as browser:
        await browser.open(consent.authorization_url)
        words = browser.words.lower().replace("mcp-identity", "").replace("an agent", "")
        assert not [word for word in TELLING if word.lower() in words]
        assert COMPANY not in browser.html


# A01: the vendor's URL is forwarded


@pytest.mark.parametrize("bob_is_signed_in", [True, False])
async def test_a01_the_vendors_url_in_another_browser_brings_nothing(remote: Remote, bob_is_signed_in: bool) -> None:
    """Mallory begins a consent in their own browser, and sends Bob the vendor's URL.

    covers: A01
    """
    mallory = remote.as_person(MALLORY)
    consent = await mallory.link()
    async with remote.browser(MALLORY) as theirs, remote.browser(BOB) as bobs:
        await theirs.open(consent.authorization_url)
        await theirs.press("sign_in")
        theirs.stops_at = "https://idp.example.com/authorize"
        await theirs.press()
        if bob_is_signed_in:
            await bobs.open((await remote.as_person(BOB).link()).authorization_url)
            await bobs.press("sign_in")
        await bobs.open(theirs.at)
        assert bobs.status == 403
        assert not [word for word in ("agent", "Mallory", "read") if word in bobs.words.replace("your agent", "")]
    await remote.nothing_was_given()
    assert await mallory.status(consent) == ("failed", "consent_mismatch")
    assert await remote.trail("callback") == ["consent_mismatch"]
    with raising("consent_mismatch"):
        await mallory.get(session_uri=consent.session_uri)


async def test_a01_the_victims_code_in_the_attackers_browser_counts_as_the_attackers_own_account(remote: Remote) -> None:
    """A stolen answer: Mallory brings Bob's code with their own state; the verifier does not fit it.

    covers: A01, A16d
    """
    async with remote.browser(MALLORY) as theirs, remote.browser(BOB) as bobs:
        for browser, person in ((theirs, MALLORY), (bobs, BOB)):
            browser.stops_at = "https://identity.example.com/oauth2/callback/"
            await browser.open((await remote.as_person(person).link()).authorization_url)
            await browser.press("sign_in")
            await browser.press()
        bobs_code = bobs.at.partition("code=")[2].partition("&")[0]
        mine = theirs.at.partition("code=")[2].partition("&")[0]
        theirs.stops_at = "nowhere"
        await theirs.open(theirs.at.replace(mine, bobs_code))
        assert "did not work" in theirs.words
    assert await remote.product.grants() == []
    assert await remote.trail("complete_consent") == ["upstream_rejected"]


# A01b: our own link is forwarded


@pytest.mark.parametrize("bob_is_signed_in", [True, False])
async def test_a01b_our_link_in_another_persons_browser_shows_and_does_nothing(remote: Remote, bob_is_signed_in: bool) -> None:
    """Mallory sends Bob the link itself, so every cookie that it sets is in Bob's browser.

    covers: A01b, A19b
    """
    mallory = remote.as_person(MALLORY)
    consent = await mallory.link()
    async with remote.browser(BOB) as bobs:
        if bob_is_signed_in:
            await bobs.open((await remote.as_person(BOB).link()).authorization_url)
            await bobs.press("sign_in")
        await bobs.open(consent.authorization_url)
        if not bob_is_signed_in:
            assert bobs.status == 200
            await bobs.press("sign_in")
        assert bobs.status == 403
        assert "This link is not yours" in bobs.words
        assert not [word for word in ("agent", "Mallory", "Bob", "read", "idp") if word in bobs.words]
        await bobs.press()
        assert bobs.status == 403
        assert not bobs.cookies_named("consent")
    await remote.nothing_was_given()
    assert await remote.trail("begin_consent") == ["consent_mismatch"]
    assert "consent_mismatch" in await remote.trail("view_consent")
    (event,) = [event for event in await remote.product.trail() if event.action == "begin_consent"]
    assert (event.user_key, event.detail["visitor"]) == (user_of(MALLORY).key, user_of(BOB).key)


async def test_a_stranger_who_came_leaves_the_initiator_their_chance(remote: Remote) -> None:
    consent = await remote.product.link()
    async with remote.browser(BOB) as bobs, remote.browser() as alices:
        await bobs.open(consent.authorization_url)
        await bobs.press("sign_in")
        await bobs.press()
        await alices.open(consent.authorization_url)
        await alices.press("sign_in")
        await alices.press()
        assert "is connected" in alices.words


async def test_the_button_does_nothing_before_anybody_has_signed_in(remote: Remote) -> None:
    """A form without its page: the token is right, and nobody is signed in.

    covers: A01b, A19b
    """
    consent = await remote.product.link()
    async with remote.browser() as browser:
        await browser.open(consent.authorization_url)
        await browser.press()
        assert browser.status == 403
        assert not browser.cookies_named("consent")
    assert await remote.trail("begin_consent") == ["consent_mismatch"]
    assert await remote.product.status(consent) == ("pending", "")


async def test_who_signs_out_on_the_way_cannot_come_back_to_it(remote: Remote) -> None:
    """The mark of the button alone proves no person: another one sat down at the browser.

    covers: A01b
    """
    consent = await remote.product.link()
    async with remote.browser() as browser:
        await browser.open(consent.authorization_url)
        await browser.press("sign_in")
        browser.stops_at = "https://identity.example.com/oauth2/callback/"
        await browser.press()
        callback, browser.stops_at, browser.person = browser.at, "nowhere", BOB
        await browser.open(consent.authorization_url)
        await browser.press("another_user")
        assert browser.status == 403
        await browser.open(callback)
        assert browser.status == 403
    await remote.nothing_was_given()
    assert await remote.product.status(consent) == ("failed", "consent_mismatch")


# The browser session


async def test_not_me_signs_out_and_asks_again_who_it_is(remote: Remote) -> None:
    consent = await remote.product.link()
    async with remote.browser(BOB) as browser:
        await browser.open(consent.authorization_url)
        await browser.press("sign_in")
        assert browser.status == 403
        browser.person = remote.company.people["alice"]
        await browser.press("another_user")
        assert any("prompt=login" in url for url in browser.visited)
        assert "signed in here as Alice Example" in browser.words


async def test_every_cookie_over_https_is_of_this_host_alone(remote: Remote) -> None:
    consent = await remote.product.link()
    async with remote.browser() as browser:
        seen: list[str] = []
        browser.client.event_hooks["response"].append(note_cookies(seen))
        await browser.open(consent.authorization_url)
        await browser.press("sign_in")
        await browser.press()
    kinds = {cookie.partition("=")[0].partition("mid_")[2].partition("_")[0] for cookie in seen}
    assert kinds == {"form", "login", "session", "consent"}
    for cookie in seen:
        name, *attributes = cookie.split("; ")
        assert name.startswith("__Host-")
        assert {"HttpOnly", "Path=/", "Secure"} <= set(attributes)
        assert ("SameSite=strict" if "mid_form" in name else "SameSite=lax") in attributes
        assert not [each for each in attributes if each.startswith("Domain")]


def note_cookies(seen: list[str]) -> Callable[[httpx2.Response], Awaitable[None]]:
    async def hook(response: httpx2.Response) -> None:
        seen.extend(response.headers.get_list("set-cookie"))

    return hook


async def test_the_cookie_changes_with_every_sign_in(remote: Remote) -> None:
    consent = await remote.product.link()
    values: list[str] = []
    async with remote.browser() as browser:
        for step in ("sign_in", "another_user"):
            await browser.open(consent.authorization_url)
            await browser.press(step)
            values.append(browser.client.cookies["__Host-mid_session"])
            assert not browser.cookies_named("login")
    assert len(set(values)) == 2


@pytest.mark.parametrize("cookie", ["", "x", "A" * 400, "é", "A" * 5000])
async def test_a_session_that_we_never_sealed_is_nobodys(remote: Remote, cookie: str) -> None:
    consent = await remote.product.link()
    async with remote.browser() as browser:
        headers = {b"cookie": f"__Host-mid_session={cookie}".encode()}
        answer = await browser.client.get(consent.authorization_url, headers=headers)
        assert answer.status_code == 200
        assert "Sign in to continue" in answer.text


async def test_a_session_that_was_edited_is_nobodys(remote: Remote) -> None:
    async with remote.browser() as browser:
        await browser.open((await remote.product.link()).authorization_url)
        await browser.press("sign_in")
        cookie = browser.client.cookies["__Host-mid_session"]
    assert remote.logins.open(cookie) is not None
    for at in range(0, len(cookie) - 1, 7):
        other = "A" if cookie[at] != "A" else "B"
        assert remote.logins.open(cookie[:at] + other + cookie[at + 1 :]) is None


async def test_a_session_ends_after_eight_hours(remote: Remote) -> None:
    async with remote.browser() as browser:
        await browser.open((await remote.product.link()).authorization_url)
        await browser.press("sign_in")
        remote.product.clock.advance(8 * 3600 - 1)
        await browser.open((await remote.product.link()).authorization_url)
        assert "signed in here as" in browser.words
        remote.product.clock.advance(1)
        await browser.open((await remote.product.link()).authorization_url)
        assert "Sign in to continue" in browser.words


async def test_a_session_ends_with_what_was_issued_for_its_user(remote: Remote) -> None:
    consent = await remote.product.link()
    async with remote.browser() as browser:
        await browser.open(consent.authorization_url)
        await browser.press("sign_in")
        browser.stops_at = "https://identity.example.com/oauth2/callback/"
        await browser.press()
        remote.product.clock.advance(1)
        alice = remote.product.principal.user
        assert alice is not None
        await remote.product.run(lambda records: records.end_user_credentials("default", alice))
        browser.stops_at = "nowhere"
        await browser.open(browser.at)
        assert browser.status == 403
        await browser.open((await remote.product.start()).authorization_url)
        assert "Sign in to continue" in browser.words
    await remote.nothing_was_given()


async def test_a_session_ends_with_its_issuer(remote: Remote) -> None:
    consent = await remote.product.link()
    async with remote.browser() as browser:
        await browser.open(consent.authorization_url)
        await browser.press("sign_in")

        def unit(records: Records) -> None:
            issuer = records.find_issuer("default", "company")
            assert issuer is not None
            records.delete_issuer(issuer)

        await remote.product.run(unit)
        await browser.open(consent.authorization_url)
        assert browser.status == 500
        assert "provider_misconfigured" in browser.words


async def test_a_user_of_the_same_subject_elsewhere_is_a_stranger(remote: Remote) -> None:
    """Subjects are compared with their issuer, and users of different kinds never match."""
    others = [
        User("https://other.example.com", "alice", UserKind.OIDC, "Alice"),
        User(COMPANY, "alice", UserKind.ASSERTED, "Alice"),
    ]
    consent = await remote.product.link()
    session = await signed_in_alice(remote)
    identifier = consent.session_uri.rpartition(":")[2]
    assert isinstance(await remote.product.broker.view_consent(identifier, session), ConsentView)
    for other in others:
        view = await remote.product.broker.view_consent(identifier, replace(session, user=other))
        assert isinstance(view, SignInView)
    for changed in (replace(session, tenant="other"), replace(session, issuer_id="issuer-2")):
        view = await remote.product.broker.view_consent(identifier, changed)
        assert isinstance(view, SignInView)
        assert not view.stranger


async def signed_in_alice(remote: Remote) -> BrowserSession:
    async with remote.browser() as browser:
        await browser.open((await remote.product.start()).authorization_url)
        await browser.press("sign_in")
        session = remote.logins.open(browser.client.cookies["__Host-mid_session"])
    assert session is not None
    return session


# Replays


async def test_of_fifty_callbacks_of_one_browser_one_exchanges(remote: Remote) -> None:
    """covers: A16."""
    consent = await remote.product.link()
    async with remote.browser() as browser:
        await browser.open(consent.authorization_url)
        await browser.press("sign_in")
        browser.stops_at = "https://identity.example.com/oauth2/callback/"
        await browser.press()
        statuses: list[int] = []

        async def come_back() -> None:
            cookies = "; ".join(f"{name}={value}" for name, value in browser.client.cookies.items())
            async with remote.browser() as again:
                statuses.append((await again.client.get(browser.at, headers={"cookie": cookies})).status_code)

        async with anyio.create_task_group() as group:
            for _ in range(50):
                group.start_soon(come_back)
    assert sorted(statuses) == [303] + [410] * 49
    assert remote.product.server.count("authorization_code") == 1
    assert await remote.product.status(consent) == ("completed", "")


async def test_a_forged_host_or_forwarding_header_changes_no_url(remote: Remote) -> None:
    """covers: A18."""
    consent = await remote.product.link()
    assert consent.authorization_url.startswith("https://identity.example.com/consent/")
    async with remote.browser() as browser:
        answer = await browser.client.get(consent.authorization_url, headers={"host": "evil.example.com"})
        assert answer.status_code == 421
        forwarded = {"x-forwarded-host": "evil.example.com", "x-forwarded-proto": "http", "forwarded": "host=evil.example.com"}
        await browser.open(consent.authorization_url)
        token = browser.page.form_token
        data = {"form_token": token, "step": "sign_in"}
        answer = await browser.client.post(consent.authorization_url, data=data, headers=forwarded)
        assert "redirect_uri=https%3A%2F%2Fidentity.example.com%2Flogin%2Fcallback%2Fissuer-1" in answer.headers["location"]
        assert "evil" not in answer.headers["location"]


# Mix-up


@pytest.mark.parametrize("way", ["another provider's callback", "another issuer"])
@pytest.mark.parametrize("bound_by", ["login", "app"])
async def test_an_honest_code_at_the_wrong_place_is_not_exchanged(remote: Remote, way: str, bound_by: str) -> None:
    """The right browser and the right person, and an answer that is not of the server that was asked.

    covers: A04
    """
    await remote.product.add("evil", settings=BY_ISSUER)
    honest = await remote.product.broker.directory.get("default", "idp")
    evil = await remote.product.broker.directory.get("default", "evil")
    request = {"return_url": RETURN_URL} if bound_by == "app" else {}
    provider = "evil" if way == "another issuer" else "idp"
    consent = await remote.product.link(provider=provider, **request)
    async with remote.browser() as browser:
        await browser.open(consent.authorization_url)
        if bound_by == "login":
            await browser.press("sign_in")
        browser.stops_at = "https://identity.example.com/oauth2/callback/"
        await browser.press()
        answer, browser.stops_at = browser.at, "nowhere"
        if way == "another issuer":
            answer = answer.replace("iss=https%3A%2F%2Fidp.example.com", "iss=https%3A%2F%2Fevil.example.com")
            answer = answer.replace("iss=https://idp.example.com", "iss=https://evil.example.com")
        else:
            answer = answer.replace(honest.provider_id, evil.provider_id)
        assert answer != browser.at
        await browser.open(answer)
        assert browser.at == (f"{RETURN_URL}&error=server_error" if bound_by == "app" else consent.authorization_url)
    assert await remote.product.status(consent) == ("failed", "consent_mismatch")
    await remote.nothing_was_given()
