# pyright: basic
# The stock SDK is used as its own examples use it; its types are not strict.
r"""What does an agent look like that was written for Amazon Bedrock AgentCore? This one: nothing in it knows of mcp-identity.

It reads the user's notes. Where it may not yet, the stock decorator gets the link to the consent, which goes to the user as
the first event of the answer; the decorator waits until the user has agreed, and then the notes come.

    BEDROCK_AGENTCORE_DP_ENDPOINT=http://127.0.0.1:8000 BEDROCK_AGENTCORE_CP_ENDPOINT=http://127.0.0.1:8000 \
    AWS_REGION=us-east-1 AWS_ACCESS_KEY_ID=… AWS_SECRET_ACCESS_KEY=… NOTES_URL=… python examples/runtime_shim/agent.py

The access key is the workload's. `POLL_SECONDS` shortens the SDK's wait between two looks, for demonstrations.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import threading
from collections.abc import AsyncGenerator
from contextlib import suppress
from typing import Any

import httpx2
import uvicorn
from bedrock_agentcore import BedrockAgentCoreApp
from bedrock_agentcore.identity import requires_access_token
from bedrock_agentcore.services import identity
from botocore.exceptions import ClientError

app = BedrockAgentCoreApp()


async def read_notes(tell: Any, state: str) -> dict[str, Any]:
    """Read the user's notes, with the user's own token.

    Args:
        tell: Is given the link, if the user has to agree first.
        state: The application's word for this one link; it comes back with the browser.
    """

    @requires_access_token(
        provider_name="notes",
        scopes=["read"],
        auth_flow="USER_FEDERATION",
        on_auth_url=tell,
        custom_state=state,
    )
    async def read(*, access_token: str) -> dict[str, Any]:
        async with httpx2.AsyncClient(timeout=10) as http:
            answer = await http.get(os.environ["NOTES_URL"], headers={"Authorization": f"Bearer {access_token}"})
        if answer.is_error:
            return {"error": f"NotesAnswered{answer.status_code}"}
        found = answer.json()
        return {"answer": f"I can {' and '.join(found['scopes'])} the notes of {found['username']}."}

    return await read(access_token="")  # the decorator puts it in


@app.entrypoint
async def invoke(payload: dict[str, Any]) -> AsyncGenerator[dict[str, Any]]:
    """Answer one question; a link to a consent goes out at once, and the answer when there is one."""
    events: asyncio.Queue[dict[str, Any] | None] = asyncio.Queue()

    async def work() -> None:
        try:
            await events.put(await read_notes(lambda url: events.put_nowait({"consent_url": url}), payload["state"]))
        except ClientError as error:  # the modelled errors of the service: they say what is the matter
            await events.put({"error": error.response["Error"]["Code"], "message": error.response["Error"]["Message"]})
        finally:
            await events.put(None)

    working = asyncio.create_task(work())
    try:
        while (event := await events.get()) is not None:
            yield event
        await working
    finally:
        working.cancel()  # the user has gone, so nobody waits for the consent any more


def main() -> None:
    """Serve on this machine, until interrupted, or until standard input closes if asked to."""
    parser = argparse.ArgumentParser(description="An agent on 127.0.0.1.")
    parser.add_argument("--port", type=int, default=0, help="0 takes a free one")
    parser.add_argument("--stop-when-input-ends", action="store_true", help="exit when standard input closes")
    options = parser.parse_args()
    if wait := os.environ.get("POLL_SECONDS"):
        identity.DEFAULT_POLLING_INTERVAL_SECONDS = float(wait)  # type: ignore[assignment]
    config = uvicorn.Config(app, "127.0.0.1", options.port, log_level="error")
    socket = config.bind_socket()
    socket.listen()  # whoever reads the line below may come at once
    if options.stop_when_input_ends:
        threading.Thread(target=lambda: (sys.stdin.buffer.read(), os._exit(0)), daemon=True).start()
    print(json.dumps({"url": f"http://127.0.0.1:{socket.getsockname()[1]}"}), flush=True)
    with suppress(KeyboardInterrupt):
        uvicorn.Server(config).run(sockets=[socket])


if __name__ == "__main__":
    main()
