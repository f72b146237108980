"""What is in the folder of a vault that processes are started on, and what does its trail say?"""

from __future__ import annotations

import atexit
import json
import socket
import sqlite3
from contextlib import closing
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import cache
from pathlib import Path
from shutil import copyfile, rmtree
from tempfile import mkdtemp
from typing import Any

import anyio.to_thread

from mcp_identity import app
from mcp_identity.broker.answers import ProviderSpec, TokenRequest
from mcp_identity.domain.credentials import Grant, Secret
from mcp_identity.settings import Settings
from mcp_identity.vault.records import Records
from tests.fakes.browser import Browser
from tests.fakes.clock import FakeClock
from tests.fakes.mcp_client import environment_of
from tests.fakes.postgres import Database, postgres
from tests.fakes.vendor import CLIENT_ID, Vendor, new_secret


def free_port() -> int:
    """A port of this machine that nobody holds now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@cache
def _ready() -> Path:
    """A folder with a vault that nobody has used; made once for each process of the tests."""
    folder = Path(mkdtemp(prefix="mcp-identity-tests-"))
    atexit.register(rmtree, folder, ignore_errors=True)
    app.prepare(Settings(home=folder / "home"), clock=FakeClock()).close()
    return folder / "home"


def put_vault(home: Path) -> None:
    """See to it that there is a vault in a folder: a copy of one, where making another would only take time.

    All copies have one key and one id; whoever needs another vault lets the product make it.
    """
    if home.exists():
        return
    home.mkdir(mode=0o700, parents=True)
    for name in ("key", "vault.db"):
        copyfile(_ready() / name, home / name)
        (home / name).chmod(0o600)


@cache
def _ready_database() -> tuple[Path, Database]:
    """The same on PostgreSQL: the folder of its key, and its database."""
    folder = Path(mkdtemp(prefix="mcp-identity-tests-"))
    atexit.register(rmtree, folder, ignore_errors=True)
    database = postgres().create_database()
    app.prepare(Settings(home=folder / "home", database_url=database.url), clock=FakeClock()).close()
    return folder / "home", database


def put_postgres_vault(home: Path) -> Database:
    """See to it that there is a vault on PostgreSQL, with its key in a folder; its database.

    All of these vaults have one key and one id, as those of `put_vault` have.
    """
    made, database = _ready_database()
    home.mkdir(mode=0o700, parents=True, exist_ok=True)
    copyfile(made / "key", home / "key")
    (home / "key").chmod(0o600)
    return database.copy()


@dataclass(frozen=True, slots=True)
class VaultHome:
    """A vault's folder, and the port of its pages.

    Attributes:
        path: The folder.
        port: The callback port.
        api_key: The key of the provider `weather`.
        database_url: Where the vault is; empty for a file in the folder.
    """

    path: Path
    port: int = field(default_factory=free_port)
    api_key: str = field(default_factory=new_secret)
    database_url: str = ""

    def environment(self, **settings: str) -> dict[str, str]:
        """The environment of a process on this vault, with limits that do not stand in a test's way."""
        given = {"LINKS_PER_MINUTE": "1000", "PENDING_CONSENTS": "1000", "DATABASE_URL": self.database_url, **settings}
        return environment_of(self.path, self.port, **given)

    def settings(self) -> Settings:
        """The same for this process."""
        return Settings(
            home=self.path,
            database_url=self.database_url,
            callback_port=self.port,
            links_per_minute=1000,
            pending_consents=1000,
        )

    async def add_providers(self, vendor: Vendor) -> None:
        """Make the vault, with `notes` for users, `billing` for the client itself, and the keys `weather` and `sealed`."""
        custom: dict[str, Any] = {
            "vendor": "custom",
            "client_id": CLIENT_ID,
            "secret": Secret(vendor.client_secret),
            "scopes": ("read",),
            "allow_http_loopback": True,
        }
        api_key: dict[str, Any] = {"vendor": "api-key", "secret": Secret(self.api_key)}
        specs = {
            "notes": ProviderSpec(settings={**vendor.settings, "flows": "USER_FEDERATION"}, **custom),
            "billing": ProviderSpec(settings={**vendor.settings, "flows": "M2M"}, **custom),
            "weather": ProviderSpec(release="token", **api_key),
            "sealed": ProviderSpec(release="never", **api_key),
        }
        async with app.open(self.settings()) as graph:
            operator = graph.broker.directory.operator(graph.user)
            for name, spec in specs.items():
                await graph.broker.directory.add(graph.broker.call(operator, "create_provider"), name, spec)

    async def connect(self, *, workload: str = "claude-desktop", hours_ago: float = 0) -> None:
        """Let a person give an agent a grant at `notes`; made hours ago, its access token has ended by now."""
        prepared = app.prepare(self.settings(), clock=_Earlier(timedelta(hours=hours_ago)))
        async with app.running(prepared) as graph:
            principal = await graph.broker.directory.local_principal(workload, graph.user, "stdio")
            call = graph.broker.call(principal, "start_consent")
            consent = await graph.broker.start_consent(call, TokenRequest("notes"))
            await person_consents(consent.authorization_url)
            status = await graph.broker.get_consent(graph.broker.call(principal, "get_consent"), consent.session_uri)
            assert status.status == "completed", status

    async def tokens(self, workload: str = "claude-desktop") -> tuple[str, str]:
        """The access and the refresh token that an agent's grant at `notes` holds."""
        prepared = app.prepare(self.settings())

        def unit(records: Records) -> list[Grant]:
            provider = records.find_provider("default", "notes")
            found = records.find_workload("default", workload)
            assert provider is not None
            assert found is not None
            grants = records.list_provider_grants("default", provider.id).grants
            return [grant for grant in grants if grant.key.workload_id == found.id]

        async with app.running(prepared):
            (grant,) = await prepared.vault.read(unit)
        assert grant.tokens is not None
        assert grant.tokens.refresh_token is not None
        return grant.tokens.access_token.reveal(), grant.tokens.refresh_token.reveal()

    def trail(self) -> list[dict[str, Any]]:
        """The events of the audit trail, oldest first."""
        with closing(sqlite3.connect(f"file:{self.path / 'vault.db'}?mode=ro", uri=True)) as connection:
            connection.row_factory = sqlite3.Row
            rows = connection.execute("SELECT * FROM audit_events ORDER BY rowid").fetchall()
        return [{**dict(row), "detail": json.loads(row["detail"] or "{}")} for row in rows]


class _Earlier(app.SystemClock):
    """A clock that is behind."""

    def __init__(self, behind: timedelta) -> None:
        self._behind = behind

    def now(self) -> datetime:
        return super().now() - self._behind


async def person_consents(link: str) -> str:
    """A person opens the link in a browser of their own and agrees; what the last page says."""

    def walk() -> str:
        with Browser() as browser:
            return browser.consent(link).text

    return await anyio.to_thread.run_sync(walk)
