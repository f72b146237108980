"""Whose program is at the other end of a loopback connection?

Linux alone tells, in /proc/net; elsewhere the answer is None, which means "cannot be known" and never "ours". Trusts the
kernel. Says nothing about which program it is: every program of the same user is that user.
"""

from __future__ import annotations

import os
import sys
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path

_TABLES = (Path("/proc/net/tcp"), Path("/proc/net/tcp6"))
_UNMAPPED_UID = 65534
"""What the kernel shows for a user that this user namespace does not know."""


def uid_of_peer(client_host: str, client_port: int, server_port: int) -> int | None:
    """The user that owns the client's socket.

    Args:
        client_host: The client's address as the server's socket sees it.
        client_port: The client's port.
        server_port: The server's port.

    Returns:
        The uid, or None where it cannot be found: not on Linux, a client on another machine or in another network
        namespace, or one that has closed its socket already (and thus will not read the answer).
    """
    if not sys.platform.startswith("linux"):
        return None
    try:
        client = _plain(ip_address(client_host))
    except ValueError:
        return None
    for table in _TABLES:
        uid = _find(table, client, client_port, server_port)
        if uid is not None:
            return None if uid == _UNMAPPED_UID else uid
    return None


def is_same_user(client_host: str, client_port: int, server_port: int) -> bool:
    """Whether the peer's program is this user's, as far as can be known."""
    uid = uid_of_peer(client_host, client_port, server_port)
    return uid is None or uid == os.getuid()


def _find(table: Path, client: IPv4Address | IPv6Address, client_port: int, server_port: int) -> int | None:
    try:
        lines = table.read_text("ascii").splitlines()[1:]
    except OSError:
        return None
    ports = (client_port, server_port)
    for line in lines:
        _, local, remote, _, _, _, _, uid, _, inode, *_ = line.split()
        if inode == "0":
            continue  # its owner has closed it
        if (int(local[-4:], 16), int(remote[-4:], 16)) == ports and _address(local[:-5]) == client:
            return int(uid)
    return None


def _address(digits: str) -> IPv4Address | IPv6Address:
    """An address as /proc/net writes it: 32-bit words in hexadecimal, each in the machine's own byte order."""
    words = (int(digits[start : start + 8], 16) for start in range(0, len(digits), 8))
    return _plain(ip_address(b"".join(word.to_bytes(4, sys.byteorder) for word in words)))


def _plain(address: IPv4Address | IPv6Address) -> IPv4Address | IPv6Address:
    """The IPv4 address inside an IPv6 one (RFC 4291 §2.5.5.2), or the address itself."""
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return address if mapped is None else mapped
