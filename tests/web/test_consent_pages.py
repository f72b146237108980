from __future__ import annotations

from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any, get_type_hints

import httpx2
import pytest

from mcp_identity.domain.consent import ConsentRequest, ConsentState, ConsentView
from mcp_identity.domain.errors import ConsentExpired, ConsentMismatch, ConsentNotFound, InvalidRequest, VaultUnavailable
from mcp_identity.web.pages import WORDS

if TYPE_CHECKING:
    from tests.web.conftest import FakeClock, FakeDesk, Page, ReadPage

SESSION = "0123456789abcdefghijklmnopqrstuvwxyzABCDE-_"
PAGE = f"/consent/{SESSION}"
CALLBACK = "/oauth2/callback/p1"
NOT_THE_AGENTS = frozenset(
    {
        *("tenant", "workload_id", "workload_epoch", "user", "provider_row", "configuration_digest", "flow", "redirect_uri"),
        *("binding", "reason", "forced", "provider", "workload", "workload_verified", "user_display", "edge"),
        *("user_kind", "login_issuer", "return_url", "custom_state", "elicited"),
    }
)
"""What of a request the agent does not choose freely: fixed by this server, its configuration or its operator. The page names
the host of the registered URL that the agent picked; what it wants to be handed back there is for its app alone."""


async def open_page(browser: httpx2.AsyncClient, read_page: ReadPage) -> Page:
    return read_page((await browser.get(PAGE)).text)


async def press(browser: httpx2.AsyncClient, read_page: ReadPage, **fields: str) -> httpx2.Response:
    page = await open_page(browser, read_page)
    return await browser.post(PAGE, data={"form_token": page.form_token, **fields})


# What the page says


async def test_the_page_names_agent_user_host_scopes_parameters_and_resource(
    browser: httpx2.AsyncClient, desk: FakeDesk, read_page: ReadPage
) -> None:
    desk.view = replace(desk.view, parameters=(("login_hint", "ada@example.com"),), resource="https://api.example.com/")
    words = (await open_page(browser, read_page)).words
    for told in ("claude-desktop", "ada", "GitHub", "github-work", "github.com", "read:user", "repo", "login_hint"):
        assert told in words
    assert "ada@example.com" in words
    assert "https://api.example.com/" in words
    assert "9 more minutes" in words
    assert "Only continue if you asked for this" in words


@pytest.mark.parametrize("name", [field.name for field in fields(ConsentRequest) if field.name not in NOT_THE_AGENTS])
async def test_whatever_the_agent_chose_stands_on_the_page(
    browser: httpx2.AsyncClient, desk: FakeDesk, read_page: ReadPage, name: str
) -> None:
    shapes: dict[object, Any] = {
        str: "chosen-1 chosen-2",
        tuple[str, ...]: ("chosen-1", "chosen-2"),
        tuple[tuple[str, str], ...]: (("chosen-1", "chosen-2"),),
    }
    chosen: dict[str, Any] = {name: shapes[get_type_hints(ConsentView)[name]]}
    assert "chosen" not in (await open_page(browser, read_page)).words
    desk.view = replace(desk.view, **chosen)
    words = (await open_page(browser, read_page)).words
    assert "chosen-1" in words
    assert "chosen-2" in words


async def test_one_place_of_use_is_named_once(browser: httpx2.AsyncClient, desk: FakeDesk, read_page: ReadPage) -> None:
    desk.view = replace(desk.view, resource="https://api.example.com/", audience="https://api.example.com/")
    assert (await open_page(browser, read_page)).words.count("https://api.example.com/") == 1
    desk.view = replace(desk.view, audience="https://API.example.com/")
    assert (await open_page(browser, read_page)).words.count("For use at") == 2


@pytest.mark.parametrize("verified", [True, False])
async def test_an_unverified_agent_is_said_to_be_what_the_program_calls_itself(
    browser: httpx2.AsyncClient, desk: FakeDesk, read_page: ReadPage, verified: bool
) -> None:
    desk.view = replace(desk.view, workload_verified=verified)
    assert ("what the program calls itself" in (await open_page(browser, read_page)).words) is not verified


@pytest.mark.parametrize("known", [True, False])
async def test_the_box_for_another_account_is_there_only_when_one_is_connected(
    browser: httpx2.AsyncClient, desk: FakeDesk, read_page: ReadPage, known: bool
) -> None:
    desk.view = replace(desk.view, account_known=known)
    boxes = [box for box in (await open_page(browser, read_page)).find("input") if box.get("type") == "checkbox"]
    assert len(boxes) == known


@pytest.mark.parametrize("state", list(ConsentState))
async def test_every_state_has_a_page_with_one_heading_a_language_and_no_script(
    browser: httpx2.AsyncClient, desk: FakeDesk, read_page: ReadPage, state: ConsentState
) -> None:
    desk.view = replace(desk.view, state=state, error_code="upstream_rejected" if state is ConsentState.FAILED else "")
    page = await open_page(browser, read_page)
    assert len(page.find("h1")) == 1
    assert page.find("html")[0].get("lang") == "en"
    assert not page.find("script")
    waiting = state in {ConsentState.PENDING, ConsentState.STARTED}
    assert len(page.find("button")) == len(page.find("form")) == waiting


@pytest.mark.parametrize("code", sorted(WORDS))
async def test_a_failed_consent_is_told_in_words_with_its_code_and_a_next_step(
    browser: httpx2.AsyncClient, desk: FakeDesk, read_page: ReadPage, code: str
) -> None:
    desk.view = replace(desk.view, state=ConsentState.FAILED, error_code=code)
    words = (await open_page(browser, read_page)).words
    assert code in words
    assert WORDS[code].happened in words
    assert WORDS[code].next_step in words


async def test_a_link_past_its_time_shows_no_button_even_before_the_sweeper_came(
    browser: httpx2.AsyncClient, clock: FakeClock, read_page: ReadPage
) -> None:
    clock.elapsed = 9 * 60
    page = await open_page(browser, read_page)
    assert not page.find("button")
    assert "consent_expired" in page.words


async def test_the_finishing_page_never_reloads_under_a_reader_and_offers_to_look_again(
    browser: httpx2.AsyncClient, desk: FakeDesk, read_page: ReadPage
) -> None:
    desk.view = replace(desk.view, state=ConsentState.EXCHANGING)
    page = await open_page(browser, read_page)
    assert not any(meta.get("http-equiv") for meta in page.find("meta"))
    assert [link.get("href") for link in page.find("a")] == [f"/consent/{SESSION}"]


# Opening a link


async def test_opening_the_link_changes_nothing_so_previews_are_harmless(browser: httpx2.AsyncClient, desk: FakeDesk) -> None:
    before = desk.view
    for _ in range(3):
        assert (await browser.get(PAGE)).status_code == 200
    assert (desk.view, desk.begun, desk.callbacks) == (before, [], [])


async def test_the_form_cookie_is_strict_hidden_from_scripts_and_of_this_page_alone(browser: httpx2.AsyncClient) -> None:
    (cookie,) = (await browser.get(PAGE)).headers.get_list("set-cookie")
    name_value, *attributes = cookie.split("; ")
    assert name_value.startswith("mid_form=")
    assert sorted(attributes) == ["HttpOnly", f"Path={PAGE}", "SameSite=strict"]


async def test_a_finished_session_sets_no_cookie(browser: httpx2.AsyncClient, desk: FakeDesk) -> None:
    desk.view = replace(desk.view, state=ConsentState.COMPLETED)
    assert "set-cookie" not in (await browser.get(PAGE)).headers


@pytest.mark.parametrize("path", ["/consent/short", f"/consent/{SESSION}x", "/consent/" + "A" * 43, f"{PAGE}/", "/", "/portal"])
async def test_what_is_unknown_is_404_and_never_a_redirect(browser: httpx2.AsyncClient, path: str) -> None:
    assert (await browser.get(path)).status_code == 404


async def test_health_says_ok_and_nothing_else(browser: httpx2.AsyncClient) -> None:
    answer = await browser.get("/healthz")
    assert (answer.status_code, answer.text) == (200, "ok")


@pytest.mark.parametrize("method", ["HEAD", "PUT", "DELETE", "OPTIONS", "PATCH"])
@pytest.mark.parametrize("path", [PAGE, CALLBACK, "/healthz", "/vault-proof", "/consent/style.css"])
async def test_other_methods_are_405(browser: httpx2.AsyncClient, desk: FakeDesk, method: str, path: str) -> None:
    answer = await browser.request(method, path)
    assert answer.status_code == 405
    assert "HEAD" not in answer.headers["allow"]
    assert not desk.callbacks


# The button


async def test_the_button_marks_the_browser_and_sends_it_to_the_vendor(
    browser: httpx2.AsyncClient, desk: FakeDesk, read_page: ReadPage
) -> None:
    answer = await press(browser, read_page)
    assert answer.status_code == 303
    assert answer.headers["location"] == desk.authorization_url
    (cookie,) = answer.headers.get_list("set-cookie")
    name_value, *attributes = cookie.split("; ")
    assert name_value == f"mid_consent_{SESSION[:16]}=browser-secret"
    assert sorted(attributes) == ["HttpOnly", "Max-Age=600", "Path=/oauth2/callback/", "SameSite=lax"]
    assert desk.begun == [(SESSION, False)]


async def test_the_tick_allows_another_account(browser: httpx2.AsyncClient, desk: FakeDesk, read_page: ReadPage) -> None:
    await press(browser, read_page, other_account="yes")
    assert desk.begun == [(SESSION, True)]


async def test_two_tabs_of_one_link_both_work(browser: httpx2.AsyncClient, desk: FakeDesk, read_page: ReadPage) -> None:
    first = await open_page(browser, read_page)
    await open_page(browser, read_page)
    assert (await browser.post(PAGE, data={"form_token": first.form_token})).status_code == 303
    assert len(desk.begun) == 1


async def test_a_form_without_its_cookie_is_refused(browser: httpx2.AsyncClient, desk: FakeDesk, read_page: ReadPage) -> None:
    page = await open_page(browser, read_page)
    browser.cookies.clear()
    assert (await browser.post(PAGE, data={"form_token": page.form_token})).status_code == 403
    assert not desk.begun


@pytest.mark.parametrize("token", ["", "A" * 43, "é" * 43, "x" * 10_000])
async def test_a_form_with_a_made_up_token_is_refused(browser: httpx2.AsyncClient, desk: FakeDesk, token: str) -> None:
    await browser.get(PAGE)
    assert (await browser.post(PAGE, data={"form_token": token})).status_code == 403
    assert (await browser.post(PAGE, data={"other": "field"})).status_code == 403
    assert not desk.begun


@pytest.mark.parametrize("cookie", ["", "short", "é" * 43, "A" * 44])
async def test_a_cookie_that_we_never_set_is_refused(browser: httpx2.AsyncClient, desk: FakeDesk, cookie: str) -> None:
    headers = {b"cookie": f"mid_form={cookie}".encode()}
    assert (await browser.post(PAGE, data={"form_token": "A" * 43}, headers=headers)).status_code == 403
    assert not desk.begun


async def test_a_token_of_another_browser_session_or_vault_is_refused(
    browser: httpx2.AsyncClient, desk: FakeDesk, read_page: ReadPage
) -> None:
    foreign = await open_page(browser, read_page)
    browser.cookies.clear()
    own = await open_page(browser, read_page)
    assert foreign.form_token != own.form_token
    assert (await browser.post(PAGE, data={"form_token": foreign.form_token})).status_code == 403
    other_session = "B" * 43
    assert (
        await browser.post(
            f"/consent/{other_session}",
            data={"form_token": own.form_token},
            headers={"cookie": f"mid_form={browser.cookies['mid_form']}"},
        )
    ).status_code == 403
    desk.vault = b"vault-2"
    assert (await browser.post(PAGE, data={"form_token": own.form_token})).status_code == 403
    assert not desk.begun


async def test_a_refused_form_offers_the_way_back(browser: httpx2.AsyncClient, read_page: ReadPage) -> None:
    page = read_page((await browser.post(PAGE, data={"form_token": ""})).text)
    assert [link.get("href") for link in page.find("a")] == [PAGE]


@pytest.mark.parametrize(
    ("error", "status"),
    [(ConsentNotFound("x"), 404), (ConsentExpired("x"), 410), (VaultUnavailable("x"), 503), (ValueError("x"), 500)],
)
async def test_a_button_that_fails_says_so_by_code_alone(
    browser: httpx2.AsyncClient, desk: FakeDesk, read_page: ReadPage, error: Exception, status: int
) -> None:
    desk.begin_error = error
    answer = await press(browser, read_page)
    assert answer.status_code == status
    assert "set-cookie" not in answer.headers
    assert getattr(error, "code", "internal_error") in read_page(answer.text).words


async def test_a_form_too_large_of_too_many_fields_or_of_another_kind_is_refused(
    browser: httpx2.AsyncClient, desk: FakeDesk
) -> None:
    await browser.get(PAGE)
    assert (await browser.post(PAGE, data={"form_token": "x" * 17_000})).status_code == 413
    assert (await browser.post(PAGE, data={str(number): "" for number in range(40)})).status_code == 400
    assert (await browser.post(PAGE, json={})).status_code == 400
    assert not desk.begun


# The callback


async def test_the_callback_passes_on_every_pair_and_only_our_cookies(browser: httpx2.AsyncClient, desk: FakeDesk) -> None:
    cookies = f"mid_consent_{SESSION[:16]}=one; mid_consent_other=two; mid_form=three; session=four"
    query = "code=a%2Fb&state=s&state=again&empty=&iss=https%3A%2F%2Fgithub.com"
    await browser.get(f"{CALLBACK}?{query}", headers={"cookie": cookies})
    pairs = [("code", "a/b"), ("state", "s"), ("state", "again"), ("empty", ""), ("iss", "https://github.com")]
    assert desk.callbacks == [("p1", pairs, {SESSION[:16]: "one", "other": "two"})]


@pytest.mark.parametrize("state", [ConsentState.COMPLETED, ConsentState.DENIED, ConsentState.FAILED])
async def test_the_callback_answers_with_a_clean_url_and_takes_the_cookie_back(
    browser: httpx2.AsyncClient, desk: FakeDesk, state: ConsentState
) -> None:
    desk.callback_state = state
    answer = await browser.get(f"{CALLBACK}?code=c&state=s")
    assert (answer.status_code, answer.headers["location"], answer.text) == (303, PAGE, "")
    (cookie,) = answer.headers.get_list("set-cookie")
    name_value, *attributes = cookie.split("; ")
    assert name_value == f'mid_consent_{SESSION[:16]}=""'
    assert {"HttpOnly", "Max-Age=0", "Path=/oauth2/callback/", "SameSite=lax"} <= set(attributes)


@pytest.mark.parametrize(
    ("error", "status"),
    [(InvalidRequest("x"), 400), (ConsentMismatch("x"), 403), (ConsentExpired("x"), 410), (ConsentNotFound("x"), 410)],
)
async def test_a_callback_of_no_session_gets_a_page_that_says_little(
    browser: httpx2.AsyncClient, desk: FakeDesk, read_page: ReadPage, error: Exception, status: int
) -> None:
    desk.callback_error = error
    answer = await browser.get(f"{CALLBACK}?code=canary-code&state=canary-state&error_description=canary-text")
    assert answer.status_code == status
    assert "canary" not in answer.text
    assert "claude-desktop" not in answer.text
    assert len(read_page(answer.text).find("h1")) == 1


async def test_a_query_too_long_or_of_too_many_parameters_never_reaches_the_desk(
    browser: httpx2.AsyncClient, desk: FakeDesk
) -> None:
    assert (await browser.get(f"{CALLBACK}?code={'x' * 16_380}")).status_code == 400
    assert (await browser.get(f"{CALLBACK}?{'&'.join('a=1' for _ in range(33))}")).status_code == 400
    assert (await browser.get(f"/oauth2/callback/{'p' * 200}?code=c")).status_code == 404
    assert not desk.callbacks
    assert (await browser.get(f"{CALLBACK}?{'&'.join('a=1' for _ in range(32))}")).status_code == 303
