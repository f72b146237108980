"""The main job, shown on real input: what `make demo` runs.

A stock MCP client starts our server over stdio. A real, independent OAuth server on this machine (django-oauth-toolkit, with
its own sign-in and consent pages) issues the tokens. In a terminal with a browser you click through the consent yourself; with
DEMO_HEADLESS=1, or without a browser, the same forms are submitted for you. Everything lives in a temporary folder.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import webbrowser
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
from browser import Browser
from mcp import Client, StdioServerParameters
from rich.table import Table
from world import World, console, free_port, new_secret, notes_client, shortened, step, whose

TOKEN_SECONDS = 5
WAIT_SECONDS = 300


async def call(client: Client, tool: str, **arguments: Any) -> dict[str, Any]:
    """Call a tool and show what an agent would get, tokens shortened."""
    answer: dict[str, Any] = (await client.call_tool(tool, arguments)).structured_content or {}
    shown = {name: shortened(value) if name == "access_token" else value for name, value in answer.items()}
    asked = ", ".join(f"{name}={value!r}" for name, value in arguments.items())
    console.print(f"   [yellow]{tool}[/]({asked})", soft_wrap=True)
    for name, value in shown.items():
        console.print(f"     {name}: {value}", soft_wrap=True, markup=False)
    return answer


def can_click() -> bool:
    """Whether a person with a browser sits here."""
    if os.environ.get("DEMO_HEADLESS") or os.environ.get("CI") or not sys.stdout.isatty():
        return False
    try:
        return bool(webbrowser.get())
    except webbrowser.Error:
        return False


async def consent(link: str) -> None:
    """Let the person click through the consent, or submit the same forms."""
    if can_click():
        console.print("   Your browser opens. Sign in as [bold]alice[/], password [bold]wonderland[/], and press Allow.")
        webbrowser.open(link)
        return
    with Browser() as person:
        page = await anyio.to_thread.run_sync(lambda: person.consent(link))
    console.print(f"   The forms were submitted as alice. The last page says: [bold]{page.title}[/]", soft_wrap=True)


async def until_expired(expires_at: str) -> None:
    """Wait until a token has ended."""
    left = datetime.fromisoformat(expires_at) + timedelta(seconds=1) - datetime.now(UTC)
    with console.status(f"waiting for the token's {TOKEN_SECONDS} seconds to pass"):
        await anyio.sleep(max(0.0, left.total_seconds()))


async def agent(world: World, vendor: dict[str, Any]) -> None:
    """What an agent does, through a stock MCP client."""
    step(1, "A stock MCP client starts mcp-identity over stdio", "Claude Desktop and Cursor do the same.")
    server = StdioServerParameters(command=sys.executable, args=["-m", "mcp_identity", "serve"], env=world.environment)
    async with Client(server) as client:
        for tool in (await client.list_tools()).tools:
            console.print(f"   [yellow]{tool.name}[/]: {tool.title}")

        step(2, "The agent lists its credential providers")
        await call(client, "list_providers")

        step(3, "A machine token (2LO, client credentials)", "No user is involved; it is asked for once per lifetime.")
        machine = await call(client, "get_token", provider="reports")
        console.print(f"   the vendor's API answers {whose(machine['access_token'], vendor)}")

        step(4, "A user token (3LO): the user has to consent first", "That is an answer, not an error.")
        first = await call(client, "get_token", provider="notes")

        step(5, "The user consents", "On our page, then at the vendor's own sign-in and consent pages.")
        await consent(first["authorization_url"])
        with anyio.fail_after(WAIT_SECONDS):
            status = await call(client, "get_consent", session_uri=first["session_uri"], wait_seconds=50)
            while status["status"] == "pending":
                status = await call(client, "get_consent", session_uri=first["session_uri"], wait_seconds=50)
        if status["status"] != "completed":
            raise SystemExit(f"the consent ended as {status['status']}")

        step(6, "The same call again gives the user's token")
        token = await call(client, "get_token", provider="notes")
        console.print(f"   the vendor's API answers {whose(token['access_token'], vendor)}")

        step(7, "And again: no consent, no request to the vendor", "The token comes from the encrypted vault.")
        again = await call(client, "get_token", provider="notes")
        console.print(f"   the same token: {again['access_token'] == token['access_token']}")

        step(8, "The token expires, and is refreshed without the user", "One refresh, however many agents ask at once.")
        await until_expired(again["expires_at"])
        fresh = await call(client, "get_token", provider="notes")
        console.print(f"   another token: {fresh['access_token'] != token['access_token']}")
        console.print(f"   the vendor's API answers {whose(fresh['access_token'], vendor)}")


def show_audit(world: World) -> None:
    """Print the audit trail."""
    step(9, "The audit trail: who got what", "Each row was durable before its secret left.")
    table = Table("time", "agent", "user", "what", "provider", "flow", "outcome", box=None)
    for event in world.audit()[-40:]:
        shown = ("at", "workload", "user_display", "action", "provider", "flow", "outcome")
        at, workload, user, action, *rest = (str(event.get(name, "")) for name in shown)
        begun = " (begun)" if event.get("detail", {}).get("step") else ""
        table.add_row(at[11:19], workload, user, action + begun, *rest)
    console.print(table)


def set_up(world: World, port: int) -> list[dict[str, Any]]:
    """What an operator does once: add the providers, and register our redirect URI at the vendor."""
    secret = new_secret()
    with world.vendor(port, []) as vendor:
        common = ("--vendor", "custom", "--issuer", vendor["issuer"], "--allow-http-loopback", "--client-secret-env", "SECRET")
        machine = ("--client-id", "reports-app", "--set", "flows=M2M", "--scopes", "read")
        user = ("--client-id", "notes-app", "--set", "flows=USER_FEDERATION", "--scopes", "read write")
        world.cli("providers", "add", "reports", *common, *machine, SECRET=secret)
        notes = json.loads(world.cli("providers", "add", "notes", *common, *user, "--json", SECRET=secret))
    redirect_uri = notes["redirect_uri"]
    console.print(f"   redirect URI to register at the vendor: [bold]{redirect_uri}[/]", soft_wrap=True)
    return [
        {"client_id": "reports-app", "client_secret": secret, "grant": "client-credentials", "name": "Reports"},
        notes_client(redirect_uri, secret),
    ]


def main() -> None:
    """Run the demonstration."""
    with tempfile.TemporaryDirectory(prefix="mcp-identity-demo-") as temporary:
        port = free_port()
        callback = {"MCP_IDENTITY_CALLBACK_PORT": str(free_port()), "MCP_IDENTITY_WORKLOAD": "demo-agent"}
        world = World.below(Path(temporary), **callback)
        console.rule("mcp-identity: a real token for an agent")
        step(0, "An operator adds two providers", "Once; their secrets are sealed into the vault.")
        clients = set_up(world, port)
        with world.vendor(port, clients, token_seconds=TOKEN_SECONDS) as vendor:
            anyio.run(agent, world, vendor)
        show_audit(world)
        console.rule("done; nothing of it is kept")


if __name__ == "__main__":
    main()
