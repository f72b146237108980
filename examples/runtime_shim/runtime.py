"""What does a runtime do around an agent? It says for whom the agent acts, and lets nobody else say it.

For each invocation: the user's JWT is checked; a workload access token is got for the agent and that user; the agent is
invoked with it in the headers that the stock SDK reads. The agent never sees the JWT, and no header of the caller reaches it:
whoever could send `WorkloadAccessToken` along would choose whom the agent acts for.
"""

from __future__ import annotations

import json
import logging
from collections.abc import AsyncGenerator
from hashlib import sha256
from typing import Any, Protocol

import httpx2
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from .identity import IdentityRefused
from .user_tokens import InvalidToken, User, UserTokens

SESSION_HEADER = "X-Amzn-Bedrock-AgentCore-Runtime-Session-Id"
BODY_BYTES = 64 * 1024
log = logging.getLogger(__name__)


class WorkloadTokens(Protocol):
    """Where workload access tokens come from."""

    async def workload_token(self, user_token: str) -> str:
        """One for the agent and the user of a JWT."""
        ...


class Runtime:
    """Runs one agent for whoever has a token of the company.

    Args:
        users: Says whom a bearer speaks for.
        identity: Gives workload access tokens.
        agent: A client whose base URL is the agent's; nobody else should be able to reach that.
        return_url: Where the application receives browsers after a consent; registered for the workload.
    """

    def __init__(self, *, users: UserTokens, identity: WorkloadTokens, agent: httpx2.AsyncClient, return_url: str) -> None:
        self._users = users
        self._identity = identity
        self._agent = agent
        self._return_url = return_url

    def routes(self) -> list[Route]:
        """Where it serves."""
        return [Route("/invocations", self.invoke, methods=["POST"])]

    async def invoke(self, request: Request) -> Response:
        """Invoke the agent for the user of the bearer, and stream its answer back."""
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        try:
            user = await self._users.verify(token if scheme.lower() == "bearer" else "")
        except InvalidToken as reason:
            log.info("a bearer was refused: %s", reason)
            # One text for every reason: a stranger learns nothing from it.
            return JSONResponse({"error": "unauthenticated"}, 401, {"WWW-Authenticate": "Bearer"})
        body = await _read(request)
        if body is None:
            return JSONResponse({"error": "too much"}, 413)
        try:
            workload_token = await self._identity.workload_token(token)
        except IdentityRefused as refused:
            log.warning("no workload access token: %s", refused.code)
            return JSONResponse({"error": refused.code}, 502 if refused.code == "Unreachable" else 403)
        headers = {
            "Content-Type": "application/json",
            "WorkloadAccessToken": workload_token,
            "OAuth2CallbackUrl": self._return_url,
            SESSION_HEADER: _session_of(user, request.headers.get(SESSION_HEADER, "")),
        }
        return StreamingResponse(self._relay(body, headers), media_type="text/event-stream")

    async def _relay(self, body: bytes, headers: dict[str, str]) -> AsyncGenerator[bytes]:
        """Pass on what the agent says, as it says it: the link to a consent comes long before the answer."""
        try:
            async with self._agent.stream("POST", "/invocations", content=body, headers=headers) as answer:
                if answer.is_error or not answer.headers.get("content-type", "").startswith("text/event-stream"):
                    log.warning("the agent answered with status %d", answer.status_code)
                    yield _event(error="AgentFailed")  # what it said may hold anything
                    return
                async for chunk in answer.aiter_raw():
                    yield chunk
        except httpx2.HTTPError as error:
            log.warning("the agent cannot be reached: %s", type(error).__name__)
            yield _event(error="AgentFailed")


def _session_of(user: User, asked: str) -> str:
    """The agent's conversation. It belongs to its user: whoever guesses another one's id gets an empty one of their own."""
    return sha256(f"{user.issuer}\x00{user.subject}\x00{asked}".encode()).hexdigest()


async def _read(request: Request) -> bytes | None:
    """The body; None if it is too long."""
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > BODY_BYTES:
            return None
    return bytes(body)


def _event(**value: Any) -> bytes:
    return f"data: {json.dumps(value)}\n\n".encode()
