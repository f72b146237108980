"""How often was a server killed, where, and what came of it? Goes on where it stopped, and prints a table.

    python -m tests.crash.prove --kills 1000 --results DIR [--database sqlite|postgresql] [--table]

Each kill is one line of `DIR/kills-<database>.jsonl`, written when it has been judged. The next run takes the kills that are
missing; with `--table` it kills nobody. The status is 1 where anything must not have happened.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Generator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from tests.crash.errands import ERRANDS
from tests.crash.errands import run as run_errand
from tests.crash.kills import Report, Trial, every_trial, run
from tests.crash.ledger import MODES, Ledger, running_ledger
from tests.crash.points import DURABLE
from tests.crash.served import Nursery, nursery
from tests.crash.world import World, world

KILLS_OF_ONE_VAULT = 50
"""After so many the next vault begins, because all of its trail is verified after each kill."""
RANDOM_SHARE = 6
"""Every sixth kill comes at a moment that nobody chose."""
ERRAND_SHARE = 6
"""And every sixth is that of a command."""


def kill_of(number: int, world: World) -> tuple[str, str, Report]:
    """The Nth kill, the same in every run: its point, the mode of the authorization server, and what came of it."""
    if number % RANDOM_SHARE == 0:
        trial = Trial("random", str(number), MODES[number // RANDOM_SHARE % 3])
        return trial.point, trial.mode, run(world, trial)
    if number % ERRAND_SHARE == 1:
        return _errand_of(number // ERRAND_SHARE, world)
    trials = every_trial()
    trial = trials[(number - number // RANDOM_SHARE - number // ERRAND_SHARE) % len(trials)]
    return trial.point, trial.mode, run(world, trial)


def _errand_of(number: int, world: World) -> tuple[str, str, Report]:
    errands = [errand for errand in ERRANDS.values() if errand.name != "migrate" or not world.database_url]
    errand, point = errands[number % len(errands)], DURABLE[number // len(errands) % len(DURABLE)]
    for passes in (1 + number // len(errands) // len(DURABLE) % 6, 1):
        report = run_errand(world, errand, point, passes)
        if report is not None:
            return f"{errand.name}.{point}", "", report
    point = DURABLE[0]  # what reaches no disk by itself has a COMMIT
    report = run_errand(world, errand, point, 1)
    assert report is not None
    return f"{errand.name}.{point}", "", report


@dataclass(slots=True)
class Results:
    """The kills so far."""

    path: Path

    def lines(self) -> list[dict[str, Any]]:
        """All of them; a line that was cut off by a kill of this program is none."""
        found: list[dict[str, Any]] = []
        for line in self.path.read_text("utf-8").splitlines() if self.path.exists() else []:
            try:
                found.append(json.loads(line))
            except ValueError:
                continue
        return found

    def add(self, **line: Any) -> None:
        """One more."""
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")


@contextmanager
def _databases(kind: str) -> Generator[Any]:
    """Makes the URL of a new database for each vault; empty for a file in the vault's folder."""
    if kind == "sqlite":
        yield lambda: ""
        return
    from tests.crash.databases import new_databases

    with new_databases() as make:
        yield make


def kill(count: int, results: Results, kind: str) -> None:
    """Kill until there are so many."""
    done = {line["number"] for line in results.lines()}
    missing = [number for number in range(1, count + 1) if number not in done]
    if not missing:
        return
    with nursery() as ward, running_ledger() as ledger, _databases(kind) as make, TemporaryDirectory() as folder:
        for start in range(0, len(missing), KILLS_OF_ONE_VAULT):
            vault = Path(folder) / f"vault-{start}"
            _kill_on_one(missing[start : start + KILLS_OF_ONE_VAULT], results, ward, ledger, vault, make())


def _kill_on_one(
    numbers: Sequence[int], results: Results, ward: Nursery, ledger: Ledger, folder: Path, database_url: str
) -> None:
    worlds = ExitStack()
    with worlds:
        here: World = worlds.enter_context(world(folder, ward, ledger, database_url))
        for number in numbers:
            point, mode, report = kill_of(number, here)
            window = here.control.stored_at - ledger.answered_at if point.startswith("refresh.") else 0
            results.add(
                number=number,
                point=point,
                mode=mode,
                outcome=report.outcome,
                violations=report.violations,
                seconds=round(report.seconds, 3),
                normal_after=round(report.normal_after, 3),
                window_ms=round(window * 1000, 3) if window > 0 else None,
                at=round(time.time()),
            )
            sys.stderr.write(f"{number} {point} {mode}: {report.outcome or '-'} {report.violations or ''}\n")


def table(lines: Sequence[dict[str, Any]]) -> str:
    """Per point: kills, outcomes, violations."""
    by_point: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for line in lines:
        by_point[line["point"]].append(line)
    rows = [f"{'point':<34}{'kills':>6}  {'violations':>10}  outcomes"]
    for point, of_it in sorted(by_point.items()):
        outcomes = Counter(part for line in of_it for part in line["outcome"].split(", ") if part)
        said = ", ".join(f"{outcome} {times}" for outcome, times in outcomes.most_common())
        rows.append(f"{point:<34}{len(of_it):>6}  {sum(bool(line['violations']) for line in of_it):>10}  {said}")
    bad = sum(bool(line["violations"]) for line in lines)
    rows.append(f"{'all ' + str(len(by_point)) + ' points':<34}{len(lines):>6}  {bad:>10}")
    slowest = max((line["normal_after"] for line in lines), default=0)
    rows.append(f"normal again after at most {slowest:.1f} s; upper 95 % bound of a violation: {3 / max(len(lines), 1):.2%}")
    windows = sorted(line["window_ms"] for line in lines if line.get("window_ms"))
    if windows:
        p99 = windows[min(len(windows) - 1, int(len(windows) * 0.99))]
        rows.append(
            f"between the server's answer and our commit: median {windows[len(windows) // 2]:.1f} ms, p99 {p99:.1f} ms"
            f" ({len(windows)} refreshes)"
        )
    return "\n".join(rows)


def main() -> int:
    """Kill, and print the table."""
    parser = argparse.ArgumentParser(description="Kill servers and look at what is left.")
    parser.add_argument("--kills", type=int, default=1000, help="how many there shall be in the end")
    parser.add_argument("--results", type=Path, required=True, help="the folder of the results; a second run goes on there")
    parser.add_argument("--database", choices=["sqlite", "postgresql"], default="sqlite")
    parser.add_argument("--table", action="store_true", help="only print the table")
    options = parser.parse_args()
    options.results.mkdir(parents=True, exist_ok=True)
    results = Results(options.results / f"kills-{options.database}.jsonl")
    if not options.table:
        kill(options.kills, results, options.database)
    lines = results.lines()
    sys.stdout.write(table(lines) + "\n")
    return int(any(line["violations"] for line in lines))


if __name__ == "__main__":
    sys.exit(main())
