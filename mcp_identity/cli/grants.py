"""`mcp-identity grants`: what a principal has been given."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from mcp_identity.cli.options import JsonOption, ProviderArgument, UserOption, WorkloadOption, examples
from mcp_identity.cli.output import local_time, print_json, print_table, say
from mcp_identity.cli.session import principal_of, run, settings_of, tenant_of
from mcp_identity.domain.credentials import Flow

if TYPE_CHECKING:
    from mcp_identity.app import Graph
    from mcp_identity.broker.answers import GrantSummary

commands = typer.Typer(no_args_is_help=True, help="What an agent has been given, without the secrets.")


@commands.command("list", epilog=examples("mcp-identity grants list", "mcp-identity grants list --workload cursor --json"))
def list_(context: typer.Context, json: JsonOption = False, workload: WorkloadOption = None, user: UserOption = None) -> None:
    """List the grants of an agent and its user."""

    async def errand(graph: Graph) -> None:
        principal = await principal_of(graph, tenant_of(context))
        found = await graph.broker.list_grants(graph.broker.call(principal, "list_grants"))
        if json:
            print_json([_object(grant) for grant in found.grants])
        elif found.grants:
            columns = ("provider", "flow", "state", "scopes", "access token until", "refreshable", "account")
            print_table(columns, [_row(grant) for grant in found.grants])
        else:
            say(f"{principal.workload.name} has no grant yet; see: mcp-identity connect --help")
        if found.unreadable:
            say(f"{found.unreadable} more cannot be read: their rows were changed outside the product")

    run(settings_of(context, workload=workload, user=user), errand)


@commands.command(epilog=examples("mcp-identity grants revoke github-work", "mcp-identity grants revoke billing --flow M2M"))
def revoke(
    context: typer.Context,
    provider: ProviderArgument,
    flow: Annotated[
        Flow | None, typer.Option("--flow", case_sensitive=False, help="Only grants of this flow; without it all.")
    ] = None,
    workload: WorkloadOption = None,
    user: UserOption = None,
) -> None:
    """End an agent's grants at a provider: here at once, then at the vendor where it has a way."""

    async def errand(graph: Graph) -> None:
        call = graph.broker.call(await principal_of(graph, tenant_of(context)), "revoke_grant")
        ended = await graph.broker.revoke_grant(call, provider, flow.value if flow else "")
        for grant in ended:
            typer.echo(f"Ended a {grant.flow.value} grant at {provider}; at the vendor: {grant.at_vendor}")
        if not ended:
            typer.echo(f"Ended the open consents for {provider}.")

    run(settings_of(context, workload=workload, user=user), errand)


def _row(grant: GrantSummary) -> tuple[str, ...]:
    return (
        grant.provider,
        grant.flow.value,
        f"{grant.state.value} ({grant.reason.value})" if grant.reason else grant.state.value,
        " ".join(grant.scopes),
        local_time(grant.expires_at),
        "yes" if grant.refreshable else "no",
        grant.account_id,
    )


def _object(grant: GrantSummary) -> dict[str, object]:
    return {
        "provider": grant.provider,
        "flow": grant.flow.value,
        "state": grant.state.value,
        "reason": grant.reason.value if grant.reason else None,
        "scopes": list(grant.scopes),
        "declined_scopes": list(grant.declined_scopes),
        "expires_at": grant.expires_at,
        "refreshable": grant.refreshable,
        "resource": grant.resource,
        "audience": grant.audience,
        "account_id": grant.account_id,
        "created_at": grant.created_at,
        "updated_at": grant.updated_at,
    }
