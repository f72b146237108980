"""`mcp-identity serve`: the MCP server, dispatched before the rest of the command line is loaded.

Start-up is on the person's clock: nothing heavy is imported here, and garbage is not collected while modules load, since
what they build stays.
"""

from __future__ import annotations

import argparse
import gc
import sys
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    from mcp_identity.settings import Settings

_EPILOG = """\
stdio: an MCP host starts this by itself; `mcp-identity clients install claude-desktop` writes the host's configuration.
Only JSON-RPC goes to stdout; everything else goes to stderr.

http and sse: every caller brings `Authorization: Bearer`, on this machine too: a token of an issuer that you added, or a
workload key; boto3, the AWS CLI and the SDK of AgentCore sign with an access key instead (docs/agentcore.md).
Beyond 127.0.0.1 set MCP_IDENTITY_PUBLIC_URL, and a certificate or a proxy; see docs/reverse-proxy.md.

examples:
  mcp-identity serve
  mcp-identity serve --workload claude-desktop
  mcp-identity serve --toolset admin
  mcp-identity serve --transport http
  mcp-identity serve --transport http --insecure-loopback
  MCP_IDENTITY_PUBLIC_URL=https://identity.example.com MCP_IDENTITY_TRUSTED_PROXIES=10.0.0.5 \\
    mcp-identity serve --transport sse --host 0.0.0.0
"""
_HOST, _PORT = "127.0.0.1", 8000
_HIGHEST_PORT = 65_535
AGENT, ADMIN = "agent", "admin"
"""The toolsets."""


def serve(arguments: list[str]) -> NoReturn:
    """Serve MCP until the host, or a signal, ends it; does not return.

    Args:
        arguments: What follows `serve` on the command line.
    """
    parser = _parser()
    options = parser.parse_args(arguments)
    toolsets = _toolsets(parser, options.toolset)
    if options.transport == "stdio":
        _refuse_network_options(parser, options, toolsets)
    elif options.workload and not options.insecure_loopback:
        parser.error("--workload is for stdio; over HTTP each caller's bearer says which workload it is")
    elif options.trust_local_user and not options.insecure_loopback:
        parser.error("--trust-local-user is for stdio and --insecure-loopback; else nobody over HTTP is this machine's user")
    elif ADMIN in toolsets and options.insecure_loopback:
        parser.error("--toolset admin needs callers who prove who they are; leave --insecure-loopback out, or use stdio")
    gc.disable()  # switched on again once everything is imported
    from mcp_identity import __version__
    from mcp_identity.cli.logs import configure_logging

    configure_logging("WARNING", "human")  # until the settings are read: nothing may log in another way
    workload: str | None = options.workload

    def load() -> Settings:
        from mcp_identity.settings import load_settings

        return load_settings(workload=workload)

    def configure(settings: Settings) -> None:
        configure_logging(settings.log_level, settings.log_format)

    if options.transport == "stdio":
        from mcp_identity.app.stdio import serve_stdio

        serve_stdio(
            load,
            configure,
            version=__version__,
            trust_local_user=options.trust_local_user,
            admin=ADMIN in toolsets,
            allow_http_loopback=options.allow_http_loopback,
        )
    from mcp_identity.app.exposure import HttpOptions
    from mcp_identity.app.http_process import serve_http
    from mcp_identity.app.memory import settle

    given = HttpOptions(
        transport=options.transport,
        host=options.host or _HOST,
        port=_PORT if options.port is None else options.port,
        insecure_loopback=options.insecure_loopback,
        allow_http_loopback=options.allow_http_loopback,
        trust_local_user=options.trust_local_user,
        admin=ADMIN in toolsets,
    )
    settle()
    sys.exit(serve_http(load, configure, given, version=__version__))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="mcp-identity serve",
        description="Serve identity tools to an MCP host: providers, tokens, consents, API keys, grants.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--transport",
        choices=["stdio", "http", "sse"],
        default="stdio",
        help="how callers talk to us: stdio (default), http for Streamable HTTP at /mcp, sse for that and /sse",
    )
    parser.add_argument(
        "--workload", metavar="NAME", help="the agent's name, on stdio; default: MCP_IDENTITY_WORKLOAD or the host's"
    )
    parser.add_argument(
        "--toolset",
        action="append",
        metavar="NAME",
        help="agent (default; always there), or admin for the tools of operators, too: on stdio for whoever starts it, over "
        "HTTP for tokens with the scope identity:admin; several with commas, or repeat it",
    )
    parser.add_argument("--host", help=f"where to listen (default: {_HOST})")
    parser.add_argument("--port", type=_port, help=f"where to listen; 0 for a free port (default: {_PORT})")
    parser.add_argument(
        "--insecure-loopback",
        action="store_true",
        help="on 127.0.0.1, serve your own programs without asking who they are; nothing may be forwarded here",
    )
    parser.add_argument(
        "--allow-http-loopback",
        action="store_true",
        help="let providers made over an API use http:// on a loopback address, for development; on stdio with --toolset admin",
    )
    parser.add_argument(
        "--trust-local-user",
        action="store_true",
        help="on stdio and with --insecure-loopback, believe this machine's user on a vault that other machines share; "
        "a SQLite vault needs no such word",
    )
    return parser


def _toolsets(parser: argparse.ArgumentParser, given: list[str] | None) -> frozenset[str]:
    named = frozenset(name.strip() for each in given or () for name in each.split(","))
    if not named <= {AGENT, ADMIN}:
        parser.error(f"a toolset is one of: {AGENT}, {ADMIN}")
    return named | {AGENT}


def _refuse_network_options(parser: argparse.ArgumentParser, options: argparse.Namespace, toolsets: frozenset[str]) -> None:
    """An option that stdio does not have is a mistake that must not pass in silence."""
    given = {
        "--host": options.host is not None,
        "--port": options.port is not None,
        "--insecure-loopback": options.insecure_loopback,
        "--allow-http-loopback": options.allow_http_loopback and ADMIN not in toolsets,
    }
    for name in (name for name, there in given.items() if there):
        parser.error(f"{name} is for --transport http or sse")


def _port(text: str) -> int:
    if not text.isascii() or not text.isdecimal() or int(text) > _HIGHEST_PORT:
        raise argparse.ArgumentTypeError(f"a port is 0 to {_HIGHEST_PORT}")
    return int(text)
