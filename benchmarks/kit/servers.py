"""How are the two servers started? Ours as people start it, and the one that does nothing as the SDK starts it."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Generator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from kit.load import Target
from kit.noop import ANSWER
from kit.vaults import BenchVault

BENCHMARKS = Path(__file__).resolve().parents[1]
START_SECONDS = 30.0


def free_port() -> int:
    """A port of this machine that nobody uses now."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


@contextmanager
def our_server(vault: BenchVault, transport: str, profile: Path | None = None) -> Generator[Target]:
    """Our server on a vault, while the block lasts.

    Args:
        vault: Filled.
        transport: ``http``, ``sse`` or ``stdio``.
        profile: Where to write what its threads do; see `sampling.py`.
    """
    sampled = ["kit.sampling", str(profile.absolute())] if profile else []
    command = [sys.executable, "-m", *sampled, "mcp_identity", "serve"]
    path = {"PYTHONPATH": str(BENCHMARKS)} if profile else {}
    if transport == "stdio":
        trust = ["--trust-local-user"] if vault.database_url else []
        environment = vault.environment(WORKLOAD=vault.agents[0], CALLBACK_PORT=str(free_port())) | path
        yield Target("mcp-identity", transport, 0, 0, [], [*command, *trust], environment)
        return
    port = free_port()
    arguments = [*command, "--transport", transport, "--port", str(port)]
    with running(arguments, vault.environment() | path, port) as process_id:
        yield Target("mcp-identity", transport, port, process_id, vault.keys, [], {})


@contextmanager
def noop_server(vault: BenchVault, transport: str) -> Generator[Target]:
    """The server that does nothing, while the block lasts."""
    environment = {**os.environ, ANSWER: json.dumps(vault.answer), "PYTHONPATH": str(BENCHMARKS)}
    command = [sys.executable, "-m", "kit.noop", transport]
    if transport == "stdio":
        yield Target("no-op", transport, 0, 0, [], command, environment)
        return
    port = free_port()
    with running([*command, str(port)], environment, port) as process_id:
        yield Target("no-op", transport, port, process_id, vault.keys, [], {})


@contextmanager
def running(command: list[str], environment: Mapping[str, str], port: int) -> Generator[int]:
    """A server process that listens; its id.

    Raises:
        RuntimeError: If it does not come up.
    """
    with subprocess.Popen(command, env=dict(environment), stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            _wait_for(port, process)
            yield process.pid
        finally:
            process.terminate()
            with suppress(subprocess.TimeoutExpired):
                process.wait(15)
            process.kill()


def _wait_for(port: int, process: subprocess.Popen[bytes]) -> None:
    until = time.monotonic() + START_SECONDS
    while time.monotonic() < until and process.poll() is None:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    raise RuntimeError(f"{' '.join(command_of(process))} does not serve")


def command_of(process: subprocess.Popen[bytes]) -> list[str]:
    """What was started."""
    return [str(each) for each in process.args] if isinstance(process.args, list) else [str(process.args)]
