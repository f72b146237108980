"""No text that comes from outside becomes an element, an attribute or a header of ours."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from typing import TYPE_CHECKING
from urllib.parse import quote

import httpx2
import pytest

from mcp_identity.domain.consent import ConsentState
from mcp_identity.domain.login import LoginTarget

if TYPE_CHECKING:
    from tests.web.conftest import FakeDesk, Page, ReadPage

SESSION = "0123456789abcdefghijklmnopqrstuvwxyzABCDE-_"
PAGE = f"/consent/{SESSION}"

OPENINGS = (
    "",
    '"',
    "'",
    '">',
    "'>",
    "</q>",
    "</title>",
    "</code></li>",
    "-->",
    "]]>",
    "{{7*7}}",
    "{% raw %}",
    "\\x3c",
    "%3C",
    "\x00",
)
BODIES = (
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "<svg/onload=alert(1)>",
    "<iframe srcdoc='<script>alert(1)</script>'>",
    "<form action=https://evil.example><button>Continue</button></form>",
    "<meta http-equiv=refresh content='0;url=https://evil.example'>",
    "<base href=https://evil.example/>",
    " onfocus=alert(1) autofocus ",
    "<a href=javascript:alert(1)>x</a>",
    "<math><mtext></form><form><mglyph><style></math><img src onerror=alert(1)>",
)
PAYLOADS = [opening + body for opening, body in product(OPENINGS, BODIES)]
MORE = [
    "&lt;script&gt;",
    "<ScRiPt>",
    "<\u202escript>",
    "\uff1cscript\uff1e",
    "<!--",
    "<![CDATA[",
    "<?php ?>",
    "\r\nSet-Cookie: a=b",
    "&#x3c;b&#x3e;",
]


def filled(desk: FakeDesk, text: str, state: ConsentState) -> None:
    """Every text of the view is `text`."""
    desk.view = replace(
        desk.view,
        state=state,
        error_code=text,
        workload=text,
        user=text,
        provider=text,
        provider_title=text,
        provider_host=text,
        scopes=(text,),
        parameters=((text, text),),
        resource=text,
        audience=f"2{text}",
        account_known=True,
        return_host=text,
        signed_in_as=text,
        login=LoginTarget(text, text, text),
    )


async def shown(browser: httpx2.AsyncClient, read_page: ReadPage) -> Page:
    answer = await browser.get(PAGE)
    assert answer.status_code == 200
    return read_page(answer.text)


@pytest.mark.parametrize("state", [ConsentState.PENDING, ConsentState.EXCHANGING, ConsentState.COMPLETED, ConsentState.FAILED])
async def test_no_text_of_a_view_becomes_an_element_or_an_attribute(
    browser: httpx2.AsyncClient, desk: FakeDesk, read_page: ReadPage, state: ConsentState
) -> None:
    filled(desk, "harmless", state)
    harmless = (await shown(browser, read_page)).elements
    assert len(PAYLOADS + MORE) >= 150
    for payload in PAYLOADS + MORE:
        filled(desk, payload, state)
        assert (await shown(browser, read_page)).elements == harmless, payload


async def test_no_text_of_a_view_reaches_a_header(browser: httpx2.AsyncClient, desk: FakeDesk) -> None:
    filled(desk, "harmless", ConsentState.PENDING)
    headers = {"content-security-policy", "set-cookie"}
    harmless = {name: (await browser.get(PAGE)).headers.get(name) for name in headers}
    for payload in PAYLOADS + MORE:
        filled(desk, payload, ConsentState.PENDING)
        answer = await browser.get(PAGE)
        assert {name: answer.headers.get(name) for name in headers} == harmless, payload


async def test_nothing_of_a_query_or_path_is_repeated_on_a_page(
    browser: httpx2.AsyncClient, desk: FakeDesk, read_page: ReadPage
) -> None:
    harmless = read_page((await browser.get("/consent/harmless")).text)
    for payload in PAYLOADS + MORE:
        encoded = quote(payload, safe="")
        for path in (f"/consent/{encoded}", f"/{encoded}", f"/oauth2/callback/{encoded}", f"/consent/x?error={encoded}"):
            answer = await browser.get(path)
            assert answer.status_code == 404
            page = read_page(answer.text)
            assert (page.elements, page.text) == (harmless.elements, harmless.text), payload
        away = await browser.get(f"/oauth2/callback/p1?error=access_denied&error_description={encoded}")
        assert (away.status_code, away.headers["location"], away.text) == (303, PAGE, "")
    assert len(desk.callbacks) == len(PAYLOADS + MORE)


async def test_text_that_turns_the_reading_direction_or_hides_is_dropped(
    browser: httpx2.AsyncClient, desk: FakeDesk, read_page: ReadPage
) -> None:
    filled(desk, "git\u202ehub\u200b.\u2066com\U000e0041", ConsentState.PENDING)
    page = await shown(browser, read_page)
    assert "github.com" in page.words
    assert not any(char in page.text for char in "\u202e\u200b\u2066\U000e0041")
