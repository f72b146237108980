"""The operator edge: `mcp-identity <noun> <verb>`, for people and their scripts."""

from __future__ import annotations

import sys

INTERRUPTED = 130
"""The exit status of a program that Ctrl-C ended, as shells count it."""


def main() -> None:
    """Run the console script; `serve` before anything else is loaded, since a host waits for it."""
    try:
        arguments = sys.argv[1:]
        if arguments[:1] == ["serve"]:
            from mcp_identity.cli.serve import serve

            serve(arguments[1:])
        from mcp_identity.cli.application import application

        application(prog_name="mcp-identity")
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
