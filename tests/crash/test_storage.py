"""What does a caller hear when the vault's file cannot be written, or read, and what when it can again?

covers: F07, F08, F11, F12, F35
"""

from __future__ import annotations

import resource
import sqlite3
import threading
from contextlib import closing
from pathlib import Path

import pytest

from tests.crash.caller import Refused
from tests.crash.faults import READ_ONLY
from tests.crash.world import OWN, World
from tests.vault.kit import behind_its_back, fingerprint

pytestmark = pytest.mark.xdist_group("crash-faults")
STORAGE, AUDIT, CORRUPT = "vault_unavailable", "audit_unavailable", "vault_corrupt"
EXIT_STORAGE = 74


def refused(world: World, provider: str) -> Refused:
    """How a call for a token fails."""
    with pytest.raises(Refused) as caught:
        world.caller.get_token(provider)
    return caught.value


def requests(world: World) -> int:
    """How many token requests of any kind the authorization server has seen."""
    return sum(world.ledger.asked.values())


def break_it(world: World, how: str) -> None:
    """Let nothing be written any more."""
    if how == "file size":  # what a full disk is to a process: every write fails, that of a log line too
        world.limit(resource.RLIMIT_FSIZE, 0)
    else:
        world.control.set_fault(how)


@pytest.mark.parametrize("how", [READ_ONLY, "file size"])
def test_what_cannot_be_written_down_is_not_done(served: World, how: str) -> None:
    """covers: F07, F12."""
    before = served.look()
    break_it(served, how)
    cached = refused(served, "fixed")
    assert (cached.code, cached.retryable) in {(STORAGE, True), (AUDIT, True)}
    served.pass_time(hours=2)
    asked = requests(served)
    for provider in ("strict", OWN):
        stale = refused(served, provider)
        assert (stale.code, stale.retryable) in {(STORAGE, True), (AUDIT, True)}
    assert requests(served) == asked  # nothing was rotated of which nothing could be noted
    served.mend()
    for provider in ("strict", OWN, "fixed", "grace"):
        assert served.until_normal(lambda provider=provider: served.caller.get_token(provider))["status"] == "ok"
    after = served.look()
    assert {name: grant.id for name, grant in after.grants.items()} == {name: grant.id for name, grant in before.grants.items()}


@pytest.mark.parametrize("how", [READ_ONLY, "file size"])
def test_a_token_that_comes_while_the_disk_is_full_is_kept_until_it_is_not(served: World, how: str) -> None:
    """covers: F07."""
    served.pass_time(hours=2)
    answers: list[str] = []

    def call() -> None:
        answers.append(served.until_normal(lambda: served.caller.get_token("strict"))["status"])

    served.control.watch("vault.failed")
    with served.ledger.held() as held:
        thread = threading.Thread(target=call)
        thread.start()
        assert held.wait(10)
        break_it(served, how)
    served.control.wait_passed(times=2)
    served.mend()
    thread.join(10)
    assert answers == ["ok"]
    grant = served.look().grants["strict"]
    assert grant.tokens is not None
    assert grant.tokens.refresh_token is not None
    family = served.ledger.family_of(grant.tokens.access_token.reveal())
    assert family is not None
    assert family.accepts(grant.tokens.refresh_token.reveal())


def test_a_lock_of_somebody_else_delays_nobody_but_who_writes(served: World) -> None:
    """covers: F08."""
    failed: list[Refused] = []
    answered = 0
    with closing(sqlite3.connect(served.home.path / "vault.db", isolation_level=None)) as somebody:
        somebody.execute("BEGIN EXCLUSIVE")
        thread = threading.Thread(target=lambda: failed.append(refused(served, "fixed")))
        thread.start()
        while thread.is_alive():
            status, _, _ = served.caller.send("GET", "/healthz", None, {})
            answered += status == 200
            thread.join(0.05)
    assert (failed[0].code, failed[0].retryable) == (STORAGE, True)
    assert answered >= 20  # in the five seconds that a lock is waited for
    assert served.until_normal(lambda: served.caller.get_token("fixed"))["status"] == "ok"


def test_without_a_trail_nothing_leaves(served: World) -> None:
    """covers: F35."""
    database = served.home.path / "vault.db"
    behind_its_back(database, "CREATE TRIGGER no_audit BEFORE INSERT ON audit_events BEGIN SELECT RAISE(ABORT, 'no'); END")
    asked = requests(served)
    try:
        assert (error := refused(served, "fixed")).code == AUDIT
        assert error.retryable
        served.pass_time(hours=2)
        assert refused(served, "strict").code == AUDIT
        assert requests(served) == asked
    finally:
        behind_its_back(database, "DROP TRIGGER no_audit")
    assert served.until_normal(lambda: served.caller.get_token("strict"))["status"] == "ok"


def test_a_damaged_page_is_named_and_nothing_is_made_anew(own_world: World) -> None:
    """covers: F11."""
    world = own_world
    world.start()
    world.consent("fixed")
    world.end()
    world.look()  # the last one that closes it brings the journal into the file
    database = world.home.path / "vault.db"
    (page, size), *_ = behind_its_back(
        database, "SELECT rootpage, page_size FROM sqlite_master, pragma_page_size WHERE name = 'grants'"
    )
    overwrite(database, (page - 1) * size, b"\xaa" * size)
    world.start()
    error = refused(world, "fixed")
    assert (error.code, error.retryable) == (CORRUPT, False)
    assert "backup" in str(error)
    with database.open("rb") as file:
        file.seek((page - 1) * size)
        assert file.read(size) == b"\xaa" * size


@pytest.mark.parametrize("how", ["truncated", "garbage", "no tables"])
def test_a_file_that_is_no_vault_any_more_is_not_served_and_not_touched(own_world: World, how: str) -> None:
    """covers: F11."""
    world, database = own_world, own_world.home.path / "vault.db"
    match how:
        case "truncated":
            with database.open("r+b") as file:
                file.truncate(database.stat().st_size // 2)
        case "garbage":
            overwrite(database, 0, b"\xaa" * 4096)
        case _:
            behind_its_back(database, "DROP TABLE vault_state", "PRAGMA wal_checkpoint(TRUNCATE)")
    before = fingerprint(world.home.path)
    child = world.run("serve", "--transport", "http", "--port", str(world.port), "--insecure-loopback")
    assert child.wait() == EXIT_STORAGE, child.said()
    assert "backup" in child.said()
    assert {name: value for name, value in fingerprint(world.home.path).items() if name in before} == before


def overwrite(path: Path, at: int, data: bytes) -> None:
    """Put other bytes into a file."""
    with path.open("r+b") as file:
        file.seek(at)
        file.write(data)
