"""What stands between the SDK and the tools: calls begin here, and every failure is mapped here.

A tool's failure is a result, in the arm that its output schema has; a resource's or a prompt's is a protocol error whose
message begins with our code. What was refused stands in the trail, and nothing that a caller wrote is repeated to it but
names, cleaned and bounded: a value may be a secret that came to the wrong place.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Awaitable, Callable, Generator, Iterable
from contextlib import contextmanager
from contextvars import ContextVar
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

from mcp import MCPError
from mcp.server import MCPServer
from mcp.server._otel import OpenTelemetryMiddleware
from mcp.server.caching import CacheableMethod, CacheHint
from mcp.server.mcpserver import Context
from mcp.server.mcpserver.exceptions import (
    ResourceNotFoundError,
    ToolError,
    UnexpectedResourceError,
    UnexpectedToolError,
)
from mcp.server.stdio import stdio_server
from mcp.types import (
    INVALID_PARAMS,
    CallToolResult,
    GetPromptResult,
    InputRequiredResult,
    ListToolsResult,
    PaginatedRequestParams,
)
from pydantic import ValidationError

from mcp_identity.domain.errors import IdentityError, InsufficientScope, InvalidRequest, NotFound, clean_text
from mcp_identity.domain.standing import Outdated
from mcp_identity.tools import results
from mcp_identity.tools.elicitation import watching
from mcp_identity.tools.request_state import RequestStates
from mcp_identity.tools.results import protocol_error
from mcp_identity.tools.scopes import ADMIN, is_allowed, scope_of, scopes_needed
from mcp_identity.tools.texts import INSTRUCTIONS

if TYPE_CHECKING:
    from mcp.server.lowlevel.helper_types import ReadResourceContents

    from mcp_identity.broker.audit import Call
    from mcp_identity.broker.broker import Broker
    from mcp_identity.tools.caller import Authenticator, Caller

log = logging.getLogger(__name__)
_NAME_LIMIT = 64
_LISTS: tuple[CacheableMethod, ...] = ("tools/list", "prompts/list", "resources/list", "resources/templates/list")
_call: ContextVar[tuple[Broker, Call] | None] = ContextVar("call", default=None)


class IdentityServer(MCPServer[Any]):
    """An MCPServer that refuses what it does not know, and maps every failure in one place."""

    def __init__(self, caller: Caller, version: str, listed: Callable[[], None] | None) -> None:
        """Name the server and its caller; `build_server` adds the tools."""
        states = RequestStates()
        with _without_rich():
            super().__init__(
                "mcp-identity",
                title="Identity for agents",
                instructions=INSTRUCTIONS,
                version=version,
                log_level="WARNING",
                cache_hints={method: CacheHint(60_000, "private") for method in _LISTS},
                middleware=[_tell_when_listed(listed)] if listed else [],
                lifespan=watching,
                request_state_security=states.security,
            )
        # The SDK's own spans would carry the texts of exceptions, which nobody has checked, to wherever traces go.
        self.middleware[:] = [each for each in self.middleware if not isinstance(each, OpenTelemetryMiddleware)]
        # Outside of the SDK's own: what a client carried for us is opened only once it is known whose call this is.
        self.middleware.insert(0, states.middleware(self._begin_round))
        self.middleware.insert(0, caller.around)
        # Else each call searches its tool's schema for arguments that come in headers, too; ours have none.
        self._lowlevel_server.get_tool_input_schema = _with_headers
        self._caller = caller
        self._states = states
        self._arguments: dict[str, list[str]] = {}

    @property
    def verifier(self) -> Authenticator | None:
        """Who verifies the second bearers of tools; None where there are no issuers."""
        return self._caller.verifier

    async def run_on(self, lines: Any, output: Any) -> None:
        """Serve the protocol of standard input and output on these two, as the SDK does on its own.

        Args:
            lines: An asynchronous iterator of the lines that come in.
            output: Has `write` and `flush`, both asynchronous.
        """
        async with stdio_server(lines, output) as (incoming, outgoing):
            served = self._lowlevel_server
            await served.run(incoming, outgoing, served.create_initialization_options())

    async def begin(self, action: str) -> tuple[Broker, Call]:
        """Begin a call of the verified principal.

        Raises:
            InsufficientScope: If its token has not the scope that this needs.
            RateLimited: If it calls too often.
        """
        begun = await self._begin(action)
        principal = begun[1].principal
        if not is_allowed(principal, action):
            needed = scopes_needed(principal, action)
            raise InsufficientScope(f"the caller's token needs the scopes {' '.join(needed)}", scopes=needed)
        return begun

    async def _begin(self, action: str) -> tuple[Broker, Call]:
        """Begin a call, whether it will be allowed or not."""
        begun = await self._caller.begin(action)
        _call.set(begun)
        broker, call = begun
        self._states.note(broker, call.principal)
        return begun

    async def _begin_round(self) -> Callable[[], Awaitable[None]]:
        """Find out whose call this is, before what a client carried for it is opened; gives what writes a refusal down."""
        await self._caller.confirm()
        try:
            broker, call = await self._caller.begin("resume")
        except IdentityError as error:
            raise protocol_error(error) from None
        self._states.note(broker, call.principal)

        async def write_down() -> None:
            try:
                await broker.refuse(call, InvalidRequest("the state is not this call's own"))
            except IdentityError as error:
                raise protocol_error(error) from None

        return write_down

    async def _handle_list_tools(self, ctx: Any, params: PaginatedRequestParams | None) -> ListToolsResult:
        """The tools that there are for this caller; the list is private to it (see the cache hints)."""
        del ctx, params
        tools = await self.list_tools()
        if not self._caller.administers():
            tools = [each for each in tools if scope_of(each.name) != ADMIN]
        return ListToolsResult(tools=tools)

    async def call_tool(
        self, name: str, arguments: dict[str, Any], context: Context[Any, Any] | None = None
    ) -> CallToolResult | InputRequiredResult:
        """Call a tool; whatever fails becomes a tool error in the arm that its output schema has."""
        try:
            return await self._call(name, arguments, context)
        except Outdated:  # its caller was remembered from an older configuration; nothing of it was done
            try:
                await self._caller.verify_again()
            except IdentityError as error:
                return results.error_answer(error, "")
        return await self._call(name, arguments, context)

    async def _call(
        self, name: str, arguments: dict[str, Any], context: Context[Any, Any] | None
    ) -> CallToolResult | InputRequiredResult:
        known = await self._known(name)
        token = _call.set(None)
        try:
            if scope_of(name) == ADMIN:
                await self._require_operator(name)
            misspelt = [argument for argument in arguments if argument not in known]
            if misspelt:
                return await self._refuse(name, _unknown_argument(misspelt[0], known))
            return await super().call_tool(name, arguments, context)
        except ToolError as error:
            if isinstance(error.__cause__, Outdated):
                raise error.__cause__ from None
            return await self._refuse(name, _of_tool(name, error))
        finally:
            _call.reset(token)

    async def _require_operator(self, name: str) -> None:
        """Serve a tool of operators to nobody else, and to none who was one when we saw them last.

        Raises:
            MCPError: As if there were no such tool: which there are is not everybody's business.
        """
        await self._caller.confirm()
        if not self._caller.administers():
            await self._write_down(InsufficientScope("only operators are served this", scopes=(ADMIN,)), name)
            raise _unknown_tool(name)

    async def read_resource(
        self, uri: Any, context: Context[Any, Any] | None = None
    ) -> Iterable[ReadResourceContents] | InputRequiredResult:
        """Read a resource; whatever fails becomes a protocol error that says our code."""
        token = _call.set(None)
        try:
            return await super().read_resource(uri, context)
        except ResourceNotFoundError:
            # SEP-2164 wants the URI back; it is the caller's own, and may be anything.
            raise protocol_error(NotFound("there is no such resource"), uri=clean_text(str(uri), 256)) from None
        except UnexpectedResourceError as error:
            cause = error.__cause__
            failed = cause if isinstance(cause, IdentityError) else _internal("a resource", cause)
            failed = await self._write_down(failed)
            raise protocol_error(failed, uri=clean_text(str(uri), 256), correlation_id=_correlation_id()) from None
        finally:
            _call.reset(token)

    async def get_prompt(
        self, name: str, arguments: dict[str, Any] | None = None, context: Context[Any, Any] | None = None
    ) -> GetPromptResult | InputRequiredResult:
        """Render a prompt; whatever does not fit becomes a protocol error that says our code."""
        prompt = next((prompt for prompt in await self.list_prompts() if prompt.name == name), None)
        if prompt is None:
            raise protocol_error(NotFound("there is no such prompt; see prompts/list"))
        known = [argument.name for argument in prompt.arguments or []]
        for argument in arguments or {}:
            if argument not in known:
                raise protocol_error(_unknown_argument(argument, known))
        for argument in prompt.arguments or []:
            if argument.required and argument.name not in (arguments or {}):
                raise protocol_error(InvalidRequest(f"the argument {argument.name} is missing"))
        return await super().get_prompt(name, arguments, context)

    async def _known(self, tool: str) -> list[str]:
        """The names of a tool's arguments; the tools are static, so they are read once."""
        if not self._arguments:
            self._arguments = {each.name: [*each.input_schema.get("properties", {})] for each in await self.list_tools()}
        known = self._arguments.get(tool)
        if known is None:
            raise _unknown_tool(tool)
        return known

    async def _refuse(self, tool: str, error: IdentityError) -> CallToolResult:
        """Answer a call with an error; the trail knows of it first."""
        error = await self._write_down(error, tool)
        return results.error_answer(error, _correlation_id())

    async def _write_down(self, error: IdentityError, action: str = "") -> IdentityError:
        """See to it that the trail has a refusal; what to tell, which is another error where the trail cannot have it.

        Args:
            error: Why the call is refused.
            action: Begins the call where it has not begun; empty to leave it at that.
        """
        try:
            begun = _call.get() or (await self._begin(action) if action and not error.audited else None)
            if begun is not None:
                broker, call = begun
                await broker.refuse(call, error)
        except IdentityError as failed:
            return failed
        except Outdated:
            raise
        except Exception as failed:  # noqa: BLE001 - the SDK would answer with its text
            return _internal("the trail", failed)
        return error


def _of_tool(name: str, error: ToolError) -> IdentityError:
    """What went wrong in a tool, or in its arguments."""
    cause = error.__cause__
    if isinstance(cause, IdentityError):
        return cause
    if isinstance(cause, ValidationError) and not isinstance(error, UnexpectedToolError):
        found = cause.errors(include_input=False, include_url=False, include_context=False)
        # The first part of a place is one of our own names; the rest may be a key that the caller wrote.
        what = "; ".join(dict.fromkeys(f"{each['loc'][0] if each['loc'] else 'arguments'}: {each['msg']}" for each in found))
        return InvalidRequest(f"the arguments do not fit: {what}")
    return _internal(f"the tool {name}", cause)


def _internal(what: str, cause: BaseException | None) -> IdentityError:
    log.error("%s failed unexpectedly", what, exc_info=cause)
    return IdentityError("the server failed; its log knows more")


def _with_headers(_tool: str) -> None:
    """The schema of a tool that takes arguments out of headers: of none."""


def _unknown_tool(name: str) -> MCPError:
    return MCPError(INVALID_PARAMS, f"Unknown tool: {clean_text(name, _NAME_LIMIT)}")


def _unknown_argument(argument: str, known: list[str]) -> InvalidRequest:
    near = get_close_matches(argument[:_NAME_LIMIT], known, n=1)
    hint = f"did you mean {near[0]}?" if near else f"its arguments are: {', '.join(known) or 'none'}"
    return InvalidRequest(f"there is no argument {clean_text(argument, _NAME_LIMIT)!r}; {hint}")


def _correlation_id() -> str:
    begun = _call.get()
    return begun[1].correlation_id if begun else ""


def _tell_when_listed(listed: Callable[[], None]) -> Any:
    async def middleware(ctx: Any, call_next: Callable[[Any], Awaitable[Any]]) -> Any:
        answer = await call_next(ctx)
        if ctx.method == "tools/list":
            listed()
        return answer

    return middleware


@contextmanager
def _without_rich() -> Generator[None]:
    """Keep the SDK from loading rich, with which it would log: it costs start-up time, and the log has its handler."""
    name = "rich.console"
    loaded = sys.modules.get(name)
    sys.modules[name] = None  # pyright: ignore[reportArgumentType] - Python's own way to say that there is no such module
    try:
        yield
    finally:
        del sys.modules[name]
        if loaded is not None:
            sys.modules[name] = loaded
