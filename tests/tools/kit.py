"""What do the tools say to a broker, and what do they make of its answers? A broker and callers with named knobs.

Nothing here decides what the product decides: the broker knows who asked, and hands out what its knobs say.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import anyio

from mcp_identity.broker.answers import ConsentRequired, ConsentStatus, TokenReleased, TokenRequest
from mcp_identity.broker.audit import Call
from mcp_identity.domain.consent import SESSION_URI_PREFIX, ConsentState
from mcp_identity.domain.credentials import Flow, Reason, Secret
from mcp_identity.domain.errors import ConsentDenied, ConsentNotFound, IdentityError, Unauthenticated
from mcp_identity.domain.identity import Principal, Proof, SubjectToken, User, UserKind, WorkloadIdentity
from mcp_identity.tools.edge import IdentityServer
from mcp_identity.tools.scopes import administers
from mcp_identity.tools.server import build_server
from tests.fakes.vendor import new_secret

PAGE = "https://identity.example/consent/"
SOON = datetime(2031, 5, 1, 12, tzinfo=UTC)


def user(name: str) -> User:
    """A person who signed in at the company's issuer."""
    return User("https://idp.example", name, UserKind.OIDC, f"{name}@example.com")


def principal(
    workload: str = "agent", user_name: str = "alice", *, tenant: str = "default", may_assert_users: bool = False
) -> Principal:
    """An agent that acts for a person."""
    identity = WorkloadIdentity(f"id-of-{tenant}-{workload}", tenant, workload, may_assert_users=may_assert_users)
    return Principal(identity, user(user_name) if user_name else None, Proof.JWT, verified=True, edge="http")


@dataclass(slots=True)
class Session:
    """One consent that was asked for."""

    owner: Principal
    elicited: bool
    state: ConsentState = ConsentState.PENDING
    ended: anyio.Event = field(default_factory=anyio.Event)


@dataclass(slots=True)
class FakeBroker:
    """A broker of which every answer is known before.

    Attributes:
        keeps: Credentials stay here: an eliciting client's consents are elicited ones.
        quiet_rounds: So many waits end before the user is done; the next one waits for `finish`.
        state_key: Derived from the vault key; the same on every replica.
        requests: What `get_token` and `start_consent` were asked.
        actions: The verbs that were called, in order.
        refused: Codes that were written down.
        completed_for: Users for whom a consent was completed.
        issued_for: Users for whom a workload access token was issued, with the end and the tool scopes of their proof.
        kept: The users' own tokens that it was issued with; None for none.
        identity_tokens: What was asked for in identity tokens.
    """

    keeps: bool = True
    quiet_rounds: int = 0
    state_key: bytes = b"k" * 32
    requests: list[TokenRequest] = field(default_factory=list[TokenRequest])
    actions: list[str] = field(default_factory=list[str])
    refused: list[str] = field(default_factory=list[str])
    completed_for: list[User] = field(default_factory=list[User])
    issued_for: list[tuple[User | None, datetime | None, frozenset[str] | None]] = field(
        default_factory=list[tuple[User | None, datetime | None, frozenset[str] | None]]
    )
    kept: list[SubjectToken | None] = field(default_factory=list["SubjectToken | None"])
    identity_tokens: list[tuple[str, int]] = field(default_factory=list[tuple[str, int]])
    token: Secret = field(default_factory=lambda: Secret(new_secret()))
    sessions: dict[str, Session] = field(default_factory=dict[str, Session])

    def request_state_key(self) -> bytes:
        return self.state_key

    async def note(self, call: Call) -> None:
        self.actions.append(call.action)

    async def refuse(self, call: Call, error: IdentityError) -> None:
        self.refused.append(f"{call.action}: {error.code}")

    async def get_token(self, call: Call, request: TokenRequest) -> TokenReleased | ConsentRequired:
        self.actions.append("get_token")
        self.requests.append(request)
        if request.session_uri:
            session = self._own(call, request.session_uri)
            if session.state is ConsentState.DENIED:
                raise ConsentDenied("that consent ended as denied")
        elif not any(each.owner == call.principal and each.state is ConsentState.COMPLETED for each in self.sessions.values()):
            return self._ask(call, request, Reason.NO_GRANT)
        return TokenReleased(self.token, "Bearer", ("read",), (), SOON, request.provider, Flow.USER_FEDERATION)

    async def call_api(self, call: Call, request: Any) -> ConsentRequired:
        self.actions.append("call_api")
        return self._ask(call, request, Reason.NO_GRANT)

    async def start_consent(self, call: Call, request: TokenRequest) -> ConsentRequired:
        self.actions.append("start_consent")
        self.requests.append(request)
        return self._ask(call, request, Reason.FORCED)

    async def get_consent(self, call: Call, session_uri: str, wait_seconds: float = 0) -> ConsentStatus:
        self.actions.append(call.action)
        session = self._own(call, session_uri)
        if wait_seconds and session.state is ConsentState.PENDING:
            if self.quiet_rounds:
                self.quiet_rounds -= 1
            else:
                await session.ended.wait()
        code = "consent_denied" if session.state is ConsentState.DENIED else ""
        return ConsentStatus(session.state.value, code, SOON, "notes")

    async def view_consent(self, session_id: str) -> Any:
        return SimpleNamespace(state=self.sessions[SESSION_URI_PREFIX + session_id].state)

    async def complete_consent(self, call: Call, session_uri: str, user: User) -> ConsentStatus:
        self.actions.append(call.action)
        self.completed_for.append(user)
        return ConsentStatus("completed", "", SOON, session_uri)

    async def issue_workload_access_token(
        self,
        call: Call,
        user: User | None,
        ends: datetime | None,
        scopes: frozenset[str] | None = None,
        subject_token: SubjectToken | None = None,
    ) -> Any:
        self.actions.append(call.action)
        self.issued_for.append((user, ends, scopes))
        self.kept.append(subject_token)
        return SimpleNamespace(token=self.token, expires_at=SOON)

    async def issue_identity_token(self, call: Call, audience: str, lifetime_seconds: int) -> Any:
        self.actions.append(call.action)
        self.identity_tokens.append((audience, lifetime_seconds))
        return SimpleNamespace(token=self.token, expires_at=SOON)

    def finish(self, link: str, state: ConsentState = ConsentState.COMPLETED) -> None:
        """The user did what the page asked, or said no."""
        session = self.sessions[SESSION_URI_PREFIX + link.removeprefix(PAGE)]
        session.state = state
        session.ended.set()

    def _own(self, call: Call, session_uri: str) -> Session:
        session = self.sessions.get(session_uri)
        if session is None or session.owner != call.principal:
            raise ConsentNotFound("there is no such consent session")
        return session

    def _ask(self, call: Call, request: Any, reason: Reason) -> ConsentRequired:
        identifier = new_secret()[:43]
        session = Session(call.principal, elicited=self.keeps and request.elicits)
        self.sessions[SESSION_URI_PREFIX + identifier] = session
        return ConsentRequired(
            reason, PAGE + identifier, SESSION_URI_PREFIX + identifier, SOON, ("read",), request.provider, session.elicited
        )


@dataclass(slots=True)
class FakeVerifier:
    """Knows some tokens of users, each good for one workload."""

    users: dict[str, tuple[str, User]] = field(default_factory=dict[str, tuple[str, User]])
    ends: datetime = SOON + timedelta(minutes=5)
    scopes: frozenset[str] | None = None

    async def authenticate(self, bearer: Secret, *, edge: str, workload_hint: str = "") -> Principal:
        raise NotImplementedError

    def recall(self, bearer: Secret, *, edge: str, workload_hint: str = "") -> None:
        raise NotImplementedError

    async def verify_user_token(self, principal: Principal, token: Secret) -> Any:
        workload, user = self.users.get(token.reveal(), ("", None))
        if user is None or workload != principal.workload.name:
            raise Unauthenticated("the token proves nothing")
        subject = SubjectToken(token, "issuer", self.ends)
        return SimpleNamespace(
            user=user, expires_at=self.ends, issuer_id="issuer", tool_scopes=self.scopes, subject_token=subject
        )


@dataclass(slots=True)
class FakeCaller:
    """The callers of a server; `principal` is who comes next."""

    broker: FakeBroker
    principal: Principal = field(default_factory=principal)
    verifier: Any = None

    def administers(self) -> bool:
        return administers(self.principal)

    async def begin(self, action: str) -> Any:
        return self.broker, Call(self.principal, action, "c0ffee")

    async def around(self, ctx: Any, call_next: Callable[[Any], Awaitable[Any]]) -> Any:
        return await call_next(ctx)

    async def confirm(self) -> None:
        """Nobody is remembered."""

    async def verify_again(self) -> None:
        """Nobody is remembered."""


def remote_server(caller: FakeCaller) -> IdentityServer:
    """A server with every tool."""
    return build_server(caller, version="0", remote=True, issues_identity_tokens=True)
