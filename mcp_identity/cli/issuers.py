"""`mcp-identity issuers`: the identity providers that say who callers are."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mcp_identity.broker.specifications import DEFAULT_PRESET, IssuerSpec
from mcp_identity.cli.options import JsonOption, examples, pair_of
from mcp_identity.cli.output import print_facts, print_json, print_table, say
from mcp_identity.cli.secret_input import SecretSource
from mcp_identity.cli.session import operate, run, settings_of, tenant_of
from mcp_identity.domain.identity import command

if TYPE_CHECKING:
    from mcp_identity.app import Graph
    from mcp_identity.domain.issuer import Issuer

commands = typer.Typer(no_args_is_help=True, help="The identity providers that say who callers are.")

NameArgument = Annotated[str, typer.Argument(metavar="NAME", help="What operators call it, e.g. corp.")]
_Fact = str | bool | list[str]


@commands.command(
    epilog=examples(
        "mcp-identity issuers add corp --discovery-url https://idp.example.com --audience https://agents.example.com/mcp",
        "mcp-identity issuers add pool --preset cognito --discovery-url https://cognito-idp.eu-west-1.amazonaws.com/POOL",
        "mcp-identity issuers add dir --preset entra --discovery-url https://login.microsoftonline.com/DIRECTORY/v2.0 "
        "--audience APPLICATION",
        "mcp-identity issuers add google --preset google --discovery-url https://accounts.google.com --audience CLIENT "
        "--claim hd=example.com",
    )
)
def add(
    context: typer.Context,
    name: NameArgument,
    discovery_url: Annotated[
        str,
        typer.Option(
            "--discovery-url", metavar="URL", help="Its metadata (/.well-known/openid-configuration), or the issuer itself."
        ),
    ],
    preset: Annotated[
        str,
        typer.Option("--preset", metavar="PRESET", help="How its tokens look: cognito, okta, entra, auth0, google or oidc."),
    ] = DEFAULT_PRESET,
    audience: Annotated[
        list[str] | None,
        typer.Option("--audience", metavar="AUD", help="What its tokens must be for (`aud`). Repeat for several."),
    ] = None,
    claim: Annotated[
        list[str] | None,
        typer.Option(
            "--claim",
            metavar="NAME=VALUE[,VALUE]",
            help="Of an issuer that serves many organisations: the claim that says which, and those that are this tenant.",
        ),
    ] = None,
    login_client_id: Annotated[
        str,
        typer.Option("--login-client-id", metavar="ID", help="Our client there, so that browsers can sign in for consents."),
    ] = "",
    login_client_secret_env: Annotated[
        str | None, typer.Option("--login-client-secret-env", metavar="VAR", help="The environment variable with its secret.")
    ] = None,
    login_client_secret_file: Annotated[
        Path | None, typer.Option("--login-client-secret-file", metavar="PATH", help="The file with its secret.")
    ] = None,
    login_client_secret_stdin: Annotated[
        bool, typer.Option("--login-client-secret-stdin", help="Read its secret from standard input.")
    ] = False,
    login_discovery_url: Annotated[
        str, typer.Option("--login-discovery-url", metavar="URL", help="The metadata for the sign-in, if it is another one.")
    ] = "",
    require_tool_scopes: Annotated[
        bool, typer.Option("--require-tool-scopes", help="Its tokens need identity:read or identity:token for each tool.")
    ] = False,
    allow_http_loopback: Annotated[
        bool, typer.Option("--allow-http-loopback", help="It may be http on this machine; for tests.")
    ] = False,
    json: JsonOption = False,
) -> None:
    """Trust an identity provider's tokens. Its metadata is read once, now, and pinned.

    Its tokens open nothing yet: a workload's authorizer says which of them speak for that workload.
    """
    secret = SecretSource(
        "--login-client-secret", login_client_secret_env, login_client_secret_file, login_client_secret_stdin
    ).read()
    claims = [pair_of("--claim", each) for each in claim or ()]
    spec = IssuerSpec(
        discovery_url=discovery_url,
        preset=preset,
        audiences=tuple(audience or ()),
        claims=tuple((claim, value.strip()) for claim, values in claims for value in values.split(",")),
        login_client_id=login_client_id,
        login_secret=secret,
        login_discovery_url=login_discovery_url,
        require_tool_scopes=require_tool_scopes,
        allow_http_loopback=allow_http_loopback,
    )

    async def errand(graph: Graph) -> None:
        issuers = graph.broker.issuers
        issuer = await issuers.add(operate(graph, "create_issuer", tenant_of(context)), name, spec)
        found = _object(graph, issuer)
        if json:
            print_json(found)
            return
        typer.echo(f"Added {name}.\n")
        print_facts({name.replace("_", " "): _text(value) for name, value in found.items() if name not in _APART})
        if found["login_redirect_uri"]:
            typer.echo(f"\nRegister this redirect URI there, exactly as it stands:\n\n    {found['login_redirect_uri']}")
        for note in issuers.notes(issuer):
            typer.echo(f"\nNote: {note}")
        which = "--allowed-audience AUD" if issuer.audiences else "--allowed-client CLIENT"
        typer.echo(f"\nNext:\n  {command(issuer.tenant)} workloads create NAME --issuer {name} {which}")

    run(settings_of(context), errand)


@commands.command("list", epilog=examples("mcp-identity issuers list", "mcp-identity --tenant acme issuers list --json"))
def list_(context: typer.Context, json: JsonOption = False) -> None:
    """List the issuers."""

    async def errand(graph: Graph) -> None:
        found = await graph.broker.issuers.list(tenant_of(context))
        if json:
            print_json([_object(graph, issuer) for issuer in found])
        elif found:
            print_table(("name", "preset", "issuer", "audiences", "organisations", "sign-in"), [_row(each) for each in found])
        else:
            say("There is no issuer yet; see: mcp-identity issuers add --help")

    run(settings_of(context), errand)


@commands.command(epilog=examples("mcp-identity issuers remove corp"))
def remove(context: typer.Context, name: NameArgument) -> None:
    """Stop trusting an issuer; refused while a workload's authorizer names it."""

    async def errand(graph: Graph) -> None:
        await graph.broker.issuers.remove(operate(graph, "delete_issuer", tenant_of(context)), name)
        typer.echo(f"Removed {name}.")

    run(settings_of(context), errand)


_APART = ("name", "login_redirect_uri", "notes")


def _object(graph: Graph, issuer: Issuer) -> dict[str, _Fact]:
    return {
        "name": issuer.name,
        "tenant": issuer.tenant,
        "preset": issuer.preset,
        "issuer": issuer.issuer,
        "discovery_url": issuer.discovery_url,
        "jwks_url": issuer.jwks_url,
        "audiences": sorted(issuer.audiences),
        "claim": issuer.rules.discriminator if issuer.discriminator_values else "",
        "claim_values": sorted(issuer.discriminator_values),
        "can_log_in": issuer.can_log_in,
        "login_client_id": issuer.login_client_id,
        "login_issuer": issuer.login_issuer,
        "has_login_secret": issuer.has_login_secret,
        "login_redirect_uri": graph.broker.issuers.login_redirect_uri(issuer),
        "require_tool_scopes": issuer.require_tool_scopes,
        "allow_http_loopback": issuer.allow_http_loopback,
        "disabled": issuer.disabled,
        "notes": list(graph.broker.issuers.notes(issuer)),
    }


def _text(value: _Fact) -> str:
    match value:
        case bool():
            return "yes" if value else ""
        case list():
            return " ".join(value)
        case str():
            return value


def _row(issuer: Issuer) -> tuple[str, ...]:
    values = sorted(issuer.discriminator_values)
    return (
        issuer.name,
        issuer.preset,
        issuer.issuer,
        " ".join(sorted(issuer.audiences)),
        f"{issuer.rules.discriminator}={','.join(values)}" if values else "",
        "yes" if issuer.can_log_in else "no",
    )
