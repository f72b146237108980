"""Does a person at the command line get an API's answer, and never the credential?"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from tests.cli.conftest import CommandLine
from tests.peers.servers import DjangoOAuthServer

AGENT = ("--workload", "cursor")
KEY = "sk-made-up-canary"


@dataclass(slots=True)
class Echo:
    """An API that answers with what it was asked.

    Attributes:
        port: Its port on 127.0.0.1.
        status: What it answers.
        body: In place of the echo.
        seen: Method, path, headers and body of each request.
    """

    port: int = 0
    status: int = 200
    body: bytes | None = None
    content_type: str = "text/plain"
    seen: list[tuple[str, str, dict[str, str], bytes]] = field(default_factory=list[tuple[str, str, dict[str, str], bytes]])


@pytest.fixture
def echo() -> Iterator[Echo]:
    """A running one."""
    api = Echo()

    class Handler(BaseHTTPRequestHandler):
        def answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
            api.seen.append((self.command, self.path, {name.lower(): value for name, value in self.headers.items()}, body))
            said = (
                f"{self.command} {self.path} {self.headers.get('Authorization')}\n".encode() if api.body is None else api.body
            )
            self.send_response(api.status)
            self.send_header("Content-Type", api.content_type)
            self.send_header("Content-Length", str(len(said)))
            self.end_headers()
            self.wfile.write(said)

        do_GET = do_POST = do_PUT = do_DELETE = answer  # noqa: N815 - the library's names

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - likewise
            del format, args

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        api.port = server.server_address[1]
        thread = Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield api
        server.shutdown()
        thread.join()


@pytest.fixture
def weather(vault: CommandLine, echo: Echo) -> CommandLine:
    """A provider of an API key that never leaves."""
    add_key(vault, echo)
    return vault


def add_key(vault: CommandLine, echo: Echo, *options: str) -> None:
    vault.succeed(
        "providers", "add", "weather", "--kind", "api-key", "--api-key-stdin", "--release", "never",
        "--api-host", f"http://127.0.0.1:{echo.port}", "--allow-http-loopback", *options, stdin=KEY,
    )  # fmt: skip


def test_the_body_goes_to_stdout_and_what_else_there_is_to_stderr(weather: CommandLine, echo: Echo) -> None:
    answer = weather.succeed("call", "weather", f"http://127.0.0.1:{echo.port}/today", "--query", "city=São Paulo", *AGENT)
    assert answer.out == "GET /today?city=S%C3%A3o%20Paulo Bearer [credential removed]\n"
    assert f"HTTP 200 from http://127.0.0.1:{echo.port}/today\n" in answer.err
    assert "The answer held the credential" in answer.err
    assert echo.seen[0][2]["authorization"] == f"Bearer {KEY}"
    assert KEY not in answer.out + answer.err


def test_a_path_a_body_and_headers_are_sent(weather: CommandLine, echo: Echo, tmp_path: Path) -> None:
    file = tmp_path / "body.json"
    file.write_bytes(b'{"a": 1}')
    weather.succeed("call", "weather", "/one", "--data", "text", "-H", "Accept: text/csv", *AGENT)
    weather.succeed("call", "weather", "/two", "--data-file", str(file), "--method", "PUT", *AGENT)
    (first, second) = echo.seen
    assert (first[0], first[1], first[3], first[2]["accept"]) == ("POST", "/one", b"text", "text/csv")
    assert (second[0], second[1], second[3], second[2]["content-type"]) == ("PUT", "/two", b'{"a": 1}', "application/json")
    done = weather.program("call", "weather", "/three", "--data-file", "-", *AGENT, stdin="from a pipe")
    assert done.code == 0
    assert echo.seen[2][3] == b"from a pipe"


def test_an_error_of_the_api_is_exit_status_1(weather: CommandLine, echo: Echo) -> None:
    echo.status = 404
    echo.body = b"no such city"
    answer = weather("call", "weather", "/x", *AGENT)
    assert (answer.code, answer.out) == (1, "no such city")
    assert "HTTP 404" in answer.err


def test_bytes_come_out_as_they_are(weather: CommandLine, echo: Echo) -> None:
    echo.body, echo.content_type = b"\x89PNG\x00\xff", "image/png"
    answer = weather.succeed("call", "weather", "/map.png", *AGENT)
    assert answer.out.encode("utf-8", "replace").startswith(b"\xef\xbf\xbdPNG") or "PNG" in answer.out
    echo.body += KEY.encode()
    withheld = weather.succeed("call", "weather", "/map.png", *AGENT)
    assert withheld.out == ""
    assert "its body is left out" in withheld.err


@pytest.mark.parametrize(
    ("options", "header", "value"),
    [
        (("--api-key-header", "X-Api-Key"), "x-api-key", KEY),
        (("--api-key-header", "Authorization", "--api-key-prefix", "Token"), "authorization", f"Token {KEY}"),
        (("--api-key-prefix", "Key"), "authorization", f"Key {KEY}"),
        (("--api-key-basic", ""), "authorization", "Basic c2stbWFkZS11cC1jYW5hcnk6"),
    ],
)
def test_a_key_goes_where_the_operator_said(
    vault: CommandLine, echo: Echo, options: tuple[str, ...], header: str, value: str
) -> None:
    add_key(vault, echo, *options)
    vault.succeed("call", "weather", "/x", *AGENT)
    assert echo.seen[0][2][header] == value


def test_a_key_goes_into_the_query_and_shows_in_nothing(vault: CommandLine, echo: Echo) -> None:
    add_key(vault, echo, "--api-key-query", "key")
    answer = vault.succeed("call", "weather", "/x?y=1", *AGENT)
    assert echo.seen[0][1] == f"/x?y=1&key={KEY}"
    assert KEY not in answer.out + answer.err + vault.succeed("audit", "tail", "--json").out


@pytest.mark.parametrize(
    "options",
    [
        ("--api-key-header", "X", "--api-key-query", "k"),
        ("--api-key-query", "k", "--api-key-prefix", "x"),
        ("--api-key-header", "Host"),
    ],
)
def test_a_key_goes_into_one_place(vault: CommandLine, options: tuple[str, ...]) -> None:
    given = ("providers", "add", "w", "--kind", "api-key", "--api-key-stdin", "--release", "never", *options)
    assert vault(*given, stdin=KEY).code == 2


def test_the_api_hosts_are_shown_and_missing_ones_are_said(vault: CommandLine, echo: Echo) -> None:
    add_key(vault, echo)
    assert vault.succeed("providers", "show", "weather", "--json").json["api_hosts"] == [f"http://127.0.0.1:{echo.port}"]
    vault.with_api_key("other")
    assert "--api-host https://HOST" in vault.succeed("providers", "show", "other").out
    github = ("providers", "add", "gh", "--vendor", "github", "--client-id", "x", "--client-secret-stdin", "--json")
    assert vault.succeed(*github, stdin="s").json["api_hosts"][0] == "https://api.github.com"


@pytest.mark.parametrize(
    ("arguments", "status", "code"),
    [
        (("call", "weather", "https://evil.example/"), 1, "url_refused"),
        (("call", "weather", "/x", "-H", "Authorization: Bearer x"), 2, "invalid_request"),
        (("call", "weather", "/x", "-H", "nonsense"), 2, "invalid_request"),
        (("call", "weather", "/x", "--query", "nonsense"), 2, "invalid_request"),
        (("call", "weather", "/x", "--data", "a", "--data-file", "b"), 2, "invalid_request"),
        (("call", "weather", "/x", "--data-file", "/nowhere/at/all"), 2, "invalid_request"),
        (("call", "weather", "/x", "--method", "TRACE"), 2, "invalid_request"),
        (("call", "nowhere", "/x"), 1, "unknown_provider"),
    ],
)
def test_what_is_refused_prints_nothing_to_stdout(
    weather: CommandLine, echo: Echo, arguments: tuple[str, ...], status: int, code: str
) -> None:
    answer = weather(*arguments, *AGENT)
    assert (answer.code, answer.out, echo.seen) == (status, "", [])
    assert answer.err.endswith(f"[{code}]\n")


def test_a_call_that_needs_consent_gives_the_link_on_stderr_alone(vault: CommandLine, server: DjangoOAuthServer) -> None:
    options = ("--issuer", server.issuer, "--allow-http-loopback", "--set", "flows=USER_FEDERATION", "--release", "never")
    vault.succeed(
        "providers",
        "add",
        "idp",
        *options,
        "--client-id",
        "x",
        "--client-auth",
        "none",
        "--api-host",
        "https://api.example.com",
    )
    answer = vault("call", "idp", "/me", "--scope", "read", *AGENT)
    assert (answer.code, answer.out) == (1, "")
    assert f"http://127.0.0.1:{vault.port}/consent/" in answer.err
    assert "mcp-identity connect idp --workload cursor" in answer.err


def test_a_real_servers_api_is_called_with_a_token_that_nobody_sees(vault: CommandLine, server: DjangoOAuthServer) -> None:
    origin = server.me_url.partition("://")[2].partition("/")[0]
    options = ("--issuer", server.issuer, "--allow-http-loopback", "--set", "flows=M2M", "--scopes=read", "--release=never")
    client = ("--client-id", server.m2m.client_id, "--client-secret-stdin", "--api-host", f"http://{origin}")
    vault.succeed("providers", "add", "idp", *options, *client, stdin=server.m2m.client_secret)
    answer = vault.succeed("call", "idp", server.me_url, *AGENT)
    assert '"client"' in answer.out
    assert "m2m" in answer.out
    refused = vault("token", "idp", *AGENT)
    assert refused.err.endswith("[access_denied]\n")
    for path in ("/o/token/", "/o/introspect/", "/o/revoke_token/"):
        assert vault("call", "idp", f"{server.issuer}{path}", "--method", "POST", *AGENT).err.endswith("[url_refused]\n")
