"""What does a caller see when something breaks inside? Our code, and nothing of what broke."""

from __future__ import annotations

import copy
import logging
import sqlite3
from collections.abc import AsyncGenerator, Generator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from mcp import Client, MCPError

from mcp_identity import app
from mcp_identity.cli.logs import configure_logging
from mcp_identity.domain.errors import VaultUnavailable
from mcp_identity.tools.caller import Local, StdioCaller
from mcp_identity.tools.server import build_server
from tests.fakes.home import VaultHome
from tests.fakes.mcp_client import ProtocolError, mcp_client
from tests.fakes.vendor import new_secret

SECRET = new_secret()
RESOURCES = {"identity://providers": "list_providers", "identity://grants": "list_grants"}


@contextmanager
def broken_audit(home: VaultHome) -> Generator[None]:
    """While the block lasts, no row can be added to the trail."""
    with closing(sqlite3.connect(home.path / "vault.db", isolation_level=None)) as connection:
        connection.execute("CREATE TRIGGER broken BEFORE INSERT ON audit_events BEGIN SELECT RAISE(ABORT, 'broken'); END")
        yield
        connection.execute("DROP TRIGGER broken")


async def test_without_a_trail_no_tool_and_no_resource_gives_anything(home: VaultHome) -> None:
    async with mcp_client(home.environment()) as client:
        await client.call("whoami")
        with broken_audit(home):
            for tool, arguments in (
                ("whoami", {}),
                ("list_providers", {}),
                ("list_grants", {}),
                ("get_token", {"provider": "billing"}),
                ("get_api_key", {"provider": "weather"}),
                ("get_token", {"providr": "billing"}),
            ):
                answer = await client.call(tool, **arguments)
                assert (answer["status"], answer["code"]) == ("error", "audit_unavailable"), tool
                assert home.api_key not in str(answer)
            for uri in RESOURCES:
                with pytest.raises(ProtocolError) as raised:
                    await client.request("resources/read", uri=uri)
                assert raised.value.code == -32603
                assert raised.value.message.startswith("audit_unavailable: ")
                assert (raised.value.data["code"], raised.value.data["retryable"]) == ("audit_unavailable", True)
        assert (await client.call("get_api_key", provider="weather"))["api_key"] == home.api_key


class Failing:
    """A broker whose looking verbs raise what `error` says, and which otherwise does its work."""

    def __init__(self, broker: Any, error: Exception) -> None:
        self._broker = broker
        self._error = error

    def __getattr__(self, name: str) -> Any:
        return self._fail if name in {"note", "list_providers", "list_grants"} else getattr(self._broker, name)

    async def _fail(self, _call: Any) -> None:
        raise copy.copy(self._error)  # a fresh one each time, of which nothing is written down yet


@pytest.fixture
async def graph(tmp_path: Path) -> AsyncGenerator[app.Graph]:
    """A vault in this process."""
    async with app.open(VaultHome(tmp_path).settings()) as graph:
        yield graph


def client_of(graph: app.Graph, error: Exception) -> Client:
    """A client of a server whose broker fails."""
    broker: Any = Failing(graph.broker, error)

    async def local() -> Local:
        return Local(broker, graph.user, "agent")

    return Client(build_server(StdioCaller(local), version="0"))


async def test_a_designed_failure_is_told_by_its_code_everywhere(graph: app.Graph) -> None:
    async with client_of(graph, VaultUnavailable("the disk is full")) as client:
        for tool in ("whoami", "list_providers", "list_grants"):
            answer = await client.call_tool(tool, {})
            assert answer.structured_content is not None
            assert answer.structured_content["code"] == "vault_unavailable"
            assert answer.structured_content["message"] == "the disk is full"
        for uri, action in RESOURCES.items():
            with pytest.raises(MCPError) as raised:
                await client.read_resource(uri)
            assert raised.value.error.message == "vault_unavailable: the disk is full"
            assert raised.value.error.data["uri"] == uri
            events = [event for _, event in await graph.broker.list_audit("default", limit=100)]
            named = raised.value.error.data["correlation_id"]
            assert [event.action for event in events if event.correlation_id == named] == [action]


async def test_an_unforeseen_failure_says_nothing_of_itself(graph: app.Graph, capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("DEBUG", "human")
    try:
        async with client_of(graph, ValueError(SECRET)) as client:
            for tool in ("whoami", "list_providers", "list_grants"):
                answer = await client.call_tool(tool, {})
                assert answer.structured_content is not None
                assert answer.structured_content["code"] == "internal_error"
                assert SECRET not in answer.model_dump_json()
                events = [event for _, event in await graph.broker.list_audit("default", limit=100)]
                assert (events[-1].action, events[-1].outcome) == (tool, "internal_error")
                assert events[-1].correlation_id == answer.structured_content["correlation_id"]
            for uri in RESOURCES:
                with pytest.raises(MCPError) as raised:
                    await client.read_resource(uri)
                assert raised.value.error.message.startswith("internal_error: ")
                assert SECRET not in str(raised.value.error)
    finally:
        _log_no_more()
    log = capsys.readouterr().err
    assert "ValueError" in log
    assert SECRET not in log


def _log_no_more() -> None:
    root = logging.getLogger()
    root.handlers = [handler for handler in root.handlers if type(handler).__module__ != "mcp_identity.cli.logs"]
    root.setLevel(logging.WARNING)
