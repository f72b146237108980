"""When does the process end, with which status, and what does it say? It never lives on half broken."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.fakes.home import VaultHome
from tests.fakes.mcp_client import STATELESS_VERSION, mcp_client

PATIENCE_SECONDS = 4
"""A host waits two seconds after it has closed our input, and two more after SIGTERM; then it kills."""


@pytest.mark.parametrize("moment", ["before a word", "after the list", "after a call"])
async def test_the_end_of_the_input_ends_it(moment: str, empty_home: VaultHome) -> None:
    async with mcp_client(empty_home.environment(), opened=moment != "before a word") as client:
        if moment != "before a word":
            await client.request("tools/list")
        if moment == "after a call":
            await client.call("whoami")
        await client.close_input()
        assert await client.wait(PATIENCE_SECONDS if moment == "after a call" else 10) == 0
    assert client.log == b""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_ends_it(number: signal.Signals, empty_home: VaultHome) -> None:
    async with mcp_client(empty_home.environment()) as client:
        await client.call("whoami")
        client.terminate(number)
        assert await client.wait() == 0
    assert client.log == b""


async def test_a_host_that_vanishes_ends_it(empty_home: VaultHome) -> None:
    async with mcp_client(empty_home.environment()) as client:
        await client.call("whoami")
        assert client.process.stdout is not None
        assert client.process.stderr is not None
        await client.process.stdout.aclose()
        await client.process.stderr.aclose()
        await client.begin("tools/call", name="whoami", arguments={})
        await client.close_input()
        assert await client.wait() == 0


def _no_key(home: Path) -> None:
    (home / "key").unlink()


def _open_key(home: Path) -> None:
    (home / "key").chmod(0o644)


def _short_key(home: Path) -> None:
    (home / "key").write_bytes((home / "key").read_bytes()[:20])


def _no_vault(home: Path) -> None:
    (home / "vault.db").unlink()


def _no_database(home: Path) -> None:
    (home / "vault.db").write_bytes(b"this is no database" * 1000)


@pytest.mark.parametrize(
    ("damage", "status", "said", "version"),
    [
        (_no_key, 78, b"configuration_error", "2025-11-25"),
        (_open_key, 78, b"configuration_error", STATELESS_VERSION),
        (_short_key, 78, b"configuration_error", "2024-11-05"),
        (_no_vault, 78, b"configuration_error", STATELESS_VERSION),
        (_no_database, 74, b"vault_corrupt", "2025-11-25"),
    ],
)
async def test_a_vault_that_does_not_stand_ends_it_once_the_list_is_out(
    damage: Callable[[Path], None], status: int, said: bytes, version: str, home: VaultHome
) -> None:
    damage(home.path)
    async with mcp_client(home.environment(), version=version) as client:
        called = await client.begin("tools/call", name="list_providers", arguments={})
        assert (await client.request("tools/list"))["tools"]
        assert await client.wait() == status
        assert not client.was_answered(called)
    assert client.log.startswith(b"error: ")
    assert said in client.log
    assert client.log.count(b"\n") == 1


async def test_a_setting_that_does_not_stand_ends_it(empty_home: VaultHome) -> None:
    async with mcp_client(empty_home.environment(LOG_LEVEL="LOUD")) as client:
        assert (await client.request("tools/list"))["tools"]
        assert await client.wait() == 78
    assert b"log_level" in client.log
    assert not list(empty_home.path.iterdir())


BREAKS = """
import mcp_identity.app
from mcp_identity.cli.serve import serve

def prepare(settings):
    raise ValueError("a secret")

mcp_identity.app.prepare = prepare
serve([])
"""


async def test_an_unforeseen_failure_while_opening_ends_it(empty_home: VaultHome) -> None:
    async with mcp_client(empty_home.environment(), command=(sys.executable, "-c", BREAKS)) as client:
        called = await client.begin("tools/call", name="whoami", arguments={})
        assert await client.wait() == 1
        assert not client.was_answered(called)
    assert b"ValueError" in client.log
    assert b"a secret" not in client.log
    assert b"Traceback" not in client.log


async def test_a_wrong_option_is_a_usage_error(empty_home: VaultHome) -> None:
    command = (sys.executable, "-m", "mcp_identity", "serve", "--transport", "carrier-pigeon")
    async with mcp_client(empty_home.environment(), command=command, opened=False) as client:
        assert await client.wait() == 2
    assert client.lines == []
    assert b"carrier-pigeon" in client.log
