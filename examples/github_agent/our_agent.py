"""The developer agent as it is written with our own client: one decorator, and a web application of any kind.

Nobody keeps a token here, and nobody signs in by hand: the vault has the token, or the decorator shows the link and goes on
when the user has agreed. Whose token it is comes from the bearer that the user's own request brings.

    MCP_IDENTITY_URL=http://127.0.0.1:8000 MCP_IDENTITY_WORKLOAD_KEY=… GITHUB_API=… python examples/github_agent/our_agent.py

The key is the workload's, of `mcp-identity workloads issue-key NAME`: it proves that this is the agent.
"""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Callable
from contextvars import ContextVar
from typing import Any

import anyio
from serving import serve
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import StreamingResponse
from starlette.routing import Route
from tools import answer

from mcp_identity import IdentityClientError, acting_for, requires_access_token

_tell: ContextVar[Callable[[dict[str, Any]], None]] = ContextVar("tell")


def show_link(url: str) -> None:
    """Show the user where to agree."""
    _tell.get()({"says": "Authentication required: please connect GitHub first.", "authorization_url": url})


@requires_access_token(
    provider_name="github-provider", scopes=["repo", "read:user"], auth_flow="USER_FEDERATION", on_auth_url=show_link
)
async def work(question: str, *, access_token: str = "") -> str:
    """Answer a question."""
    return await answer(question, access_token)


async def invoke(request: Request) -> StreamingResponse:
    """Answer one question; what there is to say before the answer goes out at once."""
    bearer, question = request.headers.get("authorization", "").removeprefix("Bearer "), (await request.json())["question"]
    send, receive = anyio.create_memory_object_stream[dict[str, Any]](8)

    async def worker() -> None:
        with send:
            _tell.set(send.send_nowait)
            try:
                with acting_for(bearer):
                    send.send_nowait({"answer": await work(question)})
            except IdentityClientError as error:
                send.send_nowait({"error": error.code, "message": error.message})

    async def events() -> AsyncGenerator[bytes]:
        async with anyio.create_task_group() as tasks, receive:
            tasks.start_soon(worker)
            async for event in receive:
                yield f"data: {json.dumps(event)}\n\n".encode()

    return StreamingResponse(events(), media_type="text/event-stream")


if __name__ == "__main__":
    serve(Starlette(routes=[Route("/invocations", invoke, methods=["POST"])]))
