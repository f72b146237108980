"""`mcp-identity init`: make the vault and its key."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from mcp_identity.cli.options import examples
from mcp_identity.cli.output import print_facts
from mcp_identity.cli.session import run, settings_of

if TYPE_CHECKING:
    from mcp_identity.app import Graph

EXAMPLES = examples("mcp-identity init", "MCP_IDENTITY_HOME=~/work-vault mcp-identity init")


def init(context: typer.Context) -> None:
    """Make the vault and its key.

    A key that is there already gets a vault; where both are there, nothing is changed.
    """
    settings = settings_of(context)
    from mcp_identity.app import has_vault, vault_location

    location = vault_location(settings)
    source = location.key_source
    had_key, had_vault = source.is_given, has_vault(location)
    run(settings, _nothing, initialise=True)
    if had_key and had_vault:
        typer.echo("The vault and its key are here already; nothing was changed.")
    else:
        typer.echo("Made the vault for the key that was here." if had_key else "Made the vault and its key.")
    print_facts({"vault": location.name, "key": source.where})
    if location.postgres is None and source.path is not None and source.path.parent == location.database.parent:
        where = "Keep the copies apart: whoever has both the vault and the key can read everything."
    else:
        where = "Whoever has both the vault and the key can read everything."
    if source.is_held_elsewhere:
        typer.echo("\nNobody can open the vault without that key: whoever deletes it there, deletes everything here.")
    else:
        typer.echo(f"\nBack up the key now; without it nobody can open the vault. {where}")
    typer.echo(
        "\nNext:\n  mcp-identity catalog list\n  mcp-identity providers add --help\n  mcp-identity clients install --help"
    )


async def _nothing(_graph: Graph) -> None:
    """Opening the vault is all that is wanted."""
