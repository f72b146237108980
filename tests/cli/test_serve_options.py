"""Which options of `serve` fit together? What does not is said before anything is opened."""

from __future__ import annotations

import pytest

from mcp_identity.cli.serve import serve

WRONG = [
    (("--toolset", "world"), "a toolset is one of"),
    (("--toolset", "agent,"), "a toolset is one of"),
    (("--toolset", "admin", "--transport", "http", "--insecure-loopback"), "callers who prove who they are"),
    (
        ("--toolset", "agent", "--toolset", "admin", "--transport", "sse", "--insecure-loopback"),
        "callers who prove who they are",
    ),
    (("--allow-http-loopback",), "--allow-http-loopback is for"),
    (("--toolset", "agent", "--allow-http-loopback"), "--allow-http-loopback is for"),
]


@pytest.mark.parametrize(("options", "why"), WRONG)
def test_what_does_not_fit_is_a_mistake_in_the_command(
    options: tuple[str, ...], why: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        serve([*options])
    assert ended.value.code == 2
    assert why in capsys.readouterr().err
