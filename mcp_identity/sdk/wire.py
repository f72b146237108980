"""How does a call go over HTTP, and what does a failure below MCP mean?

One pool of connections serves every caller: the bearer belongs to a request, not to a connection, in the protocol version
without sessions. It is put on the request here, from the context of the call that sends it. A request that fails is answered
by a response of our own making, so that the failure is this call's alone and the others on the same MCP connection go on.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from http.cookiejar import DefaultCookiePolicy
from typing import Any

import httpx2

from mcp_identity.domain.errors import clean_text
from mcp_identity.sdk.endpoint import Remote, Who
from mcp_identity.sdk.errors import BAD_ANSWER, NOT_CONFIGURED, TIMED_OUT, UNREACHABLE, failure

WORKLOAD_HEADER = "mcp-identity-workload"
CONNECT_SECONDS = 10.0
READ_SECONDS = 90.0
"""How long an answer may be silent; longer than the server ever waits for a user."""
_JSON = "application/json"


@dataclass(slots=True)
class Sending:
    """A call that is being sent.

    Attributes:
        who: As whom.
        failure: How its request failed below MCP; None where it did not.
        is_lost: Whether the server has it is not known, or known not to be so.
        is_unsent: It has not, for certain.
    """

    who: Who
    failure: dict[str, Any] | None = field(default=None, repr=False)
    is_lost: bool = False
    is_unsent: bool = False


SENDING: ContextVar[Sending] = ContextVar("sending")


class Http(httpx2.AsyncClient):
    """A client that knows whose request it sends, and lets no failed request end more than itself."""

    def __init__(self, place: Remote) -> None:
        """Connect to one server; what the environment says of proxies does not hold for this machine."""
        super().__init__(
            timeout=httpx2.Timeout(CONNECT_SECONDS, read=READ_SECONDS),
            limits=httpx2.Limits(max_connections=256, max_keepalive_connections=64),
            trust_env=not place.is_local,
            verify=place.ssl_context or True,
        )
        # Whatever stands in front of the server sets one for one caller; kept, it would go out with the others' bearers.
        self.cookies.jar.set_policy(DefaultCookiePolicy(allowed_domains=()))

    async def send(
        self,
        request: httpx2.Request,
        *,
        stream: bool = False,
        auth: Any = httpx2.USE_CLIENT_DEFAULT,
        follow_redirects: Any = httpx2.USE_CLIENT_DEFAULT,
    ) -> httpx2.Response:
        """Send a request as its caller; what goes wrong is noted for that caller."""
        sending = SENDING.get()
        if sending.who.bearer:
            request.headers["authorization"] = f"Bearer {sending.who.bearer}"
        if sending.who.workload:
            request.headers[WORKLOAD_HEADER] = sending.who.workload
        try:
            response = await super().send(request, stream=stream, auth=auth, follow_redirects=follow_redirects)
            if not response.is_success or response.headers.get("content-type", "").startswith(_JSON):
                await response.aread()
        except httpx2.RequestError as error:
            note_lost(sending, error)
            return httpx2.Response(503, request=request)
        sending.failure = None if response.is_success else failure_of(response)
        return response


def note_lost(sending: Sending, error: httpx2.RequestError) -> None:
    """Keep what became of a request that got no answer, or none that can be read."""
    sending.is_lost = True
    sending.is_unsent = isinstance(error, httpx2.ConnectError | httpx2.ConnectTimeout | httpx2.PoolTimeout)
    if isinstance(error, httpx2.ReadTimeout | httpx2.WriteTimeout):
        sending.is_lost = False
        sending.failure = failure(TIMED_OUT, "the server did not answer in time", retryable=True)
    elif sending.is_unsent:
        why = clean_text(str(error), 160) or type(error).__name__
        sending.failure = failure(UNREACHABLE, f"the server cannot be reached: {why}", retryable=True)
    else:
        message = f"the connection to the server broke ({type(error).__name__})"
        sending.failure = failure(UNREACHABLE, message, retryable=True)


def failure_of(response: httpx2.Response) -> dict[str, Any] | None:
    """What a status that is no success says; None where the body is an answer of MCP, which says it better."""
    status = response.status_code
    said = json_object(response)
    if "jsonrpc" in said:
        return None
    if said.get("status") == "error":  # of POST /v1/releases
        return dict(said)
    after = response.headers.get("retry-after", "")
    seconds = float(after) if after.isascii() and after.isdecimal() else None
    code, message = said.get("error"), said.get("message")
    if isinstance(code, str) and isinstance(message, str):  # our gate's own words
        return failure(code, message, retryable=status in (429, 503), retry_after_seconds=seconds)
    code, message = _BY_STATUS.get(status, (BAD_ANSWER, f"the server answered with status {status}"))
    return failure(code, message, retryable=status in (429, 502, 503, 504), retry_after_seconds=seconds)


_BY_STATUS: Mapping[int, tuple[str, str]] = {
    401: ("unauthenticated", "the server, or something in front of it, does not believe the bearer"),
    403: ("access_denied", "the server, or something in front of it, refuses this program"),
    404: (NOT_CONFIGURED, "there is no mcp-identity server at this address"),
    421: (NOT_CONFIGURED, "the server does not answer to this name: an operator adds it to MCP_IDENTITY_ALLOWED_HOSTS"),
    429: ("rate_limited", "too many requests"),
    502: (UNREACHABLE, "the server behind the proxy cannot be reached"),
    503: (UNREACHABLE, "the server is not ready"),
    504: (UNREACHABLE, "the server behind the proxy does not answer"),
}


def json_object(response: httpx2.Response) -> dict[str, Any]:
    """The JSON object in a body that was read; an empty one where there is none."""
    try:
        found: Any = json.loads(response.content)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}  # pyright: ignore[reportUnknownVariableType] - it is whatever came


async def redeem(http: Http, place: Remote, handle: str) -> dict[str, Any]:
    """Redeem a handle; once, since the second time would raise an alarm there."""
    response = await http.post(f"{place.origin}/v1/releases", json={"handle": handle})
    said = json_object(response)
    found = SENDING.get().failure
    if found is not None:
        return found
    return said if said.get("status") == "ok" else failure(BAD_ANSWER, "the server's answer to a handle makes no sense")
