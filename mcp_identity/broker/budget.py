"""How much of other people's answers does this process hold at once? So that many large ones do not use up its memory.

Counted as it is read, because nobody knows before how long an answer is. A read that finds no room is told to come again. What
may have changed something at the vendor is never told so, for it would be done twice: its answer is cut where the room ends.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager

from mcp_identity.domain.errors import RateLimited
from mcp_identity.domain.http import Method

ANSWER_BYTES = 256 * 1024 * 1024
"""Of all answers of APIs under way, in one process."""
_SAFE = frozenset({"GET", "HEAD"})


class Account:
    """What one call holds."""

    def __init__(self, budget: Budget, method: Method) -> None:
        """Use `Budget.account`."""
        self._budget = budget
        self._is_safe = method in _SAFE
        self.held = 0

    def take(self, count: int) -> bool:
        """Take room for so many bytes more.

        Returns:
            Whether there is room; not where the answer has to end here.

        Raises:
            RateLimited: If there is none, and the request can be repeated.
        """
        if count <= self._budget.left:
            self._budget.left -= count
            self.held += count
            return True
        if self._is_safe:
            raise RateLimited("too many large answers are under way; ask again", retry_after_seconds=1)
        return False


class Budget:
    """The room that all calls share.

    Attributes:
        left: Bytes that nobody holds.
    """

    def __init__(self, size: int) -> None:
        """Nobody holds anything."""
        self.left = size

    @contextmanager
    def account(self, method: Method) -> Generator[Account]:
        """What a call takes, until it ends."""
        account = Account(self, method)
        try:
            yield account
        finally:
            self.left += account.held
