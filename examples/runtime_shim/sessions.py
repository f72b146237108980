"""Who sits at which browser, and what is being asked there? In memory; a real application keeps it for all its processes.

A session is made by a sign-in and never before, so nobody can plant one in another's browser and wait. Its id is random and
known to that browser's cookie alone.
"""

from __future__ import annotations

import secrets
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import anyio

from .pages import View

SIGN_IN_SECONDS = 600
MOST = 10_000
"""Sessions and sign-ins at once; beyond it the oldest go, so that strangers cannot fill the memory."""


@dataclass(slots=True)
class Conversation:
    """One question, the consent that it may need, and the answer.

    Attributes:
        view: What is shown.
        state: Comes back with the browser from a consent of this question, and of no other.
        scope: Ends the agent's work.
    """

    view: View = field(default_factory=View)
    state: str = ""
    scope: anyio.CancelScope | None = None
    _changed: anyio.Event = field(default_factory=anyio.Event)

    def show(self, **fields: Any) -> None:
        """Change what is shown, and wake who waits for it."""
        self.view = replace(self.view, version=self.view.version + 1, **fields)
        changed, self._changed = self._changed, anyio.Event()
        changed.set()

    async def changed_since(self, version: int, wait_seconds: float) -> bool:
        """Wait until there is something newer than a version; whether there is."""
        with anyio.move_on_after(wait_seconds):
            while self.view.version <= version:
                await self._changed.wait()
        return self.view.version > version

    @asynccontextmanager
    async def asking(self, question: str) -> AsyncGenerator[str]:
        """Begin anew; what was asked before is not waited for any more. Gives the state of the new question's consent."""
        if self.scope is not None:
            self.scope.cancel()
        with anyio.CancelScope() as self.scope:
            self.state = secrets.token_urlsafe(32)
            self.show(state="working", question=question, link="", text="")
            yield self.state


@dataclass(frozen=True, slots=True)
class Session:
    """A signed-in browser.

    Attributes:
        id: What its cookie holds.
        user_token: The user's access token; it stays on the server.
        name: For people.
        form_token: Stands in this browser's forms.
        conversation: What is asked there.
    """

    id: str
    user_token: str
    name: str
    form_token: str = field(default_factory=lambda: secrets.token_urlsafe(32))
    conversation: Conversation = field(default_factory=Conversation)


@dataclass(frozen=True, slots=True)
class SignIn:
    """A sign-in on its way.

    Attributes:
        id: What the browser's cookie holds meanwhile.
        state: Comes back with the code.
        verifier: Of PKCE.
        begun_at: On the monotonic clock.
    """

    id: str
    state: str
    verifier: str
    begun_at: float


class Sessions:
    """All of them."""

    def __init__(self) -> None:
        self._sessions: dict[str, Session] = {}
        self._sign_ins: dict[str, SignIn] = {}

    def begin(self) -> SignIn:
        """Begin a sign-in."""
        made = SignIn(*(secrets.token_urlsafe(32) for _ in range(3)), begun_at=anyio.current_time())
        _put(self._sign_ins, made.id, made)
        return made

    def finish(self, identifier: str, state: str) -> SignIn | None:
        """Take a sign-in that came back to the browser where it began; None if it is not that one, or too old."""
        found = self._sign_ins.pop(identifier, None)
        if found is None or not secrets.compare_digest(found.state.encode(), state.encode()):
            return None
        return found if anyio.current_time() - found.begun_at < SIGN_IN_SECONDS else None

    def open(self, user_token: str, name: str) -> Session:
        """Make a session for a user who has just proved to be one."""
        made = Session(secrets.token_urlsafe(32), user_token, name)
        _put(self._sessions, made.id, made)
        return made

    def find(self, identifier: str) -> Session | None:
        """The session of a cookie."""
        return self._sessions.get(identifier)

    def close(self, session: Session) -> None:
        """End a session, and what is being asked in it."""
        self._sessions.pop(session.id, None)
        if session.conversation.scope is not None:
            session.conversation.scope.cancel()


def _put(where: dict[str, Any], name: str, value: Any) -> None:
    where[name] = value
    while len(where) > MOST:
        where.pop(next(iter(where)))
