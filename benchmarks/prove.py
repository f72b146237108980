"""Prove more than a change needs: a thousand kills, ten minutes of work, a hundred thousand records, thousands of cases.

Each part is a program of its own and writes its outcome down when it has come to its end; what was proved of this very product
is not proved again, so a run that was broken off goes on where it stopped. A result is kept with the commit, the date, how
many cases there were, the seed and the time it took.

    python benchmarks/prove.py [--only PART …] [--table] [--again]

The status is 1 where anything failed, and 2 where something is still to be proved. `benchmarks/report.py` writes the table into
docs/performance.md.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

from kit import ROOT
from kit.machine import Disk, disk, machine
from kit.scenario import SEED
from kit.show import RESULTS, Goal, Result, Table, show

PROVED = RESULTS / "prove"
JOBS = os.environ.get("JOBS", "2")
TIMEOUT_SECONDS = 3600


@dataclass(frozen=True, slots=True)
class Part:
    """Something to prove.

    Attributes:
        name: Of the part.
        what: Is proved, in a few words.
        minutes: About how long it takes on two cores.
        tests: Arguments of pytest; empty for a program.
        program: Arguments of Python; ``{results}`` is the part's own folder.
        jobs: How many processes run the tests.
    """

    name: str
    what: str
    minutes: float
    tests: tuple[str, ...] = ()
    program: tuple[str, ...] = ()
    jobs: str = JOBS


def _kills(database: str, count: int) -> tuple[str, ...]:
    return ("-m", "tests.crash.prove", "--kills", str(count), "--database", database, "--results", "{results}")


def _soak(database: str) -> tuple[str, ...]:
    return ("benchmarks/soak.py", "--database", database, "--results", "{results}", "--no-chart")


PARTS = (
    Part("interrupts", "cancel, end of input, signals and disconnects", 2, tests=("tests/interrupts",)),
    Part("kills-sqlite", "kill -9 at named points and at any, SQLite", 40, program=_kills("sqlite", 1000)),
    Part("kills-postgresql", "kill -9 at named points and at any, PostgreSQL", 12, program=_kills("postgresql", 300)),
    Part("crash", "storage faults, and mutants that the kills must find", 10, tests=("tests/crash",), jobs="1"),
    Part("soak-sqlite", "10 minutes at 100 calls a second, SQLite", 11, program=_soak("sqlite")),
    Part("soak-postgresql", "10 minutes at 100 calls a second, PostgreSQL", 11, program=_soak("postgresql")),
    Part("keys", "rotation and rewrapping under load, key backends", 15, tests=("tests/kms", "tests/vault/test_keys*.py")),
    Part("tampering", "mutated and swapped cells", 5, tests=("tests/vault/test_tampering*.py",)),
    Part("storms", "a thousand callers, breaker, refreshes ahead of time", 10, tests=("tests/broker", "tests/peers")),
    Part("moving", "copies, backups and migrations under load and kills", 10, tests=("tests/moving",)),
    Part("arguments", "every argument of every tool, for every identity", 30, tests=("tests/matrix",)),
    Part("vault", "long generated runs on the vault", 20, tests=("tests/vault",)),
    Part(
        "protocols", "long generated runs on protocols and values", 20, tests=("tests/domain", "tests/oauth", "tests/inbound")
    ),
    Part("edges", "everything else", 20, tests=("tests/*",)),
)
_NO_TESTS = {"tests/fakes", "tests/soak", "tests/conftest.py", "tests/__pycache__"}
"""A soak of ten minutes is no test."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a part.

    Attributes:
        part: Its name.
        version: Of the product that it was proved of.
        commit: Of the repository.
        date: When, UTC.
        seconds: How long it took; of all runs, where it was broken off.
        status: ``passed`` or ``failed``.
        cases: How many there were.
        failures: How many failed.
        seed: Of what was drawn by chance.
        figures: Whatever the part says of itself.
    """

    part: str
    version: str
    commit: str
    date: str
    seconds: float
    status: str
    cases: int
    failures: int
    seed: int
    figures: dict[str, Any] = field(default_factory=dict[str, Any])


def version() -> str:
    """The product's content, as one short name: whatever else changes, what was proved of it still stands."""
    found = hashlib.sha256()
    for path in sorted((ROOT / "mcp_identity").rglob("*")):
        if path.is_file() and "__pycache__" not in path.parts:
            found.update(f"{path.relative_to(ROOT)}\0".encode() + path.read_bytes() + b"\0")
    return found.hexdigest()[:12]


def load(folder: Path, part: Part) -> Outcome | None:
    """What came of a part, as far as it is known."""
    path = folder / f"{part.name}.json"
    try:
        return Outcome(**json.loads(path.read_text("utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def prove(part: Part, folder: Path, now: str) -> Outcome:
    """Prove one part, or what is left of it."""
    own = folder / now / part.name
    own.mkdir(parents=True, exist_ok=True)
    begun = time.monotonic()
    clock = own / "seconds"
    before = float(clock.read_text()) if clock.exists() else 0.0
    try:
        cases, failures, figures = _tests(part, own) if part.tests else _program(part, own)
    finally:
        clock.write_text(str(before + time.monotonic() - begun))
    here = machine()
    status = "passed" if cases and not failures else "failed"
    seconds = round(before + time.monotonic() - begun, 1)
    outcome = Outcome(part.name, now, here.commit, here.date, seconds, status, cases, failures, SEED, figures)
    (folder / f"{part.name}.json").write_text(json.dumps(asdict(outcome), indent=1) + "\n")
    return outcome


def _environment() -> dict[str, str]:
    return {**os.environ, "PROVE": "1", "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))}


def _paths(part: Part) -> list[str]:
    """What to hand to pytest: what the part names, or all that no other part does."""
    found = [str(path.relative_to(ROOT)) for pattern in part.tests for path in sorted(ROOT.glob(pattern))]
    others = {name for other in PARTS for name in other.tests} if part.tests == ("tests/*",) else set[str]()
    return [path for path in found if path not in others | _NO_TESTS and not path.endswith(".md")]


def _tests(part: Part, own: Path) -> tuple[int, int, dict[str, Any]]:
    """Run tests; how many, how many failed, and what they recorded."""
    report = own / "report.xml"
    paths = _paths(part)
    if not paths:
        return 0, 0, {"missing": " ".join(part.tests)}
    options = ["-q", "-n", part.jobs, "--dist", "worksteal", "--timeout", str(TIMEOUT_SECONDS), f"--junitxml={report}"]
    options += [f"--hypothesis-seed={SEED}", "-p", "no:cacheprovider"]
    command = [sys.executable, "-m", "pytest", *options, *paths]
    subprocess.run(command, cwd=ROOT, env=_environment(), check=False)
    suites = ET.parse(report).getroot().iter("testsuite")  # noqa: S314 - written by our own program
    cases = failures = 0
    figures: dict[str, Any] = {}
    for suite in suites:
        cases += int(suite.get("tests", "0")) - int(suite.get("skipped", "0"))
        failures += int(suite.get("failures", "0")) + int(suite.get("errors", "0"))
        for said in suite.iter("property"):
            figures[str(said.get("name"))] = said.get("value")
    return cases, failures, figures


def _program(part: Part, own: Path) -> tuple[int, int, dict[str, Any]]:
    """Run a program that keeps its own results; how many cases, how many failed, and its last lines."""
    command = [sys.executable, *(each.format(results=own) for each in part.program)]
    done = subprocess.run(command, cwd=ROOT, env=_environment(), check=False, stdout=subprocess.PIPE, text=True)
    sys.stdout.write(done.stdout)
    (own / "said.txt").write_text(done.stdout)
    if soaked := own / "soak.json" if (own / "soak.json").exists() else None:
        (kept,) = json.loads(soaked.read_text())["data"]
        calls = sum(kept["calls"].values())
        memory = [sample[1] for sample in kept["samples"]]
        figures = {
            "calls": calls,
            "errors": len(kept["errors"]),
            "memory_mib": f"{memory[len(memory) // 5]:.0f} to {memory[-1]:.0f}",
        }
        return calls, len(kept["violations"]), figures
    lines = [json.loads(line) for path in own.glob("*.jsonl") for line in path.read_text().splitlines() if line.endswith("}")]
    bad = sum(bool(line.get("violations")) for line in lines)
    points = len({line.get("point") for line in lines})
    wanted = re.search(r"--kills (\d+)", " ".join(part.program))
    missing = max(0, int(wanted[1]) - len(lines)) if wanted else 0
    return (
        len(lines),
        bad + missing + (done.returncode if not bad and not missing else 0),
        {"points": points, "missing": missing},
    )


def rows(folder: Path, now: str, parts: Sequence[Part]) -> list[list[str]]:
    """A row for each part."""
    found: list[list[str]] = []
    for part in parts:
        outcome = load(folder, part)
        if outcome is None:
            found.append([part.name, part.what, f"left, about {part.minutes:g} min", "", "", "", "", "", ""])
            continue
        state = outcome.status if outcome.version == now else f"left ({outcome.status} before the last change)"
        said = ", ".join(f"{name} {value}" for name, value in outcome.figures.items())
        numbers = [f"{outcome.cases:,}", str(outcome.failures), said, f"{outcome.seconds:,.0f} s"]
        found.append([part.name, part.what, state, *numbers, outcome.commit, outcome.date])
    return found


def keep(folder: Path, now: str, parts: Sequence[Part]) -> None:
    """Print the table, and keep it where the report finds it."""
    outcomes = [outcome for part in parts if (outcome := load(folder, part)) is not None]
    columns = ["part", "what", "", "cases", "failed", "figures", "took", "commit", "date"]
    done = [outcome for outcome in outcomes if outcome.version == now]
    show(
        Result(
            name="prove",
            title="What was proved",
            question="Parts of their own, each with its cases, at the commit that it names",
            machine=machine(),
            disk=_disk(folder),
            postgresql="",
            parameters={"seed": SEED, "product": now},
            seconds=round(sum(outcome.seconds for outcome in done), 1),
            quick=False,
            tables=[Table("", columns, rows(folder, now, parts))],
            goals=[
                Goal("parts proved", len(PARTS), sum(outcome.status == "passed" for outcome in done)),
                Goal("cases that failed", 0, sum(outcome.failures for outcome in done), at_least=False),
            ],
            data=[asdict(outcome) for outcome in outcomes],
        ),
        RESULTS,
        draw=False,
    )


def _disk(folder: Path) -> Disk:
    folder.mkdir(parents=True, exist_ok=True)
    return disk(folder, seconds=0.3)


def main() -> int:
    """Prove what is left."""
    options = argparse.ArgumentParser(description="Prove what is left, and print what was proved.")
    options.add_argument("--only", nargs="+", choices=[part.name for part in PARTS], metavar="PART", help="these alone")
    options.add_argument("--table", action="store_true", help="only print the table")
    options.add_argument("--again", action="store_true", help="also what was proved already")
    options.add_argument("--results", type=Path, default=PROVED, metavar="FOLDER", help="where outcomes are kept")
    given = options.parse_args()
    parts = [part for part in PARTS if not given.only or part.name in given.only]
    now = version()
    given.results.mkdir(parents=True, exist_ok=True)
    for part in parts if not given.table else ():
        known = load(given.results, part)
        if known is not None and known.version == now and known.status == "passed" and not given.again:
            continue
        print(f"{datetime.now(UTC):%H:%M:%S} {part.name}: {part.what}, about {part.minutes:g} minutes", flush=True)
        prove(part, given.results, now)
    keep(given.results, now, PARTS)
    outcomes = [load(given.results, part) for part in parts]
    if any(outcome is not None and outcome.version == now and outcome.status == "failed" for outcome in outcomes):
        return 1
    return 0 if all(outcome is not None and outcome.version == now for outcome in outcomes) else 2


if __name__ == "__main__":
    sys.exit(main())
