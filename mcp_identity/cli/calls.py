"""`mcp-identity call`: a vendor's API, asked with a credential that is not shown."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mcp_identity.cli.failures import FAILED
from mcp_identity.cli.options import ProviderArgument, ResourceOption, UserOption, WorkloadOption, examples
from mcp_identity.cli.output import say
from mcp_identity.cli.session import principal_of, run, settings_of, tenant_of
from mcp_identity.cli.tokens import say_consent_required
from mcp_identity.domain.credentials import Flow
from mcp_identity.domain.errors import InvalidRequest

if TYPE_CHECKING:
    from mcp_identity.app import Graph
    from mcp_identity.domain.api_call import ApiAnswer

_ERRORS_FROM = 400
EXAMPLES = examples(
    "mcp-identity call github-work https://api.github.com/user",
    'mcp-identity call github-work /search/code --query "q=broker language:python"',
    "mcp-identity call notes https://api.example.com/notes --method POST --data-file note.json",
)


def call(
    context: typer.Context,
    provider: ProviderArgument,
    url: Annotated[str, typer.Argument(metavar="URL", help="The whole URL, or a path at the provider's first API host.")],
    method: Annotated[str, typer.Option("--method", "-X", metavar="METHOD", help="GET, or POST where there is a body.")] = "",
    header: Annotated[
        list[str] | None,
        typer.Option("--header", "-H", metavar="'NAME: VALUE'", help="A request header, e.g. 'Accept: text/csv'."),
    ] = None,
    data: Annotated[str | None, typer.Option("--data", "-d", metavar="TEXT", help="The request body.")] = None,
    data_file: Annotated[
        Path | None, typer.Option("--data-file", metavar="PATH", help="The file with the request body; - for standard input.")
    ] = None,
    query: Annotated[
        list[str] | None, typer.Option("--query", "-q", metavar="NAME=VALUE", help="A query parameter, not yet encoded.")
    ] = None,
    scope: Annotated[list[str] | None, typer.Option("--scope", metavar="SCOPE", help="A scope that the call needs.")] = None,
    flow: Annotated[
        Flow | None, typer.Option("--flow", case_sensitive=False, help="Needed only where the provider offers several.")
    ] = None,
    resource: ResourceOption = "",
    audience: Annotated[str, typer.Option("--audience", help="The audience, where the vendor takes one.")] = "",
    workload: WorkloadOption = None,
    user: UserOption = None,
) -> None:
    """Call a vendor's API as an agent would, and print the body of its answer.

    The status and what else there is to know go to stderr. The exit status is 1 where the API answers with an error. Where your
    consent is needed, the link goes to stderr, nothing to stdout, and the exit status is 1.
    """
    from mcp_identity.domain.api_call import ApiAnswer, ApiRequest

    body = _body(data, data_file)
    request = ApiRequest(
        provider=provider,
        method=method or ("GET" if body is None else "POST"),
        url="" if url.startswith("/") else url,
        path=url if url.startswith("/") else "",
        query=tuple(_pair(each, "=", "--query takes NAME=VALUE") for each in query or ()),
        headers=tuple(_pair(each, ":", "--header takes 'NAME: VALUE'") for each in header or ()),
        body=body,
        scopes=tuple(scope or ()),
        flow=flow.value if flow else "",
        resource=resource,
        audience=audience,
    )

    async def errand(graph: Graph) -> bool:
        principal = await principal_of(graph, tenant_of(context))
        answer = await graph.broker.call_api(graph.broker.call(principal, "call_api"), request)
        if not isinstance(answer, ApiAnswer):
            say_consent_required(graph, answer, principal.tenant)
            return False
        _print(answer)
        return answer.status < _ERRORS_FROM

    if not run(settings_of(context, workload=workload, user=user), errand, as_local_user=True):
        raise typer.Exit(FAILED)


def _print(answer: ApiAnswer) -> None:
    """The status for the person, the body for what comes next in the pipe."""
    say(f"HTTP {answer.status} from {answer.url}")
    if answer.renewed:
        say("The credential was refused and has been renewed; the request was not repeated.")
    if answer.echoed:
        say("The answer held the credential: " + ("its body is left out." if answer.is_withheld else "it was taken out."))
    if answer.is_cut:
        say("The body was longer than 10 MiB and is cut off.")
    if answer.data is not None:
        sys.stdout.buffer.write(answer.data)
        sys.stdout.buffer.flush()
    elif answer.text:
        typer.echo(answer.text, nl=sys.stdout.isatty() and not answer.text.endswith("\n"))


def _body(data: str | None, path: Path | None) -> bytes | None:
    if data is not None and path is not None:
        raise InvalidRequest("name one place for the body: --data or --data-file")
    if path is None:
        return None if data is None else data.encode()
    if str(path) == "-":
        return sys.stdin.buffer.read()
    try:
        return path.read_bytes()
    except OSError as error:
        raise InvalidRequest(f"the file of --data-file cannot be read ({type(error).__name__})") from None


def _pair(text: str, separator: str, usage: str) -> tuple[str, str]:
    name, found, value = text.partition(separator)
    if not found or not name:
        raise InvalidRequest(usage)
    return name.strip(), value.strip() if separator == ":" else value
