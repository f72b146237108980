# pyright: basic
# boto3 makes its clients at run time and carries no types.
"""One question of a user, through an application, a runtime, an agent of the stock SDK, and mcp-identity.

    python examples/twenty_steps.py               # open the address that it prints in your browser
    python examples/twenty_steps.py --headless    # submit the forms as Alice

Everything is real, and on this machine: the company's identity provider, the vendor's authorization server and API, our
server, and the agent, which is written for Amazon Bedrock AgentCore and is told nothing but where our server is. The
application and the runtime around it are `runtime_shim`, which says why they do what they do.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import subprocess
import sys
import tempfile
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import httpx2
import uvicorn
from agent_backend import APP, serving
from browser import Browser, Page
from runtime_shim import Application, Company, Identity, Runtime, UserTokens
from stock import CONTROL, AccessKey
from world import HERE, World, console, free_port, new_secret, notes_client, started, step

AGENT = "assistant"
POLL_SECONDS = "0.5"
"""The SDK looks every five seconds whether the user has agreed; a demonstration need not."""


@dataclass(frozen=True)
class Place:
    """Where everything is.

    Attributes:
        world: The folder, and our command line.
        identity: Our server.
        vendor: The vendor's origin.
        origin: The application's.
    """

    world: World
    identity: str
    vendor: str
    origin: str

    @property
    def return_url(self) -> str:
        """Where browsers come back to from a consent."""
        return f"{self.origin}/connected"


def set_up(place: Place, secret: str) -> tuple[str, AccessKey]:
    """What an operator does once; the redirect URI to register at the vendor, and the agent's access key."""
    control = AccessKey.create(place.world, place.identity, "--role", "admin").client(CONTROL)
    control.create_workload_identity(name=AGENT, allowedResourceOauth2ReturnUrls=[place.return_url])
    metadata = {
        "issuer": place.vendor,
        "authorizationEndpoint": f"{place.vendor}/o/authorize/",
        "tokenEndpoint": f"{place.vendor}/o/token/",
    }
    discovery = {"authorizationServerMetadata": metadata}
    made = control.create_oauth2_credential_provider(
        name="notes",
        credentialProviderVendor="CustomOauth2",
        oauth2ProviderConfigInput={
            "customOauth2ProviderConfig": {"oauthDiscovery": discovery, "clientId": "notes-app", "clientSecret": secret}
        },
    )
    # AgentCore has no word for whose tokens speak for an agent; without this, nobody's do.
    place.world.cli("workloads", "update", AGENT, "--issuer", "company", "--allowed-client", APP)
    return made["callbackUrl"], AccessKey.create(place.world, place.identity, "--role", "workload", "--workload", AGENT)


@contextlib.contextmanager
def running_agent(place: Place, key: AccessKey) -> Generator[str]:
    """Run the agent as a runtime would: all that it knows of us is in its environment. Where it is."""
    environment = {**key.environment(place.world), "NOTES_URL": f"{place.vendor}/api/me", "POLL_SECONDS": POLL_SECONDS}
    command = [sys.executable, str(HERE / "runtime_shim" / "agent.py"), "--stop-when-input-ends"]
    log = (place.world.folder / "agent.log").open("wb")
    with log, subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log) as agent:
        try:
            yield json.loads(agent.stdout.readline() if agent.stdout else b"{}")["url"]
        finally:
            agent.terminate()


async def serve(place: Place, idp: dict[str, Any], key: AccessKey, agent: str, *, headless: bool) -> None:
    """Run the application and the runtime, for as long as somebody asks."""
    async with httpx2.AsyncClient(timeout=30) as http, httpx2.AsyncClient(base_url=agent, timeout=None) as to_agent:
        company = await Company.discover(http, idp["discovery_url"], client_id=APP, audience="mcp-identity")
        users = UserTokens(http, company)
        identity = Identity(place.identity, AGENT, access_key_id=key.id, secret_access_key=key.secret)
        runtime = Runtime(users=users, identity=identity, agent=to_agent, return_url=place.return_url)
        application = Application(
            origin=place.origin,
            http=http,
            company=company,
            users=users,
            identity=identity,
            consent_origin=place.identity,
            runtime=runtime,
        )
        port = int(place.origin.rpartition(":")[2])
        server = uvicorn.Server(
            uvicorn.Config(application.app(), "127.0.0.1", port, log_level="error", timeout_graceful_shutdown=1)
        )
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(server.serve)
            if headless:
                await anyio.to_thread.run_sync(walk, place.origin)
                server.should_exit = True
            else:
                step(2, "Your turn", "Sign in as alice / wonderland, ask, and follow the link. Ctrl-C ends it.")
                console.print(f"   open [bold]{place.origin}[/]", soft_wrap=True)


def walk(origin: str) -> None:
    """What Alice does."""
    with Browser() as alice:
        step(2, "Alice signs in to the application and asks", "The application calls the runtime with her token.")
        page = _until_it_answers(alice, f"{origin}/sign-in")
        page = alice.submit(page.forms[0], page=page, username="alice", password="wonderland")  # noqa: S106 - the demonstration's
        page = alice.submit(page.forms[0], page=page, button="ask")
        page = alice.get(f"{origin}/conversation?since=1")
        console.print(f"   the page says: [bold]{page.text}[/]", soft_wrap=True)
        (link,) = [url for url, _ in page.links if "/consent/" in url]

        step(3, "She follows the link, agrees at the vendor, and comes back to the application", "It says whose browser it is.")
        page = alice.consent(link)
        page = alice.get(f"{origin}/conversation?since=3")
        console.print(f"   the page says: [bold]{page.text}[/]", soft_wrap=True)


def _until_it_answers(browser: Browser, url: str) -> Page:
    """The first page of a server that may still be starting."""
    for _ in range(100):
        with contextlib.suppress(httpx2.ConnectError):
            return browser.get(url)
        anyio.from_thread.run(anyio.sleep, 0.1)
    raise SystemExit("the application did not start")


def main() -> None:
    """Show it."""
    parser = argparse.ArgumentParser(description="One question, through all its steps.")
    parser.add_argument("--headless", action="store_true", help="submit the forms as Alice, and end")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="mcp-identity-steps-") as temporary:
        folder, port, vendor_port, secret = Path(temporary), free_port(), free_port(), new_secret()
        world = World.below(folder, MCP_IDENTITY_PUBLIC_URL=f"http://127.0.0.1:{port}")
        place = Place(world, f"http://127.0.0.1:{port}", f"http://127.0.0.1:{vendor_port}", f"http://127.0.0.1:{free_port()}")
        clients = folder / "company-clients.json"
        clients.write_text(json.dumps([{"client_id": APP, "redirect_uris": [f"{place.origin}/signed-in"]}]))
        console.rule("an agent written for AgentCore, and nothing of AWS")
        with started(str(HERE / "company_idp.py"), "--clients", str(clients)) as idp:
            step(
                1, "An operator sets up the identity provider, the agent and the vendor", "By stock boto3 and our command line."
            )
            world.cli("issuers", "add", "company", "--discovery-url", idp["discovery_url"], "--audience", "mcp-identity",
                      "--allow-http-loopback")  # fmt: skip
            with serving(world, "http", port, "--allow-http-loopback"):
                redirect_uri, key = set_up(place, secret)
                console.print(f"   redirect URI to register at the vendor: [bold]{redirect_uri}[/]", soft_wrap=True)
                with (
                    world.vendor(vendor_port, [notes_client(redirect_uri, secret)]),
                    running_agent(place, key) as agent,
                    contextlib.suppress(KeyboardInterrupt),
                ):
                    anyio.run(lambda: serve(place, idp, key, agent, headless=options.headless))
        step(4, "The trail says who got what", "Each row was durable before its secret left.")
        for event in world.audit():
            console.print("   {workload:<10} {user_display:<8} {action:<32} {provider:<6} {outcome}".format(**event))
        console.rule("done; nothing of it is kept")


if __name__ == "__main__":
    main()
