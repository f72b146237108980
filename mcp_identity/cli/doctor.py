"""`mcp-identity doctor`: is everything in order, and if not, what is to be done?"""

from __future__ import annotations

import anyio
import typer

from mcp_identity.cli.health import Check, examine, failed
from mcp_identity.cli.options import JsonOption, examples
from mcp_identity.cli.output import print_json, print_table
from mcp_identity.cli.session import settings_of
from mcp_identity.domain.errors import ConfigurationError

EXAMPLES = examples("mcp-identity doctor", "mcp-identity doctor --json")


def doctor(context: typer.Context, json: JsonOption = False) -> None:
    """Check that everything is in order.

    Looks at settings, files, key, vault, callback port, providers and clients, and changes nothing.
    Exit status 0 if all is well, else by the worst of what failed: 1, 74 for the database, 78 for the configuration.
    """
    try:
        checks = anyio.run(examine, settings_of(context))
    except ConfigurationError as error:
        checks = [failed("settings", error)]
    if json:
        print_json([{"check": each.name, "state": each.state, "detail": each.detail} for each in checks])
    else:
        print_table(("check", "state", "detail"), [_row(check) for check in checks])
    if worst := max(check.exit_code for check in checks):
        raise typer.Exit(worst)


def _row(check: Check) -> tuple[str, str, str]:
    return check.name, check.state.upper() if check.state == "failed" else check.state, check.detail
