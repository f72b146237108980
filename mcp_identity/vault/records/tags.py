"""How the tags of a row are written: pairs as JSON, nothing for none."""

from __future__ import annotations

import json

from mcp_identity.domain.errors import VaultCorrupt


def encode_tags(tags: tuple[tuple[str, str], ...]) -> str:
    """Tags as they are stored."""
    return json.dumps(tags) if tags else ""


def decode_tags(text: str) -> tuple[tuple[str, str], ...]:
    """The tags that were stored.

    Raises:
        VaultCorrupt: If it is not what the product wrote.
    """
    try:
        return tuple((str(name), str(value)) for name, value in json.loads(text or "[]"))
    except (TypeError, ValueError):
        raise VaultCorrupt("tags are not what the product wrote") from None
