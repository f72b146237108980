"""Write what was measured into docs/performance.md, and its charts beside it.

The document is written by people; between its markers stand tables and charts that are made of the JSON of the last run, and
nothing else is touched. A marker names a scenario: `<!-- figures: in_process -->` to `<!-- end -->`; `goals` is the table of
all goals, `machine` where it was all measured. A smoke run is no figure and is refused.

    python benchmarks/report.py [--results FOLDER]
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from pathlib import Path
from typing import Any

from kit import ROOT
from kit.machine import Disk, Machine
from kit.scenario import SCENARIOS
from kit.show import RESULTS, Chart, Goal, Result, Table, circumstances, footer, goal_row

DOCUMENT = ROOT / "docs" / "performance.md"
_BLOCK = re.compile(r"(<!-- figures: (?P<name>\w+) -->\n).*?(<!-- end -->)", re.DOTALL)
GOALS, MACHINE = "goals", "machine"


def load(path: Path) -> Result:
    """Read one result."""
    given: dict[str, Any] = json.loads(path.read_text())
    made = {
        "machine": Machine(**given.pop("machine")),
        "disk": Disk(**given.pop("disk")),
        "tables": [Table(**each) for each in given.pop("tables")],
        "goals": [Goal(**each) for each in given.pop("goals")],
        "charts": [Chart(**each) for each in given.pop("charts")],
    }
    return Result(**made, **given)


def write(results: dict[str, Result], document: Path) -> list[str]:
    """Fill the markers of a document, and draw its charts into the folder of its name.

    Returns:
        The markers for which there was no result; they stay as they are.
    """
    missing: list[str] = []
    pictures = document.with_suffix("")

    def filled(block: re.Match[str]) -> str:
        name = block["name"]
        if name == GOALS and results:
            inside = _goals(results)
        elif name == MACHINE and results:
            inside = _machine(next(iter(results.values())))
        elif name in results:
            inside = _figures(results[name], pictures)
        else:
            missing.append(name)
            return block[0]
        return f"{block[1]}\n{inside}\n{block[3]}"

    document.write_text(_BLOCK.sub(filled, document.read_text("utf-8")), "utf-8")
    return missing


def _goals(results: dict[str, Result]) -> str:
    rows: list[list[str]] = []
    for result in results.values():
        rows += [[result.title, *goal_row(goal)] for goal in result.goals]
    return _table(["", "what", "goal", "measured", ""], rows, left=2)


def _machine(result: Result) -> str:
    machine = result.machine
    libraries = ", ".join(f"{name} {version}" for name, version in machine.libraries.items())
    database = f", PostgreSQL {result.postgresql}" if result.postgresql else ""
    return (
        f"{machine.cpu}, {machine.cores} cores, {machine.memory_gib} GiB, {machine.system}; Python {machine.python}, "
        f"SQLite {machine.sqlite}{database}, {libraries}.\n"
    )


def _figures(result: Result, pictures: Path) -> str:
    from kit.charts import draw_chart

    pictures.mkdir(exist_ok=True)
    parts = [f"{result.question}\n", *(_table(table.columns, table.rows) for table in result.tables)]
    for chart in result.charts:
        path = draw_chart(chart, pictures, footer(result.machine))
        parts.append(f"![{chart.title}]({pictures.name}/{path.name})\n")
    parts.append("\n".join(f"- {line}" for line in circumstances(result)) + "\n")
    return "\n".join(parts)


def _table(columns: list[str], rows: list[list[str]], left: int = 1) -> str:
    """A table of Markdown, whose first columns stand at the left, as words do."""
    lines = [columns, ["---" if place < left or not column else "--:" for place, column in enumerate(columns)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def main() -> None:
    """Write the report."""
    options = argparse.ArgumentParser(description="Write what was measured into docs/performance.md.")
    options.add_argument("--results", type=Path, default=RESULTS, metavar="FOLDER", help="where the JSON is")
    options.add_argument("--document", type=Path, default=DOCUMENT, metavar="FILE", help="what to write into")
    options.add_argument("--allow-quick", action="store_true", help="take smoke runs, too: to see what it looks like")
    given = options.parse_args()
    found = {path.stem: load(path) for path in sorted(given.results.glob("*.json"))}
    results = {name: found[name] for name in (*SCENARIOS, *found) if name in found}
    smoke = sorted(name for name, result in results.items() if result.quick)
    if not results:
        sys.exit("nothing was measured yet; run `make bench` first")
    if smoke and not given.allow_quick:
        sys.exit(f"these were only smoke runs: {', '.join(smoke)}; run `make bench` first")
    missing = write(results, given.document)
    print(f"wrote {len(results)} scenarios into {given.document}")
    if missing:
        print(f"not measured yet: {', '.join(missing)}")


if __name__ == "__main__":
    main()
