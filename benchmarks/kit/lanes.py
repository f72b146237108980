"""How does one caller speak to a server, byte for byte? Over Streamable HTTP, SSE and stdio, and with signed requests.

A lane sends the next request when it is told to, and tells when an answer is complete. Nothing is parsed that need not be, so
that the load costs little beside the server. An answer that is no success ends the run: a fast refusal is no figure.
"""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from typing import IO, Any, Protocol

STATELESS, SESSIONS = "2026-07-28", "2025-11-25"
"""The protocol version without sessions, spoken over HTTP; and the one with them, spoken over SSE and stdio."""
_CLIENT = {"name": "bench", "version": "1"}
_META = {
    "io.modelcontextprotocol/protocolVersion": STATELESS,
    "io.modelcontextprotocol/clientInfo": _CLIENT,
    "io.modelcontextprotocol/clientCapabilities": {},
}
_CHUNK = 1 << 16
_HTTP_ENDS = b"\r\n\r\n"
_SUCCESS = b'"isError":false'
_ID = re.compile(rb'"id":\s*(\d+)')
SECONDS = 30.0
"""How long a server may take to say anything at all."""


class LoadError(Exception):
    """A server did not answer as it should."""


@dataclass(frozen=True, slots=True)
class Call:
    """The tool call that is repeated.

    Attributes:
        tool: Its name.
        arguments: What it is given.
    """

    tool: str
    arguments: Mapping[str, Any]

    def message(self, request_id: int, *, stateless: bool) -> bytes:
        """The request."""
        params: dict[str, Any] = {"name": self.tool, "arguments": self.arguments}
        if stateless:
            params["_meta"] = _META
        return _request(request_id, "tools/call", params)


class Lane(Protocol):
    """One way to a server, with room for one or more requests at once."""

    def files(self) -> list[int]:
        """What to wait for."""
        ...

    def send(self) -> int:
        """Send the next request; its number."""
        ...

    def receive(self, file: int) -> list[int]:
        """Read what is there; the numbers of the requests whose answers are complete now."""
        ...

    def close(self) -> None:
        """Let go."""
        ...


class HttpLane:
    """One kept connection to `/mcp`; each request stands for itself."""

    def __init__(self, port: int, bearer: str, call: Call) -> None:
        """Connect."""
        self._socket = _connect(port)
        head = _head(
            port, "/mcp", bearer, f"MCP-Protocol-Version: {STATELESS}\r\nMcp-Method: tools/call\r\nMcp-Name: {call.tool}\r\n"
        )
        self._request = _post(head, call.message(1, stateless=True))
        self._buffer = b""
        self._number = 0

    def files(self) -> list[int]:
        """The connection."""
        return [self._socket.fileno()]

    def send(self) -> int:
        """Post it."""
        self._buffer = b""
        self._number += 1
        self._socket.sendall(self._request)
        return self._number

    def receive(self, file: int) -> list[int]:
        """Read; an answer is complete where its length, or its last chunk, says so."""
        del file
        self._buffer += _some(self._socket)
        if not _is_complete(self._buffer):
            return []
        if _SUCCESS not in self._buffer:
            raise LoadError(self._buffer[:600].decode(errors="replace"))
        return [self._number]

    def close(self) -> None:
        """Hang up."""
        self._socket.close()


class SignedLane(HttpLane):
    """One kept connection for an operation of the AgentCore edge; reads may repeat, so one signature does for a run."""

    def __init__(self, port: int, bearer: str, call: Call) -> None:
        """Connect, and sign.

        Args:
            port: The server's.
            bearer: JSON: the key's id and secret, and this caller's own members of the request.
            call: The operation's path, and the members that all callers send.
        """
        given = json.loads(bearer)
        self._socket = _connect(port)
        self._request = signed_request(port, given["id"], given["secret"], call.tool, {**call.arguments, **given["members"]})
        self._buffer = b""
        self._number = 0

    def receive(self, file: int) -> list[int]:
        """Read; an answer is complete where its length says so."""
        del file
        self._buffer += _some(self._socket)
        if not _is_complete(self._buffer):
            return []
        _require_status(self._buffer, b"200")
        return [self._number]


class SseLane:
    """One session: a stream that brings the answers, and a kept connection for the posts."""

    def __init__(self, port: int, bearer: str, call: Call) -> None:
        """Open the stream, and the session on it."""
        self._call = call
        self._stream, self._posts = _connect(port), _connect(port)
        self._stream.sendall(_head(port, "/sse", bearer, "", method="GET") + b"\r\n")
        self._events, self._accepted = b"", b""
        self._number, self._answered = 0, False
        endpoint = self._await_event(b"event: endpoint")
        path = endpoint.partition(b"data: ")[2].split()[0].decode()
        self._head = _head(port, path, bearer, f"MCP-Protocol-Version: {SESSIONS}\r\n")
        self._posted(_initialize())
        self._await_event(b"event: message")
        self._posted(_initialized())

    def files(self) -> list[int]:
        """Both connections."""
        return [self._stream.fileno(), self._posts.fileno()]

    def send(self) -> int:
        """Post it."""
        self._number += 1
        self._events, self._accepted, self._answered = b"", b"", False
        self._posts.sendall(_post(self._head, self._call.message(self._number, stateless=False)))
        return self._number

    def receive(self, file: int) -> list[int]:
        """Read; a call is over when the post was accepted and the stream has brought its answer."""
        if file == self._posts.fileno():
            self._accepted += _some(self._posts)
        else:
            self._events += _some(self._stream)
        if not self._answered and _SUCCESS in self._events:
            rest = self._events.partition(_SUCCESS)[2]
            self._answered = _HTTP_ENDS in rest
        elif b'"isError":true' in self._events:
            raise LoadError(self._events[:600].decode(errors="replace"))
        if self._answered and _is_complete(self._accepted):
            _require_status(self._accepted, b"202")
            return [self._number]
        return []

    def close(self) -> None:
        """Hang up both."""
        self._posts.close()
        self._stream.close()

    def _posted(self, body: bytes) -> None:
        self._posts.sendall(_post(self._head, body))
        answer = b""
        while not _is_complete(answer):
            answer += _some(self._posts)
        _require_status(answer, b"202")

    def _await_event(self, kind: bytes) -> bytes:
        while kind not in self._events or _HTTP_ENDS not in self._events.partition(kind)[2]:
            self._events += _some(self._stream)
        found, self._events = self._events.partition(kind)[2], b""
        return found


class StdioLane:
    """One process, to whose input any number of requests may be written before the first is answered."""

    def __init__(self, command: list[str], environment: Mapping[str, str], call: Call) -> None:
        """Start it, and shake hands."""
        self._call = call
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=dict(environment), bufsize=0
        )
        self._input, self._output = _pipe(self._process.stdin), _pipe(self._process.stdout)
        self._rest = b""
        self._number = 0
        self._write(_initialize())
        while not self._lines():
            pass
        self._write(_initialized())

    @property
    def process_id(self) -> int:
        """Of the server."""
        return self._process.pid

    def files(self) -> list[int]:
        """The output."""
        return [self._output]

    def send(self) -> int:
        """Write it."""
        self._number += 1
        self._write(self._call.message(self._number, stateless=False))
        return self._number

    def receive(self, file: int) -> list[int]:
        """Read whole lines."""
        del file
        return [self._number_of(line) for line in self._lines()]

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.wait()

    def _number_of(self, line: bytes) -> int:
        found = _ID.search(line)
        if found is None or _SUCCESS not in line:
            raise LoadError(line[:600].decode(errors="replace"))
        return int(found[1])

    def _lines(self) -> list[bytes]:
        data = os.read(self._output, _CHUNK)
        if not data:
            raise LoadError("the server ended")
        *lines, self._rest = (self._rest + data).split(b"\n")
        return lines

    def _write(self, message: bytes) -> None:
        data = message + b"\n"
        while data:
            data = data[os.write(self._input, data) :]


def signed_request(port: int, key_id: str, secret: str, path: str, members: Mapping[str, Any]) -> bytes:
    """A request of the AgentCore edge, whole, as botocore signs it now."""
    from importlib import import_module

    auth: Any = import_module("botocore.auth")  # it has no types
    body = json.dumps(members).encode()
    request: Any = import_module("botocore.awsrequest").AWSRequest(
        method="POST", url=f"http://127.0.0.1:{port}{path}", data=body, headers={"Content-Type": "application/json"}
    )
    credentials: Any = import_module("botocore.credentials").Credentials(key_id, secret)
    auth.SigV4Auth(credentials, "bedrock-agentcore", "us-east-1").add_auth(request)
    given = {"Host": f"127.0.0.1:{port}", "Content-Length": str(len(body)), **dict(request.headers.items())}
    head = "".join(f"{name}: {value}\r\n" for name, value in given.items())
    return f"POST {path} HTTP/1.1\r\n{head}\r\n".encode() + body


def ask(port: int, request: bytes) -> dict[str, Any]:
    """Send one whole request; the JSON of its answer."""
    connection, answer = _connect(port), b""
    with connection:
        connection.sendall(request)
        while not _is_complete(answer):
            answer += _some(connection)
    _require_status(answer, b"200")
    return json.loads(answer.partition(_HTTP_ENDS)[2])


def _pipe(stream: IO[bytes] | None) -> int:
    if stream is None:
        raise RuntimeError("pipes were asked for")
    return stream.fileno()


def _request(request_id: int, method: str, params: Mapping[str, Any]) -> bytes:
    return json.dumps({"jsonrpc": "2.0", "id": request_id, "method": method, "params": params}).encode()


def _initialize() -> bytes:
    return _request(0, "initialize", {"protocolVersion": SESSIONS, "capabilities": {}, "clientInfo": _CLIENT})


def _initialized() -> bytes:
    return json.dumps({"jsonrpc": "2.0", "method": "notifications/initialized"}).encode()


def _connect(port: int) -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", port), SECONDS)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection


def _head(port: int, path: str, bearer: str, more: str, *, method: str = "POST") -> bytes:
    accept = "text/event-stream" if method == "GET" else "application/json, text/event-stream"
    return (
        f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nAuthorization: Bearer {bearer}\r\nAccept: {accept}\r\n{more}"
    ).encode()


def _post(head: bytes, body: bytes) -> bytes:
    return head + f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body


def _some(connection: socket.socket) -> bytes:
    data = connection.recv(_CHUNK)
    if not data:
        raise LoadError("the server hung up")
    return data


def _is_complete(answer: bytes) -> bool:
    """Whether an HTTP answer is there to its end; what comes behind it nobody has asked for."""
    head, found, body = answer.partition(_HTTP_ENDS)
    if not found:
        return False
    for line in head.lower().split(b"\r\n"):
        if line.startswith(b"content-length:"):
            return len(body) >= int(line.partition(b":")[2])
    return body.endswith(b"0\r\n\r\n")


def _require_status(answer: bytes, status: bytes) -> None:
    if answer.split(b" ", 2)[1] != status:
        raise LoadError(answer[:600].decode(errors="replace"))
