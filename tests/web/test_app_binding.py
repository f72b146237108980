"""A consent that comes back to the agent's own app, which says whose browser it was: nobody else finishes it."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import replace
from pathlib import Path

import pytest

from mcp_identity.broker.answers import TokenReleased
from mcp_identity.domain.consent import SESSION_URI_PREFIX, Binding, ConsentView
from tests.broker.kit import raising
from tests.fakes.identity_provider import ALICE, BOB, MALLORY
from tests.web.remote import RETURN_URL, Browser, Remote, answer_of, asserted, running_remote, user_of

CALLBACK = "https://identity.example.com/oauth2/callback/"


@pytest.fixture
async def remote(tmp_path: Path) -> AsyncGenerator[Remote]:
    async with running_remote(tmp_path / "home") as one:
        yield one


async def to_the_app(browser: Browser, link: str) -> str:
    """A person opens a link, consents at the vendor, and arrives at the app; the completion URI that comes with them."""
    await browser.open(link)
    assert browser.status == 200
    await browser.press()
    assert browser.at.startswith(RETURN_URL)
    return answer_of(browser.at).get("session_id", "")


# The way it is meant


async def test_the_app_completes_what_its_user_consented_to(remote: Remote) -> None:
    consent = await remote.product.link(return_url=RETURN_URL, custom_state="a b&c=d/é")
    async with remote.browser() as browser:
        completion = await to_the_app(browser, consent.authorization_url)
        answer = answer_of(browser.at)
        assert answer == {"tab": "1", "session_id": completion, "custom_state": "a b&c=d/é"}
        assert completion.startswith(SESSION_URI_PREFIX)
        assert completion != consent.session_uri
        assert (await remote.product.status(consent))[0] == "pending"
        assert remote.product.server.count("authorization_code") == 0
    status = await remote.product.broker.complete_consent(remote.product.call(), completion, user_of(ALICE))
    assert (status.status, status.error_code, status.provider) == ("completed", "", "idp")
    assert isinstance(await remote.product.get(return_url=RETURN_URL), TokenReleased)
    assert await remote.trail("complete_consent") == ["ok"]


async def test_an_app_may_say_it_for_a_user_that_it_names(remote: Remote) -> None:
    theirs = remote.as_asserted("user-7")
    consent = await theirs.link(return_url=RETURN_URL)
    async with remote.browser() as browser:
        completion = await to_the_app(browser, consent.authorization_url)
    status = await theirs.broker.complete_consent(theirs.call(), completion, asserted("user-7"))
    assert status.status == "completed"
    assert isinstance(await theirs.get(return_url=RETURN_URL), TokenReleased)
    with raising("provider_misconfigured"):
        await remote.as_asserted("user-8").get()


async def test_the_page_names_the_app_that_the_browser_goes_on_to(remote: Remote) -> None:
    """covers: A19b."""
    consent = await remote.product.link(return_url=RETURN_URL)
    async with remote.browser() as browser:
        await browser.open(consent.authorization_url)
        for told in ("agent", "Alice Example", "idp.example.com", "read", "app.example.com"):
            assert told in browser.words


async def test_asking_with_another_app_or_state_is_another_request(remote: Remote) -> None:
    first = await remote.product.link(return_url=RETURN_URL)
    assert await remote.product.link(return_url=RETURN_URL) == first
    others = [await remote.product.link(), await remote.product.link(return_url=RETURN_URL, custom_state="x")]
    assert len({first.session_uri, *(other.session_uri for other in others)}) == 3
    again = await remote.product.link(session_uri=first.session_uri, return_url=RETURN_URL)
    assert again.session_uri == first.session_uri
    with raising("invalid_request"):
        await remote.product.get(session_uri=first.session_uri, return_url=RETURN_URL, custom_state="x")
    with raising("invalid_request"):
        await remote.product.get(session_uri=others[0].session_uri, return_url=RETURN_URL)


# A02b: who knows the session URI


async def test_a02b_the_session_uri_that_the_initiator_knows_completes_nothing(remote: Remote) -> None:
    """Mallory forwards the link to Bob, who consents; Mallory knows the session URI and their own agent's key.

    covers: A02b
    """
    mallory = remote.as_person(MALLORY)
    consent = await mallory.link(return_url=RETURN_URL)
    async with remote.browser(BOB) as bobs:
        completion = await to_the_app(bobs, consent.authorization_url)
    for user in (user_of(MALLORY), user_of(BOB), asserted("mallory")):
        with raising("consent_not_found"):
            await mallory.broker.complete_consent(mallory.call(), consent.session_uri, user)
    await remote.nothing_was_given()
    with raising("consent_mismatch"):
        await mallory.broker.complete_consent(mallory.call(), completion, user_of(BOB))  # the app says who it was
    assert await mallory.status(consent) == ("failed", "consent_mismatch")
    await remote.nothing_was_given()
    assert (await remote.trail("test"))[-1] == "consent_mismatch"


@pytest.mark.parametrize("bob_is_signed_in", [True, False])
async def test_a01b_a_forwarded_link_of_an_app_brings_nothing(remote: Remote, bob_is_signed_in: bool) -> None:
    """covers: A01b, A02b."""
    mallory = remote.as_person(MALLORY)
    consent = await mallory.link(return_url=RETURN_URL)
    async with remote.browser(BOB) as bobs:
        if bob_is_signed_in:
            await bobs.open((await remote.as_person(BOB).link()).authorization_url)
            await bobs.press("sign_in")
        completion = await to_the_app(bobs, consent.authorization_url)
    with raising("consent_mismatch"):
        await remote.product.broker.complete_consent(mallory.call(), completion, user_of(BOB))
    with raising("consent_mismatch"):
        await mallory.get(session_uri=consent.session_uri)
    status = await remote.product.broker.complete_consent(mallory.call(), completion, user_of(MALLORY))
    assert (status.status, status.error_code) == ("failed", "consent_mismatch")
    await remote.nothing_was_given()


@pytest.mark.parametrize("bob_is_signed_in", [True, False])
async def test_a01_a_forwarded_vendor_url_of_an_app_brings_nothing(remote: Remote, bob_is_signed_in: bool) -> None:
    """The answer comes in a browser without the button's mark: it does not even reach the app.

    covers: A01
    """
    mallory = remote.as_person(MALLORY)
    consent = await mallory.link(return_url=RETURN_URL)
    async with remote.browser(MALLORY) as theirs, remote.browser(BOB) as bobs:
        await theirs.open(consent.authorization_url)
        theirs.stops_at = "https://idp.example.com/authorize"
        await theirs.press()
        if bob_is_signed_in:
            await bobs.open((await remote.as_person(BOB).link()).authorization_url)
            await bobs.press("sign_in")
        await bobs.open(theirs.at)
        assert bobs.status == 403
        assert bobs.at.startswith(CALLBACK)
    assert await mallory.status(consent) == ("failed", "consent_mismatch")
    await remote.nothing_was_given()
    assert await remote.trail("callback") == ["consent_mismatch"]


async def test_a_wrong_user_ends_the_consent_for_good(remote: Remote) -> None:
    """covers: A02b."""
    for wrong in (user_of(BOB), user_of(ALICE, "https://other.example.com"), asserted("alice"), asserted(user_of(ALICE).key)):
        consent = await remote.product.start(return_url=RETURN_URL)
        async with remote.browser() as browser:
            completion = await to_the_app(browser, consent.authorization_url)
        with raising("consent_mismatch"):
            await remote.product.broker.complete_consent(remote.product.call("complete_consent"), completion, wrong)
        status = await remote.product.broker.complete_consent(remote.product.call(), completion, user_of(ALICE))
        assert (status.status, status.error_code) == ("failed", "consent_mismatch")
    await remote.nothing_was_given()
    assert await remote.trail("complete_consent") == ["consent_mismatch"] * 4


async def test_an_asserted_users_consent_is_completed_by_no_token(remote: Remote) -> None:
    """covers: A02b."""
    theirs = remote.as_asserted("alice")
    consent = await theirs.link(return_url=RETURN_URL)
    async with remote.browser() as browser:
        completion = await to_the_app(browser, consent.authorization_url)
    with raising("consent_mismatch"):
        await theirs.broker.complete_consent(theirs.call(), completion, user_of(ALICE))
    await remote.nothing_was_given()


async def test_a_workload_that_may_not_assert_users_completes_by_tokens_alone(remote: Remote) -> None:
    """covers: A02b."""
    other = await remote.add_workload("careful", may_assert_users=False)
    theirs = remote.as_agent(other)
    consent = await theirs.link(return_url=RETURN_URL)
    async with remote.browser() as browser:
        completion = await to_the_app(browser, consent.authorization_url)
    with raising("access_denied"):
        await theirs.broker.complete_consent(theirs.call(), completion, asserted("alice"))
    assert (await theirs.broker.complete_consent(theirs.call(), completion, user_of(ALICE))).status == "completed"


async def test_absent_and_another_workloads_answer_alike(remote: Remote) -> None:
    """covers: A03."""
    other = remote.as_agent(await remote.add_workload("other"))
    consent = await remote.product.link(return_url=RETURN_URL)
    async with remote.browser() as browser:
        completion = await to_the_app(browser, consent.authorization_url)
    answers: list[tuple[str, str, bool, int | None]] = []
    for uri in (completion, SESSION_URI_PREFIX + "A" * 43, consent.session_uri, "", "x", "urn:ietf:params:oauth:request_uri:é"):
        with raising("consent_not_found") as refused:
            await other.broker.complete_consent(other.call(), uri, user_of(ALICE))
        error = refused.value
        answers.append((error.code, error.message, error.retryable, error.retry_after_seconds))
    assert len(set(answers)) == 1
    assert (
        await remote.product.broker.complete_consent(remote.product.call(), completion, user_of(ALICE))
    ).status == "completed"


# Errors at the vendor


async def test_a_denial_is_told_to_the_registered_app_alone(remote: Remote) -> None:
    consent = await remote.product.link(return_url=RETURN_URL, custom_state="s")
    async with remote.browser() as browser:
        browser.stops_at = "https://idp.example.com/authorize"
        await browser.open(consent.authorization_url)
        await browser.press()
        state = answer_of(browser.at)["state"]
        browser.stops_at = "nowhere"
        provider = await remote.product.broker.directory.get("default", "idp")
        await browser.open(f"{CALLBACK}{provider.provider_id}?error=access_denied&state={state}&error_description=evil")
        assert browser.at == f"{RETURN_URL}&error=access_denied&custom_state=s"
    assert await remote.product.status(consent) == ("denied", "consent_denied")


async def test_any_other_failure_is_told_without_its_reason(remote: Remote) -> None:
    consent = await remote.product.link(return_url=RETURN_URL)
    async with remote.browser() as browser:
        browser.stops_at = "https://idp.example.com/authorize"
        await browser.open(consent.authorization_url)
        await browser.press()
        state = answer_of(browser.at)["state"]
        browser.stops_at = "nowhere"
        provider = await remote.product.broker.directory.get("default", "idp")
        await browser.open(f"{CALLBACK}{provider.provider_id}?error=invalid_scope&state={state}")
        assert browser.at == f"{RETURN_URL}&error=server_error"


async def test_an_app_that_is_registered_no_more_gets_nobody(remote: Remote) -> None:
    """covers: A21."""
    consent = await remote.product.link(return_url=RETURN_URL)
    async with remote.browser() as browser:
        browser.stops_at = CALLBACK
        await browser.open(consent.authorization_url)
        await browser.press()
        agent = remote.product.principal.workload
        await remote.product.run(lambda records: records.update_workload(replace(agent, return_urls=())))
        browser.stops_at = "nowhere"
        await browser.open(browser.at)
        assert browser.at == consent.authorization_url
        assert "provider_misconfigured" in browser.words
    await remote.nothing_was_given()


async def test_the_exchange_fails_once_and_is_told(remote: Remote) -> None:
    consent = await remote.product.link(return_url=RETURN_URL)
    async with remote.browser() as browser:
        completion = await to_the_app(browser, consent.authorization_url)
    remote.product.server.refuses_connections = True
    status = await remote.product.broker.complete_consent(remote.product.call(), completion, user_of(ALICE))
    assert (status.status, status.error_code) == ("failed", "upstream_unavailable")
    remote.product.server.refuses_connections = False
    again = await remote.product.broker.complete_consent(remote.product.call(), completion, user_of(ALICE))
    assert again == status
    await remote.nothing_was_given()


async def test_what_an_app_sees_of_a_login_consent_is_nothing(remote: Remote) -> None:
    """Which binding holds is fixed when the link is given: an app's own user cannot complete a sign-in's consent."""
    consent = await remote.product.link()
    async with remote.browser() as browser:
        await browser.open(consent.authorization_url)
        await browser.press("sign_in")
        await browser.press()
        assert "is connected" in browser.words
        assert not [url for url in browser.visited if "app.example.com" in url]


async def test_an_app_consent_needs_no_sign_in(remote: Remote) -> None:
    consent = await remote.product.link(return_url=RETURN_URL)
    view = await remote.product.broker.view_consent(consent.session_uri.rpartition(":")[2])
    assert isinstance(view, ConsentView)
    assert view.login is None
    session = await remote.product.run(lambda records: records.find_session(consent.session_uri.rpartition(":")[2]))
    assert session.request.binding is Binding.APP
