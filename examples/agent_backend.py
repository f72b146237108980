"""An agent backend that serves many users: what it takes to act for each of them, and for nobody else.

The company has an identity provider, and its employees use an agent in the company's own application. The application sends
the employee's token along; the agent's backend passes it to mcp-identity with every request, and gets that employee's
credentials, for this agent. It stores no token and asks nobody for a password.

`agent_over_http.py` and `agent_over_sse.py` run it over the two transports. Everything is real, and on this machine: the
company's identity provider, the vendor's authorization server and API, the browsers' requests, and our server.
"""

from __future__ import annotations

import contextlib
import json
import secrets
import signal
import subprocess
import tempfile
from base64 import urlsafe_b64encode
from collections.abc import AsyncGenerator, Generator
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal
from urllib.parse import parse_qs, urlencode, urlsplit

import anyio
import anyio.to_thread
import httpx2
from browser import Browser
from mcp import Client
from mcp.client.sse import sse_client
from mcp.client.streamable_http import streamable_http_client
from world import HERE, World, console, free_port, new_secret, notes_client, shortened, started, step, whose

Transport = Literal["http", "sse"]
START_SECONDS = 30
APP = "company-app"


class AgentBackend:
    """The agent: one question of one user at a time, on that user's behalf.

    Args:
        base_url: Where mcp-identity is.
        transport: How it is spoken to.
    """

    def __init__(self, base_url: str, transport: Transport) -> None:
        self._base_url = base_url
        self._transport = transport

    async def answer(self, user_token: str, vendor: dict[str, Any]) -> str:
        """Answer "whose notes can you read?", or say where the user has to agree first."""
        async with self._client(user_token) as client:
            token = await _call(client, "get_token", provider="notes")
            if token["status"] == "consent_required":
                return f"Please connect your notes first: {token['authorization_url']}"
            if token["status"] != "ok":
                return f"I cannot: {token['code']}"
            console.print(f"   the agent got {shortened(token['access_token'])}, good until {token['expires_at']}")
            return f"I can read the notes of {await anyio.to_thread.run_sync(whose, token['access_token'], vendor)}"

    async def whoami(self, user_token: str) -> dict[str, Any]:
        """As whom it acts with this token."""
        async with self._client(user_token) as client:
            return await _call(client, "whoami")

    @contextlib.asynccontextmanager
    async def _client(self, user_token: str) -> AsyncGenerator[Client]:
        headers = {"Authorization": f"Bearer {user_token}"}
        if self._transport == "sse":
            async with Client(sse_client(f"{self._base_url}/sse", headers=headers)) as client:
                yield client
        else:
            async with (
                httpx2.AsyncClient(headers=headers, timeout=60) as http,
                Client(streamable_http_client(f"{self._base_url}/mcp", http_client=http)) as client,
            ):
                yield client


async def _call(client: Client, tool: str, **arguments: Any) -> dict[str, Any]:
    return (await client.call_tool(tool, arguments)).structured_content or {}


@dataclass(frozen=True)
class Company:
    """The company's application, as far as signing in goes."""

    idp: dict[str, Any]
    redirect_uri: str

    def sign_in(self, person: Browser, username: str, password: str) -> str:
        """What the application does when somebody signs in: authorization code with PKCE; the access token."""
        verifier, state = secrets.token_urlsafe(32), secrets.token_urlsafe(16)
        challenge = urlsafe_b64encode(sha256(verifier.encode()).digest()).rstrip(b"=").decode()
        asked = {
            "response_type": "code",
            "client_id": APP,
            "redirect_uri": self.redirect_uri,
            "state": state,
            "scope": "openid",
            "code_challenge": challenge,
            "code_challenge_method": "S256",
        }
        page = person.get(f"{self.idp['issuer']}/authorize?{urlencode(asked)}")
        if page.forms:  # else the browser is signed in there already
            page = person.submit(page.forms[0], page=page, username=username, password=password)
        answer = {name: values[0] for name, values in parse_qs(urlsplit(page.url).query).items()}
        if not secrets.compare_digest(answer.get("state", ""), state):
            raise SystemExit("the answer belongs to another sign-in")
        exchange = {
            "grant_type": "authorization_code",
            "code": answer["code"],
            "redirect_uri": self.redirect_uri,
            "client_id": APP,
            "code_verifier": verifier,
        }
        tokens: dict[str, str] = httpx2.post(f"{self.idp['issuer']}/token", data=exchange).json()
        return tokens["access_token"]


@contextlib.contextmanager
def serving(world: World, transport: Transport, port: int, *options: str) -> Generator[str]:
    """Run our server, until the block ends."""
    base_url = f"http://127.0.0.1:{port}"
    command = world.command("serve", "--transport", transport, "--port", str(port), *options)
    with subprocess.Popen(command, env=world.environment) as server:
        try:
            _wait_until_ready(server, base_url)
            yield base_url
        finally:
            server.send_signal(signal.SIGTERM)


def _wait_until_ready(server: subprocess.Popen[bytes], base_url: str) -> None:
    """Wait until the server says that it can answer."""
    with httpx2.Client(transport=httpx2.HTTPTransport(retries=5), trust_env=False) as client:
        for _ in range(START_SECONDS * 10):
            with contextlib.suppress(httpx2.HTTPError):
                if client.get(f"{base_url}/readyz").is_success:
                    return
            try:
                server.wait(0.1)
            except subprocess.TimeoutExpired:
                continue
            raise SystemExit("the server did not start")
    raise SystemExit("the server is not ready")


def set_up(world: World, idp: dict[str, Any], vendor_port: int, clients_file: Path) -> list[dict[str, Any]]:
    """What the operator does once: name the company's identity provider, the agent, and the vendor.

    Returns:
        The clients to register at the vendor.
    """
    login, secret = new_secret(), new_secret()
    issuer = json.loads(
        world.cli(
            *("issuers", "add", "company", "--discovery-url", idp["discovery_url"], "--audience", "mcp-identity"),
            *(
                "--login-client-id",
                "mcp-identity",
                "--login-client-secret-env",
                "LOGIN_SECRET",
                "--allow-http-loopback",
                "--json",
            ),
            LOGIN_SECRET=login,
        )
    )
    callback = issuer["login_redirect_uri"]
    console.print(f"   redirect URI to register at the identity provider: [bold]{callback}[/]", soft_wrap=True)
    registered = json.loads(clients_file.read_text())
    registered.append({"client_id": "mcp-identity", "client_secret": login, "redirect_uris": [callback]})
    clients_file.write_text(json.dumps(registered))
    world.cli("workloads", "create", "assistant", "--issuer", "company", "--allowed-client", APP, "--allow-provider", "notes")
    with world.vendor(vendor_port, []) as vendor:
        common = ("--vendor", "custom", "--issuer", vendor["issuer"], "--allow-http-loopback", "--client-secret-env", "SECRET")
        user = ("--client-id", "notes-app", "--set", "flows=USER_FEDERATION", "--scopes", "read write")
        notes = json.loads(world.cli("providers", "add", "notes", *common, *user, "--json", SECRET=secret))
    return [notes_client(notes["redirect_uri"], secret)]


async def conversation(backend: AgentBackend, company: Company, vendor: dict[str, Any]) -> None:
    """Two employees and one agent."""
    step(2, "Alice signs in to the company's application", "The application now has a token that says who she is.")
    with Browser(stop_at=company.redirect_uri) as alice, Browser(stop_at=company.redirect_uri) as bob:
        alices = await anyio.to_thread.run_sync(company.sign_in, alice, "alice", "wonderland")
        who = await backend.whoami(alices)
        console.print(f"   mcp-identity knows her as {who['user_subject']}, and the agent as {who['workload']}", soft_wrap=True)

        step(3, "She asks the agent", "It has no access yet, so it answers with a link.")
        said = await backend.answer(alices, vendor)
        console.print(f"   agent: {said}", soft_wrap=True)
        link = said.rpartition(" ")[2]

        step(4, "Somebody sends that link to Bob", "He signs in as himself, and can give nothing to Alice's agent.")
        page = await anyio.to_thread.run_sync(lambda: bob.consent(link, username="bob", password="builder"))  # noqa: S106
        console.print(f"   the page tells Bob: [bold]{page.title}[/]", soft_wrap=True)

        step(5, "Alice opens the link", "She signs in at the company, sees who asks for what, and agrees at the vendor.")
        page = await anyio.to_thread.run_sync(lambda: alice.consent(link))
        console.print(f"   the last page says: [bold]{page.title}[/]", soft_wrap=True)

        step(6, "She asks again")
        console.print(f"   agent: {await backend.answer(alices, vendor)}", soft_wrap=True)

        step(7, "Bob asks the same agent", "What Alice granted is not there for him.")
        bobs = await anyio.to_thread.run_sync(company.sign_in, bob, "bob", "builder")
        said = await backend.answer(bobs, vendor)
        console.print(f"   agent: {said.partition(':')[0]}", soft_wrap=True)


def run(transport: Transport) -> None:
    """Show the agent over one transport."""
    with tempfile.TemporaryDirectory(prefix="mcp-identity-backend-") as temporary:
        folder, port, vendor_port = Path(temporary), free_port(), free_port()
        world = World.below(folder, MCP_IDENTITY_PUBLIC_URL=f"http://127.0.0.1:{port}")
        clients_file, app_uri = folder / "company-clients.json", f"http://127.0.0.1:{free_port()}/signed-in"
        clients_file.write_text(json.dumps([{"client_id": APP, "redirect_uris": [app_uri]}]))
        console.rule(f"an agent backend with many users, over {transport}")
        with started(str(HERE / "company_idp.py"), "--clients", str(clients_file)) as idp:
            step(1, "An operator sets up the company's identity provider, the agent and the vendor", "Once.")
            clients = set_up(world, idp, vendor_port, clients_file)
            with world.vendor(vendor_port, clients) as vendor, serving(world, transport, port) as base_url:
                anyio.run(conversation, AgentBackend(base_url, transport), Company(idp, app_uri), vendor)
        step(8, "The trail says who got what, and what was refused")
        for event in world.audit():
            console.print("   {workload:<10} {user_display:<8} {action:<16} {provider:<6} {outcome}".format(**event))
        console.rule("done; nothing of it is kept")
