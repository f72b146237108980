from __future__ import annotations

import os
import socket
import struct
import subprocess
import sys
from collections.abc import Generator
from contextlib import ExitStack, closing, contextmanager
from typing import TYPE_CHECKING

import httpx2
import pytest
from starlette.responses import PlainTextResponse

from mcp_identity.web.peer import is_same_user, knows_user, owners, uids_of_peer
from mcp_identity.web.serving import serving

if TYPE_CHECKING:
    from starlette.types import Receive, Scope, Send

    from tests.web.conftest import SocketOfUser

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells whose socket it is")

SOMEBODY, NOBODY = 65533, 65534
IN_A_USER_NAMESPACE = ("unshare", "--user", "--map-root-user")


@contextmanager
def listening(family: socket.AddressFamily, host: str, port: int = 0) -> Generator[tuple[socket.socket, int]]:
    try:
        listener = socket.create_server((host, port), family=family)
    except OSError:
        pytest.skip(f"this machine has no {host}")
    with closing(listener):
        listener.settimeout(10)
        yield listener, listener.getsockname()[1]


@contextmanager
def accepted(listener: socket.socket) -> Generator[tuple[str, int, str, int]]:
    """The ends of the next connection as the server sees them: client host and port, server host and port."""
    connection, client = listener.accept()
    with connection:
        yield (*client[:2], *connection.getsockname()[:2])


@pytest.mark.parametrize(("family", "host"), [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")])
def test_our_own_connection_is_ours(family: socket.AddressFamily, host: str) -> None:
    with listening(family, host) as (listener, port), socket.create_connection((host, port)), accepted(listener) as ends:
        assert uids_of_peer(*ends) == {os.getuid()}
        assert is_same_user(*ends)


def test_an_ipv4_client_behind_an_ipv6_socket_is_found() -> None:
    with listening(socket.AF_INET, "127.0.0.1") as (listener, port), closing(socket.socket(socket.AF_INET6)) as client:
        client.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        client.connect(("::ffff:127.0.0.1", port))
        with accepted(listener) as ends:
            assert uids_of_peer(*ends) == {os.getuid()}


@pytest.mark.parametrize("uid", [SOMEBODY, NOBODY])
def test_another_users_connection_is_not_ours(socket_of_user: SocketOfUser, uid: int) -> None:
    with listening(socket.AF_INET, "127.0.0.1") as (listener, port):
        socket_of_user(uid).connect(("127.0.0.1", port))
        with accepted(listener) as ends:
            assert uids_of_peer(*ends) == {uid}
            assert not is_same_user(*ends)


@pytest.mark.parametrize(("peer", "lured"), [(SOMEBODY, 0), (0, SOMEBODY)])
def test_the_same_port_towards_another_address_is_another_connection(
    socket_of_user: SocketOfUser, peer: int, lured: int
) -> None:
    with listening(socket.AF_INET, "127.0.0.1") as (listener, port), ExitStack() as lures:
        source = ("127.0.0.1", 0)
        for number in range(2, 66):  # so many that one of them almost surely stands first
            host = f"127.0.0.{number}"
            lures.enter_context(listening(socket.AF_INET, host, port))
            client = socket_of_user(lured)
            client.bind(source)
            client.connect((host, port))
            source = client.getsockname()
        client = socket_of_user(peer)
        client.bind(source)
        client.connect(("127.0.0.1", port))
        with accepted(listener) as ends:
            assert uids_of_peer(*ends) == {peer}


def test_a_connection_that_stands_there_twice_has_both_owners() -> None:
    row = "   7: 0100007F:8001 0100007F:2310 01 00000000:00000000 00:00000000 00000000 {:>5}        0 {} 1 0 20 4 30 10 -1\n"
    tables = "  sl  local_address rem_address\n" + row.format(1000, 11) + row.format(1001, 12) + row.format(1002, 0)
    local, remote = frozenset({"0100007F:8001"}), frozenset({"0100007F:2310"})
    assert owners(tables, local, remote) == {1000, 1001}
    assert owners(tables, remote, local) == frozenset()


@pytest.mark.parametrize(
    ("uid_map", "known"),
    [
        ("         0          0 4294967295\n", True),
        ("         0          0      65536\n", True),
        ("      1000       1000          1\n", False),
        ("         0       1000          1\n         1     100000      65533\n", False),
        ("         0       1000          1\n         1     100000      65536\n", True),
        ("", True),  # a kernel without user namespaces
    ],
)
def test_nobody_is_a_user_where_the_user_namespace_has_one(uid_map: str, known: bool) -> None:
    assert knows_user(uid_map, NOBODY) is known


def test_a_user_that_our_user_namespace_does_not_know_cannot_be_told(socket_of_user: SocketOfUser) -> None:
    program = "import sys; from mcp_identity.web.peer import uids_of_peer; print(*uids_of_peer({!r}, {}, {!r}, {}))"
    if subprocess.run([*IN_A_USER_NAMESPACE, "true"], check=False, capture_output=True).returncode:
        pytest.skip("this machine makes no user namespaces")
    seen: list[str] = []
    with listening(socket.AF_INET, "127.0.0.1") as (listener, port):
        for uid in (SOMEBODY, 0):
            socket_of_user(uid).connect(("127.0.0.1", port))
            with accepted(listener) as ends:
                command = [*IN_A_USER_NAMESPACE, sys.executable, "-c", program.format(*ends)]
                seen.append(subprocess.run(command, check=True, capture_output=True, text=True, timeout=30).stdout.strip())
    assert seen == ["", "0"]


@pytest.mark.parametrize(("host", "client_port"), [("127.0.0.1", 1), ("testclient", 50000), ("192.0.2.1", 50000)])
def test_what_cannot_be_found_passes(host: str, client_port: int) -> None:
    assert not uids_of_peer(host, client_port, "127.0.0.1", 1)
    assert is_same_user(host, client_port, "127.0.0.1", 1)


def test_a_client_that_has_closed_its_socket_has_no_owner() -> None:
    with listening(socket.AF_INET, "127.0.0.1") as (listener, port):
        client = socket.create_connection(("127.0.0.1", port))
        with accepted(listener) as ends:
            client.close()
            assert not uids_of_peer(*ends)
            assert not is_same_user(*ends)


def test_a_client_whose_connection_is_gone_is_not_ours() -> None:
    """It was reset, so that no row tells of it; its request may still be read."""
    with listening(socket.AF_INET, "127.0.0.1") as (listener, port):
        client = socket.create_connection(("127.0.0.1", port))
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        with accepted(listener) as ends:
            client.close()
            assert not is_same_user(*ends)


async def test_another_user_who_does_not_wait_for_the_answer_is_not_served(socket_of_user: SocketOfUser) -> None:
    """covers: A07. What it asked for would be done all the same."""
    served: list[str] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        served.append(scope["path"])
        await PlainTextResponse("")(scope, receive, send)

    with listening(socket.AF_INET, "127.0.0.1") as (listener, port):
        for _ in range(20):  # all wait to be accepted
            client = socket_of_user(SOMEBODY)
            client.connect(("127.0.0.1", port))
            client.sendall(b"GET /foreign HTTP/1.1\r\nHost: x\r\n\r\n")
            client.close()
        async with serving(app, [listener], check_peer=is_same_user), httpx2.AsyncClient(trust_env=False) as http:
            assert (await http.get(f"http://127.0.0.1:{port}/own")).status_code == 200
    assert served == ["/own"]
