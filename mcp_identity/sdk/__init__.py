"""The Python client: credentials for agent code, in one decorator, one call, or one method.

    from mcp_identity import requires_access_token

    @requires_access_token(provider_name="github", scopes=["repo"], auth_flow="USER_FEDERATION")
    async def list_repositories(owner: str, *, access_token: str = "") -> list[str]: ...

    IdentityClient      the connection to a server; `get_token`, `get_api_key`, `configure_authorizer`, `store_credential`, …
    CredentialProvider  one provider by name: `get_access_token()`, `get_api_key()`
    requires_*          decorators that fetch a credential at each call and pass it by keyword
    acting_for          for whom the code in a block acts

It knows the server by the wire alone: it speaks MCP to `MCP_IDENTITY_URL`, or over stdio to one that it starts. Who is asking
is proved by the bearer and never by an argument; over stdio it is this machine's user.

    errors.py        what can go wrong, and what to do about it
    endpoint.py      where the server is, and who asks it
    acting.py        the bearer of one request
    tokens.py        what kind of token is wanted, and what came
    steps.py         what has to be asked, shown and waited for: generators without I/O
    registration.py  the same, for agents, issuers and providers
    driving.py       does the steps, in a thread or in a task
    engine.py        the event loop in which calls run, on a thread of its own
    connections.py   the MCP connections that are kept there
    wire.py          HTTP below MCP

Nothing here is loaded before it is used, `mcp` last of all.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mcp_identity.sdk.acting import acting_for
    from mcp_identity.sdk.client import IdentityClient
    from mcp_identity.sdk.credential_provider import CredentialProvider
    from mcp_identity.sdk.decorators import requires_access_token, requires_api_key
    from mcp_identity.sdk.errors import ConsentRequiredError, IdentityClientError
    from mcp_identity.sdk.tokens import AccessToken

__all__ = [
    "AccessToken",
    "ConsentRequiredError",
    "CredentialProvider",
    "IdentityClient",
    "IdentityClientError",
    "acting_for",
    "requires_access_token",
    "requires_api_key",
]

_PLACES = {
    "AccessToken": "tokens",
    "ConsentRequiredError": "errors",
    "CredentialProvider": "credential_provider",
    "IdentityClient": "client",
    "IdentityClientError": "errors",
    "acting_for": "acting",
    "requires_access_token": "decorators",
    "requires_api_key": "decorators",
}


def __getattr__(name: str) -> object:
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = getattr(import_module(f"{__name__}.{_PLACES[name]}"), name)
    globals()[name] = found
    return found
