"""What do the examples stand on? A folder that is thrown away, servers of this machine, and our command line."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import socket
import sqlite3
import subprocess
import sys
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
from rich.console import Console

HERE = Path(__file__).parent
SECRETS = (
    "credential_providers.secret", "issuers.login_client_secret", "grants.tokens", "access_keys.secret",
    "consent_sessions.attempt_sealed", "consent_sessions.code", "login_transactions.sealed",
)  # fmt: skip
"""The cells of the vault that hold what others gave us."""
console = Console(highlight=False, width=None if sys.stdout.isatty() else 120)


@dataclass(frozen=True)
class World:
    """Where everything of a demonstration is."""

    folder: Path
    environment: dict[str, str]

    @classmethod
    def below(cls, folder: Path, **settings: str) -> World:
        """A world in a temporary folder; of the environment only what programs need is kept."""
        kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG", "SYSTEMROOT") if name in os.environ}
        return cls(folder, {**kept, "MCP_IDENTITY_HOME": str(folder / "home"), **settings})

    def command(self, *arguments: str) -> list[str]:
        """Our program with these arguments."""
        return [sys.executable, "-m", "mcp_identity", *arguments]

    def cli(self, *arguments: str, **variables: str) -> str:
        """Run our command line, as an operator would."""
        environment = {**self.environment, **variables}
        done = subprocess.run(self.command(*arguments), env=environment, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(f"{' '.join(arguments)} failed: {done.stderr}")
        return done.stdout

    def audit(self) -> list[dict[str, Any]]:
        """The trail, oldest first."""
        return [json.loads(line) for line in self.cli("audit", "tail", "-n", "200", "--json").splitlines()]

    def secrets_left(self) -> dict[str, int]:
        """How many sealed secrets of others the vault holds, by what they are; those that are there at all."""
        found: dict[str, int] = {}
        (file,) = (self.folder / "home").glob("vault.db")
        with contextlib.closing(sqlite3.connect(f"file:{file}?mode=ro", uri=True)) as vault:
            for cell in SECRETS:
                table, _, column = cell.partition(".")
                (count,) = vault.execute(f"SELECT count(*) FROM {table} WHERE length({column}) > 0").fetchone()  # noqa: S608
                if count:
                    found[cell] = count
        return found

    @contextlib.contextmanager
    def vendor(self, port: int, clients: list[dict[str, Any]], *, token_seconds: int = 300) -> Generator[dict[str, Any]]:
        """Run the independent OAuth server, with these clients registered."""
        listing = self.folder / "vendor-clients.json"
        listing.write_text(json.dumps(clients))
        server = [str(HERE / "authorization_server.py"), "--directory", str(self.folder), "--port", str(port)]
        with started(*server, "--clients", str(listing), "--access-token-seconds", str(token_seconds)) as ready:
            yield ready


@contextlib.contextmanager
def started(*arguments: str) -> Generator[dict[str, Any]]:
    """Run a server of the examples; it says in one JSON line where it is, and ends when its input does."""
    command = [sys.executable, *arguments, "--stop-when-input-ends"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:
        try:
            line = server.stdout.readline() if server.stdout else ""
            yield json.loads(line)
        finally:
            server.terminate()


def notes_client(redirect_uri: str, secret: str) -> dict[str, Any]:
    """What the vendor has to know of us for a provider that asks users."""
    return {
        "client_id": "notes-app",
        "client_secret": secret,
        "grant": "authorization-code",
        "redirect_uris": [redirect_uri],
        "name": "Notes",
    }


def new_secret() -> str:
    """A client secret."""
    return secrets.token_urlsafe(24)


def free_port() -> int:
    """A port of this machine that nobody uses now."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


def step(number: int, title: str, why: str = "") -> None:
    """Announce what comes next."""
    console.print(f"\n[bold cyan]{number}. {title}[/]")
    if why:
        console.print(f"   [dim]{why}[/]")


def shortened(token: str) -> str:
    """A token that nobody can use, but everybody can recognise."""
    return f"{token[:6]}…{token[-4:]} ({len(token)} characters)"


def whose(token: str, vendor: dict[str, Any]) -> str:
    """Ask the vendor's own API whose token this is."""
    answer = httpx2.get(vendor["me_url"], headers={"Authorization": f"Bearer {token}"})
    about = answer.json()
    return f"{answer.status_code}: {about.get('username') or about.get('client')}, {about.get('scopes')}"
