"""`mcp-identity workloads`: the agents, which tokens speak for them, and their keys."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from mcp_identity.broker.specifications import WorkloadSpec
from mcp_identity.cli import workload_options as given
from mcp_identity.cli.options import JsonOption, examples
from mcp_identity.cli.output import local_time, print_facts, print_json, print_table, say
from mcp_identity.cli.secret_input import is_interactive
from mcp_identity.cli.session import operate, run, settings_of, tenant_of
from mcp_identity.domain.errors import InvalidRequest
from mcp_identity.domain.identity import command

if TYPE_CHECKING:
    from mcp_identity.app import Graph
    from mcp_identity.broker.specifications import WorkloadKeyIssued
    from mcp_identity.domain.identity import WorkloadIdentity

commands = typer.Typer(no_args_is_help=True, help="The agents: which tokens speak for them, what they may use, their keys.")

_Fact = str | int | bool | list[str] | dict[str, str]


@commands.command(
    epilog=examples(
        "mcp-identity workloads create billing-agent --issue-key",
        "mcp-identity workloads create billing-agent --issuer corp --allowed-client billing --required-scope agents.use",
        "mcp-identity workloads create hr-agent --issuer corp --required-claim 'groups contains-any hr,payroll'",
        "mcp-identity workloads create billing-agent --issuer corp --allowed-client billing --allow-provider github-work",
    )
)
def create(
    context: typer.Context,
    name: given.NameArgument,
    issuer: given.IssuerOption = None,
    allowed_client: given.ClientOption = None,
    allowed_audience: given.AudienceOption = None,
    required_scope: given.ScopeOption = None,
    required_claim: given.ClaimOption = None,
    allow_provider: given.ProviderOption = None,
    return_url: given.ReturnUrlOption = None,
    identity_audience: given.IdentityAudienceOption = None,
    may_assert_users: given.AssertOption = None,
    shared_authorizer: given.SharedOption = None,
    owner: given.OwnerOption = None,
    tag: given.TagOption = None,
    issue_key: Annotated[bool, typer.Option("--issue-key", help="Issue a key of its own, and print it: once.")] = False,
    json: JsonOption = False,
) -> None:
    """Register an agent.

    Tokens of an issuer speak for it if everything holds that is named: client, audience, scopes and claims. A key of its own
    (--issue-key) is what an agent without a token of an issuer presents.
    """
    spec = given.make_spec(
        issuer=issuer,
        clients=allowed_client,
        audiences=allowed_audience,
        scopes=required_scope,
        claims=required_claim,
        shared=shared_authorizer,
        providers=allow_provider,
        return_urls=return_url,
        identity_audiences=identity_audience,
        may_assert_users=may_assert_users,
        owner=owner,
        tags=tag,
    )

    async def errand(graph: Graph) -> None:
        workloads, call = graph.broker.workloads, operate(graph, "create_workload_identity", tenant_of(context))
        if issue_key:
            issued = await workloads.create_with_key(call, name, spec)
            say(f"Registered {name}.")
            await _warn(graph, issued.workload)
            _print_key(issued, await _object(graph, issued.workload), json=json)
            return
        workload = await workloads.create(call, name, spec)
        await _warn(graph, workload)
        if json:
            print_json(await _object(graph, workload))
            return
        typer.echo(f"Registered {name}.")
        if not workload.authorizer.is_decisive:
            say("No token speaks for it and it has no key, so nobody can call as it over HTTP yet. Issue a key for MCP,")
            say("or one to sign requests with, as AWS's clients do:")
            say(f"  {command(workload.tenant)} workloads issue-key {name}")
            say(f"  {command(workload.tenant)} access-keys create --role workload --workload {name}")

    run(settings_of(context), errand)


@commands.command("list", epilog=examples("mcp-identity workloads list", "mcp-identity --tenant acme workloads list --json"))
def list_(context: typer.Context, json: JsonOption = False) -> None:
    """List the agents."""

    async def errand(graph: Graph) -> None:
        found = await graph.broker.workloads.list(tenant_of(context))
        if json:
            print_json([await _object(graph, workload) for workload in found])
        elif found.workloads:
            columns = ("name", "issuer", "clients", "audiences", "providers", "owner", "state")
            print_table(columns, [await _row(graph, workload) for workload in found])
        else:
            say("There is no workload yet; see: mcp-identity workloads create --help")
        if found.corrupt:
            say(f"{len(found.corrupt)} more cannot be read: their rows were changed outside the product")

    run(settings_of(context), errand)


@commands.command(epilog=examples("mcp-identity workloads show billing-agent"))
def show(context: typer.Context, name: given.NameArgument, json: JsonOption = False) -> None:
    """Show an agent."""

    async def errand(graph: Graph) -> None:
        found = await _object(graph, await graph.broker.workloads.get(tenant_of(context), name))
        if json:
            print_json(found)
        else:
            print_facts({name.replace("_", " "): _text(value) for name, value in found.items()})

    run(settings_of(context), errand)


@commands.command(
    epilog=examples(
        "mcp-identity workloads update billing-agent --allow-provider github-work --allow-provider slack",
        "mcp-identity workloads update billing-agent --allow-provider ''",
        "mcp-identity workloads update billing-agent --disable",
    )
)
def update(
    context: typer.Context,
    name: given.NameArgument,
    issuer: given.IssuerOption = None,
    no_authorizer: Annotated[
        bool, typer.Option("--no-authorizer", help="No token of any issuer speaks for it any more.")
    ] = False,
    allowed_client: given.ClientOption = None,
    allowed_audience: given.AudienceOption = None,
    required_scope: given.ScopeOption = None,
    required_claim: given.ClaimOption = None,
    allow_provider: given.ProviderOption = None,
    return_url: given.ReturnUrlOption = None,
    identity_audience: given.IdentityAudienceOption = None,
    may_assert_users: given.AssertOption = None,
    shared_authorizer: given.SharedOption = None,
    owner: given.OwnerOption = None,
    tag: given.TagOption = None,
    disabled: Annotated[bool | None, typer.Option("--disable/--enable", help="It may do nothing; or again.")] = None,
    json: JsonOption = False,
) -> None:
    """Change an agent; what is not named stays. A list is replaced as a whole, and emptied by one empty value.

    What was issued to it before ends: workload access tokens, and consents under way. Its keys and grants stay.
    """
    if no_authorizer and issuer:
        raise InvalidRequest("--no-authorizer takes no --issuer")
    spec = given.make_spec(
        issuer="" if no_authorizer else issuer or None,
        clients=allowed_client,
        audiences=allowed_audience,
        scopes=required_scope,
        claims=required_claim,
        shared=shared_authorizer,
        providers=allow_provider,
        return_urls=return_url,
        identity_audiences=identity_audience,
        may_assert_users=may_assert_users,
        owner=owner,
        tags=tag,
        disabled=disabled,
    )
    if spec == WorkloadSpec():
        raise InvalidRequest("name what to change; see: mcp-identity workloads update --help")

    async def errand(graph: Graph) -> None:
        call = operate(graph, "update_workload_identity", tenant_of(context))
        workload = await graph.broker.workloads.update(call, name, spec)
        await _warn(graph, workload)
        if json:
            print_json(await _object(graph, workload))
        else:
            typer.echo(f"Updated {name}.")

    run(settings_of(context), errand)


@commands.command(
    epilog=examples("mcp-identity workloads remove billing-agent", "mcp-identity workloads remove billing-agent --yes")
)
def remove(
    context: typer.Context,
    name: given.NameArgument,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Remove an agent with its keys and every grant of it; the grants are revoked at the vendor where it has a way."""
    settings = settings_of(context)
    if not yes:
        if not is_interactive():
            raise InvalidRequest(f"removing {name} ends its keys and every grant of it; say --yes")
        typer.confirm(f"Remove {name} with its keys and every grant of it?", abort=True, err=True)

    async def errand(graph: Graph) -> None:
        ended = await graph.broker.workloads.remove(operate(graph, "delete_workload_identity", tenant_of(context)), name)
        typer.echo(f"Removed {name}.")
        for grant in ended:
            typer.echo(f"  a {grant.flow.value} grant at {grant.provider}; at the vendor: {grant.at_vendor}")

    run(settings, errand)


@commands.command(
    "issue-key",
    epilog=examples(
        "mcp-identity workloads issue-key billing-agent --label production --expires-in-days 90",
        "mcp-identity workloads issue-key billing-agent > key",
    ),
)
def issue_key(
    context: typer.Context,
    name: given.NameArgument,
    label: Annotated[str, typer.Option("--label", metavar="TEXT", help="What you call it.")] = "",
    expires_in_days: Annotated[
        int | None, typer.Option("--expires-in-days", metavar="N", help="When it ends; without it, when it is revoked.")
    ] = None,
    json: JsonOption = False,
) -> None:
    """Issue a key of an agent's own and print it, alone, on stdout: once. Only a digest of it is kept."""

    async def errand(graph: Graph) -> None:
        call = operate(graph, "issue_workload_key", tenant_of(context))
        issued = await graph.broker.workloads.issue_key(call, name, label=label, expires_in_days=expires_in_days)
        _print_key(issued, {"workload": name}, json=json)

    run(settings_of(context), errand)


@commands.command(epilog=examples("mcp-identity workloads keys billing-agent"))
def keys(context: typer.Context, name: given.NameArgument, json: JsonOption = False) -> None:
    """List the keys of an agent, without the keys themselves."""

    async def errand(graph: Graph) -> None:
        found = await graph.broker.workloads.keys(tenant_of(context), name)
        if json:
            print_json(
                [
                    {
                        "key_id": key.id,
                        "label": key.label,
                        "revoked": key.revoked,
                        "created_at": key.created_at,
                        "expires_at": key.expires_at,
                    }
                    for key in found
                ]
            )
        elif found:
            rows = [
                (
                    key.id,
                    key.label,
                    "revoked" if key.revoked else "active",
                    local_time(key.created_at),
                    local_time(key.expires_at),
                )
                for key in found
            ]
            print_table(("key id", "label", "state", "created", "ends"), rows)
        else:
            say(f"{name} has no key; see: mcp-identity workloads issue-key --help")

    run(settings_of(context), errand)


@commands.command("revoke-key", epilog=examples("mcp-identity workloads revoke-key billing-agent KEY_ID"))
def revoke_key(
    context: typer.Context,
    name: given.NameArgument,
    key_id: Annotated[str, typer.Argument(metavar="KEY_ID", help="As `workloads keys` shows it; never the key.")],
) -> None:
    """End a key of an agent, at once."""

    async def errand(graph: Graph) -> None:
        await graph.broker.workloads.revoke_key(operate(graph, "revoke_workload_key", tenant_of(context)), name, key_id)
        typer.echo(f"Revoked {key_id}.")

    run(settings_of(context), errand)


def _print_key(issued: WorkloadKeyIssued, found: dict[str, _Fact], *, json: bool) -> None:
    say("This is the only time that the key is shown. Whoever has it is this agent: keep it like a password.")
    if json:
        key = {"key_id": issued.key_id, "key": issued.key.reveal(), "expires_at": issued.expires_at}
        print_json({**found, **key})
    else:
        say(f"key id: {issued.key_id}")
        typer.echo(issued.key.reveal())


async def _warn(graph: Graph, workload: WorkloadIdentity) -> None:
    """Say which of the providers that it may use are not there, since a name may be misspelt."""
    known = {provider.name for provider in (await graph.broker.directory.list(workload.tenant)).providers}
    missing = sorted(workload.allowed_providers - known)
    if missing:
        say(f"There is no provider {', '.join(missing)} yet; see: {command(workload.tenant)} providers list")


async def _object(graph: Graph, workload: WorkloadIdentity) -> dict[str, _Fact]:
    authorizer = workload.authorizer
    return {
        "name": workload.name,
        "id": workload.id,
        "tenant": workload.tenant,
        "issuer": await graph.broker.workloads.issuer_name(workload),
        "allowed_clients": sorted(authorizer.clients),
        "allowed_audiences": sorted(authorizer.audiences),
        "required_scopes": sorted(authorizer.scopes),
        "required_claims": [given.show_claim(rule) for rule in authorizer.claims],
        "shared_authorizer": workload.shared_authorizer,
        "allowed_providers": sorted(workload.allowed_providers),
        "return_urls": list(workload.return_urls),
        "identity_audiences": list(workload.identity_audiences),
        "may_assert_users": workload.may_assert_users,
        "owner": workload.owner,
        "tags": dict(workload.tags),
        "disabled": workload.disabled,
        "epoch": workload.epoch,
    }


def _text(value: _Fact) -> str:
    match value:
        case bool():
            return "yes" if value else ""
        case int():
            return str(value)
        case list():
            return "; ".join(value)
        case dict():
            return ", ".join(f"{name}={each}" for name, each in value.items())
        case str():
            return value


async def _row(graph: Graph, workload: WorkloadIdentity) -> tuple[str, ...]:
    return (
        workload.name,
        await graph.broker.workloads.issuer_name(workload),
        " ".join(sorted(workload.authorizer.clients)),
        " ".join(sorted(workload.authorizer.audiences)),
        " ".join(sorted(workload.allowed_providers)) or "every one",
        workload.owner,
        "disabled" if workload.disabled else "enabled",
    )
