"""How many requests does it take from the first call to the credential, on each transport, for each kind of client?

The figures stand in `docs/round-trips.md`, and are counted here.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any, Literal

import anyio
import pytest
from mcp import Client, MCPError, UrlElicitationRequiredError
from mcp.types import ElicitRequestURLParams, ElicitResult

from mcp_identity.broker.specifications import WorkloadSpec
from tests.fakes.home import person_consents
from tests.http.kit import Mode, Server, Transport, mcp_over
from tests.matrix.doors import stdio_client
from tests.matrix.world import ALICE, World

DOCUMENT = Path(__file__).parents[2] / "docs" / "round-trips.md"
Release = Literal["token", "handle"]
PROVIDERS: dict[Release, str] = {"token": "notes", "handle": "vaulted"}
REMOTE: tuple[Transport, ...] = ("http", "sse")
MODES: tuple[Mode, ...] = ("auto", "legacy")
VERSIONS = {"auto": "2026-07-28", "legacy": "2025-11-25"}


@dataclass(frozen=True, slots=True)
class Setting:
    """One row of the table."""

    transport: Literal["stdio", "http", "sse"]
    mode: Mode
    elicits: bool
    release: Release

    @property
    def agent(self) -> str:
        return f"{self.transport}-{self.mode}-{'elicits' if self.elicits else 'shows'}-{self.release}"


SETTINGS = [
    Setting(transport, mode, elicits, release)
    for transport, mode, elicits, release in product(("stdio", *REMOTE), MODES, (False, True), PROVIDERS)
]


@dataclass(slots=True)
class Host:
    """An application with an agent in it, and the person in front of it, who agrees to everything.

    Attributes:
        calls: How often the agent called a tool.
        asked: The links that its client was asked to open.
        told: Ends of consents that it was told of.
    """

    calls: int = 0
    asked: list[str] = field(default_factory=list[str])
    told: anyio.Event = field(default_factory=anyio.Event)

    async def elicit(self, context: Any, params: Any) -> ElicitResult:  # noqa: ARG002 - the SDK's names
        assert isinstance(params, ElicitRequestURLParams)
        self.asked.append(params.url)
        await person_consents(params.url)
        return ElicitResult(action="accept")

    async def hear(self, message: Any) -> None:
        if type(message).__name__ == "ElicitCompleteNotification":
            self.told.set()

    async def obtain(self, client: Client, provider: str) -> dict[str, Any]:
        """Do what the answers say until there is a credential, or a refusal."""
        try:
            answer = await self._call(client, "get_token", provider=provider)
        except MCPError as error:
            (elicitation,) = UrlElicitationRequiredError.from_error(error.error).elicitations
            self.asked.append(elicitation.url)
            await person_consents(elicitation.url)
            with anyio.fail_after(10):
                await self.told.wait()
            return await self._call(client, "get_token", provider=provider)
        if answer["status"] == "consent_required":
            await person_consents(answer["authorization_url"])
            status = await self._call(client, "get_consent", session_uri=answer["session_uri"], wait_seconds=50)
            assert status["status"] == "completed"
            answer = await self._call(client, "get_token", provider=provider)
        return answer

    async def _call(self, client: Client, tool: str, **arguments: Any) -> dict[str, Any]:
        self.calls += 1
        answer = (await client.call_tool(tool, arguments)).structured_content
        assert answer is not None
        return answer


@asynccontextmanager
async def connected(setting: Setting, world: World, server: Server, host: Host) -> AsyncGenerator[Client]:
    """The SDK's client of an agent of this test's own."""
    options: dict[str, Any] = {"elicitation_callback": host.elicit, "message_handler": host.hear} if setting.elicits else {}
    if setting.transport == "stdio":
        async with stdio_client(world, setting.agent, "alice", setting.mode, **options) as client:
            yield client
        return
    assert server.serving is not None
    graph = server.serving.prepared.graph
    call = graph.broker.call(graph.broker.directory.operator(graph.user), "create_workload_identity")
    await graph.broker.workloads.create(call, setting.agent, WorkloadSpec(issuer="company", clients=(setting.agent,)))
    token = world.idp.access_token(ALICE, client=setting.agent, claims={"org": "default"})
    bearer = {"authorization": f"Bearer {token}"}
    async with mcp_over(server, setting.transport, setting.mode, bearer, **options) as client:
        yield client


def outcome(answer: dict[str, Any]) -> str:
    """What the agent has at the end."""
    if answer["status"] == "error":
        assert answer["code"] == "access_denied"
        assert "call_api" in answer["message"]
        return "`call_api` may use it"
    return "a handle" if "handle" in answer else "the token"


def row(setting: Setting, host: Host, requests: int, ends: str) -> str:
    """A row of the table in the document."""
    elicits = "shown by the client" if host.asked else "shown by the agent"
    declared = "yes" if setting.elicits else "no"
    cells = (
        setting.transport, VERSIONS[setting.mode], declared, f"`{setting.release}`", elicits, host.calls, requests, ends,
    )  # fmt: skip
    return f"| {' | '.join(str(cell) for cell in cells)} |"


@pytest.mark.parametrize("setting", SETTINGS, ids=lambda setting: setting.agent)
async def test_from_the_first_call_to_the_credential(setting: Setting, world: World, server: Server) -> None:
    host = Host()
    async with connected(setting, world, server, host) as client:
        assert client.protocol_version == VERSIONS[setting.mode]
        answer = await host.obtain(client, PROVIDERS[setting.release])
    events = [event for event in world.home.trail() if (event["workload"], event["edge"]) == (setting.agent, setting.transport)]
    # Each request that calls a tool has its own id in the trail, whatever it leads to.
    requests = len({event["correlation_id"] for event in events})
    elicited = setting.elicits and setting.release == "handle"
    assert len(host.asked) == elicited
    assert requests == (2 if elicited else 3)
    assert world.obtained_by(setting.agent) == ["elicitation" if elicited else "consent"]
    secrets = [answer[name] for name in ("access_token", "handle") if name in answer]
    assert len(secrets) == (answer["status"] == "ok")
    assert {*secrets} <= {*world.vendor.minted} if setting.release == "token" else not {*secrets} & {*world.vendor.minted}
    assert row(setting, host, requests, outcome(answer)) in DOCUMENT.read_text("utf-8").splitlines()


def test_the_document_has_no_other_rows() -> None:
    rows = [line for line in DOCUMENT.read_text("utf-8").splitlines() if line.startswith(("| stdio", "| http", "| sse"))]
    assert len(rows) == len(SETTINGS)
