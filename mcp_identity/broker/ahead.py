"""When is a token that is still good refreshed beside the call that it answers, so that no later call has to wait?

In the last fifth of its life, at most an hour before its end, and only when somebody uses it: a grant that nobody asks for is
left alone. Each grant has a moment of its own in that time, so that what was obtained together is not refreshed together. The
caller is served at once and never learns how the refresh ended; the trail does. It is a refresh like any other: one for each
grant, with the lease and the intent, and none where something is wrong with the vendor. A user's token only where the vendor is
known to leave the old one valid: others end it, and the caller would hold a dead one.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from hashlib import sha256

from mcp_identity.domain.credentials import CLOCK_TOLERANCE, Grant

SHORTEST_LIFE = timedelta(minutes=1)
"""A shorter-lived token is refreshed when it is needed."""
LONGEST_LEAD = timedelta(hours=1)
_SHARE = 5
_SPREAD = 0.4


def is_ageing(grant: Grant, now: datetime) -> bool:
    """Whether the moment to refresh a grant's good token has come.

    Args:
        grant: As it is served.
        now: The time on the wall; one before the token was obtained is a clock that was set, and says nothing.
    """
    tokens = grant.tokens
    ends, life = (tokens.effective_expires_at, tokens.life) if tokens else (None, None)
    if tokens is None or ends is None or life is None:
        return False
    left, lead = ends - now, min(life / _SHARE, LONGEST_LEAD)
    if left > lead or life < SHORTEST_LIFE or now < tokens.obtained_at - CLOCK_TOLERANCE:  # nearly every call ends here
        return False
    return tokens.may_refresh(now) and left <= lead * (1 - _SPREAD * _lot(grant))


def _lot(grant: Grant) -> float:
    """What a generation of a grant draws, from 0 to 1; every process draws the same."""
    digest = sha256(f"{grant.id} {grant.generation}".encode()).digest()
    return int.from_bytes(digest[:4], "big") / (1 << 32)
