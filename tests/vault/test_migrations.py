from __future__ import annotations

from collections.abc import Generator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Engine, inspect

from mcp_identity.vault.columns import metadata
from mcp_identity.vault.making import run_migrations
from tests.vault.kit import Place, location

OWN = {"vault_state", "vault_keys", "audit_heads", "audit_writers"}
COLUMNS = {
    "access_keys": (
        "id tenant_id access_key_id secret secret_generation role workload_ids may_assert_users state created_at "
        "last_used_at mac"
    ),
    "approvals": "id tenant_id workload_id user_key action_hash request state created_at updated_at expires_at mac",
    "audit_events": (
        "id tenant_id writer_id sequence at correlation_id workload workload_id user_key user_display verified edge "
        "action provider flow scopes outcome detail mac"
    ),
    "audit_heads": "writer_id sequence mac",
    "audit_writers": "number writer_id started_at mac",
    "consent_sessions": (
        "id tenant_id workload_id user_key provider_row request_hash request state error_code attempt attempt_sealed "
        "state_hash code completion_hash grant_id created_at updated_at expires_at"
    ),
    "credential_providers": (
        "id tenant_id name vendor kind provider_id settings issuer authorization_url token_url refresh_url "
        "revocation_url jwks_url requires_iss client_id client_authentication flows scopes release api_hosts "
        "subject_issuers allow_http_loopback owner tags epoch disabled secret secret_generation secret_updated_at "
        "created_at updated_at mac"
    ),
    "grants": (
        "id tenant_id workload_id user_key provider_row flow resource audience scope_key key_hash state reason "
        "generation tokens granted_scopes expires_at obtained_by lease_owner lease_counter lease_until intent "
        "created_at updated_at"
    ),
    "groups": "id tenant_id path parent_id owner tags created_at updated_at mac",
    "issuers": (
        "id tenant_id name preset issuer discovery_url jwks_url audiences discriminator subject_claims configuration "
        "login_client_id login_client_secret login_discovery_url secret_generation require_tool_scopes "
        "allow_http_loopback epoch disabled created_at updated_at mac"
    ),
    "login_transactions": "id tenant_id purpose issuer_id consent_id state_hash cookie_hash sealed state created_at expires_at",
    "policies": "id tenant_id name version text state created_at created_by mac",
    "releases": (
        "id tenant_id handle_hash workload_id workload_epoch user_key grant_id provider_row generation state created_at "
        "expires_at mac"
    ),
    "replay_marks": "id tenant_id purpose mark_hash outcome created_at expires_at",
    "settings": "id tenant_id name value updated_at mac",
    "signing_keys": "id tenant_id version algorithm public_jwk private_key state created_at retires_at mac",
    "tenants": "id title created_at mac",
    "users": "id tenant_id issuer subject kind display not_before_at created_at last_seen_at mac",
    "vault_keys": "id tenant purpose version backend_key_id wrapped constant state created_at",
    "vault_state": "id vault_id schema_version minimum_writer configuration_epoch key_id key_check created_at",
    "workload_identities": (
        "id tenant_id name epoch disabled group_id owner purpose environment tags authorizer shared_authorizer "
        "allowed_providers return_urls identity_audiences may_assert_users registered_by expires_at created_at "
        "updated_at mac"
    ),
    "workload_keys": "id tenant_id workload_id key_hash label state created_at expires_at last_used_at mac",
}
"""Every table and column. Whoever changes this makes a migration, and says in `test_tampering` what editing the column does."""


@pytest.fixture
def engine(home: Path, database: Place) -> Generator[Engine]:
    store = location(home, database=database).site().open()
    made = store.writing_engine()
    yield made
    made.dispose()
    store.release()


def test_the_migrations_make_exactly_what_the_models_say(engine: Engine) -> None:
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, metadata) == []


def test_every_table_and_column_is_one_that_somebody_decided_on(engine: Engine) -> None:
    declared = {name: [column.name for column in table.columns] for name, table in metadata.tables.items()}
    assert declared == {name: columns.split() for name, columns in COLUMNS.items()}
    found = inspect(engine)
    made = {name: {column["name"] for column in found.get_columns(name)} for name in found.get_table_names()}
    assert made.pop("alembic_version") == {"version_num"}
    assert made == {name: set(columns.split()) for name, columns in COLUMNS.items()}


def test_the_schema_names_every_table_of_the_design() -> None:
    tables = """
        tenants users settings workload_identities groups credential_providers issuers grants consent_sessions
        login_transactions approvals releases workload_keys access_keys vault_keys signing_keys replay_marks policies
        audit_events audit_heads audit_writers vault_state
    """
    assert COLUMNS.keys() == set(tables.split())


@pytest.mark.parametrize("name", sorted(COLUMNS.keys() - OWN - {"tenants"}))
def test_every_table_but_the_vaults_own_belongs_to_a_tenant(name: str) -> None:
    column = metadata.tables[name].columns["tenant_id"]
    assert not column.nullable
    if name != "audit_events":  # the trail outlives what it tells of
        assert {key.target_fullname for key in column.foreign_keys} == {"tenants.id"}


@pytest.mark.parametrize("name", sorted(OWN))
def test_the_vaults_own_tables_belong_to_none(name: str) -> None:
    assert "tenant_id" not in metadata.tables[name].columns


@pytest.mark.parametrize("name", sorted(COLUMNS))
def test_only_bytes_may_be_absent(name: str) -> None:
    for column in metadata.tables[name].columns:
        assert not column.nullable or column.type.python_type is bytes, column


def covered() -> dict[str, dict[int, tuple[str, ...]]]:
    """Which columns each version of a MAC covers, by table."""
    providers: Any = import_module("mcp_identity.vault.records.providers")
    rows: Any = import_module("mcp_identity.vault.records.rows")
    audit: Any = import_module("mcp_identity.vault.records.audit")
    return {"credential_providers": providers._COVERED, **rows.COVERED, "audit_events": {1: audit.CHAINED}}


NOT_COVERED = {"users": {"last_seen_at"}, "workload_keys": {"last_used_at"}, "access_keys": {"last_used_at"}}


@pytest.mark.parametrize("name", sorted(covered()))
def test_a_mac_covers_every_column_of_its_row_but_those_that_decide_nothing(name: str) -> None:
    versions = covered()[name]
    existing = {column.name for column in metadata.tables[name].columns}
    for columns in versions.values():
        assert len(columns) == len(set(columns))
        assert set(columns) <= existing
    assert set(versions[max(versions)]) == existing - {"mac"} - NOT_COVERED.get(name, set())


def test_bringing_the_newest_schema_up_to_date_changes_nothing(engine: Engine) -> None:
    def schema() -> object:
        found = inspect(engine)
        return {name: (found.get_columns(name), found.get_indexes(name)) for name in found.get_table_names()}

    before = str(schema())
    with engine.begin() as connection:
        run_migrations(connection)
    assert str(schema()) == before


def test_on_postgresql_text_is_compared_by_its_bytes_as_on_sqlite(engine: Engine) -> None:
    query = (
        "SELECT DISTINCT collation_name FROM information_schema.columns "
        "WHERE table_schema = 'mcp_identity' AND table_name <> 'alembic_version' AND data_type = 'text'"
    )
    if engine.dialect.name == "postgresql":
        with engine.connect() as connection:
            assert connection.exec_driver_sql(query).scalars().all() == ["C"]
