"""What happens in the life of one server that is interrupted while three vendors hold their answers back?

A callback, a refresh and a request of the client's own are under way at once, each at a vendor of its own, which has already
done its part: the code is used, the refresh token rotated, the token minted. Then comes the interrupt, then the answers. The
vendor's own ledger says afterwards what was given; the next call, of a new process where this one ended, says what is there.
"""

from __future__ import annotations

import signal
from collections.abc import AsyncGenerator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import product
from typing import Any, Literal, get_args

import anyio

from mcp_identity import app
from mcp_identity.broker.answers import ProviderSpec, TokenRequest
from mcp_identity.domain.credentials import Grant, Secret
from mcp_identity.settings import Settings
from mcp_identity.vault.records import Records
from tests.fakes.forge import PROGRAM
from tests.fakes.home import VaultHome, person_consents
from tests.fakes.mcp_client import Json, McpClient, ProtocolError, mcp_client
from tests.fakes.vendor import CLIENT_ID, Vendor, running_vendor
from tests.http.kit import Server, server_process
from tests.interrupts.agents import Agent, Departure, StdioAgent, Visit, back_from_vendor, network_agent

Edge = Literal["stdio", "sse", "http"]
Work = Literal["callback", "refresh", "m2m"]
Interrupt = Literal["cancel", "end", "SIGINT", "SIGTERM", "disconnect"]
EDGES: tuple[Edge, ...] = get_args(Edge)
WORKS: tuple[Work, ...] = get_args(Work)
INTERRUPTS: tuple[Interrupt, ...] = get_args(Interrupt)
SIGNALS: tuple[Interrupt, ...] = ("SIGINT", "SIGTERM")
DEPARTURES: dict[Interrupt, Departure] = {"cancel": "cancel", "end": "end", "disconnect": "vanish"}
GRANT_TYPES: dict[Work, str] = {
    "callback": "authorization_code",
    "refresh": "refresh_token",
    "m2m": "client_credentials",
}
WORKLOAD = "claude-desktop"
PATIENCE_SECONDS = 20.0
LINGERS_SECONDS = 0.3
"""How long a process is watched that must not end before the vendor has answered."""


@dataclass(slots=True)
class Cell:
    """One piece of work on one edge, and what became of it.

    Attributes:
        vendor: Its own, with the ledger of what it gave.
        access_token: The access token that the vendor gave.
        served: What the next call got.
        kept: The refresh token that the vault holds; none for the client's own tokens.
        consent: What the session says afterwards, for a callback.
        page: The status of the browser's page, 0 for none; for a callback.
        told: What the interrupted call got, if anything.
        session_uri: The consent that a callback ends.
        visit: The browser of a callback.
        call: The interrupted call.
    """

    edge: Edge
    work: Work
    vendor: Vendor
    access_token: str = ""
    served: Json = field(default_factory=dict[str, Any])
    kept: str = ""
    consent: Json = field(default_factory=dict[str, Any])
    page: int = 0
    told: Json | None = None
    session_uri: str = ""
    visit: Visit | None = None
    call: int = 0

    @property
    def provider(self) -> str:
        """The name of its provider, which is its own."""
        return f"{self.work}-{self.edge}"

    @property
    def given(self) -> int:
        """How often the vendor processed the request."""
        return self.vendor.count(GRANT_TYPES[self.work])


@dataclass(slots=True)
class Life:
    """What became of a server and of all that it was doing.

    Attributes:
        cells: By edge and work.
        status: How the process ended, where it did.
        seconds: How long that took, from the interrupt.
        waited: Whether it was still there just before the vendors answered.
        log: What it said on stderr.
    """

    cells: dict[tuple[Edge, Work], Cell]
    status: int | None = None
    seconds: float = 0
    waited: bool = True
    log: bytes = b""


@dataclass(frozen=True, slots=True)
class PostgresHome(VaultHome):
    """A vault on PostgreSQL.

    Attributes:
        database_url: Of its database.
    """

    database_url: str = ""

    def environment(self, **settings: str) -> dict[str, str]:
        """The environment of a process on it."""
        return VaultHome.environment(self, **{"DATABASE_URL": self.database_url, **settings})

    def settings(self) -> Settings:
        """The same for this process."""
        return VaultHome.settings(self).model_copy(update={"database_url": self.database_url})


class _Earlier(app.SystemClock):
    """A clock that is behind, so that what is granted by it has ended by now."""

    def now(self) -> datetime:
        return super().now() - timedelta(hours=2)


async def provide(home: VaultHome, cells: Sequence[Cell]) -> None:
    """Make the vault, with a provider for each cell, and a grant whose access token has ended for each refresh."""
    prepared = app.prepare(home.settings(), clock=_Earlier())
    async with app.running(prepared) as graph:
        broker = graph.broker
        operator = broker.directory.operator(graph.user)
        for cell in cells:
            spec = ProviderSpec(
                vendor="custom",
                client_id=CLIENT_ID,
                secret=Secret(cell.vendor.client_secret),
                scopes=("read",),
                allow_http_loopback=True,
                settings={**cell.vendor.settings, "flows": "M2M" if cell.work == "m2m" else "USER_FEDERATION"},
            )
            await broker.directory.add(broker.call(operator, "create_provider"), cell.provider, spec)
            if cell.work == "refresh":
                principal = await broker.directory.local_principal(WORKLOAD, graph.user, "stdio")
                call = broker.call(principal, "start_consent")
                await person_consents((await broker.start_consent(call, TokenRequest(cell.provider))).authorization_url)


async def look(home: VaultHome, cells: Sequence[Cell]) -> None:
    """Read the refresh tokens that the vault holds."""
    prepared = app.prepare(home.settings())

    def unit(records: Records) -> dict[str, list[Grant]]:
        found = {cell.provider: records.find_provider("default", cell.provider) for cell in cells}
        return {name: list(records.list_provider_grants("default", each.id).grants) for name, each in found.items() if each}

    async with app.running(prepared):
        grants = await prepared.vault.read(unit)
    for cell in cells:
        tokens = [grant.tokens for grant in grants[cell.provider] if grant.tokens and grant.tokens.refresh_token]
        cell.kept = tokens[0].refresh_token.reveal() if tokens and tokens[0].refresh_token else ""


@dataclass(slots=True)
class _Running:
    """A server with its agents."""

    agents: dict[Edge, Agent]
    client: McpClient | None = None
    server: Server | None = None

    @property
    def process(self) -> anyio.abc.Process:
        process = self.client.process if self.client else self.server.process if self.server else None
        assert process is not None
        return process

    async def call(self, edge: Edge, tool: str, **arguments: Any) -> Json:
        """Call a tool and wait."""
        agent = self.agents[edge]
        return await agent.answer(await agent.begin(tool, arguments))


@asynccontextmanager
async def _running(home: VaultHome, edges: Sequence[Edge], interrupt: Interrupt) -> AsyncGenerator[_Running]:
    """A real process, and an agent on each edge."""
    trust = ("--trust-local-user",) if isinstance(home, PostgresHome) else ()
    if edges == ("stdio",):
        async with mcp_client(home.environment(), command=(*PROGRAM, "serve", *trust)) as client:
            yield _Running({"stdio": StdioAgent(client)}, client=client)
        return
    arguments = ("--transport", "sse", "--port", "0", "--insecure-loopback", "--workload", WORKLOAD, *trust)
    async with server_process(home, *arguments) as server, AsyncExitStack() as stack:
        alone, resets = interrupt not in {"cancel", "end"}, interrupt == "disconnect"
        agents: dict[Edge, Agent] = {
            edge: await stack.enter_async_context(network_agent(server.url, edge, alone=alone, resets=resets)) for edge in edges
        }
        yield _Running(agents, server=server)


def is_the_end(edge: Edge, interrupt: Interrupt) -> bool:
    """Whether a server ends with this: a signal ends each, and its one host ends a process that serves no other."""
    return interrupt in SIGNALS or (edge == "stdio" and interrupt != "cancel")


async def live(home: VaultHome, edges: Sequence[Edge], interrupt: Interrupt, *, too_late: bool = False) -> Life:
    """Let a server live through an interrupt, and look at what is left.

    Args:
        home: An empty folder.
        edges: ``stdio`` alone, or edges of one HTTP server.
        interrupt: What comes while the vendors hold their answers back.
        too_late: The vendors answer only when the process has ended.
    """
    ends = is_the_end(edges[0], interrupt)
    async with AsyncExitStack() as stack:
        cells = [Cell(edge, work, await stack.enter_async_context(running_vendor())) for edge, work in product(edges, WORKS)]
        life = Life({(cell.edge, cell.work): cell for cell in cells})
        await provide(home, cells)
        async with _running(home, edges, interrupt) as running:
            for cell in cells:
                await _begin(running, cell)
                if cell.visit is not None:
                    stack.push_async_callback(cell.visit.stream.aclose)
            with anyio.fail_after(PATIENCE_SECONDS):
                for cell in cells:
                    await cell.vendor.holding.wait()
            began = anyio.current_time()
            await _interrupt(running, cells, interrupt)
            if ends:
                with anyio.move_on_after(LINGERS_SECONDS):
                    await running.process.wait()
                life.waited = running.process.returncode is None
            for cell in cells if not too_late else ():
                _let_go(cell)
            if ends:
                with anyio.fail_after(PATIENCE_SECONDS):
                    life.status = await running.process.wait()
                life.seconds = anyio.current_time() - began
            for cell in cells if too_late else ():
                _let_go(cell)
            await _hear(running, cells, interrupt)
            if not ends:
                await _serve(edges, running, cells)
            life.log = bytes(running.client.log if running.client else running.server.log if running.server else b"")
        if ends:
            async with _running(home, edges, "SIGTERM") as running:
                await _serve(edges, running, cells)
        await look(home, cells)
    return life


async def _begin(running: _Running, cell: Cell) -> None:
    """Make the server ask the vendor, which does its part and holds its answer."""
    agent = running.agents[cell.edge]
    if cell.work != "callback":
        cell.vendor.hold = anyio.Event()
        cell.call = await agent.begin("get_token", {"provider": cell.provider})
        return
    required = await running.call(cell.edge, "get_token", provider=cell.provider)
    cell.session_uri = required["session_uri"]
    cell.vendor.hold = anyio.Event()
    cell.call = await agent.begin("get_consent", {"session_uri": cell.session_uri, "wait_seconds": 50})
    cell.visit = await back_from_vendor(required["authorization_url"])


async def _interrupt(running: _Running, cells: Sequence[Cell], interrupt: Interrupt) -> None:
    if interrupt in SIGNALS:
        running.process.send_signal(signal.Signals[interrupt])
        return
    how = DEPARTURES[interrupt]
    for cell in cells:
        if cell.visit is not None:
            await cell.visit.go(how)
    for agent in running.agents.values():
        await agent.go(how)


def _let_go(cell: Cell) -> None:
    assert cell.vendor.hold is not None
    cell.vendor.hold.set()
    cell.vendor.hold = None
    cell.access_token = cell.vendor.minted[-1 if cell.work == "m2m" else -2]


async def _hear(running: _Running, cells: Sequence[Cell], interrupt: Interrupt) -> None:
    """What those were told who still listen after a signal."""
    for cell in cells if interrupt in SIGNALS else ():
        if cell.visit is not None:
            cell.page = await cell.visit.status()
        if cell.edge != "stdio":
            with suppress(ProtocolError, TimeoutError):
                cell.told = await running.agents[cell.edge].answer(cell.call)


async def _serve(edges: Sequence[Edge], running: _Running, cells: Sequence[Cell]) -> None:
    """The next calls: of a host that is new where the old one has gone."""
    async with AsyncExitStack() as stack:
        if running.server is not None:
            for edge in edges:
                running.agents[edge] = await stack.enter_async_context(network_agent(running.server.url, edge))
        for cell in cells:
            if cell.work == "callback":
                cell.consent = await running.call(cell.edge, "get_consent", session_uri=cell.session_uri, wait_seconds=10)
            cell.served = await running.call(cell.edge, "get_token", provider=cell.provider)
