"""What does a vendor on this machine answer over real HTTP, one named knob at a time? For products in other processes.

It consents at once to whoever comes, keeps to RFC 6749 where no knob says otherwise, and gives only secrets that it can
recognise again: each is 32 random bytes in hexadecimal.
"""

from __future__ import annotations

import base64
import json
import secrets
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, Literal, get_args
from urllib.parse import parse_qsl, unquote_plus, urlencode, urlsplit

import anyio
from anyio.abc import SocketAttribute, SocketStream

CLIENT_ID = "the-client"
Echo = Literal["code", "description", "dead grant", "success", "token type", "fault", "redirect", "broken"]
ECHOES: tuple[Echo, ...] = get_args(Echo)
"""Where a vendor repeats a request: its own error code, its description, half a token, a status line, or no HTTP at all."""


def new_secret() -> str:
    """A secret that stands nowhere by chance."""
    return secrets.token_hex(32)


@dataclass(slots=True)
class Vendor:
    """A running vendor.

    Attributes:
        port: Its port on 127.0.0.1.
        client_secret: What our client must send.
        expires_in: The lifetime of access tokens, in seconds.
        hold: Token answers come back only once this is set; `holding` says that one waits.
        denies: The person says no at the consent screen.
        echo: Refuses every token request and repeats what was sent, in the way that this names; None refuses nothing.
        minted: Every secret that it ever gave, codes included.
        received: The forms of the token requests that were processed.
    """

    port: int
    client_secret: str = field(default_factory=new_secret)
    expires_in: int = 3600
    hold: anyio.Event | None = None
    holding: anyio.Event = field(default_factory=anyio.Event)
    denies: bool = False
    echo: Echo | None = None
    minted: list[str] = field(default_factory=list[str])
    received: list[dict[str, str]] = field(default_factory=list[dict[str, str]])
    refresh_token: str = ""
    _codes: set[str] = field(default_factory=set[str])

    @property
    def url(self) -> str:
        """Its origin."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def settings(self) -> dict[str, str]:
        """What a `custom` provider says of it."""
        return {name: f"{self.url}/{name}" for name in ("authorization_url", "token_url", "revocation_url")}

    def count(self, grant_type: str) -> int:
        """How many token requests of a kind were processed."""
        return sum(form.get("grant_type") == grant_type for form in self.received)

    async def serve(self, stream: SocketStream) -> None:
        """Answer one connection."""
        with suppress(anyio.BrokenResourceError, anyio.EndOfStream, anyio.ClosedResourceError):
            async with stream:
                try:
                    target, headers, body = await _read_request(stream)
                except (ValueError, IndexError):
                    return  # no request: somebody who took this port for another server's
                await stream.send(await self._respond(target, headers, dict(parse_qsl(body))))

    async def _respond(self, target: str, headers: dict[str, str], form: dict[str, str]) -> bytes:
        parts = urlsplit(target)
        if parts.path == "/authorization_url":
            return self._authorize(dict(parse_qsl(parts.query)))
        if parts.path == "/revocation_url":
            return _answer(200, {})
        sent = _client_secret(headers, form)
        if self.echo:
            return _repeat(self.echo, " ".join([*form.values(), sent, headers.get("authorization", "")]))
        if sent != self.client_secret:
            return _answer(401, {"error": "invalid_client"})
        self.received.append(form)
        tokens = self._grant(form)
        if self.hold is not None:
            self.holding.set()
            await self.hold.wait()
        return tokens

    def _authorize(self, query: dict[str, str]) -> bytes:
        answer = {"error": "access_denied"} if self.denies else {"code": self._mint()}
        self._codes.update(answer.get("code", "").split())
        back = f"{query['redirect_uri']}?{urlencode({**answer, 'state': query['state']})}"
        return f"HTTP/1.1 302 Found\r\nLocation: {back}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".encode()

    def _grant(self, form: dict[str, str]) -> bytes:
        kind = form["grant_type"]
        proofs = {"authorization_code": ("code", self._codes), "refresh_token": ("refresh_token", {self.refresh_token})}
        name, good = proofs.get(kind, ("", set[str]()))
        if name and form[name] not in good:
            return _answer(400, {"error": "invalid_grant"})
        tokens: dict[str, Any] = {"access_token": self._mint(), "token_type": "Bearer", "expires_in": self.expires_in}
        if kind.endswith(":token-exchange"):
            tokens["issued_token_type"] = "urn:ietf:params:oauth:token-type:access_token"
        if name:
            self._codes.discard(form[name])
            tokens["refresh_token"] = self.refresh_token = self._mint()
        return _answer(200, tokens)

    def _mint(self) -> str:
        self.minted.append(new_secret())
        return self.minted[-1]


@asynccontextmanager
async def running_vendor() -> AsyncGenerator[Vendor]:
    """Run a vendor on a free loopback port while the block lasts."""
    async with await anyio.create_tcp_listener(local_host="127.0.0.1") as listener, anyio.create_task_group() as tasks:
        vendor = Vendor(listener.extra(SocketAttribute.local_port))  # noqa: S610 - anyio's, not Django's
        tasks.start_soon(listener.serve, vendor.serve)
        yield vendor
        tasks.cancel_scope.cancel()


def _client_secret(headers: dict[str, str], form: dict[str, str]) -> str:
    scheme, _, credentials = headers.get("authorization", "").partition(" ")
    if scheme.lower() != "basic":
        return form.get("client_secret", "")
    return unquote_plus(base64.b64decode(credentials).decode().partition(":")[2])


def _answer(status: int, value: dict[str, Any], *, phrase: str = "Said", more: str = "") -> bytes:
    body = json.dumps(value).encode()
    head = f"HTTP/1.1 {status} {phrase}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n{more}"
    return f"{head}Connection: close\r\n\r\n".encode() + body


def _repeat(echo: Echo, said: str) -> bytes:
    everywhere = {"error_description": said, "error_uri": said, "request": {said: said}}
    half = {"error": "no", "message": said, "token_type": said, "expires_in": said, "scope": said}
    answers: dict[Echo, bytes] = {
        "code": _answer(400, {"error": said}),
        "description": _answer(400, {"error": "invalid_request", **everywhere}),
        "dead grant": _answer(400, {"error": "invalid_grant", **everywhere}),
        "success": _answer(200, half),
        "token type": _answer(200, {"access_token": new_secret(), "token_type": said, "expires_in": 3600}),
        "fault": _answer(500, everywhere, phrase=said, more=f"Retry-After: {said}\r\nWWW-Authenticate: {said}\r\n"),
        "redirect": _answer(302, {}, more=f"Location: http://127.0.0.1:9/?{said}\r\nSet-Cookie: a={said}\r\n"),
        "broken": f"HTTP/1.1 200 OK\r\n{said}\r\n\r\n{said}".encode(),
    }
    return answers[echo]


async def _read_request(stream: SocketStream) -> tuple[str, dict[str, str], str]:
    data = b""
    while b"\r\n\r\n" not in data:
        data += await stream.receive()
    head, _, body = data.partition(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    while len(body) < int(headers.get("content-length", "0")):
        body += await stream.receive()
    return first.split()[1], headers, body.decode()
