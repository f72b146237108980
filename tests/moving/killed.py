"""Copies a vault again and again, killed at another step each time: a process that forks, so that only one has to load.

Reads what to do as JSON, and says after each attempt how the process ended and what the target is by then.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

from mcp_identity.app import moving
from mcp_identity.domain.errors import ConfigurationError
from mcp_identity.settings import Settings
from mcp_identity.vault.moving import copying, filling, reading, target
from tests.moving.kit import nobody


def kill_at(step: str, moment: str, number: int) -> None:
    """Have this process killed before or after a call of a step, wherever its name is known."""
    place, _, name = step.rpartition(".")
    module, _, inner = place.partition(".")
    owner: Any = importlib.import_module(f"mcp_identity.vault.moving.{module}")
    owner = getattr(owner, inner) if inner else owner
    real = getattr(owner, name)
    calls = 0

    def step_or_end(*arguments: Any, **named: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == number and moment == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        result = real(*arguments, **named)
        if calls == number:
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    for known in (owner, copying, filling, target):
        if getattr(known, name, None) is real:
            setattr(known, name, step_or_end)


def condition(settings: Settings) -> str:
    """What the target is by now."""
    try:
        return moving.look(settings).condition
    except ConfigurationError:
        return "none"


def say(what: dict[str, Any]) -> None:
    """Tell the test."""
    sys.stdout.write(f"{json.dumps(what)}\n")
    sys.stdout.flush()


def main() -> None:
    """Be killed as often as was asked, then finish."""
    orders = json.load(sys.stdin)
    reading.AT_ONCE = orders["at_once"]
    settings = Settings(home=Path(orders["home"]), database_url=orders["url"])
    there = settings.model_copy(update={"database_url": orders["to"]})
    for step, moment, number in orders["killed"]:
        child = os.fork()
        if child == 0:
            kill_at(step, moment, number)
            moving.copy(settings, orders["to"], nobody)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        ended = os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
        say({"step": step, "signal": ended, "opened": condition(there)})
    report = moving.copy(settings, orders["to"], nobody)
    say({"was_complete": report.was_complete, "unreadable": report.findings.unreadable})


if __name__ == "__main__":
    main()
