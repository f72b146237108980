"""Who is calling a tool: the principal, from the transport, never from an argument.

On stdio it is this machine's user, and a workload whose name is a label that the client chose; both are fixed at the first
request of the process, and what operators say of that workload is read again whenever they change something. Over HTTP the
gate has verified the bearer of this very request and leaves its principal in a context variable, which the SDK carries to the
tool: a session has no principal of its own.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Generator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol

import anyio

from mcp_identity.domain.errors import IdentityError, Unauthenticated
from mcp_identity.domain.identity import Proof, slug
from mcp_identity.domain.standing import Outdated, standing
from mcp_identity.tools.limits import caller_of, group_of
from mcp_identity.tools.results import protocol_error
from mcp_identity.tools.scopes import administers

if TYPE_CHECKING:
    from mcp_identity.broker.audit import Call
    from mcp_identity.broker.broker import Broker
    from mcp_identity.domain.credentials import Secret
    from mcp_identity.domain.identity import Principal, User
    from mcp_identity.domain.standing import Standing
    from mcp_identity.tools.limits import Limits
    from mcp_identity.tools.users import VerifiedUser

_MOST_NAMES = 256


class Authenticator(Protocol):
    """Believes a bearer, or does not."""

    async def authenticate(self, bearer: Secret, *, edge: str, workload_hint: str = "") -> Principal:
        """The principal that a bearer proves.

        Raises:
            Unauthenticated: If it proves nothing.
            TokenExpired: If it did once.
            StorageError: If that cannot be known now.
        """
        ...

    def recall(self, bearer: Secret, *, edge: str, workload_hint: str = "") -> tuple[Principal, Standing] | None:
        """The principal that it proved a moment ago; to be confirmed before anything leaves."""
        ...

    async def verify_user_token(self, principal: Principal, token: Secret) -> VerifiedUser:
        """The user of a second bearer, which must pass the calling workload's own authorizer.

        Raises:
            Unauthenticated: If it proves nothing.
            TokenExpired: If it did once.
            StorageError: If that cannot be known now.
        """
        ...


class Caller(Protocol):
    """Knows who is calling, on one kind of transport."""

    @property
    def verifier(self) -> Authenticator | None:
        """Verifies second bearers; None where there are no issuers."""
        ...

    def administers(self) -> bool:
        """Whether the caller of this message is served what is for operators, where the server has it."""
        ...

    async def begin(self, action: str) -> tuple[Broker, Call]:
        """Begin a call: the broker, and the call with its principal.

        Raises:
            RateLimited: If this principal calls too often.
        """
        ...

    async def around(self, ctx: Any, call_next: Callable[[Any], Awaitable[Any]]) -> Any:
        """Server middleware around each message."""
        ...

    async def confirm(self) -> None:
        """See to it that the vault has agreed to a remembered caller, before anything leaves.

        Raises:
            MCPError: If it has not.
        """
        ...

    async def verify_again(self) -> None:
        """The caller of this message was remembered from an older configuration: verify them anew.

        Raises:
            Unauthenticated: If they prove nobody, or somebody else, any more.
            StorageError: If that cannot be known now.
        """
        ...


@dataclass(frozen=True, slots=True)
class Local:
    """What a local process serves once its vault is open.

    Attributes:
        broker: The verbs.
        user: The operating system's user.
        workload: The configured name of the agent, or empty.
    """

    broker: Broker
    user: User
    workload: str


class StdioCaller:
    """The one caller of a stdio process."""

    verifier: Authenticator | None = None

    def __init__(self, local: Callable[[], Awaitable[Local]]) -> None:
        """Know how to wait for the vault.

        Args:
            local: Returns once key and schema are checked; no tool answers before.
        """
        self._local = local
        self._lock = anyio.Lock()
        self._client_name = ""
        self._workload = ""
        self._principal: tuple[int, Principal] | None = None

    def administers(self) -> bool:
        """Whoever started this process is its operator."""
        return True

    async def begin(self, action: str) -> tuple[Broker, Call]:
        """Begin a call: the broker, and the call with its verified principal."""
        local = await self._local()
        async with self._lock:
            self._workload = self._workload or local.workload or slug(self._client_name)
            found = self._principal = await _local_principal(local, self._workload, Proof.STDIO, self._principal)
        return local.broker, local.broker.call(found[1], action)

    async def around(self, ctx: Any, call_next: Callable[[Any], Awaitable[Any]]) -> Any:
        """Server middleware: keep the name that the MCP client gave first.

        It comes with `initialize`, or in every message of protocol version 2026-07-28; a client may also give none.
        """
        self._client_name = self._client_name or _client_name(ctx)
        return await call_next(ctx)

    async def confirm(self) -> None:
        """Nobody is remembered here."""

    async def verify_again(self) -> None:
        """Nobody is remembered here; who this is follows from the process."""


@dataclass(frozen=True, slots=True)
class Arrived:
    """What the gate knows of the request that is being served.

    Attributes:
        edge: ``http`` or ``sse``.
        principal: Verified; None behind a gate that asks nobody.
        remembered: How far the principal is to be believed; None for one that was verified with this request.
        verify: Verifies the bearer of this request.
    """

    edge: str
    principal: Principal | None
    remembered: Standing | None = None
    verify: Callable[[], Awaitable[Principal]] | None = None


_arrived: ContextVar[Arrived] = ContextVar("arrived")
_said_name: ContextVar[str] = ContextVar("said_name", default="")
_has_room: ContextVar[bool] = ContextVar("has_room", default=True)


@contextmanager
def arriving(arrived: Arrived) -> Generator[None]:
    """Serve a request of this caller while the block lasts."""
    token = _arrived.set(arrived)
    try:
        yield
    finally:
        _arrived.reset(token)


class HttpCaller:
    """The callers of a server that the gate lets in, one with each request."""

    def __init__(self, broker: Broker, verifier: Authenticator, limits: Limits) -> None:
        """Serve behind a gate.

        Args:
            broker: The verbs.
            verifier: Verifies second bearers.
            limits: How often a principal may call, and how much at once.
        """
        self.verifier: Authenticator | None = verifier
        self._broker = broker
        self._limits = limits

    def administers(self) -> bool:
        """Whether the bearer of this request is an operator's."""
        principal = _arrived.get().principal
        return principal is not None and administers(principal)

    async def begin(self, action: str) -> tuple[Broker, Call]:
        """Begin a call of the principal whose bearer came with this request."""
        arrived = _arrived.get()
        principal = arrived.principal
        if principal is None:
            raise RuntimeError("a request came past the gate without a principal")
        standing.set(arrived.remembered)
        self._limits.admit(principal, has_room=_has_room.get())
        return self._broker, self._broker.call(principal, action)

    async def around(self, ctx: Any, call_next: Callable[[Any], Awaitable[Any]]) -> Any:
        """Server middleware: count what runs; what a client says of itself counts for nothing here.

        Tool calls are confirmed by what they do in the vault. Whatever else is answered is confirmed first.
        """
        if ctx.method != "tools/call":
            await self.confirm()
            return await call_next(ctx)
        try:
            return await _counted(self._limits, ctx, call_next)
        finally:
            await self.confirm()  # of a call that touched nothing, e.g. of a tool that there is not

    async def verify_again(self) -> None:
        """Verify the bearer of the request that is being served."""
        arrived = _arrived.get()
        if arrived.verify is None or arrived.principal is None:
            raise RuntimeError("nobody was remembered")
        standing.set(None)
        found = await arrived.verify()
        if caller_of(found) != caller_of(arrived.principal):
            raise Unauthenticated("the credential proves somebody else now")
        _arrived.set(Arrived(arrived.edge, found))

    async def confirm(self) -> None:
        """See to it that the vault has agreed to whom we remember."""
        arrived = _arrived.get()
        if arrived.remembered is None or arrived.remembered.is_confirmed:
            return
        standing.set(arrived.remembered)
        try:
            try:
                await self._broker.confirm()
            except Outdated:
                await self.verify_again()
        except IdentityError as error:
            raise protocol_error(error) from None


class LoopbackCaller:
    """The callers of a server that asks nobody, on this machine alone: its user, and workloads that are labels."""

    verifier: Authenticator | None = None

    def __init__(self, local: Local, limits: Limits) -> None:
        """Serve everybody who comes.

        Args:
            local: The broker and the user; a workload that is configured wins over what clients say.
            limits: How often a principal may call, and how much may run at once.
        """
        self._local = local
        self._limits = limits
        self._principals: dict[str, tuple[int, Principal]] = {}

    def administers(self) -> bool:
        """Nobody is asked who they are here, and not every system tells whose a connection is."""
        return False

    async def begin(self, action: str) -> tuple[Broker, Call]:
        """Begin a call of this machine's user."""
        local, edge = self._local, _arrived.get().edge
        workload = local.workload or slug(_said_name.get())
        found = await _local_principal(local, workload, Proof.LOOPBACK, self._principals.get(workload))
        if workload in self._principals or len(self._principals) < _MOST_NAMES:
            self._principals[workload] = found
        principal = replace(found[1], edge=edge)
        self._limits.admit(principal, has_room=_has_room.get())
        return local.broker, local.broker.call(principal, action)

    async def confirm(self) -> None:
        """Nobody is remembered here."""

    async def verify_again(self) -> None:
        """Nobody is remembered here; who this is follows from the machine."""

    async def around(self, ctx: Any, call_next: Callable[[Any], Awaitable[Any]]) -> Any:
        """Server middleware: the name that this session's client gave, and how much runs."""
        token = _said_name.set(_client_name(ctx))
        try:
            return await _counted(self._limits, ctx, call_next)
        finally:
            _said_name.reset(token)


async def _counted(limits: Limits, ctx: Any, call_next: Callable[[Any], Awaitable[Any]]) -> Any:
    """Hold a place while a tool call runs; one without a place is refused where it begins, in the tool's own words."""
    if ctx.method != "tools/call":
        return await call_next(ctx)
    principal = _arrived.get().principal
    key, group = (caller_of(principal), group_of(principal)) if principal else ((), ())
    with limits.running.hold(key, group) as has_room:
        token = _has_room.set(has_room)
        try:
            return await call_next(ctx)
        finally:
            _has_room.reset(token)


async def _local_principal(
    local: Local, workload: str, proof: Proof, known: tuple[int, Principal] | None
) -> tuple[int, Principal]:
    """The principal of this machine's user, with the epoch under which it was read; the known one while that lasts."""
    directory = local.broker.directory
    epoch = directory.epoch
    if known is not None and known[0] == epoch:
        return known
    return epoch, await directory.local_principal(workload, local.user, proof)


def _client_name(ctx: Any) -> str:
    """The name that an MCP client gave itself, or nothing."""
    parameters = ctx.session.client_params
    return str(parameters.client_info.name) if parameters is not None and parameters.client_info else ""
