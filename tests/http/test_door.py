"""Which requests are looked at, whatever they bring? Host and Origin on every route, forwarding headers, the peer."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from typing import Any

import anyio
import httpx2
import pytest
from starlette.responses import JSONResponse
from starlette.types import Receive, Scope, Send

from mcp_identity.app.door import Door, DoorRules, hosts_of, networks_of
from mcp_identity.app.exposure import HttpOptions, door_rules
from mcp_identity.settings import Settings
from tests.fakes.home import VaultHome
from tests.http.kit import Server, ask, http_client, local_options, server_here, whoami

ROUTES = (
    ("GET", "/healthz"),
    ("GET", "/readyz"),
    ("GET", "/.well-known/oauth-protected-resource"),
    ("GET", "/.well-known/oauth-protected-resource/mcp"),
    ("GET", "/.well-known/oauth-protected-resource/sse"),
    ("POST", "/mcp"),
    ("GET", "/mcp"),
    ("DELETE", "/mcp"),
    ("GET", "/sse"),
    ("POST", "/messages/"),
    ("GET", "/consent/" + "A" * 43),
    ("GET", "/oauth2/callback/x"),
    ("GET", "/nothing"),
)
EVIL_HOSTS = ("evil.example", "127.0.0.1", "127.0.0.1:1", "localhost.evil.example", "", "127.0.0.1.nip.io")
EVIL_ORIGINS = ("http://evil.example", "null", "https://127.0.0.1", "file://")


@pytest.mark.parametrize(("method", "path"), ROUTES)
async def test_every_route_wants_our_host_and_no_strange_origin(
    server: Server, http: httpx2.AsyncClient, method: str, path: str
) -> None:
    """With a good bearer and without.

    covers: A07, A07b, A18
    """
    for bearer in ({}, server.bearer("alice")):
        for host in EVIL_HOSTS:
            answer = await http.request(method, server.url + path, headers={"host": host, **bearer})
            assert answer.status_code == 421, host
            assert host not in answer.text or not host
        for origin in EVIL_ORIGINS:
            answer = await http.request(method, server.url + path, headers={"origin": origin, **bearer})
            assert answer.status_code == 403, origin
            assert "access-control-allow-origin" not in answer.headers


async def test_our_own_host_and_origin_pass(server: Server, http: httpx2.AsyncClient) -> None:
    port = server.url.rpartition(":")[2]
    for host in (f"127.0.0.1:{port}", f"localhost:{port}", f"LOCALHOST:{port}"):
        for origin in ({}, {"origin": f"http://{host.lower()}"}):
            headers = {**server.bearer("alice"), "host": host, **origin}
            assert (await ask(http, server, whoami(), headers)).status_code == 200


async def raw(server: Server, text: bytes) -> bytes:
    """What comes back to some bytes."""
    async with await anyio.connect_tcp("127.0.0.1", int(server.url.rpartition(":")[2])) as stream:
        await stream.send(text)
        answer = b""
        with anyio.fail_after(10):
            while True:
                try:
                    answer += await stream.receive()
                except (anyio.EndOfStream, anyio.BrokenResourceError):
                    return answer


@pytest.mark.parametrize(
    ("head", "status"),
    [
        ("GET /healthz HTTP/1.1\r\nHost: {own}\r\nHost: {own}", 400),
        ("GET /healthz HTTP/1.1\r\nHost: {own}\r\nHost: evil.example", 400),
        ("GET /healthz HTTP/1.1", 400),
        ("GET http://evil.example/healthz HTTP/1.1\r\nHost: {own}", 400),
        ("GET http://{own}/healthz HTTP/1.1\r\nHost: evil.example", 400),
        ("OPTIONS * HTTP/1.1\r\nHost: {own}", 400),
        ("GET //evil.example/mcp HTTP/1.1\r\nHost: {own}", 404),
        ("GET /healthz HTTP/1.0", 421),
        ("GET /sse HTTP/1.1\r\nHost: {own}\r\nUpgrade: websocket\r\nConnection: Upgrade", 401),
        ("CONNECT evil.example:443 HTTP/1.1\r\nHost: {own}", 400),
        ("GET /sse/ HTTP/1.1\r\nHost: {own}", 404),
        ("GET /healthz HTTP/1.1\r\nHost: {own}\r\nContent-Length: 4\r\nTransfer-Encoding: chunked", 400),
    ],
)
async def test_requests_that_only_a_script_would_write(server: Server, head: str, status: int) -> None:
    """covers: A07b, A18."""
    own = server.url.removeprefix("http://")
    answer = await raw(server, (head.replace("{own}", own) + "\r\nConnection: close\r\n\r\n").encode())
    assert answer.startswith(f"HTTP/1.1 {status} ".encode()), answer
    assert b"evil" not in answer
    assert b"location" not in answer.lower()
    assert b"server:" not in answer.lower()


async def test_forwarded_headers_of_nobody_listed_change_nothing(server: Server, http: httpx2.AsyncClient) -> None:
    """covers: A18."""
    forged = {
        "x-forwarded-host": "evil.example",
        "x-forwarded-proto": "https",
        "x-forwarded-for": "192.0.2.9",
        "x-forwarded-prefix": "/evil",
        "forwarded": "for=192.0.2.9;host=evil.example;proto=https",
        "x-original-url": "/evil",
        "x-real-ip": "192.0.2.9",
    }
    for path in ("/.well-known/oauth-protected-resource/mcp", "/mcp"):
        answer = await http.request("GET", server.url + path, headers=forged)
        assert "evil" not in answer.text + str(answer.headers)
        assert "https" not in str(answer.headers.get("www-authenticate"))
    refused = await http.post(f"{server.url}/mcp", headers={**forged, "authorization": "Bearer x"})
    assert refused.status_code == 401


@pytest.fixture(scope="module")
async def insecure(tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[Server]:
    """A server that asks nobody."""
    home = VaultHome(tmp_path_factory.mktemp("insecure"))
    async with server_here(home, local_options(insecure_loopback=True), agents=()) as server:
        yield server


@pytest.mark.parametrize("name", ["Forwarded", "Via", "X-Real-IP", "X-Forwarded-For", "X-Forwarded-Host", "x-forwarded-x"])
async def test_insecure_loopback_serves_nothing_that_was_forwarded(
    insecure: Server, http: httpx2.AsyncClient, name: str
) -> None:
    assert (await ask(http, insecure, whoami(), {})).status_code == 200
    for value in ("127.0.0.1", "for=127.0.0.1", ""):
        assert (await ask(http, insecure, whoami(), {name: value})).status_code == 403
    for evil in ({"host": "evil.example"}, {"origin": "http://evil.example"}):
        assert (await ask(http, insecure, whoami(), evil)).status_code in (403, 421)


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    """Show what comes through the door."""
    names = sorted(name.decode() for name, _ in scope["headers"])
    await JSONResponse([scope["client"][0], scope["scheme"], names])(scope, receive, send)


async def through(rules: DoorRules, headers: Mapping[str, str], peer: str = "192.0.2.1", path: str = "/x") -> httpx2.Response:
    """Send a request of a peer through a door."""
    transport = httpx2.ASGITransport(app=Door(echo, rules), client=(peer, 1))
    async with httpx2.AsyncClient(transport=transport, base_url="http://identity.example") as client:
        return await client.get(path, headers=headers)


BEHIND = DoorRules(
    hosts=hosts_of(["https://identity.example"], ()),
    origins=frozenset({"https://identity.example"}),
    proxies=networks_of(["10.0.0.0/8", "fd00::/8"]),
    only_proxies=True,
    scheme="https",
)


@pytest.mark.parametrize(
    ("peer", "chain", "client"),
    [
        ("10.0.0.1", "", "10.0.0.1"),
        ("10.0.0.1", "198.51.100.7", "198.51.100.7"),
        ("10.0.0.1", "6.6.6.6, 198.51.100.7", "198.51.100.7"),
        ("10.0.0.1", "6.6.6.6, 198.51.100.7, 10.3.3.3", "198.51.100.7"),
        ("10.0.0.1", "nonsense", "10.0.0.1"),
        ("10.0.0.1", "198.51.100.7, nonsense", "10.0.0.1"),
        ("10.0.0.1", "10.1.1.1", "10.1.1.1"),
        ("::ffff:10.0.0.1", "2001:db8::1", "2001:db8::1"),
        ("fd00::1", " 198.51.100.7 ", "198.51.100.7"),
    ],
)
async def test_a_listed_proxy_says_where_a_request_began(peer: str, chain: str, client: str) -> None:
    answer = await through(BEHIND, {"x-forwarded-for": chain, "x-forwarded-proto": "http", "via": "x"}, peer)
    assert answer.json()[:2] == [client, "https"]
    assert not {"x-forwarded-for", "x-forwarded-proto", "via"} & set(answer.json()[2])


async def test_nobody_speaks_to_a_server_behind_a_proxy_but_the_proxy() -> None:
    for peer in ("198.51.100.7", "127.0.0.1", "11.0.0.1", "::1"):
        assert (await through(BEHIND, {}, peer)).status_code == 403
        assert (await through(BEHIND, {"x-forwarded-for": "10.0.0.1"}, peer)).status_code == 403
        assert (await through(BEHIND, {}, peer, "/healthz")).status_code == 200
        assert (await through(BEHIND, {"host": "evil.example"}, peer, "/healthz")).status_code == 421


async def test_insecure_loopback_serves_no_other_machine() -> None:
    rules = DoorRules(hosts=frozenset({"identity.example"}), origins=frozenset(), only_loopback=True)
    for peer, status in (("127.0.0.1", 200), ("127.9.9.9", 200), ("::1", 200), ("::ffff:127.0.0.1", 200), ("192.0.2.1", 403)):
        assert (await through(rules, {}, peer)).status_code == status


def rules_of(options: HttpOptions, addresses: tuple[str, ...], *, loopback: bool, **settings: Any) -> DoorRules:
    return door_rules(Settings(**settings), options, 8000, addresses, loopback=loopback)


def test_the_lists_are_made_of_the_configuration() -> None:
    """covers: A07."""
    local = rules_of(HttpOptions(), ("127.0.0.1",), loopback=True)
    assert local.hosts == {"127.0.0.1:8000", "localhost:8000"}
    assert local.origins == {"http://127.0.0.1:8000", "http://localhost:8000"}
    assert not local.only_proxies
    public = rules_of(
        HttpOptions(host="0.0.0.0"),  # noqa: S104
        ("0.0.0.0",),  # noqa: S104
        loopback=False,
        public_url="https://Identity.example",
        allowed_hosts="identity.internal:8000",
        allowed_origins="https://app.example",
        trusted_proxies="10.0.0.1",
    )
    assert public.hosts == {"identity.example", "identity.example:443", "identity.internal:8000"}
    assert public.origins == {"https://identity.example", "https://app.example"}
    assert (public.only_proxies, public.scheme) == (True, "https")
    six = rules_of(HttpOptions(), ("127.0.0.1", "::1"), loopback=True, public_url="http://localhost:9000")
    assert six.hosts == {"localhost:9000", "localhost:8000", "127.0.0.1:8000", "[::1]:8000"}


async def test_the_configured_lists_count(empty_home: VaultHome) -> None:
    hosts, origins = ("identity.internal",), ("https://app.example",)
    async with (
        server_here(empty_home, allowed_hosts=hosts, allowed_origins=origins) as server,
        http_client() as http,
    ):
        alice = server.bearer("alice")
        for headers, status in (
            ({"host": "identity.internal"}, 200),
            ({"host": "identity.internal", "origin": "https://app.example"}, 200),
            ({"origin": "https://app.example"}, 200),
            ({"origin": "https://app.example.evil"}, 403),
            ({"host": "identity.internal:1"}, 421),
        ):
            assert (await ask(http, server, whoami(), {**alice, **headers})).status_code == status
