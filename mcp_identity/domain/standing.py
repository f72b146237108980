"""Is a caller, who was believed on what this process remembers, still to be believed?

What proved them was read under one configuration epoch. The first unit of work that runs for their request is run only if that
epoch still holds; it is the one place where that is known for certain, and it costs nothing there. Until then nothing is
confirmed, and nothing may leave.
"""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass


class Outdated(Exception):
    """The configuration has changed since the caller was believed: nothing was done, and they must be verified anew."""


@dataclass(slots=True)
class Standing:
    """How far a remembered caller is to be believed.

    Attributes:
        epoch: The configuration epoch that what proved them was read under.
        is_confirmed: Whether it still held when a unit of work ran for this request.
    """

    epoch: int
    is_confirmed: bool = False


standing: ContextVar[Standing | None] = ContextVar("standing", default=None)
"""Of the request that is being served; None where its caller was verified with it."""
