"""What the vault asks of a database: connections that are set up as its rules want them, and a few facts about itself.

Nothing of what a store returns is trusted; it is checked where it is read. Whether a process may open the vault at all is
decided in `opening.py`.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Protocol

from sqlalchemy import Connection, Engine


class Store(Protocol):
    """One database."""

    @property
    def name(self) -> str:
        """What people call it; no password is in it."""
        ...

    @property
    def shares_writes(self) -> bool:
        """Whether units that change rows may share a transaction.

        Where writers run beside each other, rows stay locked until COMMIT, and two batches could wait for each other.
        """
        ...

    def writing_engine(self) -> Engine:
        """An engine for the writer: its transactions read from one snapshot, and lose to nobody unnoticed."""
        ...

    def reading_engine(self) -> Engine:
        """An engine for readers beside the writer, pooled; they never write."""
        ...

    def carrying_engine(self) -> Engine:
        """An engine for connections that read a whole vault, however long that takes; they never write."""
        ...

    def is_open(self, connection: Connection) -> bool:
        """Whether the connection's transaction is still one that can be committed."""
        ...

    def is_dead(self, process_id: str) -> bool:
        """Whether the process of this id is known to have ended; False where nobody can know."""
        ...

    def checkpoint(self) -> None:
        """See to it that what is committed stands where it is read first when the vault is opened.

        Raises:
            VaultUnavailable: If others keep the database too busy for it.
        """
        ...

    def damage(self, connection: Connection) -> tuple[str, ...]:
        """What the database itself finds damaged in its files; empty for an intact one."""
        ...

    def standing_still(self) -> AbstractContextManager[None]:
        """See to it that nobody changes the vault, this process neither, until the block ends or the process does.

        Raises:
            VaultUnavailable: If others keep it open; where they are known, they are named.
        """
        ...

    def release(self) -> None:
        """Let go of what was held while the vault was open."""
        ...
