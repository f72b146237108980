from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any, TypeVar

import anyio
import anyio.from_thread
import pytest
from anyio.from_thread import BlockingPortal
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from mcp_identity.domain.consent import FINAL_STATES, ConsentSession, ConsentState, may_become
from mcp_identity.domain.credentials import Secret
from mcp_identity.domain.errors import VaultCorrupt
from mcp_identity.domain.identity import DEFAULT_TENANT, WorkloadIdentity
from mcp_identity.vault.records import Records
from mcp_identity.vault.records.consents import KEPT
from mcp_identity.vault.vault import Vault
from tests.fakes.clock import START, FakeClock
from tests.vault.kit import (
    ALICE,
    MALLORY,
    Place,
    Seeded,
    attempt,
    behind_its_back,
    consent_request,
    consent_session,
    digest,
    seed,
)

T = TypeVar("T")
S = ConsentState
_EFFORT = settings(max_examples=20, stateful_step_count=20, deadline=None, suppress_health_check=[HealthCheck.too_slow])
CODE = Secret("code-canary")


def completion(session: ConsentSession) -> bytes:
    """The hash of the name that the code of a session waits under."""
    return digest(f"{session.id}-completion")


STEPS: dict[str, tuple[S, Callable[[Records, ConsentSession], bool]]] = {
    "start": (S.STARTED, lambda records, session: records.start_attempt(session, attempt(f"{session.id}-again"))),
    "consume": (S.RECEIVED, lambda records, session: records.consume_state(session)),
    "keep": (S.RECEIVED, lambda records, session: records.keep_code(session, CODE, completion(session))),
    "take": (S.EXCHANGING, lambda records, session: records.take_code(session)),
    "complete": (S.COMPLETED, lambda records, session: records.complete_session(session.id, "grant")),
    "deny": (S.DENIED, lambda records, session: records.end_session(session.id, S.DENIED, "consent_denied")),
    "fail": (S.FAILED, lambda records, session: records.end_session(session.id, S.FAILED, "consent_mismatch")),
    "expire": (S.EXPIRED, lambda records, session: records.end_session(session.id, S.EXPIRED, "consent_expired")),
}


def must(found: T | None) -> T:
    assert found is not None
    return found


async def insert(vault: Vault, session: ConsentSession, named: str = "request") -> ConsentSession:
    await vault.run(lambda records: records.insert_session(session, digest(named)))
    return session


async def find(vault: Vault, session: ConsentSession) -> ConsentSession:
    return must(await vault.read(lambda records: records.find_session(session.id)))


async def bring_to(vault: Vault, session: ConsentSession, state: S) -> None:
    """Take a new session to `state` by the steps that lead there."""
    ways: dict[S, tuple[str, ...]] = {
        S.PENDING: (),
        S.STARTED: ("start",),
        S.RECEIVED: ("start", "keep"),
        S.EXCHANGING: ("start", "consume"),
        S.COMPLETED: ("start", "consume", "complete"),
        S.DENIED: ("deny",),
        S.FAILED: ("fail",),
        S.EXPIRED: ("expire",),
    }
    for name in ways[state]:
        assert await vault.run(lambda records, step=STEPS[name][1]: step(records, session))


# --- what is kept -----------------------------------------------------------------------------------------------------


async def test_a_session_comes_back_as_it_was_made(vault: Vault, seeded: Seeded) -> None:
    made = await insert(vault, consent_session(seeded.agent))
    assert await find(vault, made) == made
    assert await vault.read(lambda records: records.find_session("b" * 43)) is None


async def test_an_equal_request_of_the_same_owner_finds_the_open_session_and_no_other(
    vault: Vault, seeded: Seeded, clock: FakeClock
) -> None:
    made = await insert(vault, consent_session(seeded.agent))

    async def found(named: str = "request", workload: WorkloadIdentity = seeded.agent, user: str = ALICE.key) -> object:
        return await vault.read(lambda records: records.find_open_session(digest(named), DEFAULT_TENANT, workload.id, user))

    assert await found() == made
    assert await found("another") is await found(workload=seeded.other) is await found(user=MALLORY.key) is None
    await bring_to(vault, made, S.STARTED)
    assert await found() == replace(made, state=S.STARTED)
    clock.advance(600)
    assert await found() is None


async def test_a_session_that_ended_or_is_under_way_is_not_offered_again(vault: Vault, seeded: Seeded) -> None:
    for number, state in enumerate((S.EXCHANGING, S.COMPLETED, S.DENIED, S.FAILED, S.EXPIRED)):
        made = await insert(vault, consent_session(seeded.agent, str(number)), state)
        await bring_to(vault, made, state)
        found = await vault.read(
            lambda records, state=state: records.find_open_session(digest(state), DEFAULT_TENANT, seeded.agent.id, ALICE.key)
        )
        assert found is None


async def test_open_sessions_and_recent_links_are_counted_for_their_owner(
    vault: Vault, seeded: Seeded, clock: FakeClock
) -> None:
    async def counted(provider_row: str = "row-github", user: str = ALICE.key) -> tuple[int, int]:
        return await vault.read(lambda records: records.count_sessions(DEFAULT_TENANT, seeded.agent.id, user, provider_row))

    for name in "abc":
        await insert(vault, consent_session(seeded.agent, name))
    await insert(vault, consent_session(seeded.agent, "m", MALLORY))
    await insert(vault, consent_session(seeded.other, "o"))
    assert await counted() == (3, 3)
    assert await counted("row-slack") == (3, 0)
    assert await counted(user=MALLORY.key) == (1, 1)
    await bring_to(vault, consent_session(seeded.agent, "a"), S.DENIED)
    assert await counted() == (2, 3)
    clock.advance(60)
    assert await counted() == (2, 0)
    clock.advance(540)
    assert await counted() == (0, 0)


# --- the button and the callback --------------------------------------------------------------------------------------


async def test_an_attempt_is_found_by_its_state_and_comes_back_as_it_was_made(vault: Vault, seeded: Seeded) -> None:
    session = await insert(vault, consent_session(seeded.agent))
    assert await vault.run(lambda records: records.start_attempt(session, attempt()))
    found, kept = must(await vault.read(lambda records: records.find_attempt(attempt().state_hash)))
    assert kept == attempt()
    assert found == replace(session, state=S.STARTED, allow_other_account=True)
    assert await vault.read(lambda records: records.find_attempt(digest("stray"))) is None


async def test_a_second_press_of_the_button_voids_the_first(vault: Vault, seeded: Seeded) -> None:
    session = await insert(vault, consent_session(seeded.agent))
    for name in ("first", "second"):
        assert await vault.run(lambda records, name=name: records.start_attempt(session, attempt(name)))
    assert await vault.read(lambda records: records.find_attempt(attempt("first").state_hash)) is None
    _, kept = must(await vault.read(lambda records: records.find_attempt(attempt("second").state_hash)))
    assert kept == attempt("second")


async def test_of_many_equal_callbacks_one_is_taken(vault: Vault, seeded: Seeded) -> None:
    session = await insert(vault, consent_session(seeded.agent))
    await vault.run(lambda records: records.start_attempt(session, attempt()))
    taken: list[bool] = []

    def unit(records: Records) -> bool:
        found = records.find_attempt(attempt().state_hash)
        return found is not None and records.consume_state(found[0])

    async def callback() -> None:
        taken.append(await vault.run(unit))

    async with anyio.create_task_group() as group:
        for _ in range(50):
            group.start_soon(callback)
    assert sorted(taken) == [False] * 49 + [True]
    assert (await find(vault, session)).state is S.EXCHANGING


async def test_no_button_is_there_for_a_session_that_is_gone(vault: Vault, seeded: Seeded) -> None:
    assert not await vault.run(lambda records: records.start_attempt(consent_session(seeded.agent), attempt()))


async def test_a_state_that_was_moved_to_another_session_is_refused(vault: Vault, seeded: Seeded, database: Place) -> None:
    for name in "ab":
        session = await insert(vault, consent_session(seeded.agent, name))
        await vault.run(lambda records, name=name, session=session: records.start_attempt(session, attempt(name)))
    swap = "UPDATE consent_sessions SET state_hash = ? WHERE id = ?"
    behind_its_back(
        database,
        (swap, (b"aside", "a" * 43)),
        (swap, (attempt("a").state_hash, "b" * 43)),
        (swap, (attempt("b").state_hash, "a" * 43)),
    )
    for name in "ab":
        with pytest.raises(VaultCorrupt) as caught:
            await vault.read(lambda records, name=name: records.find_attempt(attempt(name).state_hash))
        assert caught.value.code == "vault_corrupt"


# --- legal and illegal steps ------------------------------------------------------------------------------------------


@pytest.mark.sqlite  # what follows below takes the same steps on both, in any order
@pytest.mark.parametrize("state", list(S))
@pytest.mark.parametrize("step", STEPS)
async def test_only_a_legal_step_is_taken(vault: Vault, seeded: Seeded, database: Place, state: S, step: str) -> None:
    session = await insert(vault, consent_session(seeded.agent))
    await bring_to(vault, session, state)
    before = await find(vault, session)
    following, take = STEPS[step]
    legal = may_become(state, following)
    assert await vault.run(lambda records: take(records, session)) == legal
    after = await find(vault, session)
    if not legal:
        assert after == before
    if after.state in FINAL_STATES:
        cells = "SELECT attempt_sealed, state_hash, code FROM consent_sessions"
        assert behind_its_back(database, cells) == [(None, None, None)]
    if legal and step == "complete":
        assert after.grant_id == "grant"
    if legal and step == "deny":
        assert after.error_code == "consent_denied"


# --- a code that waits ------------------------------------------------------------------------------------------------


async def test_a_code_waits_sealed_under_a_name_of_its_own_and_is_taken_once(
    vault: Vault, seeded: Seeded, database: Place, clock: FakeClock
) -> None:
    session = await insert(vault, consent_session(seeded.agent))
    await bring_to(vault, session, S.RECEIVED)
    cells = "SELECT state_hash, attempt_sealed IS NULL, code FROM consent_sessions"
    ((state_hash, attempt_is_gone, code),) = behind_its_back(database, cells)
    assert (state_hash, attempt_is_gone) == (None, 0)
    assert b"canary" not in code
    found, received = must(await vault.read(lambda records: records.find_completion(completion(session))))
    assert found == replace(session, state=S.RECEIVED, allow_other_account=True)
    assert must(received).code == CODE
    assert (must(received).attempt, must(received).received_at) == (attempt(f"{session.id}-again"), clock.wall)
    assert await vault.read(lambda records: records.find_completion(digest("stray"))) is None
    assert await vault.run(lambda records: records.take_code(session))
    assert not await vault.run(lambda records: records.take_code(session))
    after = must(await vault.read(lambda records: records.find_completion(completion(session))))
    assert after == (replace(session, state=S.EXCHANGING), None)


async def test_no_code_is_kept_for_a_session_that_is_gone_or_was_not_begun(vault: Vault, seeded: Seeded) -> None:
    session = consent_session(seeded.agent)
    keep = STEPS["keep"][1]
    assert not await vault.run(lambda records: keep(records, session))
    await insert(vault, session)
    assert not await vault.run(lambda records: keep(records, session))


async def test_a_code_that_nobody_takes_expires_after_a_minute(vault: Vault, seeded: Seeded, clock: FakeClock) -> None:
    session = await insert(vault, consent_session(seeded.agent))
    await bring_to(vault, session, S.RECEIVED)
    clock.advance(59)
    assert await vault.run(lambda records: records.sweep_sessions()) == 0
    clock.advance(1)
    assert await vault.run(lambda records: records.sweep_sessions()) == 1
    ended = await find(vault, session)
    assert (ended.state, ended.error_code) == (S.EXPIRED, "consent_expired")


@pytest.mark.parametrize("state", [S.RECEIVED, S.PENDING])
async def test_a_state_that_was_put_there_makes_no_code(vault: Vault, seeded: Seeded, database: Place, state: S) -> None:
    session = await insert(vault, consent_session(seeded.agent))
    await bring_to(vault, session, S.RECEIVED)
    await vault.run(lambda records: records.take_code(session))
    behind_its_back(database, ("UPDATE consent_sessions SET state = ?", (state.value,)))
    if state is S.RECEIVED:
        with pytest.raises(VaultCorrupt):
            await vault.read(lambda records: records.find_completion(completion(session)))
    else:
        _, received = must(await vault.read(lambda records: records.find_completion(completion(session))))
        assert received is None


class Sessions(RuleBasedStateMachine):
    """Any number of sessions, under any order of steps and any passing of time, against the table of transitions."""

    sessions = Bundle("sessions")

    def __init__(
        self, portal: BlockingPortal, vault: Vault, clock: FakeClock, agent: WorkloadIdentity, database: Place
    ) -> None:
        super().__init__()
        self.portal, self.vault, self.clock, self.agent, self.database = portal, vault, clock, agent, database
        self.model: dict[str, tuple[S, float, float]] = {}
        self.run(lambda records: records.delete_provider_sessions(DEFAULT_TENANT, "row-github"))

    def run(self, unit: Callable[[Records], T]) -> T:
        return self.portal.call(self.vault.run, unit)

    def time(self) -> float:
        return self.clock.wall.timestamp()

    @rule(target=sessions, name=st.uuids())
    def ask(self, name: object) -> ConsentSession:
        request = consent_request(self.agent)
        end = self.clock.wall + timedelta(minutes=10)
        made = ConsentSession(str(name).ljust(43, "0"), request, S.PENDING, self.clock.wall, end)
        if made.id not in self.model:
            self.run(lambda records: records.insert_session(made, digest(made.id)))
            self.model[made.id] = (S.PENDING, self.time(), end.timestamp())
        return made

    @rule(session=sessions, name=st.sampled_from(sorted(STEPS)))
    def step(self, session: ConsentSession, name: str) -> None:
        state, _, end = self.model.get(session.id, (None, 0.0, 0.0))
        following, take = STEPS[name]
        legal = state is not None and may_become(state, following)
        assert self.run(lambda records: take(records, session)) == legal
        if legal:
            self.model[session.id] = (S.EXCHANGING if name == "consume" else following, self.time(), end)

    @rule(seconds=st.sampled_from([1, 30, 59, 60, 61, 600, 90_000]))
    def wait(self, seconds: int) -> None:
        self.clock.advance(seconds)

    @rule()
    def sweep(self) -> None:
        now, ended = self.time(), 0
        for name, (state, changed, end) in list(self.model.items()):
            if (state in (S.PENDING, S.STARTED) and end <= now) or (state is S.RECEIVED and changed <= now - 60):
                self.model[name] = (S.EXPIRED, now, end)
                ended += 1
            elif state is S.EXCHANGING and changed <= now - 60:
                self.model[name] = (S.FAILED, now, end)
                ended += 1
            elif state in FINAL_STATES and changed <= now - KEPT.total_seconds():
                del self.model[name]
        unfinished = any(state not in FINAL_STATES for state, _, _ in self.model.values())
        assert self.run(lambda records: records.sweep_sessions()) == ended
        assert self.run(lambda records: records.has_unfinished_sessions()) == unfinished

    @rule()
    def revoke(self) -> None:
        still = [name for name, (state, _, _) in self.model.items() if state not in FINAL_STATES]
        for name in still:
            self.model[name] = (S.FAILED, self.time(), self.model[name][2])
        owner = (DEFAULT_TENANT, self.agent.id, ALICE.key, "row-github")
        assert self.run(lambda records: records.end_sessions(*owner, "conflict")) == len(still)

    @invariant()
    def the_vault_says_what_the_table_says(self) -> None:
        rows = behind_its_back(
            self.database, "SELECT id, state, coalesce(attempt_sealed, state_hash, code) FROM consent_sessions"
        )
        assert {name: state for name, state, _ in rows} == {name: state for name, (state, _, _) in self.model.items()}
        assert all(left is None for _, state, left in rows if S(state) in FINAL_STATES)

    @invariant()
    def somebody_may_come_back_exactly_while_a_session_is_open(self) -> None:
        now = self.time()
        waited_for = any(
            (state in (S.PENDING, S.STARTED) and end > now) or (state in (S.RECEIVED, S.EXCHANGING) and changed > now - 60)
            for state, changed, end in self.model.values()
        )
        assert self.run(lambda records: records.has_open_sessions()) == waited_for


def test_no_order_of_steps_leaves_the_table_of_transitions(vault: Vault, clock: FakeClock, database: Place) -> None:
    with anyio.from_thread.start_blocking_portal() as portal:
        agent = portal.call(vault.run, seed).agent

        def machine() -> Sessions:
            clock.wall = START
            return Sessions(portal, vault, clock, agent, database)

        factory: Any = machine  # any function that makes one will do
        run_state_machine_as_test(factory, settings=_EFFORT)


# --- the sweeper ------------------------------------------------------------------------------------------------------


async def test_what_ended_long_ago_is_forgotten_and_says_until_then_how_it_ended(
    vault: Vault, seeded: Seeded, clock: FakeClock
) -> None:
    session = await insert(vault, consent_session(seeded.agent))
    clock.advance(600)
    assert await vault.run(lambda records: records.sweep_sessions()) == 1
    ended = await find(vault, session)
    assert (ended.state, ended.error_code) == (S.EXPIRED, "consent_expired")
    clock.advance(KEPT.total_seconds() - 1)
    await vault.run(lambda records: records.sweep_sessions())
    assert await find(vault, session) == ended
    clock.advance(1)
    await vault.run(lambda records: records.sweep_sessions())
    assert await vault.read(lambda records: records.find_session(session.id)) is None


async def test_an_exchange_that_never_ended_fails_after_a_minute(vault: Vault, seeded: Seeded, clock: FakeClock) -> None:
    session = await insert(vault, consent_session(seeded.agent))
    await bring_to(vault, session, S.EXCHANGING)
    clock.advance(59)
    assert await vault.run(lambda records: records.sweep_sessions()) == 0
    clock.advance(1)
    assert await vault.run(lambda records: records.sweep_sessions()) == 1
    ended = await find(vault, session)
    assert (ended.state, ended.error_code) == (S.FAILED, "upstream_unavailable")
    assert not await vault.run(lambda records: records.complete_session(session.id, "late"))


async def test_a_revocation_ends_the_open_sessions_of_its_owner_alone(vault: Vault, seeded: Seeded) -> None:
    mine = await insert(vault, consent_session(seeded.agent, "a"))
    others = [
        await insert(vault, consent_session(seeded.agent, "b", MALLORY)),
        await insert(vault, consent_session(seeded.other, "c")),
        await insert(
            vault, replace(consent_session(seeded.agent, "d"), request=consent_request(seeded.agent, provider_row="row-slack"))
        ),
    ]
    owner = (DEFAULT_TENANT, seeded.agent.id, ALICE.key, "row-github")
    assert await vault.run(lambda records: records.end_sessions(*owner, "conflict")) == 1
    assert (await find(vault, mine)).error_code == "conflict"
    for other in others:
        assert (await find(vault, other)).state is S.PENDING
