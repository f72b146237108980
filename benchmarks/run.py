"""Measure everything, one scenario after the other, and say at the end what was hoped for and what came.

The machine should have nothing else to do meanwhile. `python benchmarks/report.py` then writes the figures into
docs/performance.md.

    python benchmarks/run.py [--quick] [--only NAME …] [--skip NAME …]
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from kit.scenario import SCENARIOS
from kit.show import Goal, console, goal_row, results_folder, rich_table


def run(name: str, results: Path, *, quick: bool) -> bool:
    """Run one scenario; whether it came to its end."""
    command = [sys.executable, str(Path(__file__).with_name(f"{name}.py")), "--results", str(results)]
    return subprocess.run([*command, "--quick"] if quick else command, check=False).returncode == 0


def goals(results: Path, names: list[str]) -> list[Goal]:
    """What was hoped for in scenarios that came to their end."""
    found: list[Goal] = []
    for name in names:
        given: dict[str, Any] = json.loads((results / f"{name}.json").read_text())
        found += [Goal(**goal) for goal in given["goals"]]
    return found


def main() -> None:
    """Run all, or some."""
    options = argparse.ArgumentParser(
        description="Run all benchmarks, one after the other.", epilog=f"The scenarios: {', '.join(SCENARIOS)}."
    )
    options.add_argument("--quick", action="store_true", help="a smoke run of a minute or two; its figures mean nothing")
    options.add_argument("--only", nargs="+", choices=SCENARIOS, metavar="NAME", default=list(SCENARIOS), help="these alone")
    options.add_argument("--skip", nargs="+", choices=SCENARIOS, metavar="NAME", default=[], help="all but these")
    options.add_argument("--results", type=Path, default=None, metavar="FOLDER", help="where JSON and charts go")
    given = options.parse_args()
    names = [name for name in SCENARIOS if name in given.only and name not in given.skip]
    results: Path = given.results or results_folder(quick=given.quick)
    begun, done = time.monotonic(), list[str]()
    for place, name in enumerate(names, 1):
        left = sum(SCENARIOS[each] for each in names[place - 1 :])
        about = "" if given.quick else f", about {left:.0f} minutes to go"
        console.rule(f"{place} of {len(names)}: {name}{about}", align="left")
        if run(name, results, quick=given.quick):
            done.append(name)
        else:
            console.print(f"[red]{name} failed")
    rows = [goal_row(goal) for goal in goals(results, done)]
    console.rule("all of it", align="left")
    console.print(rich_table("what was hoped for, and what came", ["what", "goal", "measured", ""], rows))
    minutes = (time.monotonic() - begun) / 60
    console.print(f"{len(done)} of {len(names)} scenarios in {minutes:.1f} minutes; figures in {results}", soft_wrap=True)
    if not given.quick and len(done) == len(names):
        console.print("python benchmarks/report.py writes them into docs/performance.md")
    sys.exit(len(done) != len(names))


if __name__ == "__main__":
    main()
