"""Identity for AI agents over the Model Context Protocol.

What stands here is for agent code, and is loaded when it is first used; `mcp_identity.sdk` says what it is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mcp_identity.sdk import (
        AccessToken,
        ConsentRequiredError,
        CredentialProvider,
        IdentityClient,
        IdentityClientError,
        acting_for,
        requires_access_token,
        requires_api_key,
    )

__all__ = [
    "AccessToken",
    "ConsentRequiredError",
    "CredentialProvider",
    "IdentityClient",
    "IdentityClientError",
    "__version__",
    "acting_for",
    "requires_access_token",
    "requires_api_key",
]

__version__ = "0.1.0"


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from mcp_identity import sdk

    return getattr(sdk, name)
