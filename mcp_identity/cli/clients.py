"""`mcp-identity clients`: tell an MCP client how to start us. Opens no vault, and writes no secret."""

from __future__ import annotations

import json as json_format
import re
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from mcp_identity.cli.client_files import (
    CLIENTS,
    WORKLOAD_VARIABLE,
    Client,
    find_client,
    merge,
    read_configuration,
    write_configuration,
)
from mcp_identity.cli.options import examples, globals_of
from mcp_identity.domain.errors import InvalidRequest
from mcp_identity.domain.identity import is_resource_name

commands = typer.Typer(no_args_is_help=True, help="Tell an MCP client how to start us.")

_SERVER_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")

ClientArgument = Annotated[str, typer.Argument(metavar="CLIENT", help=f"One of: {', '.join(CLIENTS)}.")]
AgentOption = Annotated[
    str | None,
    typer.Option("--workload", metavar="NAME", help="What the vault calls this agent; without it the client's name."),
]
ServerOption = Annotated[str, typer.Option("--name", metavar="NAME", help="What the client calls this server.")]
TrustOption = Annotated[
    bool,
    typer.Option(
        "--trust-local-user",
        help="Start us with it: on a vault in PostgreSQL, whoever can start us is one and the same person as you.",
    ),
]


@commands.command(
    epilog=examples(
        "mcp-identity clients install claude-desktop",
        "mcp-identity clients install cursor --workload cursor-work --dry-run",
        "mcp-identity clients install claude-code --project",
        "mcp-identity clients install claude-desktop --trust-local-user",
    )
)
def install(
    context: typer.Context,
    client: ClientArgument,
    workload: AgentOption = None,
    name: ServerOption = "identity",
    trust_local_user: TrustOption = False,
    config: Annotated[
        Path | None, typer.Option("--config", metavar="PATH", help="The client's configuration; without it the usual place.")
    ] = None,
    project: Annotated[bool, typer.Option("--project", help="This folder's configuration instead of your own.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be written, and write nothing.")] = False,
) -> None:
    """Write us into a client's configuration; everything else in it stays, and a backup is made beside it."""
    found = find_client(client)
    path = _path(found, config, project=project)
    snippet = _snippet(context, found, workload, name, trust_local_user=trust_local_user)
    before = read_configuration(path)
    after = merge(before, snippet, path)
    if after == before:
        typer.echo(f"{path} starts us already; nothing was changed.")
        return
    if dry_run:
        typer.echo(f"Would write into {path}:\n\n{_readable(snippet)}")
        return
    backup = write_configuration(path, after)
    typer.echo(f"Wrote {path}{f', backup in {backup}' if backup else ''}.")
    typer.echo(f"Restart {found.title}, so that it reads it.")


@commands.command(epilog=examples("mcp-identity clients show vscode", "mcp-identity clients show claude-desktop"))
def show(
    context: typer.Context,
    client: ClientArgument,
    workload: AgentOption = None,
    name: ServerOption = "identity",
    trust_local_user: TrustOption = False,
) -> None:
    """Print what a client's configuration needs to hold, and write nothing."""
    typer.echo(_readable(_snippet(context, find_client(client), workload, name, trust_local_user=trust_local_user)))


def _path(client: Client, config: Path | None, *, project: bool) -> Path:
    if not project:
        return (config or client.path()).expanduser().absolute()
    if config is not None or not client.project:
        raise InvalidRequest(f"--project goes without --config, and {client.title} must know projects")
    return Path(client.project).absolute()


def _snippet(
    context: typer.Context, client: Client, workload: str | None, name: str, *, trust_local_user: bool
) -> dict[str, Any]:
    from mcp_identity.settings import environment_for_clients

    agent = workload or globals_of(context).workload or client.name
    if not is_resource_name(agent):
        raise InvalidRequest(f"the workload {agent[:64]!r} is no name: a-z, 0-9, dot, dash and underscore")
    if not _SERVER_NAME.fullmatch(name):
        raise InvalidRequest("--name is 1 to 64 letters, digits, dashes and underscores")
    environment = {WORKLOAD_VARIABLE: agent} | environment_for_clients()
    options = ["--trust-local-user"] if trust_local_user else []
    return client.snippet(name, [*_program(), "serve", *options], environment)


def _program() -> list[str]:
    """How to start us by an absolute path: a client has another PATH than a shell."""
    script = Path(sys.executable).parent / ("mcp-identity.exe" if sys.platform == "win32" else "mcp-identity")
    return [str(script)] if script.is_file() else [sys.executable, "-m", "mcp_identity"]


def _readable(snippet: dict[str, Any]) -> str:
    return json_format.dumps(snippet, indent=2)
