"""What when PostgreSQL is killed, stopped, restarted, or ends our connections?

covers: F01, F02, F09
"""

from __future__ import annotations

import threading
from collections.abc import Generator

import pytest

from mcp_identity.domain.credentials import GrantState
from tests.crash.caller import Gone, Refused
from tests.crash.kills import Trial, run
from tests.crash.ledger import MODES, Ledger
from tests.crash.served import Nursery
from tests.crash.world import OWN, World, world
from tests.fakes.postgres import Database, PostgresServer

pytestmark = pytest.mark.xdist_group("crash-postgres")
KILLS = (
    Trial("callback", "stored", "grace"),
    Trial("refresh", "lease.commit.after", "strict"),
    Trial("refresh", "store.commit.before", "strict"),
    Trial("m2m", "processed", OWN),
    Trial("random", "1", "grace"),
)


@pytest.fixture(scope="module")
def database() -> Generator[Database]:
    """A database on a server of its own, since it is stopped."""
    server = PostgresServer()
    try:
        yield server.create_database()
    finally:
        server.remove()


@pytest.fixture(scope="module")
def replica(ward: Nursery, ledger: Ledger, database: Database, tmp_path_factory: pytest.TempPathFactory) -> Generator[World]:
    """A vault in it."""
    with world(tmp_path_factory.mktemp("replica") / "world", ward, ledger, database.url) as made:
        yield made


@pytest.mark.parametrize("trial", KILLS, ids=str)
def test_a_kill_loses_nothing(replica: World, trial: Trial) -> None:
    report = run(replica, trial)
    assert report.violations == [], report.outcome


def ready(replica: World) -> World:
    """A server with a grant of each kind."""
    if replica.child is None or replica.child.has_ended:
        replica.start()
    grants = replica.look().grants
    for mode in MODES:
        if mode not in grants or grants[mode].state is not GrantState.ACTIVE:
            replica.consent(mode)
    return replica


def is_normal(replica: World) -> None:
    """Within ten seconds, and with nobody's help."""
    for provider in ("strict", OWN, "fixed"):
        answer = replica.until_normal(lambda provider=provider: replica.caller.get_token(provider))
        assert answer["status"] == "ok", answer.get("reason")
    assert replica.look().problems == ()


@pytest.mark.parametrize("crash", [False, True])
def test_a_database_that_restarts_is_found_again(replica: World, database: Database, crash: bool) -> None:
    """covers: F09."""
    world = ready(replica)
    world.pass_time(hours=2)
    asked = world.ledger.asked.get("refresh_token", 0)
    database.server.stop(crash=crash)
    with pytest.raises(Refused) as caught:
        world.caller.get_token("strict")
    assert (caught.value.code, caught.value.retryable) == ("vault_unavailable", True)
    assert world.ledger.asked.get("refresh_token", 0) == asked
    database.server.start()
    is_normal(world)
    assert world.ledger.asked.get("refresh_token", 0) == asked + 2  # one for each of the two grants that were asked for


def test_connections_that_are_ended_under_load_cost_no_token(replica: World, database: Database) -> None:
    """covers: F09."""
    world = ready(replica)
    world.pass_time(hours=2)
    asked = dict(world.ledger.asked)
    failures: list[Refused] = []

    def call(provider: str) -> None:
        for _ in range(6):
            try:
                assert world.caller.get_token(provider)["status"] == "ok"
            except Refused as refused:
                failures.append(refused)
            except Gone as gone:  # nobody killed the server
                raise AssertionError from gone

    threads = [threading.Thread(target=call, args=(name,)) for name in ("strict", "grace", "fixed", OWN)]
    for thread in threads:
        thread.start()
    ended = 0
    while any(thread.is_alive() for thread in threads):
        ended += database.terminate_connections()
        threads[0].join(0.1)
    assert ended
    assert {(each.code, each.retryable) for each in failures} <= {("vault_unavailable", True)}
    is_normal(world)
    again = world.ledger.asked.get("refresh_token", 0) - asked.get("refresh_token", 0)
    assert again == 3  # what the server rotated was stored, whatever became of the connection meanwhile
