"""`mcp-identity token`: an access token, or an API key, alone on stdout."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from mcp_identity.broker.answers import ConsentRequired, HandleIssued, TokenReleased, TokenRequest
from mcp_identity.cli.failures import FAILED
from mcp_identity.cli.options import (
    JsonOption,
    ProviderArgument,
    ResourceOption,
    ScopesOption,
    UserOption,
    WorkloadOption,
    examples,
)
from mcp_identity.cli.output import print_json, say
from mcp_identity.cli.session import principal_of, run, settings_of, tenant_of
from mcp_identity.domain.credentials import Flow
from mcp_identity.domain.identity import command
from mcp_identity.domain.provider import ProviderKind

if TYPE_CHECKING:
    from mcp_identity.app import Graph

T = TypeVar("T")

EXAMPLES = examples(
    "mcp-identity token github-work",
    'mcp-identity token billing --flow M2M --scopes "invoices:read" --json',
    'curl -H "Authorization: Bearer $(mcp-identity token github-work)" https://api.github.com/user',
)


def token(
    context: typer.Context,
    provider: ProviderArgument,
    scopes: ScopesOption = "",
    flow: Annotated[
        Flow | None, typer.Option("--flow", case_sensitive=False, help="Needed only where the provider offers several.")
    ] = None,
    resource: ResourceOption = "",
    audience: Annotated[str, typer.Option("--audience", help="The audience, where the vendor takes one.")] = "",
    minimum_lifetime_seconds: Annotated[
        int | None, typer.Option("--minimum-lifetime-seconds", metavar="N", help="How long the token must still live.")
    ] = None,
    json: JsonOption = False,
    workload: WorkloadOption = None,
    user: UserOption = None,
) -> None:
    """Print an access token, or an API key, as an agent would get it.

    Where your consent is needed, the link goes to stderr, nothing to stdout, and the exit status is 1.
    """
    request = TokenRequest(
        provider=provider,
        scopes=tuple(scopes.split()),
        flow=flow.value if flow else "",
        resource=resource,
        audience=audience,
        minimum_lifetime_seconds=minimum_lifetime_seconds,
    )

    async def errand(graph: Graph) -> bool:
        principal = await principal_of(graph, tenant_of(context))
        found = await graph.broker.directory.find(principal.tenant, provider)
        if found is not None and found.kind is ProviderKind.API_KEY:
            released = _not_a_handle(await graph.broker.get_api_key(graph.broker.call(principal, "get_api_key"), provider))
            key = released.api_key.reveal()
            _print({"api_key": key, "provider": provider}, key, json=json)
            return True
        answer = await graph.broker.get_token(graph.broker.call(principal, "get_token"), request)
        if isinstance(answer, ConsentRequired):
            say_consent_required(graph, answer, principal.tenant)
            return False
        answer = _not_a_handle(answer)
        _print(_object(answer), answer.access_token.reveal(), json=json)
        return True

    if not run(settings_of(context, workload=workload, user=user), errand, as_local_user=True):
        raise typer.Exit(FAILED)


def say_consent_required(graph: Graph, required: ConsentRequired, tenant: str) -> None:
    """Tell the person how to consent; on stderr, so that nothing takes it for what was asked for."""
    following = f"{command(tenant)} connect {required.provider}{_same_principal(graph)}"
    say(f"{required.provider} needs your consent ({required.reason.value}). Run: {following}")
    say(f"or, while an MCP client is running this server, open: {required.authorization_url}")


def _not_a_handle(released: T | HandleIssued) -> T:
    """What was released; the door gives the command line no handle."""
    if isinstance(released, HandleIssued):
        raise TypeError("a handle was issued to the command line")
    return released


def _print(found: dict[str, object], secret: str, *, json: bool) -> None:
    if json:
        print_json(found)
    else:
        typer.echo(secret)


def _object(answer: TokenReleased) -> dict[str, object]:
    return {
        "access_token": answer.access_token.reveal(),
        "token_type": answer.token_type,
        "scopes": list(answer.scopes),
        "missing_scopes": list(answer.missing_scopes),
        "expires_at": answer.expires_at,
        "provider": answer.provider,
        "flow": answer.flow.value,
        **answer.extra,
    }


def _same_principal(graph: Graph) -> str:
    """The options that make another command act for the same principal."""
    named = {"--workload": graph.settings.workload, "--user": graph.settings.user}
    return "".join(f" {option} {name}" for option, name in named.items() if name)
