"""Is a row that says who callers are believed only as the product wrote it? Issuers, keys of workloads, keys that sign."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mcp_identity.domain.access_key import AccessKeyRole
from mcp_identity.domain.authorizer import Authorizer, ClaimOperator, ClaimRule
from mcp_identity.domain.credentials import Secret
from mcp_identity.domain.errors import NotFound, VaultCorrupt
from mcp_identity.domain.identity import WorkloadIdentity
from mcp_identity.domain.issuer import Issuer, TokenRules
from mcp_identity.vault.columns import metadata
from mcp_identity.vault.records import Records
from mcp_identity.vault.vault import Vault
from tests.fakes.clock import START
from tests.vault.kit import digest

ACCESS_KEY = "MID" + "A" * 17
FREE = {"workload_keys": {"last_used_at"}, "access_keys": {"last_used_at"}}
"""Columns that decide nothing."""


def issuer(name: str = "corp", **changes: Any) -> Issuer:
    """An issuer of which every field says something."""
    made = Issuer(
        id=f"row-{name}",
        tenant="default",
        name=name,
        preset="entra",
        issuer=f"https://{name}.example.com/{{tenantid}}",
        discovery_url=f"https://{name}.example.com/.well-known/openid-configuration",
        jwks_url=f"https://{name}.example.com/jwks",
        audiences=frozenset({"a", "b"}),
        discriminator_values=frozenset({"one", "two"}),
        rules=TokenRules(access_subject=("tid", "oid"), id_subject=("oid",), discriminator="tid"),
        login_client_id="client",
        login_issuer=f"https://login.{name}.example.com",
        login_discovery_url=f"https://login.{name}.example.com/.well-known/openid-configuration",
        login_authorization_url=f"https://login.{name}.example.com/authorize",
        login_token_url=f"https://login.{name}.example.com/token",
        login_jwks_url=f"https://login.{name}.example.com/jwks",
        has_login_secret=True,
        require_tool_scopes=True,
        allow_http_loopback=True,
    )
    return replace(made, **changes)


def workload() -> WorkloadIdentity:
    rule = ClaimRule("groups", ClaimOperator.CONTAINS_ANY, ("a", "b"))
    authorizer = Authorizer("row-corp", frozenset({"a"}), frozenset({"c"}), frozenset({"s"}), (rule,))
    return WorkloadIdentity("workload", "default", "agent", authorizer=authorizer)


def fill(records: Records) -> None:
    records.insert_issuer(issuer(), Secret("login-secret"))
    records.insert_issuer(issuer("other"), Secret("other-secret"))
    records.insert_workload(workload(), "cli")
    records.insert_workload_key("default", "workload", digest("key"), label="production", expires_at=START.replace(year=2027))
    records.insert_access_key(
        "default", ACCESS_KEY, Secret("signs"), role=AccessKeyRole.WORKLOAD, workload_ids=frozenset({"workload"})
    )
    records.insert_signing_key("default", "ES256", '{"kid":"1"}', Secret('{"d":"1"}'), until=START.replace(year=2027))
    records.insert_signing_key("default", "ES256", '{"kid":"2"}', Secret('{"d":"2"}'), until=START.replace(year=2027))


@pytest.fixture
async def filled(vault: Vault) -> Vault:
    """A vault with two issuers, a workload with a key, and two signing keys."""
    await vault.run(fill)
    return vault


def read_issuers(records: Records) -> object:
    found = records.list_issuers("default")
    return found, [records.open_login_secret(each) for each in found]


def read_keys(records: Records) -> object:
    return records.find_workload_key(digest("key")), records.list_workload_keys("default", "workload")


def read_access_keys(records: Records) -> object:
    return records.find_access_key(ACCESS_KEY), records.list_access_keys("default")


def read_signing_keys(records: Records) -> object:
    found = records.list_signing_keys("default")
    return found, [records.open_signing_key(each) for each in found]


READERS: dict[str, Callable[[Records], object]] = {
    "issuers": read_issuers,
    "workload_keys": read_keys,
    "access_keys": read_access_keys,
    "signing_keys": read_signing_keys,
}


async def test_what_was_written_is_read(filled: Vault) -> None:
    def unit(records: Records) -> None:
        assert records.list_issuers("default") == (issuer(), issuer("other"))
        assert records.open_login_secret(issuer()) == Secret("login-secret")
        assert records.find_workload("default", "agent") == workload()
        key = records.find_workload_key(digest("key"))
        assert key is not None
        assert (key.workload_id, key.label, key.revoked) == ("workload", "production", False)
        old, new = records.list_signing_keys("default")
        assert (old.version, new.version, new.retires_at) == (1, 2, None)
        assert old.retires_at == START.replace(year=2027)
        assert records.open_signing_key(new) == Secret('{"d":"2"}')

    await filled.read(unit)


@pytest.mark.sqlite
@pytest.mark.parametrize("table", READERS)
async def test_no_column_can_be_edited(filled: Vault, home: Path, table: str) -> None:
    read = READERS[table]
    whole = await filled.read(read)
    with closing(sqlite3.connect(home / "vault.db", isolation_level=None)) as file:
        file.execute("PRAGMA foreign_keys=OFF")
        columns = [column.name for column in metadata.tables[table].columns]
        row = dict(zip(columns, file.execute(f"SELECT {', '.join(columns)} FROM {table} LIMIT 1").fetchone(), strict=True))  # noqa: S608 - names of ours
        for column in columns:
            for edited in edits(row[column]):
                file.execute(f"UPDATE {table} SET {column} = ? WHERE id = ?", (edited, row["id"]))  # noqa: S608 - likewise
                name = edited if column == "id" else row["id"]
                try:
                    found = await filled.read(read)
                except VaultCorrupt:
                    found = None
                assert found != whole or column in FREE.get(table, ()), (column, edited)
                file.execute(f"UPDATE {table} SET {column} = ? WHERE id = ?", (row[column], name))  # noqa: S608 - likewise
    assert await filled.read(read) == whole


def edits(value: object) -> list[object]:
    """Other values of the same kind, and one of another."""
    match value:
        case int():
            return [value + 7, "x"]
        case bytes():
            return [value[:-1], bytes([value[0] ^ 1]) + value[1:], b"", "x"]
        case str():
            return [f"{value}x", value[:-1] if len(value) > 1 else "y", 7]
        case _:
            return [b"x"]


async def test_a_login_secret_is_for_the_endpoints_that_it_was_given_for(filled: Vault) -> None:
    def unit(records: Records) -> None:
        for moved in (
            issuer(login_token_url="https://evil.example.com"),
            issuer(login_issuer="https://evil.example.com"),
            issuer(login_client_id="another"),
        ):
            with pytest.raises(VaultCorrupt):
                records.open_login_secret(moved)

    await filled.read(unit)


async def test_nothing_of_one_tenant_is_found_in_another(filled: Vault) -> None:
    def unit(records: Records) -> None:
        assert records.list_issuers("acme") == ()
        assert records.find_issuer("acme", "corp") is None
        assert records.find_issuer_id("acme", "row-corp") is None
        assert records.list_workload_keys("acme", "workload") == ()
        assert records.list_access_keys("acme") == ()
        with pytest.raises(NotFound):
            records.delete_access_key("acme", ACCESS_KEY)
        assert records.list_signing_keys("acme") == ()
        with pytest.raises(NotFound):
            records.revoke_workload_key("acme", "workload", "x")

    await filled.read(unit)
