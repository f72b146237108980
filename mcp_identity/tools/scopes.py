"""Which scope of a caller's token does what need? One table, for the gate that challenges and for the edge that refuses.

Scopes are asked for only of issuers that were added with required tool scopes; `Principal.tool_scopes` is None for everybody
else. A name that stands nowhere here needs the scope of operators, so that who forgets a tool serves it to no agent.

An operator is who starts the process (stdio), or who brings a token of an issuer that was added with required tool scopes and
that says `identity:admin`: a token of its own, by which its identity provider says so. A workload key, a workload access token,
whatever it was made from, and a token that nobody asks for scopes are an agent's.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from mcp_identity.domain.identity import ADMIN_SCOPE, READ_SCOPE, TOKEN_SCOPE, Proof

if TYPE_CHECKING:
    from mcp_identity.domain.identity import Principal

READ: Final = READ_SCOPE
TOKEN: Final = TOKEN_SCOPE
ADMIN: Final = ADMIN_SCOPE

TOOL_SCOPES: Final[Mapping[str, str]] = MappingProxyType(
    {
        "list_providers": READ,
        "list_grants": READ,
        "whoami": READ,
        "get_consent": READ,
        "get_token": TOKEN,
        "get_api_key": TOKEN,
        "call_api": TOKEN,
        "start_consent": TOKEN,
        "complete_consent": TOKEN,
        "revoke_grant": TOKEN,
        "get_workload_access_token": TOKEN,
        "get_identity_token": TOKEN,
    }
)
"""Every tool for agents, and the scope that it needs."""

FOR_WORKLOADS: Final = frozenset({"get_workload_access_token", "get_identity_token"})
"""What only a workload itself is given: nobody who came for a user, or by a token that was derived."""

SCOPE_OF: Final[Mapping[str, str]] = MappingProxyType(
    {
        **TOOL_SCOPES,
        "identity://providers": READ,
        "identity://grants": READ,
        "connect-account": READ,
    }
)
"""The same with the resources, by URI, and the prompt, by name: what `Mcp-Name` says in protocol version 2026-07-28."""


def scope_of(name: str) -> str:
    """The scope that a tool, a resource or a prompt needs."""
    return SCOPE_OF.get(name, ADMIN)


def is_allowed(principal: Principal, name: str) -> bool:
    """Whether a principal has the scope that a tool, a resource or a prompt needs."""
    needed = scope_of(name)
    if needed == ADMIN:
        return administers(principal)
    return principal.tool_scopes is None or needed in principal.tool_scopes


def administers(principal: Principal) -> bool:
    """Whether a principal is an operator; nobody is by default."""
    return principal.is_operator_by_token or principal.authenticated_by == Proof.STDIO


def is_of_use(principal: Principal, name: str) -> bool:
    """Whether a principal may call a tool, as far as that can be said before it does."""
    return is_allowed(principal, name) and (name not in FOR_WORKLOADS or principal.is_workload_itself)


def scopes_needed(principal: Principal, name: str) -> tuple[str, ...]:
    """Every scope to ask the identity provider for: what this needs, and ours that the token has; clients replace, not add."""
    held = (principal.tool_scopes or frozenset[str]()) & {READ, TOKEN, ADMIN}
    return tuple(sorted({scope_of(name), *held}))
