"""How are answers shown? Tables for people at a terminal, tab-separated lines for pipes, JSON for programs.

Answers go to stdout, everything said beside them to stderr. Times are local in tables and ISO 8601 in UTC in JSON.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime

import typer

from mcp_identity.domain.errors import clean_text


def say(text: str) -> None:
    """Tell the person something that is not the answer."""
    typer.echo(text, err=True)


def print_json(value: object, *, lines: bool = False) -> None:
    """Print JSON, in ASCII, so that no character of it does anything to a terminal.

    Args:
        value: Plain data; moments become ISO 8601 in UTC.
        lines: On one line, for a stream of objects.
    """
    typer.echo(json.dumps(value, indent=None if lines else 2, default=_plain))


def _plain(value: object) -> str:
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
    raise TypeError(type(value).__name__)


def print_table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print rows: a table at a terminal, else a line each with tabs between, the header first."""
    cleaned = [[clean_text(cell) for cell in row] for row in rows]
    if not sys.stdout.isatty():
        for row in (columns, *cleaned):
            typer.echo("\t".join(row))
        return
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in cleaned:
        table.add_row(*(Text(cell) for cell in row))
    Console().print(table)


def print_facts(facts: Mapping[str, str]) -> None:
    """Print one thing's facts, a line each; those without a value are left out."""
    shown = {name: clean_text(value) for name, value in facts.items() if value}
    width = max(map(len, shown), default=0) + 2
    for name, value in shown.items():
        typer.echo(f"{name + ':':<{width}}{value}")


def local_time(at: datetime | None) -> str:
    """A moment as the person's own clock shows it; empty for none."""
    return f"{at.astimezone():%Y-%m-%d %H:%M:%S}" if at else ""
