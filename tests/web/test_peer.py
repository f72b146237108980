from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Generator
from contextlib import closing, contextmanager

import pytest

from mcp_identity.web.peer import is_same_user, uid_of_peer

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells whose socket it is")

NOBODY = 65533


@contextmanager
def listening(family: socket.AddressFamily, host: str) -> Generator[tuple[socket.socket, int]]:
    try:
        listener = socket.create_server((host, 0), family=family)
    except OSError:
        pytest.skip(f"this machine has no {host}")
    with closing(listener):
        yield listener, listener.getsockname()[1]


@pytest.mark.parametrize(("family", "host"), [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")])
def test_our_own_connection_is_ours(family: socket.AddressFamily, host: str) -> None:
    with listening(family, host) as (listener, port), socket.create_connection((host, port)):
        connection, (client_host, client_port, *_) = listener.accept()
        with connection:
            assert uid_of_peer(client_host, client_port, port) == os.getuid()
            assert is_same_user(client_host, client_port, port)


def test_an_ipv4_client_behind_an_ipv6_socket_is_found() -> None:
    with listening(socket.AF_INET, "127.0.0.1") as (listener, port), closing(socket.socket(socket.AF_INET6)) as client:
        client.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        client.connect(("::ffff:127.0.0.1", port))
        connection, (client_host, client_port) = listener.accept()
        with connection:
            assert uid_of_peer(client_host, client_port, port) == os.getuid()


@pytest.mark.skipif(os.getuid() != 0, reason="only root can start a program as somebody else")
def test_another_users_connection_is_not_ours() -> None:
    program = 'exec 3<>"/dev/tcp/127.0.0.1/$0"; read -t 10 -u 3 _ || :'
    with listening(socket.AF_INET, "127.0.0.1") as (listener, port):
        listener.settimeout(10)
        other = subprocess.Popen(["bash", "-c", program, str(port)], user=NOBODY, cwd="/")
        connection, (client_host, client_port) = listener.accept()
        with connection:
            uid, same = uid_of_peer(client_host, client_port, port), is_same_user(client_host, client_port, port)
        assert other.wait(10) == 0
    assert (uid, same) == (NOBODY, False)


@pytest.mark.parametrize(("host", "client_port"), [("127.0.0.1", 1), ("testclient", 50000), ("192.0.2.1", 50000)])
def test_what_cannot_be_found_is_none_and_passes(host: str, client_port: int) -> None:
    assert uid_of_peer(host, client_port, 1) is None
    assert is_same_user(host, client_port, 1)


def test_a_client_that_has_closed_its_socket_has_no_owner() -> None:
    with listening(socket.AF_INET, "127.0.0.1") as (listener, port):
        client = socket.create_connection(("127.0.0.1", port))
        connection, (client_host, client_port) = listener.accept()
        client.close()
        with connection:
            assert uid_of_peer(client_host, client_port, port) is None
