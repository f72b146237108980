"""An HTTP server on loopback that does what a broken or hostile authorization server does, one named knob at a time."""

from __future__ import annotations

import ssl
import struct
import zlib
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import cache
from socket import SO_LINGER, SOL_SOCKET

import anyio
from anyio.abc import AnyByteStream, SocketAttribute, SocketStream
from anyio.streams.tls import TLSStream

TOKEN_ANSWER = b'{"access_token":"at-made-up","token_type":"Bearer","expires_in":3600}'


@dataclass(frozen=True, slots=True)
class Script:
    """What the server answers, and how badly.

    Attributes:
        status: The status code.
        body: The body.
        headers: Further headers; `Content-Type` is JSON unless it stands here.
        raw: These exact bytes instead of an answer.
        content_length: What the header claims; None for the truth.
        drip_seconds: Between single bytes of the answer.
        gzip_bomb_bytes: A gzip body that inflates to so many zeros.
        huge_body_bytes: A plain body of so many bytes, without a length.
        endless_chunks: Chunks of this size, for ever.
        endless_headers: Header lines, for ever.
        endless_informational: Interim answers, for ever.
        hang: Read the request and say nothing.
        hang_after_headers: Send the headers and say no more.
        hang_up: Read the request and close.
        reset: Read the request and reset the connection.
        close_at_once: Close before reading anything.
        speak_first: Send `raw` before anything was asked, and close.
        stall_handshake: Accept, and never shake hands.
        keep_alive: Answer further requests on the same connection.
        answers: Of so many requests on one connection; the next one is read, and the connection closed. 0 for all.
    """

    status: int = 200
    body: bytes = TOKEN_ANSWER
    headers: tuple[tuple[str, str], ...] = ()
    raw: bytes | None = None
    content_length: int | None = None
    drip_seconds: float = 0
    gzip_bomb_bytes: int = 0
    huge_body_bytes: int = 0
    endless_chunks: int = 0
    endless_headers: bool = False
    endless_informational: bool = False
    hang: bool = False
    hang_after_headers: bool = False
    hang_up: bool = False
    reset: bool = False
    close_at_once: bool = False
    speak_first: bool = False
    stall_handshake: bool = False
    keep_alive: bool = False
    answers: int = 0


@dataclass(slots=True)
class HostileServer:
    """A running server: where it is, and what it saw.

    Attributes:
        port: Its port on 127.0.0.1.
        script: What it does; may be exchanged between requests.
        connections: How many were accepted.
        requests: The requests that were read whole.
        came_on: On which connection each of them came.
    """

    port: int
    script: Script
    connections: int = 0
    requests: list[bytes] = field(default_factory=list[bytes])
    came_on: list[int] = field(default_factory=list[int])
    tls: ssl.SSLContext | None = None

    @property
    def url(self) -> str:
        """Its token endpoint, in the scheme that it speaks."""
        return f"{'https' if self.tls else 'http'}://127.0.0.1:{self.port}/token?tenant=acme"

    async def serve(self, stream: SocketStream) -> None:
        """Answer one connection as the script says."""
        self.connections += 1
        connection = self.connections
        with suppress(anyio.BrokenResourceError, anyio.EndOfStream, anyio.ClosedResourceError, ssl.SSLError, OSError):
            async with stream:
                if self.script.close_at_once:
                    return
                if self.script.speak_first:
                    await stream.send(self.script.raw or b"")
                    return
                if self.script.stall_handshake:
                    await anyio.sleep_forever()
                secured: AnyByteStream = stream
                if self.tls:
                    secured = await TLSStream.wrap(stream, server_side=True, ssl_context=self.tls, standard_compatible=False)
                answered = 0
                while self.script.keep_alive or not answered:
                    request = await _read_request(secured)
                    self.requests.append(request)
                    self.came_on.append(connection)
                    if self.script.answers and answered == self.script.answers:
                        return
                    await self._answer(secured, stream)
                    answered += 1

    async def _answer(self, stream: AnyByteStream, plain: SocketStream) -> None:
        script = self.script
        if script.reset:
            # Lingering for no time at all makes the close a reset.
            raw = plain.extra(SocketAttribute.raw_socket)  # noqa: S610 - anyio's, not Django's
            raw.setsockopt(SOL_SOCKET, SO_LINGER, struct.pack("ii", 1, 0))
        if script.hang_up or script.reset:
            return
        if script.hang:
            await anyio.sleep_forever()
        if script.endless_informational:
            while True:
                await stream.send(b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n" * 100)
        if script.endless_headers:
            await stream.send(b"HTTP/1.1 200 OK\r\n")
            while True:
                await stream.send(b"X-More: of the same\r\n" * 100)
        await self._answer_whole(stream, script)

    async def _answer_whole(self, stream: AnyByteStream, script: Script) -> None:
        if script.gzip_bomb_bytes:
            script = replace(
                script, body=_bomb(script.gzip_bomb_bytes), headers=(*script.headers, ("Content-Encoding", "gzip"))
            )
        if script.raw is not None:
            await _send(stream, script.raw, script.drip_seconds)
            return
        names = {name.lower() for name, _ in script.headers}
        headers = [*script.headers]
        if "content-type" not in names:
            headers.append(("Content-Type", "application/json"))
        if script.endless_chunks:
            headers.append(("Transfer-Encoding", "chunked"))
        elif not script.huge_body_bytes:
            length = len(script.body) if script.content_length is None else script.content_length
            headers.append(("Content-Length", str(length)))
        lines = "".join(f"{name}: {value}\r\n" for name, value in headers)
        head = f"HTTP/1.1 {script.status} Made Up\r\n{lines}\r\n".encode("latin-1")
        await _send(stream, head if script.hang_after_headers else head + script.body, script.drip_seconds)
        if script.hang_after_headers:
            await anyio.sleep_forever()
        for _ in range(script.huge_body_bytes // 65536):
            await stream.send(b"x" * 65536)
        while script.endless_chunks:
            await stream.send(f"{script.endless_chunks:x}\r\n".encode() + b"x" * script.endless_chunks + b"\r\n")


@asynccontextmanager
async def hostile_server(script: Script | None = None, *, tls: ssl.SSLContext | None = None) -> AsyncGenerator[HostileServer]:
    """Run a server on a free loopback port while the block lasts."""
    async with await anyio.create_tcp_listener(local_host="127.0.0.1") as listener, anyio.create_task_group() as tasks:
        if script and script.gzip_bomb_bytes:
            _bomb(script.gzip_bomb_bytes)  # now, not on a test's clock
        port = listener.extra(SocketAttribute.local_port)  # noqa: S610 - anyio's, not Django's
        server = HostileServer(port, script or Script(), tls=tls)
        tasks.start_soon(listener.serve, server.serve)
        yield server
        tasks.cancel_scope.cancel()


async def _send(stream: AnyByteStream, data: bytes, drip_seconds: float) -> None:
    if not drip_seconds:
        await stream.send(data)
        return
    for byte in data:
        await stream.send(bytes([byte]))
        await anyio.sleep(drip_seconds)


async def _read_request(stream: AnyByteStream) -> bytes:
    data = b""
    while b"\r\n\r\n" not in data:
        data += await stream.receive()
    head, _, body = data.partition(b"\r\n\r\n")
    length = next((int(line[15:]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:")), 0)
    while len(body) < length:
        body += await stream.receive()
    return head + b"\r\n\r\n" + body


@cache
def _bomb(size: int) -> bytes:
    compressor = zlib.compressobj(6, zlib.DEFLATED, 31)
    step = b"\0" * (1 << 20)
    return b"".join(compressor.compress(step) for _ in range(size >> 20)) + compressor.flush()
