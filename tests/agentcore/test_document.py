"""The page on AgentCore says of every operation whether it is served, and which settings and commands it names are there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from mcp_identity.agentcore import unserved
from mcp_identity.agentcore.routes import OPERATIONS
from mcp_identity.settings import Settings

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "agentcore.md").read_text("utf-8")
ROWS = re.findall(r"^\| (`.+`) \| (.+) \|$", PAGE.partition("## What is served")[2].partition("\n## ")[0], re.MULTILINE)
NAMED = {name: said for names, said in ROWS for name in re.findall(r"`(\w+)`", names)}


def test_every_operation_stands_in_the_table_once_and_no_other_does() -> None:
    names = [name for row, _ in ROWS for name in re.findall(r"`(\w+)`", row)]
    assert sorted(names) == sorted(operation.name for operation in OPERATIONS)


@pytest.mark.parametrize("operation", unserved.OPERATIONS, ids=lambda operation: operation.name)
def test_what_is_not_served_is_said_to_be_refused(operation: unserved.Operation) -> None:
    assert NAMED[operation.name].startswith("`ValidationException`")


@pytest.mark.parametrize("setting", sorted(set(re.findall(r"`MCP_IDENTITY_(\w+)`", PAGE))))
def test_every_setting_that_the_page_names_is_there(setting: str) -> None:
    assert setting.lower() in Settings.model_fields


@pytest.mark.parametrize("link", sorted(set(re.findall(r"\]\((?!https?:)([^)#]+)\)", PAGE))))
def test_every_file_that_the_page_links_to_is_there(link: str) -> None:
    assert (ROOT / "docs" / link).exists()
