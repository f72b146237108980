"""How a token set becomes the plaintext of a sealed cell, and comes back.

Scopes, expiry and the way it was obtained are trusted from here alone; the columns that repeat them are search hints.
"""

from __future__ import annotations

import json
from typing import Any

from mcp_identity.domain.credentials import Secret, TokenSet
from mcp_identity.domain.errors import VaultCorrupt
from mcp_identity.vault.records.moments import micros, moment


def encode_tokens(tokens: TokenSet, obtained_by: str) -> bytes:
    """The plaintext to seal."""
    later = {"serve_until": micros(tokens.serve_until)} if tokens.serve_until else {}
    return json.dumps(
        {
            "access_token": tokens.access_token.reveal(),
            "token_type": tokens.token_type,
            "scopes": sorted(tokens.scopes),
            "requested_scopes": sorted(tokens.requested_scopes),
            "obtained_at": micros(tokens.obtained_at),
            "expires_at": micros(tokens.expires_at),
            "expiry_reported": tokens.expiry_reported,
            "refresh_token": tokens.refresh_token.reveal() if tokens.refresh_token else None,
            "refresh_expires_at": micros(tokens.refresh_expires_at),
            "account_id": tokens.account_id,
            "extra": tokens.extra,
            "destination": tokens.destination,
            "api_host": tokens.api_host,
            "obtained_by": obtained_by,
            **later,
        },
        separators=(",", ":"),
    ).encode()


def decode_tokens(plaintext: bytes) -> tuple[TokenSet, str]:
    """The token set, and how it was obtained.

    Raises:
        VaultCorrupt: If the plaintext is not what `encode_tokens` wrote.
    """
    try:
        cell: dict[str, Any] = json.loads(plaintext)
        obtained_at = moment(cell["obtained_at"])
        if obtained_at is None:
            raise VaultCorrupt("a token set has no time")
        tokens = TokenSet(
            access_token=Secret(cell["access_token"]),
            token_type=cell["token_type"],
            scopes=frozenset(cell["scopes"]),
            requested_scopes=frozenset(cell["requested_scopes"]),
            obtained_at=obtained_at,
            expires_at=moment(cell["expires_at"]),
            expiry_reported=cell["expiry_reported"],
            refresh_token=Secret(cell["refresh_token"]) if cell["refresh_token"] else None,
            refresh_expires_at=moment(cell["refresh_expires_at"]),
            account_id=cell["account_id"],
            extra=cell["extra"],
            destination=cell["destination"],
            api_host=cell.get("api_host", ""),  # older cells have none
            serve_until=moment(cell.get("serve_until", 0)),
        )
        return tokens, cell["obtained_by"]
    except (KeyError, TypeError, ValueError):
        raise VaultCorrupt("a token set is not what the product wrote") from None
