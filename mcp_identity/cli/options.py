"""Which options do several commands share, and how are examples shown in their help?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import typer

from mcp_identity.domain.errors import InvalidRequest
from mcp_identity.domain.identity import DEFAULT_TENANT

WORKLOAD_HELP = "Act for this agent. Without it: MCP_IDENTITY_WORKLOAD, else the only agent known to the vault."
TENANT_HELP = "The tenant to act in; one exists once something is created in it. Nothing crosses from one to another."
USER_HELP = "Act for another local user, shown as asserted (the setting MCP_IDENTITY_USER)."

WorkloadOption = Annotated[str | None, typer.Option("--workload", metavar="NAME", help=WORKLOAD_HELP)]
UserOption = Annotated[str | None, typer.Option("--user", metavar="NAME", help=USER_HELP)]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]
ProviderArgument = Annotated[str, typer.Argument(metavar="PROVIDER", help="The credential provider's name.")]
ScopesOption = Annotated[
    str, typer.Option("--scopes", metavar='"A B"', help="Scopes, separated by spaces; without them the provider's own.")
]
ResourceOption = Annotated[str, typer.Option("--resource", metavar="URL", help="The resource (RFC 8707).")]


@dataclass(frozen=True, slots=True)
class Globals:
    """What was said before the command.

    Attributes:
        workload: The agent to act for.
        user: The user to act for.
        tenant: The tenant to act in.
    """

    workload: str | None = None
    user: str | None = None
    tenant: str = DEFAULT_TENANT


def globals_of(context: typer.Context) -> Globals:
    """The options that stood before the command."""
    found: object = context.obj
    return found if isinstance(found, Globals) else Globals()


def pair_of(option: str, text: str) -> tuple[str, str]:
    """Take ``NAME=VALUE`` apart.

    Raises:
        InvalidRequest: If it is none.
    """
    name, separator, value = text.partition("=")
    if not separator or not name.strip():
        raise InvalidRequest(f"{option} takes NAME=VALUE")
    return name.strip(), value.strip()


def examples(*lines: str) -> str:
    """The examples at the end of a command's help, each on a line of its own."""
    return "\b\nExamples:\n" + "\n".join(f"  {line}" for line in lines)
