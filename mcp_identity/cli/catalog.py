"""`mcp-identity catalog`: the vendors that this version knows. Opens no vault."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from mcp_identity.cli.options import JsonOption, examples
from mcp_identity.cli.output import print_facts, print_json, print_table

if TYPE_CHECKING:
    from mcp_identity.domain.provider import ProviderDefinition, Setting

_Fact = bool | int | str | list[str] | dict[str, str | list[str]]

commands = typer.Typer(no_args_is_help=True, help="The vendors that this version knows.")


@commands.command("list", epilog=examples("mcp-identity catalog list", "mcp-identity catalog list --json"))
def list_(json: JsonOption = False) -> None:
    """List the vendors that providers can be added of."""
    from mcp_identity.broker.catalogue import list_definitions

    found = list_definitions()
    if json:
        print_json([_summary(definition) for definition in found])
        return
    rows = [(each.name, each.title, each.kind.value, ", ".join(each.flows), each.checked) for each in found]
    print_table(("vendor", "title", "kind", "flows", "checked"), rows)


@commands.command(epilog=examples("mcp-identity catalog show github", "mcp-identity catalog show custom --json"))
def show(
    vendor: Annotated[str, typer.Argument(metavar="VENDOR", help="A name of `catalog list`.")], json: JsonOption = False
) -> None:
    """Show a vendor's facts, what has to be set for it, and what to know about it."""
    from mcp_identity.broker.catalogue import get_definition

    found = get_definition(vendor)
    if json:
        print_json(found.model_dump(mode="json"))
        return
    print_facts(
        {
            "vendor": f"{found.name} ({found.title})",
            "kind": found.kind.value,
            "flows": ", ".join(found.flows),
            "client authentication": ", ".join(found.client_authentication) if found.flows else "",
            "default scopes": " ".join(found.default_scopes),
            **{f"{name} URL": url for name, url in found.endpoints.model_dump().items()},
            "register at": found.register_url,
            "documentation": found.documentation,
            "checked": found.checked,
        }
    )
    if found.settings:
        typer.echo("\nSettings (--set FIELD=VALUE):")
        for name, setting in found.settings.items():
            typer.echo(f"  {name}: {_explain(setting)}")
    dialect: dict[str, _Fact] = found.dialect.model_dump(mode="json", exclude_defaults=True)
    if dialect:
        typer.echo("\nHow it speaks:")
        for name, value in dialect.items():
            typer.echo(f"  {name}: {_readable(value)}")
    for note in found.notes:
        typer.echo(f"\nNote: {note}")


def _summary(definition: ProviderDefinition) -> dict[str, object]:
    return {
        "vendor": definition.name,
        "title": definition.title,
        "kind": definition.kind.value,
        "flows": list(definition.flows),
        "checked": definition.checked,
    }


def _explain(setting: Setting) -> str:
    parts = [setting.description]
    if setting.choices:
        parts.append(f"one of {', '.join(choice for choice in setting.choices if choice)}")
    elif setting.example:
        parts.append(f"e.g. {setting.example}")
    parts.append("required" if setting.default is None else f"default {setting.default}" if setting.default else "optional")
    return "; ".join(parts)


def _readable(value: _Fact) -> str:
    match value:
        case bool():
            return "yes" if value else "no"
        case dict():
            return ", ".join(f"{name} = {_readable(each)}" for name, each in value.items())
        case list():
            return " ".join(value)
        case _:
            return str(value)
