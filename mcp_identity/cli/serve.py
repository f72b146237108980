"""`mcp-identity serve`: the MCP server, dispatched before the rest of the command line is loaded.

Start-up is on the person's clock: nothing heavy is imported here, and garbage is not collected while modules load, since
what they build stays.
"""

from __future__ import annotations

import argparse
import gc
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    from mcp_identity.settings import Settings

_EPILOG = """\
An MCP host starts this by itself; `mcp-identity clients install claude-desktop` writes the host's configuration.
Only JSON-RPC goes to stdout; everything else goes to stderr.

examples:
  mcp-identity serve
  mcp-identity serve --workload claude-desktop
"""


def serve(arguments: list[str]) -> NoReturn:
    """Serve MCP until the host ends; does not return.

    Args:
        arguments: What follows `serve` on the command line.
    """
    options = _parser().parse_args(arguments)
    gc.disable()  # `serve_stdio` switches it on again, once everything is imported
    from mcp_identity import __version__
    from mcp_identity.app.stdio import serve_stdio
    from mcp_identity.cli.logs import configure_logging

    configure_logging("WARNING", "human")  # until the settings are read: nothing may log in another way
    workload: str | None = options.workload

    def load() -> Settings:
        from mcp_identity.settings import load_settings

        return load_settings(workload=workload)

    serve_stdio(load, lambda settings: configure_logging(settings.log_level, settings.log_format), version=__version__)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="mcp-identity serve",
        description="Serve identity tools to an MCP host: providers, tokens, consents, API keys, grants.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--transport", choices=["stdio"], default="stdio", help="how the host talks to us (default: stdio)")
    parser.add_argument("--workload", metavar="NAME", help="the agent's name; default: MCP_IDENTITY_WORKLOAD or the host's")
    return parser
