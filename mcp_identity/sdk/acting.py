"""For whom does this code act? The bearer of one request, kept where only its own tasks and threads see it."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from contextvars import ContextVar

from mcp_identity.sdk.errors import IdentityClientError

_bearer: ContextVar[str] = ContextVar("mcp_identity_bearer", default="")


@contextmanager
def acting_for(token: str) -> Generator[None]:
    """Act for a user while the block lasts: every call in it is made with this bearer.

    Tasks and worker threads that begin in the block inherit it (`anyio.to_thread`, `asyncio.to_thread`, endpoints of FastAPI
    and Starlette); a thread that you start yourself does not, unless you run it in `contextvars.copy_context()`.

    Args:
        token: The user's own access token as your application received it, or a workload access token.

    Raises:
        IdentityClientError: If it cannot be a bearer; nothing of it is repeated.
    """
    check_bearer(token)
    before = _bearer.set(token)
    try:
        yield
    finally:
        _bearer.reset(before)


def current_bearer() -> str:
    """The bearer of the block that this code runs in, or nothing."""
    return _bearer.get()


def check_bearer(token: str) -> None:
    """Check that a text can stand in an `Authorization` header.

    Raises:
        IdentityClientError: If not; nothing of it is repeated.
    """
    if not token or not token.isascii() or not token.isprintable() or " " in token:
        raise IdentityClientError(
            "invalid_request",
            "a bearer is a token of visible ASCII characters",
            remedy="Pass the token alone, without the word Bearer, and never an empty one.",
        )
