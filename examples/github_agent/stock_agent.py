# pyright: basic
# The stock SDK is used as its own examples use it; its types are not strict.
r"""The developer agent as it is written for Amazon Bedrock AgentCore: nothing in it knows of mcp-identity.

The first question of a session finds no token, so the answer is "authentication required"; then the decorated function sends
the user through GitHub, and the question is asked once more. What the session got is kept for the session, as the SDK's own
sample does; the token's home is the vault.

    BEDROCK_AGENTCORE_DP_ENDPOINT=http://127.0.0.1:8000 BEDROCK_AGENTCORE_CP_ENDPOINT=http://127.0.0.1:8000 \
    AWS_REGION=us-east-1 AWS_ACCESS_KEY_ID=… AWS_SECRET_ACCESS_KEY=… GITHUB_API=… python examples/github_agent/stock_agent.py

`POLL_SECONDS` shortens the SDK's wait between two looks, for demonstrations.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, Callable
from contextvars import ContextVar
from typing import Any

from bedrock_agentcore import BedrockAgentCoreApp
from bedrock_agentcore.identity import requires_access_token
from bedrock_agentcore.runtime.context import RequestContext
from bedrock_agentcore.services import identity
from botocore.exceptions import ClientError
from serving import serve
from tools import AuthenticationRequired, answer

app = BedrockAgentCoreApp()
tokens: dict[str, str] = {}
"""By session, which the runtime names and which is one user's."""
_tell: ContextVar[Callable[[dict[str, Any]], None]] = ContextVar("tell")


def show_link(url: str) -> None:
    """Show the user where to agree."""
    _tell.get()({"authorization_url": url})


@requires_access_token(
    provider_name="github-provider",
    scopes=["repo", "read:user"],
    auth_flow="USER_FEDERATION",
    on_auth_url=show_link,
    force_authentication=True,
)
async def sign_in_to_github(*, access_token: str) -> str:
    """Send the user through GitHub."""
    return access_token


async def work(question: str, session: str) -> str:
    """Answer a question; where GitHub is not connected yet, connect it and try again."""
    try:
        return await answer(question, tokens.get(session, ""))
    except AuthenticationRequired:
        _tell.get()({"says": "Authentication required: please connect GitHub first."})
        tokens[session] = await sign_in_to_github(access_token="")  # the decorator puts it in
        return await answer(question, tokens[session])


@app.entrypoint
async def invoke(payload: dict[str, Any], context: RequestContext) -> AsyncGenerator[dict[str, Any]]:
    """Answer one question; what there is to say before the answer goes out at once."""
    events: asyncio.Queue[dict[str, Any] | None] = asyncio.Queue()
    _tell.set(events.put_nowait)

    async def worker() -> None:
        try:
            events.put_nowait({"answer": await work(payload["question"], context.session_id or "")})
        except ClientError as error:  # the modelled errors of the service: they say what is the matter
            events.put_nowait({"error": error.response["Error"]["Code"], "message": error.response["Error"]["Message"]})
        finally:
            events.put_nowait(None)

    working = asyncio.create_task(worker())
    try:
        while (event := await events.get()) is not None:
            yield event
        await working
    finally:
        working.cancel()


if __name__ == "__main__":
    if wait := os.environ.get("POLL_SECONDS"):
        identity.DEFAULT_POLLING_INTERVAL_SECONDS = float(wait)  # type: ignore[assignment]
    serve(app)
