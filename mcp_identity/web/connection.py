"""Which connections are kept, before anything is known of a request?

uvicorn's own protocol with some rules more, so that nobody can use up the connections of the port by holding them: another
user's is closed as it is made, and so is one too many of one address; every other one must bring a whole request soon, and
must go on reading its answer. Knows no page. Trusts the socket for the peer's address.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from uvicorn.protocols.http.h11_impl import H11Protocol

if TYPE_CHECKING:
    from mcp_identity.web.guard import CheckPeer


class Timer(Protocol):
    """Something that the loop will do later."""

    def cancel(self) -> None:
        """Do not do it."""
        ...


REQUEST_SECONDS = 5.0
"""Enough for any request of ours over loopback, and no longer than uvicorn keeps a connection that rests."""
WRITE_SECONDS = 30.0


def guarded(
    check_peer: CheckPeer | None,
    request_seconds: float,
    write_seconds: float = WRITE_SECONDS,
    has_room: Callable[[str, int], bool] = lambda _host, _count: True,
) -> type[H11Protocol]:
    """Make the protocol class that uvicorn speaks on every connection.

    Args:
        check_peer: Says whose connections are kept; None for everybody's.
        request_seconds: How long a complete request may take to come, from the connection or its first byte on; how long a
            connection may rest between two is uvicorn's to watch.
        write_seconds: How long the peer may read nothing while an answer waits for it.
        has_room: Whether an address may have so many connections.
    """

    class Guarded(_Guarded):
        rules = _Rules(check_peer, request_seconds, write_seconds, has_room)

    return Guarded


@dataclass(frozen=True, slots=True)
class _Rules:
    check_peer: CheckPeer | None
    request_seconds: float
    write_seconds: float
    has_room: Callable[[str, int], bool]
    open: Counter[str] = field(default_factory=Counter[str])


class _Guarded(H11Protocol):
    """One connection."""

    rules: _Rules
    _stuck: Timer | None = None
    _resting = False
    _host = ""

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._expect_request()
        client, server = transport.get_extra_info("peername"), transport.get_extra_info("sockname")
        self._host = client[0] if client else ""
        self.rules.open[self._host] += 1
        if not (self.rules.has_room(self._host, self.rules.open[self._host]) and self._is_welcome(client, server)):
            self.connections.discard(self)  # it counts no longer, not even until the loop has closed it
            transport.abort()

    def _is_welcome(self, client: Any, server: Any) -> bool:
        check_peer = self.rules.check_peer
        return not (check_peer and client and server) or check_peer(client[0], client[1], server[0], server[1])

    def data_received(self, data: bytes) -> None:
        if self._resting:
            self._resting = False
            self._expect_request()
        super().data_received(data)

    def on_response_complete(self) -> None:
        self._deadline.cancel()
        self._resting = True
        super().on_response_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        self._deadline.cancel()
        self._read_again()
        self.rules.open[self._host] -= 1
        if not self.rules.open[self._host]:
            del self.rules.open[self._host]
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._stuck = self.loop.call_later(self.rules.write_seconds, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        self._read_again()

    def _read_again(self) -> None:
        if self._stuck is not None:
            self._stuck.cancel()
            self._stuck = None

    def _expect_request(self) -> None:
        self._deadline = self.loop.call_later(self.rules.request_seconds, self._end_waiting)

    def _end_waiting(self) -> None:
        """Hang up, unless a request is there and being answered."""
        if not self.cycle or self.cycle.response_complete or self.cycle.more_body:
            self.transport.abort()
