"""What do the pages need from behind the counter?

The protocols between the browser edge and what decides. They hold no logic: the broker and `inbound/login.py` have these
methods, tests bring fakes. Whatever a page shows or does comes through here, so nothing in `web/` ever sees a token, a code
or a vault row.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from mcp_identity.domain.consent import ConsentBegun, ConsentView, Returned, SignInView
from mcp_identity.domain.credentials import Secret
from mcp_identity.domain.login import BrowserSession, LoginBegun, LoginDone, LoginPurpose, LoginTarget


class ConsentDesk(Protocol):
    """The counter that the consent pages knock at."""

    async def view_consent(self, session_id: str, browser: BrowserSession | None = None) -> ConsentView | SignInView:
        """What the page of this session shows. Changes nothing: link previews come here too.

        Args:
            session_id: The random part of the session URI, 43 characters.
            browser: Who has signed in at the browser that asks.

        Returns:
            The request, or nothing of it where the browser has to prove first that it is the initiator's.

        Raises:
            ConsentNotFound: No such session.
        """
        ...

    async def begin_consent(
        self, session_id: str, *, allow_other_account: bool, browser: BrowserSession | None = None
    ) -> ConsentBegun:
        """The button was pressed: make a fresh state and verifier, and void those of an earlier press.

        Args:
            session_id: The random part of the session URI.
            allow_other_account: The user ticked that another account than the connected one is meant.
            browser: Who has signed in at the browser that asks.

        Raises:
            ConsentNotFound: No such session.
            ConsentMismatch: The browser has to prove first that it is the initiator's.
            ConsentExpired: Its ten minutes are over.
            Conflict: It is being finished, or has ended.
        """
        ...

    async def receive_callback(
        self,
        provider_id: str,
        parameters: Sequence[tuple[str, str]],
        browser_secrets: Mapping[str, str],
        browser: BrowserSession | None = None,
    ) -> Returned:
        """The vendor sent the browser back.

        Args:
            provider_id: From the callback's path.
            parameters: Every pair of the query in order, repeated and blank ones included.
            browser_secrets: What this browser's consent cookies hold: the first 16 characters of a session id → secret.
            browser: Who has signed in there.

        Returns:
            Where the browser goes now: to the app, or to the page that tells the outcome; nowhere if it is not the one that was
            asked.

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


class SignInDesk(Protocol):
    """The counter that sign-ins knock at."""

    async def start(
        self, target: LoginTarget, purpose: LoginPurpose, consent_id: str = "", *, another_user: bool = False
    ) -> LoginBegun:
        """The sign-in button was pressed.

        Args:
            target: Where to sign in.
            purpose: What for.
            consent_id: The consent that it is for, or empty.
            another_user: The identity provider shall ask again who it is.

        Raises:
            ProviderMisconfigured: Nobody can sign in there.
            RateLimited: Too many are on their way.
        """
        ...

    async def finish(
        self, issuer_id: str, parameters: Sequence[tuple[str, str]], browser_secrets: Mapping[str, str]
    ) -> LoginDone:
        """The identity provider sent the browser back.

        Args:
            issuer_id: From the callback's path.
            parameters: Every pair of the query in order, repeated and blank ones included.
            browser_secrets: What this browser's sign-in cookies hold, by their names.

        Raises:
            IdentityError: Nobody is signed in by that.
        """
        ...

    def seal(self, session: BrowserSession) -> Secret:
        """A browser session as its cookie."""
        ...

    def open(self, cookie: str) -> BrowserSession | None:
        """The browser session that a cookie holds; None where it is none of ours, or over."""
        ...

    async def current(self, cookie: str) -> BrowserSession | None:
        """The same, if the issuer still stands and nobody has ended the user's sessions since."""
        ...

    async def targets(self) -> tuple[tuple[str, LoginTarget], ...]:
        """Where people can sign in, each with the issuer's name."""
        ...
