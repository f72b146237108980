"""Which codes and refresh tokens did a strict authorization server give, and which were brought back to it?

Real HTTP on this machine, in threads of the test's own process, so that it outlives every server that is killed. It keeps
to RFC 6749 and RFC 7636, consents at once to whoever comes, and answers on three paths that differ in what a refresh does:

    fixed    the refresh token stays the same
    grace    it rotates; the one before works once more, as FAPI 2.0 (§5.3.2.1) asks of servers that rotate
    strict   it rotates; whoever brings any but the newest ends everything that the consent gave (RFC 9700 §4.14.2)
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import secrets
import signal
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal
from urllib.parse import parse_qsl, unquote_plus, urlencode, urlsplit

Mode = Literal["fixed", "grace", "strict"]
MODES: tuple[Mode, ...] = ("fixed", "grace", "strict")
Stage = Literal["arrived", "processed"]
CLIENT_ID, CLIENT_SECRET = "the-client", "the-ledger's-client-secret"
EXPIRES_IN = 3600


@dataclass(slots=True)
class Family:
    """What one consent led to.

    Attributes:
        mode: How its refresh tokens live.
        access_tokens: All that were given.
        refresh_tokens: All that were given, oldest first.
        dead: Ended, because something was brought twice.
    """

    mode: Mode
    access_tokens: list[str] = field(default_factory=list[str])
    refresh_tokens: list[str] = field(default_factory=list[str])
    dead: bool = False

    def accepts(self, refresh_token: str) -> bool:
        """Whether this refresh token would bring a new access token now."""
        if self.dead or refresh_token not in self.refresh_tokens:
            return False
        good = {"fixed": 1, "grace": 2, "strict": 1}[self.mode]
        return refresh_token in self.refresh_tokens[-good:]


@dataclass(slots=True)
class Code:
    """An authorization code.

    Attributes:
        family: What it is worth.
        redirect_uri: Where it was sent.
        challenge: PKCE, S256.
        brought: How often it came back.
    """

    family: Family
    redirect_uri: str
    challenge: str
    brought: int = 0


@dataclass(slots=True)
class Kill:
    """Whom to kill when a token request comes: before it is processed, or when it is and nobody has heard of it."""

    stage: Stage
    grant_type: str
    process: int


class Ledger:
    """The server's books.

    Attributes:
        port: Where it listens.
        codes: Every code that it gave.
        families: Every consent.
        brought: How often each refresh token came back.
        own_tokens: Access tokens that the client got for itself.
        asked: How many token requests of each grant type were processed.
        kill: Whom to kill at the next token request of a kind; once.
        status: Token requests get this status and are not processed; 0 for none.
        answered_at: When the last token request was processed, on the machine's monotonic clock.
    """

    def __init__(self) -> None:
        """Nothing was given yet."""
        self.port = 0
        self.codes: dict[str, Code] = {}
        self.families: list[Family] = []
        self.brought: dict[str, int] = {}
        self.own_tokens: list[str] = []
        self.asked: dict[str, int] = {}
        self.kill: Kill | None = None
        self.status = 0
        self.answered_at = 0.0
        self._lock = threading.Lock()
        self._may_answer = threading.Event()
        self._may_answer.set()
        self._holds = threading.Event()

    @contextmanager
    def held(self) -> Generator[threading.Event]:
        """Token requests are processed, and answered only after the block; gives an event that says that one waits."""
        self._holds.clear()
        self._may_answer.clear()
        try:
            yield self._holds
        finally:
            self._may_answer.set()

    def endpoints(self, mode: str) -> dict[str, str]:
        """What a `custom` provider says of it."""
        names = ("authorization_url", "token_url", "revocation_url")
        return {name: f"http://127.0.0.1:{self.port}/{mode}/{name}" for name in names}

    def family_of(self, access_token: str) -> Family | None:
        """The consent that an access token came from."""
        return next((family for family in self.families if access_token in family.access_tokens), None)

    def twice_exchanged(self) -> list[str]:
        """The codes that were brought more than once."""
        return [value for value, code in self.codes.items() if code.brought > 1]

    def respond(self, method: str, target: str, authorization: str, body: str) -> tuple[int, dict[str, str], bytes] | None:
        """Answer a request; None hangs up."""
        parts = urlsplit(target)
        mode, _, name = parts.path.strip("/").partition("/")
        if mode == "own":
            return self._token_request("fixed", dict(parse_qsl(body)), authorization)
        if mode not in MODES:
            return 404, {}, b""
        if method == "GET" and name == "authorization_url":
            return self._authorize(mode, dict(parse_qsl(parts.query, strict_parsing=True)))
        form = dict(parse_qsl(body))
        if name == "revocation_url":
            return self._revoke(form.get("token", ""))
        return self._token_request(mode, form, authorization)

    def _authorize(self, mode: Mode, query: dict[str, str]) -> tuple[int, dict[str, str], bytes]:
        assert (query["client_id"], query["response_type"], query["code_challenge_method"]) == (CLIENT_ID, "code", "S256")
        value = f"code-{secrets.token_hex(16)}"
        with self._lock:
            family = Family(mode)
            self.families.append(family)
            self.codes[value] = Code(family, query["redirect_uri"], query["code_challenge"])
        back = f"{query['redirect_uri']}?{urlencode({'code': value, 'state': query['state']})}"
        return 302, {"Location": back}, b""

    def _token_request(self, mode: Mode, form: dict[str, str], authorization: str) -> tuple[int, dict[str, str], bytes] | None:
        kind = form.get("grant_type", "")
        if self._kills("arrived", kind):
            return None
        if self.status:
            return _json(self.status, {"error": "temporarily_unavailable"})
        if not _is_client(form, authorization):
            return _json(401, {"error": "invalid_client"})
        with self._lock:
            self.asked[kind] = self.asked.get(kind, 0) + 1
            tokens = self._grant(mode, form)
            self.answered_at = time.monotonic()
        if self._kills("processed", kind):
            return None
        self._holds.set()
        self._may_answer.wait(20)
        return _json(200, tokens) if tokens else _json(400, {"error": "invalid_grant"})

    def _kills(self, stage: Stage, grant_type: str) -> bool:
        kill = self.kill
        if kill is None or (kill.stage, kill.grant_type) != (stage, grant_type):
            return False
        self.kill = None
        os.kill(kill.process, signal.SIGKILL)
        return True

    def _grant(self, mode: Mode, form: dict[str, str]) -> dict[str, Any] | None:
        match form.get("grant_type"):
            case "authorization_code":
                return self._exchange(form)
            case "refresh_token":
                return self._refresh(mode, form["refresh_token"])
            case "client_credentials":
                self.own_tokens.append(f"own-{secrets.token_hex(16)}")
                return {"access_token": self.own_tokens[-1], "token_type": "Bearer", "expires_in": EXPIRES_IN}
            case _:
                return None

    def _exchange(self, form: dict[str, str]) -> dict[str, Any] | None:
        code = self.codes.get(form["code"])
        if code is None:
            return None
        code.brought += 1
        digest = hashlib.sha256(form["code_verifier"].encode()).digest()
        challenge = base64.urlsafe_b64encode(digest).rstrip(b"=").decode()
        code.family.dead |= code.brought > 1
        if code.family.dead or (code.redirect_uri, code.challenge) != (form["redirect_uri"], challenge):
            return None
        return _tokens(code.family, rotate=True)

    def _refresh(self, mode: Mode, token: str) -> dict[str, Any] | None:
        self.brought[token] = self.brought.get(token, 0) + 1
        family = next((each for each in self.families if token in each.refresh_tokens), None)
        if family is None or family.mode != mode:
            return None
        family.dead |= not family.accepts(token)
        return None if family.dead else _tokens(family, rotate=mode != "fixed")

    def _revoke(self, token: str) -> tuple[int, dict[str, str], bytes]:
        with self._lock:
            for family in self.families:
                if token in family.refresh_tokens or token in family.access_tokens:
                    family.dead = True
        return 200, {}, b""


def _tokens(family: Family, *, rotate: bool) -> dict[str, Any]:
    family.access_tokens.append(f"access-{secrets.token_hex(16)}")
    tokens: dict[str, Any] = {"access_token": family.access_tokens[-1], "token_type": "Bearer", "expires_in": EXPIRES_IN}
    if rotate:
        family.refresh_tokens.append(f"refresh-{secrets.token_hex(16)}")
        tokens["refresh_token"] = family.refresh_tokens[-1]
    return tokens


def _is_client(form: dict[str, str], authorization: str) -> bool:
    scheme, _, credentials = authorization.partition(" ")
    if scheme.lower() != "basic":
        return (form.get("client_id"), form.get("client_secret")) == (CLIENT_ID, CLIENT_SECRET)
    client_id, _, secret = base64.b64decode(credentials).decode().partition(":")
    return (unquote_plus(client_id), unquote_plus(secret)) == (CLIENT_ID, CLIENT_SECRET)


def _json(status: int, value: dict[str, Any]) -> tuple[int, dict[str, str], bytes]:
    return status, {"Content-Type": "application/json"}, json.dumps(value).encode()


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, ledger: Ledger) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.ledger = ledger

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that was killed says nothing more; that is no news here."""


class _Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        """A browser."""
        self._answer("")

    def do_POST(self) -> None:
        """Our client."""
        self._answer(self.rfile.read(int(self.headers.get("Content-Length", "0"))).decode())

    def _answer(self, body: str) -> None:
        self.close_connection = True
        assert isinstance(self.server, _Server)
        answer = self.server.ledger.respond(self.command, self.path, self.headers.get("Authorization", ""), body)
        if answer is None:
            return
        status, headers, content = answer
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(content)), "Connection": "close"}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the library's name
        """Say nothing."""


@contextmanager
def running_ledger() -> Generator[Ledger]:
    """Run an authorization server on a free loopback port while the block lasts."""
    ledger = Ledger()
    with _Server(ledger) as server:
        ledger.port = server.server_address[1]
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        thread.start()
        try:
            yield ledger
        finally:
            server.shutdown()
            thread.join()
