"""What a host is told of a tool's effects before it calls it (MCP tool annotations); they are hints and decide nothing."""

from __future__ import annotations

from mcp.types import ToolAnnotations


def reads() -> ToolAnnotations:
    """It only looks."""
    return ToolAnnotations(read_only_hint=True, open_world_hint=False)


def obtains() -> ToolAnnotations:
    """It gets something from elsewhere; asking twice gives the same."""
    return ToolAnnotations(read_only_hint=False, destructive_hint=False, idempotent_hint=True, open_world_hint=True)


def starts() -> ToolAnnotations:
    """It begins something new each time."""
    return ToolAnnotations(read_only_hint=False, destructive_hint=False, idempotent_hint=False, open_world_hint=True)


def issues() -> ToolAnnotations:
    """It makes something new each time, here alone."""
    return ToolAnnotations(read_only_hint=False, destructive_hint=False, idempotent_hint=False, open_world_hint=False)


def makes(*, asks_others: bool = True) -> ToolAnnotations:
    """It makes something of a name, once; what that is may be looked up elsewhere."""
    return ToolAnnotations(read_only_hint=False, destructive_hint=False, idempotent_hint=False, open_world_hint=asks_others)


def changes(*, asks_others: bool = True) -> ToolAnnotations:
    """It puts something in the place of what was there; asking twice gives the same."""
    return ToolAnnotations(read_only_hint=False, destructive_hint=True, idempotent_hint=True, open_world_hint=asks_others)


def revokes() -> ToolAnnotations:
    """It ends something, here and elsewhere."""
    return ToolAnnotations(read_only_hint=False, destructive_hint=True, idempotent_hint=True, open_world_hint=True)


def calls() -> ToolAnnotations:
    """It does elsewhere whatever it is asked to."""
    return ToolAnnotations(read_only_hint=False, destructive_hint=True, idempotent_hint=False, open_world_hint=True)
