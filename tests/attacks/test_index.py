"""Which attacks have a test, and which have none? A row without a test does not count as covered."""

from __future__ import annotations

import ast
import re
import tomllib
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
ROWS: dict[str, dict[str, Any]] = tomllib.loads((Path(__file__).parent / "rows.toml").read_text("utf-8"))
MARKER = re.compile(r"[Cc]overs: ((?:A[0-9]{2}[a-z]?(?:, )?)+)")
NOT_COVERED = {"A54", "A57"}
"""The rows without a test; each says in `rows.toml` why."""


def marked() -> dict[str, set[str]]:
    """The files whose tests name a row themselves, by row."""
    found: defaultdict[str, set[str]] = defaultdict(set)
    for path in sorted((ROOT / "tests").rglob("test_*.py")):
        if "node_modules" in path.parts or path == Path(__file__):
            continue
        for names in MARKER.findall(path.read_text("utf-8")):
            for row in re.findall(r"A[0-9]{2}[a-z]?", names):
                found[row].add(path.relative_to(ROOT).as_posix())
    return dict(found)


MARKED = marked()


def test_every_row_that_a_test_names_is_a_row() -> None:
    assert MARKED.keys() <= ROWS.keys()


def test_there_are_as_many_rows_as_attacks_are_known() -> None:
    assert len(ROWS) == 74


def test_every_row_says_what_the_attack_is() -> None:
    assert [name for name, row in ROWS.items() if not row.get("attack")] == []
    assert [name for name, row in ROWS.items() if row.keys() - {"attack", "tests", "missing"}] == []


def test_the_rows_without_a_test_are_these_and_say_why() -> None:
    without = {name for name, row in ROWS.items() if not row.get("tests") and name not in MARKED}
    assert without == NOT_COVERED
    assert [name for name in without if not ROWS[name].get("missing")] == []
    assert [name for name, row in ROWS.items() if row.get("missing") and name not in without] == []


@pytest.mark.parametrize("name", sorted(name for name, row in ROWS.items() if row.get("tests")))
def test_every_test_that_a_row_names_exists(name: str) -> None:
    for named in ROWS[name]["tests"]:
        file, _, function = named.partition("::")
        tree = ast.parse((ROOT / file).read_text("utf-8"))
        functions = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}
        assert not function or function in functions, named
        assert any(each.startswith("test_") for each in functions), named
