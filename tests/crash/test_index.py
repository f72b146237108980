"""Which faults have a test, and which have none? A fault without a test says why there is none."""

from __future__ import annotations

import ast
import re
import tomllib
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
FAULTS: dict[str, dict[str, Any]] = tomllib.loads((Path(__file__).parent / "faults.toml").read_text("utf-8"))
MARKER = re.compile(r"[Cc]overs: ((?:[A-Z][0-9]{2}[a-z]?(?:, )?)+)")
WITHOUT = {"F37"}
"""The faults without a test; each says in `faults.toml` why."""


def marked() -> dict[str, set[str]]:
    """The files whose tests name a fault themselves, by fault."""
    found: defaultdict[str, set[str]] = defaultdict(set)
    for path in sorted((ROOT / "tests").rglob("test_*.py")):
        if "node_modules" in path.parts or path == Path(__file__):
            continue
        for names in MARKER.findall(path.read_text("utf-8")):
            for fault in re.findall(r"F[0-9]{2}", names):
                found[fault].add(path.relative_to(ROOT).as_posix())
    return dict(found)


MARKED = marked()


def test_all_forty_faults_are_there_and_no_other_is_named() -> None:
    assert list(FAULTS) == [f"F{number:02}" for number in range(1, 41)]
    assert MARKED.keys() <= FAULTS.keys()
    assert [name for name, row in FAULTS.items() if not row.get("fault") or row.keys() - {"fault", "tests", "missing"}] == []


def test_the_faults_without_a_test_are_these_and_say_why() -> None:
    without = {name for name, row in FAULTS.items() if not row.get("tests") and name not in MARKED}
    assert without == WITHOUT
    assert [name for name in without if not FAULTS[name].get("missing")] == []
    assert [name for name, row in FAULTS.items() if row.get("missing") and name not in without] == []


@pytest.mark.parametrize("name", sorted(name for name, row in FAULTS.items() if row.get("tests")))
def test_every_test_that_a_fault_names_exists(name: str) -> None:
    for named in FAULTS[name]["tests"]:
        file, _, function = named.partition("::")
        tree = ast.parse((ROOT / file).read_text("utf-8"))
        functions = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}
        assert not function or function in functions, named
        assert any(each.startswith("test_") for each in functions), named
