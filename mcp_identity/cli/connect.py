"""`mcp-identity connect`: ask the user for consent, and see it through."""

from __future__ import annotations

import sys
import webbrowser
from collections.abc import Generator
from contextlib import ExitStack, contextmanager, suppress
from html import escape
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated
from urllib.parse import urlsplit

import anyio
import anyio.to_thread
import typer

from mcp_identity.broker.answers import OPEN_STATUS, ConsentRequired, TokenRequest
from mcp_identity.cli.failures import FAILED, print_failure
from mcp_identity.cli.options import ProviderArgument, ResourceOption, ScopesOption, UserOption, WorkloadOption, examples
from mcp_identity.cli.output import local_time, say
from mcp_identity.cli.session import principal_of, run, settings_of, tenant_of
from mcp_identity.domain.consent import SESSION_LIFETIME
from mcp_identity.domain.credentials import Flow, GrantState

if TYPE_CHECKING:
    from mcp_identity.app import Graph
    from mcp_identity.broker.answers import ConsentStatus
    from mcp_identity.domain.identity import Principal

EXAMPLES = examples(
    "mcp-identity connect github-work",
    'mcp-identity connect github-work --scopes "repo" --workload claude-desktop',
    "mcp-identity connect github-work --force --no-browser",
)
_LONGEST_WAIT = 50.0
_LAST_PAGE_SECONDS = 1.0
"""How long the page is served on once the consent has ended: the browser still fetches what tells the outcome."""
_REDIRECT = """\
<!doctype html>
<meta charset="utf-8">
<meta name="referrer" content="no-referrer">
<meta http-equiv="refresh" content="0; url={0}">
<title>Continue</title>
<a href="{0}">Continue</a>
"""
_LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})


def connect(
    context: typer.Context,
    provider: ProviderArgument,
    scopes: ScopesOption = "",
    resource: ResourceOption = "",
    force: Annotated[bool, typer.Option("--force", help="Ask again, whatever is granted already.")] = False,
    no_browser: Annotated[bool, typer.Option("--no-browser", help="Print the link and open no browser.")] = False,
    wait_seconds: Annotated[
        float, typer.Option("--wait-seconds", min=0, help="How long to wait for the answer.")
    ] = SESSION_LIFETIME.total_seconds(),
    workload: WorkloadOption = None,
    user: UserOption = None,
) -> None:
    """Ask for your consent in the browser and wait for the answer. Exit status 0 once the account is connected."""
    settings = settings_of(context, workload=workload, user=user)

    async def errand(graph: Graph) -> bool:
        principal = await principal_of(graph, tenant_of(context))
        asked = frozenset(scopes.split())
        wanted = asked if force else await _scopes_to_ask(graph, principal, provider, asked, resource)
        if wanted is None:
            typer.echo(f"{provider} is connected already; --force asks again.")
            return True
        request = TokenRequest(provider, tuple(sorted(wanted)), Flow.USER_FEDERATION.value, resource)
        consent = await graph.broker.start_consent(graph.broker.call(principal, "start_consent"), request)
        say(f"Open this link to connect {provider}:\n\n  {consent.authorization_url}\n")
        with ExitStack() as until_answered:
            if not no_browser and may_open(consent.authorization_url):
                with suppress(OSError):  # the printed link remains
                    page = until_answered.enter_context(private_page(consent.authorization_url))
                    await anyio.to_thread.run_sync(webbrowser.open, page)
            until_answered.enter_context(_waiting(f"waiting for the answer, until {local_time(consent.expires_at)}"))
            status = await _wait(graph, principal, consent, wait_seconds)
        return _tell(provider, status)

    if not run(settings, errand, as_local_user=True):
        raise typer.Exit(FAILED)


def may_open(url: str) -> bool:
    """Whether a browser may be started on this URL: https, or http on this machine."""
    parts = urlsplit(url)
    return parts.scheme == "https" or (parts.scheme == "http" and parts.hostname in _LOOPBACK)


@contextmanager
def private_page(link: str) -> Generator[str]:
    """A page on the disk that leads to `link`, and that only this user can read; its URL, good while the block lasts.

    A browser is given what to open as an argument, and everybody on the machine can read a program's arguments.
    """
    with TemporaryDirectory(prefix="mcp-identity-", ignore_cleanup_errors=True) as folder:
        page = Path(folder, "continue.html")
        page.touch(0o600)
        page.write_text(_REDIRECT.format(escape(link)), "utf-8")
        yield page.as_uri()


async def _scopes_to_ask(
    graph: Graph, principal: Principal, name: str, asked: frozenset[str], resource: str
) -> frozenset[str] | None:
    """What a consent is needed for, with what is granted already, so that nothing of it is lost; None for nothing."""
    from mcp_identity.app import SystemClock

    provider = await graph.broker.directory.find(principal.tenant, name)
    asked = asked or (provider.scopes if provider else frozenset())
    listing = await graph.broker.list_grants(graph.broker.call(principal, "list_grants"))
    for grant in listing.grants:
        if (grant.provider, grant.flow, grant.resource, grant.audience) == (name, Flow.USER_FEDERATION, resource, ""):
            granted, ends = frozenset(grant.scopes), grant.expires_at
            lives = grant.state is GrantState.ACTIVE and (grant.refreshable or ends is None or ends > SystemClock().now())
            return None if lives and asked <= granted else asked | granted
    return asked


async def _wait(graph: Graph, principal: Principal, consent: ConsentRequired, seconds: float) -> ConsentStatus:
    """Wait until the consent has ended, or the time is over."""
    deadline = anyio.current_time() + seconds
    while True:
        left = min(max(deadline - anyio.current_time(), 0.0), _LONGEST_WAIT)
        status = await graph.broker.get_consent(graph.broker.call(principal, "get_consent"), consent.session_uri, left)
        if status.status != OPEN_STATUS:
            await anyio.sleep(_LAST_PAGE_SECONDS)
            return status
        if anyio.current_time() >= deadline:
            return status


@contextmanager
def _waiting(text: str) -> Generator[None]:
    """Show that somebody is waited for; at a terminal something turns meanwhile."""
    if not sys.stderr.isatty():
        say(text)
        yield
        return
    from rich.console import Console

    with Console(stderr=True).status(text):
        yield


def _tell(provider: str, status: ConsentStatus) -> bool:
    if status.status == "completed":
        typer.echo(f"{provider} is connected.")
        return True
    if status.status == OPEN_STATUS:
        until = local_time(status.expires_at)
        say(f"Nobody has answered yet. The link lives until {until} wherever a server of this vault runs.")
    else:
        print_failure(f"the consent ended as {status.status}", status.error_code)
    return False
