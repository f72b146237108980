"""Does a server that works for everybody for ten minutes stay as it is?

A real server over HTTP, 100 calls a second of every kind: most find their token in the vault, some find that it has ended, some
begin and finish a consent with a person's browser, some call an API. Its memory, file descriptors and threads are looked at
once a second; at the end, the trail must have a row for everything and nothing else.

    python benchmarks/soak.py [--database postgresql] [--rate 100] [--minutes 10] [--quick]
"""

from __future__ import annotations

import argparse
from statistics import median

import anyio
from kit.databases import DatabaseKind
from kit.figures import percentile
from kit.scenario import SEED, Scenario, parser, scenario
from kit.show import Chart, Goal, Table
from kit.vaults import NAMES

from tests.soak.run import FILES, MEMORY_MIB, THREADS, Soaked, soak

RATE, MINUTES = 100.0, 10.0
_BARS = 20


async def measure(measured: Scenario, options: argparse.Namespace) -> None:
    """All databases."""
    calls = Table("", ["", "calls", "errors", "rows of the trail", "not as they should be"], [])
    times = Table("milliseconds", ["", "steps", "median", "p99"], [])
    growth = Table("the server, after its warm-up", ["", "at first", "at the end", "more", "slope per hour"], [])
    memory: dict[str, list[float]] = {}
    for kind in measured.kinds:
        soaked = await one(measured, kind, options)
        name, watch = NAMES[kind], soaked.watch
        rows, violations = sum(soaked.trail.values()), soaked.violations()
        made = sum(soaked.traffic.calls.values())
        calls.rows.append([name, f"{made:,}", str(len(soaked.traffic.errors)), f"{rows:,}", "; ".join(violations) or "0"])
        for step, taken in soaked.traffic.milliseconds.items():
            if taken:
                times.rows.append(
                    [f"{name}, {step}", f"{len(taken):,}", f"{median(taken):.1f}", f"{percentile(taken, 99):.1f}"]
                )
        for what, unit in (("memory", "MiB"), ("files", "file descriptors"), ("threads", "threads")):
            first, more = watch.first(what), watch.growth(what)
            slope = watch.slope_per_hour(what)
            growth.rows.append([f"{name}, {unit}", f"{first:.1f}", f"{first + more:.1f}", f"{more:+.1f}", f"{slope:+.1f}"])
        memory[name] = watch.bars("memory", _BARS)
        _goals(measured, name, soaked, violations)
        measured.data.append(
            {
                "database": kind,
                "calls": dict(soaked.traffic.calls),
                "errors": soaked.traffic.errors[:20],
                "trail": {" ".join(key): count for key, count in soaked.trail.items()},
                "given": dict(soaked.given),
                "violations": violations,
                "latest_start_ms": soaked.traffic.late * 1000,
                "samples": [[round(each.at, 1), each.memory, each.files, each.threads] for each in watch.samples],
            }
        )
    measured.tables += [calls, times, growth]
    shortest = min(len(values) for values in memory.values())
    minutes = [f"{options.minutes * (bar + 0.5) / shortest:.1f}" for bar in range(shortest)]
    kept = {name: values[:shortest] for name, values in memory.items()}
    measured.charts.append(Chart("soak", "Resident memory of the server, by minute", "MiB", minutes, kept))


def _goals(measured: Scenario, name: str, soaked: Soaked, violations: list[str]) -> None:
    watch = soaked.watch
    measured.goals += [
        Goal(f"{name}: errors", 0, len(soaked.traffic.errors), at_least=False),
        Goal(f"{name}: whatever else is not as it should be", 0, len(violations), at_least=False),
        Goal(
            f"{name}: memory that came to it after the warm-up", MEMORY_MIB, watch.growth("memory"), unit="MiB", at_least=False
        ),
        Goal(f"{name}: file descriptors that came to it", FILES, watch.growth("files"), at_least=False),
        Goal(f"{name}: threads that came to it", THREADS, watch.growth("threads"), at_least=False),
    ]


async def one(measured: Scenario, kind: DatabaseKind, options: argparse.Namespace) -> Soaked:
    """Work on one database."""
    folder = measured.folder / kind
    folder.mkdir()
    measured.say(f"{NAMES[kind]}: {options.rate:g} calls a second for {options.minutes:g} minutes")
    soaked = await soak(
        folder, postgresql=kind == "postgresql", rate=options.rate, seconds=options.minutes * 60, seed=options.seed
    )
    measured.say(f"{NAMES[kind]}: {sum(soaked.traffic.calls.values()):,} calls, {soaked.violations() or 'all well'}")
    return soaked


def main() -> None:
    """Measure, print, keep."""
    options = parser("Ten minutes of mixed calls.")
    options.add_argument("--rate", type=float, default=RATE, help=f"calls a second (default: {RATE:g})")
    options.add_argument("--minutes", type=float, default=MINUTES, help=f"(default: {MINUTES:g})")
    options.add_argument("--seed", type=int, default=SEED, help=f"of the order of calls (default: {SEED})")
    options.add_argument("--name", default="soak", help="of the result")
    given = options.parse_args()
    if given.quick:
        given.rate, given.minutes = 20, 0.2
    with scenario(
        given,
        given.name,
        "Ten minutes of mixed calls",
        "One server over Streamable HTTP; of 100 calls 80 cached, 5 refreshed, 10 of consents, 3 of an API, 2 lists",
        rate=given.rate,
        minutes=given.minutes,
        seed=given.seed,
    ) as measured:
        anyio.run(measure, measured, given)


if __name__ == "__main__":
    main()
