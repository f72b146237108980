"""What if something else answers at the address, or ours in words that we do not know? An error, and nothing repeated."""

from __future__ import annotations

import json
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Event, Thread
from typing import Any

import pytest

from mcp_identity import IdentityClient, IdentityClientError, acting_for

CANARY = "canary-of-a-strange-server"


@dataclass
class Stranger:
    """A server that answers what it is told.

    Attributes:
        body: Its answer; None closes the connection without one; a dict is a JSON-RPC answer to the request.
        asked: How often it was asked.
        hold: It answers once this is set.
        status: Another one than 200 sends the client elsewhere.
        cookies: What came as cookies, with each request; every answer sets one.
    """

    url: str
    body: dict[str, Any] | str | None = None
    asked: int = 0
    asking: Event = field(default_factory=Event)
    hold: Event | None = None
    status: int = 200
    cookies: list[str | None] = field(default_factory=list[str | None])


@contextmanager
def strange_server() -> Generator[Stranger]:
    """Run one."""
    strangers: list[Stranger] = []

    class Answer(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            stranger = strangers[0]
            asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
            stranger.asked += 1
            stranger.cookies.append(self.headers["cookie"])
            hold = stranger.hold
            stranger.asking.set()
            if hold is not None:
                hold.wait(20)
            if stranger.body is None:
                self.close_connection = True
                return
            if stranger.status != 200:
                self.send_response(stranger.status)
                self.send_header("Location", "https://login.example.com/")
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            kind, text = "text/html", stranger.body
            if not isinstance(text, str):
                kind, text = "application/json", json.dumps({"jsonrpc": "2.0", "id": asked["id"], **text})
            elif text.startswith("{"):
                kind = "application/json"
            elif text.startswith("data:"):
                kind = "text/event-stream"
            self.send_response(200)
            self.send_header("Content-Type", kind)
            self.send_header("Set-Cookie", f"proxy={stranger.asked}; Path=/")
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the name is Python's
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Answer) as server:
        strangers.append(Stranger(f"http://127.0.0.1:{server.server_port}"))
        thread = Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield strangers[0]
        server.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def stranger() -> Generator[Stranger]:
    """A server of somebody else."""
    with strange_server() as stranger:
        yield stranger


@pytest.fixture(scope="module")
def client(stranger: Stranger) -> Generator[IdentityClient]:
    """A client that takes it for ours."""
    with IdentityClient(stranger.url, token="mid_wk_x") as client:
        yield client


def result(**said: Any) -> dict[str, Any]:
    return {"result": {"content": [{"type": "text", "text": CANARY}], "resultType": "complete", "isError": False, **said}}


def error(code: int, message: str, data: Any = None) -> dict[str, Any]:
    return {"error": {"code": code, "message": message, "data": data}}


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (result(), "bad_answer"),
        (result(structuredContent={"status": 5}), "bad_answer"),
        (result(structuredContent={"status": "ok"}), "bad_answer"),
        (result(structuredContent={"status": "ok", "api_key": ""}), "bad_answer"),
        (result(content=CANARY), "bad_answer"),
        (result(structuredContent={"status": "error", "code": "vault_corrupt", "message": "no"}), "vault_corrupt"),
        ({"result": {"resultType": "input_required", "inputRequests": {}, "requestState": CANARY}}, "bad_answer"),
        (error(-32603, "audit_unavailable: no", {"code": "audit_unavailable", "retryable": True}), "audit_unavailable"),
        (error(-32602, f"Unknown tool: {CANARY}"), "access_denied"),
        (error(-32022, CANARY, {"supported": ["2099-01-01"], "requested": "2026-07-28"}), "bad_answer"),
        (error(-32601, CANARY), "bad_answer"),
        (f"<html>{CANARY}</html>", "bad_answer"),
        (f'{{"{CANARY}": ', "bad_answer"),
    ],
)
def test_an_answer_that_is_none_is_an_error(
    stranger: Stranger, client: IdentityClient, body: dict[str, Any] | str, code: str
) -> None:
    stranger.body = body
    with pytest.raises(IdentityClientError) as failed:
        client.get_api_key("weather")
    assert failed.value.code == code
    assert failed.value.remedy
    assert CANARY not in str(failed.value)


def test_who_hangs_up_is_asked_once_more_where_that_does_no_harm(stranger: Stranger, client: IdentityClient) -> None:
    stranger.body = None
    for tool, times in (("get_api_key", 2), ("create_provider", 1)):
        stranger.asked = 0
        with pytest.raises(IdentityClientError) as failed:
            client.call_tool(tool, {"name": "x"})
        assert (failed.value.code, stranger.asked) == ("unreachable", times)


def test_a_client_that_is_closed_lets_go_of_who_waits(stranger: Stranger) -> None:
    stranger.hold = Event()
    stranger.asking.clear()
    failed: list[str] = []
    with IdentityClient(stranger.url, token="mid_wk_x") as client:

        def ask() -> None:
            try:
                client.get_api_key("weather")
            except IdentityClientError as error:
                failed.append(error.code)

        thread = Thread(target=ask)
        thread.start()
        assert stranger.asking.wait(20)
    thread.join(20)
    stranger.hold.set()
    stranger.hold = None
    assert failed == ["closed"]


def test_a_cookie_that_one_caller_is_given_goes_out_with_nobody_elses_bearer(
    stranger: Stranger, client: IdentityClient
) -> None:
    stranger.body, stranger.cookies = result(structuredContent={"status": "ok"}), []
    for bearer in ("alices", "bobs"):
        with acting_for(bearer):
            client.call_tool("whoami")
    assert stranger.cookies
    assert set(stranger.cookies) == {None}


@pytest.mark.parametrize(("status", "body"), [(307, ""), (302, ""), (200, "data: {"), (200, "data: {}\n\n")])
def test_what_goes_wrong_for_one_caller_ends_nobody_elses_call(
    stranger: Stranger, client: IdentityClient, status: int, body: str
) -> None:
    found: list[Any] = []

    def complete() -> None:
        with acting_for("alices"):
            found.append(client.call_tool("complete_consent", {"session_uri": "x"}))

    release = Event()
    stranger.hold, stranger.body = release, result(structuredContent={"status": "ok"})
    stranger.asking.clear()
    alice = Thread(target=complete)
    alice.start()
    try:
        assert stranger.asking.wait(20)
        stranger.hold, stranger.status, stranger.body = None, status, body
        with acting_for("bobs"), pytest.raises(IdentityClientError) as failed:
            client.call_tool("complete_consent", {"session_uri": "y"})
        assert failed.value.code in ("bad_answer", "unreachable")
    finally:
        stranger.status, stranger.body = 200, result(structuredContent={"status": "ok"})
        release.set()
        alice.join()
    assert found == [{"status": "ok"}]
    assert client.call_tool("whoami") == {"status": "ok"}
