"""How is long work shown? A bar at a terminal, a line for each table elsewhere, nothing where a program reads JSON."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Generator, Mapping
from typing import Any

from mcp_identity.cli.output import say

Progress = Callable[[str, str, int], None]
Begun = Callable[[int], Progress]


@contextlib.contextmanager
def shown(titles: Mapping[str, str], sides: Mapping[str, int], *, quiet: bool) -> Generator[Begun]:
    """Show work that goes through tables, step by step, until the block ends.

    Args:
        titles: What each step is called.
        sides: Steps that go through the rows more than once.
        quiet: Show nothing.
    """
    if quiet:
        yield lambda _total: _nothing
    elif sys.stderr.isatty():
        with _bars(titles, sides) as begun:
            yield begun
    else:
        lines = _Lines(titles)
        yield lambda _total: lines.advance
        lines.finish()


def _nothing(_step: str, _table: str, _rows: int) -> None:
    """Nobody looks on."""


@contextlib.contextmanager
def _bars(titles: Mapping[str, str], sides: Mapping[str, int]) -> Generator[Begun]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bars

    columns = (
        TextColumn("{task.description:<12}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(),
        TextColumn("{task.fields[table]}"),
    )  # fmt: skip
    with Bars(*columns, console=Console(stderr=True)) as bars:
        tasks: dict[str, Any] = {}

        def begun(total: int) -> Progress:
            def advance(step: str, table: str, rows: int) -> None:
                if step not in tasks:
                    _finish(bars, tasks)
                    expected = total * sides.get(step, 1) or None
                    tasks[step] = bars.add_task(titles.get(step, step), total=expected, table=table)
                bars.update(tasks[step], advance=rows, table=table)

            return advance

        yield begun
        _finish(bars, tasks)


def _finish(bars: Any, tasks: Mapping[str, Any]) -> None:
    """What others wrote or removed meanwhile was not counted before, and some tables have nothing to open."""
    for task in tasks.values():
        done = next(each.completed for each in bars.tasks if each.id == task)
        bars.update(task, total=done, table="")


class _Lines:
    """A line for each table that is done."""

    def __init__(self, titles: Mapping[str, str]) -> None:
        self._titles = titles
        self._now = ("", "")
        self._rows = 0

    def advance(self, step: str, table: str, rows: int) -> None:
        """Count, and say what is done with."""
        if (step, table) != self._now:
            self.finish()
            self._now, self._rows = (step, table), 0
        self._rows += rows

    def finish(self) -> None:
        """Say what was done last."""
        if self._now[0]:
            say(f"{self._titles.get(self._now[0], self._now[0])} {self._now[1]}: {self._rows}")
        self._now = ("", "")
