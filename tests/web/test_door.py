"""Who is turned away before any page is made, what every answer carries, and the proof for siblings."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import httpx2
import pytest

from mcp_identity.domain.consent import ConsentState

if TYPE_CHECKING:
    from tests.web.conftest import Connect, FakeClock, FakeDesk, FakeEntropy, ReadPage

SESSION = "0123456789abcdefghijklmnopqrstuvwxyzABCDE-_"
PAGE = f"/consent/{SESSION}"
CALLBACK = "/oauth2/callback/p1"


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1", "127.0.0.1:8977", "127.0.0.1:8976.evil.example", ""])
@pytest.mark.parametrize("path", [PAGE, CALLBACK, "/healthz", "/consent/style.css", "/nowhere"])
async def test_another_host_is_421_everywhere(browser: httpx2.AsyncClient, desk: FakeDesk, host: str, path: str) -> None:
    answer = await browser.get(path, headers={"host": host})
    assert answer.status_code == 421
    assert "claude-desktop" not in answer.text
    assert not desk.callbacks


async def test_localhost_is_served_too_and_case_does_not_matter(browser: httpx2.AsyncClient) -> None:
    assert (await browser.get(PAGE, headers={"host": "LocalHost:8976"})).status_code == 200


async def test_two_host_headers_are_421(browser: httpx2.AsyncClient) -> None:
    doubled = [("host", "127.0.0.1:8976"), ("host", "evil.example")]
    assert (await browser.get(PAGE, headers=doubled)).status_code == 421


@pytest.mark.parametrize(
    "origin", ["null", "https://evil.example", "https://127.0.0.1:8976", "http://127.0.0.1:8977", "http://localhost:8976"]
)
async def test_a_form_from_another_origin_is_403(
    browser: httpx2.AsyncClient, desk: FakeDesk, read_page: ReadPage, origin: str
) -> None:
    page = read_page((await browser.get(PAGE)).text)
    answer = await browser.post(PAGE, data={"form_token": page.form_token}, headers={"origin": origin})
    assert answer.status_code == 403
    assert not desk.begun


async def test_a_form_from_our_own_origin_passes(browser: httpx2.AsyncClient, read_page: ReadPage) -> None:
    page = read_page((await browser.get(PAGE)).text)
    headers = {"origin": "http://127.0.0.1:8976", "sec-fetch-site": "same-origin"}
    assert (await browser.post(PAGE, data={"form_token": page.form_token}, headers=headers)).status_code == 303


@pytest.mark.parametrize("site", ["cross-site", "same-site", "none", "else"])
async def test_a_form_that_another_site_sends_is_403(
    browser: httpx2.AsyncClient, desk: FakeDesk, read_page: ReadPage, site: str
) -> None:
    page = read_page((await browser.get(PAGE)).text)
    headers = {"sec-fetch-site": site, "sec-fetch-mode": "navigate", "sec-fetch-dest": "document"}
    answer = await browser.post(PAGE, data={"form_token": page.form_token}, headers=headers)
    assert answer.status_code == 403
    assert not desk.begun


@pytest.mark.parametrize(
    ("site", "mode", "destination", "status"),
    [
        ("cross-site", "navigate", "document", 303),
        ("same-site", "navigate", "document", 303),
        ("none", "navigate", "document", 303),
        ("cross-site", "navigate", "iframe", 403),
        ("cross-site", "no-cors", "image", 403),
        ("same-site", "cors", "empty", 403),
    ],
)
async def test_other_sites_may_lead_here_but_not_load_from_here(
    browser: httpx2.AsyncClient, desk: FakeDesk, site: str, mode: str, destination: str, status: int
) -> None:
    headers = {"sec-fetch-site": site, "sec-fetch-mode": mode, "sec-fetch-dest": destination}
    assert (await browser.get(f"{CALLBACK}?code=c&state=s", headers=headers)).status_code == status
    assert len(desk.callbacks) == (status == 303)


async def test_a_program_of_another_user_is_refused(
    desk: FakeDesk, clock: FakeClock, entropy: FakeEntropy, connect: Connect
) -> None:
    seen: list[tuple[str, int, str, int]] = []

    def nobody(client_host: str, client_port: int, server_host: str, server_port: int) -> bool:
        seen.append((client_host, client_port, server_host, server_port))
        return False

    async with connect(desk, clock, entropy, check_peer=nobody) as browser:
        assert (await browser.get(f"{CALLBACK}?code=c")).status_code == 403
    assert seen == [("127.0.0.1", 123, "127.0.0.1", 8976)]
    assert not desk.callbacks


@pytest.mark.parametrize("path", [PAGE, CALLBACK, "/healthz", "/consent/style.css", "/nowhere", "/consent/" + "A" * 43])
@pytest.mark.parametrize("host", ["127.0.0.1:8976", "evil.example"])
async def test_every_answer_carries_the_security_headers(browser: httpx2.AsyncClient, path: str, host: str) -> None:
    headers = (await browser.get(path, headers={"host": host})).headers
    policy = headers["content-security-policy"].split("; ")
    assert {"default-src 'none'", "style-src 'self'", "frame-ancestors 'none'", "base-uri 'none'"} <= set(policy)
    assert "script-src" not in headers["content-security-policy"]
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["x-frame-options"] == "DENY"
    assert headers["cache-control"] == "no-store"
    assert headers["cross-origin-opener-policy"] == "same-origin"
    assert "server" not in headers
    form_page = path == PAGE and host != "evil.example"
    assert headers["referrer-policy"] == ("same-origin" if form_page else "no-referrer")


@pytest.mark.parametrize(
    ("vendor_host", "targets"),
    [
        ("github.com", "form-action 'self' https:"),
        ("127.0.0.1:9000", "form-action 'self' https: http://127.0.0.1:* http://localhost:*"),
        ("evil'; script-src *", "form-action 'self' https:"),
    ],
)
async def test_the_form_may_lead_to_the_vendor_and_its_redirects(
    browser: httpx2.AsyncClient, desk: FakeDesk, vendor_host: str, targets: str
) -> None:
    desk.view = replace(desk.view, provider_host=vendor_host)
    policy = (await browser.get(PAGE)).headers["content-security-policy"].split("; ")
    assert [rule for rule in policy if rule.startswith("form-action")] == [targets]
    assert not [rule for rule in policy if rule.startswith("script-src")]
    desk.view = replace(desk.view, state=ConsentState.COMPLETED)
    assert "form-action 'self';" in (await browser.get(PAGE)).headers["content-security-policy"]


# The proof


async def test_the_vault_proves_itself_for_the_port_of_the_socket_and_no_other(
    browser: httpx2.AsyncClient, desk: FakeDesk
) -> None:
    nonce = bytes(range(32))
    answer = await browser.post("/vault-proof", content=nonce)
    assert answer.status_code == 200
    assert desk.check_vault_proof(nonce, 8976, answer.content)
    assert not desk.check_vault_proof(nonce, 8977, answer.content)


@pytest.mark.parametrize(("length", "status"), [(0, 400), (31, 400), (33, 400), (17_000, 413)])
async def test_a_nonce_of_another_length_is_refused(browser: httpx2.AsyncClient, length: int, status: int) -> None:
    assert (await browser.post("/vault-proof", content=bytes(length))).status_code == status
