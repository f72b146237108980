"""The end of one writer's audit chain: what the next row's MAC is computed over.

A working copy moves with every row that is appended and goes back with a savepoint; the committed one moves with COMMIT.
Where COMMIT failed nobody knows which of the two stands, until the database is asked.
"""

from __future__ import annotations

from dataclasses import dataclass

GENESIS = b"\x00" * 32


@dataclass(frozen=True, slots=True)
class Head:
    """Where a chain ends.

    Attributes:
        sequence: The number of its last row; 0 for an empty chain.
        mac: That row's MAC.
        registered: Whether the writer stands in the registry.
    """

    sequence: int = 0
    mac: bytes = GENESIS
    registered: bool = False


class AuditChain:
    """The chain of one process."""

    def __init__(self, writer_id: str) -> None:
        """Begin an empty chain."""
        self.writer_id = writer_id
        self.committed = Head()
        self.working = Head()
        self.in_doubt = False

    def begin(self) -> None:
        """Start a batch from what is committed."""
        self.working = self.committed

    def commit(self) -> None:
        """The batch stands."""
        self.committed = self.working
        self.in_doubt = False
