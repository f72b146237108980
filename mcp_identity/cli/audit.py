"""`mcp-identity audit`: who asked for what, and what came of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import anyio
import typer

from mcp_identity.cli.options import examples
from mcp_identity.cli.output import local_time, print_json, print_table
from mcp_identity.cli.session import run, settings_of, tenant_of
from mcp_identity.domain.errors import clean_text

if TYPE_CHECKING:
    from mcp_identity.app import Graph
    from mcp_identity.domain.audit import AuditEvent

commands = typer.Typer(no_args_is_help=True, help="The trail: who asked for what, and what came of it.")

_COLUMNS = ("at", "workload", "user", "action", "provider", "outcome", "scopes", "detail")
_POLL_SECONDS = 1.0
_AT_ONCE = 1000


@commands.command(
    epilog=examples(
        "mcp-identity audit tail",
        "mcp-identity audit tail -n 100 --json | jq 'select(.outcome != \"ok\")'",
        "mcp-identity audit tail --follow",
    )
)
def tail(
    context: typer.Context,
    count: Annotated[int, typer.Option("-n", "--lines", min=0, help="How many of the latest events.")] = 20,
    follow: Annotated[bool, typer.Option("-f", "--follow", help="Go on with new events until Ctrl-C.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object a line.")] = False,
) -> None:
    """Show the latest events of the trail, oldest first."""
    tenant = tenant_of(context)

    async def errand(graph: Graph) -> None:
        found = await graph.broker.list_audit(tenant, limit=max(count, 1))
        place = found[-1][0] if found else (0, "", 0)
        _show([event for _, event in found[-count:]] if count else [], json=json, live=follow)
        while follow:
            if len(found) < _AT_ONCE:
                await anyio.sleep(_POLL_SECONDS)
            found = await graph.broker.list_audit(tenant, limit=_AT_ONCE, after=place)
            place = found[-1][0] if found else place
            _show([event for _, event in found], json=json, live=True)

    run(settings_of(context), errand)


def _show(events: list[AuditEvent], *, json: bool, live: bool) -> None:
    if json:
        for event in events:
            print_json(_object(event), lines=True)
    elif live:  # columns whose width is not known yet would jump
        for event in events:
            typer.echo("  ".join(clean_text(cell) for cell in _row(event) if cell))
    else:
        print_table(_COLUMNS, [_row(event) for event in events])


def _row(event: AuditEvent) -> tuple[str, ...]:
    return (
        local_time(event.at),
        event.workload,
        event.user_display,
        event.action,
        event.provider,
        event.outcome,
        " ".join(event.scopes),
        " ".join(f"{name}={value}" for name, value in event.detail.items()),
    )


def _object(event: AuditEvent) -> dict[str, object]:
    return {
        "at": event.at,
        "tenant": event.tenant,
        "workload": event.workload,
        "workload_id": event.workload_id,
        "user": event.user_key,
        "user_display": event.user_display,
        "verified": event.verified,
        "edge": event.edge,
        "action": event.action,
        "provider": event.provider,
        "flow": event.flow,
        "scopes": list(event.scopes),
        "outcome": event.outcome,
        "correlation_id": event.correlation_id,
        "detail": dict(event.detail),
    }
