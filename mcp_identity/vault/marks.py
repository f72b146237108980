"""When is a vault not one that this version works with, and what is said then?

Every opening and every batch of the writer asks. A vault that a copy or a restore has not finished asks for a writer's version
that no writer has: this version says why, and an older one takes it for a newer vault.
"""

from __future__ import annotations

from mcp_identity.domain.errors import VaultUnavailable

FILLING = 1 << 31
"""Stands for the writer's version of a vault that is being filled."""


def unusable(name: str, minimum_writer: int) -> VaultUnavailable:
    """What is said of a vault that asks for another version than ours.

    Args:
        name: The vault, for people.
        minimum_writer: The least version that may write to it.
    """
    if minimum_writer == FILLING:
        why = f"{name} is being filled by vault copy or vault restore; to finish it, run that same command again"
    else:
        why = f"{name} was written by a newer version of mcp-identity; restart this process with that version"
    return VaultUnavailable(why, retryable=False)
