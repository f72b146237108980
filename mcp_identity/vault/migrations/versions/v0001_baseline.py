"""The first schema: everything whose later arrival would change sealed rows or the writer."""

from __future__ import annotations

from collections.abc import Iterator

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


_TEXT = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")


def _columns(text: str = "", number: str = "", blob: str = "", blob_or_null: str = "") -> Iterator[sa.Column[object]]:
    for name in text.split():
        yield sa.Column(name, _TEXT, nullable=False)
    for name in number.split():
        yield sa.Column(name, sa.BigInteger(), nullable=False, autoincrement=False)
    for name in blob.split():
        yield sa.Column(name, sa.LargeBinary(), nullable=False)
    for name in blob_or_null.split():
        yield sa.Column(name, sa.LargeBinary(), nullable=True)


def _reference(table: str, column: str, target: str) -> sa.ForeignKeyConstraint:
    return sa.ForeignKeyConstraint([column], [f"{target}.id"], name=op.f(f"fk_{table}_{column}_{target}"))


def _unique(table: str, *columns: str) -> sa.UniqueConstraint:
    return sa.UniqueConstraint(*columns, name=op.f(f"uq_{table}_{'_'.join(columns)}"))


def _index(table: str, *columns: str) -> None:
    op.create_index(op.f(f"ix_{table}_{'_'.join(columns)}"), table, list(columns))


def upgrade() -> None:
    """Make every table."""
    op.create_table(
        "audit_events",
        *_columns(
            text=(
                "id tenant_id writer_id correlation_id workload workload_id user_key user_display edge action "
                "provider flow scopes outcome detail"
            ),
            number="sequence at verified",
            blob="mac",
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_audit_events")),
        _unique("audit_events", "writer_id", "sequence"),
    )
    _index("audit_events", "tenant_id", "at")
    op.create_table(
        "audit_heads",
        *_columns(text="writer_id", number="sequence", blob="mac"),
        sa.PrimaryKeyConstraint("writer_id", name=op.f("pk_audit_heads")),
    )
    op.create_table(
        "audit_writers",
        *_columns(text="writer_id", number="number started_at", blob="mac"),
        sa.PrimaryKeyConstraint("number", name=op.f("pk_audit_writers")),
        _unique("audit_writers", "writer_id"),
    )
    op.create_table(
        "tenants",
        *_columns(text="id title", number="created_at", blob="mac"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_tenants")),
    )
    op.create_table(
        "vault_keys",
        *_columns(text="id tenant purpose backend_key_id state", number="version created_at", blob="wrapped constant"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_vault_keys")),
        _unique("vault_keys", "tenant", "purpose", "version"),
    )
    op.create_table(
        "vault_state",
        *_columns(
            text="vault_id key_id", number="id schema_version minimum_writer configuration_epoch created_at", blob="key_check"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_vault_state")),
    )
    op.create_table(
        "access_keys",
        *_columns(
            text="id tenant_id access_key_id role workload_ids state",
            number="secret_generation may_assert_users created_at last_used_at",
            blob="mac",
            blob_or_null="secret",
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_access_keys")),
        _reference("access_keys", "tenant_id", "tenants"),
        _unique("access_keys", "access_key_id"),
    )
    op.create_table(
        "approvals",
        *_columns(
            text="id tenant_id workload_id user_key state",
            number="created_at updated_at expires_at",
            blob="action_hash request mac",
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_approvals")),
        _reference("approvals", "tenant_id", "tenants"),
    )
    _index("approvals", "tenant_id", "workload_id", "user_key", "state")
    op.create_table(
        "credential_providers",
        *_columns(
            text=(
                "id tenant_id name vendor kind provider_id settings issuer authorization_url token_url refresh_url "
                "revocation_url jwks_url client_id client_authentication flows scopes release api_hosts "
                "subject_issuers owner tags"
            ),
            number="requires_iss allow_http_loopback epoch disabled secret_generation secret_updated_at created_at updated_at",
            blob="mac",
            blob_or_null="secret",
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_credential_providers")),
        _reference("credential_providers", "tenant_id", "tenants"),
        _unique("credential_providers", "provider_id"),
        _unique("credential_providers", "tenant_id", "name"),
    )
    op.create_table(
        "groups",
        *_columns(text="id tenant_id path parent_id owner tags", number="created_at updated_at", blob="mac"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_groups")),
        _reference("groups", "tenant_id", "tenants"),
        _unique("groups", "tenant_id", "path"),
    )
    op.create_table(
        "issuers",
        *_columns(
            text=(
                "id tenant_id name preset issuer discovery_url jwks_url audiences discriminator subject_claims "
                "configuration login_client_id login_discovery_url"
            ),
            number="secret_generation require_tool_scopes allow_http_loopback epoch disabled created_at updated_at",
            blob="mac",
            blob_or_null="login_client_secret",
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_issuers")),
        _reference("issuers", "tenant_id", "tenants"),
        _unique("issuers", "tenant_id", "name"),
    )
    _index("issuers", "issuer")
    op.create_table(
        "login_transactions",
        *_columns(
            text="id tenant_id purpose issuer_id consent_id state",
            number="created_at expires_at",
            blob="state_hash cookie_hash",
            blob_or_null="sealed",
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_login_transactions")),
        _reference("login_transactions", "tenant_id", "tenants"),
        _unique("login_transactions", "state_hash"),
    )
    op.create_table(
        "policies",
        *_columns(text="id tenant_id name text state created_by", number="version created_at", blob="mac"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_policies")),
        _reference("policies", "tenant_id", "tenants"),
        _unique("policies", "tenant_id", "name", "version"),
    )
    op.create_table(
        "releases",
        *_columns(
            text="id tenant_id workload_id user_key grant_id provider_row state",
            number="workload_epoch generation created_at expires_at",
            blob="handle_hash mac",
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_releases")),
        _reference("releases", "tenant_id", "tenants"),
        _unique("releases", "handle_hash"),
    )
    op.create_table(
        "replay_marks",
        *_columns(text="id tenant_id purpose", number="created_at expires_at", blob="mark_hash", blob_or_null="outcome"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_replay_marks")),
        _reference("replay_marks", "tenant_id", "tenants"),
        _unique("replay_marks", "mark_hash"),
    )
    _index("replay_marks", "expires_at")
    op.create_table(
        "settings",
        *_columns(text="id tenant_id name value", number="updated_at", blob="mac"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_settings")),
        _reference("settings", "tenant_id", "tenants"),
        _unique("settings", "tenant_id", "name"),
    )
    op.create_table(
        "signing_keys",
        *_columns(
            text="id tenant_id algorithm public_jwk state",
            number="version created_at retires_at",
            blob="mac",
            blob_or_null="private_key",
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_signing_keys")),
        _reference("signing_keys", "tenant_id", "tenants"),
        _unique("signing_keys", "tenant_id", "version"),
    )
    op.create_table(
        "users",
        *_columns(text="id tenant_id issuer subject kind display", number="not_before_at created_at last_seen_at", blob="mac"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_users")),
        _reference("users", "tenant_id", "tenants"),
        _unique("users", "tenant_id", "issuer", "subject"),
    )
    op.create_table(
        "workload_identities",
        *_columns(
            text=(
                "id tenant_id name group_id owner purpose environment tags authorizer allowed_providers return_urls "
                "identity_audiences registered_by"
            ),
            number="epoch disabled shared_authorizer may_assert_users expires_at created_at updated_at",
            blob="mac",
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_workload_identities")),
        _reference("workload_identities", "tenant_id", "tenants"),
        _unique("workload_identities", "tenant_id", "name"),
    )
    op.create_table(
        "consent_sessions",
        *_columns(
            text="id tenant_id workload_id user_key provider_row state error_code grant_id",
            number="attempt created_at updated_at expires_at",
            blob="request_hash request",
            blob_or_null="attempt_sealed state_hash code completion_hash",
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_consent_sessions")),
        _reference("consent_sessions", "provider_row", "credential_providers"),
        _reference("consent_sessions", "tenant_id", "tenants"),
        _reference("consent_sessions", "workload_id", "workload_identities"),
        _unique("consent_sessions", "completion_hash"),
        _unique("consent_sessions", "state_hash"),
    )
    _index("consent_sessions", "state", "expires_at")
    _index("consent_sessions", "tenant_id", "workload_id", "user_key", "state")
    op.create_table(
        "grants",
        *_columns(
            text=(
                "id tenant_id workload_id user_key provider_row flow resource audience scope_key state reason "
                "granted_scopes obtained_by lease_owner"
            ),
            number="generation expires_at lease_counter lease_until intent created_at updated_at",
            blob="key_hash",
            blob_or_null="tokens",
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_grants")),
        _reference("grants", "provider_row", "credential_providers"),
        _reference("grants", "tenant_id", "tenants"),
        _reference("grants", "workload_id", "workload_identities"),
        _unique("grants", "key_hash"),
    )
    _index("grants", "provider_row")
    _index("grants", "tenant_id", "workload_id", "user_key")
    op.create_table(
        "workload_keys",
        *_columns(
            text="id tenant_id workload_id label state", number="created_at expires_at last_used_at", blob="key_hash mac"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_workload_keys")),
        _reference("workload_keys", "tenant_id", "tenants"),
        _reference("workload_keys", "workload_id", "workload_identities"),
        _unique("workload_keys", "key_hash"),
    )
