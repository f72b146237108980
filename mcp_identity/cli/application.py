"""Which commands are there? They are put together here; each noun has a module of its own."""

from __future__ import annotations

from typing import Annotated

import typer

from mcp_identity.cli import (
    access_keys,
    audit,
    calls,
    catalog,
    clients,
    connect,
    doctor,
    grants,
    init,
    issuers,
    keys,
    providers,
    tokens,
    vault,
    workloads,
)
from mcp_identity.cli.failures import Commands
from mcp_identity.cli.options import TENANT_HELP, USER_HELP, WORKLOAD_HELP, Globals, examples, globals_of
from mcp_identity.domain.errors import InvalidRequest
from mcp_identity.domain.identity import DEFAULT_TENANT, NAME_RULE, is_name

application = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog=examples(
        "mcp-identity init",
        "mcp-identity providers add github-work --vendor github --client-id ID --release token",
        "mcp-identity clients install claude-desktop",
        "mcp-identity connect github-work --workload claude-desktop",
    ),
)


def _show_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"mcp-identity {version('mcp-identity')}")
        raise typer.Exit


@application.callback()
def root(
    context: typer.Context,
    workload: Annotated[str | None, typer.Option("--workload", metavar="NAME", help=WORKLOAD_HELP)] = None,
    user: Annotated[str | None, typer.Option("--user", metavar="NAME", help=USER_HELP)] = None,
    tenant: Annotated[str, typer.Option("--tenant", metavar="NAME", help=TENANT_HELP)] = DEFAULT_TENANT,
    _version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Identity for AI agents: OAuth tokens and API keys from an encrypted vault, over the Model Context Protocol.

    Exit status: 0 done, 1 failed, 2 usage, 74 storage, 78 configuration.
    """
    if not is_name(tenant):
        raise InvalidRequest(f"the tenant is no name: {NAME_RULE}")
    context.obj = Globals(workload, user, tenant)


@application.command(
    add_help_option=False,
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
)
def serve(context: typer.Context) -> None:
    """Serve MCP: over stdio to the host that starts this, or over HTTP to many callers."""
    from mcp_identity.cli.serve import serve as begin

    given = globals_of(context)
    if given.user:
        raise InvalidRequest("serve takes its user from MCP_IDENTITY_USER, not from --user")
    if given.tenant != DEFAULT_TENANT:
        raise InvalidRequest(
            "serve takes no tenant: over HTTP a caller's credential says which, over stdio it is the local one"
        )
    begin([*(["--workload", given.workload] if given.workload else []), *context.args])


application.command("init", epilog=init.EXAMPLES)(init.init)
application.command("doctor", epilog=doctor.EXAMPLES)(doctor.doctor)
application.add_typer(catalog.commands, name="catalog")
application.add_typer(providers.commands, name="providers")
application.add_typer(issuers.commands, name="issuers")
application.add_typer(workloads.commands, name="workloads")
application.add_typer(access_keys.commands, name="access-keys")
application.command("connect", epilog=connect.EXAMPLES)(connect.connect)
application.command("token", epilog=tokens.EXAMPLES)(tokens.token)
application.command("call", epilog=calls.EXAMPLES)(calls.call)
application.add_typer(grants.commands, name="grants")
application.add_typer(audit.commands, name="audit")
application.add_typer(keys.commands, name="keys")
application.add_typer(vault.commands, name="vault")
application.add_typer(clients.commands, name="clients")
