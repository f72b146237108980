"""What can a server of this SDK do at best? A plain `MCPServer` with one tool: our `get_token`, without any of the work.

    python -m kit.noop stdio|http|sse PORT < /dev/null

The tool has the arguments and the result schema of ours, and gives the same answer, which stands in the environment. It asks
nobody who they are, opens nothing and keeps nothing. The SDK serves it in its own way, with its own defaults.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Annotated

from mcp.server import MCPServer
from mcp.types import CallToolResult, TextContent

from mcp_identity.tools.arguments import (
    Audience,
    CustomState,
    Flow,
    Lifetime,
    Parameters,
    Provider,
    Resource,
    ReturnUrl,
    Scopes,
    SessionUri,
)
from mcp_identity.tools.results import TokenResult

ANSWER = "NOOP_ANSWER"
"""The variable with the structured result, as JSON."""


def build() -> MCPServer:
    """The server."""
    given = json.loads(os.environ[ANSWER])
    server = MCPServer("noop", log_level="ERROR")

    @server.tool(title="Get an access token")
    async def get_token(  # pyright: ignore[reportUnusedFunction]
        provider: Provider,
        scopes: Scopes = [],  # noqa: B006 - the schema's default; never changed
        flow: Flow = "",
        resource: Resource = "",
        audience: Audience = "",
        minimum_lifetime_seconds: Lifetime = None,
        session_uri: SessionUri = "",
        return_url: ReturnUrl = "",
        custom_state: CustomState = "",
        custom_parameters: Parameters = {},  # noqa: B006 - likewise
    ) -> Annotated[CallToolResult, TokenResult]:
        del provider, scopes, flow, resource, audience, minimum_lifetime_seconds, session_uri, return_url
        del custom_state, custom_parameters
        return CallToolResult(content=[TextContent(type="text", text=json.dumps(given))], structured_content=given)

    return server


def main() -> None:
    """Serve until killed."""
    server = build()
    match sys.argv[1]:
        case "http":
            server.run("streamable-http", port=int(sys.argv[2]))
        case "sse":
            server.run("sse", port=int(sys.argv[2]))
        case _:
            server.run()


if __name__ == "__main__":
    main()
