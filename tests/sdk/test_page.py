"""Does what the page about the client says run as it stands?"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import anyio
import pytest

from mcp_identity import IdentityClient, __all__, sdk
from mcp_identity.sdk import credential_provider
from mcp_identity.sdk.errors import REMEDIES
from tests.sdk.kit import RETURN_URL, World

PAGE = (Path(__file__).parents[2] / "docs" / "sdk.md").read_text("utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)


def test_every_piece_of_code_runs(world: World, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    made: list[IdentityClient] = []
    monkeypatch.setattr(credential_provider, "_default", made)
    monkeypatch.setenv("MCP_IDENTITY_URL", world.server.url)
    monkeypatch.setenv("MCP_IDENTITY_WORKLOAD_KEY", world.server.keys["alice"])
    names: dict[str, Any] = {}
    for block in BLOCKS:
        code = block.replace("mid_wk_…", world.server.keys["mallory"]).replace("https://app.example.com/connected", RETURN_URL)
        compiled = compile(code, "docs/sdk.md", "exec")
        if "configure_authorizer" not in code:  # that one needs an operator
            exec(compiled, names)  # noqa: S102 - it is what the page tells people to run
    said = capsys.readouterr().out
    assert f"with a key of {len(world.home.api_key)} characters" in said
    assert "('read',)" in said
    client = world.client()
    user = client.get_workload_access_token(user_id="reader")
    show = world.agree(client, "reader")
    client.get_token("notes", callback_url=RETURN_URL, on_auth_url=show, scopes=["read"], token=user)
    assert anyio.run(names["endpoint"], "milk", user) == "milk: 64 characters"
    for each in made:
        each.close()


def test_every_code_that_it_names_has_a_remedy() -> None:
    rows = [line for line in PAGE.partition("## When it fails")[2].splitlines() if line.startswith("| `")]
    codes = {code for row in rows for code in re.findall(r"`([a-z_]+)`", row.split("|")[1])}
    assert codes
    assert codes <= REMEDIES.keys()


def test_what_is_public_is_public_in_both_places() -> None:
    assert sorted(__all__) == __all__
    assert {*sdk.__all__, "__version__"} == set(__all__)
    assert all(getattr(sdk, name) is not None for name in sdk.__all__)
