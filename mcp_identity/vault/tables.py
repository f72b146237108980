"""What the vault's tables are. Shapes only: `records/` reads and writes them, the migrations make them.

Times are microseconds since 1970 in UTC. Absent text is the empty string and absent times are 0, because NULLs repeat in
unique indexes. Sealed columns hold records of `envelope`; columns beside them that repeat what is sealed are search hints,
and one that differs from the sealed value is `vault_corrupt`. `mac` columns authenticate rows that grant authority.
Every table here has a `tenant_id`; those of the vault itself are in `tables_own.py`.
"""

# pyright: reportAssignmentType=false
# SQLModel declares __tablename__ for declared_attr too; a plain string is what its documentation asks for.

from __future__ import annotations

from sqlalchemy import BigInteger, Column, ForeignKey, Index, UniqueConstraint
from sqlmodel import Field

from mcp_identity.vault import columns as col
from mcp_identity.vault.columns import Base


class Tenant(Base, table=True):
    """A tenant."""

    __tablename__ = "tenants"
    id: str = col.row_id()
    title: str = col.text()
    created_at: int = col.number()
    mac: bytes = col.blob(nullable=False)


class Setting(Base, table=True):
    """A setting kept in the vault."""

    __tablename__ = "settings"
    __table_args__ = (UniqueConstraint("tenant_id", "name"),)
    id: str = col.row_id()
    tenant_id: str = col.tenant()
    name: str = col.text()
    value: str = col.text()
    updated_at: int = col.number()
    mac: bytes = col.blob(nullable=False)


class UserRow(Base, table=True):
    """A resource owner; nothing issued before `not_before_at` counts."""

    __tablename__ = "users"
    __table_args__ = (UniqueConstraint("tenant_id", "issuer", "subject"),)
    id: str = col.row_id()
    tenant_id: str = col.tenant()
    issuer: str = col.text()
    subject: str = col.text()
    kind: str = col.text()
    display: str = col.text()
    not_before_at: int = col.number()
    created_at: int = col.number()
    last_seen_at: int = col.number()
    mac: bytes = col.blob(nullable=False)


class Group(Base, table=True):
    """A group of workload identities, or of groups."""

    __tablename__ = "groups"
    __table_args__ = (UniqueConstraint("tenant_id", "path"),)
    id: str = col.row_id()
    tenant_id: str = col.tenant()
    path: str = col.text()
    parent_id: str = col.text()
    owner: str = col.text()
    tags: str = col.text()
    created_at: int = col.number()
    updated_at: int = col.number()
    mac: bytes = col.blob(nullable=False)


class WorkloadRow(Base, table=True):
    """A workload identity."""

    __tablename__ = "workload_identities"
    __table_args__ = (UniqueConstraint("tenant_id", "name"),)
    id: str = col.row_id()
    tenant_id: str = col.tenant()
    name: str = col.text()
    epoch: int = col.number(1)
    disabled: int = col.number()
    group_id: str = col.text()
    owner: str = col.text()
    purpose: str = col.text()
    environment: str = col.text()
    tags: str = col.text()
    authorizer: str = col.text()
    shared_authorizer: int = col.number()
    allowed_providers: str = col.text()
    return_urls: str = col.text()
    identity_audiences: str = col.text()
    may_assert_users: int = col.number()
    registered_by: str = col.text()
    expires_at: int = col.number()
    created_at: int = col.number()
    updated_at: int = col.number()
    mac: bytes = col.blob(nullable=False)


class ProviderRow(Base, table=True):
    """A configured credential provider; its secret is sealed under the digest of its configuration."""

    __tablename__ = "credential_providers"
    __table_args__ = (UniqueConstraint("tenant_id", "name"),)
    id: str = col.row_id()
    tenant_id: str = col.tenant()
    name: str = col.text()
    vendor: str = col.text()
    kind: str = col.text()
    provider_id: str = col.text(unique=True)
    settings: str = col.text()
    issuer: str = col.text()
    authorization_url: str = col.text()
    token_url: str = col.text()
    refresh_url: str = col.text()
    revocation_url: str = col.text()
    jwks_url: str = col.text()
    requires_iss: int = col.number()
    client_id: str = col.text()
    client_authentication: str = col.text()
    flows: str = col.text()
    scopes: str = col.text()
    release: str = col.text()
    api_hosts: str = col.text()
    subject_issuers: str = col.text()
    allow_http_loopback: int = col.number()
    owner: str = col.text()
    tags: str = col.text()
    epoch: int = col.number(1)
    disabled: int = col.number()
    secret: bytes | None = col.blob()
    secret_generation: int = col.number()
    secret_updated_at: int = col.number()
    created_at: int = col.number()
    updated_at: int = col.number()
    mac: bytes = col.blob(nullable=False)


class Issuer(Base, table=True):
    """An identity provider whose tokens callers bring."""

    __tablename__ = "issuers"
    __table_args__ = (UniqueConstraint("tenant_id", "name"),)
    id: str = col.row_id()
    tenant_id: str = col.tenant()
    name: str = col.text()
    preset: str = col.text()
    issuer: str = col.text(index=True)
    discovery_url: str = col.text()
    jwks_url: str = col.text()
    audiences: str = col.text()
    discriminator: str = col.text()
    subject_claims: str = col.text()
    configuration: str = col.text()
    login_client_id: str = col.text()
    login_client_secret: bytes | None = col.blob()
    login_discovery_url: str = col.text()
    secret_generation: int = col.number()
    require_tool_scopes: int = col.number()
    allow_http_loopback: int = col.number()
    epoch: int = col.number(1)
    disabled: int = col.number()
    created_at: int = col.number()
    updated_at: int = col.number()
    mac: bytes = col.blob(nullable=False)


class GrantRow(Base, table=True):
    """A grant; `key_hash` is SHA-256 over the length-prefixed grant key."""

    __tablename__ = "grants"
    __table_args__ = (Index(None, "tenant_id", "workload_id", "user_key"),)
    id: str = col.row_id()
    tenant_id: str = col.tenant()
    workload_id: str = col.reference("workload_identities.id")
    user_key: str = col.text()
    provider_row: str = Field(sa_column=Column(col.TEXT, ForeignKey("credential_providers.id"), nullable=False, index=True))
    flow: str = col.text()
    resource: str = col.text()
    audience: str = col.text()
    scope_key: str = col.text()
    key_hash: bytes = col.digest()
    state: str = col.text()
    reason: str = col.text()
    generation: int = col.number()
    tokens: bytes | None = col.blob()
    granted_scopes: str = col.text()
    expires_at: int = col.number()
    obtained_by: str = col.text()
    lease_owner: str = col.text()
    lease_counter: int = col.number()
    lease_until: int = col.number()
    intent: int = col.number()
    created_at: int = col.number()
    updated_at: int = col.number()


class ConsentRow(Base, table=True):
    """A consent session; what was asked for is sealed at creation, each attempt's verifier when the button is pressed."""

    __tablename__ = "consent_sessions"
    __table_args__ = (Index(None, "tenant_id", "workload_id", "user_key", "state"), Index(None, "state", "expires_at"))
    id: str = col.row_id()
    tenant_id: str = col.tenant()
    workload_id: str = col.reference("workload_identities.id")
    user_key: str = col.text()
    provider_row: str = col.reference("credential_providers.id")
    request_hash: bytes = col.blob(nullable=False)
    request: bytes = col.blob(nullable=False)
    state: str = col.text()
    error_code: str = col.text()
    attempt: int = col.number()
    attempt_sealed: bytes | None = col.blob()
    state_hash: bytes | None = col.digest(nullable=True)
    code: bytes | None = col.blob()
    completion_hash: bytes | None = col.digest(nullable=True)
    grant_id: str = col.text()
    created_at: int = col.number()
    updated_at: int = col.number()
    expires_at: int = col.number()


class LoginTransaction(Base, table=True):
    """One sign-in of a browser at the tenant's identity provider."""

    __tablename__ = "login_transactions"
    id: str = col.row_id()
    tenant_id: str = col.tenant()
    purpose: str = col.text()
    issuer_id: str = col.text()
    consent_id: str = col.text()
    state_hash: bytes = col.digest()
    cookie_hash: bytes = col.blob(nullable=False)
    sealed: bytes | None = col.blob()
    state: str = col.text()
    created_at: int = col.number()
    expires_at: int = col.number()


class Approval(Base, table=True):
    """A user's word for one sensitive action."""

    __tablename__ = "approvals"
    __table_args__ = (Index(None, "tenant_id", "workload_id", "user_key", "state"),)
    id: str = col.row_id()
    tenant_id: str = col.tenant()
    workload_id: str = col.text()
    user_key: str = col.text()
    action_hash: bytes = col.blob(nullable=False)
    request: bytes = col.blob(nullable=False)
    state: str = col.text()
    created_at: int = col.number()
    updated_at: int = col.number()
    expires_at: int = col.number()
    mac: bytes = col.blob(nullable=False)


class ReleaseRow(Base, table=True):
    """A one-time handle; it holds no copy of the secret."""

    __tablename__ = "releases"
    id: str = col.row_id()
    tenant_id: str = col.tenant()
    handle_hash: bytes = col.digest()
    workload_id: str = col.text()
    workload_epoch: int = col.number()
    user_key: str = col.text()
    grant_id: str = col.text()
    provider_row: str = col.text()
    generation: int = col.number()
    state: str = col.text()
    created_at: int = col.number()
    expires_at: int = col.number(0)
    mac: bytes = col.blob(nullable=False)


class WorkloadKey(Base, table=True):
    """A workload's bearer key, as its SHA-256."""

    __tablename__ = "workload_keys"
    id: str = col.row_id()
    tenant_id: str = col.tenant()
    workload_id: str = col.reference("workload_identities.id")
    key_hash: bytes = col.digest()
    label: str = col.text()
    state: str = col.text()
    created_at: int = col.number()
    expires_at: int = col.number()
    last_used_at: int = col.number()
    mac: bytes = col.blob(nullable=False)


class AccessKey(Base, table=True):
    """An access key for signed requests; SigV4 needs its secret, so it is sealed."""

    __tablename__ = "access_keys"
    id: str = col.row_id()
    tenant_id: str = col.tenant()
    access_key_id: str = col.text(unique=True)
    secret: bytes | None = col.blob()
    secret_generation: int = col.number(1)
    role: str = col.text()
    workload_ids: str = col.text()
    may_assert_users: int = col.number()
    state: str = col.text()
    created_at: int = col.number()
    last_used_at: int = col.number()
    mac: bytes = col.blob(nullable=False)


class SigningKey(Base, table=True):
    """A tenant's key for identity tokens."""

    __tablename__ = "signing_keys"
    __table_args__ = (UniqueConstraint("tenant_id", "version"),)
    id: str = col.row_id()
    tenant_id: str = col.tenant()
    version: int = col.number(1)
    algorithm: str = col.text()
    public_jwk: str = col.text()
    private_key: bytes | None = col.blob()
    state: str = col.text()
    created_at: int = col.number()
    retires_at: int = col.number()
    mac: bytes = col.blob(nullable=False)


class ReplayMark(Base, table=True):
    """Something that counts once: a signature or a jti, with the first outcome."""

    __tablename__ = "replay_marks"
    id: str = col.row_id()
    tenant_id: str = col.tenant()
    purpose: str = col.text()
    mark_hash: bytes = col.digest()
    outcome: bytes | None = col.blob()
    created_at: int = col.number()
    expires_at: int = Field(default=0, sa_column=Column(BigInteger, nullable=False, index=True))


class Policy(Base, table=True):
    """A version of a policy."""

    __tablename__ = "policies"
    __table_args__ = (UniqueConstraint("tenant_id", "name", "version"),)
    id: str = col.row_id()
    tenant_id: str = col.tenant()
    name: str = col.text()
    version: int = col.number(1)
    text: str = col.text()
    state: str = col.text()
    created_at: int = col.number()
    created_by: str = col.text()
    mac: bytes = col.blob(nullable=False)


class AuditRow(Base, table=True):
    """Who got what, or was refused; chained per writer by HMAC."""

    __tablename__ = "audit_events"
    __table_args__ = (UniqueConstraint("writer_id", "sequence"), Index(None, "tenant_id", "at"))
    id: str = col.row_id()
    tenant_id: str = col.text()
    writer_id: str = col.text()
    sequence: int = col.number()
    at: int = col.number()
    correlation_id: str = col.text()
    workload: str = col.text()
    workload_id: str = col.text()
    user_key: str = col.text()
    user_display: str = col.text()
    verified: int = col.number()
    edge: str = col.text()
    action: str = col.text()
    provider: str = col.text()
    flow: str = col.text()
    scopes: str = col.text()
    outcome: str = col.text()
    detail: str = col.text()
    mac: bytes = col.blob(nullable=False)
