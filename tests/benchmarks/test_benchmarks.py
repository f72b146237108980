"""Can the benchmarks still be run, and does the report say what they found? Nothing here says how fast anything is."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
BENCHMARKS = ROOT / "benchmarks"
DOCUMENT = ROOT / "docs" / "performance.md"
NO_SCENARIOS = {"run", "report", "prove", "soak"}
pytestmark = pytest.mark.xdist_group("benchmarks")  # one smoke run serves them all
PROVE = os.environ.get("PROVE") == "1"


def run(script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(BENCHMARKS / f"{script}.py"), *arguments], capture_output=True, text=True, check=False, timeout=600
    )


@pytest.fixture(scope="session")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The figures of a smoke run: a cached token over HTTP, on SQLite."""
    folder = tmp_path_factory.mktemp("results")
    done = run("cached_token", "--quick", "--database", "sqlite", "--transport", "http", "--results", str(folder))
    assert done.returncode == 0, done.stderr
    return folder


def test_a_scenario_writes_its_figures_with_everything_that_one_must_know_to_believe_them(results: Path) -> None:
    found: dict[str, Any] = json.loads((results / "cached_token.json").read_text())
    assert found["quick"] is True
    assert all(found["machine"][name] for name in ("cpu", "cores", "python", "sqlite", "commit", "date"))
    assert found["disk"]["sqlite_commits"] > 0
    assert found["disk"]["fsyncs"] > 0
    (measured,) = found["data"]
    assert {run["target"] for run in measured["runs"]} == {"no-op", "mcp-identity"}
    assert all(run["calls"] > 0 for run in measured["runs"])
    ratio, trail = found["goals"]
    assert ratio["limit"] == 0.8
    assert trail["limit"] == trail["measured"] > 0


def test_a_scenario_draws_its_chart(results: Path) -> None:
    assert (results / "cached-token-sqlite.png").read_bytes().startswith(b"\x89PNG\r\n")


def test_a_smoke_run_does_not_get_into_the_report(results: Path, tmp_path: Path) -> None:
    document = tmp_path / "performance.md"
    document.write_text("<!-- figures: cached_token -->\n<!-- end -->\n")
    refused = run("report", "--results", str(results), "--document", str(document))
    assert refused.returncode == 1
    assert "smoke" in refused.stderr
    assert document.read_text() == "<!-- figures: cached_token -->\n<!-- end -->\n"


def test_the_report_writes_between_its_markers_and_nowhere_else(results: Path, tmp_path: Path) -> None:
    document = tmp_path / "performance.md"
    markers = "before\n<!-- figures: {} -->\nold\n<!-- end -->\nafter\n"
    document.write_text("".join(markers.format(name) for name in ("goals", "cached_token", "in_process")))
    for _ in range(2):
        done = run("report", "--results", str(results), "--document", str(document), "--allow-quick")
        assert done.returncode == 0, done.stderr
        assert "not measured yet: in_process" in done.stdout
    written = document.read_text()
    outside = re.sub(r"(<!-- figures: \w+ -->).*?(<!-- end -->)", r"\1\2", written, flags=re.DOTALL)
    assert outside == "".join(
        f"before\n<!-- figures: {name} --><!-- end -->\nafter\n" for name in ("goals", "cached_token", "in_process")
    )
    assert written.count("old") == 1
    assert "Streamable HTTP, SQLite, 2 callers" in written
    assert "![" in written
    assert (tmp_path / "performance" / "cached-token-sqlite.png").exists()


def test_every_scenario_is_run_by_make_bench_and_has_its_place_in_the_report() -> None:
    scripts = {path.stem for path in BENCHMARKS.glob("*.py")} - NO_SCENARIOS
    listed = run("run", "--help").stdout
    places = set(re.findall(r"<!-- figures: (\w+) -->", DOCUMENT.read_text("utf-8")))
    assert {name for name in scripts if name not in listed} == set()
    assert scripts <= places


@pytest.mark.skipif(not PROVE, reason="two minutes; `make bench QUICK=1` does the same")
def test_every_scenario_comes_to_its_end(tmp_path: Path) -> None:
    done = run("run", "--quick", "--results", str(tmp_path))
    assert done.returncode == 0, done.stdout + done.stderr
