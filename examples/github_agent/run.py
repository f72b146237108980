# pyright: basic
# boto3 makes its clients at run time and carries no types.
# ruff: noqa: E402 - the helpers of all examples stand one folder up
"""A developer agent that works at GitHub for its users, written twice: for Amazon Bedrock AgentCore, and with our own client.

    python examples/github_agent/run.py

Everything is real but GitHub, and on this machine: the company's identity provider, our server, the agents, stock boto3 and
the stock SDK. GitHub is a small one (`github.py`) with the real one's peculiarities. This program is the operator, the runtime
around the agents, the application, and the people in front of their browsers.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import tempfile
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

import anyio
import httpx2
from agent_backend import APP, Company, serving
from browser import Browser
from runtime_shim import Company as Trusted
from runtime_shim import Identity, UserTokens
from stock import CONTROL, AccessKey
from world import World, console, free_port, new_secret, shortened, started, step

AGENT, PROVIDER, AUDIENCE = "github-agent", "github-provider", "mcp-identity"
SCOPES = "repo read:user"
POLL_SECONDS = "0.2"
"""The SDK looks every five seconds whether the user has agreed; a demonstration need not."""
QUESTIONS = ("Which repositories do I have?", "Which issues are open?", "Which pull requests are open?")


@dataclass(frozen=True)
class Place:
    """Where everything is.

    Attributes:
        world: The folder, and our command line.
        identity: Our server.
        github: The small GitHub.
        company: The company's identity provider, as its application uses it.
        operator: An operator's access key.
    """

    world: World
    identity: str
    github: dict[str, Any]
    company: Company
    operator: AccessKey

    @property
    def return_url(self) -> str:
        """Where the company's application receives browsers after a consent."""
        return self.company.redirect_uri.replace("/signed-in", "/connected")


def set_up(place: Place, clients: Path) -> None:
    """What an operator does once: the agent, the provider, and which tokens speak for the agent."""
    control, secret = place.operator.client(CONTROL), new_secret()
    control.create_workload_identity(name=AGENT, allowedResourceOauth2ReturnUrls=[place.return_url])
    made = control.create_oauth2_credential_provider(
        name=PROVIDER,
        credentialProviderVendor="GithubOauth2",
        oauth2ProviderConfigInput={"githubOauth2ProviderConfig": {"clientId": "dev-agent", "clientSecret": secret}},
    )
    console.print(f"   callback URL to register at GitHub: [bold]{made['callbackUrl']}[/]", soft_wrap=True)
    clients.write_text(json.dumps([{"client_id": "dev-agent", "client_secret": secret, "callback": made["callbackUrl"]}]))
    # Only because this GitHub is a small one: the real one's endpoints stand in the catalog. A secret is never sent elsewhere
    # than where it was given for, so it is given anew.
    github = place.github
    where = ("authorization_url", "token_url", "revocation_url")
    endpoints = [option for name in where for option in ("--" + name.replace("_", "-"), github[name])]
    options = (*endpoints, "--allow-http-loopback", "--client-secret-env", "SECRET")
    place.world.cli("providers", "update", PROVIDER, *options, SECRET=secret)
    # AgentCore has no word for whose tokens speak for an agent; without this, nobody's do.
    place.world.cli("workloads", "update", AGENT, "--issuer", "company", "--allowed-client", APP)


@contextlib.contextmanager
def running(place: Place, program: str, environment: dict[str, str]) -> Generator[str]:
    """Run an agent, told nothing but what is in its environment. Where it is."""
    command = [sys.executable, str(HERE / program), "--stop-when-input-ends"]
    variables = {**environment, "GITHUB_API": place.github["url"]}
    log = (place.world.folder / f"{program}.log").open("wb")
    with log, subprocess.Popen(command, env=variables, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log) as agent:
        try:
            yield json.loads(agent.stdout.readline() if agent.stdout else b"{}")["url"]
        finally:
            agent.terminate()


def ask(agent: str, question: str, headers: dict[str, str]) -> Iterator[dict[str, Any]]:
    """Ask an agent, and hear what it says as it says it."""
    console.print(f"   [dim]{question}[/]")
    with httpx2.stream("POST", f"{agent}/invocations", json={"question": question}, headers=headers, timeout=90) as said:
        for line in said.iter_lines():
            if line.startswith("data: "):
                event = json.loads(line.removeprefix("data: "))
                for kind in ("says", "answer", "error"):
                    if kind in event:
                        console.print(f"   agent: [bold]{event[kind]}[/]", soft_wrap=True)
                yield event


def with_the_stock_sdk(place: Place, alice: Browser, user_token: str) -> None:
    """The agent that was written for AgentCore; here this program is the runtime and the application around it."""
    key = AccessKey.create(place.world, place.identity, "--role", "workload", "--workload", AGENT)
    identity = Identity(place.identity, AGENT, access_key_id=key.id, secret_access_key=key.secret)
    user = anyio.run(whose, place, user_token)  # what a runtime does first: whose request is this?
    console.print(f"   the runtime knows the user: {user}, and gets a workload access token for the agent and her")
    headers = {
        "WorkloadAccessToken": anyio.run(identity.workload_token, user_token),
        "OAuth2CallbackUrl": place.return_url,
        "X-Amzn-Bedrock-AgentCore-Runtime-Session-Id": f"{user}-at-the-company-app-0001",
    }
    environment = {**key.environment(place.world), "POLL_SECONDS": POLL_SECONDS}
    with running(place, "stock_agent.py", environment) as agent:
        for question in QUESTIONS:
            for event in ask(agent, question, headers):
                if "authorization_url" in event:
                    page = alice.consent(event["authorization_url"])
                    # The browser is back at the application, which knows whose it is, and says so.
                    session = parse_qs(urlsplit(page.url).query)["session_id"][0]
                    anyio.run(identity.complete, session, user_token)
                    console.print("   Alice agreed at GitHub; the application says that it was her browser")


async def whose(place: Place, user_token: str) -> str:
    """The subject of a user's token, verified."""
    async with httpx2.AsyncClient(timeout=30) as http:
        trusted = await Trusted.discover(http, place.company.idp["discovery_url"], client_id=APP, audience=AUDIENCE)
        return (await UserTokens(http, trusted).verify(user_token)).name


def with_our_client(place: Place, people: dict[str, tuple[Browser, str]]) -> None:
    """The agent that was written with our client; the users' own tokens say whose GitHub it is."""
    made = json.loads(place.world.cli("workloads", "issue-key", AGENT, "--json"))
    kept = {name: value for name, value in place.world.environment.items() if not name.startswith("MCP_IDENTITY_")}
    environment = {**kept, "MCP_IDENTITY_URL": place.identity, "MCP_IDENTITY_WORKLOAD_KEY": made["key"]}
    with running(place, "our_agent.py", environment) as agent:
        for name, (browser, user_token) in people.items():
            console.print(f"   {name.title()} asks:")
            for event in ask(agent, QUESTIONS[0], {"Authorization": f"Bearer {user_token}"}):
                if "authorization_url" in event:
                    browser.consent(event["authorization_url"], username=name, password=PASSWORDS[name])
                    console.print(f"   {name.title()} agreed at GitHub; nobody had to receive a browser")


PASSWORDS = {"alice": "wonderland", "bob": "builder"}


def clean_up(place: Place) -> None:
    """Remove all of it, as an operator does, and look what is left; the agent's keys go with the agent."""
    control = place.operator.client(CONTROL)
    control.delete_oauth2_credential_provider(name=PROVIDER)
    control.delete_workload_identity(name=AGENT)
    place.world.cli("access-keys", "remove", place.operator.id)
    place.world.cli("issuers", "remove", "company")
    state = httpx2.get(f"{place.github['url']}/state", timeout=30).json()
    console.print(f"   GitHub gave {state['issued']} tokens; {state['alive']} of them are still good")
    console.print(f"   secrets in the vault: {sum(place.world.secrets_left().values())}")


def find_leaks(place: Place, tokens: tuple[str, ...]) -> list[str]:
    """The files of this world that hold a token in clear: logs, the vault, everything."""
    files = [path for path in place.world.folder.rglob("*") if path.is_file()]
    return [path.name for path in files if any(token.encode() in path.read_bytes() for token in tokens)]


def show(place: Place, alice: Browser, bob: Browser) -> None:
    """Go through it."""
    company = place.company
    step(2, "Alice asks the agent that was written for AgentCore", "Unchanged; it is told our address and has an access key.")
    alices = company.sign_in(alice, "alice", PASSWORDS["alice"])
    with_the_stock_sdk(place, alice, alices)
    step(3, "Alice and Bob ask the one with our client", "Alice has agreed already; Bob has not.")
    bobs = company.sign_in(bob, "bob", PASSWORDS["bob"])
    with_our_client(place, {"alice": (alice, alices), "bob": (bob, bobs)})
    step(4, "Where are GitHub's tokens?", "In no log and no file; sealed in the vault, and with the agent while it works.")
    console.print(f"   files with a token: {find_leaks(place, ('gho_', alices, bobs, place.operator.secret)) or 'none'}")
    step(5, "The trail says who got what")
    for event in place.world.audit():
        console.print("   {workload:<12} {user_display:<8} {action:<32} {provider:<15} {outcome}".format(**event))
    step(6, "Everything is removed", "The provider takes its grants with it, and gives their tokens back to GitHub.")
    clean_up(place)


def main() -> None:
    """Show it."""
    with tempfile.TemporaryDirectory(prefix="mcp-identity-github-") as temporary:
        folder, port = Path(temporary), free_port()
        world = World.below(folder, MCP_IDENTITY_PUBLIC_URL=f"http://127.0.0.1:{port}")
        company_clients, github_clients = folder / "company-clients.json", folder / "github-clients.json"
        app_uri = f"http://127.0.0.1:{free_port()}/signed-in"
        company_clients.write_text(json.dumps([{"client_id": APP, "redirect_uris": [app_uri]}]))
        github_clients.write_text("[]")
        console.rule("a developer agent at GitHub")
        with (
            started(str(HERE.parent / "company_idp.py"), "--clients", str(company_clients), "--audience", AUDIENCE) as idp,
            started(str(HERE / "github.py"), "--clients", str(github_clients)) as github,
        ):
            step(1, "An operator sets up the agent and the provider", "By stock boto3: the vendor by name, an id and a secret.")
            login = new_secret()
            added = json.loads(
                world.cli(
                    *("issuers", "add", "company", "--discovery-url", idp["discovery_url"], "--audience", AUDIENCE),
                    *("--login-client-id", "mcp-identity", "--login-client-secret-env", "LOGIN", "--allow-http-loopback"),
                    "--json",
                    LOGIN=login,
                )
            )
            ours = {"client_id": "mcp-identity", "client_secret": login, "redirect_uris": [added["login_redirect_uri"]]}
            company_clients.write_text(json.dumps([*json.loads(company_clients.read_text()), ours]))
            operator = AccessKey.create(world, f"http://127.0.0.1:{port}", "--role", "admin")
            console.print(f"   an operator's access key: {operator.id}, {shortened(operator.secret)}")
            company = Company(idp, app_uri)
            with serving(world, "http", port, "--allow-http-loopback") as identity:
                place = Place(world, identity, github, company, operator)
                set_up(place, github_clients)
                stops = app_uri.removesuffix("/signed-in")
                with Browser(stop_at=stops) as alice, Browser(stop_at=stops) as bob:
                    show(place, alice, bob)
        console.rule("done; nothing of it is kept")


if __name__ == "__main__":
    main()
