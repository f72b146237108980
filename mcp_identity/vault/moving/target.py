"""Where is a vault put?

At a site with no vault, or with one that an earlier attempt began to fill, while nobody else does anything there.
"""

from __future__ import annotations

import contextlib
from collections.abc import Generator
from dataclasses import dataclass

from sqlalchemy import Connection

from mcp_identity.domain.errors import Conflict, VaultCorrupt
from mcp_identity.vault.making import run_migrations
from mcp_identity.vault.marks import FILLING
from mcp_identity.vault.moving.state import State, insert_state
from mcp_identity.vault.stores.site import Site, VaultState
from mcp_identity.vault.stores.store import Store


@dataclass(frozen=True, slots=True)
class Target:
    """The place that a vault is put into.

    Attributes:
        site: Where it is.
        is_held: Nobody else has it open, because this process holds the whole folder already.
    """

    site: Site
    is_held: bool = False

    @property
    def name(self) -> str:
        """What people call it; no password is in it."""
        return self.site.name

    @property
    def store(self) -> Store:
        """How it is read and written, by whoever is alone with it."""
        return self.site.bare()

    def standing(self) -> VaultState | None:
        """What is there, read without changing a byte of it; None for nothing.

        Raises:
            ConfigurationError: If others can get at the place.
            Conflict: If there is something else than a vault.
        """
        self.site.check_surroundings()
        if not self.site.has_vault():
            return None
        try:
            return list(self.site.states())[-1]
        except VaultCorrupt:
            what = "something that is no vault, or a damaged one"
            raise Conflict(f"{self.name} holds {what}, which is left as it is; name an empty database") from None

    def begin(self, state: State) -> bool:
        """Make the schema, and the vault that is marked as being filled, in one step.

        Args:
            state: The vault that comes.

        Returns:
            Whether an earlier attempt had begun already.

        Raises:
            Conflict: If there is a vault.
        """
        with contextlib.nullcontext() if self.site.has_vault() else self.site.creating():
            standing = self.standing()
            if standing is None:
                self.site.check_vacancy()
                self.site.make(lambda connection: _make(connection, state))
                return False
        self._require_begun(standing, state)
        return True

    @contextlib.contextmanager
    def alone(self, state: State) -> Generator[Store]:
        """Be the only one who fills it.

        Args:
            state: The vault that comes.

        Raises:
            Conflict: If somebody else has finished meanwhile.
            VaultUnavailable: If somebody else is at it.
        """
        with contextlib.nullcontext() if self.is_held else self.site.exclusive():
            self._require_begun(self.standing(), state)
            yield self.store

    def _require_begun(self, standing: VaultState | None, state: State) -> None:
        if standing is None or standing.vault_id != state.vault_id:
            raise Conflict(f"{self.name} holds another vault, which is left as it is; name an empty database")
        if standing.minimum_writer != FILLING:
            raise Conflict(f"{self.name} holds this vault already, and may have been used since; it is left as it is")


def _make(connection: Connection, state: State) -> None:
    run_migrations(connection)
    insert_state(connection, state)
