"""What does every scenario's script have in common? Its options, the databases it runs on, and the making of a `Result`."""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kit.databases import KINDS, DatabaseKind, Databases, databases
from kit.machine import Disk, disk, machine
from kit.show import Chart, Goal, Result, Table, console, results_folder, show

SCENARIOS: dict[str, float] = {
    "startup": 1.5,
    "in_process": 1.5,
    "cached_token": 8,
    "agentcore": 3,
    "many_grants": 4,
    "refresh_storm": 2,
    "m2m": 0.5,
    "hanging_provider": 1,
    "rewrap": 3,
    "calls": 0.5,
    "slow_connections": 0.5,
}
"""In order, with about how many minutes each takes on two cores."""
ROUNDS = 5
SEED = 20_260_728


@dataclass(slots=True)
class Scenario:
    """One scenario that is measured now.

    Attributes:
        name: Of the script.
        title: For people.
        question: What is measured, and how.
        quick: Only see that it runs.
        kinds: The databases to measure on.
        databases: Makes them.
        folder: Where vaults go; on the disk that is measured.
        disk: How fast it was just before.
        parameters: Whatever was chosen.
    """

    name: str
    title: str
    question: str
    quick: bool
    kinds: tuple[DatabaseKind, ...]
    databases: Databases
    folder: Path
    disk: Disk
    parameters: dict[str, Any]
    tables: list[Table] = field(default_factory=list[Table])
    goals: list[Goal] = field(default_factory=list[Goal])
    charts: list[Chart] = field(default_factory=list[Chart])
    data: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])

    def say(self, text: str) -> None:
        """Tell the person who waits."""
        console.print(f"[dim]{time.strftime('%H:%M:%S')}[/dim] {self.name}: {text}", soft_wrap=True)


def parser(description: str) -> argparse.ArgumentParser:
    """The options that every scenario has."""
    options = argparse.ArgumentParser(description=description)
    options.add_argument("--quick", action="store_true", help="a smoke run of a few seconds; its figures mean nothing")
    options.add_argument("--database", choices=KINDS, action="append", help="measure on this one only (default: both)")
    options.add_argument("--rounds", type=int, default=ROUNDS, help=f"runs of each kind (default: {ROUNDS})")
    options.add_argument("--results", type=Path, default=None, metavar="FOLDER", help="where JSON and charts go")
    options.add_argument("--folder", type=Path, default=None, help="where vaults are made (default: the temporary folder)")
    options.add_argument("--no-chart", action="store_true", help="write JSON alone")
    return options


@contextmanager
def scenario(
    options: argparse.Namespace, name: str, title: str, document: str | None, *, postgresql: bool = True, **parameters: Any
) -> Generator[Scenario]:
    """Measure a scenario in the block; what it found is shown and kept afterwards.

    Args:
        options: Of `parser`.
        name: Of the script.
        title: For people.
        document: Of the script's module: its second paragraph says what is measured, and how. Or that alone.
        postgresql: Whether it has to do with databases at all.
        **parameters: To be told beside the figures.
    """
    begun, paragraphs = time.monotonic(), (document or title).split("\n\n")
    question = paragraphs[min(1, len(paragraphs) - 1)]
    kinds: tuple[DatabaseKind, ...] = tuple(options.database or KINDS) if postgresql else ("sqlite",)
    with (
        tempfile.TemporaryDirectory(prefix="mcp-identity-bench-", dir=options.folder, ignore_cleanup_errors=True) as folder,
        databases(*kinds) as made,
    ):
        url = made.url("postgresql") if made.server else None
        bare = disk(Path(folder), url, 0.2 if options.quick else 1.5)
        running = Scenario(name, title, question, options.quick, kinds, made, Path(folder), bare, dict(parameters))
        yield running
        result = Result(
            name=name,
            title=title,
            question=question,
            machine=machine(),
            disk=bare,
            postgresql=made.version,
            parameters=running.parameters,
            seconds=round(time.monotonic() - begun, 1),
            quick=options.quick,
            tables=running.tables,
            goals=running.goals,
            charts=running.charts,
            data=running.data,
        )
    show(result, options.results or results_folder(quick=options.quick), draw=not options.no_chart)
