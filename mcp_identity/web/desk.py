"""What do the pages need from behind the counter?

The one protocol between the browser edge and the broker. It holds no logic: the broker has these methods, tests bring a
fake. Whatever a page shows or does comes through here, so nothing in `web/` ever sees a token, a code or a vault row.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from mcp_identity.domain.consent import ConsentBegun, ConsentView


class ConsentDesk(Protocol):
    """The counter that the consent pages knock at."""

    async def view_consent(self, session_id: str) -> ConsentView:
        """What the page of this session shows. Changes nothing: link previews come here too.

        Args:
            session_id: The random part of the session URI, 43 characters.

        Raises:
            ConsentNotFound: No such session.
        """
        ...

    async def begin_consent(self, session_id: str, *, allow_other_account: bool) -> ConsentBegun:
        """The button was pressed: make a fresh state and verifier, and void those of an earlier press.

        Args:
            session_id: The random part of the session URI.
            allow_other_account: The user ticked that another account than the connected one is meant.

        Raises:
            ConsentNotFound: No such session.
            ConsentExpired: Its ten minutes are over.
            Conflict: It is being finished, or has ended.
        """
        ...

    async def receive_callback(
        self, provider_id: str, parameters: Sequence[tuple[str, str]], browser_secrets: Mapping[str, str]
    ) -> str:
        """The vendor sent the browser back.

        Args:
            provider_id: From the callback's path.
            parameters: Every pair of the query in order, repeated and blank ones included.
            browser_secrets: What this browser's consent cookies hold: the first 16 characters of a session id → secret.

        Returns:
            The session id whose page tells the outcome, also where the session ended denied or failed.

        Raises:
            IdentityError: The callback belongs to no session that may be told about it.
        """
        ...

    async def has_open_consents(self) -> bool:
        """Whether any session of this vault waits for its user, whichever process made it."""
        ...

    def page_key(self) -> bytes:
        """32 bytes that authenticate forms; derived from the vault key, so every process of the vault has the same."""
        ...

    def prove_vault(self, nonce: bytes, port: int) -> bytes:
        """HMAC over nonce, vault id, port and protocol version: only a server of this vault can make it."""
        ...

    def check_vault_proof(self, nonce: bytes, port: int, proof: bytes) -> bool:
        """Whether `proof` is what a server of this vault answers on `port`; compared in constant time."""
        ...
