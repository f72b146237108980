"""Who makes the load? A process of its own, that drives two servers in turn and says how long each call took.

    python -m kit.load < plan.json

One thread waits for all connections at once. Each caller sends its next call when its last was answered. The processor time
of server and generator is told beside the calls, so that nobody takes the generator's limit for the server's.
"""

from __future__ import annotations

import json
import selectors
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil

from kit.figures import percentile
from kit.lanes import Call, HttpLane, Lane, LoadError, SignedLane, SseLane, StdioLane

_SILENCE_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class Target:
    """A server.

    Attributes:
        name: For people.
        transport: ``http``, ``sse``, ``stdio``, or ``agentcore`` for signed requests.
        port: Where it listens; 0 on stdio.
        process_id: Of the server; 0 on stdio, where it is started here.
        bearers: Of the callers, in turn; of signed requests, what signs them.
        command: What to start, on stdio.
        environment: Of that.
    """

    name: str
    transport: str
    port: int
    process_id: int
    bearers: list[str]
    command: list[str]
    environment: dict[str, str]


@dataclass(frozen=True, slots=True)
class Plan:
    """What to do.

    Attributes:
        targets: Driven in turn.
        tool: What is called.
        arguments: With what.
        callers: How many calls are under way at once, one figure after the other.
        rounds: Runs of each target, at each number of callers.
        seconds: Of each run.
        warm_seconds: Before each run, not counted.
    """

    targets: list[Target]
    tool: str
    arguments: dict[str, Any]
    callers: list[int]
    rounds: int
    seconds: float
    warm_seconds: float


@dataclass(frozen=True, slots=True)
class Run:
    """One run.

    Attributes:
        target: Its name.
        callers: How many calls were under way at once.
        calls: How many were answered.
        warm_calls: How many were answered before, not counted.
        rate: Of them a second.
        p50: Of the milliseconds of a call.
        p99: Likewise.
        server_ms: The server's processor time for a call, all its threads.
        server_share: Of one processor.
        load_share: The same of this generator.
    """

    target: str
    callers: int
    calls: int
    warm_calls: int
    rate: float
    p50: float
    p99: float
    server_ms: float
    server_share: float
    load_share: float


_LANES: dict[str, Callable[[int, str, Call], Lane]] = {"http": HttpLane, "sse": SseLane, "agentcore": SignedLane}


class Driver:
    """Drives one server."""

    def __init__(self, target: Target, call: Call) -> None:
        """Start the server, where it speaks stdio."""
        self._target = target
        self._call = call
        self._process = StdioLane(target.command, target.environment, call) if target.transport == "stdio" else None
        self._accounting = psutil.Process(self._process.process_id if self._process else target.process_id)

    def close(self) -> None:
        """End the server that was started here."""
        if self._process:
            self._process.close()

    def run(self, callers: int, seconds: float, warm_seconds: float) -> Run:
        """Let so many callers call."""
        with self._lanes(callers) as lanes:
            together = callers if self._process else 1
            warm = drive(lanes, together, warm_seconds)
            before, own, begun = self._used(), time.process_time(), time.perf_counter()
            taken = drive(lanes, together, seconds)
            wall = time.perf_counter() - begun
            used, own = self._used() - before, time.process_time() - own
        return Run(
            target=self._target.name,
            callers=callers,
            calls=len(taken),
            warm_calls=len(warm),
            rate=len(taken) / wall,
            p50=percentile(taken, 50) * 1000,
            p99=percentile(taken, 99) * 1000,
            server_ms=used / len(taken) * 1000,
            server_share=used / wall,
            load_share=own / wall,
        )

    @contextmanager
    def _lanes(self, callers: int) -> Generator[list[Lane]]:
        if self._process:
            yield [self._process]
            return
        kind = _LANES[self._target.transport]
        bearers = self._target.bearers
        lanes: list[Lane] = [kind(self._target.port, bearers[number % len(bearers)], self._call) for number in range(callers)]
        try:
            yield lanes
        finally:
            for lane in lanes:
                lane.close()

    def _used(self) -> float:
        """Processor seconds of the server so far, in user space and in the kernel."""
        times = self._accounting.cpu_times()
        return times.user + times.system


def drive(lanes: list[Lane], together: int, seconds: float) -> list[float]:
    """Keep `together` calls under way on each lane for some seconds, and wait for the last answers.

    Returns:
        The seconds that each call took.

    Raises:
        LoadError: If a call fails, or a server falls silent.
    """
    taken: list[float] = []
    under_way: dict[tuple[Lane, int], float] = {}

    def send(lane: Lane) -> None:
        now = time.perf_counter()
        under_way[lane, lane.send()] = now

    with _waiting_for(lanes) as selector:
        until = time.perf_counter() + seconds
        for lane in lanes * together:
            send(lane)
        while under_way:
            ready = selector.select(_SILENCE_SECONDS)
            if not ready:
                raise LoadError(f"no answer for {_SILENCE_SECONDS:.0f} s")
            for key, _ in ready:
                for number in key.data.receive(key.fd):
                    now = time.perf_counter()
                    taken.append(now - under_way.pop((key.data, number)))
                    if now < until:
                        send(key.data)
    return taken


@contextmanager
def _waiting_for(lanes: list[Lane]) -> Generator[selectors.BaseSelector]:
    with selectors.DefaultSelector() as selector:
        for lane in lanes:
            for file in lane.files():
                selector.register(file, selectors.EVENT_READ, lane)
        yield selector


def runs_of(plan: Plan) -> Iterator[Run]:
    """Let a process of its own do what a plan says; each run, when it is over.

    Raises:
        RuntimeError: If that process fails.
    """
    command, folder = [sys.executable, "-m", "kit.load"], Path(__file__).resolve().parents[1]
    with subprocess.Popen(command, cwd=folder, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as load:
        if load.stdin is None or load.stdout is None:
            raise RuntimeError("pipes were asked for")
        load.stdin.write(json.dumps(asdict(plan)))
        load.stdin.close()
        for line in load.stdout:
            yield Run(**json.loads(line))
        if load.wait():
            raise RuntimeError("the load generator failed")


def main() -> None:
    """Do what the plan on standard input says; each run is a line on standard output."""
    given: dict[str, Any] = json.load(sys.stdin)
    plan = Plan(targets=[Target(**each) for each in given.pop("targets")], **given)
    drivers = [Driver(target, Call(plan.tool, plan.arguments)) for target in plan.targets]
    try:
        for callers in plan.callers:
            for _ in range(plan.rounds):
                for driver in drivers:
                    found = driver.run(callers, plan.seconds, plan.warm_seconds)
                    print(json.dumps(asdict(found)), flush=True)
    finally:
        for driver in drivers:
            driver.close()


if __name__ == "__main__":
    main()
