"""What when the machine lacks something: the right time, files, memory, somebody who reads the log?

covers: F26, F36, F38, F39
"""

from __future__ import annotations

import os
import resource
import socket
import threading
from contextlib import ExitStack
from fcntl import F_SETPIPE_SZ, fcntl
from pathlib import Path

import pytest

from tests.crash.caller import Gone, Refused
from tests.crash.looking import OPEN_STATES
from tests.crash.world import World

pytestmark = pytest.mark.xdist_group("crash-faults")
DAY, TEN_YEARS = 24.0, 24.0 * 365 * 10


@pytest.mark.parametrize("hours", [DAY, -DAY, TEN_YEARS, -TEN_YEARS])
def test_a_clock_that_jumps_and_comes_back_brings_no_token_that_has_ended(own_world: World, hours: float) -> None:
    """covers: F26."""
    world = own_world
    world.start()
    world.consent("strict")
    world.consent("fixed")
    for jump in (hours, -hours):
        old = {token for family in world.ledger.families for token in family.access_tokens}
        asked = world.ledger.asked.get("refresh_token", 0)
        world.pass_time(hours=jump)
        answers = [world.caller.get_token("strict") for _ in range(5)]  # who is asked for again and again refreshes once
        assert [answer["status"] for answer in answers] == ["ok"] * 5
        assert not old & {answer["access_token"] for answer in answers}
        assert world.ledger.asked.get("refresh_token", 0) == asked + 1  # and nobody who was not asked for, at all
    assert world.look().problems == ()


@pytest.mark.parametrize("hours", [DAY, TEN_YEARS])
def test_consents_that_were_asked_for_under_a_wrong_clock_end_with_the_others(own_world: World, hours: float) -> None:
    """covers: F26."""
    world = own_world
    world.sweep_seconds = 0.2
    world.pass_time(hours=hours)
    world.start()
    world.caller.land("fixed")
    world.caller.call("start_consent", provider="grace")
    world.pass_time(hours=-hours)
    world.caller.call("start_consent", provider="strict")
    world.pass_time(hours=(10 * 60 + 60 + 1) / 3600)
    world.control.watch("swept")
    world.control.wait_passed(times=2)
    assert [state for state in world.look().sessions.values() if state in OPEN_STATES] == []


def test_without_files_connections_wait_and_service_comes_back(served: World) -> None:
    """covers: F38."""
    child = served.child
    assert child is not None
    served.limit(resource.RLIMIT_NOFILE, 64)
    with ExitStack() as connections:
        for _ in range(80):
            connection = socket.create_connection(("127.0.0.1", served.port))
            connections.callback(connection.close)
        assert not child.has_ended
    assert served.until_normal(lambda: served.caller.get_token("fixed"))["status"] == "ok"
    served.pass_time(hours=2)
    assert served.until_normal(lambda: served.caller.get_token("strict"))["status"] == "ok"


def test_without_memory_it_refuses_or_ends_and_nothing_is_lost(served: World) -> None:
    """covers: F39."""
    child = served.child
    assert child is not None
    before = served.look()
    pages = int(Path(f"/proc/{child.process}/statm").read_text().split()[0])
    served.limit(resource.RLIMIT_AS, pages * resource.getpagesize() + 2 * 1024 * 1024)
    served.pass_time(hours=2)

    def call(provider: str) -> None:
        try:
            served.caller.get_token(provider)
        except (Gone, Refused, AssertionError):
            return

    threads = [threading.Thread(target=call, args=(name,)) for name in ("fixed", "grace", "strict", "own") * 8]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    served.mend()
    if child.has_ended:
        served.start()
    for provider in ("fixed", "grace", "strict", "own"):
        answer = served.until_normal(lambda provider=provider: served.caller.get_token(provider))
        assert answer["status"] == "ok" or answer["reason"] == "lost_in_flight"
    assert before.grants.keys() == served.look().grants.keys()


def test_a_log_that_nobody_reads_delays_nobody(own_world: World) -> None:
    """covers: F36."""
    world = own_world
    pipe = world.folder / "log"
    os.mkfifo(pipe)
    nobody = os.open(pipe, os.O_RDWR | os.O_NONBLOCK)
    try:
        fcntl(nobody, F_SETPIPE_SZ, 8192)
        world.settings_beside = {"LOG_LEVEL": "INFO"}
        world.start(wait=False)
        world.until_normal(lambda: world.caller.call("whoami"))
        for _ in range(150):  # each of them is a line of the access log, and together more than the pipe holds
            status, _, _ = world.caller.send("GET", "/missing", None, {})
            assert status == 404
        world.consent("fixed")
        assert world.caller.get_token("fixed")["status"] == "ok"
        read = b""
        while chunk := _read(nobody):
            read += chunk
        world.caller.send("GET", "/missing", None, {})
        world.caller.send("GET", "/missing", None, {})  # the first one's line is written when its answer has gone
        assert b"were not written" in _read(nobody)
    finally:
        os.close(nobody)


def _read(descriptor: int) -> bytes:
    try:
        return os.read(descriptor, 65536)
    except BlockingIOError:
        return b""
