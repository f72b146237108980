"""What every verb of the broker is built on."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol

from mcp_identity.broker.secret_sources import NoSources, SecretSources
from mcp_identity.broker.tasks import OwnedTasks
from mcp_identity.broker.upstreams import Upstreams
from mcp_identity.domain.clock import Clock, Entropy
from mcp_identity.domain.consent import Binding
from mcp_identity.domain.credentials import Secret
from mcp_identity.domain.identity import SubjectToken, User, WorkloadIdentity
from mcp_identity.domain.provider import Release
from mcp_identity.transport import Transport
from mcp_identity.vault.vault import Vault


class ConsentFront(Protocol):
    """Where the consent pages are served."""

    async def ensure_open(self) -> None:
        """See to it that the pages answer, before a link is given out.

        Raises:
            VaultUnavailable: If they cannot be served.
        """
        ...

    def base_url(self, loopback_host: str) -> str:
        """Scheme, host and port of the pages, as this vendor wants them in its redirect URI."""
        ...

    @property
    def is_loopback(self) -> bool:
        """Whether the pages are on this machine alone."""
        ...

    @property
    def binding(self) -> Binding:
        """How browsers prove themselves there: `LOCAL` on a single user's machine, else `LOGIN`."""
        ...


class TokenMint(Protocol):
    """Makes workload access tokens; whether there may be one is the broker's decision."""

    def seal(
        self,
        workload: WorkloadIdentity,
        user: User | None,
        *,
        issued_at: datetime,
        expires_at: datetime,
        tool_scopes: frozenset[str] | None,
        subject_token: SubjectToken | None = None,
    ) -> tuple[Secret, str]:
        """The token, and its id for the trail."""
        ...


@dataclass(frozen=True, slots=True)
class Limits:
    """How much one principal may have open; all are settings.

    Attributes:
        pending_consents: Open consents of one principal.
        links_per_minute: New links of one principal for one provider.
        concurrent_waits: Calls of one principal that wait for a consent.
        total_consents: Open consents of the whole vault.
        refreshes_ahead: Refreshes of tokens that are still good, at once, in this process; 0 for none.
    """

    pending_consents: int = 20
    links_per_minute: int = 5
    concurrent_waits: int = 4
    total_consents: int = 10_000
    refreshes_ahead: int = 8


@dataclass(frozen=True, slots=True)
class Services:
    """The parts that the verbs share."""

    vault: Vault
    transport: Transport
    upstreams: Upstreams
    clock: Clock
    entropy: Entropy
    tasks: OwnedTasks
    front: ConsentFront
    default_release: Release
    limits: Limits
    mint: TokenMint
    public_url: str = ""
    """Where callers reach this server over HTTP, without a slash at the end; empty where that is not known."""
    secret_sources: SecretSources = field(default_factory=NoSources)
    """Reads the secrets that are only named over an API."""
