"""Who is calling: tenant, workload identity, user, and the principal that joins them.

These are values. Whether a principal may be believed was decided where it was made: at the transport, from its
credential, and nowhere else. No argument of a tool changes it.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from mcp_identity.domain.authorizer import NOBODY, Authorizer
from mcp_identity.domain.credentials import Secret

DEFAULT_TENANT = "default"
LOCAL_ISSUER = "urn:mcp-identity:local:"
ASSERTED_ISSUER = "urn:mcp-identity:asserted:"
UNKNOWN_CLIENT = "unknown-client"

NAME_PATTERN = re.compile(r"[a-z0-9][a-z0-9._-]{0,127}")
"""Names of tenants and issuers, which stand in URLs: ASCII and lower case."""
NAME_RULE = "a name is 1 to 128 of a-z, 0-9, dot, dash and underscore, and begins with a letter or digit"
RESOURCE_NAME_PATTERN = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,254}")
"""Names of workloads and providers: ASCII; no two of a tenant differ by case alone, so that no two look alike."""
RESOURCE_NAME_RULE = (
    "a name is 1 to 255 of a-z, A-Z, 0-9, dot, dash and underscore, and begins with a letter, a digit or an underscore"
)
READ_SCOPE, TOKEN_SCOPE, ADMIN_SCOPE = "identity:read", "identity:token", "identity:admin"
"""What a caller's token is asked for, where its issuer was added with required tool scopes."""
RESERVED_PREFIX = "urn:mcp-identity:"
"""No identity provider may call itself so: users whom we vouch for are filed below it."""


class UserKind(StrEnum):
    """How a user is known. Users of different kinds never match one another."""

    OIDC = "oidc"
    ASSERTED = "asserted"
    LOCAL = "local"


@dataclass(frozen=True, slots=True)
class User:
    """The resource owner: an issuer and a subject, never an e-mail address.

    Attributes:
        issuer: An OIDC issuer, or one of our reserved URNs.
        subject: The issuer's stable identifier of the user.
        kind: How the user is known.
        display: A name for people; no decision reads it.
    """

    issuer: str
    subject: str
    kind: UserKind
    display: str = ""

    @property
    def key(self) -> str:
        """Issuer and subject in one string; an issuer holds no space, so the join is unambiguous."""
        return f"{self.issuer} {self.subject}"


@dataclass(frozen=True, slots=True)
class WorkloadIdentity:
    """The stable, named identity of an agent.

    Attributes:
        id: Random, never reused.
        tenant: The tenant it belongs to.
        name: What people call it; unique in its tenant.
        epoch: Raised by every change that must end what was issued before.
        disabled: A disabled workload may do nothing.
        authorizer: Which JWTs speak for it; the empty one accepts none.
        shared_authorizer: It may share its tokens with other workloads that are marked so; together they are one principal.
        allowed_providers: Names of the credential providers that it may use; empty for every one of its tenant.
        return_urls: Where a browser may be sent after a consent, each exactly.
        identity_audiences: Who its identity tokens may be for.
        may_assert_users: It may name a user by an id, without that user's token.
        owner: Who answers for it, for people.
        tags: For people.
        created_at: When it was registered; None for one that is not kept yet.
        updated_at: When it was changed last.
    """

    id: str
    tenant: str
    name: str
    epoch: int = 1
    disabled: bool = False
    authorizer: Authorizer = NOBODY
    shared_authorizer: bool = False
    allowed_providers: frozenset[str] = frozenset()
    return_urls: tuple[str, ...] = ()
    identity_audiences: tuple[str, ...] = ()
    may_assert_users: bool = False
    owner: str = ""
    tags: tuple[tuple[str, str], ...] = ()
    created_at: datetime | None = field(default=None, compare=False)
    updated_at: datetime | None = field(default=None, compare=False)


class Proof(StrEnum):
    """What proved a principal."""

    STDIO = "stdio"
    CLI = "cli"
    LOOPBACK = "loopback"
    JWT = "jwt"
    WORKLOAD_KEY = "workload_key"
    WORKLOAD_TOKEN = "workload_token"  # noqa: S105 - the name of a proof
    ACCESS_KEY = "access_key"


@dataclass(frozen=True, slots=True)
class SubjectToken:
    """A user's own token, verified, as it may be exchanged for another one on that user's behalf (RFC 8693, RFC 7523).

    Attributes:
        token: The JWT itself.
        issuer_id: The row of the issuer that vouches for it; only a provider that lists this issuer is ever given the token.
        expires_at: When it ends.
    """

    token: Secret
    issuer_id: str
    expires_at: datetime


@dataclass(frozen=True, slots=True)
class Principal:
    """The verified (tenant, workload, user or none) on whose behalf a call is made.

    Attributes:
        workload: The agent.
        user: The user it acts for; None for a workload on its own.
        authenticated_by: What proved it: a `Proof`.
        verified: False where the workload's name is a label that the client chose (stdio, the command line).
        edge: Through which door it came: ``stdio``, ``cli``, ``http``, ``sse`` or ``agentcore``; empty for the same as
            `authenticated_by`.
        tool_scopes: The scopes of its token, where the issuer was added with required tool scopes; None where none are asked.
        credential_id: Names the credential in the trail: the jti of a token, the row of a key. Never the credential.
        expires_at: When what proved it ends; None where it has no end.
        may_assert_users: What proved it lets it name a user by an id, also where the workload may not.
        signed_by: Names for the trail who signed the request in which its credential came, where that was somebody else.
        subject_token: The user's own token, where the call brought it; an asserted user has none.
    """

    workload: WorkloadIdentity
    user: User | None
    authenticated_by: str
    verified: bool
    edge: str = ""
    tool_scopes: frozenset[str] | None = None
    credential_id: str = ""
    expires_at: datetime | None = None
    may_assert_users: bool = False
    signed_by: str = ""
    subject_token: SubjectToken | None = field(default=None, repr=False, compare=False)

    @property
    def tenant(self) -> str:
        """The tenant of the workload."""
        return self.workload.tenant

    @property
    def user_key(self) -> str:
        """The user's key, or the empty string for a workload on its own."""
        return self.user.key if self.user else ""

    @property
    def is_workload_itself(self) -> bool:
        """Whether the workload came for nobody but itself, by a proof of its own: its key, or its service's token."""
        return self.verified and self.user is None and self.authenticated_by in (Proof.WORKLOAD_KEY, Proof.JWT)

    @property
    def is_operator_by_token(self) -> bool:
        """Whether a token of its own says so, of an issuer that is asked for scopes; nothing that was derived from one does."""
        return self.authenticated_by == Proof.JWT and self.tool_scopes is not None and ADMIN_SCOPE in self.tool_scopes

    @property
    def may_name_users(self) -> bool:
        """Whether it may name a user by an id, without that user's token."""
        return self.may_assert_users or self.workload.may_assert_users


def command(tenant: str) -> str:
    """How a command line for an operator of this tenant begins, in messages that say what to do."""
    return "mcp-identity" if tenant == DEFAULT_TENANT else f"mcp-identity --tenant {tenant}"


def is_name(text: str) -> bool:
    """Whether `text` can name a tenant or an issuer."""
    return NAME_PATTERN.fullmatch(text) is not None


def is_resource_name(text: str) -> bool:
    """Whether `text` can name a workload or a provider."""
    return RESOURCE_NAME_PATTERN.fullmatch(text) is not None


def slug(text: str) -> str:
    """Make a workload name of an MCP client's name, e.g. ``Claude Desktop`` to ``claude-desktop``.

    Returns:
        A name for which `is_name` holds; `UNKNOWN_CLIENT` where nothing usable is left.
    """
    ascii_only = unicodedata.normalize("NFKD", text[:256]).encode("ascii", "ignore").decode("ascii").lower()
    name = re.sub(r"[^a-z0-9._-]+", "-", ascii_only).strip("-._")[:64].rstrip("-._")
    return name if is_name(name) else UNKNOWN_CLIENT
