"""One exchange: what is sent, what is read, and when it ends."""

from __future__ import annotations

import gc
import gzip
import logging
import time
import tracemalloc
import zlib

import anyio
import pytest

from mcp_identity.domain.errors import IdentityError, UpstreamUnavailable
from mcp_identity.domain.http import HttpRequest, HttpResponse, Method
from mcp_identity.transport import Transport
from tests.fakes.hostile_server import TOKEN_ANSWER, HostileServer, Script, hostile_server

DEADLINE = 0.3
MEBIBYTE = 1 << 20


async def _send(server: HostileServer, *, maximum_bytes: int = MEBIBYTE, deadline: float = 10) -> HttpResponse:
    request = HttpRequest("POST", server.url, {"Accept": "application/json"}, b"code=s3cret", maximum_bytes)
    async with Transport(deadline_seconds=deadline) as transport:
        return await transport.send(request, allow_http_loopback=True)


async def test_a_request_goes_out_as_it_was_built() -> None:
    async with hostile_server() as server:
        answer = await _send(server)
    assert (answer.status, answer.body) == (200, TOKEN_ANSWER)
    head, _, body = server.requests[0].partition(b"\r\n\r\n")
    lines = head.split(b"\r\n")
    assert lines[0] == b"POST /token?tenant=acme HTTP/1.1"
    assert b"Accept-Encoding: identity" in lines
    assert b"Accept: application/json" in lines
    assert b"User-Agent: mcp-identity" in lines
    assert f"Host: 127.0.0.1:{server.port}".encode() in lines
    assert body == b"code=s3cret"


async def test_of_repeated_headers_the_first_counts_and_names_are_lower_case() -> None:
    async with hostile_server(Script(headers=(("X-Made-Up", "one"), ("x-made-up", "two")))) as server:
        assert (await _send(server)).headers["x-made-up"] == "one"


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_a_redirect_is_an_answer_and_is_not_followed(status: int) -> None:
    async with hostile_server() as canary:
        script = Script(status=status, headers=(("Location", f"http://127.0.0.1:{canary.port}/"),), body=b"")
        async with hostile_server(script) as server:
            assert (await _send(server)).status == status
        assert canary.connections == 0


async def test_no_cookie_is_kept_and_no_connection_is_shared() -> None:
    async with hostile_server(Script(headers=(("Set-Cookie", "a=b"),))) as server, Transport() as transport:
        for _ in range(2):
            await transport.send(HttpRequest("GET", server.url), allow_http_loopback=True)
        assert server.connections == 2
        assert not any(b"cookie" in request.lower() for request in server.requests)


async def test_proxies_of_the_environment_are_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    async with hostile_server() as canary, hostile_server() as server:
        for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{canary.port}")
        assert (await _send(server)).status == 200
        assert canary.connections == 0


@pytest.mark.parametrize(
    ("encoding", "body"),
    [("gzip", gzip.compress(TOKEN_ANSWER)), ("deflate", zlib.compress(TOKEN_ANSWER)), ("identity", TOKEN_ANSWER)],
    ids=["gzip", "deflate", "identity"],
)
async def test_a_server_that_compresses_unasked_is_still_read(encoding: str, body: bytes) -> None:
    async with hostile_server(Script(headers=(("Content-Encoding", encoding),), body=body)) as server:
        assert (await _send(server)).body == TOKEN_ANSWER


HOSTILE: dict[str, tuple[Script, str]] = {
    "hangs": (Script(hang=True), "upstream_unavailable"),
    "hangs after the headers": (Script(hang_after_headers=True), "upstream_unavailable"),
    "drips its headers": (Script(drip_seconds=0.05), "upstream_unavailable"),
    "drips its body": (Script(raw=b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * 100, drip_seconds=0.01), "upstream_unavailable"),
    "hangs up": (Script(hang_up=True), "upstream_unavailable"),
    "resets": (Script(reset=True), "upstream_unavailable"),
    "closes at once": (Script(close_at_once=True), "upstream_unavailable"),
    "sends interim answers for ever": (Script(endless_informational=True), "upstream_unavailable"),
    "sends empty chunks slowly": (
        Script(raw=b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + b"1\r\nx\r\n" * 500, drip_seconds=0.01),
        "upstream_unavailable",
    ),
    "sends headers for ever": (Script(endless_headers=True), "upstream_bad_response"),
    "sends large headers": (Script(headers=(("X", "x" * 40_000),)), "upstream_bad_response"),
    "sends many headers": (Script(headers=tuple((f"X-{n}", "x" * 30) for n in range(1500))), "upstream_bad_response"),
    "sends chunks for ever": (Script(endless_chunks=65536), "upstream_bad_response"),
    "sends a huge body": (Script(huge_body_bytes=64 * MEBIBYTE), "upstream_bad_response"),
    "sends a gzip bomb": (Script(gzip_bomb_bytes=64 * MEBIBYTE), "upstream_bad_response"),
    "sends less than it announced": (Script(content_length=5000), "upstream_bad_response"),
    "announces no number": (Script(raw=b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n"), "upstream_bad_response"),
    "announces two lengths": (
        Script(raw=b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nxx"),
        "upstream_bad_response",
    ),
    "speaks no HTTP": (Script(raw=b"SSH-2.0-OpenSSH_9.9\r\n\r\n"), "upstream_bad_response"),
    "sends a broken status line": (Script(raw=b"HTTP/1.1 two hundred\r\n\r\n"), "upstream_bad_response"),
    "sends a broken header": (Script(raw=b"HTTP/1.1 200 OK\r\nno colon\r\n\r\n"), "upstream_bad_response"),
    "sends a broken chunk": (
        Script(raw=b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nx\r\n0\r\n\r\n"),
        "upstream_bad_response",
    ),
    "sends broken gzip": (Script(headers=(("Content-Encoding", "gzip"),)), "upstream_bad_response"),
    "sends half a gzip": (
        Script(headers=(("Content-Encoding", "gzip"),), body=gzip.compress(TOKEN_ANSWER)[:-6]),
        "upstream_bad_response",
    ),
    "sends two gzip members": (
        Script(headers=(("Content-Encoding", "gzip"),), body=gzip.compress(b"{}") + gzip.compress(b"{}")),
        "upstream_bad_response",
    ),
    "sends brotli": (Script(headers=(("Content-Encoding", "br"),)), "upstream_bad_response"),
    "stacks encodings": (Script(headers=(("Content-Encoding", "gzip, gzip"),)), "upstream_bad_response"),
}


@pytest.mark.parametrize("name", HOSTILE)
async def test_a_hostile_server_costs_bounded_time_and_memory_and_gets_its_code(name: str) -> None:
    script, code = HOSTILE[name]
    # Who never ends an answer is cut by the deadline; the others are caught by what they send, in their own time.
    deadline = DEADLINE if code == "upstream_unavailable" else 10
    async with hostile_server(script) as server, Transport(deadline_seconds=deadline) as transport:
        request = HttpRequest("POST", server.url, body=b"refresh_token=s3cret")
        gc.collect()
        tracemalloc.start()
        started = time.monotonic()
        with pytest.raises(IdentityError) as failure:
            await transport.send(request, allow_http_loopback=True)
        elapsed, (_, peak) = time.monotonic() - started, tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert failure.value.code == code
    assert getattr(failure.value, "may_have_been_processed", False) or not server.requests
    assert elapsed < deadline + 2
    assert peak < 32 * MEBIBYTE
    assert "s3cret" not in str(failure.value)
    assert "acme" not in str(failure.value)


async def test_the_size_cap_counts_what_came_out_of_the_decompressor() -> None:
    script = Script(headers=(("Content-Encoding", "gzip"),), body=gzip.compress(b"x" * 1000))
    async with hostile_server(script) as server:
        assert len((await _send(server, maximum_bytes=1000)).body) == 1000
        with pytest.raises(IdentityError) as failure:
            await _send(server, maximum_bytes=999)
    assert failure.value.code == "upstream_bad_response"


async def test_a_refused_connection_was_not_processed() -> None:
    async with hostile_server() as server:
        pass
    with pytest.raises(UpstreamUnavailable) as failure:
        await _send(server)
    assert not failure.value.may_have_been_processed
    assert failure.value.retryable


async def test_a_name_that_does_not_resolve_in_time_was_not_processed() -> None:
    async def stuck(_host: str, _port: int) -> list[str]:
        await anyio.sleep_forever()
        raise AssertionError

    async with Transport(deadline_seconds=0.05, resolver=stuck) as transport:
        with pytest.raises(UpstreamUnavailable) as failure:
            await transport.send(HttpRequest("GET", "https://idp.example.com/"))
    assert not failure.value.may_have_been_processed


async def test_the_next_address_is_tried_where_one_refuses_connections() -> None:
    async def resolver(_host: str, _port: int) -> list[str]:
        return ["127.0.0.2", "127.0.0.1"]

    async with hostile_server() as server, Transport(resolver=resolver) as transport:
        request = HttpRequest("GET", f"http://idp.example.com:{server.port}/")
        assert (await transport.send(request, allow_http_loopback=True)).status == 200


async def test_a_closed_transport_sends_nothing() -> None:
    async with hostile_server() as server:
        transport = Transport()
        await transport.aclose()
        with pytest.raises(UpstreamUnavailable) as failure:
            await transport.send(HttpRequest("GET", server.url), allow_http_loopback=True)
        assert server.connections == 0
    assert not failure.value.may_have_been_processed


async def test_nothing_of_a_request_is_logged_even_at_debug(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    async with hostile_server() as server:
        await _send(server)
    assert "acme" not in caplog.text
    assert "s3cret" not in caplog.text
    assert "application/json" not in caplog.text


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "PATCH", "DELETE"])
async def test_every_method_of_an_api_goes_out(method: Method) -> None:
    script = Script(body=b"" if method == "HEAD" else b"{}")
    async with hostile_server(script) as server, Transport() as transport:
        answer = await transport.send(HttpRequest(method, server.url), allow_http_loopback=True)
    assert (answer.status, answer.is_cut) == (200, False)
    assert server.requests[0].startswith(f"{method} /token".encode())


@pytest.mark.parametrize("size", [10, 100_000, MEBIBYTE])
async def test_an_answer_that_may_be_cut_is_cut_exactly(size: int) -> None:
    for script in (
        Script(huge_body_bytes=2 * MEBIBYTE),
        Script(endless_chunks=5000, body=b""),
        Script(gzip_bomb_bytes=8 * MEBIBYTE),
    ):
        async with hostile_server(script) as server, Transport() as transport:
            request = HttpRequest("GET", server.url, maximum_bytes=size, cut=True)
            answer = await transport.send(request, allow_http_loopback=True)
        assert (len(answer.body), answer.is_cut) == (size, True)


async def test_an_answer_that_just_fits_is_not_cut() -> None:
    async with hostile_server(Script(body=b"x" * 100)) as server, Transport() as transport:
        answer = await transport.send(HttpRequest("GET", server.url, maximum_bytes=100, cut=True), allow_http_loopback=True)
    assert (len(answer.body), answer.is_cut) == (100, False)


async def test_a_request_may_have_a_deadline_of_its_own() -> None:
    async with hostile_server(Script(hang=True)) as server, Transport(deadline_seconds=60) as transport:
        begun = time.monotonic()
        with pytest.raises(UpstreamUnavailable):
            await transport.send(HttpRequest("GET", server.url, deadline_seconds=DEADLINE), allow_http_loopback=True)
    assert time.monotonic() - begun < 5
