from __future__ import annotations

from dataclasses import replace
from typing import TypeVar

import pytest

from mcp_identity.domain.credentials import Secret
from mcp_identity.domain.errors import Conflict
from mcp_identity.domain.identity import DEFAULT_TENANT, User, UserKind
from mcp_identity.domain.provider import AuthorizationServer, CredentialProvider, ProviderKind
from mcp_identity.vault.records import Records
from mcp_identity.vault.vault import Vault
from tests.fakes.clock import FakeClock
from tests.vault.conftest import Opener
from tests.vault.kit import ALICE, Seeded, grant_key, provider, token_set

T = TypeVar("T")


async def find(vault: Vault, name: str = "github") -> CredentialProvider | None:
    return await vault.read(lambda records: records.find_provider(DEFAULT_TENANT, name))


async def secret(vault: Vault, of: CredentialProvider) -> str | None:
    found = await vault.read(lambda records: records.open_provider_secret(of))
    return found.reveal() if found else None


async def test_a_provider_and_its_secret_come_back_as_they_were_given(vault: Vault) -> None:
    await vault.run(lambda records: records.insert_provider(provider(), Secret("s3cret-é")))
    assert await find(vault) == provider()
    assert await vault.read(lambda records: records.find_provider_row(DEFAULT_TENANT, "row-github")) == provider()
    assert await secret(vault, provider()) == "s3cret-é"
    assert await find(vault, "slack") is None
    assert await vault.read(lambda records: records.find_provider_row(DEFAULT_TENANT, "row-slack")) is None


async def test_a_provider_of_defaults_comes_back_too(vault: Vault) -> None:
    plain = CredentialProvider("row", DEFAULT_TENANT, "key", "custom", ProviderKind.API_KEY, "callback")
    await vault.run(lambda records: records.insert_provider(plain, None))
    assert await find(vault, "key") == plain
    assert await secret(vault, plain) is None


async def test_an_update_replaces_configuration_and_secret(vault: Vault, clock: FakeClock) -> None:
    await vault.run(lambda records: records.insert_provider(provider(), Secret("first")))
    clock.advance(5)
    moved = provider(server=AuthorizationServer(token_url="https://elsewhere.example/token"), epoch=2)
    await vault.run(lambda records: records.update_provider(moved, Secret("second")))
    assert await find(vault) == moved
    assert await secret(vault, moved) == "second"
    await vault.run(lambda records: records.update_provider(replace(moved, epoch=3), None))
    assert await secret(vault, moved) is None


async def test_a_newer_secret_never_goes_to_older_endpoints(vault: Vault) -> None:
    await vault.run(lambda records: records.insert_provider(provider(), Secret("old")))
    moved = provider(server=AuthorizationServer(token_url="https://elsewhere.example/token"))
    await vault.run(lambda records: records.update_provider(moved, Secret("new")))
    with pytest.raises(Conflict) as caught:
        await vault.run(lambda records: records.open_provider_secret(provider()))
    assert caught.value.code == "conflict"
    assert caught.value.retryable


async def test_what_decides_nothing_about_the_secret_leaves_it_readable(vault: Vault) -> None:
    await vault.run(lambda records: records.insert_provider(provider(), Secret("s")))
    assert await secret(vault, provider(scopes=frozenset({"x"}), epoch=9, disabled=True)) == "s"


async def test_a_provider_that_is_gone_has_no_secret_and_takes_no_change(vault: Vault, seeded: Seeded) -> None:
    def remove(records: Records) -> None:
        records.delete_provider_sessions(DEFAULT_TENANT, "row-github")
        records.delete_provider_grants(DEFAULT_TENANT, "row-github")
        records.delete_provider(provider())

    await vault.run(lambda records: records.complete_grant(grant_key(seeded.agent), token_set(), "consent"))
    await vault.run(remove)
    assert await find(vault) is None
    for unit in (open_secret, change):
        with pytest.raises(Conflict) as caught:
            await vault.run(unit)
        assert caught.value.code == "conflict"


def open_secret(records: Records) -> object:
    return records.open_provider_secret(provider())


def change(records: Records) -> object:
    return records.update_provider(provider(), Secret("s"))


async def test_providers_are_listed_by_name(vault: Vault, seeded: Seeded) -> None:
    del seeded
    listed = await vault.read(lambda records: records.list_providers(DEFAULT_TENANT))
    assert [each.name for each in listed.providers] == ["github", "slack"]
    assert listed.corrupt == ()
    assert (await vault.read(lambda records: records.list_providers("another"))).providers == ()


# --- workloads and users ----------------------------------------------------------------------------------------------


async def test_a_workload_is_known_by_name_and_by_id(vault: Vault) -> None:
    made = await vault.run(lambda records: records.register_workload(DEFAULT_TENANT, "agent", "stdio"))
    assert (made.tenant, made.name, made.epoch, made.disabled) == (DEFAULT_TENANT, "agent", 1, False)
    assert await vault.read(lambda records: records.find_workload(DEFAULT_TENANT, "agent")) == made
    assert await vault.read(lambda records: records.find_workload_id(DEFAULT_TENANT, made.id)) == made
    assert await vault.read(lambda records: records.find_workload(DEFAULT_TENANT, "other")) is None
    assert await vault.read(lambda records: records.find_workload_id(DEFAULT_TENANT, "other")) is None
    assert await vault.read(lambda records: records.find_workload("another", "agent")) is None


async def test_two_workloads_are_never_the_same(vault: Vault, seeded: Seeded) -> None:
    assert seeded.agent.id != seeded.other.id
    listed = await vault.read(lambda records: records.list_workloads(DEFAULT_TENANT))
    assert list(listed) == [seeded.agent, seeded.other]


async def test_a_user_is_kept_once_and_users_of_two_issuers_apart(vault: Vault) -> None:
    users = [ALICE, User("https://other.example", "alice", UserKind.OIDC, "Alice"), ALICE]
    for user in users:
        await vault.run(lambda records, user=user: records.register_user(DEFAULT_TENANT, user))
    for user in users:
        await vault.read(lambda records, user=user: records.register_user(DEFAULT_TENANT, user))


# --- what the vault itself derives ------------------------------------------------------------------------------------


def test_a_process_of_the_same_vault_proves_it_and_a_stranger_does_not(opener: Opener) -> None:
    here, there = opener(), opener()
    proof = here.prove(b"nonce", 8976)
    assert there.check_proof(b"nonce", 8976, proof)
    assert not there.check_proof(b"other", 8976, proof)
    assert not there.check_proof(b"nonce", 8977, proof)
    assert not there.check_proof(b"nonce", 8976, b"")


def test_a_key_derived_for_one_purpose_is_no_key_for_another(opener: Opener) -> None:
    here, there = opener(), opener()
    assert here.derived_key("page") == there.derived_key("page") == here.derived_key("page")
    assert len({here.derived_key(purpose) for purpose in ("page", "audit", "callback")}) == 3
    assert len(here.derived_key("page")) == 32
