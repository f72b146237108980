"""One attempt to get a user's consent, and the steps that it may take.

    pending → started → received → exchanging → completed
       │         │          │           │
       └─────────┴──────────┴───────────┴────→ denied | failed | expired

A step is one conditional update in the vault, so of two that try it at once one succeeds. `started → started` is the
second press of the button: it makes a new state and voids the first. `received` is a code that waits for the app to say
whose browser brought it; where we know that ourselves it lasts no moment. Code and verifier are erased in every final state.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum

from mcp_identity.domain.credentials import Flow, Reason, Secret
from mcp_identity.domain.identity import UserKind
from mcp_identity.domain.login import LoginTarget

SESSION_LIFETIME = timedelta(minutes=10)
RECEIVED_LIFETIME = timedelta(seconds=60)
"""How long an authorization code may wait for its exchange to end."""
SESSION_URI_PREFIX = "urn:ietf:params:oauth:request_uri:"


class ConsentState(StrEnum):
    """Where a consent session stands."""

    PENDING = "pending"
    STARTED = "started"
    RECEIVED = "received"
    EXCHANGING = "exchanging"
    COMPLETED = "completed"
    DENIED = "denied"
    FAILED = "failed"
    EXPIRED = "expired"


class Binding(StrEnum):
    """How the browser proves that it is the initiator's.

    `LOCAL`: the page is on the user's own machine. `LOGIN`: they sign in at their identity provider. `APP`: the app that the
    browser returns to knows them, and says so with their own token.
    """

    LOCAL = "local"
    LOGIN = "login"
    APP = "app"


FINAL_STATES = frozenset({ConsentState.COMPLETED, ConsentState.DENIED, ConsentState.FAILED, ConsentState.EXPIRED})
OPEN_STATES = frozenset(ConsentState) - FINAL_STATES

_ENDS = frozenset({ConsentState.DENIED, ConsentState.FAILED, ConsentState.EXPIRED})
TRANSITIONS: dict[ConsentState, frozenset[ConsentState]] = {
    ConsentState.PENDING: _ENDS | {ConsentState.STARTED},
    ConsentState.STARTED: _ENDS | {ConsentState.STARTED, ConsentState.RECEIVED},
    ConsentState.RECEIVED: _ENDS | {ConsentState.EXCHANGING},
    ConsentState.EXCHANGING: _ENDS | {ConsentState.COMPLETED},
    **{state: frozenset[ConsentState]() for state in FINAL_STATES},
}


@dataclass(frozen=True, slots=True)
class ConsentRequest:
    """What was asked for, fixed when the session was made and sealed with it.

    Attributes:
        tenant: The initiator's tenant.
        workload_id: The initiator's workload.
        workload_epoch: That workload's epoch; a change voids the session.
        user: The initiator's user key.
        user_kind: How that user is known; users of different kinds never match.
        provider_row: The credential provider's row id.
        configuration_digest: Digest of the provider's configuration and the redirect URI in force.
        flow: Always a flow that needs a user.
        scopes: What the vendor is asked for.
        resource: RFC 8707 resource, or empty.
        audience: Audience, or empty.
        parameters: Further authorization parameters that the provider's data lets agents set.
        redirect_uri: Where the vendor sends the browser back to.
        binding: How the browser proves itself.
        reason: Why consent was required.
        forced: Made by ``start_consent``.
        provider: The credential provider's name, for the trail.
        workload: The workload's name, for the page.
        workload_verified: Whether that name is proven.
        user_display: The user's name, for the page.
        edge: Where the request came from.
        login_issuer: The row of the issuer at which the browser has to sign in; empty for other bindings.
        return_url: Where the browser goes at the end, registered for the workload; only for `Binding.APP`.
        custom_state: Handed back there, for the app's own use.
        elicited: The link was given by URL-mode elicitation, so its grant never leaves as a token.
    """

    tenant: str
    workload_id: str
    workload_epoch: int
    user: str
    provider_row: str
    configuration_digest: str
    flow: Flow
    scopes: frozenset[str]
    redirect_uri: str
    binding: Binding
    reason: Reason
    resource: str = ""
    audience: str = ""
    parameters: tuple[tuple[str, str], ...] = ()
    forced: bool = False
    provider: str = ""
    workload: str = ""
    workload_verified: bool = False
    user_display: str = ""
    edge: str = ""
    user_kind: UserKind = UserKind.LOCAL
    login_issuer: str = ""
    return_url: str = ""
    custom_state: str = ""
    elicited: bool = False


@dataclass(frozen=True, slots=True)
class ConsentSession:
    """A consent request under way.

    Attributes:
        id: The random part of the session URI.
        request: What was asked for.
        state: Where it stands.
        error_code: Why it ended otherwise than completed; one of the stable codes.
        created_at: When it was made.
        expires_at: When an unfinished one ends.
        grant_id: The grant that it made, once completed.
        allow_other_account: The user ticked that another account than before is meant.
    """

    id: str
    request: ConsentRequest
    state: ConsentState
    created_at: datetime
    expires_at: datetime
    error_code: str = ""
    grant_id: str = ""
    allow_other_account: bool = field(default=False)

    @property
    def session_uri(self) -> str:
        """The public identifier."""
        return SESSION_URI_PREFIX + self.id


def session_id_of(session_uri: str) -> str | None:
    """The random part of a session URI; None where it is none of ours."""
    if not session_uri.startswith(SESSION_URI_PREFIX):
        return None
    identifier = session_uri[len(SESSION_URI_PREFIX) :]
    return identifier if len(identifier) == 43 and all(c.isascii() and (c.isalnum() or c in "-_") for c in identifier) else None  # noqa: PLR2004 - 32 bytes in base64url


def may_become(current: ConsentState, following: ConsentState) -> bool:
    """Whether a session in `current` may take the step to `following`."""
    return following in TRANSITIONS[current]


@dataclass(frozen=True, slots=True)
class ConsentView:
    """What the consent page shows: plain words, no secret.

    Attributes:
        id: The random part of the session URI.
        state: Where the session stands.
        error_code: Why it ended, if it did not complete.
        workload: The agent's name.
        workload_verified: Whether that name is proven, or a label that the client chose.
        user: The user's display name.
        provider: The credential provider's name.
        provider_title: The vendor's name.
        provider_host: The host that the browser will be sent to.
        scopes: What will be asked for, sorted.
        parameters: Parameters that the agent set.
        resource: RFC 8707 resource, or empty.
        audience: Audience, or empty.
        expires_at: When the link ends.
        account_known: An account is connected already; another one needs the user's word.
        return_host: The host of the app that the browser goes to at the end, or empty.
        signed_in_as: Who has signed in at this browser, where that was asked for.
        login: Where somebody else could sign in, where that was asked for.
    """

    id: str
    state: ConsentState
    error_code: str
    workload: str
    workload_verified: bool
    user: str
    provider: str
    provider_title: str
    provider_host: str
    scopes: tuple[str, ...]
    parameters: tuple[tuple[str, str], ...]
    resource: str
    audience: str
    expires_at: datetime
    account_known: bool
    return_host: str = ""
    signed_in_as: str = ""
    login: LoginTarget | None = None


@dataclass(frozen=True, slots=True)
class SignInView:
    """What the consent page shows to a browser that has not proved whose it is: nothing of the request.

    Attributes:
        id: The random part of the session URI.
        state: Where the session stands; not for the page.
        login: Where to sign in.
        stranger: Somebody has signed in, and it is not who asked.
    """

    id: str
    state: ConsentState
    login: LoginTarget
    stranger: bool = False


@dataclass(frozen=True, slots=True)
class ConsentBegun:
    """What pressing the button gives: where to send the browser, and what to mark it with.

    Attributes:
        authorization_url: The vendor's page, with state and PKCE challenge.
        browser_secret: Goes into that browser's cookie; the vault keeps its hash.
    """

    authorization_url: str
    browser_secret: Secret


@dataclass(frozen=True, slots=True)
class Returned:
    """What became of a browser that the vendor sent back.

    Attributes:
        session_id: The session.
        redirect_url: The app's page that it goes to now; empty for our own.
        refused: This browser is not the one that was asked, so it is told nothing.
    """

    session_id: str
    redirect_url: str = ""
    refused: bool = False
