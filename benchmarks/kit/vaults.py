"""What is in the vault that is measured? One M2M provider on this machine, agents with keys, and a cached token for each.

The tokens are obtained in the product's own way from an authorization server that runs only meanwhile; what is measured later
never goes upstream.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kit.databases import Databases  # first: it makes the fakes importable
from mcp_identity import app
from mcp_identity.broker.answers import ProviderSpec, TokenReleased, TokenRequest
from mcp_identity.broker.audit import Call
from mcp_identity.broker.workloads import WorkloadSpec
from mcp_identity.domain.credentials import Secret
from mcp_identity.domain.identity import Principal
from mcp_identity.settings import Settings
from mcp_identity.tools.results import token_answer
from tests.fakes.vendor import CLIENT_ID, Vendor, running_vendor

PROVIDER, SCOPES = "billing", ("read", "write")
NAMES: Mapping[str, str] = {"sqlite": "SQLite", "postgresql": "PostgreSQL"}
"""Of the databases, for people."""
TOKEN_SECONDS = 6 * 3600
UNLIMITED: Mapping[str, str] = {
    "CALLS_PER_SECOND": "1000000",
    "REQUESTS_PER_SECOND": "1000000",
    "CONCURRENT_REQUESTS": "1000",
    "CONCURRENT_REQUESTS_PER_PRINCIPAL": "1000",
    "STREAMS_PER_PRINCIPAL": "1000",
}
"""Limits that do not cut what is measured; everything else is as it comes."""


@dataclass(frozen=True, slots=True)
class BenchVault:
    """A vault on disk that nobody serves yet.

    Attributes:
        home: Its folder.
        database_url: Empty for SQLite in `home`.
        agents: The names of its agents.
        keys: Their keys.
        answer: The structured result of `get_token` for the first agent.
    """

    home: Path
    database_url: str = ""
    agents: list[str] = field(default_factory=list[str])
    keys: list[str] = field(default_factory=list[str])
    answer: dict[str, Any] = field(default_factory=dict[str, Any])

    def settings(self) -> Settings:
        """To open it in this process."""
        given = {name.lower(): int(value) for name, value in UNLIMITED.items()}
        return Settings(home=self.home, database_url=self.database_url, **given)  # pyright: ignore[reportArgumentType]

    def environment(self, **more: str) -> dict[str, str]:
        """The environment of a server on it; settings of the person who measures stay outside."""
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("MCP_IDENTITY_")}
        own = {**UNLIMITED, "HOME": str(self.home), "DATABASE_URL": self.database_url, **more}
        return {**inherited, **{f"MCP_IDENTITY_{name}": value for name, value in own.items() if value}}


def provider_spec(vendor: Vendor, flows: str = "M2M") -> ProviderSpec:
    """A provider at a vendor of this machine."""
    return ProviderSpec(
        vendor="custom",
        settings={**vendor.settings, "flows": flows},
        client_id=CLIENT_ID,
        secret=Secret(vendor.client_secret),
        scopes=SCOPES,
        allow_http_loopback=True,
    )


async def fill(vault: BenchVault, agents: int) -> None:
    """Make the vault, its provider and its agents, and obtain a token for each of them."""
    async with running_vendor() as vendor, app.open(vault.settings()) as graph:
        vendor.expires_in = TOKEN_SECONDS
        broker, operator = graph.broker, graph.broker.directory.operator(graph.user)
        await broker.directory.add(broker.call(operator, "create_provider"), PROVIDER, provider_spec(vendor))
        for number in range(agents):
            name = f"agent-{number}"
            issued = await broker.workloads.create_with_key(broker.call(operator, "create"), name, WorkloadSpec())
            principal = await broker.directory.local_principal(name, graph.user, "stdio")
            released = await get_token(graph, broker.call(principal, "get_token"))
            vault.agents.append(name)
            vault.keys.append(issued.key.reveal())
            if not vault.answer:
                vault.answer.update(token_answer(released).structured_content or {})


def audit_rows(vault: BenchVault, databases: Databases) -> int:
    """How many calls of `get_token` that were answered stand in the trail."""
    query = "SELECT count(*) FROM audit_events WHERE action = 'get_token' AND outcome = 'ok'"
    if not vault.database_url:
        with closing(sqlite3.connect(f"file:{vault.home / 'vault.db'}?mode=ro", uri=True)) as connection:
            return int(connection.execute(query).fetchone()[0])
    return int(databases.execute(vault.database_url, query)[0][0])


async def get_token(graph: app.Graph, call: Call) -> TokenReleased:
    """One call in this process.

    Raises:
        RuntimeError: If it did not end in a token.
    """
    found = await graph.broker.get_token(call, TokenRequest(PROVIDER, SCOPES))
    if not isinstance(found, TokenReleased):
        raise RuntimeError(f"no token: {type(found).__name__}")  # noqa: TRY004 - an outcome, not a wrong type
    return found


@asynccontextmanager
async def opened(vault: BenchVault) -> AsyncGenerator[tuple[app.Graph, list[Principal]]]:
    """The graph of a filled vault in this process, and the principals of its agents."""
    async with app.open(vault.settings()) as graph:
        yield graph, [await graph.broker.directory.local_principal(name, graph.user, "stdio") for name in vault.agents]
