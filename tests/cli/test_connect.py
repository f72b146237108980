"""Does the link of a consent reach the person's browser, and nobody else?"""

from __future__ import annotations

import os
import re
import stat
from contextlib import suppress
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

import pytest

from mcp_identity.cli.connect import private_page
from tests.cli.conftest import CommandLine
from tests.peers.servers import DjangoOAuthServer

LINK = "http://127.0.0.1:8976/consent/abc"
CONNECT = ("connect", "idp", "--workload", "cursor", "--wait-seconds", "0")

posix = pytest.mark.skipif(os.name != "posix", reason="permissions and shell scripts are POSIX's")


class Tags(HTMLParser):
    """The elements of a page."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))


def path_of(url: str) -> Path:
    """Where a file URL leads."""
    assert urlsplit(url).scheme == "file"
    return Path(url2pathname(urlsplit(url).path))


@posix
def test_the_page_that_leads_to_a_link_is_this_users_alone() -> None:
    with private_page(LINK) as url:
        page = path_of(url)
        assert stat.S_IMODE(page.stat().st_mode) == 0o600
        assert stat.S_IMODE(page.parent.stat().st_mode) == 0o700


def test_the_page_is_gone_afterwards_whatever_happens() -> None:
    page = Path()
    with suppress(KeyboardInterrupt), private_page(LINK) as url:
        page = path_of(url)
        assert page.exists()
        raise KeyboardInterrupt
    assert page.name
    assert not page.parent.exists()


@pytest.mark.parametrize("link", [LINK, LINK + "?a=1&b=2", LINK + "'><script>alert(1)</script>", LINK + '"><base href="x'])
def test_the_page_leads_to_the_link_and_runs_nothing(link: str) -> None:
    with private_page(link) as url:
        tags = Tags(path_of(url).read_text("utf-8")).found
    assert [tag for tag, _ in tags] == ["meta", "meta", "meta", "title", "a"]
    assert ("meta", {"http-equiv": "refresh", "content": f"0; url={link}"}) in tags
    assert ("a", {"href": link}) in tags


@pytest.fixture
def federated(vault: CommandLine, server: DjangoOAuthServer) -> CommandLine:
    """A provider that asks the user."""
    options = ("--issuer", server.issuer, "--allow-http-loopback", "--set", "flows=USER_FEDERATION", "--scopes", "read")
    vault.succeed("providers", "add", "idp", *options, "--client-id", "x", "--client-auth", "none")
    return vault


@posix
def test_the_browser_is_given_the_page_and_not_the_link(federated: CommandLine, tmp_path: Path) -> None:
    browser, given, page = (tmp_path / name for name in ("browser", "given", "page"))
    browser.write_text(f'#!/bin/sh\necho "$@" > {given}\ncat "${{1#file://}}" > {page}\n')
    browser.chmod(0o700)
    answer = federated.program(*CONNECT, BROWSER=str(browser))
    link = re.search(r"http://127\.0\.0\.1:\d+/consent/\S+", answer.err)
    assert link
    assert urlsplit(link[0]).port == federated.port
    assert "consent/" not in given.read_text()
    assert f'url={link[0]}"' in page.read_text()
    assert not path_of(given.read_text().strip()).parent.exists()


@posix
@pytest.mark.parametrize("browser", ["false", "no-such-browser"])
def test_without_a_browser_the_printed_link_remains(federated: CommandLine, browser: str) -> None:
    answer = federated.program(*CONNECT, BROWSER=browser)
    assert f"http://127.0.0.1:{federated.port}/consent/" in answer.err
    assert "Nobody has answered yet" in answer.err


@posix
def test_this_machines_user_consents_here_also_where_a_server_has_the_vault(federated: CommandLine) -> None:
    answer = federated.program(*CONNECT, BROWSER="false", MCP_IDENTITY_PUBLIC_URL="https://identity.example.com")
    assert f"http://127.0.0.1:{federated.port}/consent/" in answer.err
