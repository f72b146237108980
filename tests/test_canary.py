"""Where do secrets come to light? Only where they are released: in that one answer, and nowhere else.

Every secret here is 32 random bytes that stand nowhere by chance. They go through every tool and command, and through every
failure that can be forced, while everything is logged. Then all that was said and stored is searched for them, as they are,
in base64, in hexadecimal and URL-encoded.
"""

from __future__ import annotations

import base64
import json
import logging
import re
import sqlite3
import sys
from collections.abc import AsyncGenerator, Generator, Iterable
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, quote, urlsplit

import anyio.to_thread
import pytest
from mcp import Client
from typer.testing import CliRunner, Result

from mcp_identity import app
from mcp_identity.cli.application import application
from mcp_identity.cli.logs import configure_logging
from mcp_identity.domain.http import HttpRequest, HttpResponse
from mcp_identity.tools.caller import Local, StdioCaller
from mcp_identity.tools.server import build_server
from mcp_identity.transport import Transport
from tests.fakes.browser import Browser
from tests.fakes.home import VaultHome
from tests.fakes.mcp_client import Json, McpClient, mcp_client
from tests.fakes.vendor import ECHOES, Echo, Vendor, new_secret, running_vendor


def forms_of(secret: bytes) -> list[bytes]:
    """A secret as it is, and in every encoding in which it could slip out, also as a part of something longer."""
    forms = [
        secret,
        secret.hex().encode(),
        quote(secret, safe="").encode(),
        json.dumps(secret.decode("latin-1")).encode()[1:-1],
    ]
    for shift in range(3):
        encoded = base64.b64encode(b"\0" * shift + secret)
        # The first and the last group also hold bits of what stands beside the secret.
        whole = encoded[4 if shift else 0 :].rstrip(b"=")[: -2 if (len(secret) + shift) % 3 else None]
        forms += [whole, whole.translate(bytes.maketrans(b"+/", b"-_"))]
    return forms


@dataclass(slots=True)
class Watch:
    """Everything that was said and stored, and the secrets that must not stand in it.

    Attributes:
        home: The vault.
        vendor: Who gave tokens.
        secrets: Secrets that are nobody's release.
        said: What was said where.
    """

    home: VaultHome
    vendor: Vendor
    secrets: set[str] = field(default_factory=set[str])
    said: list[tuple[str, bytes]] = field(default_factory=list[tuple[str, bytes]])

    def hear(self, where: str, text: object, *, releases: str = "") -> None:
        """Keep what was said; a release must stand in it, and is taken out."""
        said = text if isinstance(text, bytes) else str(text).encode()
        if releases:
            assert releases.encode() in said, where
            said = said.replace(releases.encode(), b"(released)")
        self.said.append((where, said))

    def search(self) -> list[str]:
        """Where secrets stand that must not."""
        stored = [(path.name, path.read_bytes()) for path in self.home.path.rglob("*") if path.is_file() and path.name != "key"]
        assert any(name.endswith(".db") for name, _ in stored)
        return [
            f"{name} in {where}: {_around(text, form)!r}"
            for where, text in [*stored, *self.said]
            for name, secret in self._all()
            for form in forms_of(secret)
            if form in text
        ]

    def _all(self) -> Iterable[tuple[str, bytes]]:
        _, _, key, _ = (self.home.path / "key").read_text().split(":")
        yield "the key", key.encode()
        yield "the key's bytes", base64.urlsafe_b64decode(f"{key}=")
        yield "the client secret", self.vendor.client_secret.encode()
        yield "the API key", self.home.api_key.encode()
        yield from (("a token or code", secret.encode()) for secret in self.vendor.minted)
        yield from (("another secret", secret.encode()) for secret in self.secrets)


def _around(text: bytes, form: bytes) -> bytes:
    at = text.index(form)
    return text[max(at - 60, 0) : at + 12]


@pytest.fixture
async def watch(tmp_path: Path) -> AsyncGenerator[Watch]:
    """A vault with providers, whose every secret is watched."""
    async with running_vendor() as vendor:
        watch = Watch(VaultHome(tmp_path / "home"), vendor)
        await watch.home.add_providers(vendor)
        yield watch


@contextmanager
def everything_logged(watch: Watch) -> Generator[None]:
    """Keep every record of this process, formatted with all that it carries, while the block lasts."""
    root, records = logging.getLogger(), _Records()
    handlers, level = list(root.handlers), root.level
    configure_logging("DEBUG", "human")
    root.addHandler(records)
    logging.getLogger("mcp_identity").debug("everything is heard")
    try:
        yield
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)
    assert "everything is heard" in records.lines[0]
    watch.hear("the log records", "\n".join(records.lines))


class _Records(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.lines: list[str] = []
        self.setFormatter(logging.Formatter("%(name)s %(message)s %(args)s"))

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(self.format(record))


async def call(watch: Watch, client: McpClient, tool: str, **arguments: Any) -> Json:
    """Call a tool and keep what it says, but for its own release."""
    answer = await client.call(tool, **arguments)
    release = answer.get("access_token") or answer.get("api_key") or ""
    watch.hear(tool, client.lines[-1], releases=release)
    return answer


async def consent(watch: Watch, link: str) -> None:
    """A person consents; the state and the cookies of their browser are secrets too."""

    def walk() -> list[str]:
        with Browser() as browser:
            page = browser.consent(link)
            watch.hear("the last page", page.html)
            queries = [parse_qs(urlsplit(hop.url).query) for hop in page.hops]
            cookies = [
                value for hop in page.hops for value in re.findall(r"=([^;]{20,})", hop.request_headers.get("Cookie", ""))
            ]
            return [state for query in queries for state in query.get("state", [])] + cookies

    found = await anyio.to_thread.run_sync(walk)
    assert len(found) >= 2
    watch.secrets.update(found)


def close(watch: Watch, client: McpClient) -> None:
    """Keep what a server said on stderr, and on stdout beside the answers that `call` has kept."""
    watch.hear("stderr", bytes(client.log))
    watch.hear("stdout", b"\n".join(line for line in client.lines if b'"structuredContent"' not in line))


LOUD = {"LOG_LEVEL": "DEBUG"}


def test_the_search_finds_a_secret_in_every_form() -> None:
    secret = new_secret().encode()
    for hidden in (
        secret,
        b"x" + secret + b"y",
        base64.b64encode(b"client:" + secret),
        base64.urlsafe_b64encode(b"a:" + secret + b":b"),
        base64.b64encode(secret),
        secret.hex().encode(),
    ):
        assert any(form in hidden for form in forms_of(secret)), hidden
    assert not any(form in new_secret().encode() for form in forms_of(secret))


async def test_every_tool_shows_a_secret_only_as_its_release(watch: Watch) -> None:
    async with mcp_client(watch.home.environment(**LOUD)) as client:
        await call(watch, client, "whoami")
        await call(watch, client, "get_api_key", provider="weather")
        assert (await call(watch, client, "get_api_key", provider="sealed"))["code"] == "access_denied"
        await call(watch, client, "get_token", provider="billing")
        required = await call(watch, client, "get_token", provider="notes")
        await consent(watch, required["authorization_url"])
        await call(watch, client, "get_consent", session_uri=required["session_uri"])
        assert (await call(watch, client, "get_token", provider="notes"))["status"] == "ok"
        forced = await call(watch, client, "start_consent", provider="notes")
        await consent(watch, forced["authorization_url"])
        await call(watch, client, "get_token", provider="notes", session_uri=forced["session_uri"])
        await call(watch, client, "list_providers")
        await call(watch, client, "list_grants")
        for uri in ("identity://providers", "identity://grants"):
            watch.hear(uri, await client.request("resources/read", uri=uri))
        assert watch.search() == []  # while its journal is full
        await call(watch, client, "revoke_grant", provider="notes")
        await call(watch, client, "revoke_grant", provider="billing")
        await client.close_input()
        assert await client.wait() == 0
        close(watch, client)
    assert len(watch.vendor.minted) >= 7
    assert watch.search() == []


async def test_a_vendor_that_repeats_our_secrets_is_not_repeated(watch: Watch) -> None:
    async with mcp_client(watch.home.environment(**LOUD)) as client:
        for echo in ECHOES:
            watch.vendor.echo = echo
            assert (await call(watch, client, "get_token", provider="billing", scopes=[echo.replace(" ", "-")]))[
                "status"
            ] == "error"
            forced = await call(watch, client, "start_consent", provider="notes")
            await consent(watch, forced["authorization_url"])
            assert (await call(watch, client, "get_consent", session_uri=forced["session_uri"]))["status"] == "failed", echo
            await call(watch, client, "get_token", provider="notes", session_uri=forced["session_uri"])
        await call(watch, client, "list_grants")
        close(watch, client)
    with everything_logged(watch):
        for watch.vendor.echo in ECHOES:
            await command(watch, "providers", "test", "billing")
            await command(watch, "--workload", "shell", "token", "billing")
        await command(watch, "audit", "tail", "-n", "1000", "--json")
    assert watch.search() == []


@pytest.mark.parametrize("echo", ["description", "dead grant"])
async def test_a_refused_refresh_is_not_repeated(echo: Echo, watch: Watch) -> None:
    await watch.home.connect(hours_ago=2)
    watch.vendor.echo = echo
    async with mcp_client(watch.home.environment(**LOUD)) as client:
        answer = await call(watch, client, "get_token", provider="notes")
        assert answer["status"] == {"description": "error", "dead grant": "consent_required"}[echo]
        await call(watch, client, "list_grants")
        close(watch, client)
    assert watch.search() == []


async def test_broken_storage_says_nothing_of_what_it_holds(watch: Watch) -> None:
    await watch.home.connect(hours_ago=2)
    async with mcp_client(watch.home.environment(**LOUD)) as client:
        await call(watch, client, "whoami")
        with edited(watch.home) as database:
            database.execute("CREATE TRIGGER broken BEFORE INSERT ON audit_events BEGIN SELECT RAISE(ABORT, 'no'); END")
            for tool, provider in (("get_token", "notes"), ("get_token", "billing"), ("get_api_key", "weather")):
                assert (await call(watch, client, tool, provider=provider))["code"] == "audit_unavailable"
            database.execute("DROP TRIGGER broken")
            _limit_files(client.process.pid, 0)
            for tool, provider in (("get_token", "notes"), ("get_token", "billing"), ("get_api_key", "weather")):
                assert (await call(watch, client, tool, provider=provider))["code"] in {
                    "vault_unavailable",
                    "audit_unavailable",
                }
            _limit_files(client.process.pid, 1 << 30)
            database.execute("UPDATE grants SET tokens = zeroblob(length(tokens))")
            database.execute("UPDATE credential_providers SET secret = zeroblob(length(secret))")
        for tool, provider in (("get_token", "notes"), ("get_token", "billing"), ("get_api_key", "weather")):
            assert (await call(watch, client, tool, provider=provider))["status"] == "error"
        await call(watch, client, "list_grants")
        await call(watch, client, "list_providers")
        close(watch, client)
    with everything_logged(watch):
        await command(watch, "doctor", "--json")
        await command(watch, "providers", "show", "weather")
    assert watch.search() == []


async def test_every_command_shows_a_secret_only_as_its_release(watch: Watch) -> None:
    first, second = new_secret(), new_secret()
    watch.secrets |= {first, second}
    with everything_logged(watch):
        await command(watch, "init")
        endpoints = [f"--{name.replace('_', '-')}={url}" for name, url in watch.vendor.settings.items()]
        added = ("providers", "add", "more", "--client-id", "id", *endpoints, "--allow-http-loopback", "--client-secret-stdin")
        await command(watch, *added, stdin=first)
        await command(watch, "providers", "update", "more", "--client-secret-env", "NEW_SECRET", NEW_SECRET=second)
        await command(
            watch, "providers", "update", "more", "--client-secret-env", "NEW_SECRET", "--api-key-stdin", NEW_SECRET=second
        )
        await command(
            watch, "providers", "add", "key", "--kind", "api-key", "--release", "token", "--api-key-stdin", stdin=first
        )
        for name in ("more", "weather", "notes"):
            await command(watch, "providers", "show", name)
            await command(watch, "providers", "show", name, "--json")
        await command(watch, "providers", "list")
        await command(watch, "providers", "list", "--json")
        await command(watch, "providers", "test", "weather")
        await command(watch, "--workload", "shell", "token", "weather", releases=watch.home.api_key)
        await command(watch, "--workload", "shell", "token", "weather", "--json", releases=watch.home.api_key)
        await command(watch, "--workload", "shell", "token", "sealed")
        await command(watch, "--workload", "shell", "token", "notes")
        await command(watch, "--workload", "shell", "connect", "notes", "--no-browser", "--wait-seconds", "0")
        await command(watch, "--workload", "shell", "grants", "list", "--json")
        await command(watch, "--workload", "shell", "grants", "revoke", "notes")
        await command(watch, "audit", "tail", "-n", "1000", "--json")
        await command(watch, "doctor")
        await command(watch, "providers", "remove", "more", "--yes")
        await command(watch, "providers", "list", MCP_IDENTITY_LOG_LEVEL=first)
        await command(watch, "providers", "list", MCP_IDENTITY_KEY=f"literal:{second}")
    assert watch.search() == []


async def test_the_token_commands_release_one_token_each(watch: Watch) -> None:
    await watch.home.connect(workload="shell")
    with everything_logged(watch):
        for provider in ("notes", "billing"):
            done = await _run(watch, "--workload", "shell", "token", provider)
            assert done.stdout.strip() in watch.vendor.minted
            watch.hear(f"token {provider}", done.stdout + done.stderr, releases=done.stdout.strip())
    assert watch.search() == []


class BrokenTransport(Transport):
    """An HTTP client with a fault in it, whose exception holds all that it was given."""

    async def send(self, request: HttpRequest, *, allow_http_loopback: bool = False) -> HttpResponse:
        del allow_http_loopback
        raise RuntimeError(repr((request.url, request.headers, request.body)))


async def test_an_unforeseen_exception_that_holds_secrets_is_not_told(watch: Watch, capfd: pytest.CaptureFixture[str]) -> None:
    await watch.home.connect(workload="agent", hours_ago=2)
    configure_logging("DEBUG", "json")
    prepared = app.prepare(watch.home.settings(), transport=BrokenTransport())
    async with app.running(prepared) as graph:

        async def local() -> Local:
            return Local(graph.broker, graph.user, "agent")

        async with Client(build_server(StdioCaller(local), version="0")) as client:
            for provider in ("notes", "billing"):
                answer = await client.call_tool("get_token", {"provider": provider})
                assert answer.structured_content is not None
                assert answer.structured_content["code"] == "internal_error"
                watch.hear("a tool", answer.model_dump_json())
    said = capfd.readouterr()
    assert "RuntimeError" in said.err
    watch.hear("stdout", said.out)
    watch.hear("stderr", said.err)
    logging.getLogger().setLevel(logging.WARNING)
    assert watch.search() == []


async def command(watch: Watch, *arguments: str, stdin: str = "", releases: str = "", **environment: str) -> None:
    """Run a command in this process and keep what it says, but for its own release."""
    done = await _run(watch, *arguments, stdin=stdin, **environment)
    watch.hear(" ".join(arguments), done.stdout + done.stderr, releases=releases)


async def _run(watch: Watch, *arguments: str, stdin: str = "", **environment: str) -> Result:
    given = {**watch.home.environment(**LOUD), **environment}

    def invoke() -> Result:
        return CliRunner().invoke(application, [*arguments], input=stdin, env=given, prog_name="mcp-identity")

    return await anyio.to_thread.run_sync(invoke)


@contextmanager
def edited(home: VaultHome) -> Generator[sqlite3.Connection]:
    """The database, as somebody else edits it."""
    with closing(sqlite3.connect(home.path / "vault.db", isolation_level=None)) as connection:
        yield connection


def _limit_files(pid: int, size: int) -> None:
    """Let no file of a process grow beyond a size, as a full disk does."""
    if sys.platform == "linux":
        import resource

        resource.prlimit(pid, resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
