"""A signed-in user sees what their agents hold, and ends it; nobody else does."""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator
from dataclasses import replace
from pathlib import Path
from threading import current_thread

import pytest

from mcp_identity.broker.answers import TokenReleased
from mcp_identity.domain.credentials import GrantState, Secret
from mcp_identity.vault.records import Records
from tests.fakes.identity_provider import ALICE, BOB, Person
from tests.web.remote import PUBLIC_URL, Browser, Remote, issuer_of, running_remote, user_of

PORTAL = f"{PUBLIC_URL}/portal"


@pytest.fixture
async def remote(tmp_path: Path) -> AsyncGenerator[Remote]:
    async with running_remote(tmp_path / "home") as one:
        yield one


async def connect(remote: Remote, person: Person = ALICE) -> None:
    """A person lets the agent use their account."""
    consent = await remote.as_person(person).link()
    async with remote.browser(person) as browser:
        await browser.open(consent.authorization_url)
        await browser.press("sign_in")
        await browser.press()
        assert "is connected" in browser.words


async def sign_in(browser: Browser) -> None:
    """Open the portal and sign in."""
    await browser.open(PORTAL)
    issuer = re.findall(r'name="issuer" value="([^"]+)"', browser.html)
    await browser.press("sign_in", issuer=issuer[0])


async def test_nobody_waits_while_the_trail_is_looked_through(remote: Remote, monkeypatch: pytest.MonkeyPatch) -> None:
    """It grows without end, and whoever writes waits for the writer's thread."""
    look, threads = Records.last_releases, list[str]()

    def noting(records: Records, tenant: str, user_key: str) -> object:
        threads.append(current_thread().name)
        return look(records, tenant, user_key)

    monkeypatch.setattr(Records, "last_releases", noting)
    async with remote.browser() as browser:
        await sign_in(browser)
    assert threads
    assert "vault-writer" not in threads


def grant_ids(browser: Browser) -> list[str]:
    """The grants that the page has buttons for."""
    return re.findall(r'name="grant" value="([^"]+)"', browser.html)


async def test_nobody_sees_anything_before_signing_in(remote: Remote) -> None:
    await connect(remote)
    async with remote.browser() as browser:
        await browser.open(PORTAL)
        assert browser.status == 200
        assert "Sign in at login.example.com" in browser.words
        assert "agent" not in browser.words.replace("agents", "")
        assert grant_ids(browser) == []


async def test_a_user_sees_which_agent_holds_what_since_when_and_last_used(remote: Remote) -> None:
    await connect(remote)
    async with remote.browser() as browser:
        await sign_in(browser)
        assert browser.at in ("/portal", PORTAL)
        assert "signed in as Alice Example" in browser.words
        assert "agent uses your idp account" in re.sub(r"[“”\"]", "", browser.words)
        assert "read" in browser.words
        assert "Not yet" in browser.words
        assert isinstance(await remote.product.token(), TokenReleased)
        await browser.open(PORTAL)
        assert "Not yet" not in browser.words
        assert browser.words.count("UTC") == 2


async def test_a_user_disconnects_an_agent_here_and_at_the_vendor(remote: Remote) -> None:
    await connect(remote)
    async with remote.browser() as browser:
        await sign_in(browser)
        await browser.press("disconnect", grant=grant_ids(browser)[0])
        assert "No agent can use an account of yours" in browser.words
    assert await remote.product.state() is GrantState.REVOKED
    assert all(family.revoked for family in remote.product.server.families)
    assert (await remote.product.link()).reason.value == "revoked"
    assert await remote.trail("revoke_own_grant") == ["ok"]


async def test_nobody_sees_or_ends_what_is_somebody_elses(remote: Remote) -> None:
    """Covers: A03."""
    await connect(remote)
    alices = (await remote.product.grant()).id
    async with remote.browser(BOB) as browser:
        await sign_in(browser)
        assert "Alice" not in browser.words
        assert grant_ids(browser) == []
        await browser.press("disconnect", grant=alices)
        foreign = browser.status, browser.html
        await browser.open(PORTAL)
        await browser.press("disconnect", grant="0" * 32)
        assert (browser.status, browser.html) == foreign == (404, browser.html)
    assert await remote.product.state() is GrantState.ACTIVE
    assert await remote.trail("revoke_own_grant") == ["not_found", "not_found"]


async def test_a_button_of_another_site_does_nothing(remote: Remote) -> None:
    """Covers: A19b."""
    await connect(remote)
    grant = (await remote.product.grant()).id
    async with remote.browser() as browser:
        await sign_in(browser)
        for token in ("", "A" * 43):
            answer = await browser.client.post(PORTAL, data={"form_token": token, "step": "disconnect", "grant": grant})
            assert answer.status_code == 403
        honest = browser.page.form_token
        headers = {"origin": "https://evil.example.com"}
        answer = await browser.client.post(
            PORTAL, data={"form_token": honest, "step": "disconnect", "grant": grant}, headers=headers
        )
        assert answer.status_code == 403
        assert answer.headers["x-frame-options"] == "DENY"
        assert "frame-ancestors 'none'" in answer.headers["content-security-policy"]
    async with remote.browser() as stranger:
        await stranger.open(PORTAL)
        answer = await stranger.client.post(PORTAL, data={"form_token": honest, "step": "disconnect", "grant": grant})
        assert answer.status_code == 403
    assert await remote.product.state() is GrantState.ACTIVE


async def test_looking_changes_nothing(remote: Remote) -> None:
    await connect(remote)
    before = await remote.product.grants()
    async with remote.browser() as browser:
        await sign_in(browser)
        for query in ("?step=disconnect", f"?grant={before[0].id}&step=disconnect"):
            await browser.open(PORTAL + query)
            assert browser.status == 200
    assert await remote.product.grants() == before


async def test_who_signs_out_is_signed_out(remote: Remote) -> None:
    await connect(remote)
    async with remote.browser() as browser:
        await sign_in(browser)
        await browser.press("sign_out")
        assert "Sign in at login.example.com" in browser.words
        assert browser.cookies_named("session") == []


async def test_a_session_that_was_ended_for_its_user_shows_nothing(remote: Remote) -> None:
    await connect(remote)
    async with remote.browser() as browser:
        await sign_in(browser)
        remote.product.clock.advance(1)
        await remote.product.run(lambda records: records.end_user_credentials("default", user_of(ALICE)))
        await browser.open(PORTAL)
        assert grant_ids(browser) == []
        assert "Sign in at" in browser.words


async def test_a_user_of_another_tenant_sees_their_own_tenants_grants_alone(remote: Remote) -> None:
    """Two tenants share a vault; neither the page nor the choice of where to sign in names the other."""
    await connect(remote)
    await remote.product.vault.ensure_tenant("globex")
    other = replace(issuer_of(remote.company), id="issuer-2", tenant="globex", issuer="https://other.example.com")

    def add(records: Records) -> None:
        records.insert_issuer(other, Secret("another secret"))

    await remote.product.run(add)
    async with remote.browser() as browser:
        await browser.open(PORTAL)
        assert "globex" not in browser.html
        assert "default" not in browser.html
        assert "Your organisation" in browser.words
        await browser.press("sign_in", organisation="nobody-here")
        assert browser.status == 200
        assert "Nobody can sign in under that name" in browser.words
        await browser.press("sign_in", organisation=" Default ")
        assert "signed in as Alice Example" in browser.words
        assert len(grant_ids(browser)) == 1


@pytest.mark.parametrize("method", ["PUT", "DELETE", "HEAD", "PATCH"])
async def test_no_other_method_is_answered(remote: Remote, method: str) -> None:
    async with remote.browser() as browser:
        assert (await browser.client.request(method, PORTAL)).status_code == 405


async def test_a_button_that_is_not_there_is_refused(remote: Remote) -> None:
    async with remote.browser() as browser:
        await sign_in(browser)
        await browser.press("promote")
        assert browser.status == 400
