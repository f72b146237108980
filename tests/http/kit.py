"""A real server on a free port, in this process or as one of its own, and callers that say exactly what a test wants."""

from __future__ import annotations

import sys
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from subprocess import DEVNULL
from types import MappingProxyType
from typing import Any, Literal

import anyio
import httpx2
from anyio.abc import Process
from mcp.client import Client
from mcp.client.sse import sse_client
from mcp.client.streamable_http import streamable_http_client

from mcp_identity import app
from mcp_identity.app.ending import Ending
from mcp_identity.app.exposure import HttpOptions
from mcp_identity.app.http_process import Serving, running_server
from mcp_identity.broker.workloads import WorkloadSpec
from mcp_identity.domain.credentials import Secret
from mcp_identity.domain.errors import IdentityError, Unauthenticated
from mcp_identity.domain.identity import Principal
from mcp_identity.domain.standing import Standing
from mcp_identity.inbound.authentication import VerifiedUser
from mcp_identity.settings import Settings
from mcp_identity.tools.caller import Authenticator
from tests.fakes.forge import open_process
from tests.fakes.home import VaultHome, put_vault
from tests.fakes.mcp_client import STATELESS_VERSION, Json

LEGACY_VERSION = "2025-11-25"
ACCEPT = {"accept": "application/json, text/event-stream", "content-type": "application/json"}
Transport = Literal["http", "sse"]
Mode = Literal["auto", "legacy"]


@dataclass(slots=True)
class Server:
    """A server that runs.

    Attributes:
        url: Scheme, host and port.
        home: Its vault.
        keys: The workload keys of the agents `alice` and `mallory`; more by `add_agent`.
        serving: What runs in this process; None for a process of its own.
        process: The process of its own.
        port: Where that listens.
        logged: Set when that will say no more.
        log: What that said on stderr.
    """

    url: str
    home: VaultHome
    keys: dict[str, str] = field(default_factory=dict[str, str])
    serving: Serving | None = None
    process: Process | None = None
    port: int = 0
    logged: anyio.Event = field(default_factory=anyio.Event)
    log: bytearray = field(default_factory=bytearray)

    def bearer(self, agent: str) -> dict[str, str]:
        """The header of an agent."""
        return {"authorization": f"Bearer {self.keys[agent]}"}


def stateless(method: str, params: Mapping[str, Any] | None = None, request_id: int = 1) -> tuple[Json, dict[str, str]]:
    """Body and headers of a request of the protocol version without sessions."""
    meta = {
        "io.modelcontextprotocol/protocolVersion": STATELESS_VERSION,
        "io.modelcontextprotocol/clientCapabilities": {},
        "io.modelcontextprotocol/clientInfo": {"name": "Kit", "version": "1"},
    }
    body = {"jsonrpc": "2.0", "id": request_id, "method": method, "params": {**(params or {}), "_meta": meta}}
    headers = {**ACCEPT, "mcp-protocol-version": STATELESS_VERSION, "mcp-method": method}
    name = (params or {}).get("name") or (params or {}).get("uri")
    return body, {**headers, "mcp-name": str(name)} if name else headers


def whoami() -> tuple[Json, dict[str, str]]:
    """Body and headers of a call of `whoami`."""
    return stateless("tools/call", {"name": "whoami", "arguments": {}})


async def ask(
    http: httpx2.AsyncClient, server: Server, request: tuple[Json, dict[str, str]], headers: Mapping[str, str]
) -> httpx2.Response:
    """Send a request to `/mcp`."""
    body, own = request
    return await http.post(f"{server.url}/mcp", json=body, headers={**own, **headers})


def initialize(request_id: int = 1) -> Json:
    """The first message of a session."""
    params = {"protocolVersion": LEGACY_VERSION, "capabilities": {}, "clientInfo": {"name": "Kit", "version": "1"}}
    return {"jsonrpc": "2.0", "id": request_id, "method": "initialize", "params": params}


async def open_session(http: httpx2.AsyncClient, server: Server, headers: Mapping[str, str]) -> str:
    """Open a session of an older protocol version; its id."""
    answer = await http.post(f"{server.url}/mcp", json=initialize(), headers={**ACCEPT, **headers})
    assert answer.status_code == 200, answer.text
    session = answer.headers["mcp-session-id"]
    done = {"jsonrpc": "2.0", "method": "notifications/initialized"}
    noted = await http.post(
        f"{server.url}/mcp",
        json=done,
        headers={**ACCEPT, **headers, "mcp-session-id": session, "mcp-protocol-version": LEGACY_VERSION},
    )
    assert noted.status_code == 202
    return str(session)


@asynccontextmanager
async def http_client(**options: Any) -> AsyncGenerator[httpx2.AsyncClient]:
    """A client that sends what it is told, and nothing that the environment says."""
    async with httpx2.AsyncClient(trust_env=False, timeout=20, **options) as client:
        yield client


@asynccontextmanager
async def mcp_over(
    server: Server, transport: Transport, mode: Mode, headers: Mapping[str, str], *, verify: Any = True, **options: Any
) -> AsyncGenerator[Client]:
    """The SDK's own client."""
    if transport == "sse":

        def factory(headers: dict[str, str] | None = None, timeout: Any = None, auth: Any = None) -> httpx2.AsyncClient:
            return httpx2.AsyncClient(headers=headers, timeout=timeout, auth=auth, verify=verify, trust_env=False)

        streams = sse_client(f"{server.url}/sse", headers=dict(headers), httpx_client_factory=factory)
        async with Client(streams, mode=mode, **options) as client:
            yield client
        return
    async with (
        http_client(headers=dict(headers), verify=verify) as http,
        Client(streamable_http_client(f"{server.url}/mcp", http_client=http), mode=mode, **options) as client,
    ):
        yield client


@dataclass(slots=True)
class Knowing:
    """An authenticator that knows some bearers, and asks the real one about all others.

    Attributes:
        principals: Whom a bearer proves, or how it fails.
        asked: How often it was asked.
    """

    real: Authenticator
    principals: dict[str, Principal | IdentityError] = field(default_factory=dict[str, Principal | IdentityError])
    asked: int = 0
    _woken: anyio.Event = field(default_factory=anyio.Event)

    async def is_asked_again(self, times: int) -> None:
        """Wait until it was asked so often more."""
        until = self.asked + times
        while self.asked < until:
            await self._woken.wait()

    def _wake(self) -> None:
        woken, self._woken = self._woken, anyio.Event()
        woken.set()

    async def authenticate(self, bearer: Secret, *, edge: str, workload_hint: str = "") -> Principal:
        self.asked += 1
        self._wake()
        found = self.principals.get(bearer.reveal())
        if isinstance(found, IdentityError):
            raise found
        return found or await self.real.authenticate(bearer, edge=edge, workload_hint=workload_hint)

    def recall(self, bearer: Secret, *, edge: str, workload_hint: str = "") -> tuple[Principal, Standing] | None:
        if bearer.reveal() in self.principals:
            return None
        return self.real.recall(bearer, edge=edge, workload_hint=workload_hint)

    async def verify_user_token(self, principal: Principal, token: Secret) -> VerifiedUser:
        del principal, token
        raise Unauthenticated("no user tokens in these tests")


def local_options(transport: Transport = "sse", **given: Any) -> HttpOptions:
    """What the command line says in tests: a free port of this machine."""
    return replace(HttpOptions(transport, port=0), **given)


def settings_of(home: VaultHome, **given: Any) -> Settings:
    """Settings of a server on a vault."""
    return home.settings().model_copy(update={"stream_check_seconds": 0.2, **given})


@asynccontextmanager
async def server_here(
    home: VaultHome,
    options: HttpOptions | None = None,
    *,
    agents: tuple[str, ...] = ("alice", "mallory"),
    verify: Callable[[app.Prepared], Authenticator] = app.authenticator_of,
    grace_seconds: float = 5,
    **settings: Any,
) -> AsyncGenerator[Server]:
    """A server in this process, ended with the block."""
    put_vault(home.path)
    ending = Ending(app.SystemClock(), grace_seconds)
    async with running_server(
        settings_of(home, **settings), options or local_options(), ending, version="0", verify=verify
    ) as serving:
        server = Server(f"http://127.0.0.1:{serving.port}", home, serving=serving)
        if serving.url.startswith("https://"):
            server.url = serving.url
        for agent in agents:
            server.keys[agent] = await add_agent(serving.prepared.graph, agent)
        yield server


async def add_agent(graph: app.Graph, name: str) -> str:
    """Register an agent; its key."""
    call = graph.broker.call(graph.broker.directory.operator(graph.user), "create_workload_identity")
    issued = await graph.broker.workloads.create_with_key(call, name, WorkloadSpec())
    return issued.key.reveal()


async def add_agents(home: VaultHome, *names: str) -> dict[str, str]:
    """Register agents in a vault that nobody serves now; their keys."""
    async with app.open(home.settings()) as graph:
        return {name: await add_agent(graph, name) for name in names}


@asynccontextmanager
async def server_process(
    home: VaultHome,
    *arguments: str,
    keys: Mapping[str, str] | None = None,
    up: bool = True,
    settings: Mapping[str, str] = MappingProxyType({}),
) -> AsyncGenerator[Server]:
    """A server as a process of its own; killed at the end, if it still lives.

    Args:
        home: Its vault.
        arguments: Of `mcp-identity serve`.
        keys: The bearers of agents.
        up: Wait until it serves.
        settings: Its environment, without the prefix.
    """
    command = [sys.executable, "-m", "mcp_identity", "serve", *arguments]
    environment = home.environment(**settings)
    process = await open_process(command, environment, stdin=DEVNULL)
    server = Server("", home, dict(keys or {}), process=process)
    serves = anyio.Event()

    async def read_log() -> None:
        assert process.stderr is not None
        with suppress(anyio.ClosedResourceError):
            async for chunk in process.stderr:
                server.log.extend(chunk)
                if b"mcp-identity serves " in server.log and server.log.endswith(b"\n"):
                    serves.set()
        serves.set()
        server.logged.set()

    try:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(read_log)
            if up:
                with anyio.fail_after(30):
                    await serves.wait()
                said = server.log.decode()
                assert "mcp-identity serves " in said, said
                where = said.partition("mcp-identity serves ")[2].splitlines()[0].split()
                server.url, server.port = where[0].rpartition("/")[0], int(where[-1])
            yield server
            tasks.cancel_scope.cancel()
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        with anyio.CancelScope(shield=True):
            await process.aclose()
