"""Who answers on the callback port of this machine, now?

Several processes of one vault share one port: whoever can bind it serves every session of the vault, and hands it on by
letting go or by dying. Nothing passes between them but a proof that the holder is of the same vault. Trusts the kernel
(the bind is the lock) and the desk (what is open, who is a sibling); does not trust whatever else answers on the port.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

import anyio

from mcp_identity.domain.clock import Clock, Entropy
from mcp_identity.domain.errors import IdentityError, VaultUnavailable
from mcp_identity.domain.http import HttpRequest, HttpResponse

if TYPE_CHECKING:
    import socket

    from anyio.abc import TaskStatus

    from mcp_identity.web.desk import ConsentDesk

_log = logging.getLogger(__name__)

_NONCE_BYTES = 32
_LONGEST_PROOF = 128


async def _one_second() -> None:
    await anyio.sleep(1)


class LoopbackListener:
    """The callback port, held while it is needed.

    Attributes:
        port: The port. One that was 0 is known after the first `ensure_open`, and stays.
    """

    def __init__(
        self,
        desk: ConsentDesk,
        *,
        port: int,
        send: Callable[[HttpRequest], Awaitable[HttpResponse]],
        clock: Clock,
        entropy: Entropy,
        linger_seconds: float = 30.0,
        pause: Callable[[], Awaitable[None]] = _one_second,
    ) -> None:
        """Take nothing yet.

        Args:
            desk: Says what is open, and proves and checks the vault.
            port: The port to share; 0 for a free one, in tests.
            send: Sends HTTP, plain and to loopback, within a deadline of its own.
            clock: For the lingering, and for the pages.
            entropy: For nonces, and for the pages.
            linger_seconds: How long the port is kept when nothing is open any more, for the last page and its reload.
            pause: Between two looks of `run`.
        """
        self.port = port
        self._desk = desk
        self._send = send
        self._clock = clock
        self._entropy = entropy
        self._linger_seconds = linger_seconds
        self._pause = pause
        self._turn = anyio.Lock()
        self._tasks: anyio.abc.TaskGroup | None = None
        self._holding: _Holding | None = None
        self._needed_at = 0.0

    @property
    def is_holding(self) -> bool:
        """Whether this process serves the port."""
        return self._holding is not None

    async def ensure_open(self) -> None:
        """See to it that a server of this vault answers on the port; call it before a link is given out.

        Raises:
            VaultUnavailable: What holds the port is not a server of this vault.
            RuntimeError: `run` is not running.
        """
        async with self._turn:
            self._needed_at = self._clock.monotonic()
            # Twice, since a sibling may let go between the attempt to bind and the challenge.
            if await self._claim() or await self._is_sibling() or await self._claim():
                return
        raise VaultUnavailable(
            f"port {self.port} of 127.0.0.1, where consent pages are served, is held by a program that is not a server of this "
            "vault. Stop that program, or set MCP_IDENTITY_CALLBACK_PORT to a free port and register the redirect URI with it"
        )

    async def run(self, *, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Take the port while a consent is open and nobody serves it; let go when none is. Cancel to stop.

        Args:
            task_status: Told when `ensure_open` may be called.
        """
        async with anyio.create_task_group() as tasks:
            self._tasks = tasks
            task_status.started()
            try:
                while True:
                    await self._pause()
                    await self._look()
            finally:
                self._tasks = None

    async def _look(self) -> None:
        """One look at what is open."""
        try:
            needed = await self._desk.has_open_consents()
        except IdentityError as error:
            _log.info("whether consents are open cannot be known now: %s", error.code)
            return
        async with self._turn:
            now = self._clock.monotonic()
            if needed:
                self._needed_at = now
                await self._claim()
            elif self._holding is not None and now - self._needed_at >= self._linger_seconds:
                await self._holding.end()

    async def _claim(self) -> bool:
        """Serve the port if it is free; whether this process serves it now."""
        if self._holding is not None:
            return True
        if self._tasks is None:
            raise RuntimeError("LoopbackListener.run is not running")
        from mcp_identity.web.serving import claim

        sockets = claim(self.port)
        if sockets is None:
            return False
        self.port = sockets[0].getsockname()[1]
        await self._tasks.start(self._hold, sockets)
        return True

    async def _hold(self, sockets: list[socket.socket], *, task_status: TaskStatus[None]) -> None:
        """Serve until told to end."""
        from mcp_identity.web.consent import consent_app
        from mcp_identity.web.peer import is_same_user
        from mcp_identity.web.serving import serving

        hosts = frozenset({f"127.0.0.1:{self.port}", f"localhost:{self.port}"})
        app = consent_app(self._desk, allowed_hosts=hosts, clock=self._clock, entropy=self._entropy, check_peer=is_same_user)
        holding = _Holding()
        try:
            async with serving(app, sockets, check_peer=is_same_user):
                self._holding = holding
                task_status.started()
                await holding.asked_to_end.wait()
        finally:
            self._holding = None
            holding.ended.set()

    async def _is_sibling(self) -> bool:
        """Whether a server of this vault answers on the port."""
        nonce = self._entropy.random_bytes(_NONCE_BYTES)
        challenge = HttpRequest(
            "POST",
            f"http://127.0.0.1:{self.port}/vault-proof",
            headers={"content-type": "application/octet-stream"},
            body=nonce,
            maximum_bytes=_LONGEST_PROOF,
        )
        try:
            answer = await self._send(challenge)
        except IdentityError as error:
            _log.info("the holder of port %d gave no proof: %s", self.port, error.code)
            return False
        return answer.status == 200 and self._desk.check_vault_proof(nonce, self.port, answer.body)  # noqa: PLR2004 - HTTP's own OK


class _Holding:
    """The time in which this process serves the port."""

    def __init__(self) -> None:
        self.asked_to_end = anyio.Event()
        self.ended = anyio.Event()

    async def end(self) -> None:
        """Stop serving; returns when the port is free."""
        self.asked_to_end.set()
        await self.ended.wait()
