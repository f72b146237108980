# pyright: reportPrivateUsage=false
"""Does one refresher per grant hold in every order of events? Two processes, a revocation, a consent, crashes and pauses.

The machine goes through the product's own steps, one at a time, in whatever order hypothesis likes: two vaults on one file
stand for two processes, and a strict authorization server ends a family whose spent refresh token is used again.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeVar

import pytest
from anyio.from_thread import BlockingPortal, start_blocking_portal
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from mcp_identity import app
from mcp_identity.broker import leases
from mcp_identity.broker.answers import ProviderSpec, TokenReleased, TokenRequest
from mcp_identity.broker.leases import Held, Leased
from mcp_identity.broker.plan import Plan, make_plan
from mcp_identity.broker.refresh import WATCH_SECONDS, Refresher
from mcp_identity.broker.services import Services
from mcp_identity.broker.tokens import Tokens, _Served
from mcp_identity.broker.vendor import client_of, revoke_at_vendor
from mcp_identity.domain.credentials import Grant, GrantState, Reason, Secret, TokenSet
from mcp_identity.domain.errors import Conflict, IdentityError
from mcp_identity.domain.identity import User, UserKind
from mcp_identity.oauth.token import process_token_response
from mcp_identity.settings import Settings
from mcp_identity.vault.records import Records
from mcp_identity.vault.records.grants import Lease
from mcp_identity.vault.writer import Unit
from tests.broker.kit import BY_URLS
from tests.fakes.authorization_server import CLIENT_ID, CLIENT_SECRET, FakeAuthorizationServer, Family
from tests.fakes.clock import FakeClock

T = TypeVar("T")
Fate = Literal["answered", "answer lost", "refused"]
Disturbance = Literal["crash", "revocation", "consent", "a pause"]
FATE_NAMES: tuple[Fate, ...] = ("answered", "answered", "answer lost", "refused")


@dataclass(slots=True)
class World:
    """What outlives an example: two processes on one vault, and their authorization server."""

    portal: BlockingPortal
    processes: tuple[app.Prepared, app.Prepared]
    server: FakeAuthorizationServer
    clock: FakeClock
    users: int = 0

    def services(self, process: int) -> Services:
        return self.processes[process].graph.broker._services

    def run(self, process: int, unit: Unit[T]) -> T:
        return self.portal.call(self.processes[process].vault.run, unit)

    def read(self, unit: Unit[T]) -> T:
        return self.portal.call(self.processes[0].vault.read, unit)


@pytest.fixture
def world(tmp_path: Path) -> Generator[World]:
    clock = FakeClock()
    server = FakeAuthorizationServer(clock.now)
    one, two = (app.prepare(Settings(home=tmp_path / "home"), clock=clock, transport=server) for _ in range(2))
    with start_blocking_portal() as portal:
        yield World(portal, (one, two), server, clock)
    one.close()
    two.close()


@dataclass(slots=True)
class Process:
    """How far one process has come; a crash forgets it.

    Attributes:
        seen: The generation that it read when it found the token stale.
        leased: It has the lease and has not sent.
        asked: When it asked for the lease.
        answer: What the vendor answered, not yet written down.
        dead: It crashed since it took its last lease.
    """

    seen: int = 0
    leased: Leased | None = None
    asked: float = 0.0
    answer: TokenSet | IdentityError | None = None
    dead: bool = False


DISTURBANCE_NAMES: tuple[Disturbance, ...] = ("crash", "revocation", "consent", "a pause")
PROCESSES = st.sampled_from([0, 1])
LOOKS = st.sampled_from([True, True, False])
FATES = st.sampled_from(FATE_NAMES)
DISTURBANCES = st.sampled_from(DISTURBANCE_NAMES)


class Refreshes(RuleBasedStateMachine):
    """All the ways in which one grant can be refreshed."""

    def __init__(self, world: World) -> None:
        super().__init__()
        self.world = world
        self.processes = [Process(), Process()]
        self.asked: set[int] = set()
        self.ended: set[str] = set()
        self.plan = self._new_plan()

    def _new_plan(self) -> Plan:
        world = self.world
        world.users += 1
        directory = world.processes[0].graph.broker.directory
        user = User("urn:test", str(world.users), UserKind.LOCAL)
        self.principal = world.portal.call(directory.local_principal, "agent", user, "stdio")
        self.call = world.processes[0].graph.broker.call(self.principal, "get_token")
        provider = world.portal.call(directory.find, "default", "idp")
        if provider is None:
            spec = ProviderSpec(
                vendor="custom",
                settings={"flows": "USER_FEDERATION", **BY_URLS},
                client_id=CLIENT_ID,
                secret=Secret(CLIENT_SECRET),
            )
            provider = world.portal.call(directory.add, self.call, "idp", spec)
        return make_plan(self.principal, provider, TokenRequest("idp"))

    def grant(self) -> Grant:
        key = self.plan.key
        found = self.world.read(lambda records: records.list_grants(key.tenant, key.workload_id, (key.user,)))
        (grant,) = found.grants  # a row is never deleted, and there is one
        return grant

    # What happens

    @initialize()
    def begin(self) -> None:
        self._consent()

    def _consent(self) -> None:
        """A new family, whatever stood."""
        family = Family("alice", ("read",))
        self.world.server.families.append(family)
        response = self.world.server.issue(family)
        tokens = process_token_response(
            response, self.plan.dialect, requested_scopes=frozenset({"read"}), now=self.world.clock.now()
        ).tokens.obtained_from(self.plan.provider.destination())

        def unit(records: Records) -> None:
            records.complete_grant(self.plan.key, tokens, "consent")

        self.world.run(0, unit)

    def _revoke(self) -> None:
        """Here, and then at the vendor."""
        before = self.grant()
        assert before.tokens is not None
        self.world.run(0, lambda records: records.revoke_grant_row(before))
        self.ended.add(before.tokens.access_token.reveal())
        self._serve()
        self._give_back(before.tokens)

    def _serve(self) -> None:
        """A call is answered from the vault, if it can be; never with a token of a grant that was ended."""
        tokens = Tokens(self.world.services(0))
        door = tokens._releasing(self.call, self.plan)
        unit = tokens._serving(self.call, self.plan, door, frozenset({"read"}), 0, serve_alive=True)
        answer = self.world.run(0, unit)
        if isinstance(answer, _Served):
            released = answer.value
            assert isinstance(released, TokenReleased)
            assert released.access_token.reveal() not in self.ended
            assert self.grant().state is GrantState.ACTIVE

    def _give_back(self, tokens: TokenSet) -> None:
        world, provider = self.world, self.plan.provider
        client = world.run(0, lambda records: client_of(records, provider))
        world.portal.call(revoke_at_vendor, world.services(0).upstreams, provider, self.plan.dialect, client, tokens)

    @rule(fate=FATES, looks=LOOKS, patient=st.booleans())
    def one_goes_on(self, fate: Fate, looks: bool, patient: bool) -> None:
        self._go_on(0, fate, looks=looks, patient=patient)

    @rule(fate=FATES, looks=LOOKS, patient=st.booleans())
    def other_goes_on(self, fate: Fate, looks: bool, patient: bool) -> None:
        self._go_on(1, fate, looks=looks, patient=patient)

    @rule(disturbance=DISTURBANCES, process=PROCESSES)
    def something_happens(self, disturbance: Disturbance, process: int) -> None:
        match disturbance:
            case "crash" if self.processes[process].leased is not None:
                self.processes[process] = Process(seen=self.processes[process].seen, dead=True)
            case "revocation" if self.grant().state is GrantState.ACTIVE:
                self._revoke()
            case "consent":
                self._consent()
            case _:
                self.world.clock.advance(3)

    def _go_on(self, process: int, fate: Fate, *, looks: bool, patient: bool) -> None:
        """A process takes its next step; where there is nothing to refresh any more, the user is asked."""
        me = self.processes[process]
        grant = self.grant()
        if looks:
            me.seen = grant.generation
        if me.leased is not None and me.answer is not None:
            self._settle(process, me.leased.lease, me.answer)
        elif me.leased is not None:
            self._send(process, me.leased, fate)
        elif grant.lease_owner and patient:
            self._take_over(process, grant)
        elif grant.state is GrantState.ACTIVE:
            self._lease(process, None)
        else:
            self._consent()

    def _take_over(self, process: int, grant: Grant) -> None:
        """A waiter takes the lease of one who is dead, or whom it has watched for long enough."""
        owners = [prepared.vault.process_id for prepared in self.world.processes]
        if not self.processes[owners.index(grant.lease_owner)].dead:
            self.world.clock.advance(WATCH_SECONDS)
        self._lease(process, Held(grant.lease_owner, grant.lease_counter))

    def _lease(self, process: int, takeover: Held | None) -> None:
        me, owner = self.processes[process], self.world.processes[process].vault.process_id
        asked = self.world.clock.monotonic()
        found = self.world.run(process, leases.lease(self.call, self.plan, me.seen, owner, takeover))
        if isinstance(found, Leased):
            me.leased, me.asked, me.dead = found, asked, False

    def _send(self, process: int, leased: Leased, fate: Fate) -> None:
        me, world = self.processes[process], self.world
        refresher = Refresher(world.services(process))
        try:
            held = world.portal.call(refresher.started_in_time, self.plan, leased.lease, me.asked)
        except Conflict:
            me.leased = None
            return
        me.leased = Leased(held, leased.client)
        arrived = len(world.server.requests)
        world.server.loses_answers = fate == "answer lost"
        world.server.refuses_connections = fate == "refused"
        try:
            me.answer = world.portal.call(refresher.ask_vendor, self.plan, held.grant, leased.client)
        except IdentityError as error:
            me.answer = error
        finally:
            world.server.loses_answers = world.server.refuses_connections = False
        if len(world.server.requests) > arrived:
            generation = held.grant.generation
            assert held.after_open_intent or generation not in self.asked, "two refreshes of one generation, unknowingly"
            self.asked.add(generation)

    def _settle(self, process: int, held: Lease, answer: TokenSet | IdentityError) -> None:
        before = self.grant()
        if isinstance(answer, IdentityError):
            self.world.run(process, leases.fail(self.call, self.plan, held, answer))
            after = self.grant()
            if before.generation != held.grant.generation:
                assert (after.state, after.generation) == (before.state, before.generation), "a failure beat a newer token"
        else:
            self._store(process, held, answer, before)
        self.processes[process] = Process(seen=self.processes[process].seen)
        self._serve()

    def _store(self, process: int, held: Lease, tokens: TokenSet, before: Grant) -> None:
        stored = self.world.run(process, leases.store(self.call, self.plan, held, tokens))
        after = self.grant()
        if before.generation == held.grant.generation and before.state is not GrantState.REVOKED:
            assert after.state is GrantState.ACTIVE, "a success did not beat a failure of its generation"
            assert after.tokens is not None
            assert after.tokens.access_token == tokens.access_token
            assert stored.generation == after.generation
        else:
            assert (after.state, after.generation, stored.generation) == (before.state, before.generation, 0)
        if stored.revoked:
            self.ended.add(tokens.access_token.reveal())
            self._give_back(tokens)
            assert not self.world.server.is_active(tokens.access_token.reveal())

    # What always holds

    @invariant()
    def the_newest_refresh_token_is_kept_or_its_loss_has_a_name(self) -> None:
        grant = self.grant()
        if grant.tokens is None or grant.intent:
            return
        assert grant.tokens.refresh_token is not None
        mine = grant.tokens.refresh_token.reveal()
        family = self.world.server.family_of(mine)
        unwritten = any(isinstance(process.answer, TokenSet) for process in self.processes)
        if family.newest != mine and not unwritten:
            assert (grant.state, grant.reason) == (GrantState.NEEDS_CONSENT, Reason.LOST_IN_FLIGHT)


SCRIPTS = {
    "suspended before it sent, and overtaken": "0 1-patient 1 0 1 0",
    "suspended with the answer in its hands, and overtaken": "0 0 1-patient 0 1 1",
    "suspended with the answer, while the other burns the old token": "0 0 1-patient 1 1 0 0 0",
    "a consent before a failure is written": "0 0-lost 0 0 0 consent 0 1",
    "a consent before a success is written": "0 0 consent 0 1 1 1",
    "a revocation before a success is written": "0 0 revocation 0 1",
    "a revocation and a consent before a success is written": "0 0 revocation consent 0 1 1",
    "a crash before it sent": "0 crash-0 1-patient 1 1",
    "a crash with the answer in its hands": "0 0 crash-0 1-patient 1 1 1",
    "a lost answer, then a refused connection, then the truth": "0 0-lost 0 1 1-refused 1 0 0 0",
    "a slow start without a rival": "0 pause 0 0 1 1 1",
}


@pytest.mark.parametrize("script", SCRIPTS.values(), ids=SCRIPTS.keys())
def test_the_orders_that_are_known_to_matter(world: World, script: str) -> None:
    refreshes = Refreshes(world)
    refreshes.begin()
    for step in script.split():
        what, _, how = step.partition("-")
        if what in {"0", "1"}:
            fate: Fate = "answer lost" if how == "lost" else "refused" if how == "refused" else "answered"
            refreshes._go_on(int(what), fate, looks=True, patient=how == "patient")
        else:
            disturbance = next(name for name in DISTURBANCE_NAMES if name.endswith(what))
            refreshes.something_happens(disturbance, int(how or 0))
        refreshes.the_newest_refresh_token_is_kept_or_its_loss_has_a_name()


def test_every_order_of_events_keeps_the_grant(world: World) -> None:
    class Machine(Refreshes):
        def __init__(self) -> None:
            super().__init__(world)

    checks = (HealthCheck.too_slow, HealthCheck.data_too_large)
    run_state_machine_as_test(
        Machine,
        settings=settings(
            max_examples=settings().max_examples // 3, stateful_step_count=40, deadline=None, suppress_health_check=checks
        ),
    )
