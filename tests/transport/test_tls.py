"""TLS: a certificate that does not stand ends the exchange before anything is sent."""

from __future__ import annotations

import ssl

import pytest

from mcp_identity.domain.errors import UpstreamTls, UpstreamUnavailable
from mcp_identity.domain.http import HttpRequest
from mcp_identity.transport import Transport, default_context
from tests.fakes.hostile_server import Script, hostile_server
from tests.transport.certificates import Authority


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority.create(tmp_path_factory.mktemp("ca"))


async def _loopback(_host: str, _port: int) -> list[str]:
    return ["127.0.0.1"]


def _transport(authority: Authority, deadline: float = 3) -> Transport:
    return Transport(ssl_context=authority.client_context(), resolver=_loopback, deadline_seconds=deadline)


async def test_the_certificate_must_be_the_names_though_the_connection_goes_to_the_address(authority: Authority) -> None:
    async with hostile_server(tls=authority.server_context(["idp.test"])) as server, _transport(authority) as transport:
        url = f"https://idp.test:{server.port}/token"
        assert (await transport.send(HttpRequest("GET", url), allow_http_loopback=True)).status == 200
        assert f"Host: idp.test:{server.port}".encode() in server.requests[0]


async def test_an_address_in_the_url_is_verified_as_an_address(authority: Authority) -> None:
    async with hostile_server(tls=authority.server_context(["127.0.0.1"])) as server, _transport(authority) as transport:
        assert (await transport.send(HttpRequest("GET", server.url), allow_http_loopback=True)).status == 200


@pytest.mark.parametrize("host", ["other.test", "127.0.0.1", "sub.idp.test"])
async def test_a_certificate_of_another_name_is_refused(authority: Authority, host: str) -> None:
    async with hostile_server(tls=authority.server_context(["idp.test"])) as server, _transport(authority) as transport:
        with pytest.raises(UpstreamTls) as failure:
            await transport.send(HttpRequest("GET", f"https://{host}:{server.port}/?q=s3cret"), allow_http_loopback=True)
        assert server.requests == []
    assert failure.value.code == "upstream_tls"
    assert "s3cret" not in str(failure.value)


async def test_two_names_on_one_address_share_nothing(authority: Authority) -> None:
    async with hostile_server(tls=authority.server_context(["idp.test"])) as server, _transport(authority) as transport:
        await transport.send(HttpRequest("GET", f"https://idp.test:{server.port}/"), allow_http_loopback=True)
        with pytest.raises(UpstreamTls):
            await transport.send(HttpRequest("GET", f"https://other.test:{server.port}/"), allow_http_loopback=True)


@pytest.mark.parametrize(
    ("days", "self_signed"), [(-1, False), (30, True), (-1, True)], ids=["expired", "self-signed", "expired and self-signed"]
)
async def test_a_certificate_that_does_not_stand_is_refused(authority: Authority, days: int, *, self_signed: bool) -> None:
    tls = authority.server_context(["idp.test"], days=days, self_signed=self_signed)
    async with hostile_server(tls=tls) as server, _transport(authority) as transport:
        with pytest.raises(UpstreamTls):
            await transport.send(HttpRequest("GET", f"https://idp.test:{server.port}/"), allow_http_loopback=True)
        assert server.requests == []


async def test_a_private_authority_is_not_trusted_by_default(authority: Authority) -> None:
    async with (
        hostile_server(tls=authority.server_context(["localhost"])) as server,
        Transport(resolver=_loopback) as transport,
    ):
        with pytest.raises(UpstreamTls):
            await transport.send(HttpRequest("GET", f"https://localhost:{server.port}/"), allow_http_loopback=True)


def test_the_default_context_verifies_and_speaks_no_old_tls() -> None:
    context = default_context()
    assert context.minimum_version is ssl.TLSVersion.TLSv1_2
    assert context.verify_mode is ssl.CERT_REQUIRED
    assert context.check_hostname


async def test_a_server_that_speaks_no_tls_is_refused(authority: Authority) -> None:
    async with (
        hostile_server(Script(raw=b"HTTP/1.1 200 OK\r\n\r\n", speak_first=True)) as server,
        _transport(authority) as transport,
    ):
        with pytest.raises(UpstreamTls):
            await transport.send(HttpRequest("GET", f"https://idp.test:{server.port}/"), allow_http_loopback=True)


@pytest.mark.parametrize("connect_seconds", [0.1, 5])
async def test_a_handshake_that_stalls_is_a_tls_failure(authority: Authority, connect_seconds: float) -> None:
    context = authority.client_context()
    async with (
        hostile_server(Script(stall_handshake=True)) as server,
        Transport(ssl_context=context, resolver=_loopback, deadline_seconds=0.3, connect_seconds=connect_seconds) as transport,
    ):
        with pytest.raises(UpstreamTls):
            await transport.send(HttpRequest("GET", f"https://idp.test:{server.port}/"), allow_http_loopback=True)


async def test_a_connection_that_closes_in_the_handshake_was_not_processed(authority: Authority) -> None:
    async with hostile_server(Script(close_at_once=True)) as server, _transport(authority) as transport:
        with pytest.raises(UpstreamUnavailable) as failure:
            await transport.send(HttpRequest("GET", f"https://idp.test:{server.port}/"), allow_http_loopback=True)
    assert not failure.value.may_have_been_processed
