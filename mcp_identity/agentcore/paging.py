"""How does a client go on where a page ended? With a token that says after which name, and is good for that listing alone.

It holds the operation, the tenant and a name that the client has seen, so there is nothing in it to protect: whoever makes one
up gets another page of their own tenant's listing, which they may see anyhow. It needs no memory, so any replica takes it.
"""

from __future__ import annotations

import binascii
import json
from base64 import urlsafe_b64decode, urlsafe_b64encode

from mcp_identity.agentcore.errors import Fields
from mcp_identity.domain.identity import is_resource_name

_VERSION = 1
_LONGEST = 2048
_FIELD = "nextToken"


def next_token(operation: str, tenant: str, after: str) -> str | None:
    """The token of the page that follows, or None where none does."""
    if not after:
        return None
    return urlsafe_b64encode(json.dumps([_VERSION, operation, tenant, after]).encode()).decode("ascii")


def page_after(operation: str, tenant: str, token: str | None) -> str:
    """The name that the page before ended with; empty for the first page.

    Raises:
        Fields: If the token is none, or is of another listing.
    """
    if not token:
        return ""
    try:
        read: object = json.loads(urlsafe_b64decode(token.encode("ascii"))) if len(token) <= _LONGEST else None
    except (ValueError, RecursionError, binascii.Error):
        read = None
    match read:
        case [int(version), str(of), str(whose), str(after)] if (
            (version, of, whose) == (_VERSION, operation, tenant) and is_resource_name(after)  # no database takes every text
        ):
            return after
        case _:
            raise Fields((_FIELD, f"is none that {operation} gave; leave it out to begin anew"))
