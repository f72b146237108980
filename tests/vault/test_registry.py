"""Does the registry know every column that is sealed or authenticates something, and does it say where each belongs?"""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import select

from mcp_identity.domain.access_key import AccessKeyRole
from mcp_identity.domain.credentials import Secret
from mcp_identity.domain.errors import VaultCorrupt
from mcp_identity.domain.identity import DEFAULT_TENANT
from mcp_identity.domain.login import LoginPurpose
from mcp_identity.vault.columns import Blob, metadata
from mcp_identity.vault.envelope import RANDOM_BYTES, DataKey, seal
from mcp_identity.vault.keys import KeyRing
from mcp_identity.vault.records import Records
from mcp_identity.vault.records.logins import Login
from mcp_identity.vault.records.protected import Protected
from mcp_identity.vault.records.registry import CHAINED, OF_THE_VAULT, PROTECTED, UNWRITTEN
from mcp_identity.vault.records.releases import NewRelease
from mcp_identity.vault.vault import Vault
from tests.fakes.clock import START, SystemEntropy
from tests.vault.kit import ALICE, attempt, consent_session, digest, grant_key, seed, token_set
from tests.vault.test_records_authority import issuer

HASHES = {
    "grants": {"key_hash"},
    "consent_sessions": {"request_hash", "state_hash", "completion_hash"},
    "login_transactions": {"state_hash", "cookie_hash"},
    "workload_keys": {"key_hash"},
    "releases": {"handle_hash"},
    "replay_marks": {"mark_hash"},
}
"""Columns of bytes that are neither sealed nor a MAC: what rows are found by."""


def fill(records: Records) -> None:
    """A row in every table that something writes, with every sealed column of it filled."""
    seeded = seed(records)
    records.complete_grant(grant_key(seeded.agent), token_set(), "consent")
    session = consent_session(seeded.agent)
    records.insert_session(session, digest("request"))
    records.start_attempt(session, attempt())
    records.keep_code(session, Secret("code"), digest("completion"))
    records.insert_issuer(issuer(), Secret("login-secret"))
    records.insert_workload_key(DEFAULT_TENANT, seeded.agent.id, digest("key"))
    records.insert_access_key(
        DEFAULT_TENANT,
        "MID" + "A" * 17,
        Secret("signs"),
        role=AccessKeyRole.WORKLOAD,
        workload_ids=frozenset({seeded.agent.id}),
    )
    mark = records.insert_replay_mark(DEFAULT_TENANT, "signature", digest("mark"), expires_at=START + timedelta(minutes=11))
    records.settle_replay_mark(DEFAULT_TENANT, mark, b"outcome")
    records.insert_signing_key(DEFAULT_TENANT, "ES256", '{"kid":"1"}', Secret("private"), until=START + timedelta(days=1))
    records.insert_release(
        NewRelease(
            DEFAULT_TENANT, digest("handle"), seeded.agent.id, 1, ALICE.key, "grant", "row", 1, START + timedelta(minutes=1)
        )
    )
    records.insert_login(
        Login(
            DEFAULT_TENANT, "issuer", LoginPurpose.CONSENT, session.id, digest("state"), digest("browser"), Secret("verifier"),
            "nonce", "https://agents.example/back", START + timedelta(minutes=10),
        )
    )  # fmt: skip


def rows_of(records: Records, protected: Protected) -> list[dict[str, Any]]:
    found = records.connection.execute(select(metadata.tables[protected.table])).mappings().all()
    return [{str(name): value for name, value in row.items()} for row in found]


def test_every_column_of_bytes_is_known() -> None:
    tables = {name: {c.name for c in table.columns if isinstance(c.type, Blob)} for name, table in metadata.tables.items()}
    for name in UNWRITTEN | CHAINED | OF_THE_VAULT:
        assert tables.pop(name), name
    assert {name: columns for name, columns in tables.items() if columns} == {
        name: set(protected.columns) | HASHES.get(name, set()) for name, protected in PROTECTED.items()
    }


def test_whatever_has_a_mac_has_what_it_covers() -> None:
    for name, protected in PROTECTED.items():
        assert bool(protected.covered) == ("mac" in metadata.tables[name].columns), name
        for columns in protected.covered.values():
            assert set(columns) <= {column.name for column in metadata.tables[name].columns} - {"mac"}


async def test_each_row_that_the_product_wrote_stands_and_each_sealed_column_is_opened(vault: Vault) -> None:
    await vault.run(fill)

    def unit(records: Records) -> None:
        for protected in PROTECTED.values():
            rows = rows_of(records, protected)
            assert rows, protected.table
            opened = [set(protected.verify(records.ring, row)) for row in rows]
            assert set().union(*opened) == {cell.name for cell in protected.cells}, protected.table
            assert all(protected.resealed(records.ring, records.entropy, row) == {} for row in rows)

    await vault.read(unit)


async def test_a_changed_row_neither_stands_nor_is_made_to(vault: Vault) -> None:
    await vault.run(fill)
    entropy = SystemEntropy()

    def unit(records: Records) -> None:
        other = DataKey(entropy.random_bytes(16), entropy.random_bytes(32))
        newer = Newer(records.ring, other)
        for protected in PROTECTED.values():
            row = next(row for row in rows_of(records, protected) if any(row[name] for name in protected.columns))
            assert set(protected.resealed(newer, entropy, row)) == {
                name for name in protected.columns if row[name] is not None
            }, protected.table
            for name in protected.columns:
                if row[name] is None:
                    continue
                for changed in (row[name][:-1] + bytes([row[name][-1] ^ 1]), row[name][:20], "text", 1):
                    with pytest.raises(VaultCorrupt) as caught:
                        protected.resealed(newer, entropy, {**row, name: changed})
                    assert caught.value.code == "vault_corrupt"

    await vault.read(unit)


async def test_what_was_sealed_anew_is_what_it_was(vault: Vault) -> None:
    await vault.run(fill)
    entropy = SystemEntropy()

    def unit(records: Records) -> None:
        newer = Newer(records.ring, DataKey(entropy.random_bytes(16), entropy.random_bytes(32)))
        for protected in PROTECTED.values():
            for row in rows_of(records, protected):
                moved = {**row, **protected.resealed(newer, entropy, row)}
                assert protected.verify(newer, moved) == protected.verify(records.ring, row)
                assert protected.key_ids(moved) == {newer.newest.id}
                for name in {column for column in row if column not in protected.columns}:
                    assert moved[name] == row[name]

    await vault.read(unit)


def test_a_row_whose_cells_are_of_no_place_is_corrupt() -> None:
    entropy = SystemEntropy()
    key = DataKey(entropy.random_bytes(16), entropy.random_bytes(32))
    place = PROTECTED["issuers"].cells[0].place
    row: dict[str, Any] = {
        "tenant_id": "t", "id": "i", "configuration": "{}", "login_client_id": "c", "secret_generation": 1
    }  # fmt: skip
    with pytest.raises(KeyError):
        place(row)
    protected = Protected("issuers", PROTECTED["issuers"].cells)
    other = PROTECTED["grants"].cells[0].place
    sealed = seal(key, b"", other({"flow": "M2M", **dict.fromkeys(_GRANT, "")}), entropy.random_bytes(RANDOM_BYTES))
    ring = Newer(None, key)
    with pytest.raises(VaultCorrupt) as caught:
        protected.verify(ring, {**row, "login_client_secret": sealed})
    assert caught.value.code == "vault_corrupt"


_GRANT = (
    "tenant_id", "workload_id", "user_key", "provider_row", "resource", "audience", "scope_key", "id", "generation"
)  # fmt: skip


class Newer(KeyRing):
    """A ring whose current key is another one, as after a rotation."""

    def __init__(self, before: KeyRing | None, newest: DataKey) -> None:
        self.before, self.newest = before, newest

    def current(self, tenant: str) -> DataKey:
        del tenant
        return self.newest

    def find(self, tenant: str, key_id: bytes) -> DataKey:
        if key_id == self.newest.id or self.before is None:
            return self.newest
        return self.before.find(tenant, key_id)
