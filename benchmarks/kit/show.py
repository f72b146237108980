"""How are figures shown and kept? A table for the person who waits, JSON for the report, and a chart beside it.

What a chart shows stands in the JSON as data, so that the report can draw it again without measuring.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table as RichTable

from kit import ROOT
from kit.machine import BUSY_FROM, Disk, Machine

RESULTS = ROOT / "benchmarks" / "results"
console: Console = Console(highlight=False, width=None if sys.stdout.isatty() else 160)


def results_folder(*, quick: bool) -> Path:
    """Where figures go; those of a smoke run do not take the place of real ones."""
    return RESULTS / "quick" if quick else RESULTS


@dataclass(frozen=True, slots=True)
class Goal:
    """What was hoped for, and what came.

    Attributes:
        what: Is measured.
        limit: What it should reach.
        measured: What it did reach.
        at_least: More is better.
        unit: Of both.
        judged: False where the figure is told and says nothing of the product; `why` has the reason.
        why: Why it is not judged, or empty.
    """

    what: str
    limit: float
    measured: float
    at_least: bool = True
    unit: str = ""
    judged: bool = True
    why: str = ""

    @property
    def is_met(self) -> bool:
        """Whether it was reached."""
        return self.measured >= self.limit if self.at_least else self.measured <= self.limit

    def verdict(self) -> str:
        """One word, or why there is none."""
        if not self.judged:
            return f"reported, not judged: {self.why}"
        return "met" if self.is_met else "missed"


@dataclass(frozen=True, slots=True)
class Table:
    """Figures in rows; the first column names the row."""

    title: str
    columns: list[str]
    rows: list[list[str]]


@dataclass(frozen=True, slots=True)
class Chart:
    """Groups of bars.

    Attributes:
        name: Of the file, without its ending.
        title: Over it.
        unit: Of the values.
        groups: The groups, from left to right.
        series: The bars of each group, by what they are.
        lines: Horizontal lines, by what they mean.
        logarithmic: Of the values.
        low: The least of the runs behind each bar, where there were several.
        high: The most.
    """

    name: str
    title: str
    unit: str
    groups: list[str]
    series: dict[str, list[float]]
    lines: dict[str, float] = field(default_factory=dict[str, float])
    logarithmic: bool = False
    low: dict[str, list[float]] = field(default_factory=dict[str, list[float]])
    high: dict[str, list[float]] = field(default_factory=dict[str, list[float]])


@dataclass(frozen=True, slots=True)
class Result:
    """What a scenario found.

    Attributes:
        name: Of the script.
        title: For people.
        question: What was measured, and how.
        machine: Where and when.
        disk: How fast it was just before.
        postgresql: The server's version; empty where none was part of it.
        parameters: N, the seed, and whatever else was chosen.
        seconds: How long it all took.
        quick: Only a smoke run: the figures mean nothing.
        tables: For people.
        goals: What was hoped for.
        charts: To be drawn.
        data: Everything that was measured.
    """

    name: str
    title: str
    question: str
    machine: Machine
    disk: Disk
    postgresql: str
    parameters: dict[str, Any]
    seconds: float
    quick: bool
    tables: list[Table] = field(default_factory=list[Table])
    goals: list[Goal] = field(default_factory=list[Goal])
    charts: list[Chart] = field(default_factory=list[Chart])
    data: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])


def show(result: Result, folder: Path, *, draw: bool = True) -> None:
    """Print the tables, and write JSON and charts into a folder."""
    said = "  [yellow](smoke run: the figures mean nothing)[/yellow]" if result.quick else ""
    console.print(f"\n[bold]{result.title}[/bold]{said}")
    for table in result.tables:
        console.print(rich_table(table.title, table.columns, table.rows))
    if result.goals:
        console.print(rich_table("Goals", ["what", "goal", "measured", ""], [goal_row(goal) for goal in result.goals]))
    for line in circumstances(result):
        console.print(f"[dim]{line}", soft_wrap=True)
    if result.disk.others_share > BUSY_FROM:
        console.print("[yellow]others kept this machine busy: the figures say little")
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{result.name}.json"
    path.write_text(json.dumps(asdict(result), indent=1) + "\n")
    written = [path]
    if draw and result.charts:
        from kit.charts import draw_chart

        written += [draw_chart(chart, folder, footer(result.machine)) for chart in result.charts]
    console.print(f"[dim]wrote {', '.join(each.name for each in written)} in {folder}\n", soft_wrap=True)


def circumstances(result: Result) -> list[str]:
    """Under which the figures were taken, in two lines."""
    disk, machine = result.disk, result.machine
    rates = [f"SQLite commits {disk.sqlite_commits:,.0f}/s", f"fsync {disk.fsyncs:,.0f}/s"]
    if disk.postgresql_commits is not None:
        rates.append(f"PostgreSQL {result.postgresql} commits {disk.postgresql_commits:,.0f}/s")
    system = f"{machine.cpu}, {machine.cores} cores, Python {machine.python}, SQLite {machine.sqlite}"
    return [
        f"{system}; the bare disk: {', '.join(rates)}; others used {disk.others_share:.0%} of the processors just before",
        f"commit {machine.commit}, {machine.date}, {result.seconds:.0f} s, {describe(result.parameters)}",
    ]


def footer(machine: Machine) -> str:
    """The same, under a chart."""
    return f"{machine.cpu}, {machine.cores} cores · Python {machine.python} · commit {machine.commit} · {machine.date}"


def goal_row(goal: Goal) -> list[str]:
    """What, goal, measured, verdict."""
    sign = "≥" if goal.at_least else "≤"
    return [goal.what, f"{sign} {number(goal.limit)}{goal.unit}", f"{number(goal.measured)}{goal.unit}", goal.verdict()]


def number(value: float) -> str:
    """As few digits as say something."""
    if value >= 100 or value == int(value):  # noqa: PLR2004 - from here on, digits behind the point say nothing
        return f"{value:,.0f}"
    return f"{value:.2f}" if value < 10 else f"{value:.1f}"  # noqa: PLR2004 - likewise


def describe(parameters: dict[str, Any]) -> str:
    """Parameters in one line."""
    return ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in parameters.items())


def rich_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> RichTable:
    """A table for a terminal; the first column names the row."""
    table = RichTable(title=title, title_justify="left", title_style="")
    for place, column in enumerate(columns):
        table.add_column(column, justify="left" if place == 0 or not column else "right", overflow="fold")
    for row in rows:
        table.add_row(*row)
    return table
