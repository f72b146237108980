"""What is asked of a place where a vault is, or will be, before anybody has a key: is there one, whose is it, may it be made?

Nothing here changes a vault but `make` and `upgrade`, which are called with every other process kept away.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

from sqlalchemy import Connection

from mcp_identity.domain.errors import VaultCorrupt
from mcp_identity.vault.stores.store import Store

STATE_QUERY = (
    "SELECT vault_id, schema_version, minimum_writer, key_id, key_check, "
    "COALESCE((SELECT backend_key_id FROM vault_keys WHERE tenant = '' AND purpose = 'check' AND version = 1), '') "
    "FROM vault_state"
)
Change = Callable[[Connection], None]
"""Brings a database to another state, inside a transaction."""


@dataclass(frozen=True, slots=True)
class VaultState:
    """What a vault says of itself to everybody.

    Attributes:
        vault_id: Its random id.
        schema_version: Its schema.
        minimum_writer: The oldest version that may write it.
        key_id: The key-encryption key that its keys are under.
        key_check: A text wrapped by that key.
        coming_key_id: The key-encryption key that it is being moved to; empty where it is not.
    """

    vault_id: str
    schema_version: int
    minimum_writer: int
    key_id: str
    key_check: bytes
    coming_key_id: str = ""


class Site(Protocol):
    """The place of one vault."""

    @property
    def name(self) -> str:
        """What people call it; no password is in it."""
        ...

    @property
    def upgrades_itself(self) -> bool:
        """Whether a vault of an older schema is upgraded where it is met, or by the operator's command alone."""
        ...

    def check_surroundings(self) -> None:
        """Refuse a place that others can get at.

        Raises:
            ConfigurationError: If it is one.
        """
        ...

    def has_vault(self) -> bool:
        """Whether there is a vault, or something in its place."""
        ...

    def check_vacancy(self) -> None:
        """Refuse to make a vault where one is lost.

        Raises:
            ConfigurationError: If something is left of it.
        """
        ...

    def is_being_made(self) -> bool:
        """Whether another process may be making it right now."""
        ...

    def creating(self) -> AbstractContextManager[None]:
        """Be the only process that makes a vault here.

        Raises:
            VaultUnavailable: If another one takes too long over it.
        """
        ...

    def make(self, fill: Change) -> None:
        """Make the vault, whole or not at all, inside `creating`.

        Args:
            fill: Puts into an empty database what a new vault holds.
        """
        ...

    def states(self) -> Iterator[VaultState]:
        """What the vault says of itself, changing nothing: each as soon as it can be read, the last one is what holds.

        Raises:
            ConfigurationError: If others can read it.
            VaultCorrupt: If it is no vault, or holds what is none of ours.
        """
        ...

    def exclusive(self) -> AbstractContextManager[None]:
        """Be the only process that upgrades the vault.

        Raises:
            VaultUnavailable: If others keep it busy for too long.
        """
        ...

    def upgrade(self, change: Change, version: int) -> None:
        """Bring the vault to another schema, whole or not at all, inside `exclusive`.

        Args:
            change: Changes the schema.
            version: The schema's; the backup is named after it.
        """
        ...

    def bare(self) -> Store:
        """The store, for whoever is alone with the vault, inside `exclusive`."""
        ...

    def open(self) -> Store:
        """Open it for work; nobody upgrades it in a way that this process does not see.

        Raises:
            VaultUnavailable: If that takes too long.
        """
        ...


def parse_state(row: object, name: str) -> VaultState:
    """The state, out of the row that `STATE_QUERY` found.

    Raises:
        VaultCorrupt: If there was none, or it is of another shape than the product writes.
    """
    if not isinstance(row, tuple) or tuple(map(type, row)) != (str, int, int, str, bytes, str):  # pyright: ignore[reportUnknownArgumentType]
        raise VaultCorrupt(f"{name} holds no vault; restore it from a backup")
    return VaultState(*row)  # pyright: ignore[reportUnknownArgumentType]
