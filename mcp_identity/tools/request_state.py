"""What a client carries for us between two rounds of one call (`requestState`, protocol version 2026-07-28).

It is the client's to hand back, so it is attacker's input: the SDK seals it, binds it to the method, the tool, its arguments
and the principal, and ends it after ten minutes. Here it gets its key, which every replica and the next process derives from
the same vault, and the principal that it is bound to. That it is used once is not its business: what it names is a consent
session, whose owner and state decide.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mcp import MCPError
from mcp.server.request_state import AESGCMRequestStateCodec, InvalidRequestState, RequestStateSecurity

if TYPE_CHECKING:
    from mcp_identity.broker.broker import Broker
    from mcp_identity.domain.identity import Principal

_LIFETIME_SECONDS = 600.0
_REFUSED = {"reason": "invalid_request_state"}
"""How the SDK marks the error with which it refuses state, whatever is wrong with it."""


@dataclass(slots=True)
class _Bound:
    """Whom the state of the message that is being served is bound to; empty until that is known."""

    principal: tuple[str, str, str] | None = None


_bound: ContextVar[_Bound | None] = ContextVar("bound", default=None)


class RequestStates:
    """Seals and opens state under a key of the vault, which is there once the vault is open."""

    def __init__(self) -> None:
        """No vault is open yet."""
        self._codec: AESGCMRequestStateCodec | None = None
        self.security = RequestStateSecurity(codec=self, ttl=_LIFETIME_SECONDS, bind_principal=_bound_principal)

    def note(self, broker: Broker, principal: Principal) -> None:
        """A call of a principal has begun."""
        if self._codec is None:
            self._codec = AESGCMRequestStateCodec([broker.request_state_key()])
        bound = _bound.get()
        if bound is not None:
            bound.principal = (principal.tenant, principal.workload.id, principal.user_key)

    def middleware(self, begin: Callable[[], Awaitable[Callable[[], Awaitable[None]]]]) -> Any:
        """Server middleware, outside of the SDK's own that opens what comes in.

        Args:
            begin: Begins a call, so that key and principal are known before state is opened; gives what writes down that
                it was refused.
        """

        async def bind(ctx: Any, call_next: Callable[[Any], Awaitable[Any]]) -> Any:
            parameters: Mapping[str, Any] = ctx.params or {}
            token = _bound.set(_Bound())
            try:
                if parameters.get("requestState") is None:
                    return await call_next(ctx)
                write_down = await begin()
                try:
                    return await call_next(ctx)
                except MCPError as error:
                    if error.error.data == _REFUSED:
                        await write_down()
                    raise
            finally:
                _bound.reset(token)

        return bind

    def seal(self, payload: bytes) -> str:
        """Seal what will come back."""
        if self._codec is None:
            raise RuntimeError("state is sealed before a call has begun")
        return self._codec.seal(payload)

    def unseal(self, token: str) -> bytes:
        """Open what came back.

        Raises:
            InvalidRequestState: If it is not what this vault sealed.
        """
        if self._codec is None:
            raise InvalidRequestState("no call has begun")
        return self._codec.unseal(token)


def _bound_principal(_ctx: object) -> str:
    bound = _bound.get()
    if bound is None or not bound.principal:
        raise LookupError("no principal is known")
    return json.dumps(bound.principal)
