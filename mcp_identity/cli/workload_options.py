"""What does an operator say of a workload? The options of `workloads create` and `update`, and what they mean."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Annotated

import typer

from mcp_identity.broker.specifications import WorkloadSpec
from mcp_identity.cli.options import pair_of
from mcp_identity.domain.authorizer import ClaimOperator, ClaimRule
from mcp_identity.domain.errors import InvalidRequest

CLAIM_SYNTAX = "'department=sales', 'groups contains a,b' (all of them), or 'groups contains-any a,b' (one of them)"
_LISTED = re.compile(r"([^\s=]+)\s+(contains|contains-any)\s+(.+)")
_OPERATORS = {"contains": ClaimOperator.CONTAINS, "contains-any": ClaimOperator.CONTAINS_ANY}
_WORDS = {ClaimOperator.CONTAINS: "contains", ClaimOperator.CONTAINS_ANY: "contains-any"}

NameArgument = Annotated[str, typer.Argument(metavar="NAME", help="The workload's name, e.g. billing-agent.")]
IssuerOption = Annotated[
    str | None, typer.Option("--issuer", metavar="ISSUER", help="Whose tokens may speak for it; a name of `issuers list`.")
]
ClientOption = Annotated[
    list[str] | None,
    typer.Option("--allowed-client", metavar="CLIENT", help="A token must have been issued to it. Repeat for several."),
]
AudienceOption = Annotated[
    list[str] | None,
    typer.Option("--allowed-audience", metavar="AUD", help="A token must be for it. Repeat for several: one will do."),
]
ScopeOption = Annotated[
    list[str] | None, typer.Option("--required-scope", metavar="SCOPE", help="A token must have it. Repeat for several: all.")
]
ClaimOption = Annotated[
    list[str] | None,
    typer.Option("--required-claim", metavar="'CLAIM=VALUE'", help=f"A token must have it: {CLAIM_SYNTAX}. Repeat: all."),
]
SharedOption = Annotated[
    bool | None,
    typer.Option(
        "--shared-authorizer/--no-shared-authorizer",
        help="It may share its tokens with others marked so; together they are one security principal.",
    ),
]
ProviderOption = Annotated[
    list[str] | None,
    typer.Option(
        "--allow-provider", metavar="PROVIDER", help="It may use this one; without any, every one. Repeat for several."
    ),
]
ReturnUrlOption = Annotated[
    list[str] | None,
    typer.Option(
        "--return-url", metavar="URL", help="Where a browser may be sent after a consent, exactly. Repeat for several."
    ),
]
IdentityAudienceOption = Annotated[
    list[str] | None,
    typer.Option("--identity-audience", metavar="AUD", help="Its identity tokens may be for this one. Repeat for several."),
]
AssertOption = Annotated[
    bool | None,
    typer.Option(
        "--may-assert-users/--no-may-assert-users", help="It may name a user by an id alone, without that user's token."
    ),
]
OwnerOption = Annotated[str | None, typer.Option("--owner", metavar="OWNER", help="Who answers for it.")]
TagOption = Annotated[list[str] | None, typer.Option("--tag", metavar="NAME=VALUE", help="For people. Repeat for several.")]


def make_spec(
    *,
    issuer: str | None,
    clients: Sequence[str] | None,
    audiences: Sequence[str] | None,
    scopes: Sequence[str] | None,
    claims: Sequence[str] | None,
    shared: bool | None,
    providers: Sequence[str] | None,
    return_urls: Sequence[str] | None,
    identity_audiences: Sequence[str] | None,
    may_assert_users: bool | None,
    owner: str | None,
    tags: Sequence[str] | None,
    disabled: bool | None = None,
) -> WorkloadSpec:
    """Put the specification together."""
    rules, pairs = _list(claims), _list(tags)
    return WorkloadSpec(
        issuer=issuer,
        audiences=_list(audiences),
        clients=_list(clients),
        scopes=_list(scopes),
        claims=None if rules is None else tuple(map(parse_claim, rules)),
        shared_authorizer=shared,
        allowed_providers=_list(providers),
        return_urls=_list(return_urls),
        identity_audiences=_list(identity_audiences),
        may_assert_users=may_assert_users,
        owner=owner,
        tags=None if pairs is None else tuple(pair_of("--tag", pair) for pair in pairs),
        disabled=disabled,
    )


def parse_claim(text: str) -> ClaimRule:
    """Read a required claim as it is written on the command line.

    Raises:
        InvalidRequest: If it is none.
    """
    listed = _LISTED.fullmatch(text.strip())
    if listed:
        values = tuple(value.strip() for value in listed[3].split(","))
        return ClaimRule(listed[1], _OPERATORS[listed[2]], values)
    name, separator, value = text.partition("=")
    if not separator or not name.strip():
        raise InvalidRequest(f"--required-claim is {CLAIM_SYNTAX}")
    return ClaimRule(name.strip(), ClaimOperator.EQUALS, (value,))


def show_claim(rule: ClaimRule) -> str:
    """A required claim as it is written on the command line."""
    values = ",".join(rule.values)
    return f"{rule.claim} {_WORDS[rule.operator]} {values}" if rule.operator in _WORDS else f"{rule.claim}={values}"


def _list(given: Sequence[str] | None) -> tuple[str, ...] | None:
    """What was said; nothing where it was said once and empty, which is how a list is emptied."""
    if given is None:
        return None
    return () if list(given) == [""] else tuple(given)
