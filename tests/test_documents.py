"""The documents say what is so: commands exist, named tests exist, examples are what the product writes."""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text("utf-8")
MAKEFILE = (ROOT / "Makefile").read_text("utf-8")
ACCEPTANCE = (ROOT / "docs" / "acceptance.md").read_text("utf-8")
NAMED_TESTS = sorted(set(re.findall(r"`(tests/[\w/]+\.py)(?:::(\w+))?`", ACCEPTANCE)))


@pytest.mark.parametrize("target", sorted(set(re.findall(r"(?:^|`)make ([a-z]+)", README, re.MULTILINE))))
def test_every_target_that_the_readme_names_can_be_made(target: str) -> None:
    assert re.search(rf"^{target}:", MAKEFILE, re.MULTILINE)


def test_ci_runs_the_test_command_of_the_readme() -> None:
    assert re.search(r"^make test$", (ROOT / ".ci" / "run").read_text("utf-8"), re.MULTILINE)
    assert "make test" in README


@pytest.mark.parametrize(("file", "name"), NAMED_TESTS)
def test_every_test_that_the_acceptance_list_names_exists(file: str, name: str) -> None:
    tree = ast.parse((ROOT / file).read_text("utf-8"))
    functions = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}
    classes = {node.name for node in ast.walk(tree) if isinstance(node, ast.ClassDef)}
    assert not name or name in functions | classes


def test_the_acceptance_list_has_a_test_or_a_reason_in_every_row() -> None:
    rows = [line for line in ACCEPTANCE.splitlines() if re.match(r"\| \d+ \|", line)]
    assert rows
    for row in rows:
        answer = row.rstrip("| ").split("|")[-1].strip()
        assert answer, row


def test_the_example_for_claude_desktop_starts_our_server_and_holds_no_secret() -> None:
    text = (ROOT / "claude_desktop_config.example.json").read_text("utf-8")
    (server,) = json.loads(text)["mcpServers"].values()
    assert server["args"] == ["serve"]
    assert set(server["env"]) == {"MCP_IDENTITY_WORKLOAD"}


def test_every_pinned_version_is_exact_and_no_host_is_named() -> None:
    for line in (ROOT / "constraints.txt").read_text("utf-8").splitlines():
        assert line.startswith("#") or re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.!+]+", line), line


@pytest.mark.parametrize("link", sorted(set(re.findall(r"\]\((?!https?:)([^)#]+)\)", README))))
def test_every_file_that_the_readme_links_to_is_there(link: str) -> None:
    assert (ROOT / link).exists()
