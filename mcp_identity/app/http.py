"""The HTTP server, put together: one application for Streamable HTTP, SSE, browsers and supervisors.

From the outside in: the door, the access log, the routes, and a gate before everything that acts for a caller. The graph runs
for as long as the application does, in the ASGI lifespan and never in the MCP server's own, which SSE enters once for each
connection.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import anyio
from mcp.server.transport_security import TransportSecuritySettings
from starlette.applications import Starlette
from starlette.routing import Route

from mcp_identity import app
from mcp_identity.agentcore.gate import Gate as AgentCoreGate
from mcp_identity.agentcore.operations import Edge
from mcp_identity.agentcore.routes import PREFIX, agentcore_routes
from mcp_identity.app.access_log import AccessLog
from mcp_identity.app.door import Door, DoorRules
from mcp_identity.domain.errors import IdentityError
from mcp_identity.inbound.login import Logins
from mcp_identity.inbound.signers import Signers
from mcp_identity.tools import limits
from mcp_identity.tools.caller import Caller, HttpCaller, Local, LoopbackCaller
from mcp_identity.tools.gate import Gate, Guesses, Post, source_of
from mcp_identity.tools.malformed import Unrepeated
from mcp_identity.tools.metadata import metadata_routes, metadata_url
from mcp_identity.tools.releases import Releases
from mcp_identity.tools.server import build_server
from mcp_identity.tools.streams import Streams
from mcp_identity.web.application import own_origins, web_routes
from mcp_identity.web.health import Readiness, health_routes
from mcp_identity.web.identity import identity_routes

if TYPE_CHECKING:
    from mcp.server import MCPServer
    from starlette.routing import BaseRoute
    from starlette.types import ASGIApp, Receive, Scope, Send

    from mcp_identity.app.ending import Ending
    from mcp_identity.broker.broker import Broker
    from mcp_identity.domain.clock import Clock
    from mcp_identity.domain.identity import Principal
    from mcp_identity.settings import Settings
    from mcp_identity.tools.caller import Authenticator
    from mcp_identity.tools.edge import IdentityServer

MCP_PATH, SSE_PATH, MESSAGES_PATH, RELEASES_PATH = "/mcp", "/sse", "/messages/", "/v1/releases"
_SWEEP_SECONDS = 15.0


@dataclass(frozen=True, slots=True)
class Site:
    """How a server is reached, and what it serves.

    Attributes:
        rules: Of the door.
        authenticator: Verifies bearers; None where nobody is asked, on this machine alone.
        sse: Whether SSE is served, too.
        issues_identity_tokens: Whether others can fetch the keys of our identity tokens.
        version: Of the product.
        admin: Whether there are tools for operators.
        allow_http_loopback: Providers that are made over an API may be http on a loopback address.
    """

    rules: DoorRules
    authenticator: Authenticator | None
    sse: bool
    issues_identity_tokens: bool
    version: str
    admin: bool = False
    allow_http_loopback: bool = False


def application(prepared: app.Prepared, site: Site, ending: Ending) -> ASGIApp:
    """Make the application of a prepared graph, whose setting `public_url` is the address in force.

    Args:
        prepared: Runs while the application does.
        site: How it is reached.
        ending: Says when to end.
    """
    settings, broker, clock = prepared.graph.settings, prepared.graph.broker, prepared.clock
    counted = _limits(settings, clock, broker)
    caller = _caller(prepared, site, counted)
    server = build_server(
        caller,
        version=site.version,
        remote=site.authenticator is not None,
        issues_identity_tokens=site.issues_identity_tokens,
        admin=site.admin,
        allow_http_loopback=site.allow_http_loopback,
    )
    server.middleware.insert(0, ending.count)
    post = Post(
        site.authenticator, counted, settings.public_url, clock, settings.stream_check_seconds, lambda: ending.has_begun
    )
    streams, sse_streams = Streams(), Streams()
    resources = (MCP_PATH, SSE_PATH) if site.sse else (MCP_PATH,)
    routes: list[BaseRoute] = [
        *_http_routes(server, settings, post, streams),
        *(_sse_routes(server, settings, post, sse_streams) if site.sse else ()),
        *(_release_routes(caller, post, streams) if site.authenticator else ()),
        *(_agentcore_routes(prepared, site, site.authenticator, counted, post) if site.authenticator else ()),
        *metadata_routes(settings.public_url, resources, broker.callers.issuers),
        *(identity_routes(broker) if site.issues_identity_tokens else ()),
        *_page_routes(prepared, site),
        *health_routes(Readiness(clock, lambda: prepared.vault.run(lambda _records: None), lambda: ending.has_begun)),
    ]

    @contextlib.asynccontextmanager
    async def lifespan(_application: Starlette) -> AsyncGenerator[None]:
        async with app.running(prepared, ending.seconds_left):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(broker.refusals.run)
                tasks.start_soon(_sweep, broker)
                tasks.start_soon(_end_streams, ending, streams, sse_streams)
                async with server.session_manager.run():
                    yield
                tasks.cancel_scope.cancel()
            await broker.refusals.write()

    inside = Starlette(routes=routes, lifespan=lifespan)
    inside.router.redirect_slashes = False  # it would build a URL from the Host header
    return Door(AccessLog(_Messages(routes, inside), clock), site.rules)


def _caller(prepared: app.Prepared, site: Site, counted: limits.Limits) -> Caller:
    graph = prepared.graph
    if site.authenticator is None:
        return LoopbackCaller(Local(graph.broker, graph.user, graph.settings.workload), counted)
    return HttpCaller(graph.broker, site.authenticator, counted)


def _limits(settings: Settings, clock: Clock, broker: Broker) -> limits.Limits:
    def refused(code: str, edge: str, principal: Principal | None, source: str) -> None:
        # One kind for all credentials of a principal, or each new token would be a kind of its own.
        who = None
        if principal:
            who = replace(principal, tool_scopes=None, credential_id="", expires_at=None, may_assert_users=False, signed_by="")
            who = replace(who, subject_token=None)  # it is kept for a while, and a token must not be
        broker.refusals.note(code, edge=edge, source=source, principal=who)

    return limits.Limits(
        calls=limits.Buckets(clock, settings.calls_per_second),
        requests=limits.Buckets(clock, settings.requests_per_second),
        failures=limits.per_minute(clock, settings.failed_authentications_per_minute),
        answering=limits.Room(settings.concurrent_requests, settings.concurrent_requests_per_principal),
        running=limits.Room(settings.concurrent_requests, settings.concurrent_requests_per_principal),
        streams=limits.Room(settings.connections, settings.streams_per_principal),
        sessions=limits.Sessions(clock, settings.sessions_per_principal, settings.session_idle_seconds),
        refused=refused,
    )


_OFF = TransportSecuritySettings(enable_dns_rebinding_protection=False)
"""The door looks at Host and Origin, for every route and not for the SDK's alone."""


class _Messages:
    """What agents send goes straight to where it is for; everything else is the router's to find."""

    def __init__(self, routes: Sequence[BaseRoute], others: ASGIApp) -> None:
        paths = (MCP_PATH, MESSAGES_PATH)
        found = [each for each in routes if isinstance(each, Route) and (each.path in paths or each.path.startswith(PREFIX))]
        self._routes = {route.path: route for route in found}
        self._others = others

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        route = self._routes.get(scope.get("path", "")) if scope.get("method") == "POST" else None
        if route is None:
            await self._others(scope, receive, send)
            return
        scope["route"] = route
        await route.app(scope, receive, send)


class _SessionManager:
    """The SDK's Streamable HTTP as an ASGI application: a route takes an instance as it is."""

    def __init__(self, server: MCPServer) -> None:
        self._server = server

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._server.session_manager.handle_request(scope, receive, send)


def _http_routes(server: IdentityServer, settings: Settings, post: Post, streams: Streams) -> list[Route]:
    server.streamable_http_app(  # makes the session manager
        json_response=False,  # or progress is lost, and a call goes on when its client has gone
        max_request_body_size=settings.body_bytes,
        session_idle_timeout=settings.session_idle_seconds,
        max_sessions=settings.sessions,
        transport_security=_OFF,
    )
    gate = Gate(Unrepeated(_SessionManager(server)), post, streams, edge="http", resource=MCP_PATH)
    return [Route(MCP_PATH, gate)]


def _sse_routes(server: IdentityServer, settings: Settings, post: Post, streams: Streams) -> list[Route]:
    sse = server.sse_app(
        sse_path=SSE_PATH,
        message_path=MESSAGES_PATH,
        max_request_body_size=settings.body_bytes,
        transport_security=_OFF,
    )
    gate = Gate(sse, post, streams, edge="sse", resource=SSE_PATH)
    opening = Route(SSE_PATH, gate, methods=["GET"])
    opening.methods = {"GET"}  # Starlette would add HEAD, for which the SDK would open a session
    return [opening, Route(MESSAGES_PATH, gate, methods=["POST"])]


def _release_routes(caller: Caller, post: Post, streams: Streams) -> list[Route]:
    """Where agent code redeems a handle; who guesses handles is stopped, whatever its own bearer is worth."""
    guesses = Guesses(post.limits)
    releases = Releases(caller.begin, guesses.count, metadata_url(post.base_url, ""))
    return [Route(RELEASES_PATH, Gate(guesses.before(releases), post, streams, edge="http", resource="", confirms=False))]


def _agentcore_routes(
    prepared: app.Prepared, site: Site, authenticator: Authenticator, counted: limits.Limits, post: Post
) -> list[Route]:
    """Where clients of Amazon Bedrock AgentCore Identity ask; counted together with everybody else."""
    broker, clock = prepared.graph.broker, prepared.clock
    edge = Edge(broker, authenticator, clock, allow_http_loopback=site.allow_http_loopback)
    gate = AgentCoreGate(
        signatures=Signers(prepared.vault, clock, site.rules.hosts),
        verifier=authenticator,
        limits=counted,
        refusals=broker.refusals,
        source_of=source_of,
        is_ending=post.is_ending,
    )
    return agentcore_routes(edge, gate, prepared.entropy, body_bytes=prepared.graph.settings.body_bytes)


def _page_routes(prepared: app.Prepared, site: Site) -> list[Route]:
    """The pages for browsers: consents, callbacks and sign-ins."""
    public_url, clock, entropy = prepared.graph.settings.public_url, prepared.clock, prepared.entropy
    logins = Logins(prepared.vault, prepared.transport, clock, entropy, public_url)
    return web_routes(
        prepared.graph.broker,
        logins,
        prepared.graph.broker.portal,
        allowed_hosts=site.rules.hosts,
        origins=own_origins(public_url),
        clock=clock,
        entropy=entropy,
    )


async def _sweep(broker: Broker) -> None:
    """End the consents, sign-ins and handles that nobody will finish."""
    while True:
        with contextlib.suppress(IdentityError):  # it cannot be done now
            await broker.sweep()
        await anyio.sleep(_SWEEP_SECONDS)


async def _end_streams(ending: Ending, streams: Streams, sse_streams: Streams) -> None:
    """End the streams when the server ends; those of SSE when they have brought the answers that are under way."""
    await ending.begun.wait()
    streams.end()
    await ending.wait_for_answers()
    sse_streams.end()
