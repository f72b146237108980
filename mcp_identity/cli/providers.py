"""`mcp-identity providers`: the configured sources of credentials."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from mcp_identity.cli import provider_options as given
from mcp_identity.cli.failures import FAILED
from mcp_identity.cli.options import JsonOption, ProviderArgument, examples
from mcp_identity.cli.output import print_json, print_table, say
from mcp_identity.cli.provider_view import describe, print_provider, print_registration
from mcp_identity.cli.secret_input import ask_secret, is_interactive
from mcp_identity.cli.session import operate, run, settings_of, tenant_of
from mcp_identity.domain.credentials import Flow
from mcp_identity.domain.errors import InvalidRequest
from mcp_identity.domain.identity import DEFAULT_TENANT, command
from mcp_identity.domain.provider import ClientAuthentication, CredentialProvider, ProviderKind

if TYPE_CHECKING:
    from mcp_identity.app import Graph

commands = typer.Typer(no_args_is_help=True, help="The configured sources of credentials.")


@commands.command(
    epilog=examples(
        "mcp-identity providers add github-work --vendor github --client-id ID --client-secret-stdin < secret",
        'mcp-identity providers add idp --issuer https://idp.example.com --client-id ID --client-auth none --scopes "read"',
        "mcp-identity providers add crm --issuer https://idp.example.com --set on_behalf_of=token-exchange "
        "--subject-issuer corp --client-id ID --client-auth private_key_jwt --client-secret-file key.pem",
        "mcp-identity providers add weather --kind api-key --api-key-env WEATHER_KEY --release token",
        "mcp-identity providers add maps --kind api-key --api-key-env MAPS_KEY --release never "
        "--api-host https://maps.example.com --api-key-query key",
    )
)
def add(
    context: typer.Context,
    name: given.NameArgument,
    vendor: given.VendorOption = None,
    kind: given.KindOption = None,
    client_id: given.ClientIdOption = None,
    client_auth: given.ClientAuthOption = None,
    client_secret_env: given.ClientSecretEnvOption = None,
    client_secret_file: given.ClientSecretFileOption = None,
    client_secret_stdin: given.ClientSecretStdinOption = False,
    api_key_env: given.ApiKeyEnvOption = None,
    api_key_file: given.ApiKeyFileOption = None,
    api_key_stdin: given.ApiKeyStdinOption = False,
    issuer: given.IssuerOption = None,
    authorization_url: given.AuthorizationUrlOption = None,
    token_url: given.TokenUrlOption = None,
    revocation_url: given.RevocationUrlOption = None,
    fields: given.SetOption = None,
    scopes: given.DefaultScopesOption = None,
    release: given.ReleaseOption = None,
    api_host: given.ApiHostOption = None,
    subject_issuer: given.SubjectIssuerOption = None,
    api_key_header: given.KeyHeaderOption = None,
    api_key_prefix: given.KeyPrefixOption = None,
    api_key_query: given.KeyQueryOption = None,
    api_key_basic: given.KeyBasicOption = None,
    allow_http_loopback: given.HttpLoopbackOption = None,
    json: JsonOption = False,
) -> None:
    """Add a provider, and print the redirect URI to register at the vendor.

    The secret comes from a variable, a file or standard input; at a terminal it is asked for without echo.
    """
    from mcp_identity.broker.catalogue import get_definition

    endpoints = {
        "issuer": issuer,
        "authorization_url": authorization_url,
        "token_url": token_url,
        "revocation_url": revocation_url,
    }
    settings = given.settings_of_vendor(endpoints, fields)
    definition = get_definition(given.choose_vendor(vendor, kind, settings))
    settings = given.key_placement(settings, api_key_header, api_key_prefix, api_key_query, api_key_basic)
    secret = given.read_secret_for(
        definition.kind,
        given.client_secret_source(client_secret_env, client_secret_file, client_secret_stdin),
        given.api_key_source(api_key_env, api_key_file, api_key_stdin),
    )
    is_api_key = definition.kind is ProviderKind.API_KEY
    is_public = client_auth is ClientAuthentication.NONE or definition.client_authentication == (ClientAuthentication.NONE,)
    signs = client_auth is ClientAuthentication.PRIVATE_KEY_JWT  # nobody types a key
    if secret is None and not is_public and not signs:
        secret = ask_secret("API key" if is_api_key else "Client secret")
    chosen = release.value if release else _ask_release() if is_api_key else None
    spec = given.make_spec(
        settings,
        secret,
        vendor=definition.name,
        client_id=client_id,
        client_auth=client_auth,
        scopes=scopes,
        release=chosen,
        api_hosts=api_host,
        subject_issuers=subject_issuer,
        allow_http_loopback=allow_http_loopback,
    )

    async def errand(graph: Graph) -> None:
        provider = await graph.broker.directory.add(operate(graph, "create_provider", tenant_of(context)), name, spec)
        found = await describe(graph, provider)
        following = await _next_command(graph, provider)
        if json:
            print_json(found | {"next_command": following})
            return
        typer.echo(f"Added {name} ({definition.title}).")
        print_registration(found)
        typer.echo(f"\nNext:\n  {following}")

    run(settings_of(context), errand)


@commands.command("list", epilog=examples("mcp-identity providers list", "mcp-identity providers list --json"))
def list_(context: typer.Context, json: JsonOption = False) -> None:
    """List the providers."""

    async def errand(graph: Graph) -> None:
        found = await graph.broker.directory.list(tenant_of(context))
        if json:
            print_json([await describe(graph, provider) for provider in found.providers])
        elif found.providers:
            columns = ("name", "vendor", "flows", "scopes", "release", "state")
            print_table(columns, [_row(graph, provider) for provider in found.providers])
        else:
            say("There is no provider yet; see: mcp-identity providers add --help")
        if found.corrupt:
            say(f"{len(found.corrupt)} more cannot be read: their rows were changed outside the product")

    run(settings_of(context), errand)


@commands.command(epilog=examples("mcp-identity providers show github-work"))
def show(context: typer.Context, name: ProviderArgument, json: JsonOption = False) -> None:
    """Show a provider: its endpoints as they are pinned, its redirect URI, and what to know about it."""

    async def errand(graph: Graph) -> None:
        found = await describe(graph, await graph.broker.directory.get(tenant_of(context), name))
        if json:
            print_json(found)
        else:
            print_provider(found)

    run(settings_of(context), errand)


@commands.command(
    epilog=examples(
        'mcp-identity providers update github-work --scopes "repo read:user"',
        "mcp-identity providers update github-work --client-secret-env NEW_SECRET",
        "mcp-identity providers update github-work --disable",
    )
)
def update(
    context: typer.Context,
    name: ProviderArgument,
    client_id: given.ClientIdOption = None,
    client_auth: given.ClientAuthOption = None,
    client_secret_env: given.ClientSecretEnvOption = None,
    client_secret_file: given.ClientSecretFileOption = None,
    client_secret_stdin: given.ClientSecretStdinOption = False,
    api_key_env: given.ApiKeyEnvOption = None,
    api_key_file: given.ApiKeyFileOption = None,
    api_key_stdin: given.ApiKeyStdinOption = False,
    issuer: given.IssuerOption = None,
    authorization_url: given.AuthorizationUrlOption = None,
    token_url: given.TokenUrlOption = None,
    revocation_url: given.RevocationUrlOption = None,
    fields: given.SetOption = None,
    scopes: given.DefaultScopesOption = None,
    release: given.ReleaseOption = None,
    api_host: given.ApiHostOption = None,
    subject_issuer: given.SubjectIssuerOption = None,
    api_key_header: given.KeyHeaderOption = None,
    api_key_prefix: given.KeyPrefixOption = None,
    api_key_query: given.KeyQueryOption = None,
    api_key_basic: given.KeyBasicOption = None,
    allow_http_loopback: given.HttpLoopbackOption = None,
    disabled: Annotated[bool | None, typer.Option("--disable/--enable", help="Serve nobody; or serve again.")] = None,
    json: JsonOption = False,
) -> None:
    """Change a provider; what is not named stays.

    A secret belongs to where it is sent: another endpoint or issuer clears it, unless it is given anew.
    """
    endpoints = {
        "issuer": issuer,
        "authorization_url": authorization_url,
        "token_url": token_url,
        "revocation_url": revocation_url,
    }
    settings = given.settings_of_vendor(endpoints, fields)
    settings = given.key_placement(settings, api_key_header, api_key_prefix, api_key_query, api_key_basic)
    client_secret = given.client_secret_source(client_secret_env, client_secret_file, client_secret_stdin)
    api_key = given.api_key_source(api_key_env, api_key_file, api_key_stdin)

    async def errand(graph: Graph) -> None:
        directory = graph.broker.directory
        before = await directory.get(tenant_of(context), name)
        spec = given.make_spec(
            settings,
            given.read_secret_for(before.kind, client_secret, api_key),
            client_id=client_id,
            client_auth=client_auth,
            scopes=scopes,
            release=release.value if release else None,
            api_hosts=api_host,
            subject_issuers=subject_issuer,
            allow_http_loopback=allow_http_loopback,
            disabled=disabled,
        )
        provider, cleared = await directory.update(operate(graph, "update_provider", tenant_of(context)), name, spec)
        if json:
            print_json(await describe(graph, provider) | {"secret_cleared": cleared})
        else:
            typer.echo(f"Updated {name}.")
        if cleared and provider.client_authentication is not ClientAuthentication.NONE:
            say("Its secret would now go elsewhere, so it was cleared. Give it again:")
            say(f"  {command(provider.tenant)} providers update {name} {_secret_option(provider)}-stdin")
        if before.subject_issuers and not provider.subject_issuers and subject_issuer is None:
            say("Users' tokens would now go elsewhere, so none are sent any more. Where they may be:")
            say(f"  {command(provider.tenant)} providers update {name} --subject-issuer ISSUER")

    run(settings_of(context), errand)


@commands.command(
    epilog=examples("mcp-identity providers remove github-work", "mcp-identity providers remove github-work --yes")
)
def remove(
    context: typer.Context,
    name: ProviderArgument,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Remove a provider with its secret and every grant at it; the grants are revoked at the vendor where it has a way."""
    settings = settings_of(context)
    if not yes:
        if not is_interactive():
            raise InvalidRequest(f"removing {name} ends every grant at it; say --yes")
        typer.confirm(f"Remove {name} with its secret and every grant at it?", abort=True, err=True)

    async def errand(graph: Graph) -> None:
        ended = await graph.broker.directory.remove(operate(graph, "delete_provider", tenant_of(context)), name)
        typer.echo(f"Removed {name}.")
        for grant in ended:
            typer.echo(f"  a {grant.flow.value} grant; at the vendor: {grant.at_vendor}")

    run(settings, errand)


@commands.command("test", epilog=examples("mcp-identity providers test github-work"))
def check(context: typer.Context, name: ProviderArgument, json: JsonOption = False) -> None:
    """Check whether a provider works; asks nobody for consent. Exit status 1 if a check fails."""

    async def errand(graph: Graph) -> bool:
        checks = await graph.broker.directory.test(operate(graph, "test_provider", tenant_of(context)), name)
        if json:
            print_json([{"check": each.name, "passed": each.passed, "detail": each.detail} for each in checks])
        else:
            print_table(
                ("check", "result", "detail"), [(each.name, "ok" if each.passed else "FAILED", each.detail) for each in checks]
            )
        return all(each.passed for each in checks)

    if not run(settings_of(context), errand):
        raise typer.Exit(FAILED)


def _ask_release() -> str | None:
    """An API key has no end, so somebody has to say how it may leave."""
    if not is_interactive():
        return None
    say("An API key has no end. How may it leave: token (as it is), handle (once, to agent code), never (only call_api)?")
    return str(typer.prompt("Release", err=True))


def _row(graph: Graph, provider: CredentialProvider) -> tuple[str, ...]:
    return (
        provider.name,
        provider.vendor,
        ", ".join(provider.flows) or provider.kind.value,
        " ".join(sorted(provider.scopes)),
        (provider.release or graph.settings.default_release).value,
        "disabled" if provider.disabled else "enabled",
    )


async def _next_command(graph: Graph, provider: CredentialProvider) -> str:
    """What to do with a new provider; where no agent is known yet, the command has to name one."""
    verb = "connect" if Flow.USER_FEDERATION in provider.flows else "token"
    known = graph.settings.workload or await graph.broker.directory.workloads(provider.tenant)
    if not known and provider.tenant != DEFAULT_TENANT:
        return f"{command(provider.tenant)} workloads create NAME --issue-key"
    if verb == "connect" and graph.settings.public_url:  # connect comes back to this machine, which was not registered
        return f"{command(provider.tenant)} providers test {provider.name}"
    return f"{command(provider.tenant)} {verb} {provider.name}{'' if known else ' --workload claude-desktop'}"


def _secret_option(provider: CredentialProvider) -> str:
    return "--api-key" if provider.kind is ProviderKind.API_KEY else "--client-secret"
