"""From a request to a plan: with the provider as this process last read it, or as the vault has it now.

What was remembered decides nothing that stands: the unit that serves checks the provider once more, and a refusal is told only
once the vault has said that the provider is still the same.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

from mcp_identity.broker.access import require_access
from mcp_identity.broker.answers import TokenRequest
from mcp_identity.broker.audit import Call
from mcp_identity.broker.directory import Directory
from mcp_identity.broker.plan import Plan, make_plan
from mcp_identity.domain.errors import IdentityError
from mcp_identity.domain.provider import CredentialProvider

T = TypeVar("T")


async def plan_anew(directory: Directory, call: Call, request: TokenRequest) -> Plan:
    """Plan on what the vault says of the provider.

    Raises:
        UnknownProvider: If there is no such provider.
        AccessDenied: If the principal may not use it.
        IdentityError: As `make_plan`.
    """
    return _plan_on(call, request, await directory.get(call.principal.tenant, request.provider))


async def with_plan(
    directory: Directory, call: Call, request: TokenRequest, perform: Callable[[Call, Plan], Awaitable[T]]
) -> T:
    """Perform on what this process remembers of the provider, and again on what the vault says where that was not right.

    Raises:
        IdentityError: As `plan_anew`, and as `perform` says.
    """
    tenant, name = call.principal.tenant, request.provider
    remembered = directory.recall(tenant, name)
    if remembered is not None:
        try:
            return await perform(call, _plan_on(call, request, remembered))
        except IdentityError:
            if await directory.find(tenant, name) == remembered:
                raise
    return await perform(call, await plan_anew(directory, call, request))


def _plan_on(call: Call, request: TokenRequest, provider: CredentialProvider) -> Plan:
    require_access(call.principal, call.action, provider, frozenset())
    return make_plan(call.principal, provider, request)
