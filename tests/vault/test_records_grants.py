from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TypeVar

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mcp_identity.domain.credentials import Flow, Grant, GrantKey, GrantState, Reason, TokenSet
from mcp_identity.domain.errors import VaultCorrupt, VaultUnavailable
from mcp_identity.domain.identity import DEFAULT_TENANT
from mcp_identity.vault.records import Records
from mcp_identity.vault.records.grants import Lease, grant_key_hash
from mcp_identity.vault.records.token_cell import decode_tokens, encode_tokens
from mcp_identity.vault.vault import Vault
from tests.fakes.clock import START, FakeClock
from tests.vault.kit import ALICE, MALLORY, Place, Seeded, behind_its_back, grant_key, token_set

T = TypeVar("T")


@pytest.fixture
def key(seeded: Seeded) -> GrantKey:
    return grant_key(seeded.agent)


def must(found: T | None) -> T:
    assert found is not None
    return found


async def find(vault: Vault, key: GrantKey) -> Grant:
    return must(await vault.read(lambda records: records.find_grant(key)))


async def complete(vault: Vault, key: GrantKey, tokens: TokenSet) -> Grant:
    return await vault.run(lambda records: records.complete_grant(key, tokens, "consent"))


async def lease(vault: Vault, grant: Grant, owner: str = "p1", *, intent: bool = True) -> Lease:
    return must(await vault.run(lambda records: records.take_lease(grant, owner, intent=intent)))


# --- finding ----------------------------------------------------------------------------------------------------------


async def test_a_grant_comes_back_as_it_was_stored(vault: Vault, key: GrantKey) -> None:
    assert await vault.read(lambda records: records.find_grant(key)) is None
    stored = await complete(vault, key, token_set())
    assert await find(vault, key) == stored
    assert stored.tokens == token_set()
    assert stored.state is GrantState.ACTIVE
    assert stored.generation == 1
    assert stored.obtained_by == "consent"
    assert stored.created_at == stored.updated_at == START


async def test_every_part_of_the_key_makes_another_grant(vault: Vault, seeded: Seeded, key: GrantKey) -> None:
    keys = [
        key,
        replace(key, workload_id=seeded.other.id),
        replace(key, user=MALLORY.key),
        replace(key, provider_row="row-slack"),
        replace(key, flow=Flow.ON_BEHALF_OF_TOKEN_EXCHANGE),
        replace(key, resource=""),
        replace(key, resource="", audience="https://api.example"),
        replace(key, scopes="repo"),
    ]
    for number, each in enumerate(keys):
        assert await vault.run(lambda records, each=each: records.find_grant(each)) is None
        await complete(vault, each, token_set(str(number)))
    for number, each in enumerate(keys):
        assert (await find(vault, each)).tokens == token_set(str(number))


@given(st.lists(st.text(max_size=5), min_size=7, max_size=7), st.lists(st.text(max_size=5), min_size=7, max_size=7))
def test_two_keys_have_the_same_hash_only_if_they_are_the_same(one: list[str], two: list[str]) -> None:
    first, second = (GrantKey(a, b, c, d, Flow.M2M, e, f, g) for a, b, c, d, e, f, g in (one, two))
    assert (grant_key_hash(first) == grant_key_hash(second)) == (first == second)


@settings(max_examples=50)
@given(
    st.text(),
    st.frozensets(st.text(max_size=8), max_size=4),
    st.none() | st.datetimes(datetime(1971, 1, 1), timezones=st.timezones(), allow_imaginary=False),  # noqa: DTZ001 - the zone is drawn, too
    st.dictionaries(st.text(max_size=4), st.text(max_size=4), max_size=3),
)
def test_a_token_set_survives_its_cell(name: str, scopes: frozenset[str], expires_at: None, extra: dict[str, str]) -> None:
    tokens = token_set(name, scopes=scopes, expires_at=expires_at, extra=extra, refresh_token=None, refresh_expires_at=None)
    assert decode_tokens(encode_tokens(tokens, "consent")) == (tokens, "consent")


@pytest.mark.parametrize(
    "plaintext", [b"", b"{", b"[]", b"{}", b"\xff", encode_tokens(token_set(), "consent").replace(b'"obtained_at":', b'"at":')]
)
def test_a_cell_that_holds_no_token_set_is_corrupt(plaintext: bytes) -> None:
    with pytest.raises(VaultCorrupt) as caught:
        decode_tokens(plaintext)
    assert caught.value.code == "vault_corrupt"


def test_a_token_set_without_its_time_is_corrupt() -> None:
    with pytest.raises(VaultCorrupt):
        decode_tokens(encode_tokens(token_set(obtained_at=datetime(1970, 1, 1, tzinfo=UTC)), "consent"))


async def test_a_list_holds_one_workloads_grants_of_the_users_that_were_named(
    vault: Vault, seeded: Seeded, key: GrantKey
) -> None:
    m2m = grant_key(seeded.agent, None)
    for each in (key, replace(key, user=MALLORY.key), m2m, replace(key, workload_id=seeded.other.id)):
        await complete(vault, each, token_set())

    async def listed(*users: str) -> set[GrantKey]:
        found = await vault.read(lambda records: records.list_grants(DEFAULT_TENANT, seeded.agent.id, users))
        assert found.corrupt == ()
        return {grant.key for grant in found.grants}

    assert await listed(ALICE.key) == {key}
    assert await listed(ALICE.key, "") == {key, m2m}
    assert await listed() == set()
    everybody = await vault.read(lambda records: records.list_provider_grants(DEFAULT_TENANT, "row-github"))
    assert len(everybody.grants) == 4
    await vault.run(lambda records: records.delete_provider_grants(DEFAULT_TENANT, "row-github"))
    assert await listed(ALICE.key, "") == set()


async def test_a_pending_row_is_there_before_its_token_and_only_once(vault: Vault, key: GrantKey) -> None:
    pending = await vault.run(lambda records: records.insert_pending(key))
    assert await find(vault, key) == pending
    assert pending.state is GrantState.PENDING
    assert pending.tokens is None
    with pytest.raises(VaultUnavailable):
        await vault.run(lambda records: records.insert_pending(key))


# --- leases -----------------------------------------------------------------------------------------------------------


async def test_one_process_holds_the_lease_and_the_others_do_not(vault: Vault, key: GrantKey) -> None:
    grant = await complete(vault, key, token_set())
    first = await lease(vault, grant)
    assert (first.owner, first.counter, first.after_open_intent) == ("p1", 1, False)
    assert await vault.run(lambda records: records.take_lease(grant, "p2", intent=True)) is None
    seen = await find(vault, key)
    assert (seen.lease_owner, seen.lease_counter, seen.intent) == ("p1", 1, grant.generation + 1)
    assert await vault.run(lambda records: records.take_lease(seen, "p2", intent=True)) is None


async def test_a_released_lease_is_free_and_keeps_the_intent_only_if_told(vault: Vault, key: GrantKey) -> None:
    grant = await complete(vault, key, token_set())
    first = await lease(vault, grant)
    await vault.run(lambda records: records.release_lease(first, keep_intent=True))
    assert (await find(vault, key)).intent == 2
    second = await lease(vault, await find(vault, key), "p2")
    assert second.after_open_intent
    await vault.run(lambda records: records.release_lease(second, keep_intent=False))
    assert (await find(vault, key)).intent == 0
    third = await lease(vault, await find(vault, key))
    assert (third.counter, third.after_open_intent) == (3, False)


async def test_a_lease_is_taken_over_only_from_the_lease_that_was_watched(vault: Vault, key: GrantKey) -> None:
    grant = await complete(vault, key, token_set())
    await lease(vault, grant)
    seen = await find(vault, key)
    for watched in (("p1", 2), ("p3", 1)):
        assert (
            await vault.run(lambda records, watched=watched: records.take_lease(seen, "p2", intent=True, from_lease=watched))
            is None
        )
    taken = must(await vault.run(lambda records: records.take_lease(seen, "p2", intent=True, from_lease=("p1", 1))))
    assert taken.after_open_intent
    assert (await find(vault, key)).lease_owner == "p2"
    assert await vault.run(lambda records: records.take_lease(seen, "p3", intent=True, from_lease=("p1", 1))) is None


async def test_a_lease_needs_the_generation_that_was_read(vault: Vault, key: GrantKey) -> None:
    old = await complete(vault, key, token_set("1"))
    await complete(vault, key, token_set("2"))
    assert await vault.run(lambda records: records.take_lease(old, "p1", intent=True)) is None


async def test_a_lease_that_was_held_and_released_meanwhile_is_not_taken_by_who_read_before(
    vault: Vault, key: GrantKey
) -> None:
    before = await complete(vault, key, token_set())
    held = await lease(vault, before)
    await vault.run(lambda records: records.release_lease(held, keep_intent=True))
    assert await vault.run(lambda records: records.take_lease(before, "p2", intent=True)) is None


async def test_a_renewed_lease_does_not_count_its_own_intent_as_somebody_elses(vault: Vault, key: GrantKey) -> None:
    first = await lease(vault, await complete(vault, key, token_set()))
    renewed = must(await vault.run(lambda records: records.renew_lease(first)))
    assert (renewed.owner, renewed.counter, renewed.after_open_intent) == ("p1", 2, False)
    assert await vault.run(lambda records: records.renew_lease(first)) is None
    assert not await vault.run(lambda records: records.mark_needs_consent(first, Reason.REFRESH_REJECTED))


async def test_a_lease_that_was_lost_releases_nothing(vault: Vault, key: GrantKey) -> None:
    first = await lease(vault, await complete(vault, key, token_set()))
    second = must(await vault.run(lambda records: records.renew_lease(first)))
    await vault.run(lambda records: records.release_lease(first, keep_intent=False))
    seen = await find(vault, key)
    assert (seen.lease_owner, seen.lease_counter, seen.intent) == (second.owner, second.counter, 2)


async def test_no_wall_clock_frees_a_lease(vault: Vault, key: GrantKey, clock: FakeClock) -> None:
    grant = await complete(vault, key, token_set())
    await lease(vault, grant)
    clock.wall += timedelta(days=3650)
    assert await vault.run(lambda records: records.take_lease(grant, "p2", intent=True)) is None


# --- what a refresh brings --------------------------------------------------------------------------------------------


async def test_tokens_are_stored_with_the_lease_and_end_it(vault: Vault, key: GrantKey, clock: FakeClock) -> None:
    held = await lease(vault, await complete(vault, key, token_set("1")))
    clock.advance(7)
    stored = must(await vault.run(lambda records: records.put_tokens(held, token_set("2"), "consent")))
    assert await find(vault, key) == stored
    assert (stored.generation, stored.lease_owner, stored.lease_counter, stored.intent) == (2, "", 1, 0)
    assert stored.tokens == token_set("2")
    assert stored.updated_at == clock.wall


async def test_a_success_is_stored_even_after_its_lease_was_taken_over(vault: Vault, key: GrantKey) -> None:
    grant = await complete(vault, key, token_set("1"))
    first = await lease(vault, grant)
    seen = await find(vault, key)
    second = must(await vault.run(lambda records: records.take_lease(seen, "p2", intent=True, from_lease=("p1", 1))))
    assert await vault.run(lambda records: records.put_tokens(first, token_set("2"), "consent")) is not None
    assert not await vault.run(lambda records: records.mark_needs_consent(second, Reason.LOST_IN_FLIGHT))
    assert await vault.run(lambda records: records.put_tokens(second, token_set("3"), "consent")) is None
    assert (await find(vault, key)).tokens == token_set("2")


async def test_a_success_beats_a_failure_of_the_same_generation(vault: Vault, key: GrantKey) -> None:
    first = await lease(vault, await complete(vault, key, token_set("1")))
    seen = await find(vault, key)
    second = must(await vault.run(lambda records: records.take_lease(seen, "p2", intent=True, from_lease=("p1", 1))))
    assert await vault.run(lambda records: records.mark_needs_consent(second, Reason.LOST_IN_FLIGHT))
    marked = await find(vault, key)
    assert (marked.state, marked.reason, marked.generation) == (GrantState.NEEDS_CONSENT, Reason.LOST_IN_FLIGHT, 1)
    assert marked.tokens == token_set("1")
    stored = must(await vault.run(lambda records: records.put_tokens(first, token_set("2"), "consent")))
    after = await find(vault, key)
    assert (after.state, after.reason, after.generation) == (GrantState.ACTIVE, None, stored.generation)
    assert after.tokens == token_set("2")


async def test_a_failure_is_noted_only_under_its_own_lease(vault: Vault, key: GrantKey) -> None:
    first = await lease(vault, await complete(vault, key, token_set("1")))
    for stranger in (
        replace(first, owner="p2"),
        replace(first, counter=2),
        replace(first, grant=replace(first.grant, generation=2)),
    ):
        assert not await vault.run(lambda records, s=stranger: records.mark_needs_consent(s, Reason.REFRESH_REJECTED))
    assert (await find(vault, key)).state is GrantState.ACTIVE
    assert await vault.run(lambda records: records.mark_needs_consent(first, Reason.REFRESH_REJECTED))
    assert not await vault.run(lambda records: records.mark_needs_consent(first, Reason.REFRESH_REJECTED))


async def test_a_grant_without_tokens_has_nothing_that_a_failure_could_be_of(vault: Vault, key: GrantKey) -> None:
    held = await lease(vault, await vault.run(lambda records: records.insert_pending(key)))
    assert not await vault.run(lambda records: records.mark_needs_consent(held, Reason.REFRESH_REJECTED))
    assert (await find(vault, key)).state is GrantState.PENDING


# --- consent and revocation -------------------------------------------------------------------------------------------


async def test_a_consent_replaces_whatever_stood_and_late_writers_lose(vault: Vault, key: GrantKey) -> None:
    held = await lease(vault, await complete(vault, key, token_set("1")))
    renewed = await complete(vault, key, token_set("2"))
    assert renewed.generation == 2
    assert await vault.run(lambda records: records.put_tokens(held, token_set("3"), "consent")) is None
    assert not await vault.run(lambda records: records.mark_needs_consent(held, Reason.REFRESH_REJECTED))
    assert await vault.run(lambda records: records.renew_lease(held)) is None
    assert (await find(vault, key)).tokens == token_set("2")


async def test_a_revoked_grant_holds_nothing_and_takes_nothing(vault: Vault, key: GrantKey) -> None:
    grant = await complete(vault, key, token_set("1"))
    held = await lease(vault, grant)
    await vault.run(lambda records: records.revoke_grant_row(grant))
    gone = await find(vault, key)
    assert (gone.state, gone.reason, gone.tokens, gone.generation) == (GrantState.REVOKED, Reason.REVOKED, None, 2)
    assert (gone.lease_owner, gone.intent) == ("", 0)
    assert await vault.run(lambda records: records.put_tokens(held, token_set("2"), "consent")) is None
    forged = replace(held, grant=replace(held.grant, generation=2))
    assert await vault.run(lambda records: records.put_tokens(forged, token_set("2"), "consent")) is None
    assert await vault.run(lambda records: records.take_lease(gone, "p1", intent=True)) is None
    assert not await vault.run(lambda records: records.mark_needs_consent(forged, Reason.REFRESH_REJECTED))
    again = await complete(vault, key, token_set("3"))
    assert (again.state, again.generation, again.id) == (GrantState.ACTIVE, 3, grant.id)


async def test_a_revoked_m2m_grant_begins_anew(vault: Vault, seeded: Seeded) -> None:
    key = grant_key(seeded.agent, None)
    pending = await vault.run(lambda records: records.insert_pending(key))
    held = await lease(vault, pending, intent=False)
    assert (await find(vault, key)).intent == 0
    grant = must(await vault.run(lambda records: records.put_tokens(held, token_set("1"), "client_credentials")))
    await vault.run(lambda records: records.revoke_grant_row(grant))

    def reopen(records: Records) -> Grant:
        return records.reopen_grant(must(records.find_grant(key)))

    reopened = await vault.run(reopen)
    assert await find(vault, key) == reopened
    assert (reopened.state, reopened.reason, reopened.generation) == (GrantState.PENDING, None, 3)


@pytest.mark.sqlite  # on PostgreSQL it stays in the journal, sealed, for as long as the operator keeps that
async def test_revocation_overwrites_what_was_sealed_in_the_file_itself(
    vault: Vault, home: Path, database: Place, key: GrantKey
) -> None:
    long = token_set("long", extra={"filler": "f" * 9000})
    grant = await complete(vault, key, long)
    [(sealed,)] = behind_its_back(database, "SELECT tokens FROM grants")
    await vault.run(lambda records: records.revoke_grant_row(grant))
    vault.close()
    left = contents(home)
    for start in range(0, len(sealed) - 64, 64):
        assert sealed[start : start + 64] not in left


def contents(home: Path) -> bytes:
    return b"".join(path.read_bytes() for path in home.glob("vault.db*"))


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.sampled_from(["lease", "put", "mark", "release", "consent", "revoke", "takeover"]), max_size=12))
async def test_whatever_happens_the_newest_success_stands_and_generations_only_rise(
    vault: Vault, seeded: Seeded, steps: list[str]
) -> None:
    key = grant_key(seeded.agent, resource="".join(steps) + str(len(steps)))
    held: list[Lease] = []
    newest, generation, number = None, 0, 0

    async def run(step: str) -> None:
        nonlocal newest, number
        number += 1
        tokens = token_set(str(number))
        grant = await vault.run(lambda records: records.find_grant(key) or records.insert_pending(key))
        match step:
            case "consent":
                await complete(vault, key, tokens)
                newest = tokens
            case "revoke":
                await vault.run(lambda records: records.revoke_grant_row(grant))
                newest = None
            case "put" if held:
                stored = await vault.run(lambda records: records.put_tokens(held[-1], tokens, "consent"))
                assert (stored is not None) == (
                    held[-1].grant.generation == grant.generation and grant.state is not GrantState.REVOKED
                )
                newest = tokens if stored else newest
            case "mark" if held:
                await vault.run(lambda records: records.mark_needs_consent(held[-1], Reason.REFRESH_REJECTED))
            case "release" if held:
                await vault.run(lambda records: records.release_lease(held.pop(), keep_intent=False))
            case "lease" | "takeover":
                watched = (grant.lease_owner, grant.lease_counter) if step == "takeover" else None
                taken = await vault.run(lambda records: records.take_lease(grant, "p", intent=True, from_lease=watched))
                held.extend([taken] if taken else [])
            case _:
                pass

    for step in steps:
        await run(step)
        grant = await find(vault, key)
        assert grant.tokens == newest
        assert grant.generation >= generation
        generation = grant.generation
