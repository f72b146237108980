"""What is loaded while a person waits for the list of tools? Nothing that only a call needs."""

from __future__ import annotations

import json
import subprocess
import sys

LISTS_TOOLS = """
import json, sys
import anyio
import mcp_identity.app.stdio, mcp_identity.cli.logs, mcp_identity.cli.serve
from mcp_identity.tools.caller import StdioCaller
from mcp_identity.tools.server import build_server

tools = anyio.run(build_server(StdioCaller(None), version="0").list_tools)
before = sorted(sys.modules)
admin = anyio.run(build_server(StdioCaller(None), version="0", admin=True).list_tools)
print(json.dumps([len(tools), before, len(admin), sorted(sys.modules)]))
"""
HEAVY = {
    "alembic",
    "authlib",
    "jinja2",
    "joserfc",
    "platformdirs",
    "pydantic_settings",
    "rich",
    "sqlalchemy",
    "sqlmodel",
    "typer",
}
OURS = {"mcp_identity.broker", "mcp_identity.oauth", "mcp_identity.transport", "mcp_identity.vault", "mcp_identity.web"}


def test_the_list_of_tools_loads_no_heavy_library() -> None:
    said = subprocess.run([sys.executable, "-c", LISTS_TOOLS], capture_output=True, check=True, timeout=60).stdout
    tools, modules, admin, more = json.loads(said)
    assert tools == 9
    assert not (HEAVY | OURS | {"mcp_identity.settings"}) & set(modules)
    assert not [each for each in modules if each.startswith("mcp_identity.tools.admin")]
    assert admin == 25
    assert not (HEAVY | OURS | {"mcp_identity.settings"}) & set(more)
