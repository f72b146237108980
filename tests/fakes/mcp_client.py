"""What does an MCP host write to a stdio server, byte for byte, and what comes back? A client without an SDK in between.

It speaks every protocol version, sends what no SDK would, and keeps every byte of both outputs.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anyio
from anyio.abc import AnyByteReceiveStream, Process, TaskGroup

from tests.fakes.forge import open_process

HANDSHAKE_VERSIONS = ("2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25")
STATELESS_VERSION = "2026-07-28"
VERSIONS = (*HANDSHAKE_VERSIONS, STATELESS_VERSION)
ANSWER_SECONDS = 20.0

Json = dict[str, Any]


class ProtocolError(Exception):
    """A JSON-RPC error came back."""

    def __init__(self, error: Json) -> None:
        super().__init__(error["message"])
        self.code: int = error["code"]
        self.message: str = error["message"]
        self.data: Any = error.get("data")


@dataclass(slots=True)
class McpClient:
    """One stdio server, and the host that started it.

    Attributes:
        process: The server.
        version: The protocol version that is spoken.
        name: The client's name; None gives none.
        lines: Every line of stdout.
        log: Everything on stderr.
    """

    process: Process
    version: str
    name: str | None
    lines: list[bytes] = field(default_factory=list[bytes])
    log: bytearray = field(default_factory=bytearray)
    _answers: dict[int, Json] = field(default_factory=dict[int, Json])
    _arrived: anyio.Event = field(default_factory=anyio.Event)
    _ended: bool = False
    _last_id: int = 0

    async def open(self) -> None:
        """Shake hands, where this version does."""
        if self.version == STATELESS_VERSION:
            return
        info = {"name": self.name or "", "version": "1"}
        answer = await self.request("initialize", protocolVersion=self.version, capabilities={}, clientInfo=info)
        assert answer["protocolVersion"] == self.version
        await self.notify("notifications/initialized")

    async def request(self, method: str, **params: Any) -> Json:
        """Send a request and wait for its result.

        Raises:
            ProtocolError: If the answer is an error.
        """
        return await self.answer(await self.begin(method, **params))

    async def call(self, tool: str, **arguments: Any) -> Json:
        """Call a tool; its structured answer."""
        result = await self.request("tools/call", name=tool, arguments=arguments)
        structured: Json = result["structuredContent"]
        assert json.dumps(structured) in result["content"][0]["text"]
        assert result["isError"] is (structured["status"] == "error")
        return structured

    async def begin(self, method: str, **params: Any) -> int:
        """Send a request; its id."""
        self._last_id += 1
        if self.version == STATELESS_VERSION:
            params["_meta"] = self._envelope()
        await self.send({"jsonrpc": "2.0", "id": self._last_id, "method": method, "params": params})
        return self._last_id

    async def notify(self, method: str, **params: Any) -> None:
        """Send a notification."""
        await self.send({"jsonrpc": "2.0", "method": method, "params": params})

    async def send(self, message: Json) -> None:
        """Send one message."""
        await self.send_bytes(json.dumps(message).encode() + b"\n")

    async def send_bytes(self, data: bytes) -> None:
        """Send what may be no message at all."""
        assert self.process.stdin is not None
        await self.process.stdin.send(data)

    async def answer(self, request_id: int) -> Json:
        """Wait for the result of a request that was begun.

        Raises:
            ProtocolError: If the answer is an error.
        """
        with anyio.fail_after(ANSWER_SECONDS):
            while request_id not in self._answers:
                assert not self._ended, f"the server ended: {self.log.decode()}"
                await self._arrived.wait()
        answer = self._answers.pop(request_id)
        if "error" in answer:
            raise ProtocolError(answer["error"])
        return answer["result"]

    def was_answered(self, request_id: int) -> bool:
        """Whether the answer to a request is there."""
        return request_id in self._answers

    async def close_input(self) -> None:
        """Say that there is no more, as a host does first."""
        assert self.process.stdin is not None
        await self.process.stdin.aclose()

    async def wait(self, seconds: float = 10.0) -> int:
        """Wait for the end of the server and of its outputs; the exit status."""
        with anyio.fail_after(seconds):
            status = await self.process.wait()
            while not self._ended:
                await self._arrived.wait()
        return status

    async def ends_within(self, seconds: float) -> bool:
        """Whether the server ends in so short a time."""
        with anyio.move_on_after(seconds):
            await self.process.wait()
        return self.process.returncode is not None

    def terminate(self, number: signal.Signals = signal.SIGTERM) -> None:
        """Send a signal."""
        self.process.send_signal(number)

    async def read(self, group: TaskGroup) -> None:
        """Keep reading both outputs."""
        assert self.process.stdout is not None
        assert self.process.stderr is not None
        group.start_soon(self._read_log, self.process.stderr)
        group.start_soon(self._read_lines, self.process.stdout)

    async def _read_log(self, stream: AnyByteReceiveStream) -> None:
        with suppress(anyio.EndOfStream, anyio.ClosedResourceError):
            while True:
                self.log += await stream.receive()

    async def _read_lines(self, stream: AnyByteReceiveStream) -> None:
        rest = b""
        with suppress(anyio.EndOfStream, anyio.ClosedResourceError):
            while True:
                *lines, rest = (rest + await stream.receive()).split(b"\n")
                self.lines += lines
                for line in lines:
                    self._take(line)
                self._wake()
        self.lines += [rest] if rest else []
        self._ended = True
        self._wake()

    def _take(self, line: bytes) -> None:
        with suppress(ValueError):  # what is no message stands in `lines`, for whoever asks
            message: Json = json.loads(line)
            if "method" not in message and message.get("id") is not None:
                self._answers[message["id"]] = message

    def _wake(self) -> None:
        arrived, self._arrived = self._arrived, anyio.Event()
        arrived.set()

    def _envelope(self) -> Json:
        info: Json = {} if self.name is None else {"clientInfo": {"name": self.name, "version": "1"}}
        named: Json = {"protocolVersion": self.version, "clientCapabilities": {}, **info}
        return {f"io.modelcontextprotocol/{key}": value for key, value in named.items()}


def environment_of(home: Path, port: int, **settings: str) -> dict[str, str]:
    """The environment of a server whose vault is in `home`; settings of the person who runs the tests stay outside."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("MCP_IDENTITY_")}
    own = {f"MCP_IDENTITY_{name}": value for name, value in settings.items()}
    return {**inherited, "MCP_IDENTITY_HOME": str(home), "MCP_IDENTITY_CALLBACK_PORT": str(port), **own}


@asynccontextmanager
async def mcp_client(
    environment: Mapping[str, str],
    *,
    version: str = "2025-11-25",
    name: str | None = "Claude Desktop",
    command: Sequence[str] = (sys.executable, "-m", "mcp_identity", "serve"),
    opened: bool = True,
) -> AsyncGenerator[McpClient]:
    """Start a server and talk to it while the block lasts; it is killed at the end, if it still lives.

    Args:
        environment: Of the process; see `environment_of`.
        version: The protocol version to speak.
        name: The client's name; None gives none.
        command: What to start.
        opened: Shake hands first.
    """
    process = await open_process(command, environment)
    client = McpClient(process, version, name)
    try:
        async with anyio.create_task_group() as group:
            await client.read(group)
            if opened:
                await client.open()
            yield client
            group.cancel_scope.cancel()
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        with anyio.CancelScope(shield=True):
            await process.aclose()
