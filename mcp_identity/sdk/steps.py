"""What has to be asked, shown and waited for until a credential is there? Generators without I/O, the same for both drivers.

A flow yields a step, is sent the reply, and returns what was wanted or raises. So what a thread does and what a coroutine does
is written once, and is tested without a server. Nothing is kept between calls: the server holds the token and answers within
milliseconds, it alone knows of a revocation or a changed policy, and a copy here would outlive both.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from mcp_identity.sdk.endpoint import Who
from mcp_identity.sdk.errors import (
    CONSENT_REQUIRED,
    CONSENT_TIMED_OUT,
    UNREACHABLE,
    ConsentRequiredError,
    IdentityClientError,
    error_of,
)
from mcp_identity.sdk.tokens import AccessToken, TokenWish, access_token_of, text_of

T = TypeVar("T")
LONGEST_WAIT_SECONDS = 50
"""The most that the server waits in one call of `get_consent`."""
UNTIL_THE_LINK_ENDS = 660.0
"""How long to wait where nobody says: the server ends a consent after ten minutes, and says so."""
_PAUSES = (0.5, 1.0, 2.0, 4.0, 8.0)
_HARMLESS = frozenset({"whoami", "list_providers", "list_grants", "get_token", "get_api_key", "get_consent"})
ADMIN_TOOLS = frozenset(
    {
        "list_workload_identities",
        "get_workload_identity",
        "create_workload_identity",
        "update_workload_identity",
        "delete_workload_identity",
        "get_provider",
        "create_provider",
        "update_provider",
        "delete_provider",
        "list_issuers",
        "create_issuer",
        "delete_issuer",
        "list_all_grants",
        "list_all_providers",
        "revoke_grants",
        "search_audit",
    }
)
"""What only an operator may call."""
_WORKLOAD_TOKEN = "mid_wat_"  # noqa: S105 - how they begin


@dataclass(frozen=True, slots=True)
class Ask:
    """Call a tool.

    Attributes:
        tool: Its name.
        who: As whom.
        arguments: Its arguments.
        wait_seconds: How long the server may wait before it answers.
        repeatable: Asking twice does no harm, so it may be asked again where the answer was lost.
        admin: It is a tool of the operators'.
    """

    tool: str
    who: Who
    arguments: Mapping[str, Any] = field(default_factory=dict[str, Any], repr=False)
    wait_seconds: float = 0
    repeatable: bool = True
    admin: bool = False


@dataclass(frozen=True, slots=True)
class Redeem:
    """Redeem a one-time handle with a workload access token."""

    handle: str = field(repr=False)
    who: Who


@dataclass(frozen=True, slots=True)
class Show:
    """Show the user a link."""

    url: str = field(repr=False)
    provider: str


@dataclass(frozen=True, slots=True)
class Pause:
    """Do nothing for a moment."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Reply:
    """What came of a step.

    Attributes:
        said: The server's answer.
        seconds: How long that took.
    """

    said: Mapping[str, Any] = field(default_factory=dict[str, Any], repr=False)
    seconds: float = 0


Step = Ask | Redeem | Show | Pause
Steps = Generator[Step, Reply, T]


def asked(ask: Ask) -> Steps[Mapping[str, Any]]:
    """The answer of a tool.

    Raises:
        IdentityClientError: If it is an error.
    """
    return checked((yield ask).said)


def checked(said: Mapping[str, Any]) -> Mapping[str, Any]:
    """An answer that is no error.

    Raises:
        IdentityClientError: If it is one.
    """
    if said.get("status") == "error":
        raise error_of(said)
    return said


def checked_workload(who: Who) -> Steps[None]:
    """Make sure that a bearer speaks for the workload that the code names: a name alone proves nothing.

    Raises:
        IdentityClientError: If it speaks for another one.
    """
    me = yield from asked(Ask("whoami", who))
    if me.get("workload") != who.workload:
        raise IdentityClientError(
            "access_denied",
            f"this code is for the workload {who.workload}, and the bearer is of the workload {me.get('workload')}",
            remedy="Give the key of the named workload: IdentityClient(tokens={NAME: KEY}), or leave the name out.",
        )


def token_steps(who: Who, wish: TokenWish, wait_seconds: float | None) -> Steps[AccessToken]:
    """Get an access token; where the user has to agree first, show them the link and wait for them.

    Args:
        who: As whom.
        wish: What kind of token.
        wait_seconds: How long to wait for the user; None until the link ends, 0 not at all.

    Raises:
        ConsentRequiredError: If the user has not agreed in that time.
        IdentityClientError: If it cannot be had.
    """
    arguments = wish.arguments()
    tool = "start_consent" if wish.force_authentication and wish.asks_user else "get_token"
    said = yield from asked(Ask(tool, who, arguments))
    if said.get("status") == CONSENT_REQUIRED:
        session_uri = yield from consented(who, said, wait_seconds)
        said = yield from asked(Ask("get_token", who, {**arguments, "session_uri": session_uri}))
    if said.get("status") == CONSENT_REQUIRED:
        raise _required(said, CONSENT_REQUIRED, "the user has to agree again")
    if "handle" in said:
        missing = said.get("missing_scopes", [])
        said = yield from redeemed(who, said["handle"])
        said = {"missing_scopes": missing, **said}
    return access_token_of(said)


def api_key_steps(who: Who, provider: str) -> Steps[str]:
    """Get an API key.

    Raises:
        IdentityClientError: If it cannot be had.
    """
    said = yield from asked(Ask("get_api_key", who, {"provider": provider}))
    if "handle" in said:
        said = yield from redeemed(who, said["handle"])
    return text_of(said, "api_key")


def workload_token_steps(who: Who, user_token: str = "", user_id: str = "") -> Steps[str]:
    """Get a token that proves this workload and, where one is named, a user.

    Raises:
        IdentityClientError: If it cannot be had.
    """
    named = {name: value for name, value in {"user_token": user_token, "user_id": user_id}.items() if value}
    said = yield from asked(Ask("get_workload_access_token", who, named))
    return text_of(said, "workload_access_token")


def completion_steps(who: Who, session_id: str, user_token: str = "", user_id: str = "") -> Steps[str]:
    """Finish a consent that an application received; how it stands then.

    Raises:
        IdentityClientError: If it is not this user's, or has ended.
    """
    named = {name: value for name, value in {"user_token": user_token, "user_id": user_id}.items() if value}
    ask = Ask("complete_consent", who, {"session_uri": session_id, **named}, repeatable=False)
    said = yield from asked(ask)
    status = text_of(said, "status")
    if status not in ("completed", "pending"):
        raise _ended(status, said)
    return status


def tool_steps(who: Who, tool: str, arguments: Mapping[str, Any]) -> Steps[dict[str, Any]]:
    """Call any tool.

    Raises:
        IdentityClientError: If the answer is an error.
    """
    wait = arguments.get("wait_seconds", 0)
    wait = wait if isinstance(wait, int) else 0
    ask = Ask(tool, who, arguments, wait, repeatable=tool in _HARMLESS, admin=tool in ADMIN_TOOLS)
    return dict((yield from asked(ask)))


def redeemed(who: Who, handle: str) -> Steps[Mapping[str, Any]]:
    """The secret behind a handle: what the server keeps from models it gives to code with a workload access token.

    Raises:
        IdentityClientError: If this code cannot get such a token, or the handle is not its own.
    """
    if not who.bearer.startswith(_WORKLOAD_TOKEN):
        if not who.key:
            raise IdentityClientError(
                "access_denied",
                "this provider gives its secret to agent code alone, and a user's token does not prove that we are it",
                remedy="Give this program the workload's key, too: MCP_IDENTITY_WORKLOAD_KEY or token=.",
            )
        user_token = "" if who.bearer == who.key else who.bearer
        who = replace(who, bearer=(yield from workload_token_steps(replace(who, bearer=who.key), user_token)))
    return checked((yield Redeem(handle, who)).said)


def consented(who: Who, required: Mapping[str, Any], wait_seconds: float | None) -> Steps[str]:
    """Show the link and wait until the user has agreed; the session in which they did.

    The server waits, we do not poll. It may restart meanwhile: the session is in its vault.

    Raises:
        ConsentRequiredError: If they have not in time.
        IdentityClientError: If they said no, or it cannot be.
    """
    if wait_seconds is not None and wait_seconds <= 0:
        raise _required(required, CONSENT_REQUIRED, "the user has to agree first")
    session_uri = text_of(required, "session_uri")
    yield Show(text_of(required, "authorization_url"), str(required.get("provider", "")))
    left = UNTIL_THE_LINK_ENDS if wait_seconds is None else wait_seconds
    failures = 0
    while left > 0:
        wait = min(LONGEST_WAIT_SECONDS, math.ceil(left))
        reply = yield Ask("get_consent", who, {"session_uri": session_uri, "wait_seconds": wait}, wait)
        left -= reply.seconds
        status = reply.said.get("status")
        if status == "completed":
            return session_uri
        if status == "error":
            failures += 1
            if failures > len(_PAUSES) or reply.said.get("code") not in ("rate_limited", "vault_unavailable", UNREACHABLE):
                raise error_of(reply.said)
            pause = max(_PAUSES[failures - 1], float(reply.said.get("retry_after_seconds") or 0))
            yield Pause(pause)
            left -= pause
        elif status != "pending":
            raise _ended(str(status), reply.said)
        else:
            failures = 0
            if reply.seconds < 1:  # who does not wait must not be asked in a circle
                yield Pause(1)
                left -= 1
    raise _required(required, CONSENT_TIMED_OUT, "the user has not agreed yet")


def _ended(status: str, said: Mapping[str, Any]) -> IdentityClientError:
    provider = said.get("provider") or "the provider"
    texts = {
        "denied": ("consent_denied", f"the user did not agree to connect {provider}"),
        "expired": ("consent_expired", f"the user did not agree to connect {provider} before the link ended"),
    }
    code, text = texts.get(status, (f"consent_{status}", f"the consent for {provider} failed"))
    return IdentityClientError(str(said.get("reason") or code), text)


def _required(said: Mapping[str, Any], code: str, message: str) -> ConsentRequiredError:
    provider = said.get("provider") or "the provider"
    return ConsentRequiredError(
        code,
        f"{message}: {provider} ({said.get('reason', 'no_grant')})",
        authorization_url=text_of(said, "authorization_url"),
        session_uri=text_of(said, "session_uri"),
    )
