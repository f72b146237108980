"""Which token set do the tests of the domain begin with?"""

from __future__ import annotations

from datetime import timedelta

from mcp_identity.domain.credentials import Secret, TokenSet
from tests.fakes.clock import START


def tokens(life_seconds: float | None = 3600) -> TokenSet:
    """A token set that was obtained at `START`; None for one without an end."""
    return TokenSet(
        access_token=Secret("access"),
        token_type="Bearer",
        scopes=frozenset({"a"}),
        requested_scopes=frozenset({"a", "b"}),
        obtained_at=START,
        expires_at=None if life_seconds is None else START + timedelta(seconds=life_seconds),
        refresh_token=Secret("refresh"),
    )
