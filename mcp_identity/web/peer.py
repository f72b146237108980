"""Whose program is at the other end of a loopback connection?

Linux alone tells, in /proc/net; elsewhere nobody is found, which means "cannot be known" and never "ours". Trusts the
kernel. Says nothing about which program it is: every program of the same user is that user.
"""

from __future__ import annotations

import os
import re
import sys
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path

_TABLES = (Path("/proc/net/tcp"), Path("/proc/net/tcp6"))
_UID_MAP = Path("/proc/self/uid_map")
_OVERFLOW_UID = 65534
"""What the kernel shows for every user that this user namespace does not know; elsewhere the uid of `nobody`."""
_CLOSED = "0"
"""The inode in the row of a connection whose owner has closed it."""
_LISTENING = "0A"
_READINGS = 3
"""The kernel may leave out a row while others come and go, so that one that is missing is looked for again."""


def is_same_user(client_host: str, client_port: int, server_host: str, server_port: int) -> bool:
    """Whether the peer's program is this user's, as far as can be known.

    One that has closed its socket is nobody's any more: it reads no answer, but what it asks for would be done.
    """
    if not sys.platform.startswith("linux"):
        return True
    try:
        ends = _written(client_host, client_port), _written(server_host, server_port)
    except ValueError:
        return True
    for _ in range(_READINGS):
        tables = "".join(map(_read, _TABLES))
        rows = _rows(tables, *ends)
        if rows:
            return all(inode != _CLOSED for _, inode in rows) and _known(owners(tables, *ends)) <= {os.getuid()}
        if not _shows_listener(tables, server_port):
            return True
    return False


def uids_of_peer(client_host: str, client_port: int, server_host: str, server_port: int) -> frozenset[int]:
    """The users that own the client's socket; more than one only if the kernel shows its addresses more than once.

    Args:
        client_host: The client's address as the server's socket sees it.
        client_port: The client's port.
        server_host: The server's address.
        server_port: The server's port. All four count: a port alone is not one program's, nor is it with one address.

    Returns:
        Their uids; none where they cannot be found: not on Linux, a client on another machine or in another network
        namespace, one of a user that this user namespace does not know, or one that has closed its socket already.
    """
    if not sys.platform.startswith("linux"):
        return frozenset()
    try:
        ends = _written(client_host, client_port), _written(server_host, server_port)
    except ValueError:
        return frozenset()
    return _known(owners("".join(map(_read, _TABLES)), *ends))


def owners(tables: str, local: frozenset[str], remote: frozenset[str]) -> frozenset[int]:
    """The uids in the rows between two ends, of which each may be written in several ways."""
    return frozenset(int(uid) for uid, inode in _rows(tables, local, remote) if inode != _CLOSED)


def _rows(tables: str, local: frozenset[str], remote: frozenset[str]) -> list[tuple[str, str]]:
    """Uid and inode of the rows between two ends."""
    ends = f"(?:{'|'.join(local)}) (?:{'|'.join(remote)})"
    return re.findall(rf": {ends}(?: +\S+){{4}} +(\d+) +\d+ +(\d+)", tables)


def _shows_listener(tables: str, port: int) -> bool:
    """Whether the tables show that somebody listens on a port: then they show the connections to it, too."""
    return re.search(rf": [0-9A-F]+:{port:04X} [0-9A-F]+:0000 {_LISTENING} ", tables) is not None


def _known(uids: frozenset[int]) -> frozenset[int]:
    """Without the uid that stands for those that this user namespace does not know."""
    return uids if knows_user(_read(_UID_MAP), _OVERFLOW_UID) else uids - {_OVERFLOW_UID}


def knows_user(uid_map: str, uid: int) -> bool:
    """Whether a user namespace with this map has a user of this uid (user_namespaces(7)); without namespaces all are known."""
    ranges = [[int(number) for number in line.split()] for line in uid_map.splitlines()]
    return not ranges or any(first <= uid < first + count for first, _, count in ranges)


def _read(path: Path) -> str:
    """What the kernel says there; nothing where it does not have that file."""
    try:
        return path.read_text("ascii")
    except OSError:
        return ""


def _written(host: str, port: int) -> frozenset[str]:
    """An end of a connection as /proc/net writes it: an IPv4 address may stand there inside an IPv6 one (RFC 4291 §2.5.5.2)."""
    address = ip_address(host)
    plain = (address.ipv4_mapped or address) if isinstance(address, IPv6Address) else address
    same = (plain, IPv6Address(f"::ffff:{plain}")) if isinstance(plain, IPv4Address) else (plain,)
    return frozenset(f"{_words(each.packed)}:{port:04X}" for each in same)


def _words(packed: bytes) -> str:
    """An address in hexadecimal: 32-bit words, each in the machine's own byte order."""
    words = (packed[start : start + 4] for start in range(0, len(packed), 4))
    return "".join(f"{int.from_bytes(word, sys.byteorder):08X}" for word in words)
