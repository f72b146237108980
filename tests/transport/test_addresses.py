"""The address rules: what may be connected to, whatever a URL looks like and whatever its name resolves to."""

from __future__ import annotations

import ipaddress

import pytest

from mcp_identity.domain.addresses import is_public
from mcp_identity.domain.errors import UpstreamUnavailable, UrlRefused
from mcp_identity.domain.http import HttpRequest
from mcp_identity.transport import Transport
from tests.fakes.hostile_server import hostile_server

FORBIDDEN_ADDRESSES = [
    "0.0.0.0",  # noqa: S104 - an address that must be refused
    "0.1.2.3", "10.0.0.1", "10.255.255.255", "100.64.0.1", "100.100.100.200", "127.0.0.1", "127.1.2.3", "127.255.255.254",
    "168.63.129.16", "169.254.169.254", "169.254.170.2", "172.16.0.1", "172.31.255.255", "192.0.0.1", "192.0.0.8",
    "192.0.0.192", "192.0.2.1", "192.88.99.1", "192.168.0.1", "192.168.255.255", "198.18.0.1", "198.51.100.7",
    "203.0.113.9", "224.0.0.1", "239.255.255.250", "240.0.0.1", "255.255.255.255",
    "::", "::1", "::127.0.0.1", "::7f00:1", "::ffff:127.0.0.1", "::ffff:10.0.0.1", "::ffff:169.254.169.254",
    "::ffff:0:127.0.0.1", "64:ff9b::7f00:1", "64:ff9b::a9fe:a9fe", "64:ff9b::10.0.0.1", "64:ff9b:1::1", "100::1",
    "2001::1", "2001:0:4136:e378:8000:63bf:3fff:fdd2", "2001:db8::1", "2001:10::1", "2002:7f00:1::", "2002:a9fe:a9fe::1",
    "2002:808:808::1", "3fff::1", "5f00::1", "fc00::1", "fd00:ec2::254", "fe80::1", "fe80::1%eth0", "fec0::1", "ff02::1",
    "4000::1", "8000::1",
]  # fmt: skip
LOOPBACK_ADDRESSES = {"127.0.0.1", "127.1.2.3", "127.255.255.254", "::1", "::ffff:127.0.0.1"}
PUBLIC_ADDRESSES = [
    "8.8.8.8", "1.1.1.1", "140.82.121.4", "172.32.0.1", "192.0.1.1", "2606:4700:4700::1111", "2a00:1450:4001::200e",
    "::ffff:8.8.8.8", "64:ff9b::808:808",
]  # fmt: skip

FORBIDDEN_URLS = [
    "http://idp.example.com/token", "http://127.0.0.1/", "http://localhost/", "http://[::1]/", "HTTP://127.0.0.1/",
    "https://127.0.0.1/", "https://127.0.0.1:8443/token", "https://127.1/", "https://127.0.1/", "https://2130706433/",
    "https://0x7f.1/", "https://0x7f000001/", "https://0x7f.0.0.1/", "https://0177.0.0.1/", "https://017700000001/",
    "https://127.0.0.01/", "https://00127.0.0.1/", "https://127.0.0.1.5/", "https://256.0.0.1/", "https://1.2.3/", "https://0/",
    "https://0.0.0.0/", "https://[::]/", "https://[::1]/", "https://[0:0:0:0:0:0:0:1]/", "https://[::ffff:127.0.0.1]/",
    "https://[::ffff:7f00:1]/", "https://[::ffff:169.254.169.254]/", "https://[::127.0.0.1]/", "https://[64:ff9b::7f00:1]/",
    "https://[64:ff9b::169.254.169.254]/", "https://[2002:7f00:1::]/", "https://[2001::1]/", "https://[fe80::1%25eth0]/",
    "https://[fe80::1]/", "https://[fd00:ec2::254]/latest/meta-data", "https://[fc00::1]/", "https://[ff02::1]/",
    "https://169.254.169.254/latest/meta-data/", "https://169.254.170.2/v2/credentials", "https://100.100.100.200/",
    "https://192.0.0.192/opc/v1/", "https://168.63.129.16/metadata", "https://10.0.0.1/", "https://172.16.0.1/",
    "https://192.168.1.1/", "https://100.64.0.1/", "https://198.18.0.1/", "https://224.0.0.1/", "https://255.255.255.255/",
    "https://localhost/", "https://localhost./", "https://localhost:443/", "https://idp.example.com./",
    "https://idp.example.com@127.0.0.1/", "https://127.0.0.1@idp.example.com/", "https://user:secret@idp.example.com/",
    "https://idp.example.com\\@127.0.0.1/", "https://127.0.0.1\\.idp.example.com/", "https:\\\\127.0.0.1/",
    "https://idp.example.com#@127.0.0.1/", "https://127.0.0.1#.idp.example.com/", "https://idp.example.com/#x",
    "https://①②⑦.⓪.⓪.①/", "https://127。0。0。1/", "https://ⓛocalhost/", "https://idp\uff0eexample.com/", "https://bücher.example/",
    "https://idp.example.com:0/", "https://idp.example.com:65536/", "https://idp.example.com:99999/",
    "https://idp.example.com:8a/", "https://idp.example.com:-1/", "https://:443/", "https:///", "https://", "https:",
    "//127.0.0.1/",
    "127.0.0.1", "/token", "", " https://idp.example.com/", "https://idp.example.com/ x", "https://idp.example.com/\r\nHost: x",
    "https://idp.example.com\t/", "https://idp.exam\nple.com/", "https://%31%32%37.0.0.1/", "https://idp.example.com%2f@x/",
    "https://[::1", "https://::1]/", "https://[::1]x/", "https://[127.0.0.1]/", "https://[v1.x]/",
    "ftp://idp.example.com/", "file:///etc/passwd", "gopher://127.0.0.1:6379/_x", "data:text/html,x", "javascript:alert(1)",
    "dict://127.0.0.1/", "unix:///var/run/docker.sock", "https+unix://x/", "-https://idp.example.com/",
]  # fmt: skip


@pytest.mark.parametrize("address", FORBIDDEN_ADDRESSES)
def test_an_address_that_is_not_a_public_servers_is_not_public(address: str) -> None:
    assert not is_public(ipaddress.ip_address(address))


@pytest.mark.parametrize("address", PUBLIC_ADDRESSES)
def test_a_public_address_is_public_also_when_ipv6_wraps_it(address: str) -> None:
    assert is_public(ipaddress.ip_address(address))


async def _loopback(_host: str, _port: int) -> list[str]:
    return ["127.0.0.1"]


async def test_no_forbidden_url_makes_a_connection() -> None:
    assert len(FORBIDDEN_URLS) >= 80
    async with hostile_server() as canary, Transport(resolver=_loopback) as transport:
        for url in FORBIDDEN_URLS:
            with pytest.raises(UrlRefused) as refusal:
                await transport.send(HttpRequest("GET", url))
            assert refusal.value.code == "url_refused", url
            at_canary = url.replace("127.0.0.1/", f"127.0.0.1:{canary.port}/")
            with pytest.raises(UrlRefused):
                await transport.send(HttpRequest("GET", at_canary))
        assert canary.connections == 0


@pytest.mark.parametrize("address", FORBIDDEN_ADDRESSES)
async def test_a_name_is_refused_whose_address_is_not_public(address: str) -> None:
    async def resolver(_host: str, _port: int) -> list[str]:
        return ["8.8.8.8", address]

    async with Transport(resolver=resolver) as transport:
        with pytest.raises(UrlRefused) as refusal:
            await transport.send(HttpRequest("GET", "https://idp.example.com/?code=s3cret"))
    assert "s3cret" not in str(refusal.value)


@pytest.mark.parametrize("address", [each for each in FORBIDDEN_ADDRESSES if each not in LOOPBACK_ADDRESSES])
async def test_the_loopback_switch_opens_loopback_and_nothing_else_private(address: str) -> None:
    async def resolver(_host: str, _port: int) -> list[str]:
        return [address]

    async with Transport(resolver=resolver) as transport:
        for url in ("https://idp.example.com/", "http://idp.example.com/"):
            with pytest.raises(UrlRefused):
                await transport.send(HttpRequest("GET", url), allow_http_loopback=True)


@pytest.mark.parametrize("addresses", [["127.0.0.1", "10.0.0.1"], ["127.0.0.1", "8.8.8.8"], ["8.8.8.8"], []])
async def test_http_needs_every_address_to_be_loopback(addresses: list[str]) -> None:
    async def resolver(_host: str, _port: int) -> list[str]:
        return addresses

    async with Transport(resolver=resolver) as transport:
        with pytest.raises(UrlRefused):
            await transport.send(HttpRequest("GET", "http://idp.example.com/"), allow_http_loopback=True)


async def test_a_name_is_resolved_once_and_the_checked_address_is_the_one_connected_to() -> None:
    answers = [["127.0.0.1"], ["10.0.0.1"]]
    asked: list[str] = []

    async def rebinding(host: str, _port: int) -> list[str]:
        asked.append(host)
        return answers[len(asked) - 1]

    async with hostile_server() as server, Transport(resolver=rebinding) as transport:
        request = HttpRequest("GET", f"http://idp.example.com:{server.port}/")
        assert (await transport.send(request, allow_http_loopback=True)).status == 200
        assert asked == ["idp.example.com"]
        assert server.connections == 1


async def test_a_name_that_turns_private_between_two_requests_is_refused_the_second_time() -> None:
    current = "127.0.0.1"

    async def resolver(_host: str, _port: int) -> list[str]:
        return [current]

    async with hostile_server() as server, Transport(resolver=resolver) as transport:
        request = HttpRequest("GET", f"http://idp.example.com:{server.port}/")
        assert (await transport.send(request, allow_http_loopback=True)).status == 200
        current = "10.0.0.1"
        with pytest.raises(UrlRefused):
            await transport.send(request, allow_http_loopback=True)
        assert server.connections == 1


async def test_what_is_no_address_at_all_is_refused() -> None:
    async def resolver(_host: str, _port: int) -> list[str]:
        return ["not an address"]

    async with Transport(resolver=resolver) as transport:
        with pytest.raises(UrlRefused):
            await transport.send(HttpRequest("GET", "https://idp.example.com/"))


async def test_a_name_without_addresses_is_unavailable_and_nothing_was_sent() -> None:
    async def resolver(_host: str, _port: int) -> list[str]:
        raise OSError

    async def empty(_host: str, _port: int) -> list[str]:
        return []

    for each in (resolver, empty):
        async with Transport(resolver=each) as transport:
            with pytest.raises(UpstreamUnavailable) as failure:
                await transport.send(HttpRequest("GET", "https://idp.example.com/"))
        assert not failure.value.may_have_been_processed


async def test_the_operating_system_resolves_where_nobody_else_was_named() -> None:
    async with hostile_server() as server, Transport() as transport:
        answer = await transport.send(HttpRequest("GET", f"http://localhost:{server.port}/x"), allow_http_loopback=True)
    assert answer.status == 200
    assert b"Host: localhost:" in server.requests[0]
