"""What an operator says of an identity provider or a workload: plain values, the same for every edge."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from mcp_identity.domain.authorizer import ClaimRule
from mcp_identity.domain.credentials import Secret, SecretReference
from mcp_identity.domain.identity import WorkloadIdentity

DEFAULT_PRESET = "oidc"


@dataclass(frozen=True, slots=True)
class IssuerSpec:
    """What an operator says of an identity provider.

    Attributes:
        discovery_url: Where its metadata is, or the issuer itself.
        preset: How its tokens are read; a name of `providers/issuers/`.
        audiences: What its tokens must be for.
        claims: Claim and exact value of the organisations that are this tenant; one claim alone.
        login_client_id: Our client there, for a browser's sign-in.
        login_secret: That client's secret, read once.
        login_secret_reference: Instead of it, where the server reads it, in a place that an operator listed for the tenant.
        login_discovery_url: Where the metadata for the sign-in is, if it is another one.
        require_tool_scopes: Tokens need a scope for each tool.
        allow_http_loopback: It may be http on a loopback address.
    """

    discovery_url: str
    preset: str = DEFAULT_PRESET
    audiences: tuple[str, ...] = ()
    claims: tuple[tuple[str, str], ...] = ()
    login_client_id: str = ""
    login_secret: Secret | None = None
    login_secret_reference: SecretReference | None = None
    login_discovery_url: str = ""
    require_tool_scopes: bool = False
    allow_http_loopback: bool = False


@dataclass(frozen=True, slots=True)
class WorkloadSpec:
    """What an operator says of a workload; None leaves a field as it is (update) or at its default (create).

    Attributes:
        issuer: The name of the issuer whose tokens may speak for it; empty for none.
        audiences: One of these must be among a token's audiences.
        clients: The client that a token was issued to must be one of these.
        scopes: A token must hold all of these.
        claims: All of these must hold.
        shared_authorizer: It may share its tokens with other workloads that are marked so.
        allowed_providers: The providers that it may use; empty for every one.
        return_urls: Where a browser may be sent after a consent.
        identity_audiences: Who its identity tokens may be for.
        may_assert_users: It may name a user by an id.
        owner: Who answers for it.
        tags: For people.
        disabled: It may do nothing.
    """

    issuer: str | None = None
    audiences: tuple[str, ...] | None = None
    clients: tuple[str, ...] | None = None
    scopes: tuple[str, ...] | None = None
    claims: tuple[ClaimRule, ...] | None = None
    shared_authorizer: bool | None = None
    allowed_providers: tuple[str, ...] | None = None
    return_urls: tuple[str, ...] | None = None
    identity_audiences: tuple[str, ...] | None = None
    may_assert_users: bool | None = None
    owner: str | None = None
    tags: tuple[tuple[str, str], ...] | None = None
    disabled: bool | None = None


@dataclass(frozen=True, slots=True)
class WorkloadKeyIssued:
    """A new workload key; its audit row is committed. Nothing can show it again.

    Attributes:
        workload: Whose it is.
        key_id: Names it, for revoking it and in the trail.
        key: The key itself.
        expires_at: When it ends; None for no end.
    """

    workload: WorkloadIdentity
    key_id: str
    key: Secret
    expires_at: datetime | None
