"""`mcp-identity access-keys`: the keys with which clients of AgentCore sign their requests."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from mcp_identity.cli.options import JsonOption, examples
from mcp_identity.cli.output import local_time, print_facts, print_json, print_table, say
from mcp_identity.cli.session import operate, run, settings_of, tenant_of
from mcp_identity.domain.access_key import AccessKey, AccessKeyRole

if TYPE_CHECKING:
    from mcp_identity.app import Graph
    from mcp_identity.broker.access_keys import AccessKeyIssued
    from mcp_identity.settings import Settings

commands = typer.Typer(
    no_args_is_help=True, help="The keys with which clients of AgentCore (boto3, the AWS CLI, its SDK) sign their requests."
)
_LOCAL_URL = "http://127.0.0.1:8000"
"""Where `serve --transport http` listens, if nothing else was said."""


@commands.command(
    epilog=examples(
        "mcp-identity access-keys create --role workload --workload billing-agent",
        "mcp-identity access-keys create --role workload --workload billing-agent --workload hr-agent --may-assert-users",
        "mcp-identity access-keys create --role admin --json",
    )
)
def create(
    context: typer.Context,
    role: Annotated[
        AccessKeyRole,
        typer.Option(
            "--role", help="admin: sets up providers and workloads, and stands for every workload. workload: for some."
        ),
    ],
    workload: Annotated[
        list[str] | None,
        typer.Option("--workload", metavar="NAME", help="It stands for this one. Repeat for several; not for the role admin."),
    ] = None,
    may_assert_users: Annotated[
        bool,
        typer.Option("--may-assert-users", help="It may name a user by an id alone (GetWorkloadAccessTokenForUserId)."),
    ] = False,
    json: JsonOption = False,
) -> None:
    """Make an access key, and print it with its secret: once. What it may do is fixed; to change that, make another one."""
    settings = settings_of(context)

    async def errand(graph: Graph) -> None:
        call = operate(graph, "create_access_key", tenant_of(context))
        issued = await graph.broker.access_keys.create(call, role, workload or (), may_assert_users=may_assert_users)
        _print(issued, settings, json=json)

    run(settings, errand)


@commands.command("list", epilog=examples("mcp-identity access-keys list", "mcp-identity access-keys list --json"))
def list_(context: typer.Context, json: JsonOption = False) -> None:
    """List the access keys, without their secrets."""

    async def errand(graph: Graph) -> None:
        found = await graph.broker.access_keys.list(tenant_of(context))
        if json:
            print_json([_object(key, found.workloads_of(key)) for key in found.keys])
        elif found.keys:
            columns = ("access key id", "role", "workloads", "may assert users", "created", "last used")
            print_table(columns, [_row(key, found.workloads_of(key)) for key in found.keys])
        else:
            say("There is no access key yet; see: mcp-identity access-keys create --help")

    run(settings_of(context), errand)


@commands.command(epilog=examples("mcp-identity access-keys remove MIDEXAMPLEEXAMPLEEXA"))
def remove(
    context: typer.Context,
    access_key_id: Annotated[str, typer.Argument(metavar="ID", help="As `access-keys list` shows it.")],
) -> None:
    """End an access key, at once."""

    async def errand(graph: Graph) -> None:
        await graph.broker.access_keys.remove(operate(graph, "delete_access_key", tenant_of(context)), access_key_id)
        typer.echo(f"Removed {access_key_id}.")

    run(settings_of(context), errand)


def _print(issued: AccessKeyIssued, settings: Settings, *, json: bool) -> None:
    key, secret = issued.key, issued.secret.reveal()
    say("This is the only time that the secret is shown. Whoever has it signs as this key: keep it like a password.")
    if json:
        print_json({**_object(key, issued.workloads), "secret_access_key": secret})
        return
    print_facts({"access_key_id": key.access_key_id, "secret_access_key": secret})
    url = settings.public_url or _LOCAL_URL
    say("Clients take it from the environment, beside the address of this server and any region:")
    say(f"  export AWS_ACCESS_KEY_ID={key.access_key_id} AWS_SECRET_ACCESS_KEY=...")
    say("  export AWS_REGION=us-east-1 AWS_DEFAULT_REGION=us-east-1")
    say(f"  export BEDROCK_AGENTCORE_CP_ENDPOINT={url} BEDROCK_AGENTCORE_DP_ENDPOINT={url}  # the SDK")
    say(
        f"  aws bedrock-agentcore-control list-workload-identities --endpoint-url {url}      # the AWS CLI; boto3: endpoint_url"
    )


def _object(key: AccessKey, workloads: tuple[str, ...]) -> dict[str, object]:
    return {
        "access_key_id": key.access_key_id,
        "tenant": key.tenant,
        "role": key.role.value,
        "workloads": list(workloads),
        "may_assert_users": key.may_assert_users,
        "created_at": key.created_at,
        "last_used_at": key.last_used_at,
    }


def _row(key: AccessKey, workloads: tuple[str, ...]) -> tuple[str, ...]:
    named = "every one" if key.role is AccessKeyRole.ADMIN else " ".join(workloads)
    return (
        key.access_key_id,
        key.role.value,
        named,
        "yes" if key.may_assert_users else "",
        local_time(key.created_at),
        local_time(key.last_used_at) or "never",
    )
