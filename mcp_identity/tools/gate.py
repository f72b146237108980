"""Who may come in over HTTP? Nobody without a bearer that proves who it is, verified with every single request.

One ASGI gate in front of each resource. What it learns goes to two places: a context variable, from which `caller.py` makes
the principal of a call, and the request's user, to which the SDK binds its sessions, so that a session id is worth nothing
to anybody else. The bearer itself goes no further. It is read from the Authorization header and from nowhere else; which
workload of several it speaks for, where those share their tokens, is chosen by the header `Mcp-Identity-Workload`.

Trusts the door in front of it for the peer's address, and the authenticator for everything about bearers.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from functools import lru_cache
from hashlib import sha256
from ipaddress import IPv4Address, ip_address, ip_network
from typing import TYPE_CHECKING

import anyio
from mcp.server.auth.middleware.auth_context import AuthContextMiddleware
from mcp.server.auth.middleware.bearer_auth import AuthenticatedUser, authorization_context
from mcp.server.auth.provider import AccessToken
from mcp.shared.inbound import decode_header_value
from mcp_types.version import HANDSHAKE_PROTOCOL_VERSIONS
from starlette.authentication import AuthCredentials
from starlette.datastructures import Headers

from mcp_identity.domain.credentials import Secret
from mcp_identity.domain.errors import (
    CallerError,
    IdentityError,
    RateLimited,
    StorageError,
    TokenExpired,
    Unauthenticated,
)
from mcp_identity.domain.identity import Principal
from mcp_identity.tools import challenges
from mcp_identity.tools.caller import Arrived, Authenticator, arriving
from mcp_identity.tools.head import Head
from mcp_identity.tools.limits import MOST_COUNTED, Limits, caller_of, group_of
from mcp_identity.tools.metadata import SCOPES, metadata_url
from mcp_identity.tools.scopes import SCOPE_OF, is_allowed, scopes_needed

if TYPE_CHECKING:
    from starlette.responses import Response
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from mcp_identity.domain.clock import Clock
    from mcp_identity.tools.streams import Streams

BEARER_BYTES = 16 * 1024
WORKLOAD_HEADER = "mcp-identity-workload"
SESSION_HEADER = "mcp-session-id"
_BEARER = re.compile(r"bearer +([A-Za-z0-9._~+/-]+=*)", re.IGNORECASE)
_SCHEME = re.compile(r"bearer( .*)?", re.IGNORECASE)
_ANYBODY = ("", "", "")
_SUBSCRIBER_BITS = 64


@dataclass(frozen=True, slots=True)
class _Bearer:
    secret: Secret
    digest: bytes


@dataclass(frozen=True, slots=True)
class Post:
    """What all gates of a server share.

    Attributes:
        authenticator: Verifies bearers; None for a server that asks nobody.
        limits: What is counted.
        base_url: Scheme, host and port of this server, for the addresses in challenges.
        clock: For the end of credentials.
        check_seconds: How often the credential of an open stream is looked at again.
        is_ending: Whether nothing new is begun any more.
    """

    authenticator: Authenticator | None
    limits: Limits
    base_url: str
    clock: Clock
    check_seconds: float
    is_ending: Callable[[], bool]
    known: OrderedDict[bytes, None] = field(default_factory=OrderedDict[bytes, None])
    """Digests of bearers that were good lately: a bad neighbour at the same address does not lock them out."""


class Gate:
    """The gate of one resource."""

    def __init__(self, app: ASGIApp, post: Post, streams: Streams, *, edge: str, resource: str, confirms: bool = True) -> None:
        """Guard an application.

        Args:
            app: What is behind.
            post: What all gates share.
            streams: Keeps the streams that are opened here.
            edge: ``http`` or ``sse``, for the trail.
            resource: The path of the resource that tokens are for, as its metadata names it.
            confirms: Whether those behind have remembered callers confirmed.
        """
        self._confirms = confirms
        self._app = AuthContextMiddleware(app)
        self._post = post
        self._streams = streams
        self._edge = edge
        self._metadata_url = metadata_url(post.base_url, resource)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let one request in, or say why not."""
        headers = Head(scope)
        if self._post.is_ending():
            await challenges.say(challenges.ending(), send)
            return
        if self._post.authenticator is None:
            if _is_of_a_foreign_page(headers):
                await challenges.say(challenges.foreign_page(), send)
                return
            await self._serve(scope, receive, send, headers, Arrived(self._edge, None), anyio.sleep_forever)
            return
        came = self._read_bearer(headers)
        if not isinstance(came, _Bearer):
            await challenges.say(came, send)
            return
        found = await self._arrival(self._post.authenticator, came, headers, scope)
        if not isinstance(found, Arrived):
            await challenges.say(found, send)
            return
        principal = found.principal

        async def expire() -> None:
            if principal is not None:
                await self._until_expired(came.secret, headers, principal)

        await self._serve(scope, receive, send, headers, found, expire)

    async def _arrival(self, authenticator: Authenticator, bearer: _Bearer, headers: Head, scope: Scope) -> Arrived | Response:
        """Who comes, or the answer to somebody whom nobody knows.

        A message may be served on what its bearer proved a moment ago, since the vault confirms that before anything leaves.
        """
        hint = headers.get(WORKLOAD_HEADER, "")
        is_message = self._confirms and scope["method"] == "POST"
        known = authenticator.recall(bearer.secret, edge=self._edge, workload_hint=hint) if is_message else None
        if known is None:
            found = await self._authenticate(authenticator, bearer, headers, source_of(scope))
            return Arrived(self._edge, found) if isinstance(found, Principal) else found
        principal, remembered = known
        refusal = self._admit(headers, principal)
        if refusal is not None:
            return refusal

        async def verify() -> Principal:
            try:
                return await authenticator.authenticate(bearer.secret, edge=self._edge, workload_hint=hint)
            except CallerError as error:
                self._note_failure(error, bearer.digest, source_of(scope))
                raise

        return Arrived(self._edge, principal, remembered, verify)

    def _read_bearer(self, headers: Head) -> _Bearer | Response:
        """The bearer of a request, or the answer to one that brings none."""
        given = headers.all("authorization")
        if len(given) > 1:
            return challenges.malformed("one Authorization header, and no more")
        if not given or _SCHEME.fullmatch(given[0]) is None:
            return challenges.unauthenticated(self._metadata_url, SCOPES, None)
        found = _BEARER.fullmatch(given[0])
        if found is None or len(found[1]) > BEARER_BYTES:
            return challenges.unauthenticated(self._metadata_url, SCOPES, Unauthenticated(challenges.REFUSED))
        return _Bearer(Secret(found[1]), sha256(found[1].encode()).digest())

    async def _authenticate(
        self, authenticator: Authenticator, bearer: _Bearer, headers: Head, source: str
    ) -> Principal | Response:
        """Whom the bearer proves, or the answer to one that proves nobody."""
        limits, digest = self._post.limits, bearer.digest
        tried = (("bearer", digest),) if digest in self._post.known else (("bearer", digest), ("source", source))
        if any(limits.failures.is_empty(key) for key in tried):
            limits.refused(RateLimited.code, self._edge, None, source)
            return challenges.too_many(60)
        try:
            principal = await authenticator.authenticate(
                bearer.secret, edge=self._edge, workload_hint=headers.get(WORKLOAD_HEADER, "")
            )
        except CallerError as error:
            self._note_failure(error, digest, source)
            return challenges.unauthenticated(self._metadata_url, SCOPES, error)
        except RateLimited as error:
            limits.refused(error.code, self._edge, None, source)
            return challenges.too_many(error.retry_after_seconds or 1)
        except StorageError as error:
            return challenges.storage(error)
        self._remember(digest)
        return self._admit(headers, principal) or principal

    def _admit(self, headers: Head, principal: Principal) -> Response | None:
        """Count a request of a principal; the answer to one that is too much, or that its token may not make."""
        wait = self._post.limits.requests.take(caller_of(principal))
        if wait:
            self._post.limits.refused(RateLimited.code, self._edge, principal, "")
            return challenges.too_many(wait)
        return self._step_up(headers, principal)

    def _note_failure(self, error: CallerError, digest: bytes, source: str) -> None:
        """Write down and count a bearer that proves nobody."""
        limits = self._post.limits
        limits.refused(error.code, self._edge, None, source)
        self._post.known.pop(digest, None)
        limits.failures.take(("bearer", digest))
        if not isinstance(error, TokenExpired):  # who brings one that was good has guessed nothing
            limits.failures.take(("source", source))

    def _remember(self, digest: bytes) -> None:
        known = self._post.known
        known[digest] = None
        known.move_to_end(digest)
        if len(known) > MOST_COUNTED:
            known.popitem(last=False)

    def _step_up(self, headers: Head, principal: Principal) -> Response | None:
        """403 where the token lacks the scope of what the request's headers name; the SDK refuses headers that lie.

        In versions without these headers the tool itself refuses.
        """
        name = decode_header_value(headers.get("mcp-name", None)) if is_stateless(headers) else None
        if name is None or name not in SCOPE_OF or is_allowed(principal, name):
            return None
        self._post.limits.refused(challenges.INSUFFICIENT_SCOPE, self._edge, principal, "")
        return challenges.insufficient_scope(self._metadata_url, scopes_needed(principal, name))

    async def _until_expired(self, bearer: Secret, headers: Head, principal: Principal) -> None:
        """Return when a bearer has ended: by its own time, or because it proves nobody, or somebody else, any more."""
        post = self._post
        while post.authenticator is not None:
            left = (principal.expires_at - post.clock.now()).total_seconds() if principal.expires_at else post.check_seconds
            if left <= 0:
                return
            await anyio.sleep(min(left, post.check_seconds))
            try:
                again = await post.authenticator.authenticate(
                    bearer, edge=self._edge, workload_hint=headers.get(WORKLOAD_HEADER, "")
                )
            except CallerError:
                return
            except IdentityError:
                continue  # it cannot be known now
            if caller_of(again) != caller_of(principal):
                return

    async def _serve(
        self,
        scope: Scope,
        receive: Receive,
        send: Send,
        headers: Head,
        arrived: Arrived,
        expire: Callable[[], Awaitable[None]],
    ) -> None:
        """Serve a request of a caller who may come in."""
        principal = arrived.principal
        limits, key = self._post.limits, caller_of(principal) if principal else _ANYBODY
        group = group_of(principal) if principal else _ANYBODY
        method, without_sessions = scope["method"], is_stateless(headers)
        # Elsewhere the SDK does not look at the header, so what stands in it is no session.
        has_sessions = self._edge == "http" and not without_sessions
        session = headers.get(SESSION_HEADER, "") if has_sessions else ""
        opens = has_sessions and method == "POST" and not session
        streams = method == "GET" or (without_sessions and headers.get("mcp-method", "") == "subscriptions/listen")
        with (limits.streams if streams else limits.answering).hold(key, group) as has_room:
            if not has_room or (opens and not limits.sessions.has_room(key)):
                limits.refused(RateLimited.code, self._edge, principal, source_of(scope))
                await challenges.say(challenges.too_many(1), send)
                return

            async def send_noting(message: Message) -> None:
                if message["type"] == "http.response.start":
                    self._note_session(key, method, session, message)
                await send(message)

            telling = send_noting if has_sessions else send
            with arriving(arrived):
                inside = request_inside(scope, principal)
                if streams:
                    await self._streams.serve(self._app, inside, receive, telling, expire)
                else:
                    await self._app(inside, receive, telling)

    def _note_session(self, key: tuple[str, str, str], method: str, session: str, answer: Message) -> None:
        """Keep count of a caller's sessions, by what the SDK answers."""
        sessions, status = self._post.limits.sessions, answer["status"]
        if session and (status == 404 or method == "DELETE"):  # noqa: PLR2004 - HTTP's own: there is no such session
            sessions.forget(key, session)
        elif status < 400:  # noqa: PLR2004 - below are HTTP's successes
            begun = Headers(raw=list(answer.get("headers", ()))).get(SESSION_HEADER, "")
            if session or begun:
                sessions.note(key, session or begun)


class Guesses:
    """Stops who redeems what is not theirs, by address and by principal; behind a gate."""

    def __init__(self, limits: Limits) -> None:
        """Count with the failures of bearers."""
        self._limits = limits

    def before(self, app: ASGIApp) -> ASGIApp:
        """The application, for whoever has not failed too often."""

        async def stopped(scope: Scope, receive: Receive, send: Send) -> None:
            if any(self._limits.failures.is_empty(key) for key in self._keys(scope)):
                self._limits.refused(RateLimited.code, "http", None, source_of(scope))
                await challenges.say(challenges.too_many(60), send)
                return
            await app(scope, receive, send)

        return stopped

    def count(self, scope: Scope) -> None:
        """A redemption has failed."""
        for key in self._keys(scope):
            self._limits.failures.take(key)

    def _keys(self, scope: Scope) -> tuple[tuple[str, object], ...]:
        caller = authorization_context(scope["user"])
        return ("redeemer", tuple(caller.values())), ("redeemer at", source_of(scope))


def is_stateless(headers: Head) -> bool:
    """Whether a request is of a protocol version without sessions, as the SDK tells them apart."""
    version = headers.get("mcp-protocol-version", None)
    return version is not None and version not in HANDSHAKE_PROTOCOL_VERSIONS


def _is_of_a_foreign_page(headers: Head) -> bool:
    """Whether a browser says that somebody else's page makes it ask, without an Origin: that page is on no list of ours."""
    return "origin" not in headers and headers.get("sec-fetch-site", "") in ("cross-site", "same-site")


def source_of(scope: Scope) -> str:
    """Where a request came from, as the door has found it: an address; of IPv6 the network, which is one subscriber's."""
    client = scope.get("client")
    return _subscriber(str(client[0])) if client else ""


@lru_cache(maxsize=1024)  # the same few callers come again and again
def _subscriber(host: str) -> str:
    try:
        address = ip_address(host.partition("%")[0])
    except ValueError:
        return host
    if isinstance(address, IPv4Address) or address.is_loopback:
        return str(address)
    return str(address.ipv4_mapped or ip_network((address, _SUBSCRIBER_BITS), strict=False))


def request_inside(scope: Scope, principal: Principal | None) -> Scope:
    """The request as those behind see it: with its principal, to which the SDK binds sessions, and without the bearer."""
    if principal is None:
        user, credentials = _known_to_the_sdk("", "", "", frozenset[str]())
    else:
        scopes = principal.tool_scopes or frozenset[str]()
        user, credentials = _known_to_the_sdk(principal.tenant, principal.workload.id, principal.user_key, scopes)
    headers = [header for header in scope["headers"] if header[0] != b"authorization"]
    return {**scope, "headers": headers, "user": user, "auth": credentials}


@lru_cache(maxsize=4096)  # a caller comes with many requests
def _known_to_the_sdk(
    tenant: str, workload_id: str, user_key: str, scopes: frozenset[str]
) -> tuple[AuthenticatedUser, AuthCredentials]:
    """A principal, or nobody in particular, in the SDK's words."""
    access = AccessToken(
        token="",
        client_id=f"{tenant}/{workload_id}" if tenant else "loopback",
        scopes=sorted(scopes),
        subject=user_key or None,
        claims={"iss": tenant} if tenant else None,
    )
    return AuthenticatedUser(access), AuthCredentials(access.scopes)
